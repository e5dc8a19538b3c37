"""What a model's scores are, measured: logits, or probabilities behind a last activation that may be taken off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

Activation = Literal["none", "softmax", "log-softmax", "sigmoid"]
# Images so many times as strong: logits, however small, leave [0, 1] with them; what a sigmoid gives moves within it.
_LOUD = (1e2, 1e4, 1e8)
_SUM, _MOVES = 1e-3, 0.05


def measure_activation(scores: np.ndarray, run: Callable[[float], np.ndarray]) -> Activation:
    """What the last layer does.

    Args:
        scores: (N, K) of images.
        run: how many times as strong the images are -> their scores.
    """
    if not look_alike(scores):
        return "none"
    every = np.concatenate([scores, *(run(times) for times in _LOUD)]).astype(np.float64)
    both = every[: 2 * len(scores)]
    if both.shape[1] > 1:
        if (both <= 0).all() and (np.abs(np.exp(both).sum(1) - 1) < _SUM).all():
            return "log-softmax"
        if (both >= 0).all() and (np.abs(both.sum(1) - 1) < _SUM).all():
            return "softmax"
    is_share = ((every >= 0) & (every <= 1)).all()
    return "sigmoid" if is_share and np.ptp(every) > _MOVES else "none"


def look_alike(scores: np.ndarray) -> bool:
    """Whether scores (N, K) may be probabilities or their logarithms, so that it pays to measure more."""
    is_share = bool(((scores >= 0) & (scores <= 1)).all())
    return is_share or bool((scores <= 0).all() and (np.abs(np.exp(scores).sum(1) - 1) < _SUM).all())


def invert(scores: np.ndarray, activation: Activation) -> np.ndarray:
    """(N, K) float32 logits of scores behind an activation.

    softmax(log p) = p, and the sigmoid has an inverse, so that the model's own probabilities come back.
    """
    if activation in {"none", "log-softmax"}:
        return scores
    shares = np.clip(scores.astype(np.float64), np.finfo(np.float32).tiny, 1)
    logits = np.log(shares) if activation == "softmax" else np.log(shares) - np.log(np.maximum(1 - shares, 2.0**-24))
    return np.asarray(logits, dtype=np.float32)


def describe_activation(activation: Activation, *, is_taken_off: bool) -> str:
    """In words, of what the model gives; empty where it gives logits."""
    if activation == "none":
        return ""
    return f"{activation}, taken off" if is_taken_off else f"{activation}, whose inverse is explained"
