"""Does the map show what the score depends on? Pixels are taken away or brought back, and the score is watched.

Scores are probabilities of the explained class; every variant of every photo goes through the network in full batches.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from whycam.metrics.case import Case, Photos, correlate
from whycam.metrics.curves import trace
from whycam.metrics.imputation import NOISE, impute
from whycam.metrics.registry import metric

STEPS = 20
ROAD_PERCENTILES = (10, 20, 30, 40, 50, 60, 70, 80, 90)
_ARCC_PERCENTILES = (20, 40, 60, 80)
_TINY = 1e-8
# Of what is imputed, in the images' unit: a tenth of the noise that is added.
_IMPUTED_WITHIN = NOISE / 10
_STEPS_NOTE = f"{STEPS} steps of equal size; equal pixels in random order."


def count_steps(pixels: int, steps: int = STEPS) -> Tensor:
    """(steps + 1,): how many pixels have changed at each point of a curve, from none to all."""
    return torch.linspace(0, pixels, steps + 1, dtype=torch.float64).round().long()


def compute_curve(
    case: Case, first: Callable[[], Tensor], second: Callable[[], Tensor], ends: tuple[Tensor, Tensor]
) -> Tensor:
    """(N, STEPS + 1): probabilities as the pixels of `first` turn into those of `second`, the most relevant first.

    Args:
        case: its ranks are the order.
        first: images (N, 3, H, W).
        second: likewise.
        ends: (N,) probabilities of `first` and `second`, which are not computed again.
    """
    photos, counts = case.photos, count_steps(case.ranks.shape[1])
    before, after = first(), second()
    places = case.ranks.view(len(case), 1, *photos.size)

    def make(rows: Tensor, steps: Tensor) -> Tensor:
        is_changed = places[rows] < counts[steps].to(rows.device).view(-1, 1, 1, 1)
        return torch.where(is_changed, after[rows], before[rows])

    known = before.new_full((len(case), STEPS + 1), torch.nan)
    known[:, 0], known[:, -1] = ends
    return trace(photos.score, make, known, torch.full((len(case),), STEPS), photos.tolerance)


def compute_auc(curve: Tensor) -> Tensor:
    """(N,): area under a curve (N, points) over the share of pixels changed, by trapezoids."""
    return torch.trapezoid(curve, dx=1 / (curve.shape[1] - 1), dim=1)


@metric(
    "insertion-auc",
    better="higher",
    category="faithfulness",
    paper="arXiv:1806.07421, sec. 4.2",
    differs=_STEPS_NOTE,
    baselines=("blur", "mean", "zero"),
)
def insertion_auc(case: Case, baseline: str) -> Tensor:
    """Area under the probability as the baseline's pixels turn into the photo's, the most relevant first."""
    photos = case.photos
    ends = (photos.empty(baseline)[:, 0], photos.clean[:, 0])
    return compute_auc(compute_curve(case, lambda: photos.baseline(baseline), lambda: photos.images, ends))


@metric(
    "deletion-auc",
    better="lower",
    category="faithfulness",
    paper="arXiv:1806.07421, sec. 4.2",
    differs=_STEPS_NOTE,
    baselines=("mean", "blur", "zero"),
)
def deletion_auc(case: Case, baseline: str) -> Tensor:
    """Area under the probability as the photo's pixels turn into the baseline's, the most relevant first."""
    return compute_auc(_delete(case, baseline))


def _delete(case: Case, baseline: str) -> Tensor:
    photos = case.photos
    ends = (photos.clean[:, 0], photos.empty(baseline)[:, 0])
    return compute_curve(case, lambda: photos.images, lambda: photos.baseline(baseline), ends)


def _mask(case: Case, baseline: str) -> Tensor:
    """(N, 3, H, W): the photo where the heat is 1, the baseline where it is 0, mixed between."""
    return torch.lerp(case.photos.baseline(baseline), case.photos.images, case.heatmaps[:, None])


def _score_masked(case: Case, baseline: str) -> Tensor:
    """(N,): probability of the masked photos."""
    return case.once(
        ("masked", baseline),
        lambda: case.photos.score.sweep(lambda rows, _: _mask(case, baseline)[rows], 1)[:, 0, 0],
    )


@metric(
    "average-drop",
    better="lower",
    category="faithfulness",
    paper="arXiv:1710.11063, sec. 4.1",
    differs="A share, not percent.",
    baselines=("mean", "blur", "zero"),
)
def average_drop(case: Case, baseline: str) -> Tensor:
    """max(0, p - p') / p, p' the probability of the photo times its heatmap; a map of ones scores 0, the best."""
    clean = case.photos.clean[:, 0]
    return (clean - _score_masked(case, baseline)).clamp(min=0) / clean.clamp(min=_TINY)


@metric(
    "average-increase",
    better="higher",
    category="faithfulness",
    paper="arXiv:1710.11063, sec. 4.1",
    differs="A share, not percent.",
    baselines=("mean", "blur", "zero"),
)
def average_increase(case: Case, baseline: str) -> Tensor:
    """1 where the photo times its heatmap has a higher probability than the photo, else 0."""
    return (_score_masked(case, baseline) > case.photos.clean[:, 0]).float()


@metric(
    "average-gain",
    better="higher",
    category="faithfulness",
    paper="arXiv:2301.07002, eq. 10",
    differs="A share, not percent.",
    baselines=("mean", "blur", "zero"),
)
def average_gain(case: Case, baseline: str) -> Tensor:
    """max(0, p' - p) / (1 - p), p' as in average-drop."""
    clean = case.photos.clean[:, 0]
    return (_score_masked(case, baseline) - clean).clamp(min=0) / (1 - clean).clamp(min=_TINY)


def _harmonic(*shares: Tensor) -> Tensor:
    """(N,): the harmonic mean of shares in [0, 1]; 0 where one of them is."""
    stacked = torch.stack(shares)
    return torch.where((stacked > 0).all(0), len(shares) / (1 / stacked.clamp(min=_TINY)).sum(0), 0.0)


def _coherency(case: Case, baseline: str) -> Tensor:
    """(N,) in [0, 1]: how much the map of the masked photo is the photo's own; 1/2, no relation, where one is flat."""
    again = case.once(("again", baseline), lambda: case.explain(_mask(case, baseline)))
    if again.shape != case.maps.shape:
        raise RuntimeError(f"The maps of a masked photo are {tuple(again.shape)}; expected {tuple(case.maps.shape)}.")
    related = correlate(again.clamp(min=0).flatten(1), case.maps.clamp(min=0).flatten(1))
    return (related.nan_to_num(0.0) + 1) / 2


@metric(
    "adcc",
    better="higher",
    category="faithfulness",
    paper="arXiv:2104.10252, eq. 5",
    differs="Coherency compares the maps' cells, before the resize.",
    baselines=("mean", "blur", "zero"),
    is_quick=False,
)
def adcc(case: Case, baseline: str) -> Tensor:
    """Harmonic mean of coherency, 1 - complexity (mean heat) and 1 - average drop."""
    sparse = 1 - case.heatmaps.mean(dim=(1, 2))
    return _harmonic(_coherency(case, baseline), sparse, 1 - average_drop(case, baseline))


@metric(
    "arcc",
    better="higher",
    category="faithfulness",
    paper="arXiv:2605.14641",
    differs="Coherency compares the maps' cells, before the resize.",
    baselines=("mean", "blur", "zero"),
    is_quick=False,
)
def arcc(case: Case, baseline: str) -> Tensor:
    """As adcc with twice road-combined, of percentiles 20, 40, 60 and 80, in [0, 1], in 1 - average drop's place."""
    at = [ROAD_PERCENTILES.index(p) for p in _ARCC_PERCENTILES]
    kept = (2 * _combine(compute_road(case)[:, :, at])).clamp(0, 1)
    return _harmonic(_coherency(case, baseline), 1 - case.heatmaps.mean(dim=(1, 2)), kept)


def compute_road(case: Case) -> Tensor:
    """(N, 2, percentiles): the change of probability when the most, and the least, relevant pixels are imputed.

    At percentile q all pixels from the q-th percentile of relevance on are removed: 90 % of them at 10, 10 % at 90.
    """
    return case.once("road", lambda: _compute_road(case))


def _compute_road(case: Case) -> Tensor:
    photos, count, points = case.photos, case.ranks.shape[1], len(ROAD_PERCENTILES)
    removed = torch.tensor([count - -(-q * (count - 1) // 100) for q in ROAD_PERCENTILES]).to(case.ranks.device)
    noise = photos.once("noise", lambda: _draw_noise(photos))

    def score(*, is_most: bool) -> Tensor:
        def make(rows: Tensor, steps: Tensor) -> Tensor:
            places, much = case.ranks[rows], removed[steps, None]
            is_removed = (places < much if is_most else places >= count - much).view(-1, *photos.size)
            filled = impute(photos.images[rows], is_removed, tolerance=_IMPUTED_WITHIN)
            return filled + noise[rows] * is_removed[:, None]

        known = photos.images.new_full((len(case), points), torch.nan)
        return trace(photos.score, make, known, torch.full((len(case),), points - 1), photos.tolerance)

    return torch.stack([score(is_most=True), score(is_most=False)], dim=1) - photos.clean[:, :1, None]


def _draw_noise(photos: Photos) -> Tensor:
    drawn = [torch.randn(photos.images.shape[1:], generator=g) for g in photos.generators("road noise")]
    return NOISE * torch.stack(drawn).to(photos.images)


def _combine(road: Tensor) -> Tensor:
    return (road[:, 1] - road[:, 0]).mean(1) / 2


_ROAD_NOTE = "One photo's change of probability, not the accuracy of many; one draw of noise for all percentiles."


@metric(
    "road-combined",
    better="higher",
    category="faithfulness",
    paper="arXiv:2202.00449, sec. 4",
    differs=_ROAD_NOTE,
    is_quick=False,
)
def road_combined(case: Case) -> Tensor:
    """Half of road-lerf - road-morf, over percentiles 10 to 90."""
    return _combine(compute_road(case))


@metric(
    "road-morf",
    better="lower",
    category="faithfulness",
    paper="arXiv:2202.00449, sec. 4",
    differs=_ROAD_NOTE,
    is_quick=False,
)
def road_morf(case: Case) -> Tensor:
    """Change of probability when the most relevant pixels are imputed, over percentiles 10 to 90."""
    return compute_road(case)[:, 0].mean(1)


@metric(
    "road-lerf",
    better="higher",
    category="faithfulness",
    paper="arXiv:2202.00449, sec. 4",
    differs=_ROAD_NOTE,
    is_quick=False,
)
def road_lerf(case: Case) -> Tensor:
    """Change of probability when the least relevant pixels are imputed, over percentiles 10 to 90."""
    return compute_road(case)[:, 1].mean(1)
