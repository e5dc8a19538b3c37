"""The training loop, in plain sight: one loop for a head on stored features and for a whole network on photos."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# Of an epoch: inputs, labels and, where the phase has `focus`, cells.
Batches = Callable[[int], Iterable[tuple[Tensor, ...]]]


@dataclass(frozen=True)
class Epoch:
    """One line of `metrics.jsonl`; losses in nats, accuracies in [0, 1]."""

    phase: str
    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    lr: float
    time_s: float


@dataclass(frozen=True)
class Phase:
    """What one call of `fit` trains, and for how long.

    Attributes:
        name: `head`, `finetune` or `scratch`; the checkpoint carries it.
        trained: the modules whose state is kept and restored.
        forward: inputs -> (N, K) logits.
        groups: the optimiser's parameter groups, each with its `lr`.
        epochs: at the most.
        patience: epochs without a better validation before it ends; 0 never ends early.
        schedule: `cosine` to zero, or `constant`.
        weight_decay: decoupled, as in AdamW.
        class_weight: (K,) weight of each class in the loss.
        set_mode: puts the modules into training mode, where the phase wants more than `trained.train()`.
        focus: inputs, cells (N, h, w) -> logits, and what is added to the loss for evidence in the wrong cells.
    """

    name: str
    trained: nn.Module
    forward: Callable[[Tensor], Tensor]
    groups: Sequence[dict[str, Any]]
    epochs: int
    steps_per_epoch: int
    patience: int
    schedule: str
    weight_decay: float
    seed: int
    class_weight: Tensor | None = None
    set_mode: Callable[[], None] | None = None
    focus: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None


def fit(
    phase: Phase,
    train: Batches,
    val: Batches,
    checkpoint: Path,
    *,
    on_epoch: Callable[[Epoch], None],
    on_step: Callable[[], None],
) -> list[Epoch]:
    """Trains until the epochs or the patience end; the best epoch's state is in `phase.trained` afterwards.

    The best epoch has the highest validation accuracy, and among equals the lowest validation loss. After each epoch
    `checkpoint` holds all that is needed to go on; if it is there at the start, training goes on after its epoch.

    Args:
        phase: what to train.
        train: epoch -> batches (inputs, labels (N,)), the same for the same epoch.
        val: the same for validation.
        checkpoint: a file; replaced whole after each epoch.
        on_epoch: told of each finished epoch.
        on_step: told of each finished step.
    """
    optimizer = torch.optim.AdamW(phase.groups, weight_decay=phase.weight_decay)
    base_lrs = [group["lr"] for group in optimizer.param_groups]
    state = _Progress()
    if checkpoint.is_file():
        state.load(torch.load(checkpoint, weights_only=True), phase.trained, optimizer)
    while state.next_epoch < phase.epochs and not state.is_out_of(phase.patience):
        start, epoch = time.perf_counter(), state.next_epoch
        torch.manual_seed(phase.seed * 100_003 + epoch)
        phase.trained.train()
        if phase.set_mode:
            phase.set_mode()
        seen = torch.zeros(3, dtype=torch.float64)
        for step, (inputs, labels, *cells) in enumerate(train(epoch)):
            share = (epoch * phase.steps_per_epoch + step) / (phase.epochs * phase.steps_per_epoch)
            factor = 0.5 * (1 + math.cos(math.pi * share)) if phase.schedule == "cosine" else 1.0
            for group, lr in zip(optimizer.param_groups, base_lrs, strict=True):
                group["lr"] = lr * factor
            logits, penalty = phase.focus(inputs, *cells) if phase.focus else (phase.forward(inputs), None)
            loss = functional.cross_entropy(logits, labels, weight=phase.class_weight)
            optimizer.zero_grad(set_to_none=True)
            (loss if penalty is None else loss + penalty).backward()
            optimizer.step()
            seen += _count(logits.detach(), labels, loss.detach())
            on_step()
        phase.trained.eval()
        train_loss, train_accuracy = _average(seen)
        val_loss, val_accuracy = measure(phase.forward, val(epoch))
        lr = optimizer.param_groups[0]["lr"]
        line = Epoch(
            phase.name, epoch, train_loss, train_accuracy, val_loss, val_accuracy, lr, time.perf_counter() - start
        )
        state.add(line, phase.trained)
        state.save(checkpoint, phase.trained, optimizer)
        on_epoch(line)
    phase.trained.load_state_dict(state.best_state)
    phase.trained.eval()
    return state.history


def find_best(epochs: Sequence[Epoch]) -> int:
    """The place of the epoch with the highest validation accuracy, then the lowest validation loss; the first."""
    return max(range(len(epochs)), key=lambda i: (epochs[i].val_accuracy, -epochs[i].val_loss))


@torch.no_grad()
def measure(forward: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, ...]]) -> tuple[float, float]:
    """(mean loss, accuracy) over batches."""
    seen = torch.zeros(3, dtype=torch.float64)
    for inputs, labels in batches:
        logits = forward(inputs)
        seen += _count(logits, labels, functional.cross_entropy(logits, labels))
    return _average(seen)


def _count(logits: Tensor, labels: Tensor, loss: Tensor) -> Tensor:
    right = (logits.argmax(dim=1) == labels).sum()
    return torch.stack(
        [loss.double().cpu() * len(labels), right.double().cpu(), torch.tensor(len(labels), dtype=torch.float64)]
    )


def _average(seen: Tensor) -> tuple[float, float]:
    return float(seen[0] / seen[2]), float(seen[1] / seen[2])


class _Progress:
    """What a checkpoint holds: the history, the last state and the best one."""

    def __init__(self) -> None:
        self.history: list[Epoch] = []
        self.best_state: dict[str, Tensor] = {}
        self.best = -1

    @property
    def next_epoch(self) -> int:
        return len(self.history)

    def is_out_of(self, patience: int) -> bool:
        return patience > 0 and len(self.history) - 1 - self.best >= patience and self.best >= 0

    def add(self, line: Epoch, module: nn.Module) -> None:
        self.history.append(line)
        if find_best(self.history) == len(self.history) - 1:
            self.best = len(self.history) - 1
            self.best_state = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}

    def save(self, path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        content = {
            "history": [asdict(line) for line in self.history],
            "best": self.best,
            "best_state": self.best_state,
            "state": module.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        part = path.with_name(path.name + ".part")
        torch.save(content, part)
        part.replace(path)

    def load(self, content: dict[str, Any], module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.history = [Epoch(**line) for line in content["history"]]
        self.best, self.best_state = content["best"], content["best_state"]
        module.load_state_dict(content["state"])
        optimizer.load_state_dict(content["optimizer"])
