"""Several processes at one training, as `accelerate launch` starts them: what the first does alone, what all share.

Each step's photos are dealt out among them and the gradients averaged, so that they take the steps that one would.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from whycam.config import TrainOptions
from whycam.errors import UserError
from whycam.intake.device import choose_device

T = TypeVar("T")
# The others wait for as long as the first reads photos. One that is killed is missed at once, by its closed connection.
_PATIENCE = timedelta(days=30)
# What the network's normalisation needs of a step in each process.
_LEAST_PHOTOS = 2
_LOST = ("connection closed", "connection reset", "connection refused", "broken pipe", "socket", "nccl")


@dataclass(frozen=True)
class Ranks:
    """The processes of a training: this one alone, where there is no accelerator.

    Attributes:
        accelerator: accelerate's, which knows the others and the device.
    """

    accelerator: Any = None

    @property
    def count(self) -> int:
        """How many there are."""
        return 1 if self.accelerator is None else int(self.accelerator.num_processes)

    @property
    def is_first(self) -> bool:
        """Whether this one writes the run."""
        return self.accelerator is None or bool(self.accelerator.is_main_process)

    @property
    def least(self) -> int:
        """So many photos a step has at the least."""
        return _LEAST_PHOTOS * self.count

    def find_device(self, name: str) -> torch.device:
        """Where this process computes; `name` as `--device` has it."""
        # On the CPU accelerate numbers it: cpu:0.
        is_told = self.accelerator is not None and self.accelerator.device.type != "cpu"
        return self.accelerator.device if is_told else torch.device(choose_device(name))

    def share(self, batch: Sequence[int]) -> list[int]:
        """This process's part of a batch."""
        return list(batch) if self.count == 1 else list(batch[self.accelerator.process_index :: self.count])

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, the same in each."""
        if self.count == 1:
            return values
        total: Tensor = self.accelerator.reduce(values.to(self.accelerator.device), reduction="sum")
        return total.to(values.device)

    def gather(self, parts: Sequence[T]) -> list[T]:
        """The parts of all processes, the same in each."""
        if self.count == 1:
            return list(parts)
        from accelerate.utils import gather_object  # noqa: PLC0415 - an extra

        found: list[T] = gather_object(list(parts))
        return found

    def first(self, make: Callable[[], T]) -> T:
        """What `make` gives in the first process, in all of them.

        Raises:
            UserError: in the others, where it raises in the first.
        """
        if self.count == 1:
            return make()
        from accelerate.utils import broadcast_object_list  # noqa: PLC0415 - an extra

        content: list[Any] = [None, False]
        if self.is_first:
            try:
                content = [make(), True]
            except Exception:
                broadcast_object_list(content)
                raise
        broadcast_object_list(content)
        if not content[1]:
            raise UserError("The first process of this training could not go on; it says why.")
        made: T = content[0]
        return made

    @contextmanager
    def wrap(self, module: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[Callable[[Tensor], Tensor]]:
        """Within the block, the forward pass to train by, whose backward pass averages gradients over the processes."""
        if self.accelerator is None:
            yield forward
            return
        wrapped = self.accelerator.prepare_model(module)
        try:
            yield wrapped
        finally:
            self.accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)

    def agree(self, module: nn.Module) -> None:
        """Gives all processes the first one's running statistics: each has seen photos of its own."""
        if self.count > 1:
            from accelerate.utils import broadcast  # noqa: PLC0415 - an extra

            for values in module.buffers():
                values.copy_(broadcast(values.clone()))

    def backward(self, loss: Tensor, labels: Tensor, class_weight: Tensor | None) -> None:
        """The backward pass of the mean loss over this process's part of a step, whose classes are `labels`.

        Args:
            loss: a mean over photos, or one weighted by their classes.
            labels: (N,) class indices, or (N, K) of classes that go together.
            class_weight: (K,); how often a photo that has a class counts changes nothing of a mean over all.
        """
        if self.accelerator is None:
            loss.backward()
            return
        is_plain = class_weight is None or labels.ndim > 1
        own = torch.ones(len(labels)).sum() if is_plain else class_weight[labels].sum()  # type: ignore[index]
        # Gradients are averaged; the step's loss is the mean over all its photos, however many this process has.
        self.accelerator.backward(loss * (own * self.count / self.sum(own)).to(loss.device))


ALONE = Ranks()


def is_launched() -> bool:
    """Whether a launcher started this process as one of several, or `accelerate launch` as the only one."""
    return "ACCELERATE_MIXED_PRECISION" in os.environ or int(os.environ.get("WORLD_SIZE") or 1) > 1


@contextmanager
def join_ranks(options: TrainOptions) -> Iterator[Ranks]:
    """The processes that were started together, for as long as the block lasts; without a launcher this one alone.

    On a GPU that has it, they compute in bfloat16.

    Raises:
        UserError: accelerate is not installed, a training that one process does, fewer than two photos a process in a
            step, or another process ended.
    """
    if not is_launched():
        yield ALONE
        return
    ranks = _open(options)
    try:
        _check(options, ranks)
        yield ranks
    except RuntimeError as error:
        if ranks.count == 1 or not any(word in str(error).lower() for word in _LOST):
            raise
        raise UserError(
            "Another process of this training ended before it was done. Where its run keeps checkpoints, the same "
            "command with --resume goes on after the last whole epoch."
        ) from error
    finally:
        ranks.accelerator.end_training()


def _open(options: TrainOptions) -> Ranks:
    try:
        from accelerate import Accelerator  # noqa: PLC0415 - an extra
        from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs  # noqa: PLC0415 - as above
    except ImportError:
        raise UserError(
            "Found a launcher of several processes, and accelerate is not installed; expected it for --unfreeze and "
            "--scratch. Install it: pip install 'whycam[dist]', or start whycam train by itself."
        ) from None
    is_on_cpu = choose_device(options.device) == "cpu"
    has_bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported() and not is_on_cpu
    # A network may have weights that its last features don't need; which ones is the same in each step.
    how = [DistributedDataParallelKwargs(static_graph=True), InitProcessGroupKwargs(timeout=_PATIENCE)]
    return Ranks(Accelerator(cpu=is_on_cpu, mixed_precision="bf16" if has_bfloat16 else "no", kwargs_handlers=how))


def _check(options: TrainOptions, ranks: Ranks) -> None:
    if ranks.count == 1:
        return
    if not options.scratch and options.unfreeze == "none":
        raise UserError(
            f"Found {ranks.count} processes for a frozen backbone, whose features are computed once; expected "
            "--unfreeze or --scratch, which train the network. Give one of them, or start whycam train by itself."
        )
    if options.batch_size < ranks.least:
        raise UserError(
            f"Found --batch-size {options.batch_size} for {ranks.count} processes; expected {ranks.least} or more: a "
            f"step's photos are dealt out, at least {_LEAST_PHOTOS} to each. Give a larger one, or start fewer."
        )
