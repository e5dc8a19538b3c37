"""How well one value of each photo tells a class from the others: AUC, and the best cross-validated rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy

from whycam.audit.chance import find_interval

_FOLDS, _Z = 5, 1.96
# A word that fewer photos have says nothing by itself: together they are "another one".
_LEAST_COUNT = 3
# Of the other classes' photos so many suffice to learn a rule and to try it.
_MOST_OTHERS = 2000

_TRIED = np.linspace(0, 1, 1001)
# Beyond chance, how often one photo of the class stands above two others, and two of the class above one.
_BELOW_TWO = _TRIED / (2 - _TRIED) - _TRIED**2
_ABOVE_TWO = 2 * _TRIED**2 / (1 + _TRIED) - _TRIED**2

Rule = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Share:
    """A number in [0, 1] with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Tell:
    """How well a property tells a class.

    Attributes:
        auc: the chance that a photo of the class has more of it than another (or less, whichever is oftener); of
            words: that of the balanced accuracy.
        accuracy: balanced accuracy of the rule on photos that it was not made from.
        p: the chance that so clear a difference arises where there is none.
        caught: the share of the class that the rule takes for the class, and of the others.
    """

    auc: Share
    accuracy: Share
    p: float
    caught: tuple[float, float]


def bound_auc(auc: float, own: int, rest: int) -> Share:
    """The interval of an AUC of so many photos and others: the values that lie within 1.96 of their own errors.

    The variance is Hanley's and McNeil's at the value that is tried, not at the one found (Newcombe's method 5, 2006):
    so an AUC of 1 has an interval, too.
    """
    spread = _TRIED * (1 - _TRIED) + (own - 1) * _BELOW_TWO + (rest - 1) * _ABOVE_TWO
    fits = _TRIED[np.abs(_TRIED - auc) <= _Z * np.sqrt(spread.clip(0) / (own * rest)) + 1e-9]
    return Share(auc, float(min(auc, fits.min(initial=1))), float(max(auc, fits.max(initial=0))))


def tell_numbers(own: np.ndarray, rest: np.ndarray, seed: int) -> Tell:
    """How well a number tells: `own` photos of the class from the `rest`."""
    tested = scipy.stats.mannwhitneyu(own, rest, alternative="two-sided", method="asymptotic")
    auc = float(tested.statistic) / (len(own) * len(rest))
    accuracy, p, caught = cross_validate(own, rest, fit_range, seed)
    return Tell(
        bound_auc(max(auc, 1 - auc), len(own), len(rest)), accuracy, min(1.0, 2 * min(p, float(tested.pvalue))), caught
    )


def tell_words(own: np.ndarray, rest: np.ndarray, seed: int) -> Tell:
    """How well a word tells: `own` photos of the class from the `rest`."""
    accuracy, p, caught = cross_validate(own, rest, fit_words, seed)
    return Tell(accuracy, accuracy, p, caught)


def cross_validate(
    own: np.ndarray, rest: np.ndarray, fit: Callable[[np.ndarray, np.ndarray], Rule], seed: int
) -> tuple[Share, float, tuple[float, float]]:
    """The balanced accuracy of rules on photos that they were not made from, its p (Fisher), and what they catch.

    A class counts as much as all others together, however many photos they have.
    """
    draw = np.random.default_rng([seed, 83])
    rest = rest if len(rest) <= _MOST_OTHERS else draw.choice(rest, _MOST_OTHERS, replace=False)
    folds = [draw.permutation(len(part)) % _FOLDS for part in (own, rest)]
    hits = np.zeros(2, dtype=int)
    for fold in range(_FOLDS):
        kept, tried = zip(*((p[f != fold], p[f == fold]) for p, f in zip((own, rest), folds, strict=True)), strict=True)
        rule = fit(*kept)
        hits += [int(rule(part).sum()) for part in tried]
    totals = np.array([len(own), len(rest)])
    caught = hits / totals
    p = float(scipy.stats.fisher_exact([hits, totals - hits], alternative="greater").pvalue)
    bounds = [find_interval(int(hits[0]), int(totals[0])), find_interval(int(totals[1] - hits[1]), int(totals[1]))]
    right = (float(caught[0]), float(1 - caught[1]))
    below, above = (0.5 * np.hypot(right[0] - bounds[0][end], right[1] - bounds[1][end]) for end in (0, 1))
    value = sum(right) / 2
    return Share(value, float(max(0, value - below)), float(min(1, value + above))), p, (caught[0], caught[1])


def fit_range(own: np.ndarray, rest: np.ndarray) -> Rule:
    """The range of values, or all outside of one, where there is most of the class beyond what the others have there.

    It is the range over which the two cumulative curves part most (Kuiper); a threshold is a range with an open end.
    """
    values = np.unique(np.concatenate([own, rest]))
    parted = np.r_[0.0, _cumulate(own, values) - _cumulate(rest, values)]
    edges = np.r_[-np.inf, (values[1:] + values[:-1]) / 2, np.inf]
    lowest, highest = int(parted.argmin()), int(parted.argmax())
    low, high = edges[min(lowest, highest)], edges[max(lowest, highest)]
    is_inside = lowest < highest
    return lambda asked: ((asked > low) & (asked <= high)) == is_inside


def _cumulate(part: np.ndarray, values: np.ndarray) -> np.ndarray:
    counts: np.ndarray = np.searchsorted(np.sort(part), values, side="right")
    return counts / len(part)


def fit_words(own: np.ndarray, rest: np.ndarray) -> Rule:
    """The words that a larger share of the class has than of the others; rare words count as one."""
    words, counts = np.unique(np.concatenate([own, rest]), return_counts=True)
    usual = words[counts >= _LEAST_COUNT]
    shares = [np.array([*(np.mean(p == w) for w in usual), np.mean(~np.isin(p, usual))]) for p in (own, rest)]
    more = shares[0] > shares[1]
    chosen, is_rare = usual[more[:-1]], bool(more[-1])
    return lambda asked: np.isin(asked, chosen) | (is_rare & ~np.isin(asked, usual))
