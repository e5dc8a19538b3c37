"""Readings of photos by exact maps: what `cam` and `contrast` need is all in a classifier's answer, so torch is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from whycam.cam.about import CAM, CONTRAST
from whycam.data.preprocess import Preprocess
from whycam.explainer.reading import Reading
from whycam.explainer.targets import (
    Target,
    describe_blank,
    describe_side,
    describe_target,
    find_class,
    resolve_target,
    to_probabilities,
)
from whycam.maps import render
from whycam.model.card import Card
from whycam.model.classifier import Classifier
from whycam.model.onnx.engine import Answer


def is_answered(method: str | Sequence[str], target: Target, how: Mapping[str, Any]) -> bool:
    """Whether exact maps are the answer: those of classes, of the whole photo, once."""
    names = {method} if isinstance(method, str) else set(method)
    has_pair = how.get("versus") is not None
    given = {name for name, value in how.items() if value is not None}
    return given <= {"versus"} and names <= ({"cam", "contrast"} if has_pair else {"cam"}) and not callable(target)


def describe_maps(card: Card, target: Target = None, versus: int | str | None = None) -> dict[str, Any]:
    """What is recorded of exact maps, or of the difference of two classes' maps; the keys are `whycam.explain`'s."""
    is_pair = versus is not None
    return {
        "method": "contrast" if is_pair else "cam",
        "paper": CONTRAST.paper if is_pair else CAM.paper,
        "versus": None if versus is None else card.class_names[find_class(versus, card.class_names)],
        "relu": render.NO_RELU,
        "is_signed": True,
        "draws_both_signs": is_pair,
        "scale": render.SCALE_SIGNED if is_pair else render.SCALE_POSITIVE,
        "resize": render.RESIZE,
        "options": {},
        "seed": 0,
        "layer": card.layer,
        "cut": card.tail,
        "target": describe_target(target),
        "smooth": "none",
        "model": card.name,
        **card.origin,
        **describe_output(card),
        "preprocess": card.preprocess.model_dump(),
    }


def describe_output(card: Card) -> dict[str, Any]:
    """What is recorded of scores of classes that go together: that they do, and from where on each is given."""
    if not card.is_multi_label:
        return {}
    return {"output": card.output, **({"thresholds": list(card.thresholds)} if card.thresholds else {})}


def choose_stand_in(card: Card) -> str:
    """The method whose maps are shown of a classifier that has no exact ones: the quickest that it answers for."""
    order = (("gradients", "grad-cam"), ("tail scores", "ablation-cam"), ("scores", "occlusion"))
    return next(name for need, name in order if card.answers_for(need))


def record_methods(card: Card) -> dict[str, dict[str, Any]]:
    """What is recorded with exact maps of that classifier, by method."""
    found = {"cam": describe_maps(card, 0)}
    if len(card.class_names) > 1:
        found["contrast"] = describe_maps(card, 0, 1)
    return found


@dataclass(frozen=True)
class ExactReader:
    """Pixels -> readings; called from several threads.

    Attributes:
        classifier: gives logits and every class's map.
        target: what is explained; see `whycam.explain`. No callable.
        versus: a second class: the map of the difference of the two scores.
    """

    classifier: Classifier
    target: Target = None
    versus: int | str | None = None

    def __call__(self, pixels: np.ndarray, photos: Sequence[Image.Image | None]) -> list[Reading]:
        """A reading of each photo.

        Args:
            pixels: (N, 3, H, W) uint8.
            photos: N, at full size, where they are wanted with the readings.

        Raises:
            UserError: an unknown class, or no exact maps.
        """
        return self.read(self.classifier.read(pixels), photos)

    def read(self, answer: Answer, photos: Sequence[Image.Image | None]) -> list[Reading]:
        """The readings of an answer that the classifier has given; `photos` and errors as above."""
        names, logits, every = self.class_names, answer.logits, answer.maps
        sides = [""] * len(logits)
        if logits.shape[1] == 1 and self.versus is None:
            # To a linear head the two sides of a single logit are two classes.
            every = np.where(logits[..., None, None] < 0, -every, every)
            sides = describe_side(logits, names)
        targets = resolve_target(self.target, logits, names)
        maps = every[np.arange(len(targets))[:, None], targets]
        if self.versus is not None:
            maps = maps - every[:, find_class(self.versus, names)][:, None]
        record, shares = self.record, to_probabilities(logits, self.classifier.card.output)
        return [
            Reading(maps[i], logits[i], shares[i], targets[i], names, record, photo, notes=notes)
            for i, photo in enumerate(photos)
            for notes in [
                (*([sides[i]] if sides[i] else []), *self._tell_blank(every[i], maps[i], targets[i].tolist()))
            ]
        ]

    @property
    def preprocess(self) -> Preprocess:
        """From a photo to the pixels."""
        return self.classifier.card.preprocess

    @property
    def class_names(self) -> tuple[str, ...]:
        """K names."""
        return self.classifier.card.class_names

    @property
    def record(self) -> Mapping[str, Any]:
        """How the maps are made."""
        made = describe_maps(self.classifier.card, self.target, self.versus)
        return {**made, **self.classifier.describe_read()}

    def _tell_blank(self, all_maps: np.ndarray, maps: np.ndarray, target: Sequence[int]) -> list[str]:
        reason = (
            "the score does not change with the features of this layer"
            if all_maps.any()
            else "the features of this layer are all zero"
        )
        return describe_blank(maps, target, self.class_names, [reason] * len(maps))
