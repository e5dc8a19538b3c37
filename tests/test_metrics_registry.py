"""What every metric promises, over the whole registry; and how words choose metrics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from metric_cases import SIDE, make_case, make_images, make_photos, make_random, make_true
from whycam.errors import UserError
from whycam.metrics import registry
from whycam.metrics.case import Case
from whycam.metrics.pooling import estimate
from whycam.metrics.registry import Metric, get_metrics, iter_metrics, metric

METRICS = {one.name: one for one in iter_metrics()}
every_metric = pytest.mark.parametrize("name", METRICS)
USUAL = [one.name for one in get_metrics(["all"])]
# Those that the object's own mask is best for. 15 pixels are half of these photos, so the pointing game is not one.
NOT_OF_THE_OBJECT = {"average-increase", "average-gain", "pointing-game"}
OF_THE_OBJECT = [
    name
    for name in USUAL
    if METRICS[name].category in {"faithfulness", "localization"} and METRICS[name].family not in NOT_OF_THE_OBJECT
]


def number(one: Metric, case: Case) -> float:
    return estimate(one.run(case).numpy(), one.pool).value


@every_metric
def test_rows_are_of_photos_and_leave_the_input_alone(name: str) -> None:
    case = make_case()
    images, maps = case.photos.images.clone(), case.maps.clone()
    rows = METRICS[name].run(case)
    assert len(rows) == len(case)
    assert torch.isfinite(rows).all()
    assert torch.equal(images, case.photos.images)
    assert torch.equal(maps, case.maps)


every_usual = pytest.mark.parametrize("name", USUAL)


@pytest.mark.parametrize("name", [one.name for one in get_metrics(["quick"])])
def test_a_quick_one_asks_for_few_changed_photos(name: str) -> None:
    photos, asked = make_photos(make_images(1)), []
    score = replace(photos.score, run=lambda batch: (asked.append(len(batch)), photos.score.run(batch))[1])
    explain = lambda methods, batch, *how: (asked.append(len(batch)), photos.explain(methods, batch, *how))[1]  # noqa: E731
    counted = replace(photos, score=score, explain=explain)
    METRICS[name].run(Case(counted, make_true(1), "red"))
    assert sum(asked) <= 25


@every_usual
def test_a_photo_alone_has_the_number_it_has_in_a_batch(name: str) -> None:
    together = METRICS[name].run(make_case(make_true()))
    for i in range(3):
        alone = METRICS[name].run(make_case(make_true()[i : i + 1], images=make_images()[i : i + 1]))
        assert torch.allclose(alone[0].double(), together[i].double(), atol=2e-4), name


@every_usual
def test_the_seed_decides(name: str) -> None:
    one = METRICS[name]
    assert torch.equal(one.run(make_case(seed=3)), one.run(make_case(seed=3)))


@every_usual
def test_flat_maps_have_numbers_or_none(name: str) -> None:
    for value in (0.0, 1.0):
        rows = METRICS[name].run(make_case(torch.full((3, SIDE, SIDE), value)))
        assert len(rows) == 3
        assert not rows.isinf().any()


@pytest.mark.parametrize("name", OF_THE_OBJECT)
def test_the_true_mask_beats_random_and_its_inverse_loses(name: str) -> None:
    one = METRICS[name]
    true, random, inverse = (number(one, make_case(maps)) for maps in (make_true(), make_random(), 1 - make_true()))
    sign = 1 if one.better == "higher" else -1
    assert sign * true > sign * random
    assert sign * true > sign * inverse


def test_words_choose() -> None:
    names = [one.name for one in get_metrics(["all"])]
    assert "insertion-auc-blur" in names
    assert "insertion-auc-mean" not in names
    assert [one.name for one in get_metrics(["insertion-auc", "insertion-auc-zero"])] == [
        "insertion-auc-blur",
        "insertion-auc-zero",
    ]
    assert {one.category for one in get_metrics(["sanity"])} == {"sanity"}
    with pytest.raises(UserError, match="insertion-auc"):
        get_metrics(["insertion"])


def test_a_name_is_taken_once() -> None:
    enter = metric("gini", better="higher", category="complexity", paper="")
    with pytest.raises(RuntimeError, match="gini"):
        enter(lambda case: case.maps[:, 0, 0])


def test_photos_without_truth_are_not_defined_and_counted() -> None:
    photos = make_photos()
    partly = replace(photos, truths=[photos.truths[0], None, photos.truths[2]], _kept={})
    for one in get_metrics(["localization"]):
        found = estimate(one.run(Case(partly, make_true(), "red")).numpy(), one.pool)
        assert (found.photos, found.undefined) == (2, 1)


def test_the_page_names_every_metric() -> None:
    page = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
    missing = [one.family for one in METRICS.values() if f"`{one.family}`" not in page]
    assert not missing


def test_adding_one_is_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_metrics", dict(METRICS))

    @metric("first-cell", better="higher", category="complexity", paper="none", baselines=("mean", "zero"))
    def first_cell(case: Case, baseline: str) -> Tensor:
        return case.maps[:, 0, 0] + (baseline == "zero")

    (usual,) = get_metrics(["first-cell"])
    assert usual.title == "first-cell-mean ↑"
    assert "first-cell-mean" in [one.name for one in get_metrics(["all"])]
    (other,) = get_metrics(["first-cell-zero"])
    assert torch.equal(other.run(make_case(make_true())), make_true()[:, 0, 0] + 1)
