"""Anybody's .onnx file; torch is not imported for its scores and exact maps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whycam.intake.request import Found, Kind, Request, as_path
from whycam.model.activation import describe_activation, invert
from whycam.model.card import Card, Output
from whycam.model.onnx.engine import Answer
from whycam.model.onnx.file import OnnxFile

if TYPE_CHECKING:
    from whycam.model.cut.own import SelfCut

_ANSWERS = frozenset({"features", "tail scores", "scores", "features and scores", "image"})


class OnnxRuntime:
    """See Runtime."""

    name = "onnx"

    def __init__(self, file: OnnxFile) -> None:
        self.file = file
        self.bias = None if file.bias is None else np.asarray(file.bias)
        self.weight = file.weight

    def scores(self, images: np.ndarray) -> np.ndarray:
        """(B, K) logits; of probabilities that can't be taken back, their inverse."""
        scores = self.file.scores(images)
        return scores if self.file.explains == "logits" else invert(scores, self.file.output)  # type: ignore[arg-type]

    def read(self, images: np.ndarray) -> Answer:
        """See Runtime."""
        return self.file.read(images)

    def as_module(self) -> SelfCut:
        """See Runtime."""
        from whycam.model.cut.onnx_cut import OnnxModule  # noqa: PLC0415 - torch

        return OnnxModule(self.file)

    def describe(self) -> dict[str, Any]:
        """See Runtime."""
        return {"engine": self.file.describe()["engine"]}


def _is_it(request: Request) -> bool:
    path = as_path(request)
    return path is not None and path.is_file() and path.suffix.lower() == ".onnx"


def _open(request: Request) -> Found:
    request.refuse("ONNX file", "weights")
    assert isinstance(request.model, str | Path)  # noqa: S101 - _is_it has seen to that
    side = request.image_size
    file = OnnxFile(request.model, request.threads, size_px=(side, side) if side else None)
    preprocess, told = request.choose_preprocess(
        file.size_px, file.preprocess, file.preprocess_from, channels=file.channels
    )
    is_several = (file.output == "sigmoid" and file.class_count > 1) or bool(file.thresholds)
    output: Output = "multi-label logits" if is_several else "logits"
    is_bare = file.explains == "logits"
    card = Card(
        request.name,
        request.name_classes(file.class_count, file.class_names, file.names_from),
        preprocess,
        file.describe(),
        no_exact_map=file.no_exact_map,
        kind="ONNX file",
        preprocess_from=told,
        output=output,
        activation="" if file.output == "logits" else describe_activation(file.output, is_taken_off=is_bare),
        is_exportable=False,
        # Behind a linear head there is a gradient, which is its weights.
        answers=_ANSWERS if file.no_exact_map else _ANSWERS | {"gradients"},
        layer=file.layer,
        tail=file.tail,
        thresholds=file.thresholds,
    )
    return Found(card, OnnxRuntime(file))


KIND = Kind("an .onnx file", _is_it, _open)
