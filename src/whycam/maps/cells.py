"""Maps on other grids: cells that share their area, so that a map's mean, and with it the score, stays what it is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Fractions of the photo: x0, y0, x1, y1.
Box = Sequence[float]


def share_area(edges: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(m, n): the share of each interval between `others` (m + 1,) that lies in each between `edges` (n + 1,)."""
    left = np.maximum(others[:-1, None], edges[None, :-1])
    right = np.minimum(others[1:, None], edges[None, 1:])
    shared: np.ndarray = (right - left).clip(0) / np.diff(others)[:, None]
    return shared


def fit_grid(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps (..., h, w) on a grid of `size` (h, w) cells, float64: each is the mean of what lies under it, by area.

    The mean of a map is the same on any grid, which no bilinear resize promises: mean(map) + bias stays the logit.
    """
    down, across = (share_area(_divide(old), _divide(new)) for old, new in zip(maps.shape[-2:], size, strict=True))
    fitted: np.ndarray = down @ maps.astype(np.float64) @ across.T
    return fitted


def subtract_maps(maps: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(..., h, w) float32: `maps` - `others`, on the finer of both grids along each side.

    Args:
        maps: (..., h1, w1) of one network, signed, in units of the logit.
        others: (..., h2, w2) of another, of the same photos and classes.

    Returns:
        h = max(h1, h2), w = max(w1, w2). The mean of the difference is the difference of the means.
    """
    size = max(maps.shape[-2], others.shape[-2]), max(maps.shape[-1], others.shape[-1])
    difference: np.ndarray = (fit_grid(maps, size) - fit_grid(others, size)).astype(np.float32)
    return difference


def cover_cells(boxes: Sequence[Box], size: tuple[int, int]) -> np.ndarray:
    """(h, w) in [0, 1]: the share of each cell that lies in any of the boxes.

    mean(cover * map) is what the places in the boxes give to the score.
    """
    values = np.asarray(boxes, dtype=np.float64).reshape(-1, 4).clip(0, 1)
    xs, ys = (np.unique([0.0, 1.0, *values[:, [k, k + 2]].ravel()]) for k in (0, 1))
    inside = np.zeros((len(ys) - 1, len(xs) - 1))
    for x0, y0, x1, y1 in values:
        inside[np.searchsorted(ys, y0) : np.searchsorted(ys, y1), np.searchsorted(xs, x0) : np.searchsorted(xs, x1)] = 1
    cover: np.ndarray = share_area(ys, _divide(size[0])) @ inside @ share_area(xs, _divide(size[1])).T
    return cover


def _divide(cells: int) -> np.ndarray:
    """The edges of so many equal intervals of [0, 1]."""
    return np.arange(cells + 1) / cells
