"""Pooled numbers, their intervals, and what is more than noise."""

from __future__ import annotations

import numpy as np

from whycam.metrics.localization import BEST_THRESHOLD
from whycam.metrics.pooling import compare, estimate


def test_mean_and_interval() -> None:
    rows = np.random.default_rng(0).normal(2, 1, 400)
    found = estimate(rows)
    assert abs(found.value - rows.mean()) < 1e-12
    half = 1.96 * rows.std() / 20
    assert abs(found.low - (rows.mean() - half)) < 0.02
    assert abs(found.high - (rows.mean() + half)) < 0.02


def test_undefined_photos_are_counted_not_averaged() -> None:
    found = estimate(np.array([1.0, np.nan, 3.0, np.inf]))
    assert (found.value, found.photos, found.undefined) == (2.0, 2, 2)
    assert np.isnan(estimate(np.array([np.nan])).value)
    alone = estimate(np.array([4.0]))
    assert alone.value == 4
    assert np.isnan(alone.low)


def test_pairs_tell_what_intervals_alone_do_not() -> None:
    draw = np.random.default_rng(1)
    hard = draw.normal(0, 5, 100)
    first, second = hard + draw.normal(0, 0.1, 100), hard - 0.2 + draw.normal(0, 0.1, 100)
    gap = compare(first, second)
    assert gap.low > 0
    assert estimate(first).low < estimate(second).value
    assert compare(first, first).low == compare(first, first).high == 0
    noise = compare(first, first + draw.normal(0, 0.1, 100))
    assert noise.low < 0 < noise.high


def test_a_pair_needs_both() -> None:
    gap = compare(np.array([1.0, np.nan, 3.0]), np.array([0.0, 0.0, np.nan]))
    assert (gap.value, gap.photos, gap.undefined) == (1.0, 1, 2)


def test_the_best_threshold_is_one_for_all_photos() -> None:
    # Three photos, one overlap, three thresholds: each photo hits at another one, two of them at the second.
    rows = np.array([[[1, 1, 0]], [[0, 1, 0]], [[0, 0, 1]]], dtype=float)
    assert estimate(rows, BEST_THRESHOLD).value == 2 / 3
    assert BEST_THRESHOLD.each(rows, rows.mean(0)).tolist() == [1, 1, 0]
