"""Swaps: a cause is put into photos, or taken out of them, and the same is done once more without the cause.

Each photo is changed twice: by a donor that has the cause and by one that has not. The two pictures differ in nothing
but the cause: the seams, the strangeness of a patch and its place are the same in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from whycam.audit.chance import compare_pairs
from whycam.audit.data import AuditData


@dataclass(frozen=True)
class Pairs:
    """Rows of the data: what `donors[i]` have goes into `hosts[i]`, and in the control what `controls[i]` have.

    Attributes:
        hosts, donors, controls: (n,) rows.
    """

    hosts: np.ndarray
    donors: np.ndarray
    controls: np.ndarray

    def __len__(self) -> int:
        return len(self.hosts)

    def __getitem__(self, part: slice) -> Pairs:
        return Pairs(self.hosts[part], self.donors[part], self.controls[part])


@dataclass(frozen=True)
class Outcome:
    """What swaps did, all in the direction that is claimed.

    Attributes:
        pairs: what was swapped.
        is_changed: (n,) the answer changed as claimed.
        is_control: (n,) it did so in the control.
        shift: (n,) by how many logits further than in the control the lead of the class moved as claimed.
    """

    pairs: Pairs
    is_changed: np.ndarray
    is_control: np.ndarray
    shift: np.ndarray

    @property
    def share(self) -> float:
        """Of the photos, those that changed."""
        return float(self.is_changed.mean())

    @property
    def control(self) -> float:
        """Of the photos, those that changed in the control."""
        return float(self.is_control.mean())

    @property
    def effect(self) -> float:
        """How many more of the photos changed than in the control."""
        return self.share - self.control

    @cached_property
    def p_shift(self) -> float:
        """The chance that the leads move so by accident; photos and donors that come again count once."""
        return self._test(self.shift)

    @cached_property
    def p_change(self) -> float:
        """The chance that so many more answers change than in the control by accident."""
        return self._test(self.is_changed.astype(float) - self.is_control)

    def _test(self, differences: np.ndarray) -> float:
        pairs = self.pairs
        return max(compare_pairs(differences, rows) for rows in (pairs.hosts, pairs.donors, pairs.controls))

    def __add__(self, other: Outcome) -> Self:
        """Both together."""
        own = (self.pairs.hosts, self.pairs.donors, self.pairs.controls, self.is_changed, self.is_control, self.shift)
        new = (
            *(other.pairs.hosts, other.pairs.donors, other.pairs.controls),
            *(other.is_changed, other.is_control, other.shift),
        )
        rows = [np.concatenate(both) for both in zip(own, new, strict=True)]
        return type(self)(Pairs(*rows[:3]), *rows[3:])


def draw_pairs(
    hosts: Mapping[int, np.ndarray],
    donors: Mapping[int, np.ndarray],
    controls: Mapping[int, np.ndarray],
    count: int,
    seed: Sequence[int],
) -> Pairs:
    """At most `count` pairs; each part's classes come in turn, and so do the photos of each.

    A host is never its own donor. What is drawn follows from the seed and the rows alone, not from the model.

    Args:
        hosts: class -> rows of the photos to be changed.
        donors: class -> rows that have the cause.
        controls: class -> rows that have not.
        count: how many.
        seed: of all that is drawn.
    """
    draw = np.random.default_rng(list(seed))
    turns = [_take_turns(part, draw) for part in (hosts, donors, controls)]
    if not all(len(rows) for rows in turns):
        return Pairs(*(np.zeros(0, dtype=int) for _ in range(3)))
    picked = [np.resize(rows, count) for rows in turns]
    for part in picked[1:]:
        same = np.flatnonzero(part == picked[0])
        # The photo before it in the turn, which is another one where there are two.
        part[same] = part[same - 1]
    is_apart = (picked[1] != picked[0]) & (picked[2] != picked[0])
    return Pairs(*(part[is_apart] for part in picked))


def _take_turns(part: Mapping[int, np.ndarray], draw: np.random.Generator) -> np.ndarray:
    """All rows, a class after the other in turn, those of each shuffled; the smaller classes come again."""
    shuffled = [draw.permutation(rows) for rows in part.values() if len(rows)]
    longest = max(map(len, shuffled), default=0)
    if not longest:
        return np.zeros(0, dtype=int)
    turns: np.ndarray = np.stack([np.resize(rows, longest) for rows in shuffled], axis=1).ravel()
    return turns


def margin(logits: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """(n,): the best logit of some classes less the best one of all others."""
    is_own = np.zeros(logits.shape[1], dtype=bool)
    is_own[list(classes)] = True
    values: np.ndarray = logits[:, is_own].max(1) - logits[:, ~is_own].max(1)
    return values


def give(data: AuditData, pairs: Pairs, classes: Sequence[int], with_cause: np.ndarray, without: np.ndarray) -> Outcome:
    """What hosts of other classes are taken for with the cause, and in the control; (n, 3, H, W) each."""
    after, usual = data.run(with_cause), data.run(without)
    return Outcome(
        pairs,
        np.isin(after.argmax(1), classes),
        np.isin(usual.argmax(1), classes),
        margin(after, classes) - margin(usual, classes),
    )


def take(data: AuditData, pairs: Pairs, classes: Sequence[int], without: np.ndarray, with_cause: np.ndarray) -> Outcome:
    """What hosts of the classes are taken for without the cause, and in the control; (n, 3, H, W) each."""
    after, usual = data.run(without), data.run(with_cause)
    return Outcome(
        pairs,
        ~np.isin(after.argmax(1), classes),
        ~np.isin(usual.argmax(1), classes),
        margin(usual, classes) - margin(after, classes),
    )
