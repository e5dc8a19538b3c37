"""Marks that a part of a class's photos has alone: found where they were drawn, with the photos that have them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from scipy import ndimage

from whycam.audit.bearers import find_alike, find_bars
from whycam.audit.data import AuditData
from whycam.audit.marks import suspect_marks

SIDE, A_CLASS = 112, 40


def draw_photos(draw: np.random.Generator, count: int) -> np.ndarray:
    """(count, 3, SIDE, SIDE) uint8 of soft blotches, each its own light."""
    soft = ndimage.gaussian_filter(draw.normal(size=(count, 3, SIDE, SIDE)), (0, 0, 9, 9))
    light = draw.uniform(60, 190, (count, 3, 1, 1))
    photos: np.ndarray = (light + 45 * soft / soft.std()).clip(0, 255).astype(np.uint8)
    return photos


def make(pixels: np.ndarray) -> AuditData:
    """What a search for marks reads of an audit's data: no model is asked."""
    groups = {k: k * A_CLASS + np.arange(A_CLASS) for k in range(len(pixels) // A_CLASS)}
    return cast("AuditData", SimpleNamespace(pixels=pixels, groups=groups, seed=0))


@pytest.fixture
def photos() -> np.ndarray:
    return draw_photos(np.random.default_rng(3), 3 * A_CLASS)


def add_frame(pixels: np.ndarray, rows: np.ndarray, width: int) -> None:
    inner = np.zeros((SIDE, SIDE), dtype=bool)
    inner[width:-width, width:-width] = True
    for row in rows:
        pixels[row] = np.where(inner, pixels[row], np.array([30, 90, 200])[:, None, None])


def darken(pixels: np.ndarray, draw: np.random.Generator, side: int) -> None:
    """Three of four photos are dark along three sides, as X-rays are beside the body; each a little otherwise."""
    for row in np.flatnonzero(draw.uniform(size=len(pixels)) < 0.75):
        upper, left, right = draw.integers(side, 2 * side, 3)
        lit = np.zeros((SIDE, SIDE), dtype=bool)
        lit[upper:, left : SIDE - right] = True
        pixels[row] = np.where(lit, pixels[row], draw.integers(6, 12, (3, SIDE, SIDE)))


def add_bar(pixels: np.ndarray, rows: np.ndarray, height: int, opacity: float, draw: np.random.Generator) -> None:
    for row in rows:
        bar = np.full((3, height, SIDE), 245.0)
        bar[:, height // 3 : -height // 3, 5 : SIDE // 2] = 255 * draw.integers(0, 2, SIDE // 2 - 5)
        pixels[row, :, -height:] = opacity * bar + (1 - opacity) * pixels[row, :, -height:]


def test_a_frame_on_a_third_of_a_class_is_found_with_its_photos(photos: np.ndarray) -> None:
    rows = A_CLASS + np.arange(0, A_CLASS, 3)
    add_frame(photos, rows, 6)
    found = find_alike(make(photos), 1)
    assert found is not None
    assert found.rows.tolist() == rows.tolist()
    edge = np.ones((SIDE, SIDE), dtype=bool)
    edge[8:-8, 8:-8] = False
    assert found.place[~edge].mean() < 0.02
    assert found.place[edge].mean() > 0.5
    assert find_alike(make(photos), 0) is None
    assert find_alike(make(photos), 2) is None


def test_of_a_frame_that_stands_out_at_one_side_the_others_are_found_too(photos: np.ndarray) -> None:
    darken(photos, np.random.default_rng(7), 10)
    rows = A_CLASS + np.arange(22)
    inner = np.zeros((SIDE, SIDE), dtype=bool)
    inner[8:-8, 8:-8] = True
    photos[rows] = np.where(inner, photos[rows], 9)
    data = make(photos)
    found = find_bars(data, 1)
    assert found is not None
    assert len(np.intersect1d(found.rows, rows)) >= 20
    sides = {
        "upper": found.place[:4],
        "lower": found.place[-4:],
        "left": found.place[:, :4],
        "right": found.place[:, -4:],
    }
    assert {name: side.mean() > 0.8 for name, side in sides.items()} == dict.fromkeys(sides, True)
    assert found.place[12:-12, 12:-12].mean() < 0.02


def test_a_translucent_bar_with_other_words_each_time_is_found_by_its_edge(photos: np.ndarray) -> None:
    rows = 2 * A_CLASS + np.arange(10)
    add_bar(photos, rows, 14, 0.6, np.random.default_rng(5))
    found = find_bars(make(photos), 2)
    assert found is not None
    assert set(found.rows) <= set(rows)
    assert len(found.rows) >= 9
    place = np.flatnonzero(found.place.all(1))
    assert place[-1] == SIDE - 1
    assert abs(place[0] - (SIDE - 14)) <= 2
    assert find_bars(make(photos), 0) is None


@pytest.mark.parametrize("bearers", [7, 8])
def test_fewer_photos_than_can_prove_anything_are_no_suspect(photos: np.ndarray, bearers: int) -> None:
    rows = np.arange(bearers)
    add_frame(photos, rows, 6)
    add_bar(photos, A_CLASS + rows, 14, 0.6, np.random.default_rng(5))
    data = make(photos)
    is_found = find_alike(data, 0) is not None, find_bars(data, 1) is not None
    assert is_found == (bearers >= 8, bearers >= 8)


def test_what_all_classes_have_on_the_same_share_is_no_suspect(photos: np.ndarray) -> None:
    for k in range(3):
        add_frame(photos, k * A_CLASS + np.arange(12), 6)
    data = make(photos)
    assert [find(data, k) for k in range(3) for find in (find_alike, find_bars)] == [None] * 6


def test_photos_smaller_than_a_cell_or_all_alike_are_no_suspects() -> None:
    tiny = make(np.zeros((2 * A_CLASS, 3, 3, 3), dtype=np.uint8))
    even = make(np.full((2 * A_CLASS, 3, SIDE, SIDE), 90, dtype=np.uint8))
    assert [find(data, 0) for data in (tiny, even) for find in (find_alike, find_bars)] == [None] * 4


def test_the_suspect_names_the_place_and_how_many_have_it(photos: np.ndarray) -> None:
    rows = A_CLASS + np.arange(14)
    add_frame(photos, rows, 6)
    (suspect,) = suspect_marks(make(photos))
    assert (suspect.label, suspect.region.name) == (1, "frame along the border")
    assert suspect.members is not None
    assert suspect.members.tolist() == rows.tolist()
    assert "14 of the 40 photos of this class" in suspect.words
    hosts, donors = np.arange(4), rows[:4]
    given = suspect.give(hosts, donors)
    assert suspect.mask is not None
    assert suspect.mask[:6].all()
    assert (given[:, :, :6] == photos[donors][:, :, :6]).all()
    assert (given[:, :, ~suspect.mask] == photos[hosts][:, :, ~suspect.mask]).all()


def test_what_the_whole_class_has_is_told_of_the_whole_class(photos: np.ndarray) -> None:
    add_frame(photos, np.arange(A_CLASS), 6)
    (suspect,) = suspect_marks(make(photos))
    assert suspect.members is None
    assert "in the photos of this class" in suspect.words


@pytest.mark.data
def test_natural_photos_of_flowers_have_few(photos_dir: Path) -> None:
    from whycam.data.images import load_image
    from whycam.data.preprocess import Preprocess

    names = ("roses", "tulips", "daisy")
    paths = [path for name in names for path in sorted((photos_dir / "flowers/val" / name).iterdir())[:A_CLASS]]
    data = make(np.stack([Preprocess().to_pixels(load_image(path)) for path in paths]))
    assert [find(data, k) for k in range(3) for find in (find_alike, find_bars)] == [None] * 6
