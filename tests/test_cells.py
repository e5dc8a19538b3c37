"""Maps on other grids: means, and with them scores, stay what they are."""

from __future__ import annotations

import math

import numpy as np
import pytest

from whycam.maps.cells import cover_cells, fit_grid, subtract_maps

SIZES = [((7, 7), (14, 14)), ((7, 7), (10, 9)), ((2, 3), (3, 2)), ((1, 1), (5, 4)), ((6, 4), (6, 4)), ((14, 5), (3, 8))]


def fit_slowly(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Each cell is cut into equal pieces until both grids are made of the same ones."""
    fine = tuple(math.lcm(old, new) for old, new in zip(values.shape, size, strict=True))
    pieces = values.repeat(fine[0] // values.shape[0], 0).repeat(fine[1] // values.shape[1], 1)
    return pieces.reshape(size[0], fine[0] // size[0], size[1], fine[1] // size[1]).mean((1, 3))


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_a_map_on_another_grid_has_the_mean_of_what_lies_under_each_cell(
    old: tuple[int, int], new: tuple[int, int]
) -> None:
    values = np.random.default_rng(0).normal(size=old)
    np.testing.assert_allclose(fit_grid(values, new), fit_slowly(values, new), atol=1e-12)


@pytest.mark.parametrize(("one", "other"), SIZES)
def test_the_mean_of_a_difference_is_the_difference_of_the_means(one: tuple[int, int], other: tuple[int, int]) -> None:
    draw = np.random.default_rng(1)
    maps, others = (draw.normal(size=(2, 3, *size)).astype(np.float32) for size in (one, other))
    found = subtract_maps(maps, others)
    assert found.shape == (2, 3, max(one[0], other[0]), max(one[1], other[1]))
    gap = maps.mean((2, 3), dtype=np.float64) - others.mean((2, 3), dtype=np.float64)
    np.testing.assert_allclose(found.mean((2, 3), dtype=np.float64), gap, atol=1e-7)


def test_on_one_grid_it_is_the_plain_difference() -> None:
    maps, others = np.random.default_rng(2).normal(size=(2, 4, 7, 7)).astype(np.float32)
    np.testing.assert_allclose(subtract_maps(maps, others), maps - others, atol=1e-7)


def test_a_cell_is_covered_as_far_as_any_box_reaches() -> None:
    boxes = [(0.05, 0.1, 0.4, 0.55), (0.3, 0.3, 0.95, 0.8), (0.9, 0.9, 1.2, 1.1)]
    side = 400
    places = (np.arange(side) + 0.5) / side
    inside = np.zeros((side, side), dtype=bool)
    for x0, y0, x1, y1 in boxes:
        inside |= ((places > y0) & (places < y1))[:, None] & ((places > x0) & (places < x1))
    expected = inside.reshape(4, side // 4, 5, side // 5).mean((1, 3))
    np.testing.assert_allclose(cover_cells(boxes, (4, 5)), expected, atol=1e-9)


def test_the_whole_photo_gives_the_whole_mean_and_no_box_nothing() -> None:
    values = np.random.default_rng(3).normal(size=(7, 7))
    assert (cover_cells([(0, 0, 1, 1)], (7, 7)) * values).mean() == pytest.approx(values.mean())
    assert not cover_cells([], (7, 7)).any()
