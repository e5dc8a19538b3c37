"""What photos prove of a limit: bounds that hold with 95 %, and the one rule that all guards decide by."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import scipy

# The confidence of each of the two bounds.
LEVEL = 0.95
_DRAWS, _SEED = 20_000, 0
# So many numbers at a time: the draws for 1,000 photos would else take 160 MB.
_CHUNK = 4_000_000
_MOST_NEEDED = 1_000_000


class State(StrEnum):
    """What becomes of a guard."""

    HOLDS = "holds"
    BROKEN = "broken"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Bounds:
    """A mean in [0, 1] over photos.

    Attributes:
        value: of these photos.
        low: what it is at the least in all such photos.
        high: what it is at the most.
        photos: how many.
        level: the confidence of each of the two.
        deviation: of the numbers.
        is_share: of photos; else a mean of other numbers.
    """

    value: float
    low: float
    high: float
    photos: int
    level: float = LEVEL
    deviation: float = 0.0
    is_share: bool = False

    def decide(self, limit: float) -> State:
        """Broken where even the upper bound is under the limit; holds where the lower one reaches it."""
        if self.high < limit:
            return State.BROKEN
        return State.HOLDS if self.low >= limit else State.INCONCLUSIVE

    def estimate_needed(self, limit: float) -> int | None:
        """About how many photos would tell, if more of them had this value; None where a million would not."""
        if self.value == limit:
            return None
        if self.is_share:
            tried = np.unique(np.geomspace(self.photos, _MOST_NEEDED, 400).astype(int))
            low, high = bound_share(self.value * tried, tried, self.level)
            enough = tried[low >= limit if self.value > limit else high < limit]
            return int(enough[0]) if len(enough) else None
        # A bound is as far away as z x deviation / sqrt(n), and c / n further: c is found by these photos.
        gap = abs(limit - self.value)
        reach = float(scipy.stats.norm.ppf(self.level)) * self.deviation
        width = self.value - self.low if self.value > limit else self.high - self.value
        rest = max(0.0, self.photos * width - reach * self.photos**0.5)
        needed = ((reach + (reach**2 + 4 * gap * rest) ** 0.5) / (2 * gap)) ** 2
        return int(np.ceil(needed)) if needed <= _MOST_NEEDED else None


def bound_share(hits: Any, photos: Any, level: float) -> tuple[Any, Any]:
    """Clopper's and Pearson's bounds (1934) of a share of photos, each with that confidence; numbers or arrays."""
    low = np.where(np.equal(hits, 0), 0.0, scipy.stats.beta.ppf(1 - level, hits, photos - hits + 1))
    high = np.where(np.equal(hits, photos), 1.0, scipy.stats.beta.ppf(level, hits + 1, photos - hits))
    return low, high


def find_bounds(values: np.ndarray, level: float = LEVEL) -> Bounds:
    """The bounds of the mean of numbers (N,) in [0, 1], one a photo, each with that confidence.

    Of zeros and ones, a share of photos, they are Clopper's and Pearson's: exact for independent photos, however few.
    Of other numbers they are Gaffke's (2005; Learned-Miller and Thomas, arXiv:1905.06208, who conjecture that they hold
    for every distribution; benchmarks/results/guard.md tells how often they do here): the weights of the sorted values,
    and of 1, are drawn as the gaps between N random points in [0, 1]; the upper bound is the percentile of the weighted
    sums, the lower one likewise with 0 in the place of 1. Of zeros and ones that is Clopper's and Pearson's again. The
    draws have a seed of their own: the same photos have the same bounds.
    """
    values = np.sort(np.asarray(values, float))  # so that their order changes nothing
    mean, count, is_share = float(values.mean()), len(values), bool(np.isin(values, (0, 1)).all())
    if is_share:
        low, high = map(float, bound_share(values.sum(), count, level))
    else:
        low, high = bound_mean(values, level)
    # Rounding might put an end outside of [0, 1], or the mean of equal values outside of its bounds.
    ends = max(0.0, min(low, mean)), min(1.0, max(high, mean))
    return Bounds(mean, *ends, count, level, float(values.std()), is_share)


def bound_mean(values: np.ndarray, level: float) -> tuple[float, float]:
    """Gaffke's bounds of the mean of sorted numbers (N,) in [0, 1], each with that confidence; see `find_bounds`."""
    draw, left = np.random.default_rng(_SEED), _DRAWS
    ends = np.stack([np.append(0.0, values), np.append(values, 1.0)], axis=1)
    sums = []
    while left:
        rows = min(left, max(1, _CHUNK // len(ends)))
        gaps = draw.standard_exponential((rows, len(ends)))
        sums.append(gaps @ ends / gaps.sum(1, keepdims=True))
        left -= rows
    low, high = np.concatenate(sums).T
    return float(np.quantile(low, 1 - level)), float(np.quantile(high, level))


def share_level(groups: int) -> tuple[float, float]:
    """The confidence for all photos together and for each group's, so that with 95 % all bounds hold (Bonferroni).

    One half of what may go wrong is for all photos, the other for the groups together.
    """
    half = (1 - LEVEL) / 2
    return 1 - half, 1 - half / groups
