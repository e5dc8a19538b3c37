"""Groups of a class's photos that look alike to the model and are wrong more often than the class's others.

The photos are told apart by their contributions, what each channel adds to the class's score (Neuhaus et al.,
arXiv:2212.04871). Blind spots are small, and clusters of all photos mix them with others; so it is the wrong photos
that are clustered, and each photo is asked by the others whether it looks like a cluster, by a ridge regression. Two
clusters are one group where what tells the one from the right photos tells the other too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

# Fewer wrong photos are no group.
LEAST_WRONG = 3
# All of these were chosen by benchmarks/slices.py on models of seeds from 1000 on.
_DIMENSIONS, _MOST_PARTS, _SAME, _RIDGE = 20, 6, 0.85, 0.3
# Of a blind spot's photos so many are taken to be wrong, and of other photos.
_WRONG_INSIDE, _WRONG_OUTSIDE = 0.95, 0.03
_LARGEST, _SHUFFLES, _ROUNDS = 0.6, 100, 10


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


def find_groups(
    features: np.ndarray, wrong: np.ndarray, seed: int = 0, *, looks: np.ndarray | None = None
) -> list[Group]:
    """The groups of one class's photos, the most certain first; they may be due to chance, see `Group.p`.

    The chance is measured by shuffling which photos are wrong and doing the same again: Gumbel's distribution is
    fitted to the clearest of the clusters, of one, three and six, of each of 100 shuffles.

    Args:
        features: (n, C) of the class's photos.
        wrong: (n,) bool: the answer is another class.
        seed: of the shuffles.
        looks: (n, D) by which each photo is judged, where that is not by the features: that a photo is wrong should
            not be why it looks so.
    """
    if min(wrong.sum(), (~wrong).sum()) < LEAST_WRONG or np.ptp(features, axis=0).max(initial=0) == 0:
        return []
    seen, draw = _Looks(features, features if looks is None else looks), np.random.default_rng(seed)
    parts = seen.split(wrong)
    scores = seen.judge(parts)
    clarity, sizes = _measure(scores, wrong)
    by_chance = []
    for _ in range(_SHUFFLES):
        shuffled = draw.permutation(wrong)
        tried = np.concatenate(seen.cluster(shuffled, (1, _MOST_PARTS // 2, _MOST_PARTS)))
        by_chance.append(_measure(seen.judge(tried), shuffled)[0].max())
    spread = np.std(by_chance) * np.sqrt(6) / np.pi
    chance = scipy.stats.gumbel_r(np.mean(by_chance) - np.euler_gamma * spread, max(spread, 1e-9))
    found = []
    for part, score, clear, size in zip(parts, scores, clarity, sizes, strict=True):
        order = np.argsort(-score, kind="stable")
        inside = _belong(score, part)
        if (inside & wrong).sum() >= LEAST_WRONG:
            found.append(Group(order[inside[order]], order[:size], float(chance.sf(clear))))
    return sorted(found, key=lambda group: group.p)


class _Looks:
    """How alike n photos are."""

    def __init__(self, features: np.ndarray, looks: np.ndarray) -> None:
        values = features - features.mean(0)
        alike = _multiply(values)
        solve, _ = _fit(_multiply(looks - looks.mean(0)))
        # Times targets: what the regression says of each photo when it is left out.
        self._leave_one_out = np.eye(len(alike)) - solve / np.diag(solve)[:, None]
        strengths, directions = np.linalg.eigh(alike)
        self._places = directions[:, -_DIMENSIONS:] * np.sqrt(strengths[-_DIMENSIONS:].clip(0))
        # Without each photo's mean contribution, which is its score: that two look alike must not be that both are low.
        values = values - values.mean(1, keepdims=True)
        self._patterns = _multiply(values)

    def judge(self, parts: np.ndarray) -> np.ndarray:
        """(G, n): how much each photo looks like each of the parts (G, n), when it is left out."""
        scores: np.ndarray = parts @ self._leave_one_out.T
        return scores

    def cluster(self, wrong: np.ndarray, counts: Sequence[int]) -> list[np.ndarray]:
        """The wrong photos in so many parts, (G, n) bool each; in fewer where one would have under three photos."""
        rows = np.flatnonzero(wrong)
        tree = scipy.cluster.hierarchy.linkage(self._places[rows], "ward")
        return [self._cut(tree, wrong, min(count, len(rows) // LEAST_WRONG)) for count in counts]

    def _cut(self, tree: np.ndarray, wrong: np.ndarray, most: int) -> np.ndarray:
        """Ward's clusters, then k-means from there."""
        places = self._places[wrong]
        for count in range(most, 1, -1):
            named = scipy.cluster.hierarchy.fcluster(tree, count, "maxclust") - 1
            for _ in range(_ROUNDS):
                members = named == np.unique(named)[:, None]
                centres = members @ places / members.sum(1, keepdims=True)
                moved = scipy.spatial.distance.cdist(places, centres).argmin(1)
                if (moved == named).all():
                    break
                named = moved
            members = named == np.unique(named)[:, None]
            if members.sum(1).min() >= LEAST_WRONG:
                parts = np.zeros((len(members), len(wrong)), dtype=bool)
                parts[:, wrong] = members
                return parts
        return wrong[None]

    def split(self, wrong: np.ndarray) -> np.ndarray:
        """(G, n) bool: the wrong photos in parts of which none foretells another."""
        parts = list(self.cluster(wrong, (_MOST_PARTS,))[0])
        while len(parts) > 1:
            told = np.array([self._foretell(part, parts, ~wrong) for part in parts])
            told = (told + told.T) / 2
            np.fill_diagonal(told, 0)
            first, second = np.unravel_index(told.argmax(), told.shape)
            if told[first, second] < _SAME:
                break
            parts[first] = parts[first] | parts[second]
            del parts[second]
        return np.stack(parts)

    def _foretell(self, part: np.ndarray, others: list[np.ndarray], right: np.ndarray) -> list[float]:
        """How well what tells a part from the right photos tells each other part from them: areas under ROC curves."""
        rows = np.flatnonzero(part | right)
        target = part[rows].astype(float)
        solve, shift = _fit(self._patterns[np.ix_(rows, rows)])
        weights = solve @ target
        left_out = (target - weights / np.diag(solve))[~part[rows]]
        scores = self._patterns[:, rows] @ weights + shift @ target
        return [_compare(scores[other], left_out) for other in others]


