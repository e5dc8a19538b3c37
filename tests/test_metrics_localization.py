"""Localisation by hand, and against wsolevaluation's rules written out with OpenCV."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from metric_cases import PLACE, SIDE, make_case, make_mask, make_photos
from whycam.data.annotations import Truth
from whycam.metrics import localization
from whycam.metrics.case import Case
from whycam.metrics.pooling import estimate


def test_overlap_counts_the_corners() -> None:
    one, other = np.array([[0, 0, 9, 9]]), np.array([[5, 0, 14, 9], [0, 0, 9, 9], [20, 20, 30, 30]])
    assert localization.measure_overlap(one, other)[0].tolist() == [50 / 150, 1.0, 0.0]


def test_parts_the_largest_first_with_its_hole() -> None:
    score = np.zeros((20, 20), dtype=np.float32)
    score[1:8, 1:8] = 0.5
    score[2:7, 2:7] = 0.0  # a ring of 24 pixels around a hole of 25
    score[10:16, 12:18] = 1.0  # 36 pixels
    assert localization.find_parts(score, 0.2).tolist() == [[1, 1, 8, 8], [12, 10, 18, 16]]
    assert localization.find_parts(score, 0.6).tolist() == [[12, 10, 18, 16]]
    assert localization.find_parts(np.zeros((20, 20)), 0.2).tolist() == [[0, 0, 0, 0]]


def test_scoremaps_run_from_0_to_1_and_constant_ones_are_0() -> None:
    maps = torch.stack([torch.arange(16.0).view(4, 4) - 9, torch.full((4, 4), 3.0)])
    found = localization.make_scoremaps(maps, (8, 8))
    assert (found[0].min(), found[0].max()) == (0, 1)
    assert not found[1].any()


def test_the_mask_itself_is_found() -> None:
    case = make_case(make_mask().float().expand(3, -1, -1))
    for run in (localization.gt_known_loc, localization.top1_loc, localization.top5_loc, localization.pointing_game):
        assert run(case).tolist() == [1, 1, 1]
    for run in (localization.mass_in_mask, localization.rank_accuracy, localization.mask_iou):
        assert run(case).tolist() == [1, 1, 1]
    assert estimate(localization.max_box_acc(case).numpy(), localization.BEST_THRESHOLD).value == 1


def test_shares_by_hand() -> None:
    # The upper half of the mask, and as many pixels outside.
    x0, y0, x1, y1 = PLACE
    maps = torch.zeros(1, SIDE, SIDE)
    maps[0, y0 : y0 + 10, x0:x1] = 1
    maps[0, y1 : y1 + 8, 0:15] = 1
    case = Case(make_photos(torch.zeros(1, 3, SIDE, SIDE)), maps)
    assert float(localization.mass_in_mask(case)[0]) == 0.5
    assert float(localization.mask_iou(case)[0]) == pytest.approx(120 / 360)


def test_pointing_within_15_pixels() -> None:
    region = np.zeros((60, 60), dtype=bool)
    region[10:20, 10:20] = True
    assert localization.is_near(region, (15, 33))
    assert not localization.is_near(region, (15, 34))
    assert localization.is_near(region, (29, 29))
    assert not localization.is_near(region, (30, 30))


def test_labels_decide_top_1_and_top_5() -> None:
    maps = make_mask().float().expand(3, -1, -1)
    hits = torch.tensor([[1.0, 1.0], [0.0, 1.0], [torch.nan, torch.nan]])
    case = Case(replace(make_photos(), hits=hits, _kept={}), maps)
    first, five = localization.top1_loc(case), localization.top5_loc(case)
    assert first[:2].tolist() == [1, 0]
    assert five[:2].tolist() == [1, 1]
    assert bool(first[2].isnan())
    assert localization.top1_loc(Case(replace(make_photos(), hits=None, _kept={}), maps)).isnan().all()


def test_pixels_of_all_photos_together() -> None:
    # Four pixels of 4 scores; true ones are the 1st and 3rd: precision 1 at recall 1/2, 2/3 at 1.
    photos = make_photos(torch.zeros(1, 3, 2, 2))
    truth = Truth((2, 2), np.array([[0.0, 0, 1, 1]]), np.array([[True, False], [True, False]]))
    case = Case(replace(photos, truths=[truth], _kept={}), torch.tensor([[[1.0, 0.6], [0.4, 0.0]]]))
    rows = localization.px_ap(case).numpy()
    assert localization._finish_precision(rows)[0] == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)


def wsol_boxes(score: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """The largest contour's box, and those of all, by the rules of the benchmark."""
    cv2 = pytest.importorskip("cv2")
    levels = (score * 255).astype(np.uint8)
    _, binary = cv2.threshold(levels, int(threshold * levels.max()), 255, cv2.THRESH_BINARY)
    contours = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
    if not contours:
        return np.zeros((1, 4)), np.zeros((1, 4))
    height, width = score.shape
    boxes = []
    for x, y, w, h in map(cv2.boundingRect, contours):
        boxes.append((x, y, min(x + w, width - 1), min(y + h, height - 1)))
    largest = int(np.argmax([cv2.contourArea(contour) for contour in contours]))
    return np.array(boxes[largest : largest + 1]), np.array(boxes)


@pytest.mark.oracle
def test_wsolevaluation_finds_the_same_boxes() -> None:
    generator = torch.Generator().manual_seed(4)
    maps = torch.rand(12, 7, 7, generator=generator) ** 2
    scores = localization.make_scoremaps(maps, (224, 224))
    truth = np.array([[40, 30, 160, 150], [150, 100, 210, 200]])
    thresholds = np.arange(0, 1, 0.05)
    largest, anywhere = 0, 0
    for score in scores:
        ours = localization.compute_overlaps(score, truth, thresholds)
        for k, threshold in enumerate(thresholds):
            one, every = (localization.measure_overlap(b, truth).max() for b in wsol_boxes(score, threshold))
            largest += abs(ours[0, k] - one) > 1e-9
            # A hole has a contour there, and no box here.
            anywhere += ours[1, k] > every + 1e-9
    # An area of pixels, here, and one within a line through them, there, may order two parts of one size differently.
    assert largest <= 0.02 * len(scores) * len(thresholds)
    assert anywhere == 0


@pytest.mark.oracle
def test_bicubic_is_opencvs() -> None:
    cv2 = pytest.importorskip("cv2")
    maps = torch.rand(2, 7, 7, generator=torch.Generator().manual_seed(1))
    for ours, cells in zip(localization.make_scoremaps(maps, (224, 224)), maps.numpy(), strict=True):
        theirs = cv2.resize(cells, (224, 224), interpolation=cv2.INTER_CUBIC)
        assert np.abs(ours - (theirs - theirs.min()) / np.ptp(theirs)).max() < 1e-4


@pytest.mark.slow
@pytest.mark.data
def test_boxes_of_photos_reproduce_the_measured_share(photos_dir: Path) -> None:
    from whycam.data.annotations import read_photos
    from whycam.metrics.evaluation import evaluate

    folder = photos_dir / "imagenet_val650"
    photos = read_photos(folder, boxes=folder / "boxes.csv")
    names = ["max-box-acc", "pointing-game"]
    found = evaluate("imagenet", photos, metrics=names, baselines=(), limit=100, engine="torch")
    # Of 1,300 photos 67.0 and 92.5 % were measured; 100 of them are within their interval of it.
    for name, known in zip(names, (0.670, 0.925), strict=True):
        one = found.estimate("cam", name)
        assert one.low - 0.02 < known < one.high + 0.02
