"""What a model's scores are, measured: logits, or probabilities behind a last activation that may be taken off."""

from __future__ import annotations

from typing import Literal

import numpy as np

Activation = Literal["none", "softmax", "log-softmax", "sigmoid"]
# Images so many times as strong: logits of weak ones may lie in [0, 1] by chance, those of strong ones don't.
LOUD = 100.0
_SUM = 1e-3


def measure_activation(scores: np.ndarray, loud: np.ndarray) -> Activation:
    """What the last layer does, of scores (N, K) of images and of the same images `LOUD` times as strong."""
    both = np.concatenate([scores, loud]).astype(np.float64)
    if both.shape[1] > 1:
        if (both <= 0).all() and (np.abs(np.exp(both).sum(1) - 1) < _SUM).all():
            return "log-softmax"
        if (both >= 0).all() and (np.abs(both.sum(1) - 1) < _SUM).all():
            return "softmax"
    return "sigmoid" if ((both >= 0) & (both <= 1)).all() else "none"


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
