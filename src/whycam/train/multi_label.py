"""Photos with several classes in training: what is learnt from them, and which options go with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from whycam.config import TrainOptions
from whycam.data.folder import PhotoFolder, Sample, count_labels
from whycam.errors import UserError
from whycam.model.ranking import rank_scores

# What asks for one class a photo: of the loss, of an exchange of photos' parts, or of what people say of photos.
_ONE_CLASS = ("ignore", "attend", "against", "groups", "robust", "test", "tta")


@dataclass(frozen=True)
class Goal:
    """What is learnt: a loss, and which photos are right by it.

    Attributes:
        loss: (logits (N, K), labels, weight (K,) or None, label smoothing) -> the mean, in nats.
        right: (logits (N, K), labels) -> (N,) in [0, 1].
        rank: of all photos at once, what is best where shares of right answers say little; see `find_best`.
    """

    loss: Callable[[Tensor, Tensor, Tensor | None, float], Tensor]
    right: Callable[[Tensor, Tensor], Tensor]
    rank: Callable[[Tensor, Tensor], float | None] | None = None


def _cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor | None, smoothing: float) -> Tensor:
    return functional.cross_entropy(logits, labels, weight=weight, label_smoothing=smoothing)


def _is_top(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.argmax(dim=1) == labels


def _binary_cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor | None, smoothing: float) -> Tensor:
    """Mean over photos and classes; weight: how often a photo that has the class counts."""
    softened = labels * (1 - smoothing) + 0.5 * smoothing
    return functional.binary_cross_entropy_with_logits(logits, softened, pos_weight=weight)


def _share_decided(logits: Tensor, labels: Tensor) -> Tensor:
    """Of each photo the share of classes that 50 % decides rightly: 1 - Hamming loss."""
    return ((logits > 0) == (labels > 0)).float().mean(dim=1)


def compute_mean_ap(logits: Tensor, labels: Tensor) -> float | None:
    """Mean over classes of the average precision; logits and labels (N, K). None where no class can be ranked.

    A class counts if some of the photos have it and some lack it; see `rank_scores`.
    """
    scores, truth, once = logits.cpu().numpy(), labels.cpu().numpy() > 0, np.ones((1, len(logits)))
    ranked = np.array([rank_scores(scores[:, k], truth[:, k], once)[1][0] for k in range(scores.shape[1])])
    known = ranked[np.isfinite(ranked)]
    return float(known.mean()) if len(known) else None


# Labels (N,) class indices.
ONE_OF_ALL = Goal(_cross_entropy, _is_top)
# Labels (N, K) float32, 1 of a class that the photo has, else 0.
EACH_BY_ITSELF = Goal(_binary_cross_entropy, _share_decided, compute_mean_ap)


def find_goal(photos: PhotoFolder) -> Goal:
    """What photos are learnt by."""
    return EACH_BY_ITSELF if photos.is_multi_label else ONE_OF_ALL


def to_labels(samples: Sequence[Sample], classes: int | None = None) -> Tensor:
    """(N,) class indices; with `classes`, the number of those that go together, (N, K) float32 of 0 and 1."""
    if classes is None:
        return torch.tensor([sample.label for sample in samples])
    values = torch.zeros(len(samples), classes)
    for row, sample in enumerate(samples):
        values[row, list(sample.classes)] = 1
    return values


def weigh_classes(photos: PhotoFolder) -> Tensor:
    """(K,) float32 for `--class-weights`: of classes that go together photos without it over those with it."""
    counts = torch.tensor(count_labels(photos.train, len(photos.class_names)), dtype=torch.float32)
    if photos.is_multi_label:
        return (len(photos.train) - counts) / counts.clamp(min=1)
    return counts.sum() / (len(counts) * counts)


def read_threshold(word: str) -> float | None:
    """A probability for all classes; None: each class's own, by F1.

    Raises:
        UserError: neither.
    """
    if word == "f1":
        return None
    try:
        value = float(word)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise UserError(
            f"--threshold is {word!r}; expected f1 (each class's own, by its F1 on held-out photos), or a probability "
            "between 0 and 1, such as 0.5."
        )
    return value


def check_multi_label(options: TrainOptions, photos: PhotoFolder, *, has_edits: bool) -> None:
    """Refuses options that don't go with photos of several classes, or are about them alone.

    Raises:
        UserError: there is one.
    """
    read_threshold(options.threshold)
    if not photos.is_multi_label:
        if options.threshold != "f1":
            raise UserError(
                f"Found --threshold {options.threshold} for photos of one class each, of which the highest score is "
                "named; expected it where classes go together. Leave it out, or see --multi-label."
            )
        return
    given = [f"--{name}" for name in _ONE_CLASS if getattr(options, name) not in {None, False}]
    given += ["--edits"] if has_edits else []
    if given:
        raise UserError(
            f"Found {given[0]} for photos with several classes; it takes photos of one class each. "
            f"Leave {given[0]} out."
        )
