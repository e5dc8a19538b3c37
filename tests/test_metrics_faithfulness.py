"""Faithfulness on photos whose score is known, against loops written from the papers, and against other libraries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from metric_cases import SIDE, make_case, make_images, make_mask, make_photos, make_random, make_true
from whycam.metrics import faithfulness, regions
from whycam.metrics.case import Case, rank

STEPS = faithfulness.STEPS


def loop_auc(case: Case, start: Tensor, end: Tensor) -> list[float]:
    """Step by step, a photo at a time: the most relevant pixels of `start` become those of `end`."""
    areas = []
    for i in range(len(case)):
        order = case.surface[i].flatten().argsort(descending=True)
        curve = []
        for k in range(STEPS + 1):
            image = start[i].clone().flatten(1)
            chosen = order[: round(k * SIDE * SIDE / STEPS)]
            image[:, chosen] = end[i].flatten(1)[:, chosen]
            curve.append(float(case.photos.score.run(image.view(1, 3, SIDE, SIDE)).softmax(1)[0, 0]))
        areas.append(np.trapezoid(curve, dx=1 / STEPS))
    return areas


@pytest.mark.parametrize("baseline", ["blur", "mean", "zero"])
def test_insertion_and_deletion_are_the_loops(baseline: str) -> None:
    case = make_case(make_random())
    images, empty = case.photos.images, case.photos.baseline(baseline)
    inserted, deleted = faithfulness.insertion_auc(case, baseline), faithfulness.deletion_auc(case, baseline)
    assert np.allclose(inserted.numpy(), loop_auc(case, empty, images), atol=1e-5)
    assert np.allclose(deleted.numpy(), loop_auc(case, images, empty), atol=1e-5)


def test_curves_end_at_the_photo_and_the_baseline() -> None:
    case = make_case()
    curve = faithfulness._delete(case, "mean")
    assert torch.allclose(curve[:, 0], case.photos.clean[:, 0])
    assert torch.allclose(curve[:, -1], case.photos.score.run(torch.zeros_like(make_images())).softmax(1)[:, 0])


def test_equal_pixels_are_ordered_by_the_seed_not_by_their_place() -> None:
    shuffle = make_photos().shuffle
    places = rank(torch.zeros(3, SIDE * SIDE), shuffle)
    assert torch.equal(places.gather(1, shuffle), torch.arange(SIDE * SIDE).expand(3, -1))
    # A map of which three quarters are 0: at half of the pixels, half of the zero ones are gone, from everywhere.
    sparse = torch.zeros(1, SIDE, SIDE)
    sparse[:, : SIDE // 4] = 1
    case = make_case(sparse, images=make_images(1))
    gone = (case.ranks[0] < SIDE * SIDE // 2).view(SIDE, SIDE)
    assert gone[: SIDE // 4].all()
    assert 0.2 < gone[SIDE // 4 : SIDE // 2].float().mean() < 0.5
    assert 0.2 < gone[-SIDE // 4 :].float().mean() < 0.5


def test_drop_increase_and_gain_by_hand() -> None:
    whole, nothing = (make_case(torch.full((3, 4, 4), value)) for value in (1.0, 0.0))
    clean = whole.photos.clean[:, 0]
    empty = whole.photos.empty("mean")[:, 0]
    assert faithfulness.average_drop(whole, "mean").abs().max() < 1e-6
    assert faithfulness.average_increase(whole, "mean").sum() == 0
    assert torch.allclose(faithfulness.average_drop(nothing, "mean"), (clean - empty) / clean)
    assert torch.allclose(faithfulness.average_gain(nothing, "mean"), torch.zeros(3))
    # Without the mask's green, which speaks for another class, the probability rises.
    green = make_images() + torch.tensor([0.0, 2.0, 0.0]).view(1, 3, 1, 1)
    case = make_case(make_mask().float().expand(3, -1, -1), images=green)
    after = case.photos.score.run(green * make_mask()).softmax(1)[:, 0]
    before = case.photos.clean[:, 0]
    assert faithfulness.average_increase(case, "mean").tolist() == [1, 1, 1]
    assert torch.allclose(faithfulness.average_gain(case, "mean"), (after - before) / (1 - before), atol=1e-6)


def test_adcc_by_hand() -> None:
    case = make_case(make_mask().float().expand(3, -1, -1), method="fixed")
    share = 1 - make_mask().float().mean()
    drop = faithfulness.average_drop(case, "mean")
    expected = 3 / (1 / torch.ones(3) + 1 / share + 1 / (1 - drop))
    assert torch.allclose(faithfulness.adcc(case, "mean"), expected, atol=1e-5)


def test_road_removes_what_the_percentile_says() -> None:
    case, seen = make_case(make_random(1), images=make_images(1)), []

    def keep(images: Tensor) -> Tensor:
        seen.append((images != case.photos.images).any(1))
        return torch.zeros(len(images), 3)

    object.__setattr__(case.photos, "score", type(case.photos.score)(keep, case.photos.score.target, 4))
    faithfulness.compute_road(case)
    removed = torch.cat(seen)
    heat = case.surface[0].numpy()
    for k, percentile in enumerate(faithfulness.ROAD_PERCENTILES):
        assert np.array_equal(removed[k].numpy(), heat >= np.percentile(heat, percentile))
        assert np.array_equal(removed[9 + k].numpy(), -heat >= np.percentile(-heat, percentile))


def test_sensitivity_and_infidelity_of_exact_evidence() -> None:
    # The logit is linear in the pixels, so the map of contributions predicts every fall exactly.
    case = make_case()
    assert regions.sensitivity_n(case, "mean").min() > 0.999
    assert regions.infidelity(case, "mean").max() < 1e-3
    assert torch.allclose(regions.infidelity(make_case(7 * case.maps), "mean"), regions.infidelity(case, "mean"))
    assert regions.infidelity(make_case(torch.zeros(3, 7, 7)), "mean").tolist() == [1, 1, 1]


def test_irof_orders_segments_by_their_mean() -> None:
    segments = torch.tensor([[[0, 0, 1], [2, 2, 1]]])
    surface = torch.tensor([[[1.0, 2.0, 5.0], [0.0, 1.0, 4.0]]])
    places, counts = regions.rank_segments(surface, segments)
    assert places.tolist() == [[1, 0, 2]]
    assert counts.tolist() == [3]


def test_pixel_flipping_by_hand() -> None:
    case = make_case(make_true(1), images=make_images(1))
    patch = regions._patch_grid(case.photos)
    sums = torch.stack([case.surface[0][patch == k].sum() for k in range(regions.SIDE**2)])
    order, falls = sums.argsort(descending=True), []
    for k in range(1, STEPS + 1):
        gone = torch.isin(patch, order[: round(k * round(0.3 * len(order)) / STEPS)])
        after = case.photos.score.run(torch.where(gone, 0.0, case.photos.images)).softmax(1)[0, 0]
        falls.append(float(case.photos.clean[0, 0] - after))
    assert abs(float(regions.pixel_flipping(case, "mean")[0]) - np.mean(falls)) < 1e-5


def make_net() -> nn.Sequential:
    torch.manual_seed(1)
    body = [nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


def ask_net(net: nn.Module, images: Tensor, maps: Tensor, target: Tensor) -> Case:
    from whycam.metrics.case import Photos, Score

    score = Score(lambda batch: net(batch).detach(), target)
    return Case(Photos(images, score, [None] * len(images), (), lambda *_: {}, net, -torch.ones(3)), maps)


@pytest.mark.oracle
def test_torchcam_has_the_same_areas() -> None:
    from torchcam.methods import CAM
    from torchcam.metrics import DeletionInsertionMetric

    net, images = make_net(), torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    with CAM(net, target_layer="3", fc_layer="6") as extractor:
        theirs = DeletionInsertionMetric(extractor, lambda out: out.softmax(-1), steps=STEPS)
        theirs.update(images)
        target = net(images).argmax(1)
        maps = extractor(target.tolist(), net(images))[0].detach()
    # torchcam resizes with half-pixel centres too; 1,600 pixels divide into 20 steps, so its steps are ours.
    case = ask_net(net, images, maps, target)
    found = theirs.summary()
    assert abs(float(faithfulness.deletion_auc(case, "mean").mean()) - found["deletion_auc"]) < 1e-4
    assert abs(float(faithfulness.insertion_auc(case, "mean").mean()) - found["insertion_auc"]) < 1e-4


@pytest.mark.oracle
def test_grad_cam_has_the_same_road(monkeypatch: pytest.MonkeyPatch) -> None:
    from pytorch_grad_cam.metrics import road
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    # Without noise, and on a map without equal values: with them grad-cam removes more pixels than its percentile says.
    monkeypatch.setattr(faithfulness, "NOISE", 0.0)
    monkeypatch.setattr(road.NoisyLinearImputer.__init__, "__defaults__", (0.0, road.neighbors_weights))
    net, images = make_net(), torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    maps, target = make_random(1), net(images).argmax(1)
    theirs = road.ROADCombined()(images, maps.numpy(), [ClassifierOutputSoftmaxTarget(int(target))], net)
    ours = faithfulness.road_combined(ask_net(net, images, maps, target))
    assert abs(float(ours[0]) - float(theirs[0])) < 1e-4
