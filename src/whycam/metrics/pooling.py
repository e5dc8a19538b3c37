"""From rows of photos to one number, its 95 % interval and whether two methods differ: a bootstrap over photos.

Each pooled number is a function of the mean of rows: so a resample costs one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
# Resamples at a time: wide rows (a histogram a photo) would else fill the memory.
_PART = 250


def _same(means: np.ndarray) -> np.ndarray:
    return means


def _same_each(rows: np.ndarray, _whole: np.ndarray) -> np.ndarray:
    return rows


@dataclass(frozen=True)
class Pool:
    """How rows of photos become one number.

    Attributes:
        finish: mean rows (R, ...) -> (R,).
        each: (rows (N, ...), their mean (...)) -> (N,): what is written for a photo.
    """

    finish: Callable[[np.ndarray], np.ndarray] = _same
    each: Callable[[np.ndarray, np.ndarray], np.ndarray] = _same_each


MEAN = Pool()


@dataclass(frozen=True)
class Estimate:
    """One pooled number.

    Attributes:
        value: over all photos where the metric is defined; NaN where there are none.
        low: lower end of the 95 % interval; NaN with fewer than 2 photos.
        high: upper end.
        photos: how many the metric is defined on.
        undefined: how many it is not.
    """

    value: float
    low: float
    high: float
    photos: int
    undefined: int


def is_defined(rows: np.ndarray) -> np.ndarray:
    """(N,) whether a photo has its numbers."""
    return np.asarray(np.isfinite(rows).all(axis=tuple(range(1, rows.ndim))))


def estimate(rows: np.ndarray, pool: Pool = MEAN, seed: int = 0) -> Estimate:
    """The pooled number of rows (N, ...), photos without it left out and counted."""
    good = rows[is_defined(rows)]
    missing = len(rows) - len(good)
    if not len(good):
        return Estimate(np.nan, np.nan, np.nan, 0, missing)
    value = float(pool.finish(good.mean(axis=0, keepdims=True))[0])
    if len(good) < 2:
        return Estimate(value, np.nan, np.nan, len(good), missing)
    low, high = _interval(_resample(good, pool, seed))
    return Estimate(value, low, high, len(good), missing)


def compare(rows: np.ndarray, others: np.ndarray, pool: Pool = MEAN, seed: int = 0) -> Estimate:
    """The difference `rows` - `others` of the same photos, with its interval: 0 inside it is no difference.

    Photos on which either is undefined are left out of both.
    """
    both = is_defined(rows) & is_defined(others)
    count, missing = int(both.sum()), int((~both).sum())
    if not count:
        return Estimate(np.nan, np.nan, np.nan, 0, missing)
    ours, theirs = rows[both], others[both]
    value = float((pool.finish(ours.mean(0, keepdims=True)) - pool.finish(theirs.mean(0, keepdims=True)))[0])
    if count < 2:
        return Estimate(value, np.nan, np.nan, count, missing)
    # The same seed: both draw the same photos.
    low, high = _interval(_resample(ours, pool, seed) - _resample(theirs, pool, seed))
    return Estimate(value, low, high, count, missing)


def _interval(values: np.ndarray) -> tuple[float, float]:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _resample(rows: np.ndarray, pool: Pool, seed: int) -> np.ndarray:
    """(RESAMPLES,): the pooled number of as many photos drawn with replacement."""
    draw = np.random.default_rng(seed)
    flat = rows.reshape(len(rows), -1).astype(np.float64)
    values = []
    for _ in range(0, RESAMPLES, _PART):
        times = draw.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=_PART)
        means = (times @ flat / len(rows)).reshape(_PART, *rows.shape[1:])
        values.append(pool.finish(means))
    return np.concatenate(values)
