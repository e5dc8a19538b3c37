"""How strongly a photo was compressed, as the JPEG quality that libjpeg calls by: from its tables, and from its pixels.

The pixels tell of what a file no longer says: a photo that was saved badly once and then kept as PNG, or saved again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

# The brightness table of the JPEG standard (ITU-T T.81, annex K), row by row.
_STANDARD = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
])  # fmt: skip
NO_LOSS = 100.0
# Low frequencies: of the others too few coefficients are left to tell a step from chance.
_ROWS, _COLUMNS = np.array([0, 1, 1, 0, 2, 0, 1, 2, 3]), np.array([1, 0, 1, 2, 0, 3, 2, 1, 0])
_LARGEST, _STEPS = 400, np.arange(3, 161)
_LEAST_FIT, _LEAST_COUNT, _LEAST_PLACES = 0.6, 12, 3
_MOST_BLOCKS = 6000


def _make_waves() -> tuple[np.ndarray, np.ndarray]:
    """(size, step): how well a coefficient of that size fits a step, in [-1, 1], and whether it counts."""
    sizes = np.arange(_LARGEST + 1)[:, None]
    counts = sizes >= _STEPS[None] / 2
    return np.where(counts, np.cos(2 * np.pi * sizes / _STEPS[None]), 0).astype(np.float32), counts.astype(np.float32)


_WAVES, _COUNTS = _make_waves()
_PLACES, _WAVE = np.arange(8), np.arange(8)[:, None]
_COSINES = np.cos((2 * _PLACES + 1) * _WAVE * np.pi / 16) * np.where(_WAVE == 0, np.sqrt(1 / 8), 0.5)
_BASIS = np.stack([np.outer(_COSINES[i], _COSINES[j]).ravel() for i, j in zip(_ROWS, _COLUMNS, strict=True)], 1)


def to_quality(scale: float) -> float:
    """The quality by libjpeg, 1 to 100, of tables that are so many times the standard's."""
    quality = 100 - 50 * scale if scale <= 1 else 50 / scale
    return float(np.clip(quality, 1, 100))


def _sum_tables() -> np.ndarray:
    """(100,) the sum of libjpeg's table of each quality from 1 on."""
    qualities = np.arange(1, 101)
    scales = np.where(qualities < 50, 5000 // qualities, 200 - 2 * qualities)
    sums: np.ndarray = ((_STANDARD * scales[:, None, None] + 50) // 100).clip(1, 255).sum((1, 2))
    return sums


_SUMS = _sum_tables()


def read_quality(tables: Mapping[int, Sequence[int]]) -> float:
    """The quality that a JPEG file's tables (64 steps each) were made by; of tables of another make, the nearest."""
    # The order of places, row by row or zigzag, does not change the sum.
    return float(1 + np.abs(_SUMS - np.sum(tables[min(tables)])).argmin())


def estimate_quality(luma: np.ndarray) -> float:
    """The lowest quality that a photo's brightness (H, W) was saved by, on the grid that begins in its first pixel.

    A saved coefficient is a whole number of steps. So for each of nine low frequencies the largest step is sought
    that its coefficients are multiples of. 100 where none is: never saved as JPEG, above a quality of about 80, or cut
    or resized after it.
    """
    height, width = (side // 8 * 8 for side in luma.shape)
    if height * width < 64 * _LEAST_COUNT:
        return NO_LOSS
    blocks = luma[:height, :width].reshape(height // 8, 8, width // 8, 8).swapaxes(1, 2).reshape(-1, 64)
    blocks = blocks[:: -(-len(blocks) // _MOST_BLOCKS)]
    sizes = np.rint(np.abs(blocks @ _BASIS.astype(np.float32))).astype(np.int64).clip(0, _LARGEST)
    places = sizes + np.arange(len(_ROWS)) * (_LARGEST + 1)
    counted = np.bincount(places.ravel(), minlength=len(_ROWS) * (_LARGEST + 1)).reshape(len(_ROWS), -1)
    number = counted @ _COUNTS
    fit = np.where(number >= _LEAST_COUNT, counted @ _WAVES / np.maximum(number, 1), -1)
    fits = fit >= _LEAST_FIT
    found = fits.any(1)
    if found.sum() < _LEAST_PLACES:
        return NO_LOSS
    largest = _STEPS[len(_STEPS) - 1 - fits[:, ::-1].argmax(1)]
    return to_quality(float(np.median((largest / _STANDARD[_ROWS, _COLUMNS])[found])))
