"""What the installed general network, of 1,000 everyday classes, sees in the audited photos: words for findings."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image

from whycam.audit.data import AuditData
from whycam.data.loader import stream_photos
from whycam.model.classifier import Classifier

NAME = "imagenet"
# So many photos tell whether the audited model's features are the installed network's own.
_PROBED = 4
_SAME = 1e-3


def read_generic(data: AuditData) -> np.ndarray:
    """(N, 1000) logits of the installed network for all photos; computed once an audit.

    Where the audited model weighs the installed network's own features, which is measured on a few photos, they are a
    product of matrices, and the network is not run. Else it is: on `data.pixels` if they have its size, or on the
    photos, which are read again.
    """

    def ask() -> np.ndarray:
        classifier = open_generic(data.classifier.engine)
        weighed = _weigh(classifier, data)
        return classifier.scores(_make_pixels(classifier, data)) if weighed is None else weighed

    return data.remember("generic logits", ask, holds_for="these photos")


def list_generic_names() -> tuple[str, ...]:
    """Its 1,000 classes, in the order of the logits."""
    return open_generic().card.class_names


def open_generic(engine: str = "auto") -> Classifier:
    """The installed network; opened once for each engine. Its graph lies in the cache, and is made there if need be."""
    return _open(engine)


@cache
def _open(engine: str) -> Classifier:
    from whycam.intake.door import open_classifier  # noqa: PLC0415 - an audit that finds nothing needs no second model

    return open_classifier(NAME, device="cpu", engine=engine)


def _weigh(classifier: Classifier, data: AuditData) -> np.ndarray | None:
    """The logits by the audited model's pooled features, where they are the installed network's."""
    if data.pooled is None or not _is_same_input(classifier, data):
        return None
    weight, bias = classifier.weight, classifier.bias
    if weight is None or bias is None or weight.shape[1] != data.pooled.shape[1]:
        return None
    expected = classifier.scores(data.pixels[:_PROBED])
    logits: np.ndarray = data.pooled @ weight.T + np.asarray(bias, np.float32)
    return logits if np.abs(logits[:_PROBED] - expected).max() < _SAME * np.ptp(expected) else None


def _is_same_input(classifier: Classifier, data: AuditData) -> bool:
    how = classifier.card.preprocess
    return data.pixels.shape[1:] == (3, how.height_px, how.width_px)


def _make_pixels(classifier: Classifier, data: AuditData) -> np.ndarray:
    """(N, 3, H, W) uint8 as it takes them; a photo that can't be read a second time is taken as it was."""
    if _is_same_input(classifier, data):
        return data.pixels
    how = classifier.card.preprocess
    found = []
    for row, photo in enumerate(stream_photos(data.paths, how)):
        if photo.pixels is None:
            seen = data.pixels[row].transpose(1, 2, 0)
            found.append(how.to_pixels(Image.fromarray(seen if seen.shape[2] == 3 else seen.repeat(3, 2))))
        else:
            found.append(photo.pixels)
    return np.stack(found)
