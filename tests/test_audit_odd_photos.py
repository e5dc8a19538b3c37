"""Folders that no statistics can be made of: the audit says so plainly, and accuses nobody."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from test_audit import make_model, write_photos
from whycam.audit import audit
from whycam.data.folder import Sample
from whycam.explainer.model import Model

pytestmark = pytest.mark.usefixtures("see_saturation")
Change = Callable[[list[Sample], Path], list[Sample]]


def keep_one_of_each(samples: list[Sample], folder: Path) -> list[Sample]:
    return [sample for sample in samples if sample.path.stem == "00"]


def keep_one_class(samples: list[Sample], folder: Path) -> list[Sample]:
    return [sample for sample in samples if sample.label == 0]


def copy_the_first(samples: list[Sample], folder: Path) -> list[Sample]:
    for sample in samples[1:]:
        sample.path.write_bytes(samples[0].path.read_bytes())
    return samples


def paint_grey(samples: list[Sample], folder: Path) -> list[Sample]:
    for sample in samples:
        Image.new("RGB", (64, 64), (128, 128, 128)).save(sample.path)
    return samples


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (keep_one_of_each, "Fewer than 10 photos"),
        (keep_one_class, "Shortcuts need two classes"),
        (copy_the_first, "Grounds: "),
        (paint_grey, "Grounds: not measured"),
    ],
)
def test_odd_photos_are_told_of_and_nobody_is_accused(tmp_path: Path, change: Change, told: str) -> None:
    samples = change(write_photos(tmp_path), tmp_path)
    found = audit(make_model(12.0), samples, engine="torch")
    assert not [one for one in found.findings if one.kind in {"shortcut", "data", "slice"}]
    assert any(note.startswith(told) for note in found.notes), found.notes


def test_a_model_that_says_one_class_always_has_no_shortcut(tmp_path: Path) -> None:
    model = make_model(12.0)
    with torch.no_grad():
        model.network.head.bias = torch.nn.Parameter(torch.tensor([1e4, 0.0, 0.0]))
    found = audit(model, write_photos(tmp_path), engine="torch")
    assert {one.kind for one in found.findings} <= {"confusion", "label", "data"}


def test_many_classes_of_few_photos_are_quick_and_told(tmp_path: Path) -> None:
    names = tuple(f"class {i}" for i in range(200))
    draw, samples = np.random.default_rng(0), []
    for label in range(len(names)):
        path = tmp_path / f"{label}.png"
        Image.fromarray(draw.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
        samples.append(Sample(path, label))

    class Wide(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 8, 8, stride=8)
            self.head = torch.nn.Linear(8, len(names))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(self.conv(images).relu().mean((2, 3)))
            return logits

    made = make_model(0.0).classifier.having(class_names=names)
    found = audit(Model(made.swap(Wide().eval())), samples, kinds=["shortcut", "data", "slice"], engine="torch")
    assert found.findings == ()
    assert any("and 192 more" in note for note in found.notes), found.notes
