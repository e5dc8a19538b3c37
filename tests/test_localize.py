"""Boxes of hand-made heatmaps."""

from __future__ import annotations

import numpy as np
import pytest

from whycam.localize import Box, find_boxes


def make_heatmap(*regions: tuple[int, int, int, int, float]) -> np.ndarray:
    heatmap = np.zeros((20, 30), dtype=np.float32)
    for x0, y0, x1, y1, heat in regions:
        heatmap[y0:y1, x0:x1] = heat
    return heatmap


def test_one_region() -> None:
    assert find_boxes(make_heatmap((3, 5, 10, 9, 0.7))) == [Box(3, 5, 10, 9, 1.0)]


def test_largest_first_with_their_shares_of_heat() -> None:
    boxes = find_boxes(make_heatmap((0, 0, 2, 2, 1.0), (10, 10, 18, 14, 0.5)))
    assert [(b.x0, b.y0, b.x1, b.y1) for b in boxes] == [(10, 10, 18, 14), (0, 0, 2, 2)]
    assert [b.heat for b in boxes] == pytest.approx([16 / 20, 4 / 20])


def test_the_rule_is_over_20_percent_of_the_maximum() -> None:
    heatmap = make_heatmap((0, 0, 3, 3, 0.5), (10, 10, 13, 13, 0.101), (20, 10, 23, 13, 0.099))
    assert [b.x0 for b in find_boxes(heatmap)] == [0, 10]
    assert [b.x0 for b in find_boxes(heatmap, threshold=0.5)] == [0]


def test_touching_corners_are_one_region() -> None:
    boxes = find_boxes(make_heatmap((0, 0, 3, 3, 1.0), (3, 3, 6, 6, 1.0)))
    assert [(b.x0, b.y0, b.x1, b.y1) for b in boxes] == [(0, 0, 6, 6)]


def test_scale_and_borders() -> None:
    heatmap = make_heatmap((0, 0, 30, 1, 1.0), (29, 19, 30, 20, 1.0))
    assert find_boxes(heatmap) == find_boxes(heatmap * np.float32(1e-3))
    assert find_boxes(heatmap)[1] == Box(29, 19, 30, 20, pytest.approx(1 / 31))


def test_flat_and_empty_heatmaps() -> None:
    assert find_boxes(np.zeros((20, 30), dtype=np.float32)) == []
    assert find_boxes(np.full((20, 30), 0.3, dtype=np.float32)) == [Box(0, 0, 30, 20, pytest.approx(1))]
