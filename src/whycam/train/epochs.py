"""What is kept of each epoch of a training, and which one is the best; without torch, for pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Epoch:
    """One line of `metrics.jsonl`; losses in nats, accuracies in [0, 1]: see `Goal`.

    `val_loss` and `val_accuracy` are of `val_photos` of the photos `measured_on`: all there are, or (`is_val_whole`
    false) a sample. Where nothing measures the epochs they are None, of no photos. `val_mean_ap` is of classes that go
    together, the mean over those that some of the photos have and some lack: it comes before what the epochs are
    `ranked_by` else.
    """

    phase: str
    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    lr: float
    time_s: float
    val_photos: int = 0
    is_val_whole: bool = True
    measured_on: Literal["slice", "val", "none"] = "val"
    val_mean_ap: float | None = None
    ranked_by: Literal["accuracy", "loss"] = "accuracy"

    @property
    def rank(self) -> tuple[float, float]:
        """See `rank_epoch`."""
        return rank_epoch(self.ranked_by, self.val_loss, self.val_accuracy, self.val_mean_ap)

    @property
    def chosen_by(self) -> str:
        """What is compared first of epochs that these photos measured."""
        return self.ranked_by if self.val_mean_ap is None else "mean AP"

    @property
    def figure(self) -> float | None:
        """That of `chosen_by`."""
        return {"mean AP": self.val_mean_ap, "loss": self.val_loss, "accuracy": self.val_accuracy}[self.chosen_by]


def rank_epoch(
    by: str | None, loss: float | None, accuracy: float | None, mean_ap: float | None = None
) -> tuple[float, float]:
    """What the best epoch has most of: by its loss or its accuracy first, then by the other; by mean AP before both.

    The accuracy of 200 photos goes in steps of half a per cent, so that one photo less chooses a head's epoch far away,
    and the loss does not. The loss of a whole network rises when it grows too sure of its answers, while more of them
    become right (Guo et al., arXiv:1706.04599, section 3): there the accuracy is first.
    """
    if mean_ap is not None:
        return mean_ap, rank_loss(loss)
    right = accuracy or 0.0
    return (rank_loss(loss), right) if by == "loss" else (right, rank_loss(loss))


def rank_loss(loss: float | None) -> float:
    """Higher is better; what nothing measured, and a loss that is no number, is behind all others."""
    return -math.inf if loss is None or math.isnan(loss) else -loss


def find_best(epochs: Sequence[Epoch]) -> int:
    """The place of the best epoch, the first of equals; where some were measured on all photos, one of them."""
    whole = [place for place, line in enumerate(epochs) if line.is_val_whole]
    return max(whole or range(len(epochs)), key=lambda place: epochs[place].rank)


def find_kept(epochs: Sequence[Epoch], keeps: Literal["best", "last"]) -> int:
    """The place of the epoch whose state is kept."""
    return len(epochs) - 1 if keeps == "last" else find_best(epochs)
