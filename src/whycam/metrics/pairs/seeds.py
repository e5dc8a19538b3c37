"""Noise of seeds: what two runs of one training differ by, and whether a difference is more than that.

Few runs say little of their own spread: the lines below are those of Student's t, which are wide for few of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import scipy

from whycam.errors import UserError
from whycam.metrics.pairs.paired import ALPHA

LEAST_RUNS = 2
# What is counted in whole photos has at least the spread of rounding.
_ROUNDING = 1 / 12


@dataclass(frozen=True)
class Line:
    """One number of the pair, and what seeds alone give.

    Attributes:
        value: of the pair; where A is one of the runs, of B beside all of them.
        low, high: what another seed gives, but for a chance of `SeedNoise.alpha`.
        usual: the mean over the runs, or over their pairs.
        runs: of each run, or each pair of runs.
    """

    value: float
    low: float
    high: float
    usual: float
    runs: tuple[float, ...]

    @property
    def is_within(self) -> bool:
        """Whether seeds alone explain it; what counts photos is compared to a thousandth of one."""
        return bool(self.low - 1e-9 <= self.value <= self.high + 1e-9)


@dataclass(frozen=True)
class SeedNoise:
    """What of a difference is inside the noise of seeds.

    Attributes:
        runs: how many runs the noise is measured by, A among them where it belongs.
        belongs: whether A is one of them.
        alpha: the chance that another seed is called beyond the noise by one line; by any of them it is `ALPHA`.
        accuracy: B's accuracy beside the runs', or, where A is none of them, B's less A's; None without labels.
        flips: the share of photos that B names otherwise than A, or, where A is one of the runs, than a run of them.
        disagreeing: (N,) of each photo, the share of pairs of runs that name it differently.
    """

    runs: int
    belongs: bool
    alpha: float
    accuracy: Line | None
    flips: Line
    disagreeing: np.ndarray

    @property
    def is_within(self) -> bool:
        """Whether all of it may be another seed."""
        return self.flips.is_within and (self.accuracy is None or self.accuracy.is_within)

    def to_json(self) -> dict[str, Any]:
        """All but the photos."""
        lines = {"accuracy": self.accuracy, "flips": self.flips}
        told = {k: v and {**vars(v), "runs": list(v.runs), "is_within": v.is_within} for k, v in lines.items()}
        return {"runs": self.runs, "a_belongs": self.belongs, "alpha": self.alpha, "is_within": self.is_within, **told}


def check_runs(count: int) -> None:
    """Refuses to measure noise by fewer than two runs.

    Raises:
        UserError: so few.
    """
    if count < LEAST_RUNS:
        raise UserError(
            f"The noise of seeds would be measured by {count} run{'s' * (count != 1)}; expected {LEAST_RUNS} or more, "
            "of one training with other seeds: A may be one of them, B is not counted. Name more behind --noise; five "
            "tell much more than two."
        )


def measure_noise(answers: np.ndarray, runs: np.ndarray, labels: np.ndarray, *, belongs: bool) -> SeedNoise:
    """Whether A and B differ by more than two seeds do; docs/compare.md has the equations and how often they err.

    Args:
        answers: (2, N) classes that A and B name.
        runs: (R, N) those of other runs; neither A nor B is among them.
        labels: (N,); -1 where the class is not known.
        belongs: A is a run of the same training as these.

    Raises:
        UserError: fewer than two runs, A counted where it belongs.
    """
    known = np.concatenate([answers[:1], runs]) if belongs else runs
    check_runs(len(known))
    is_labelled = bool((labels >= 0).any())
    alpha = ALPHA / (1 + is_labelled)
    t = float(scipy.stats.t.ppf(1 - alpha / 2, len(known) - 1))
    accuracy = _place_accuracy(answers, known, labels, t, belongs) if is_labelled else None
    flips = _place_flips(answers, known, t, belongs)
    return SeedNoise(len(known), belongs, alpha, accuracy, flips, find_disagreement(known))


def _place_accuracy(answers: np.ndarray, runs: np.ndarray, labels: np.ndarray, t: float, belongs: bool) -> Line:
    rows = labels >= 0
    right, own = (runs[:, rows] == labels[rows]).sum(1), (answers[:, rows] == labels[rows]).sum(1)
    photos, count = int(rows.sum()), len(runs)
    spread = float(np.sqrt(max(right.var(ddof=1), _ROUNDING)))
    usual = float(right.mean())
    each = tuple(float(x) / photos for x in right)
    if belongs:
        reach = t * spread * float(np.sqrt(1 + 1 / count))
        return Line(own[1] / photos, (usual - reach) / photos, (usual + reach) / photos, usual / photos, each)
    reach = t * spread * float(np.sqrt(2))
    return Line(float(own[1] - own[0]) / photos, -reach / photos, reach / photos, 0.0, each)


def _place_flips(answers: np.ndarray, runs: np.ndarray, t: float, belongs: bool) -> Line:
    photos, count = runs.shape[1], len(runs)
    pairs = count_flips(runs)
    usual = float(pairs.mean())
    # Photos that are counted one by one spread at least so much.
    counting = max(usual * (1 - usual / photos), _ROUNDING)
    spread = max(float(pairs.var(ddof=1)) if len(pairs) > 1 else 0.0, counting)
    reach = t * float(np.sqrt(spread * (1 + 2 / count)))
    value = float((answers[1] != (runs if belongs else answers[:1])).sum(1).mean())
    each = tuple(float(x) / photos for x in pairs)
    return Line(value / photos, 0.0, (usual + reach) / photos, usual / photos, each)


def count_flips(runs: np.ndarray) -> np.ndarray:
    """(R (R - 1) / 2,): how many photos each pair of runs (R, N) names differently."""
    return np.array([int((one != other).sum()) for one, other in combinations(runs, 2)])


def find_disagreement(runs: np.ndarray) -> np.ndarray:
    """(N,): the share of pairs of runs (R, N) that name a photo differently."""
    share: np.ndarray = np.mean([one != other for one, other in combinations(runs, 2)], axis=0)
    return share
