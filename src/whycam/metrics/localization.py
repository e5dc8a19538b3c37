"""Does the map find the object? Boxes and masks against maps, in pixels of the network's input.

Boxes and pixels follow wsolevaluation (arXiv:2007.04178): raw maps, bicubic to the input, minimum to 0, maximum to 1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy
import torch
from torch import Tensor

from whycam.data.annotations import Truth
from whycam.metrics.case import Case, resize
from whycam.metrics.pooling import Pool
from whycam.metrics.registry import metric

THRESHOLDS = np.arange(0, 1, 0.01)
OVERLAPS = (0.3, 0.5, 0.7)
PAPER_THRESHOLD = 0.2
TOLERANCE_PX = 15
_BINS = 1000
_EIGHT = np.ones((3, 3))
_PROTOCOL = "thresholds of 0.01; parts are 8-connected pixels, the largest by pixels with its holes"


def make_scoremaps(maps: Tensor, size: tuple[int, int]) -> np.ndarray:
    """(N, H, W) in [0, 1] of raw maps (N, h, w): bicubic, minimum to 0, maximum to 1; a constant map is all 0."""
    grown = resize(maps.float(), size, "bicubic").cpu().numpy()
    low, high = grown.min(axis=(1, 2), keepdims=True), grown.max(axis=(1, 2), keepdims=True)
    return np.asarray((grown - low) / np.where(high > low, high - low, 1), dtype=np.float32)


def _scoremaps(case: Case) -> np.ndarray:
    return case.once("scoremaps", lambda: make_scoremaps(case.maps, case.photos.size))


def find_parts(scoremap: np.ndarray, threshold: float) -> np.ndarray:
    """(B, 4): boxes of the connected parts above a share of the maximum, the largest first, inclusive corners.

    The score map is taken in 256 levels; x1 and y1 are one past the last pixel, but within the image.
    """
    levels = (scoremap * 255).astype(np.uint8)
    parts, count = scipy.ndimage.label(levels > int(threshold * levels.max()), structure=_EIGHT)
    if not count:
        return np.zeros((1, 4), dtype=np.int64)
    slices = scipy.ndimage.find_objects(parts)
    height, width = scoremap.shape
    corners = [(x.start, y.start, min(x.stop, width - 1), min(y.stop, height - 1)) for y, x in slices]
    boxes = np.array(corners, dtype=np.int64)
    return boxes[np.argsort(-_count_pixels(parts, slices), kind="stable")]


def _count_pixels(parts: np.ndarray, slices: list[tuple[slice, slice]]) -> np.ndarray:
    """Pixels of each part with its holes; parts whose boxes can't be the largest are not filled."""
    plain = np.bincount(parts.ravel())[1:]
    if len(plain) == 1:
        return plain
    room = np.array([(y.stop - y.start) * (x.stop - x.start) for y, x in slices])
    for k in np.flatnonzero(room > plain.max()):
        plain[k] = scipy.ndimage.binary_fill_holes(parts[slices[k]] == k + 1).sum()
    return plain


def measure_overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(A, B): intersection over union of boxes (A, 4) and (B, 4), corners inclusive."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = (high - low + 1).clip(0).prod(axis=2)
    areas = [(b[:, 2:] - b[:, :2] + 1).prod(axis=1) for b in (boxes, others)]
    return np.asarray(shared / (areas[0][:, None] + areas[1][None] - shared))


def compute_overlaps(scoremap: np.ndarray, truth: np.ndarray, thresholds: np.ndarray = THRESHOLDS) -> np.ndarray:
    """(2, thresholds): best overlap with any true box of the largest part's box, and of any part's box.

    Args:
        scoremap: (H, W) in [0, 1].
        truth: (B, 4) in pixels, whole numbers.
        thresholds: shares of the maximum.
    """
    found = np.zeros((2, len(thresholds)))
    for k, threshold in enumerate(thresholds):
        overlaps = measure_overlap(find_parts(scoremap, threshold), truth).max(axis=1)
        found[:, k] = overlaps[0], overlaps.max()
    return found


