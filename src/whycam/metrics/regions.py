"""Faithfulness by patches and superpixels: what the score loses without them, against what the map says of them."""

from __future__ import annotations

import skimage
import torch
from torch import Tensor

from whycam.metrics.case import Case, Photos, correlate, rank
from whycam.metrics.curves import trace
from whycam.metrics.faithfulness import STEPS, count_steps
from whycam.metrics.registry import metric

_TINY = 1e-8
SIDE = 14
_SEGMENTS = 40
_FLIPPED = 0.3
_SUBSET_SHARES = (0.1, 0.3, 0.5)
_SUBSETS_EACH = 16


def _drop_subsets(photos: Photos, baseline: str) -> tuple[Tensor, Tensor]:
    """Which patches are taken away (N, subsets, patches) bool, and how much the logit falls (N, subsets).

    The same for every map, so they are computed once for all methods.
    """
    return photos.once(("subsets", baseline), lambda: _compute_subsets(photos, baseline))


def _compute_subsets(photos: Photos, baseline: str) -> tuple[Tensor, Tensor]:
    patches = SIDE**2
    sizes = [round(share * patches) for share in _SUBSET_SHARES for _ in range(_SUBSETS_EACH)]
    drawn = [
        torch.stack([torch.randperm(patches, generator=g) < size for size in sizes])
        for g in photos.generators("subsets")
    ]
    subsets = torch.stack(drawn).to(photos.images.device)
    grid = _patch_grid(photos)

    def make(rows: Tensor, steps: Tensor) -> Tensor:
        is_gone = subsets[rows, steps][:, grid][:, None]
        return torch.where(is_gone, photos.baseline(baseline)[rows], photos.images[rows])

    falls = photos.clean[:, 1:] - photos.score.sweep(make, len(sizes))[..., 1]
    return subsets, falls


