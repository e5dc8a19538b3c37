"""How well classes that go together are told: each by its ranking (AUROC, AP), and by a threshold of its own.

A table of photos (N) and classes (K): `shares`, the probabilities, and `truth`, whether a photo has the class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from whycam.metrics.groups import find_interval
from whycam.metrics.pooling import LEVEL
from whycam.model.card import HALF
from whycam.model.ranking import rank_scores

RESAMPLES = 500
FOLDS = 5
# Resamples at a time, so that memory does not grow with photos times resamples.
_PART = 50


def choose_thresholds(shares: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(K,) from which probability on a class is given, so that its F1 on these photos is highest.

    It lies in the middle between the lowest probability that is given and the next one under it; of several that are as
    good the lowest. A class that no photo here has, or each has, is given from one half on.
    """
    return np.array([_choose_threshold(shares[:, k], truth[:, k]) for k in range(shares.shape[1])])


def _choose_threshold(shares: np.ndarray, truth: np.ndarray) -> float:
    if truth.all() or not truth.any():
        return HALF
    order = np.argsort(-shares, kind="stable")
    values, hits = shares[order].astype(np.float64), truth[order].cumsum()
    # Photos of one probability are given together.
    last = np.flatnonzero(np.append(np.diff(values) != 0, True))
    f1 = 2 * hits[last] / (last + 1 + hits[-1])
    best = int(np.flatnonzero(f1 == f1.max())[-1])
    under = values[last[best] + 1] if last[best] + 1 < len(values) else 0.0
    return float((values[last[best]] + under) / 2)


def choose_fold_thresholds(shares: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(N, K) thresholds for each photo that were chosen on the other four fifths: what they do to photos unseen."""
    found = np.empty(shares.shape)
    for fold in range(min(FOLDS, len(shares))):
        own = np.arange(len(shares)) % FOLDS == fold
        found[own] = choose_thresholds(shares[~own], truth[~own]) if not own.all() else HALF
    return found


def count_outcomes(given: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """Photos of each class (K,): given rightly (`right`), not given (`missed`), given and not there (`false`)."""
    return {
        "right": (given & truth).sum(0),
        "missed": (~given & truth).sum(0),
        "false": (given & ~truth).sum(0),
    }


def compute_f1(counts: dict[str, np.ndarray]) -> np.ndarray:
    """(K,) 2 right / (2 right + missed + false); 0 where a class is neither there nor given."""
    whole = 2 * counts["right"] + counts["missed"] + counts["false"]
    return np.asarray(2 * counts["right"] / np.maximum(whole, 1))


def score_labels(
    shares: np.ndarray, truth: np.ndarray, thresholds: np.ndarray, class_names: Sequence[str], *, seed: int = 0
) -> dict[str, Any]:
    """Figures of each class and of all, as JSON; means are over the classes that photos here have and lack.

    Intervals are 95 %: of AUROC, AP and their means by a bootstrap over photos, of precision and recall Wilson's.

    Args:
        shares: (N, K).
        truth: (N, K) bool.
        thresholds: (K,), or of each photo (N, K).
        class_names: K names.
        seed: of the bootstrap.
    """
    given = shares >= thresholds
    counts = count_outcomes(given, truth)
    f1, whole = compute_f1(counts), np.ones((1, len(shares)))
    draw = np.random.default_rng(seed)
    chances = np.full(len(shares), 1 / len(shares))
    times = draw.multinomial(len(shares), chances, size=RESAMPLES).astype(np.float32)
    drawn = {name: np.empty((RESAMPLES, len(class_names))) for name in ("auroc", "ap")}
    classes = {}
    for k, name in enumerate(class_names):
        auroc, ap = rank_scores(shares[:, k], truth[:, k], whole)
        for start in range(0, RESAMPLES, _PART):
            part = slice(start, start + _PART)
            drawn["auroc"][part, k], drawn["ap"][part, k] = rank_scores(shares[:, k], truth[:, k], times[part])
        classes[name] = {
            "photos": int(truth[:, k].sum()),
            **{word: int(count[k]) for word, count in counts.items()},
            **_share("precision", int(counts["right"][k]), int(given[:, k].sum())),
            **_share("recall", int(counts["right"][k]), int(truth[:, k].sum())),
            "f1": float(f1[k]),
            **_spread("auroc", auroc[0], drawn["auroc"][:, k]),
            **_spread("ap", ap[0], drawn["ap"][:, k]),
        }
    all_of: dict[str, Any] = {}
    for word, name in (("ap", "mean_ap"), ("auroc", "mean_auroc")):
        known = [k for k, one in enumerate(classes.values()) if one[word] is not None]
        values = np.array([one[word] for one in classes.values() if one[word] is not None])
        mean = float(values.mean()) if known else np.nan
        all_of |= _spread(name, mean, _mean_known(drawn[word][:, known]) if known else np.array([np.nan]))
    total = {word: np.array([count.sum()]) for word, count in counts.items()}
    return {
        **all_of,
        "f1": float(f1.mean()),
        "f1_of_all_answers": float(compute_f1(total)[0]),
        "answers_right": float((given == truth).mean()),
        **_share("photos_right", int((given == truth).all(1).sum()), len(truth)),
        **{word: int(count[0]) for word, count in total.items()},
        "classes": classes,
    }


def _mean_known(values: np.ndarray) -> np.ndarray:
    """(R,) means over the classes that a resample has; NaN where it has none."""
    counts = np.isfinite(values).sum(1)
    return np.where(counts > 0, np.nansum(values, 1) / np.maximum(counts, 1), np.nan)


def _share(name: str, hits: int, total: int) -> dict[str, Any]:
    low, high = find_interval(hits, total)
    return {name: hits / total if total else None, f"{name}_low": low, f"{name}_high": high}


def _spread(name: str, value: float, drawn: np.ndarray) -> dict[str, Any]:
    """A number with the interval of its resamples; nothing where it is not defined."""
    if not np.isfinite(value):
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn[np.isfinite(drawn)], [tail, 1 - tail])
    return {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}
