"""The door: what a user names becomes a Classifier, without torch where an exported graph is at hand.

A kind of model is one file here with a `KIND`; `_FILES` lists them, and the first whose `is_it` says yes opens it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from whycam.errors import UserError
from whycam.intake.device import choose_device
from whycam.intake.request import SUFFIXES, Found, Kind, Request
from whycam.model.card import Card
from whycam.model.classifier import Classifier
from whycam.model.onnx.engine import check_engine, find_engine, open_kept

if TYPE_CHECKING:
    from torch import nn

# Objects first, then what a file or folder shows of itself, then names.
_FILES = (
    "module",
    "function",
    "folder",
    "hugging_face",
    "onnx_file",
    "keras_file",
    "program",
    "python_code",
    "timm_name",
)


def open_classifier(
    model: object,
    *,
    device: str = "auto",
    weights: Path | None = None,
    classes: Sequence[str] | Path | None = None,
    preprocess: object = None,
    image_size: int | None = None,
    engine: str = "auto",
    photos: int = 1,
    threads: int | None = None,
) -> Classifier:
    """The classifier that is asked for.

    Args:
        model: see `whycam.load`.
        device: auto, cpu, cuda or mps.
        weights: a file, for a name or for the user's own code.
        classes: the names of the outputs, or a file of them, a name a line.
        preprocess: see `Request`.
        image_size: side of the network's input in pixels, where it takes any.
        engine: see `choose_runtime`.
        photos: how many are expected.
        threads: that one call of a graph uses; None takes one for each core.

    Raises:
        UserError: no such model, a missing or tampered file, weights out of reach, a broken identity, a preprocessing
            that nobody says.
    """
    check_engine(engine)
    _check_size(image_size)
    where = choose_device(device, engine)
    request = Request(model, weights, classes, preprocess, image_size, where, threads)
    # With anything of the caller's own, the name does not say which graph it is.
    place = find_engine(request.name) if request.is_plain else None
    graph = open_kept(place, threads) if place and engine != "torch" and where == "cpu" else None
    if graph is not None:
        about = graph.metadata
        kind = "whycam folder" if Path(request.name).is_dir() else "timm network"
        card = Card(request.name, about.class_names, about.preprocess, about.model, kind=kind)
        if about.thresholds:
            card = replace(card, output="multi-label logits", thresholds=about.thresholds)
        found = Found(card, lambda: cast("nn.Module", _open(request).network))
    else:
        found = _open(request)
    made = Classifier(found.card, found.network, engine=engine, photos=photos, threads=threads, place=place)
    return made if graph is None else made.holding(graph)


def _check_size(image_size: object) -> None:
    # Whole numbers of NumPy's are as good.
    if image_size is not None and (not isinstance(image_size, int | np.integer) or image_size < 1):
        raise UserError(
            f"image_size is {image_size!r}; expected the side of the network's input in pixels, a whole number. "
            "Give one such as 224, or leave it out."
        )


def iter_kinds() -> Iterator[Kind]:
    """The kinds of models, in the order in which they are asked."""
    for name in _FILES:
        yield importlib.import_module(f"whycam.intake.{name}").KIND


def _open(request: Request) -> Found:
    for kind in iter_kinds():
        if kind.is_it(request):
            return kind.open(request)
    known = ", ".join(kind.name for kind in iter_kinds())
    path = Path(request.name)
    found = f"Found a file at '{path.absolute()}' that is none of them" if path.is_file() else f"Found {request.name!r}"
    if not path.exists() and (len(path.parts) > 1 or path.suffix.lower() in SUFFIXES):
        found = f"Found no file or folder at '{path.absolute()}' (check the path)"
    raise UserError(f"{found}; expected a model: {known}. See docs/models.md.")
