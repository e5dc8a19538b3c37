"""A plain function, normalised images to scores and nothing more: rise, occlusion and the audit need no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from whycam.data.samples import make_probe
from whycam.errors import UserError, as_clause, with_article
from whycam.intake.request import Found, Kind, Request
from whycam.model.activation import Activation, describe_activation, invert, measure_activation
from whycam.model.card import Card
from whycam.model.onnx.engine import Answer
from whycam.runs import read_versions

if TYPE_CHECKING:
    from whycam.model.cut.own import SelfCut


class FunctionRuntime:
    """A function (N, C, H, W) float32 array -> (N, K) array of scores."""

    name, bias = "function", None

    def __init__(self, function: Callable[[np.ndarray], Any], name: str) -> None:
        self._function, self._name = function, name
        self.activation: Activation = "none"

    def scores(self, images: np.ndarray) -> np.ndarray:
        """(B, K) float32.

        Raises:
            UserError: the function fails, or gives something else.
        """
        try:
            found = self._function(images)
            scores = np.asarray(found.detach().cpu() if hasattr(found, "detach") else found, dtype=np.float32)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{self._name!r} fails on an array {images.shape} of {images.dtype}: {type(error).__name__}: "
                f"{as_clause(error)}. Expected a function of normalised images (N, C, H, W) that gives (N, K) scores."
            ) from error
        if scores.ndim != 2 or len(scores) != len(images):
            raise UserError(
                f"{self._name!r} gives {scores.shape} for {len(images)} images; expected ({len(images)}, K) scores."
            )
        return invert(scores, self.activation)

    @property
    def weight(self) -> None:
        """It has no maps, and so nothing that they weigh."""

    def read(self, images: np.ndarray) -> Answer:
        """A function has no maps of its own."""
        raise UserError(f"{self._name!r} is a function, which has no maps of its own. Take rise or occlusion.")

    def as_module(self) -> SelfCut:
        """See Runtime."""
        from whycam.model.cut.own import ScoresModule  # noqa: PLC0415 - torch

        return ScoresModule(self.scores, self._name)

    def describe(self) -> dict[str, Any]:
        """See Runtime."""
        return {"engine": "function"}


def _is_it(request: Request) -> bool:
    return callable(request.model)


def _open(request: Request) -> Found:
    request.refuse("function", "weights")
    if isinstance(request.model, type):
        raise UserError(f"Found the class {request.name}; expected a model made of it. Pass {request.name}(...).")
    return open_function(request, cast(Any, request.model), "function", None, 3)


def open_function(
    request: Request,
    function: Callable[[np.ndarray], Any],
    kind: str,
    size: tuple[int, int] | None,
    channels: int,
) -> Found:
    """Scores and nothing more as a classifier.

    Args:
        request: what is asked for.
        function: normalised images (N, C, H, W) float32 -> (N, K).
        kind: of model, in words.
        size: (height, width) of the images where it is fixed.
        channels: of the images.

    Raises:
        UserError: it fails, or nobody says how photos are prepared.
    """
    runtime = FunctionRuntime(function, request.name)
    preprocess, told = request.choose_preprocess(size, None, "", channels=channels)
    images = preprocess.normalise(make_probe(preprocess))
    scores = runtime.scores(images)
    if not np.isfinite(scores).all():
        raise UserError(
            f"The scores of {request.name!r} for a photo are not finite; expected numbers. Mend what it gives."
        )
    runtime.activation = measure_activation(scores, lambda times: runtime.scores(images * np.float32(times)))
    card = Card(
        request.name,
        request.name_classes(scores.shape[1]),
        preprocess,
        {"network": request.name, "versions": read_versions()},
        no_exact_map=f"{request.name!r} is {with_article(kind)}, which shows no features, so it has no exact maps. "
        "Take --method rise or occlusion.",
        kind=kind,
        preprocess_from=told,
        output="multi-label logits" if runtime.activation == "sigmoid" and scores.shape[1] > 1 else "logits",
        activation=describe_activation(runtime.activation, is_taken_off=False),
        is_exportable=False,
        answers=frozenset({"scores", "image"}),
    )
    return Found(card, runtime)


KIND = Kind("a function", _is_it, _open)
