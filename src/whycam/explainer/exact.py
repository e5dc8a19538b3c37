"""Readings of photos by an engine: what `cam` and `contrast` need is all in its answer, so torch is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from whycam.data.preprocess import Preprocess
from whycam.explainer.reading import Reading
from whycam.explainer.targets import (
    Target,
    describe_blank,
    describe_target,
    find_class,
    resolve_target,
    to_probabilities,
)
from whycam.model.onnx.engine import Answer, OnnxEngine


def is_answered(method: str | Sequence[str], target: Target, how: Mapping[str, Any]) -> bool:
    """Whether an engine has the answer: exact maps of classes, of the whole photo, once."""
    names = {method} if isinstance(method, str) else set(method)
    has_pair = how.get("versus") is not None
    given = {name for name, value in how.items() if value is not None}
    return given <= {"versus"} and names <= ({"cam", "contrast"} if has_pair else {"cam"}) and not callable(target)


@dataclass(frozen=True)
class EngineReader:
    """Pixels -> readings.

    Attributes:
        engine: gives logits and every class's map.
        name: what the model was loaded by.
        target: what is explained; see `whycam.explain`. No callable.
        versus: a second class: the map of the difference of the two scores.
    """

    engine: OnnxEngine
    name: str
    target: Target = None
    versus: int | str | None = None

    def __call__(self, pixels: np.ndarray, photos: Sequence[Image.Image | None]) -> list[Reading]:
        """A reading of each photo.

        Args:
            pixels: (N, 3, H, W) uint8.
            photos: N, at full size, where they are wanted with the readings.

        Raises:
            UserError: an unknown class.
        """
        return self.read(self.engine(pixels), photos)

    def read(self, answer: Answer, photos: Sequence[Image.Image | None]) -> list[Reading]:
        """The readings of an answer that the engine has given; `photos` and errors as above."""
        names = self.class_names
        targets = resolve_target(self.target, answer.logits, names)
        maps = answer.maps[np.arange(len(targets))[:, None], targets]
        if self.versus is not None:
            maps = maps - answer.maps[:, find_class(self.versus, names)][:, None]
        record, shares = self.record, to_probabilities(answer.logits)
        notes = [self._note(answer.maps[i], maps[i], targets[i].tolist()) for i in range(len(maps))]
        return [
            Reading(maps[i], answer.logits[i], shares[i], targets[i], names, record, photo, notes=notes[i])
            for i, photo in enumerate(photos)
        ]

    @property
    def preprocess(self) -> Preprocess:
        """From a photo to the pixels."""
        return self.engine.card.preprocess

    @property
    def class_names(self) -> tuple[str, ...]:
        """K names."""
        return self.engine.card.class_names

    @property
    def record(self) -> Mapping[str, Any]:
        """How the maps are made."""
        card = self.engine.card
        method = "cam" if self.versus is None else "contrast"
        versus = None if self.versus is None else card.class_names[find_class(self.versus, card.class_names)]
        return {
            **card.records[method],
            "model": self.name,
            "target": describe_target(self.target),
            "versus": versus,
            "engine": f"onnxruntime {card.versions['onnxruntime']}",
            "parity_error": card.parity_error,
        }

    def _note(self, all_maps: np.ndarray, maps: np.ndarray, target: Sequence[int]) -> tuple[str, ...]:
        reason = (
            "the score does not change with the features of this layer"
            if all_maps.any()
            else "the features of this layer are all zero"
        )
        return tuple(describe_blank(maps, target, self.class_names, [reason] * len(maps)))