def _each(
    case: Case, compute: Callable[[int, Truth], object], shape: tuple[int, ...] = (), needs: str = "region"
) -> Tensor:
    """(N, *shape): what `compute` gives of each photo and its truth; NaN where it is not known."""
    rows = np.full((len(case), *shape), np.nan)
    for i, truth in enumerate(case.photos.truths):
        if truth is not None and (needs != "mask" or truth.mask is not None):
            rows[i] = compute(i, truth)
    return torch.from_numpy(rows)


def _overlaps(case: Case) -> Tensor:
    """(N, 2, thresholds): see `compute_overlaps`."""
    return case.once(
        "overlaps",
        lambda: _each(
            case,
            lambda i, truth: compute_overlaps(_scoremaps(case)[i], truth.boxes.astype(np.int64)),
            (2, len(THRESHOLDS)),
        ),
    )


def _hit(overlaps: Tensor, least: float) -> Tensor:
    """1 where an overlap reaches `least`, else 0; NaN stays."""
    return torch.where(overlaps.isnan(), overlaps, (overlaps >= least).double())


def _finish_best(means: np.ndarray) -> np.ndarray:
    """(R,): mean over overlaps of the best threshold's share of hits; means (R, overlaps, thresholds)."""
    return np.asarray(means.max(axis=2).mean(axis=1))


