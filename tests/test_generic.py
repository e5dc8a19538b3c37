"""What the installed network sees in audited photos: computed once, and not at all where its features are at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from test_audit import make_model
from whycam.audit import generic
from whycam.audit.asker import Asker
from whycam.audit.data import AuditData, read_data
from whycam.audit.generic import list_generic_names, open_generic, read_generic
from whycam.data.folder import Sample
from whycam.data.samples import load_samples
from whycam.model.classifier import Classifier


def write_samples(folder: Path) -> list[Sample]:
    """Installed photos and their mirror images, six in all."""
    samples = []
    for index, photo in enumerate(load_samples(3)):
        for flip, seen in enumerate([photo, photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]):
            path = folder / f"{index}-{flip}.png"
            seen.save(path)
            samples.append(Sample(path, index))
    return samples


def count_scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many photos each further call of `scores` is about."""
    counts, scores = [], Classifier.scores

    def count(self: Classifier, pixels: np.ndarray) -> np.ndarray:
        counts.append(len(pixels))
        return scores(self, pixels)

    monkeypatch.setattr(Classifier, "scores", count)
    return counts


def read(classifier: Classifier, folder: Path) -> AuditData:
    return read_data(Asker(classifier.having(engine="torch", pools=True)), write_samples(folder), seed=0)


def test_photos_of_another_size_are_read_again_and_asked_about_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = read(make_model(0.0).classifier, tmp_path)
    data.paths[5].unlink()
    counts = count_scored(monkeypatch)
    logits = read_generic(data)
    assert read_generic(data) is logits
    assert counts == [6]
    assert logits.shape == (6, len(list_generic_names())) == (6, 1000)
    network = open_generic("torch")
    how = network.card.preprocess
    expected = network.scores(np.stack([how.to_pixels(Image.open(path).convert("RGB")) for path in data.paths[:5]]))
    assert np.allclose(logits[:5], expected, atol=1e-3)
    # The one that is gone is taken as the audit saw it, 64 pixels wide.
    assert np.isfinite(logits[5]).all()


def test_where_its_features_are_the_models_own_it_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = read(open_generic("torch"), tmp_path)
    counts = count_scored(monkeypatch)
    assert np.allclose(read_generic(data), data.logits, atol=1e-3)
    assert counts == [generic._PROBED]
