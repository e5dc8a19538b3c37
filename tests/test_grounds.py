"""Grounds on hand-made networks: one that reads the ground alone, one that reads the object alone, and bad masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from whycam.audit import Audit, audit, shortcuts
from whycam.audit import objects as finding
from whycam.audit.cutouts import fill, lay
from whycam.audit.grounds import find_gap_interval, suspect_grounds
from whycam.data.folder import Sample
from whycam.data.preprocess import Preprocess
from whycam.errors import UserError
from whycam.explainer.model import Model
from whycam.model.card import Card
from whycam.model.classifier import Classifier

SIDE_PX, PHOTOS = 64, 12
OBJECTS = {"red": (220, 40, 40), "green": (40, 220, 40), "blue": (40, 40, 220)}
# Grounds differ in grey level alone, which the reader of objects cannot see.
LEVELS = {"red": 40, "green": 110, "blue": 180}


class Reader(nn.Module):
    """Logits by the saturated pixels' colour (weight 1 - share) and by the grey level of the others (share).

    What red says of an object counts `red` times.
    """

    def __init__(self, share: float, red: float) -> None:
        super().__init__()
        self.share, self.red = share, red
        self.eye = nn.Conv2d(3, 3, 1, bias=False)
        self.eye.weight.data = torch.eye(3)[:, :, None, None]

    def forward(self, images: Tensor) -> Tensor:
        images = self.eye(images)
        is_object = (images.amax(1) - images.amin(1) > 0.25).float()
        count = is_object.sum((1, 2)).clamp(min=1)
        colour = (images * is_object[:, None]).sum((2, 3)) / count[:, None]
        colour = colour * torch.tensor([self.red, 1.0, 1.0], device=images.device)
        grey = (images.mean(1) * (1 - is_object)).sum((1, 2)) / (1 - is_object).sum((1, 2)).clamp(min=1)
        levels = torch.tensor(list(LEVELS.values()), device=images.device) / 255
        ground = 1 - 2 * (grey[:, None] - levels).abs()
        return 20 * ((1 - self.share) * colour + self.share * ground)


def make_model(share: float, red: float = 1.0) -> Model:
    preprocess = Preprocess(height_px=SIDE_PX, width_px=SIDE_PX, mean=(0, 0, 0), std=(1, 1, 1))
    network = Reader(share, red).eval().requires_grad_(requires_grad=False)
    return Model(Classifier(Card("reader", tuple(OBJECTS), preprocess, {}, no_exact_map="it is made by hand"), network))


def write_photos(root: Path, photos: int = PHOTOS) -> tuple[list[Sample], dict[Path, Path]]:
    """A square of its class's colour on noise of its class's grey level, and exact masks."""
    draw, samples, masks = np.random.default_rng(0), [], {}
    for label, (name, colour) in enumerate(OBJECTS.items()):
        (root / name).mkdir(parents=True)
        (root.parent / "masks" / name).mkdir(parents=True, exist_ok=True)
        for index in range(photos):
            noise = draw.integers(-30, 30, (SIDE_PX, SIDE_PX, 1))
            pixels = np.repeat(LEVELS[name] + noise, 3, axis=2).clip(0, 255).astype(np.uint8)
            mask = np.zeros((SIDE_PX, SIDE_PX), dtype=np.uint8)
            y, x, side = draw.integers(8, 36), draw.integers(8, 36), draw.integers(12, 22)
            pixels[y : y + side, x : x + side] = colour * draw.uniform(0.7, 1, (side, side, 1))
            mask[y : y + side, x : x + side] = 255
            path, masked = root / name / f"{index:02}.png", root.parent / "masks" / name / f"{index:02}.png"
            Image.fromarray(pixels).save(path)
            Image.fromarray(mask).save(masked)
            samples.append(Sample(path, label))
            masks[path] = masked
    return samples, masks


def run(model: Model, samples: list[Sample], masks: dict[Path, Path] | None, **how: object) -> Audit:
    return audit(model, samples, kinds=["shortcut"], masks=masks, engine="torch", **how)  # type: ignore[arg-type]


def name_causes(found: Audit) -> list[tuple[str | None, str]]:
    return sorted((one.class_name, one.numbers["found_by"]) for one in found.findings)


@pytest.fixture(autouse=True)
def _try_grounds_alone(monkeypatch: pytest.MonkeyPatch, see_saturation: None) -> None:
    monkeypatch.setattr(shortcuts, "SUSPECTS", {"ground": suspect_grounds})


def test_a_ground_that_decides_is_found_for_each_class(tmp_path: Path) -> None:
    found = run(make_model(0.9), *write_photos(tmp_path / "photos"))
    assert name_causes(found) == [("blue", "ground"), ("green", "ground"), ("red", "ground")]
    assert all(one.certainty >= 0.95 and one.severity > 0.5 for one in found.findings)
    assert found.record["grounds"]["mixed_same"] == 1
    assert found.record["grounds"]["gap_low"] > 0.5
    assert any(note.startswith("Grounds:") and "masks that were given" in note for note in found.notes)


def test_a_ground_that_its_class_loses_by_and_that_attracts_no_other_is_found(tmp_path: Path) -> None:
    found = run(make_model(0.3, red=0.3), *write_photos(tmp_path / "photos"))
    numbers = {one.class_name: one.numbers for one in found.findings}["red"]
    assert numbers["attack"] == 0
    assert numbers["loss"] > 0.5 > numbers["loss_control"]
    assert numbers["lead_share"] > 0.3


def test_a_model_that_reads_the_object_is_not_accused_and_its_gap_is_told(tmp_path: Path) -> None:
    found = run(make_model(0.0), *write_photos(tmp_path / "photos"))
    assert found.findings == ()
    assert found.record["grounds"]["gap"] == 0
    assert found.record["grounds"]["gap_low"] < 0 < found.record["grounds"]["gap_high"] < 0.1


@pytest.mark.slow
def test_without_masks_a_general_network_finds_the_objects(tmp_path: Path) -> None:
    samples, _ = write_photos(tmp_path / "photos")
    assert {by for _, by in name_causes(run(make_model(0.9), samples, None))} == {"ground"}
    assert run(make_model(0.0), samples, None).findings == ()


def test_what_is_seen_is_kept_and_a_damaged_file_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, _ = write_photos(tmp_path / "photos", 10)
    first = run(make_model(0.9), samples, None)
    kept = sorted((finding.find_cache() / "objects").iterdir())
    assert len(kept) == len(samples)
    asked = []
    opened = finding.open_finder
    monkeypatch.setattr(finding, "open_finder", lambda photos: asked.append(photos) or opened(photos))
    assert run(make_model(0.9), samples, None).to_json() == first.to_json()
    assert 30 not in asked
    kept[0].write_bytes(kept[0].read_bytes()[:-1] + b"x")
    assert run(make_model(0.9), samples, None).to_json() == first.to_json()
    assert 1 in asked


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.unlink(), "can't be read"),
        (lambda path: path.write_bytes(b"no picture"), "can't be read"),
        (lambda path: Image.new("L", (SIDE_PX, SIDE_PX)).save(path), "without a pixel"),
        (lambda path: Image.new("L", (SIDE_PX, SIDE_PX), 255).save(path), "covers most of the photo"),
        (lambda path: Image.new("L", (9, 9), 255).save(path), "another size"),
    ],
    ids=["missing", "no picture", "empty", "full", "small"],
)
def test_bad_masks_are_counted_and_their_photos_left_out(
    tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    samples, masks = write_photos(tmp_path / "photos")
    for sample in samples[:2]:
        spoil(masks[sample.path])
    found = run(make_model(0.9), samples, masks)
    assert any(words in note and ": 2 (" in note for note in found.notes)
    assert len(found.findings) == 3


def test_masks_of_which_none_can_be_used_are_refused(tmp_path: Path) -> None:
    samples, masks = write_photos(tmp_path / "photos")
    for mask in masks.values():
        Image.new("L", (SIDE_PX, SIDE_PX), 0).save(mask)
    with pytest.raises(UserError, match=r"Not one of the masks of .* without a pixel"):
        run(make_model(0.9), samples, masks)


def test_photos_without_masks_and_masks_of_too_few_are_told(tmp_path: Path) -> None:
    samples, masks = write_photos(tmp_path / "photos")
    some = {sample.path: masks[sample.path] for sample in samples if sample.path.stem < "06"}
    found = run(make_model(0.9), samples, some)
    assert any("not measured" in note for note in found.notes)
    assert any("(no mask)" in note for note in found.notes)
    assert "ground" not in {by for _, by in name_causes(found)}


def test_without_labels_the_predictions_stand_for_them(tmp_path: Path) -> None:
    samples, masks = write_photos(tmp_path / "photos")
    found = run(make_model(0.9), [replace(sample, label=-1) for sample in samples], masks)
    assert {by for _, by in name_causes(found)} == {"ground"}


def test_a_hole_is_filled_with_the_ground_around_it() -> None:
    stripes = np.zeros((3, 48, 48), np.uint8)
    stripes[:, ::8], stripes[:, 1::8] = 200, 200
    hole = np.zeros((48, 48), dtype=bool)
    hole[10:30, 12:30] = True
    spoilt = np.where(hole, np.uint8(255), stripes)
    filled = fill(spoilt, hole)
    assert (filled[:, ~hole] == stripes[:, ~hole]).all()
    assert np.abs(filled.astype(int) - stripes).mean() < 4
    assert (fill(spoilt, np.ones_like(hole)) == spoilt).all()
    assert (fill(spoilt, np.zeros_like(hole)) == spoilt).all()


def test_an_object_is_laid_with_a_soft_seam_and_nothing_else_changes() -> None:
    mask = np.zeros((64, 64), dtype=bool)
    mask[20:40, 20:40] = True
    laid = lay(np.full((3, 64, 64), 200, np.uint8), mask, np.full((3, 64, 64), 50, np.uint8))
    assert (laid[:, 28:32, 28:32] == 200).all()
    assert (laid[:, :14] == 50).all()
    assert 60 < laid[0, 20, 30] < 190


def test_the_interval_of_a_gap_covers_it_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    truth, covered = 0.1, 0
    for _ in range(400):
        low, high = find_gap_interval(draw.choice([1.0, 0.0, -1.0], 60, p=[0.13, 0.84, 0.03]))
        covered += low <= truth <= high
    assert 0.92 <= covered / 400 <= 0.99
