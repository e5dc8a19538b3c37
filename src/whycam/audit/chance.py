"""How sure a sign is: intervals of shares, and the chance that two groups differ so much without a cause."""

from __future__ import annotations

import numpy as np
import scipy

from whycam.metrics.groups import find_interval

__all__ = ["compare_means", "find_interval", "to_certainty"]
# So many pairs have 8,192 ways to point up or down, all of which can be tried.
_FEW = 13


def compare_means(values: np.ndarray, others: np.ndarray) -> float:
    """One-sided p: how likely a mean is so much larger than the others' by chance (Welch's t-test); 1 for too few."""
    if len(values) < 3 or len(others) < 3:
        return 1.0
    # Values that differ by rounding alone have no spread.
    if values.std() + others.std() <= 1e-6 * (np.abs(values).max() + np.abs(others).max()):
        return 0.0 if values.mean() > others.mean() else 1.0
    return float(scipy.stats.ttest_ind(values, others, equal_var=False, alternative="greater").pvalue)


def compare_pairs(differences: np.ndarray, clusters: np.ndarray) -> float:
    """One-sided p: how likely pairs (n,) differ so much upwards by chance (Wilcoxon's signed ranks).

    Pairs of one cluster (n,), such as one photo that is in several, are no further evidence: their mean counts once.
    So of m photos no p is smaller than 2^-m, however often each was tried. Those that don't differ say nothing: of m
    that do, and all in one direction, p is 2^-m, whatever their number.
    """
    _, place = np.unique(clusters, return_inverse=True)
    if not len(place):
        return 1.0
    means = np.bincount(place, differences) / np.bincount(place)
    # Left in, they would have SciPy take the normal approximation, which is too sure of a few.
    means = means[means != 0]
    if not len(means):
        return 1.0
    if len(means) <= _FEW and not np.isnan(means).any():
        return _try_all_signs(means)
    return float(scipy.stats.wilcoxon(means, alternative="greater").pvalue)


def _try_all_signs(differences: np.ndarray) -> float:
    """The same p of n differences that are not 0, ties or not: SciPy calls its statistic 2^n times where there are any.

    Ranks are halves at the least, so their sums are exact.
    """
    ranks = scipy.stats.rankdata(np.abs(differences))
    signs = np.arange(2 ** len(ranks))[:, None] >> np.arange(len(ranks)) & 1
    return float((signs @ ranks >= ranks[differences > 0].sum()).mean())


def to_certainty(p: float, tests: int) -> float:
    """1 - p, after Bonferroni's correction for the number of tests."""
    return float(np.clip(1 - p * max(1, tests), 0, 1))
