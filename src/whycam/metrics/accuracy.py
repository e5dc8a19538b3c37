"""How well classes are told of photos that have one each: accuracy, calibration, precision, recall and F1.

As torchmetrics has them (`tests/test_accuracy.py` compares), whose import takes longer than all the rest of a training.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

# Bins of the calibration error, equally wide.
BINS = 15


def count_confusion(logits: Tensor, labels: Tensor) -> Tensor:
    """(K, K) photos by their class, in rows, and by what they are taken for; logits (N, K), labels (N,)."""
    count = logits.shape[1]
    return torch.bincount(labels * count + logits.argmax(dim=1), minlength=count**2).reshape(count, count)


def measure_classes(counts: Tensor) -> Mapping[str, Tensor]:
    """Each class's `precision`, `recall` and `f1` (K,) float64 of a confusion (K, K); 0 where there is nothing."""
    right, found, named = counts.diagonal().double(), counts.sum(dim=1), counts.sum(dim=0)
    return {
        "precision": right / named.clamp(min=1),
        "recall": right / found.clamp(min=1),
        "f1": 2 * right / (found + named).clamp(min=1),
    }


def measure_top(logits: Tensor, labels: Tensor, top: int = 1) -> float:
    """The share of photos whose class is among the `top` highest; logits (N, K), labels (N,)."""
    return float((logits.topk(top, dim=1).indices == labels[:, None]).any(dim=1).double().mean())


def measure_calibration(probabilities: Tensor, labels: Tensor) -> float:
    """Expected calibration error: by how much the highest probability (N, K) is off the share that is right.

    Paper: Guo et al., arXiv:1706.04599, eq. 3; bins are closed on their left side.
    """
    shares, predicted = probabilities.double().max(dim=1)
    edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float64)
    places = (torch.bucketize(shares, edges, right=True) - 1).clamp(max=BINS - 1)
    gaps = (predicted == labels).double() - shares
    return float(torch.zeros(BINS, dtype=torch.float64).index_add_(0, places, gaps).abs().sum() / len(labels))
