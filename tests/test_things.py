"""Things that go with a class, on a network that reads them, one that does not, and the object itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import test_audit
from whycam.audit import Audit, audit, objects, shortcuts
from whycam.audit.things import suspect_things
from whycam.data.folder import Sample
from whycam.data.preprocess import Preprocess
from whycam.explainer.model import Model
from whycam.maps.objects import GRID, Finder

SIDE_PX, PHOTOS, CELL_PX = 64, 20, 8
# A general network's names of what is red, green, blue and magenta.
COLOURS = np.array([(220, 40, 40), (40, 220, 40), (40, 40, 220), (220, 40, 220)])
NAMES = ("rose", "leaf", "gentian", "coffee mug")
FLOWERS, MUG = (0, 1, 2), 3


def make_model(reliance: float) -> Model:
    return test_audit.make_model(reliance, SIDE_PX, CELL_PX, least=0.8)


def write_photos(root: Path, share: float) -> list[Sample]:
    """A square of the class's colour on dark noise; on that share of the red ones' photos a magenta one elsewhere."""
    draw, samples = np.random.default_rng(0), []
    for label, colour in enumerate(COLOURS[:3]):
        (root / str(label)).mkdir(parents=True)
        for index in range(PHOTOS):
            pixels = draw.integers(0, 60, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
            y, x = CELL_PX * draw.integers(0, 6, 2)
            pixels[y : y + 16, x : x + 16] = colour * draw.uniform(0.8, 1, (16, 16, 1))
            if label == 0 and index < share * PHOTOS:
                y = (y + CELL_PX * draw.integers(3, 6)) % SIDE_PX
                x = CELL_PX * draw.integers(0, 7)
                pixels[y : y + 8, x : x + 8] = COLOURS[MUG] * draw.uniform(0.8, 1, (8, 8, 1))[: SIDE_PX - y]
            path = root / str(label) / f"{index:02}.png"
            Image.fromarray(pixels).save(path)
            samples.append(Sample(path, label))
    return samples


@pytest.fixture(autouse=True)
def _name_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Things alone are tried; in the general network's place: cells are named by their colour, flowers are alike."""

    def look(images: np.ndarray) -> list[np.ndarray]:
        count, cells = len(images), SIDE_PX // CELL_PX
        means = images.reshape(count, 3, cells, CELL_PX, cells, CELL_PX).mean((3, 5))
        away = ((means[:, None] - COLOURS[:, :, None, None] / 255) ** 2).sum(2)
        maps = np.full((count, 1000, cells, cells), -50, np.float32)
        maps[:, : len(COLOURS)] = 20 - 100 * away
        heat, guide = np.zeros((count, GRID, GRID), np.float32), np.ones((count, 2, GRID, GRID), np.float32)
        return [np.zeros((count, 1000), np.float32), maps, heat, guide]

    preprocess = Preprocess(height_px=SIDE_PX, width_px=SIDE_PX, mean=(0, 0, 0), std=(1, 1, 1))
    kin = tuple(tuple(f for f in FLOWERS if f != k) if k in FLOWERS else () for k in range(1000))
    names = (*NAMES, *["thing"] * 996)
    monkeypatch.setattr(shortcuts, "SUSPECTS", {"thing": suspect_things})
    monkeypatch.setattr(objects, "open_finder", lambda photos: Finder(look, preprocess, names, kin))


def run(model: Model, samples: list[Sample], masks: Mapping[Path, Path] | None = None) -> Audit:
    return audit(model, samples, kinds=["shortcut"], engine="torch", masks=masks)


def draw_masks(samples: list[Sample], root: Path, colours: Sequence[int]) -> dict[Path, Path]:
    """A mask for each photo: what has one of the colours."""
    root.mkdir()
    made = {}
    for sample in samples:
        pixels = np.asarray(Image.open(sample.path)).astype(float)
        away = np.abs(pixels[:, :, None] / 255 - COLOURS / 255).max(-1)[..., list(colours)].min(-1)
        made[sample.path] = root / f"{sample.label}-{sample.path.name}"
        Image.fromarray(255 * (away < 0.25).astype(np.uint8)).save(made[sample.path])
    return made


@pytest.mark.parametrize("share", [0.6, 1.0])
def test_a_thing_that_the_model_reads_is_found_with_its_class_and_name(tmp_path: Path, share: float) -> None:
    (found,) = run(make_model(12.0), write_photos(tmp_path, share)).findings
    assert (found.class_name, found.numbers["found_by"]) == ("red", "thing")
    # Nobody said what the object is: it may be the mug.
    assert found.kind == "question"
    assert "'coffee mug'" in found.title
    assert found.title.endswith(": are they the object?")
    assert found.remedy.startswith("Look at the marked places. If they are not the object: add photos")
    assert "'rose'" not in found.title
    assert found.certainty >= 0.95
    assert all(photo.boxes for photo in found.photos)


def test_masks_tell_a_thing_from_the_object(tmp_path: Path) -> None:
    samples = write_photos(tmp_path / "photos", 1.0)
    (found,) = run(make_model(12.0), samples, draw_masks(samples, tmp_path / "flowers", FLOWERS)).findings
    assert (found.kind, found.class_name) == ("shortcut", "red")
    assert found.title.endswith(", not by the object alone.")
    assert run(make_model(12.0), samples, draw_masks(samples, tmp_path / "mugs", [*FLOWERS, MUG])).findings == ()


def test_a_thing_that_the_model_ignores_is_not_accused(tmp_path: Path) -> None:
    assert run(make_model(0.0), write_photos(tmp_path, 1.0)).findings == ()


def test_the_object_itself_is_no_thing(tmp_path: Path) -> None:
    assert run(make_model(12.0), write_photos(tmp_path, 0.0)).findings == ()