def _multiply(values: np.ndarray) -> np.ndarray:
    """Inner products (n, n) of the photos (n, C), whose diagonal is 1 in the mean."""
    alike = (values @ values.T).astype(np.float64)
    return np.asarray(alike * (len(alike) / max(np.trace(alike), 1e-12)))


def _fit(alike: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A ridge regression by inner products (n, n): times targets, the photos' weights (n, n), the intercept (n,)."""
    inverse = np.linalg.inv(alike + _RIDGE * np.eye(len(alike)))
    sums = inverse.sum(0)
    return inverse - np.outer(sums, sums) / sums.sum(), sums / sums.sum()


def _compare(values: np.ndarray, others: np.ndarray) -> float:
    """The area under the ROC curve."""
    return float(scipy.stats.mannwhitneyu(values, others).statistic / (len(values) * len(others)))


def _measure(scores: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many photos from the top of each of G scores (G, n) are most clearly wrong: likelihood ratio, and size."""
    count, total = len(wrong), int(wrong.sum())
    most = max(LEAST_WRONG, int(count * _LARGEST))
    size = np.arange(1, count + 1)[LEAST_WRONG - 1 : most]
    hits = wrong[np.argsort(-scores, axis=1, kind="stable")].cumsum(1)[:, LEAST_WRONG - 1 : most]
    expected = size * total / count
    gain = sum(
        scipy.special.xlogy(seen, seen) - scipy.special.xlogy(seen, likely)
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

    slope, shift = scipy.optimize.minimize(lose, np.array([1.0, 0.0])).x
    inside = np.clip(scipy.special.expit(slope * values + shift) / _WRONG_INSIDE, 0, 0.999)
    rates = np.where(part, [[_WRONG_INSIDE], [_WRONG_OUTSIDE]], [[1 - _WRONG_INSIDE], [1 - _WRONG_OUTSIDE]])
    members: np.ndarray = inside * rates[0] > (1 - inside) * rates[1]
    return members
