"""Paired statistics: against their definitions, written slowly, and against what they promise."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from scipy import optimize, stats

from whycam.metrics.pairs.paired import correct, find_interval, find_p, measure_change

COUNTS = [(2, 12, 50), (12, 2, 50), (0, 0, 50), (0, 3, 30), (4, 2, 24), (30, 30, 1000), (0, 5, 5), (1, 1, 2)]


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (0, 1), (3, 10), (10, 3), (7, 7), (0, 20)])
def test_mcnemars_p_is_that_of_fair_coins(lost: int, gained: int) -> None:
    total = lost + gained
    chances = [comb(total, k) / 2**total for k in range(total + 1)]
    expected = sum(chance for chance in chances if chance <= chances[gained] * (1 + 1e-9))
    assert find_p(lost, gained) == pytest.approx(min(expected, 1))


def score_slowly(lost: int, gained: int, photos: int, difference: float) -> float:
    """Tango's statistic with the likeliest share of lost photos found by search, not by its formula."""
    same = photos - lost - gained

    def unlikelihood(share: float) -> float:
        shares = (share, share + difference, 1 - 2 * share - difference)
        counts = (lost, gained, same)
        return -sum(count * np.log(max(s, 1e-300)) for count, s in zip(counts, shares, strict=True))

    bounds = max(0.0, -difference), (1 - difference) / 2
    share = optimize.minimize_scalar(unlikelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    variance = photos * (2 * share + difference - difference**2)
    return float((gained - lost - photos * difference) / np.sqrt(variance))


@pytest.mark.parametrize(("lost", "gained", "photos"), COUNTS)
def test_the_interval_holds_the_differences_that_the_score_test_does_not_reject(
    lost: int, gained: int, photos: int
) -> None:
    low, high = find_interval(lost, gained, photos)
    z, value = stats.norm.ppf(0.975), (gained - lost) / photos
    assert -1 <= low <= value <= high <= 1
    if low > -1:
        assert score_slowly(lost, gained, photos, low) == pytest.approx(z, abs=2e-3)
    if high < 1:
        assert score_slowly(lost, gained, photos, high) == pytest.approx(-z, abs=2e-3)


def test_the_interval_turns_with_the_sides_and_says_nothing_of_no_photos() -> None:
    low, high = find_interval(3, 9, 80)
    assert find_interval(9, 3, 80) == pytest.approx((-high, -low))
    assert find_interval(0, 0, 0) == (-1, 1)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    for lost, gained, photos in ((0.03, 0.05, 60), (0.1, 0.2, 150), (0.002, 0.002, 350)):
        found = draw.multinomial(photos, [lost, gained, 1 - lost - gained], 300)
        inside = [low <= gained - lost <= high for low, high in (find_interval(a, b, photos) for a, b, _ in found)]
        assert np.mean(inside) > 0.91


def test_a_change_counts_photos_on_which_one_is_right_alone() -> None:
    a, b = np.array([1, 1, 1, 0, 0, 1], bool), np.array([1, 0, 1, 1, 1, 1], bool)
    found = measure_change(a, b)
    assert (found.photos, found.lost, found.gained) == (6, 1, 2)
    assert found.value == pytest.approx(b.mean() - a.mean())
    assert not found.is_clear
    assert measure_change(np.zeros(20, bool), np.ones(20, bool)).is_clear


def test_holms_correction_by_hand() -> None:
    assert correct([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert correct([0.9, 0.9]) == [1, 1]
    assert correct([]) == []
