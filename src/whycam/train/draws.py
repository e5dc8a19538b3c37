"""Which photos an epoch trains on, in which order, and which ones measure it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from whycam.config import TrainOptions


def draw_steps(count: int, draw: torch.Generator, options: TrainOptions) -> Iterator[Tensor]:
    """The rows of each step of an epoch: a new order each time, started again where the steps outlast the photos."""
    steps = count_steps(count, options)
    orders = [torch.randperm(count, generator=draw) for _ in range(1 + steps * options.batch_size // count)]
    yield from torch.cat(orders)[: steps * options.batch_size if options.steps_per_epoch else count].split(
        options.batch_size
    )


def count_steps(count: int, options: TrainOptions) -> int:
    """Steps of an epoch over so many photos."""
    return options.steps_per_epoch or -(-count // options.batch_size)


def split_batches(order: Sequence[int], size: int, least: int = 2) -> list[list[int]]:
    """Batches of that size; a last one under `least` goes with the batch before.

    A photo alone, in any process, would break batch normalisation.
    """
    batches = [list(order[start : start + size]) for start in range(0, len(order), size)]
    if len(batches) > 1 and len(batches[-1]) < least:
        few = batches.pop()
        batches[-1] += few
    return batches


def choose_sample(labels: Tensor, steps: int, options: TrainOptions) -> Tensor | None:
    """Rows of the validation photos that measure an epoch of so many steps; None: all of them.

    By itself as many as the epoch trains on, where all would be over twice as many: a step on a photo costs two to
    three times its validation, so that this takes less time than the training. The rows are the same in each epoch, so
    that what differs is the model; they follow from the seed and have the classes in their proportions, those that go
    together by chance alone.

    Args:
        labels: (N,) classes of all validation photos; (N, K) of classes that go together.
        steps: of an epoch.
        options: `val_photos`, `batch_size` and `seed` count.
    """
    trained = steps * options.batch_size
    wanted = options.val_photos or (trained if len(labels) > 2 * trained else len(labels))
    if wanted >= len(labels):
        return None
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(options.seed))
    if labels.ndim > 1:
        return order[:wanted].sort().values
    place = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique().tolist():
        members = order[labels.cpu()[order] == label]
        place[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return order[place[order].argsort(stable=True)][:wanted].sort().values