def _patch_grid(photos: Photos) -> Tensor:
    """(H, W): the patch that each pixel belongs to."""
    rows, columns = (torch.arange(side, device=photos.images.device) * SIDE // side for side in photos.size)
    return rows[:, None] * SIDE + columns


def _sum_patches(case: Case) -> Tensor:
    """(N, patches): the raw map's sum over each patch."""
    grid = _patch_grid(case.photos).flatten()
    sums = case.surface.new_zeros(len(case), SIDE**2)
    return sums.index_add_(1, grid, case.surface.flatten(1))


def _sum_subsets(case: Case, baseline: str) -> tuple[Tensor, Tensor]:
    """The raw map's sum over each subset of patches, (N, subsets), and how much the logit falls without it."""
    subsets, falls = _drop_subsets(case.photos, baseline)
    return torch.einsum("nsp,np->ns", subsets.to(case.surface.dtype), _sum_patches(case)), falls


@metric(
    "sensitivity-n",
    better="higher",
    category="faithfulness",
    paper="arXiv:1711.06104, sec. 4",
    differs=f"n: 10, 30 and 50 % of {SIDE} x {SIDE} patches, {_SUBSETS_EACH} subsets each; a flat map: 0.",
    baselines=("mean", "blur", "zero"),
    is_quick=False,
)
def sensitivity_n(case: Case, baseline: str) -> Tensor:
    """Correlation of the map's sum over a random subset with the fall of the logit without it, mean over n."""
    sums, falls = _sum_subsets(case, baseline)
    pairs = zip(sums.split(_SUBSETS_EACH, dim=1), falls.split(_SUBSETS_EACH, dim=1), strict=True)
    return torch.stack([correlate(a, b).nan_to_num(0.0) for a, b in pairs]).mean(0)


@metric(
    "infidelity",
    better="lower",
    category="faithfulness",
    paper="arXiv:1901.09392, eq. 1 and sec. 4.1",
    differs="The map is scaled to fit best, and the error is a share of the mean squared fall: in [0, 1].",
    baselines=("mean", "blur", "zero"),
    is_quick=False,
)
def infidelity(case: Case, baseline: str) -> Tensor:
    """Squared error of the map's sum over a random subset as a prediction of the fall of the logit without it."""
    sums, falls = (values.double() for values in _sum_subsets(case, baseline))
    scale = (sums * falls).sum(1) / sums.square().sum(1).clamp(min=_TINY)
    error = (scale[:, None] * sums - falls).square().sum(1)
    return error / falls.square().sum(1).clamp(min=_TINY)


def _find_segments(photos: Photos) -> Tensor:
    """(N, H, W): superpixels by SLIC, numbered from 0; the same for every map."""
    return photos.once("segments", lambda: _compute_segments(photos))


def _compute_segments(photos: Photos) -> Tensor:
    found = []
    for image in photos.images.movedim(1, 3).cpu().numpy():
        scaled = (image - image.min()) / ((image.max() - image.min()) or 1)
        found.append(torch.from_numpy(skimage.segmentation.slic(scaled, n_segments=_SEGMENTS, start_label=0)))
    return torch.stack(found).to(photos.images.device)


@metric(
    "irof",
    better="higher",
    category="faithfulness",
    paper="arXiv:2003.08747, sec. 3.3",
    differs=f"About {_SEGMENTS} segments; the area is divided by their number, so that it is at most 1.",
    baselines=("mean", "blur", "zero"),
    is_quick=False,
)
def irof(case: Case, baseline: str) -> Tensor:
    """Area over p(k) / p as superpixels turn into the baseline, that with the highest mean of the map first."""
    photos = case.photos
    segments = _find_segments(photos)
    places, counts = rank_segments(case.surface, segments)

    def make(rows: Tensor, at: Tensor) -> Tensor:
        place = places[rows].gather(1, segments[rows].flatten(1)).view(-1, *photos.size)
        is_gone = place < at.view(-1, 1, 1)
        return torch.where(is_gone[:, None], photos.baseline(baseline)[rows], photos.images[rows])

    known = photos.images.new_full((len(case), int(counts.max()) + 1), torch.nan)
    known[:, 0] = photos.clean[:, 0]
    known[torch.arange(len(case)), counts] = photos.empty(baseline)[:, 0]
    curves = trace(photos.score, make, known, counts, photos.tolerance) / known[:, :1].clamp(min=_TINY)
    shares = zip(curves.clamp(max=1), counts.tolist(), strict=True)
    return torch.stack([1 - torch.trapezoid(curve[: count + 1], dx=1 / count) for curve, count in shares])


def rank_segments(surface: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
    """(N, segments): each segment's place by its mean, 0 the highest; (N,): how many there are."""
    count = int(segments.max()) + 1
    flat = segments.flatten(1)
    sums = surface.new_zeros(len(surface), count).scatter_add_(1, flat, surface.flatten(1))
    sizes = surface.new_zeros(len(surface), count).scatter_add_(1, flat, torch.ones_like(surface).flatten(1))
    means = torch.where(sizes > 0, sums / sizes.clamp(min=1), -torch.inf)
    order = means.argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1), (sizes > 0).sum(1)


@metric(
    "pixel-flipping",
    better="higher",
    category="faithfulness",
    paper="arXiv:1509.06321, eq. 12",
    differs=f"{SIDE} x {SIDE} patches, the first {_FLIPPED:.0%} of them, in {STEPS} steps.",
    baselines=("mean", "blur", "zero"),
    is_quick=False,
)
def pixel_flipping(case: Case, baseline: str) -> Tensor:
    """Mean fall of the probability while the most relevant patches turn into the baseline one after another."""
    photos, grid = case.photos, _patch_grid(case.photos)
    sums = _sum_patches(case)
    shuffle = torch.stack([torch.randperm(sums.shape[1], generator=g) for g in photos.generators("patches")])
    places = rank(sums, shuffle.to(sums.device))
    counts = count_steps(round(_FLIPPED * sums.shape[1])).to(sums.device)

    def make(rows: Tensor, steps: Tensor) -> Tensor:
        is_gone = (places[rows] < counts[steps, None])[:, grid][:, None]
        return torch.where(is_gone, photos.baseline(baseline)[rows], photos.images[rows])

    known = photos.images.new_full((len(case), STEPS + 1), torch.nan)
    known[:, 0] = photos.clean[:, 0]
    curve = trace(photos.score, make, known, torch.full((len(case),), STEPS), photos.tolerance)
    return (photos.clean[:, :1] - curve[:, 1:]).mean(1)