def _each_best(rows: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """(N,): each photo's hits at the thresholds that are best for all photos; their mean is the pooled number."""
    best = whole.argmax(axis=1)
    return np.asarray(np.stack([rows[:, k, t] for k, t in enumerate(best)], axis=1).mean(axis=1))


BEST_THRESHOLD = Pool(_finish_best, _each_best)


@metric(
    "max-box-acc",
    better="higher",
    category="localization",
    paper="arXiv:2001.07437, eq. 3",
    differs=_PROTOCOL,
    pool=BEST_THRESHOLD,
    needs="boxes",
)
def max_box_acc(case: Case) -> Tensor:
    """Whether the largest part's box overlaps a true box by half, at the threshold that is best over all photos."""
    return _hit(_overlaps(case)[:, :1], 0.5)


@metric(
    "max-box-acc-v2",
    better="higher",
    category="localization",
    paper="arXiv:2007.04178, sec. 3",
    differs=_PROTOCOL,
    pool=BEST_THRESHOLD,
    needs="boxes",
)
def max_box_acc_v2(case: Case) -> Tensor:
    """Whether any part's box overlaps a true box, mean of overlaps 0.3, 0.5, 0.7, each at its own best threshold."""
    return torch.stack([_hit(_overlaps(case)[:, 1], least) for least in OVERLAPS], dim=1)


def _fixed(case: Case) -> Tensor:
    at = int(np.abs(THRESHOLDS - PAPER_THRESHOLD).argmin())
    return _hit(_overlaps(case)[:, 0, at], 0.5)


@metric(
    "gt-known-loc",
    better="higher",
    category="localization",
    paper="arXiv:1512.04150, sec. 3.2",
    differs=f"Of the class asked for, minimum to 0 first; {_PROTOCOL}",
    needs="boxes",
)
def gt_known_loc(case: Case) -> Tensor:
    """Whether the box of the largest part over 20 % of the maximum overlaps a true box by half."""
    return _fixed(case)


@metric("top1-loc", better="higher", category="localization", paper="arXiv:1512.04150, sec. 3.2", needs="boxes")
def top1_loc(case: Case) -> Tensor:
    """As gt-known-loc, and the first prediction is right; not defined without labels."""
    return _fixed(case) * _hits(case, 0)


@metric(
    "top5-loc",
    better="higher",
    category="localization",
    paper="arXiv:1512.04150, sec. 3.2",
    differs="The box is the true class's, which the paper draws for each of the five.",
    needs="boxes",
)
def top5_loc(case: Case) -> Tensor:
    """As gt-known-loc, and the true class is among the first five predictions; not defined without labels."""
    return _fixed(case) * _hits(case, 1)


def _hits(case: Case, which: int) -> Tensor:
    hits = case.photos.hits
    return torch.full((len(case),), torch.nan) if hits is None else hits[:, which].double().cpu()


@metric(
    "pointing-game",
    better="higher",
    category="localization",
    paper="arXiv:1608.00507, sec. 4.1",
    differs="The mean over photos, not classes; 15 px of the network's input; equal maxima in random order.",
    needs="region",
)
def pointing_game(case: Case) -> Tensor:
    """Whether the maximum lies within 15 pixels of the object."""
    scoremaps = _scoremaps(case)
    shuffle = case.photos.shuffle.cpu().numpy()

    def point(i: int, truth: Truth) -> bool:
        # The first of the equal maxima in the photo's random order.
        at = shuffle[i][scoremaps[i].ravel()[shuffle[i]].argmax()]
        return is_near(truth.region, divmod(int(at), truth.size[1]))

    return _each(case, point)


def is_near(region: np.ndarray, point: tuple[int, int], reach_px: float = TOLERANCE_PX) -> bool:
    """Whether a pixel (y, x) lies less than `reach_px` from the region (H, W), or in it."""
    rows, columns = np.nonzero(region)
    square = (rows - point[0]) ** 2 + (columns - point[1]) ** 2
    return bool(len(square) and square.min() < reach_px**2)


@metric("mass-in-mask", better="higher", category="localization", paper="arXiv:2003.07258, sec. 4.2", needs="region")
def mass_in_mask(case: Case) -> Tensor:
    """The share of the heat that lies on the object (energy pointing game: arXiv:1910.01279); 0 without any heat."""
    heat = case.heatmaps.double().cpu().numpy()
    return _each(case, lambda i, truth: heat[i][truth.region].sum() / (heat[i].sum() or 1))


@metric("rank-accuracy", better="higher", category="localization", paper="arXiv:2003.07258, sec. 4.2", needs="region")
def rank_accuracy(case: Case) -> Tensor:
    """The share of the P most relevant pixels that lie on the object of P pixels."""
    ranks = case.ranks.cpu().numpy()
    return _each(case, lambda i, truth: (ranks[i][truth.region.ravel()] < truth.region.sum()).mean())


@metric(
    "mask-iou",
    better="higher",
    category="localization",
    paper="arXiv:2007.04178, sec. 3",
    differs="Of one threshold, 20 % of the maximum, a photo at a time.",
    needs="region",
)
def mask_iou(case: Case) -> Tensor:
    """Intersection over union of the pixels over 20 % of the maximum with the object."""
    scoremaps = _scoremaps(case)

    def measure(i: int, truth: Truth) -> float:
        found = scoremaps[i] > PAPER_THRESHOLD
        return float((found & truth.region).sum() / (found | truth.region).sum())

    return _each(case, measure)


def _finish_precision(means: np.ndarray) -> np.ndarray:
    """(R,): the average precision of histograms (R, 2, bins) of scores on and off the object."""
    on, off = (np.cumsum(means[:, k, ::-1], axis=1) for k in (0, 1))
    precision = on / np.maximum(on + off, np.finfo(float).tiny)
    recall = on / np.maximum(on[:, -1:], np.finfo(float).tiny)
    return np.asarray((precision * np.diff(recall, axis=1, prepend=0)).sum(axis=1))


def _each_precision(rows: np.ndarray, _whole: np.ndarray) -> np.ndarray:
    return _finish_precision(rows)


@metric(
    "px-ap",
    better="higher",
    category="localization",
    paper="arXiv:2007.04178, eq. 5",
    differs="Nothing is ignored; a photo's own number is the average precision of its pixels alone.",
    pool=Pool(_finish_precision, _each_precision),
    needs="mask",
)
def px_ap(case: Case) -> Tensor:
    """Average precision of the pixels of all photos together; 0.001 wide steps of the score."""
    scoremaps = _scoremaps(case)

    def count(i: int, truth: Truth) -> np.ndarray:
        bins = (scoremaps[i] * _BINS).astype(np.int64).clip(0, _BINS)
        return np.stack([np.bincount(bins[truth.region == side], minlength=_BINS + 1) for side in (True, False)])

    return _each(case, count, (2, _BINS + 1), needs="mask")
