"""Groups of a class's photos that look alike to the model and are wrong more often than the class's others.

The photos are told apart by their contributions, what each channel adds to the class's score (Neuhaus et al.,
arXiv:2212.04871). Blind spots are small, and clusters of all photos mix them with others; so it is the wrong photos
that are clustered, and for each cluster all photos are asked whether they look like it: by a ridge regression, each
photo by a fit without itself, which has a closed form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.optimize import minimize
from scipy.spatial.distance import pdist, squareform
from scipy.special import expit, xlogy
from scipy.stats import gumbel_r

# Fewer wrong photos are no group.
LEAST_WRONG = 3
# All of these were chosen by benchmarks/slices.py on models of seeds from 1000 on.
_DIMENSIONS, _MOST_PARTS, _LEAST_APART, _RIDGE = 20, 4, 0.2, 1.0
# Of a blind spot's photos so many are taken to be wrong, and of other photos.
_WRONG_INSIDE, _WRONG_OUTSIDE = 0.8, 0.03
_LARGEST, _SHUFFLES = 0.6, 200


@dataclass(frozen=True)
class Group:
    """Photos of one class.

    Attributes:
        rows: of the group, the most alike first: wrong ones and others that look like them.
        alike: rows that look like the group's wrong photos, each judged by all photos but itself; its own answer has no
            part in that, so the share that is wrong is fair.
        p: how likely wrong photos strewn over the class would give so clear a group; corrected for the class's groups.
    """

    rows: np.ndarray
    alike: np.ndarray
    p: float


def find_groups(features: np.ndarray, wrong: np.ndarray, seed: int = 0) -> list[Group]:
    """The groups of one class's photos, the most certain first; they may be due to chance, see `Group.p`.

    The chance is measured by shuffling which photos are wrong and doing all of it again: Gumbel's distribution is
    fitted to the clearest group of each of 200 shuffles.

    Args:
        features: (n, C) of the class's photos.
        wrong: (n,) bool: the answer is another class.
        seed: of the shuffles.
    """
    if min(wrong.sum(), (~wrong).sum()) < LEAST_WRONG or np.ptp(features, axis=0).max(initial=0) == 0:
        return []
    looks, draw = _Looks(features), np.random.default_rng(seed)
    parts = looks.split(wrong)
    scores = looks.judge(parts)
    clarity, sizes = _measure(scores, wrong)
    by_chance = []
    for _ in range(_SHUFFLES):
        shuffled = draw.permutation(wrong)
        by_chance.append(_measure(looks.judge(looks.split(shuffled)), shuffled)[0].max())
    spread = np.std(by_chance) * np.sqrt(6) / np.pi
    chance = gumbel_r(np.mean(by_chance) - np.euler_gamma * spread, max(spread, 1e-9))
    found = []
    for part, score, clear, size in zip(parts, scores, clarity, sizes, strict=True):
        order = np.argsort(-score, kind="stable")
        inside = _belong(score, part)
        if (inside & wrong).sum() >= LEAST_WRONG:
            found.append(Group(order[inside[order]], order[:size], float(chance.sf(clear))))
    return sorted(found, key=lambda group: group.p)


class _Looks:
    """How alike n photos are, by their features."""

    def __init__(self, features: np.ndarray) -> None:
        values = features - features.mean(0)
        alike = (values @ values.T).astype(np.float64)
        count = len(alike)
        alike *= count / np.trace(alike)
        inverse = np.linalg.inv(alike + _RIDGE * np.eye(count))
        sums = inverse.sum(0)
        inverse -= np.outer(sums, sums) / sums.sum()
        # Times targets: what a ridge regression with intercept says of each photo when it is left out.
        self._leave_one_out = np.eye(count) - inverse / np.diag(inverse)[:, None]
        strengths, directions = np.linalg.eigh(alike)
        most = directions[:, -_DIMENSIONS:] * np.sqrt(strengths[-_DIMENSIONS:].clip(0))
        self._apart = squareform(pdist(most))

    def judge(self, parts: np.ndarray) -> np.ndarray:
        """(G, n): how much each photo looks like each of the parts (G, n), when it is left out."""
        scores: np.ndarray = parts @ self._leave_one_out.T
        return scores

    def split(self, wrong: np.ndarray) -> np.ndarray:
        """(G, n) bool: the wrong photos, in up to four parts if those lie apart (silhouette), else in one."""
        rows = np.flatnonzero(wrong)
        best, parts = _LEAST_APART, wrong[None]
        if len(rows) < 2 * LEAST_WRONG:
            return parts
        apart = self._apart[np.ix_(rows, rows)]
        tree = linkage(squareform(apart, checks=False), "ward")
        for count in range(2, _MOST_PARTS + 1):
            named = fcluster(tree, count, "maxclust")
            members = named == np.unique(named)[:, None]
            if len(members) < 2 or members.sum(1).min() < LEAST_WRONG:
                continue
            if (found := _measure_apartness(apart, members)) > best:
                best, parts = found, np.zeros((len(members), len(wrong)), dtype=bool)
                parts[:, rows] = members
        return parts


def _measure_apartness(apart: np.ndarray, members: np.ndarray) -> float:
    """The mean silhouette of parts (G, m) by the distances (m, m)."""
    sums = members @ apart
    sizes = members.sum(1, keepdims=True)
    own = (sums / np.maximum(sizes - 1, 1))[members.argmax(0), np.arange(len(apart))]
    other = np.where(members, np.inf, sums / sizes).min(0)
    return float(((other - own) / np.maximum(np.maximum(own, other), 1e-12)).mean())


def _measure(scores: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many photos from the top of each of G scores (G, n) are most clearly wrong: likelihood ratio, and size."""
    count, total = len(wrong), int(wrong.sum())
    most = max(LEAST_WRONG, int(count * _LARGEST))
    size = np.arange(1, count + 1)[LEAST_WRONG - 1 : most]
    hits = wrong[np.argsort(-scores, axis=1, kind="stable")].cumsum(1)[:, LEAST_WRONG - 1 : most]
    expected = size * total / count
    gain = sum(
        xlogy(seen, seen) - xlogy(seen, likely)
        for seen, likely in (
            (hits, expected),
            (size - hits, size - expected),
            (total - hits, total - expected),
            (count - size - total + hits, count - size - total + expected),
        )
    )
    ratio = np.where(hits > expected, 2 * gain, 0)
    best = ratio.argmax(1)
    return ratio[np.arange(len(ratio)), best], size[best]


def _belong(score: np.ndarray, part: np.ndarray) -> np.ndarray:
    """(n,) bool: who belongs to the blind spot that a part of the wrong photos shows, by looks and by being wrong.

    By looks alone the chance to be in the part is a logistic function of the score (Platt).
    """
    values = (score - score.mean()) / max(score.std(), 1e-12)
    count = part.sum()
    target = np.where(part, (count + 1) / (count + 2), 1 / (len(part) - count + 2))

    def lose(line: np.ndarray) -> float:
        logit = line[0] * values + line[1]
        return float((np.logaddexp(0, logit) - target * logit).sum())

    slope, shift = minimize(lose, np.array([1.0, 0.0])).x
    inside = np.clip(expit(slope * values + shift) / _WRONG_INSIDE, 0, 0.999)
    rates = np.where(part, [[_WRONG_INSIDE], [_WRONG_OUTSIDE]], [[1 - _WRONG_INSIDE], [1 - _WRONG_OUTSIDE]])
    members: np.ndarray = inside * rates[0] > (1 - inside) * rates[1]
    return members
