"""What photos prove of a limit: bounds against their definitions, and the three ways in which a guard is decided."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from whycam.testing.rule import LEVEL, State, bound_mean, find_bounds, share_level
from whycam.testing.verdict import Measured


def to_values(hits: int, photos: int) -> np.ndarray:
    return np.r_[np.ones(hits), np.zeros(photos - hits)]


@pytest.mark.parametrize(("hits", "photos"), [(37, 50), (1, 4), (0, 20), (20, 20), (960, 1000)])
def test_a_share_lies_outside_its_bounds_in_one_of_twenty_samples(hits: int, photos: int) -> None:
    found = find_bounds(to_values(hits, photos))
    assert found.value == hits / photos
    if hits < photos:
        assert stats.binom.cdf(hits, photos, found.high) == pytest.approx(1 - LEVEL)
    if hits:
        assert stats.binom.sf(hits - 1, photos, found.low) == pytest.approx(1 - LEVEL)
    assert (found.low == 0) == (hits == 0)
    assert (found.high == 1) == (hits == photos)


def test_of_zeros_and_ones_the_bound_of_any_numbers_is_that_of_a_share() -> None:
    for hits, photos in ((37, 50), (1, 4), (0, 20)):
        values = np.sort(to_values(hits, photos))
        found = find_bounds(values)
        assert bound_mean(values, LEVEL) == pytest.approx((found.low, found.high), abs=0.004)


def test_the_bound_of_numbers_is_the_papers_formula() -> None:
    values = np.sort(np.random.default_rng(3).beta(2, 5, 15))
    draw, sums = np.random.default_rng(1), []
    for _ in range(20_000):
        points = np.sort(draw.random(15))  # u(1)..u(n), uniform order statistics
        steps = np.diff(np.append(values, 1.0))  # z(i + 1) - z(i), with z(n + 1) = 1
        sums.append(1 - (points * steps).sum())
    assert find_bounds(values).high == pytest.approx(np.quantile(sums, LEVEL), abs=0.004)
    # The lower bound is the upper one of what is missing to 1.
    assert find_bounds(values).low == pytest.approx(1 - find_bounds(1 - values).high, abs=0.004)


def test_bounds_are_the_same_each_time_and_for_any_order_of_the_photos() -> None:
    draw = np.random.default_rng(0)
    values = draw.random(60)
    assert find_bounds(values) == find_bounds(draw.permutation(values)) == find_bounds(np.sort(values))


def test_equal_numbers_lie_within_their_bounds() -> None:
    for value in (1 / 3, 0.7, 1 - 1e-12):
        found = find_bounds(np.full(7, value))
        assert 0 <= found.low <= found.value <= found.high <= 1


@pytest.mark.parametrize("shape", [(0.3, 0.1), (8, 1), (1, 8)])
def test_false_alarms_are_rare_for_skewed_numbers(shape: tuple[float, float]) -> None:
    mean, draw = shape[0] / sum(shape), np.random.default_rng(5)
    alarms = sum(find_bounds(draw.beta(*shape, 15)).decide(mean) is State.BROKEN for _ in range(150))
    assert alarms <= 13  # of 150 draws one of twenty is 7.5, and 14 has a chance of 2 %


def test_three_ways_to_be_decided() -> None:
    found = find_bounds(to_values(45, 50))
    limits = np.linspace(0.01, 1, 200)
    states = [found.decide(limit) for limit in limits]
    assert states == sorted(states, key=[State.HOLDS, State.INCONCLUSIVE, State.BROKEN].index)
    assert found.decide(found.low) is State.HOLDS
    assert found.decide(found.high) is State.INCONCLUSIVE
    assert set(states) == set(State)


def test_as_many_photos_as_are_told_would_tell() -> None:
    for hits, photos, limit in ((46, 50, 0.9), (40, 50, 0.85), (12, 12, 0.9), (3, 4, 0.5)):
        needed = find_bounds(to_values(hits, photos)).estimate_needed(limit)
        assert needed is not None
        more = find_bounds(to_values(round(hits / photos * needed * 1.1), round(needed * 1.1)))
        less = find_bounds(to_values(round(hits / photos * needed * 0.8), round(needed * 0.8)))
        assert more.decide(limit) is not State.INCONCLUSIVE
        assert less.decide(limit) is State.INCONCLUSIVE
    assert find_bounds(to_values(12, 12)).estimate_needed(0.9) == pytest.approx(29, rel=0.05)  # 0.9^29 < 0.05
    assert find_bounds(to_values(45, 50)).estimate_needed(0.9) is None
    assert find_bounds(to_values(45, 50)).estimate_needed(0.9001) is None


@pytest.mark.parametrize(("shape", "photos", "limit"), [((4, 2), 40, 0.55), ((1, 5), 14, 0.3), ((6, 1), 20, 0.7)])
def test_as_many_numbers_as_are_told_would_tell(shape: tuple[float, float], photos: int, limit: float) -> None:
    values = np.random.default_rng(0).beta(*shape, photos)
    needed = find_bounds(values).estimate_needed(limit)
    assert needed is not None
    for size, is_told in ((1.3, True), (0.7, False)):
        count = round(needed * size)
        found = find_bounds(np.quantile(values, (np.arange(count) + 0.5) / count))
        assert (found.decide(limit) is not State.INCONCLUSIVE) == is_told, (count, found)


def judge(of_class: dict[str, list[float]], limit: float, *, each_class: bool) -> tuple[State, str, tuple[str, ...]]:
    values = np.array([value for own in of_class.values() for value in own])
    names = [name for name, own in of_class.items() for _ in own]
    verdict = Measured("test", values, names, lambda part: f"{len(part)} photos").judge(
        limit, each_class=each_class, worst=()
    )
    return verdict.state, verdict.told, verdict.notes


def test_a_class_is_hidden_by_a_mean_and_found_by_itself() -> None:
    photos = {"rose": [1.0] * 90, "tulip": [1.0] * 2 + [0.0] * 8}
    state, told, notes = judge(photos, 0.8, each_class=False)
    assert state is State.HOLDS
    assert told.startswith("100 photos: 0.920; at least 0.8")
    assert notes == ("The lowest of 2 classes is 'tulip': 0.200 on 10 photos.",)
    state, told, notes = judge(photos, 0.8, each_class=True)
    assert state is State.BROKEN
    assert told.startswith("of 'tulip', 10 photos: 0.200; at most ")
    assert notes == ()


def test_of_each_class_all_must_be_sure_for_it_to_hold() -> None:
    photos = {"rose": [1.0] * 200, "tulip": [1.0] * 5}
    assert judge(photos, 0.9, each_class=False)[0] is State.HOLDS
    state, told, _ = judge(photos, 0.9, each_class=True)
    assert state is State.INCONCLUSIVE
    assert told.startswith("of 'tulip', 5 photos: 1.000; at least ")
    assert "5 photos can't tell; some " in told


def test_of_several_bounds_all_hold_with_the_confidence_that_is_told() -> None:
    whole, each = share_level(5)
    assert (1 - whole) + 5 * (1 - each) == pytest.approx(1 - LEVEL)
