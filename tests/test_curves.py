"""Curves of which only some points are asked for, baselines on a sample, an evaluation that stops."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from whycam.cli import app
from whycam.data.annotations import Annotation, read_photos
from whycam.metrics.case import Score
from whycam.metrics.curves import TOLERANCE, trace
from whycam.metrics.evaluation import Evaluation, evaluate

POINTS = 21


class Asked:
    """A score that reads the probability off known curves (N, points), and counts the points that it is asked for."""

    def __init__(self, curves: Tensor) -> None:
        self.curves, self.points = curves, []
        self.score = Score(self.run, torch.zeros(len(curves), dtype=torch.long), chunk=7, is_multi_label=True)

    def make(self, rows: Tensor, steps: Tensor) -> Tensor:
        self.points += list(zip(rows.tolist(), steps.tolist(), strict=True))
        return self.curves[rows, steps][:, None]

    def run(self, images: Tensor) -> Tensor:
        return torch.logit(images.double()).float()

    def trace(self, tolerance: float, known: Tensor | None = None, lasts: Tensor | None = None) -> Tensor:
        count, points = self.curves.shape
        known = torch.full((count, points), torch.nan) if known is None else known
        lasts = torch.full((count,), points - 1) if lasts is None else lasts
        return trace(self.score, self.make, known, lasts, tolerance)


def make_curves(count: int = 40) -> Tensor:
    """Steep and flat, early and late, up and down, with noise: (count, POINTS) in (0, 1)."""
    draw = np.random.default_rng(3)
    at, steep = draw.uniform(0, 1, (count, 1)), np.exp(draw.uniform(1, 4, (count, 1)))
    curves = 1 / (1 + np.exp(-steep * (np.linspace(0, 1, POINTS) - at)))
    curves[::2] = 1 - curves[::2]
    return torch.from_numpy((curves + draw.normal(0, 0.01, curves.shape)).clip(0.001, 0.999)).float()


def measure_area(curves: Tensor) -> Tensor:
    return torch.trapezoid(curves, dx=1 / (POINTS - 1), dim=1)


def test_without_tolerance_every_point_is_asked_for_once() -> None:
    asked = Asked(make_curves())
    assert torch.allclose(asked.trace(0.0), asked.curves, atol=1e-5)
    assert sorted(asked.points) == [(i, k) for i in range(40) for k in range(POINTS)]


def test_what_is_known_is_not_asked_for() -> None:
    curves = make_curves(3)
    known = torch.full_like(curves, torch.nan)
    known[:, 0], known[:, -1] = curves[:, 0], curves[:, -1]
    for tolerance in (0.0, 0.03):
        asked = Asked(curves)
        found = asked.trace(tolerance, known)
        assert not {0, POINTS - 1} & {k for _, k in asked.points}
        assert torch.equal(found[:, [0, -1]], curves[:, [0, -1]])


def test_a_straight_curve_takes_its_middle_alone() -> None:
    asked = Asked(torch.linspace(0.1, 0.9, POINTS).expand(2, -1))
    assert torch.allclose(asked.trace(0.01), asked.curves, atol=1e-5)
    assert sorted(k for _, k in asked.points) == [0, 0, 10, 10, 20, 20]


def test_bent_curves_keep_their_area_by_half_of_the_points() -> None:
    asked = Asked(make_curves())
    found = asked.trace(TOLERANCE)
    away = measure_area(found) - measure_area(asked.curves)
    assert away.abs().max() < 0.08
    assert away.mean().abs() < 0.01
    assert len(asked.points) < 0.55 * asked.curves.numel()
    # A finer tolerance asks for more and is nearer.
    finer = Asked(make_curves())
    closer = measure_area(finer.trace(TOLERANCE / 10)) - measure_area(finer.curves)
    assert len(finer.points) > len(asked.points)
    assert closer.abs().mean() < away.abs().mean()


def test_a_curve_alone_is_the_same_as_among_others_of_other_lengths() -> None:
    curves, lasts = make_curves(4), torch.tensor([20, 1, 7, 12])
    together = Asked(curves).trace(0.02, None, lasts)
    for i, last in enumerate(lasts.tolist()):
        alone = Asked(curves[i : i + 1]).trace(0.02, None, lasts[i : i + 1])
        assert torch.equal(together[i, : last + 1], alone[0, : last + 1])
        assert together[i, last + 1 :].isnan().all()


@pytest.fixture(scope="module")
def measured(tiny_folder: Path, shapes_folder: Path) -> Callable[..., Evaluation]:
    photos = read_photos(shapes_folder)

    def measure(**how: object) -> Evaluation:
        given = {"metrics": ["deletion-auc", "gini"], "methods": ["cam"], "baselines": ["random"]}
        return evaluate(tiny_folder, photos, **given | how)  # type: ignore[arg-type]

    return measure


def test_fewer_points_stay_far_within_the_interval(measured: Callable[..., Evaluation]) -> None:
    every, some = measured(every_step=True), measured()
    assert (every.record["every_step"], some.record["every_step"]) == (True, False)
    for method in every.methods:
        one, other = (found.estimate(method, "deletion-auc") for found in (every, some))
        assert abs(one.value - other.value) < 0.25 * (one.high - one.low) / 2 + 1e-3
        assert every.estimate(method, "gini") == some.estimate(method, "gini")


def test_baselines_on_a_sample(measured: Callable[..., Evaluation]) -> None:
    every, some = measured(), measured(baseline_photos=9)
    assert every.is_sampled is None
    assert some.photos == every.photos
    assert np.allclose(some.rows["cam"]["gini"], every.rows["cam"]["gini"], atol=1e-4, equal_nan=True)
    here = some.find_measured("random")
    assert here.sum() == 9
    assert np.allclose(some.rows["random"]["gini"][here], every.rows["random"]["gini"][here], atol=1e-4)
    assert np.isnan(some.rows["random"]["gini"][~here]).all()
    told = some.estimate("random", "gini")
    assert (told.photos, told.undefined) == (9, 0)
    assert some.difference("random", "cam", "deletion-auc").photos == 9
    assert some.estimate("cam", "deletion-auc").photos == len(every)
    assert sum(row["photos"] for row in some.per_class() if row["method"] == "random") == 9


def test_an_evaluation_stops_when_intervals_are_narrow(measured: Callable[..., Evaluation]) -> None:
    whole, none = measured(until=1e-6), measured(until=1e-6, limit=20)
    assert (len(whole), len(none)) == (36, 20)
    assert "stopped" not in whole.record
    found = measured(until=0.5, batch_size=6)
    assert len(found) == 30
    assert found.record["stopped"] == {"until": 0.5, "of": 36}
    # Photos of every class, in the order in which they are listed.
    assert len(set(found.classes)) == 3
    assert list(found.photos) == [photo for photo in whole.photos if photo in set(found.photos)]


def test_the_command_tells_what_was_left_out(tiny_folder: Path, shapes_folder: Path, tmp_path: Path) -> None:
    words = ["evaluate", tiny_folder, shapes_folder, "-o", tmp_path / "out", "--metrics", "gini"]
    options = ["--baseline-photos", 5, "--until", 0.5, "--batch-size", 6]
    done = CliRunner().invoke(app, [str(word) for word in (*words, *options)])
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "The baselines are measured on 5 of 35 photos (--baseline-photos)." in said
    assert "Stopped before the end, at 35 of 36 photos: half of every interval is under 0.5 (--until)." in said
    rows = pq.read_table(tmp_path / "out" / "photos.parquet").to_pydict()
    assert [rows["method"].count(name) for name in ("cam", "random")] == [35, 5]
    whole = json.loads((tmp_path / "out" / "overall.json").read_text())
    counted = {row["method"]: row["photos"] + row["undefined"] for row in whole["overall"]}
    assert counted == {"cam": 35, "random": 5, "centre": 5, "edges": 5}
    assert whole["record"]["baseline_photos"] == 5


def test_a_sample_that_can_not_be_read_is_replaced(tiny_folder: Path, shapes_folder: Path, tmp_path: Path) -> None:
    good = read_photos(shapes_folder)[:6]
    for seed in range(3):
        places = list(range(8))
        random.Random(seed).shuffle(places)
        listed: list[Annotation | None] = [None] * 8
        rest = iter(good)
        for turn, place in enumerate(places):
            broken = tmp_path / f"{seed}-{place}.jpg"
            broken.write_bytes(b"no photo")
            listed[place] = Annotation(broken, good[0].classes) if turn < 2 else next(rest)
        found = evaluate(
            tiny_folder, [one for one in listed if one], metrics=["gini"], baseline_photos=2, seed=seed, batch_size=2
        )
        assert len(found) == 6
        assert found.find_measured("random").sum() == 2
        assert found.estimate("random", "gini").photos == 2
