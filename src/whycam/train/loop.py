"""The training loop, in plain sight: one loop for a head on stored features and for a whole network on photos."""

from __future__ import annotations

import heapq
import io
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from whycam.runs import open_atomic
from whycam.train.epochs import Epoch, find_kept, rank_loss
from whycam.train.multi_label import ONE_OF_ALL, Goal
from whycam.train.ranks import ALONE, Ranks

# Of an epoch: inputs, labels and, where the phase has `focus`, cells.
Batches = Callable[[int], Iterable[tuple[Tensor, ...]]]
# So many epochs, the best by a sample, are measured on all validation photos in the end, beside the last one.
_FINALISTS = 3


@dataclass(frozen=True)
class Phase:
    """What one call of `fit` trains, and for how long.

    Attributes:
        name: `head`, `refit`, `finetune` or `scratch`; the checkpoint carries it.
        trained: the modules whose state is kept and restored.
        forward: inputs -> (N, K) logits.
        groups: the optimiser's parameter groups, each with its `lr`.
        epochs: at the most; the learning rate goes by these.
        patience: epochs without a better validation before it ends; 0 never ends early.
        schedule: `cosine` to zero, or `constant`.
        weight_decay: decoupled, as in AdamW.
        class_weight: (K,) weight of each class in the loss.
        is_fused: the optimiser's step in one pass over the weights, quicker where they are many.
        set_mode: puts the modules into training mode, where the phase wants more than `trained.train()`.
        focus: inputs, cells (N, h, w) -> logits, and what is added to the loss for evidence in the wrong cells.
        stop_after: so many epochs, where fewer are wanted than the learning rate goes by.
        keeps: the state of the `best` epoch, or of the `last` one.
        measured_on: which photos `val` has.
        ranked_by: what is compared first of epochs; see `rank_epoch`.
        label_smoothing: share of each target that all classes have alike (Szegedy et al., arXiv:1512.00567, section 7).
        ema: what is measured and kept is the weights' moving average, of which each step keeps this share in the end.
        goal: what is learnt.
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
    is_fused: bool = False
    set_mode: Callable[[], None] | None = None
    focus: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    stop_after: int | None = None
    keeps: Literal["best", "last"] = "best"
    measured_on: Literal["slice", "val", "none"] = "val"
    ranked_by: Literal["accuracy", "loss"] = "accuracy"
    label_smoothing: float = 0.0
    ema: float | None = None
    goal: Goal = ONE_OF_ALL


def fit(
    phase: Phase,
    train: Batches,
    val: Batches | None,
    checkpoint: Path,
    *,
    on_epoch: Callable[[Epoch], None],
    on_step: Callable[[], None],
    val_sample: Batches | None = None,
    ranks: Ranks = ALONE,
) -> list[Epoch]:
    """Trains until the epochs or the patience end; the kept epoch's state is in `phase.trained` afterwards.

    It is the best one (see `rank_epoch`) or, as `phase.keeps` says, the last. With `val_sample` that measures each
    epoch, and the best few by it and the last are measured on `val` in the end: the best of these is kept. After each
    epoch `checkpoint` holds all that is needed to go on, together with the states of the best epochs beside it; if it
    is there at the start, training goes on after its epoch.

    Args:
        phase: what to train.
        train: epoch -> batches (inputs, labels as the goal has them), the same for the same epoch.
        val: the same of the photos that measure an epoch; None: nothing does.
        checkpoint: a file; replaced whole after each epoch.
        on_epoch: told of each finished epoch, and again of those measured on all photos in the end.
        on_step: told of each finished step.
        val_sample: fewer photos than `val` has, where those would take longer than the epoch's training.
        ranks: the processes that train; of each batch the functions above give this one's part.
    """
    optimizer = torch.optim.AdamW(phase.groups, weight_decay=phase.weight_decay, fused=phase.is_fused or None)
    base_lrs = [group["lr"] for group in optimizer.param_groups]
    # From the start's weights on, a short training's average would hang on them: timm's warm-up lets go of them sooner.
    average = None if phase.ema is None else ModelEmaV3(phase.trained, decay=phase.ema, use_warmup=True)
    state = _Progress(checkpoint, phase, optimizer, average, 1 if val_sample is None else _FINALISTS, ranks)
    state.load()
    with ranks.wrap(phase.trained, phase.forward) as forward:
        while state.next_epoch < (phase.stop_after or phase.epochs) and not state.is_out_of(phase.patience):
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
                logits, penalty = phase.focus(inputs, *cells) if phase.focus else (forward(inputs), None)
                loss = phase.goal.loss(logits, labels, phase.class_weight, phase.label_smoothing)
                optimizer.zero_grad(set_to_none=True)
                ranks.backward(loss if penalty is None else loss + penalty, labels, phase.class_weight)
                optimizer.step()
                if average is not None:
                    average.update(phase.trained, step=epoch * phase.steps_per_epoch + step + 1)
                seen += _count(phase.goal.right(logits.detach(), labels), loss.detach())
                on_step()
            phase.trained.eval()
            ranks.agree(phase.trained)
            train_loss, train_accuracy = _average(ranks.sum(seen))
            batches = val_sample or val
            measured = phase.forward if average is None else average.module
            found = _NOTHING if batches is None else measure(measured, batches(epoch), phase.goal, ranks)
            line = Epoch(
                phase.name,
                epoch,
                train_loss,
                train_accuracy,
                found.loss,
                found.accuracy,
                optimizer.param_groups[0]["lr"],
                time.perf_counter() - start,
                found.photos,
                val_sample is None,
                phase.measured_on,
                found.mean_ap,
                phase.ranked_by,
            )
            state.add(line)
            on_epoch(line)
    if val_sample is not None and val is not None:
        for line in state.judge(phase.forward, val, phase.goal):
            on_epoch(line)
    state.restore(find_kept(state.history, phase.keeps))
    phase.trained.eval()
    return state.history


class Measured(NamedTuple):
    """What photos say of an epoch; see `Epoch`."""

    loss: float | None
    accuracy: float | None
    photos: int
    mean_ap: float | None = None


_NOTHING = Measured(None, None, 0)


@torch.no_grad()
def measure(
    forward: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, ...]],
    goal: Goal = ONE_OF_ALL,
    ranks: Ranks = ALONE,
) -> Measured:
    """The means over batches, those of all processes."""
    seen, kept = torch.zeros(3, dtype=torch.float64), []
    for inputs, labels in batches:
        logits = forward(inputs)
        seen += _count(goal.right(logits, labels), goal.loss(logits, labels, None, 0.0))
        if goal.rank is not None:
            kept.append((logits.float().cpu(), labels.cpu()))
    seen = ranks.sum(seen)
    ranked = None if goal.rank is None else goal.rank(*map(torch.cat, zip(*ranks.gather(kept), strict=True)))
    return Measured(*_average(seen), int(seen[2]), ranked)


def _count(right: Tensor, loss: Tensor) -> Tensor:
    """(loss, right photos, photos) of a batch, summed; right (N,)."""
    return torch.stack(
        [loss.double().cpu() * len(right), right.sum().double().cpu(), torch.tensor(len(right), dtype=torch.float64)]
    )


def _average(seen: Tensor) -> tuple[float, float]:
    return float(seen[0] / seen[2]), float(seen[1] / seen[2])


class _Progress:
    """How far a training is: its epochs' lines, and on the disk its last state and those of the best epochs.

    A state has a file of its own, written once: a checkpoint that held them all would be large to write each time.
    Of several processes the first alone writes and reads them.
    """

    def __init__(  # noqa: PLR0917 - all that a training's state is made of
        self,
        checkpoint: Path,
        phase: Phase,
        optimizer: torch.optim.Optimizer,
        average: ModelEmaV3 | None,
        keep: int,
        ranks: Ranks,
    ) -> None:
        self.checkpoint, self.module, self.optimizer, self.keep = checkpoint, phase.trained, optimizer, keep
        self.keeps, self.average, self.ranks = phase.keeps, average, ranks
        self.history: list[Epoch] = []

    @property
    def next_epoch(self) -> int:
        return len(self.history)

    @property
    def kept(self) -> list[int]:
        """The best epochs so far, the best first; or the last one, where that is what is kept."""
        if self.keeps == "last":
            return [len(self.history) - 1] if self.history else []
        return heapq.nlargest(self.keep, range(len(self.history)), key=lambda place: self.history[place].rank)

    def is_out_of(self, patience: int) -> bool:
        """Whether so many epochs brought nothing better.

        A sample's accuracy goes in coarse steps, and a lucky epoch may hold it for long; so there a lower loss is
        better too.
        """
        if patience == 0 or not self.history:
            return False
        last_better = self.kept[0]
        if not self.history[-1].is_val_whole:
            losses = [rank_loss(line.val_loss) for line in self.history]
            last_better = max(last_better, losses.index(max(losses)))
        return len(self.history) - 1 - last_better >= patience

    def add(self, line: Epoch) -> None:
        """Takes up an epoch and writes the files; a kill in between leaves those of the epoch before whole."""
        before = self.kept
        self.history.append(line)
        if not self.ranks.is_first:
            return
        if line.epoch in self.kept:
            _save(self._measured.state_dict(), self._place(line.epoch))
        content = {
            "history": [asdict(line) for line in self.history],
            "state": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **({} if self.average is None else {"average": self.average.module.state_dict()}),
        }
        _save(content, self.checkpoint)
        for epoch in set(before).difference(self.kept):
            self._place(epoch).unlink(missing_ok=True)

    def load(self) -> None:
        """Goes back to the checkpoint, if there is one with the states that it counts on beside it."""
        content = self.ranks.first(self._read)
        if content is None:
            return
        self.history = [Epoch(**line) for line in content["history"]]
        self.module.load_state_dict(content["state"])
        self.optimizer.load_state_dict(content["optimizer"])
        if self.average is not None:
            self.average.module.load_state_dict(content["average"])

    @property
    def _measured(self) -> nn.Module:
        return self.module if self.average is None else self.average.module

    def _read(self) -> dict[str, Any] | None:
        if not self.checkpoint.is_file():
            return None
        content: dict[str, Any] = _load(self.checkpoint)
        self.history = [Epoch(**line) for line in content["history"]]
        is_whole = all(self._place(epoch).is_file() for epoch in self.kept)
        self.history = []
        return content if is_whole else None

    def judge(self, forward: Callable[[Tensor], Tensor], val: Batches, goal: Goal) -> Iterator[Epoch]:
        """Measures the kept epochs and the last one on all validation photos; gives their new lines."""
        last = len(self.history) - 1
        finalists = sorted({*self.kept, last})
        if self.ranks.is_first:
            _save(self._measured.state_dict(), self._place(last))
        for epoch in finalists:
            self.restore(epoch)
            found = measure(forward, val(epoch), goal, self.ranks)
            self.history[epoch] = replace(
                self.history[epoch],
                val_loss=found.loss,
                val_accuracy=found.accuracy,
                val_photos=found.photos,
                is_val_whole=True,
                val_mean_ap=found.mean_ap,
            )
            yield self.history[epoch]

    def restore(self, epoch: int) -> None:
        """Puts the kept epoch's state into the module."""
        self.module.load_state_dict(self.ranks.first(lambda: _load(self._place(epoch))))

    def _place(self, epoch: int) -> Path:
        return self.checkpoint.with_name(f"{self.checkpoint.stem}-{epoch}.pt")


def _save(content: dict[str, Any], path: Path) -> None:
    # Into memory first: PyTorch's own writer tells no reason when the disk is full.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with open_atomic(path) as part:
        part.write_bytes(buffer.getbuffer())


def _load(path: Path) -> dict[str, Any]:
    # Not onto the device that wrote it: each process has one of its own.
    content: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    return content
