"""Two classifiers on the same photos: the difference of their accuracies, and what of it is more than chance.

Only photos on which one is right and the other is not tell them apart; `lost` and `gained` count these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from whycam.metrics.pooling import LEVEL

# What is less likely than this by chance is called clear.
ALPHA = 1 - LEVEL


@dataclass(frozen=True)
class Change:
    """How often something holds for A and for B, over the same photos.

    Attributes:
        photos: N.
        lost: photos of which it holds for A alone.
        gained: photos of which it holds for B alone.
        value: share for B less share for A: (gained - lost) / N.
        low: lower end of its 95 % interval (Tango); -1 without photos.
        high: upper end; 1 without photos.
        p: McNemar's exact p, two-sided.
    """

    photos: int
    lost: int
    gained: int
    value: float
    low: float
    high: float
    p: float

    @property
    def is_clear(self) -> bool:
        """Whether chance over photos is no explanation."""
        return self.p < ALPHA


def measure_change(holds_a: np.ndarray, holds_b: np.ndarray) -> Change:
    """What changes from A to B; both (N,) bool."""
    photos = len(holds_a)
    lost, gained = int((holds_a & ~holds_b).sum()), int((holds_b & ~holds_a).sum())
    low, high = find_interval(lost, gained, photos)
    return Change(photos, lost, gained, (gained - lost) / max(photos, 1), low, high, find_p(lost, gained))


def find_p(lost: int, gained: int) -> float:
    """McNemar's exact p: of photos that change, as many are lost as gained where there is no difference; 1 for none."""
    return float(scipy.stats.binomtest(gained, lost + gained, 0.5).pvalue) if lost + gained else 1.0


def find_interval(lost: int, gained: int, photos: int) -> tuple[float, float]:
    """The 95 % interval of (gained - lost) / photos: those differences that a score test does not reject.

    Paper: Tango, Statistics in Medicine 17:891 (1998), eq. 5-7. It is right also where nothing changes, or all does.
    """
    if not photos:
        return -1.0, 1.0
    z = float(scipy.stats.norm.ppf(1 - ALPHA / 2))

    def measure(difference: float) -> float:
        """The score statistic at that difference; it falls."""
        a, c = 2 * photos, -lost * difference * (1 - difference)
        b = -gained - lost + (2 * photos - gained + lost) * difference
        least = (np.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)  # the likeliest share of lost ones
        variance = photos * (2 * least + difference * (1 - difference))
        return float((gained - lost - photos * difference) / np.sqrt(max(variance, 1e-300)))

    value, edge = (gained - lost) / photos, 1 - 1e-9
    low = scipy.optimize.brentq(lambda d: measure(d) - z, -edge, value) if measure(-edge) > z else -1.0
    high = scipy.optimize.brentq(lambda d: measure(d) + z, value, edge) if measure(edge) < -z else 1.0
    return float(low), float(high)


def correct(chances: Sequence[float]) -> list[float]:
    """The p of several tests, each corrected for all of them (Holm, Scandinavian Journal of Statistics 6:65, 1979)."""
    order = np.argsort(chances, kind="stable")
    raised = np.array(chances)[order] * (len(order) - np.arange(len(order)))
    corrected = np.empty(len(order))
    corrected[order] = np.maximum.accumulate(raised).clip(max=1)
    return [float(p) for p in corrected]
