"""Who reads photos for `whycam explain` and `whycam localize`: exact maps where they answer, else the network."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from whycam.config import ExplainOptions
from whycam.data.loader import Photo, stream_batches
from whycam.data.preprocess import Preprocess
from whycam.errors import UserError
from whycam.explainer.exact import ExactReader, is_answered
from whycam.explainer.reading import Reading
from whycam.intake.door import open_classifier
from whycam.model.classifier import Classifier

if TYPE_CHECKING:
    from whycam.explainer.model import Model


class Reader(Protocol):
    """Pixels (N, 3, H, W) uint8 and their N photos -> N readings; called from several threads."""

    @property
    def preprocess(self) -> Preprocess:
        """From a photo to the pixels."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """K names."""
        ...

    def __call__(self, pixels: np.ndarray, photos: Sequence[Image.Image | None]) -> list[Reading]:
        """See the class."""
        ...


class NetworkReader:
    """Readings by the network and any method."""

    def __init__(self, model: Model, target: str, how: Mapping[str, Any]) -> None:
        self.model, self.target, self.how = model, target, how
        # A network changes its state while a method runs.
        self._lock = threading.Lock()

    @property
    def preprocess(self) -> Preprocess:
        """See Reader."""
        return self.model.preprocess

    @property
    def class_names(self) -> tuple[str, ...]:
        """See Reader."""
        return self.model.class_names

    def __call__(self, pixels: np.ndarray, photos: Sequence[Image.Image | None]) -> list[Reading]:
        """See Reader."""
        known = tuple(photo for photo in photos if photo is not None)
        with self._lock:
            why: Any = self.model.explain_pixels(pixels, self.target, photos=known, **self.how)
        return [why.reading(i) for i in range(len(pixels))]


def open_reader(name: str, options: ExplainOptions, photos: int) -> Reader:
    """The fastest reader that gives what the options ask for; several batches are under way at once.

    Raises:
        UserError: an unknown model, class or method, or an engine that has not the answer.
    """
    how = read_how(options)
    has_answer = _is_answered(options.target, how)
    if options.engine == "onnx" and not has_answer:
        raise UserError(
            "--engine onnx has the exact maps of classes alone; found options that need the network "
            "(another method, a layer, --smooth, --refine, or an --option). Leave --engine out."
        )
    engine = options.engine if has_answer else "torch"
    classifier = open_classifier(name, **options.describe_model(), engine=engine, photos=photos, threads=1)
    return choose_reader(classifier, options.target, how)


def choose_reader(classifier: Classifier, target: str, how: Mapping[str, Any]) -> Reader:
    """Exact maps where they are what is asked for and the classifier has them, which takes no torch; else any method.

    Args:
        classifier: as opened.
        target: see `whycam.explain`.
        how: method, versus, refine and more, in the words of `whycam.explain`.
    """
    if _is_answered(target, how) and classifier.card.is_exact:
        return ExactReader(classifier, target, how.get("versus"))
    from whycam.explainer.model import Model  # noqa: PLC0415 - torch, which exact maps do without

    return NetworkReader(Model(classifier), target, how)


def _is_answered(target: str, how: Mapping[str, Any]) -> bool:
    return is_answered(how["method"], target, {name: value for name, value in how.items() if name != "method"})


def stream_readings(reader: Reader, paths: Iterable[Path], batch_size: int) -> Iterator[tuple[Photo, Reading | None]]:
    """Each photo in order, kept at full size, with its reading; unreadable ones carry their reason.

    Memory does not grow with the number of photos, and large ones make smaller batches.
    """
    for batch in stream_batches(paths, reader.preprocess, batch_size):
        pixels = [photo.pixels for photo in batch if photo.pixels is not None]
        images = [photo.image for photo in batch if photo.pixels is not None]
        found = iter(reader(np.stack(pixels), images) if pixels else ())
        for photo in batch:
            yield photo, None if photo.pixels is None else next(found)
        del batch, images, found, photo  # else they stay in memory while the next ones are decoded


def read_how(options: ExplainOptions) -> dict[str, Any]:
    """What the options say of the maps, in the words of `whycam.explain`.

    Raises:
        UserError: an option of the method that is not name=value.
    """
    own = {}
    for text in options.option:
        name, sign, value = text.partition("=")
        if not sign:
            raise UserError(f"--option is {text!r}; expected name=value. For example: --option masks=500.")
        own[name] = value
    layers = options.layer.split(",") if options.layer else None
    return {
        "method": options.method,
        "versus": options.versus,
        "layer": layers[0] if layers and len(layers) == 1 else layers,
        "fuse": options.fuse if layers and len(layers) > 1 else None,
        "smooth": options.smooth,
        "refine": options.refine or None,
        **own,
    }
