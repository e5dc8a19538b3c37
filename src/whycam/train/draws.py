"""Which photos an epoch trains on, in which order, and which ones measure it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from whycam.config import TrainOptions

# What is drawn by the same keys.
_ORDER, _VIEW = 0, 1


class Draws:
    """Numbers and orders of photos that follow from the seed and from each photo's content, not from its place.

    A photo that comes or goes leaves the others' order as it is. Of an order that is drawn anew for 999 photos in place
    of 1,000 each step is another one, which changes more of the model's answers than the photo does.
    """

    def __init__(self, contents: Sequence[str], seed: int) -> None:
        """Of photos with these content hashes; copies are told apart by their number."""
        copies: Counter[str] = Counter()
        words = []
        for content in contents:
            words.append(f"{content}/{copies[content]}")
            copies[content] += 1
        keys = (hashlib.blake2b(word.encode(), digest_size=8).digest() for word in words)
        self._keys = np.frombuffer(b"".join(keys), dtype="<u8")
        self.seed = seed

    def __len__(self) -> int:
        return len(self._keys)

    def draw(self, *salt: int) -> np.ndarray:
        """(N,) uint64, others for another salt: the mixing of SplitMix64 (Steele et al. 2014, doi:10.1145/2714064)."""
        z = self._keys ^ np.random.SeedSequence([self.seed, *salt]).generate_state(1, np.uint64)[0]
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        numbers: np.ndarray = z ^ (z >> np.uint64(31))
        return numbers

    def order(self, *salt: int) -> Tensor:
        """(N,) rows in a random order."""
        return torch.from_numpy(np.argsort(self.draw(*salt), kind="stable"))


def draw_steps(draws: Draws, epoch: int, options: TrainOptions) -> Iterator[Tensor]:
    """The rows of each step of an epoch: a new order each time, started again where the steps outlast the photos."""
    count = len(draws)
    steps = count_steps(count, options)
    orders = [draws.order(_ORDER, epoch, turn) for turn in range(1 + steps * options.batch_size // count)]
    yield from torch.cat(orders)[: steps * options.batch_size if options.steps_per_epoch else count].split(
        options.batch_size
    )


def draw_views(draws: Draws, epoch: int, count: int) -> Tensor:
    """(N,) which of so many views each photo has in an epoch."""
    return torch.from_numpy((draws.draw(_VIEW, epoch) % np.uint64(count)).astype(np.int64))


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
