"""Noise of seeds: the lines by hand, how often they err, and which runs they are made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from whycam.errors import UserError
from whycam.metrics.pairs.seeds import count_flips, measure_noise
from whycam.metrics.pairs.training_runs import sort_runs

PHOTOS = 20


def make_answers(*right: int) -> np.ndarray:
    """Runs of which each names so many of the first photos class 0, which is right, and the others class 1."""
    return np.array([[0] * count + [1] * (PHOTOS - count) for count in right])


def test_the_lines_of_runs_that_a_belongs_to_by_hand() -> None:
    answers, runs, labels = make_answers(14, 18), make_answers(15, 13), np.zeros(PHOTOS, int)
    found = measure_noise(answers, runs, labels, belongs=True)
    t = stats.t.ppf(1 - 0.025 / 2, 2)
    # Right are 14, 15 and 13; the pairs differ in 1, 1 and 2 photos; B differs from them in 4, 3 and 5.
    reach = t * 1 * np.sqrt(1 + 1 / 3)
    assert found.accuracy is not None
    assert (found.accuracy.value, found.accuracy.usual) == (18 / 20, 14 / 20)
    assert (found.accuracy.low, found.accuracy.high) == pytest.approx(((14 - reach) / 20, (14 + reach) / 20))
    mean = 4 / 3
    counting = mean * (1 - mean / 20)
    reach = t * np.sqrt(max(np.var([1, 1, 2], ddof=1), counting) * (1 + 2 / 3))
    assert found.flips.value == pytest.approx(4 / 20)
    assert found.flips.high == pytest.approx((mean + reach) / 20)
    assert (found.runs, found.belongs) == (3, True)
    np.testing.assert_allclose(found.disagreeing[[0, 13, 14, 15]], [0, 2 / 3, 2 / 3, 0])


def test_the_lines_of_runs_of_another_training_by_hand() -> None:
    answers, runs, labels = make_answers(10, 17), make_answers(15, 13), np.zeros(PHOTOS, int)
    found = measure_noise(answers, runs, labels, belongs=False)
    t = stats.t.ppf(1 - 0.025 / 2, 1)
    assert found.accuracy is not None
    assert found.accuracy.value == pytest.approx(7 / 20)
    assert found.accuracy.high == pytest.approx(t * np.sqrt(2) * np.sqrt(2) / 20)
    assert found.accuracy.low == -found.accuracy.high
    assert found.flips.value == pytest.approx(7 / 20)


def test_runs_that_never_differ_still_leave_room_for_rounding() -> None:
    runs, labels = make_answers(14, 14, 14), np.zeros(PHOTOS, int)
    assert measure_noise(make_answers(14, 15), runs, labels, belongs=True).is_within
    assert not measure_noise(make_answers(14, 18), runs, labels, belongs=True).is_within


def test_without_labels_there_is_the_line_of_flips_alone() -> None:
    runs, labels = make_answers(15, 13), np.full(PHOTOS, -1)
    found = measure_noise(make_answers(14, 15), runs, labels, belongs=True)
    assert found.accuracy is None
    assert found.alpha == pytest.approx(0.05)
    assert found.to_json()["accuracy"] is None


def test_flips_of_pairs() -> None:
    np.testing.assert_array_equal(count_flips(make_answers(1, 3, 7)), [2, 6, 4])


def draw_runs(draw: np.random.Generator, kind: str, count: int, photos: int) -> np.ndarray:
    """(count, photos) answers of runs of one training on the same photos, of five classes; class 0 is right."""
    scores = draw.normal(0, 1, (photos, 5))
    scores[:, 0] += draw.choice([1.0, 2, 3])
    if kind == "photo by photo":
        return np.asarray((scores + 0.3 * draw.normal(size=(count, photos, 5))).argmax(2))
    if kind == "hardly":
        return np.asarray((scores + 0.02 * draw.normal(size=(count, photos, 5))).argmax(2))
    # A run that is better is better on all photos; one that prefers a class prefers it everywhere.
    size = 1 if kind == "better and worse" else 5
    every = scores + 0.15 * draw.normal(size=(count, photos, 5))
    every[..., :size] += 0.3 * draw.normal(size=(count, 1, size))
    return np.asarray(every.argmax(2))


@pytest.mark.parametrize("kind", ["photo by photo", "hardly", "better and worse", "preferring classes"])
def test_two_seeds_of_one_training_are_within_noise_nineteen_times_in_twenty(kind: str) -> None:
    draw = np.random.default_rng(0)
    within = []
    for turn in range(400):
        count, photos = int(draw.choice([2, 3, 5, 8])), int(draw.choice([60, 350]))
        answers = draw_runs(draw, kind, 2 + count, photos)
        found = measure_noise(answers[:2], answers[2:], np.zeros(photos, int), belongs=bool(turn % 2))
        within.append(found.is_within)
    assert np.mean(within) >= 0.95


def test_another_training_is_beyond_noise() -> None:
    draw = np.random.default_rng(1)
    found = []
    for _ in range(40):
        answers = draw_runs(draw, "photo by photo", 6, 350)
        answers[1, draw.permutation(350)[:60]] = 1
        found.append(measure_noise(answers[:2], answers[2:], np.zeros(350, int), belongs=True).is_within)
    assert np.mean(found) < 0.1


@pytest.fixture
def runs(tmp_path: Path) -> Any:
    def make(name: str, seed: int, **options: object) -> Path:
        folder = tmp_path / name
        (folder / "model").mkdir(parents=True)
        (folder / "options.json").write_text(json.dumps({"seed": seed, "epochs": 40, **options}))
        (folder / "summary.json").write_text(json.dumps({"data": {"folder": "/photos"}}))
        return folder

    return make


def test_a_belongs_where_it_is_named_or_was_trained_alike(runs: Any) -> None:
    a, b, one, two = (runs(name, seed) for seed, name in enumerate("abcd"))
    found = sort_runs(str(a), b, [str(a / "model"), one, two])
    assert (found.others, found.belongs, found.notes) == ((one, two), True, ())
    found = sort_runs(a, b, [one, str(two)])
    assert found.belongs
    assert "A was trained as the runs" in found.notes[0]
    other = runs("other", 9, epochs=5)
    assert not sort_runs(other, b, [one, two]).belongs


def test_b_and_repeated_runs_are_not_counted(runs: Any) -> None:
    a, b, one, two = (runs(name, seed) for seed, name in enumerate("abcd"))
    copy = runs("copy", 2)
    found = sort_runs(a, b, [b, one, two, one / "model", copy])
    assert found.others == (one, two)
    assert any(note.startswith("B is among") for note in found.notes)
    assert sum("is there twice" in note for note in found.notes) == 2


def test_runs_that_differ_in_more_than_the_seed_are_told(runs: Any) -> None:
    found = sort_runs(runs("a", 0), runs("b", 1), [runs("c", 2), runs("d", 3, epochs=3, lr=1)])
    assert "differ in more than the seed: epochs, lr" in found.notes[0]
    assert not found.belongs


def test_fewer_than_two_runs_are_refused(runs: Any) -> None:
    a, b, one = (runs(name, seed) for seed, name in enumerate("abc"))
    assert sort_runs(a, b, [one]).belongs
    with pytest.raises(UserError, match=r"measured by 1 run; expected 2 or more"):
        sort_runs(runs("x", 0, epochs=1), b, [one, b])


def test_objects_are_told_apart_by_identity() -> None:
    a, b, one, two = object(), object(), object(), object()
    assert sort_runs(a, b, [one, two, a]).belongs
    assert not sort_runs(a, b, [one, two]).belongs
