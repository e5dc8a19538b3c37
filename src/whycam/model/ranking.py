"""How well scores rank photos that have a class before those that lack it: in training, and in every evaluation."""

from __future__ import annotations

import numpy as np


def rank_scores(shares: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROC and average precision of one class, (R,) each, for R weightings of the photos; NaN without both kinds.

    Photos of one score count as given together: AUROC has half of their pairs, and AP is the sum of precision times
    the recall that is gained at each distinct score, which is how scikit-learn and torchmetrics define both.

    Args:
        shares: (N,) scores.
        truth: (N,) bool.
        weights: (R, N) how often each photo counts.
    """
    order = np.argsort(-shares, kind="stable")
    last = np.flatnonzero(np.append(np.diff(shares[order]) != 0, True))
    weights = weights[:, order].astype(np.float64)
    is_own = truth[order]
    own = (weights * is_own).cumsum(1)[:, last]
    rest = (weights * ~is_own).cumsum(1)[:, last]
    zero = np.zeros((len(weights), 1))
    new, others = np.diff(own, axis=1, prepend=zero), np.diff(rest, axis=1, prepend=zero)
    with np.errstate(invalid="ignore", divide="ignore"):
        auroc = (others * (own - new / 2)).sum(1) / (own[:, -1] * rest[:, -1])
        precision = np.where(own + rest > 0, own / np.maximum(own + rest, 1e-300), 0)
        ap = (new * precision).sum(1) / own[:, -1]
    return auroc, np.where(rest[:, -1] > 0, ap, np.nan)
