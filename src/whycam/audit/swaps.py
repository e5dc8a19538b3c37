"""The proof of a shortcut: a part of photos of one class is put into photos of another, and the answer changes.

One picture tells two things: whether the part brings its class along, and whether the host's class is lost without
the part that was there. The control is the same part of all the other classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from whycam.audit.data import AuditData


@dataclass(frozen=True)
class Pairs:
    """Rows of photos of different classes: the part of `donors[i]` is put into `hosts[i]`.

    Attributes:
        hosts, donors: (n,) rows of the data.
        host_class, donor_class: (n,).
    """

    hosts: np.ndarray
    donors: np.ndarray
    host_class: np.ndarray
    donor_class: np.ndarray

    def __len__(self) -> int:
        return len(self.hosts)


@dataclass(frozen=True)
class Outcome:
    """What swaps did.

    Attributes:
        pairs: what was swapped.
        is_won: (n,) the answer became the donor's class.
        is_lost: (n,) the answer was the host's class and is no more.
        gain: (n,) by how much the donor's class rose over the best other one, in logits.
        loss: (n,) by how much the host's class fell.
    """

    pairs: Pairs
    is_won: np.ndarray
    is_lost: np.ndarray
    gain: np.ndarray
    loss: np.ndarray


def draw_pairs(
    data: AuditData,
    donors: Mapping[int, np.ndarray],
    hosts: Mapping[int, np.ndarray],
    count: int,
    stream: int,
) -> Pairs:
    """`count` pairs for each class of `donors`, the hosts' other classes in turn; what is drawn follows from `stream`.

    The order depends on the seed and the photos' rows alone, not on the model.
    """
    draw = np.random.default_rng([data.seed, stream])
    shuffled = [{k: draw.permutation(rows) for k, rows in part.items()} for part in (donors, hosts)]
    drawn, used = [], dict.fromkeys(hosts, 0)
    for at, (k, rows) in enumerate(shuffled[0].items()):
        others = [other for other in hosts if other != k] or [k]  # of two classes, the other is its own control
        for i in range(count):
            other = others[(at + i) % len(others)]
            own = shuffled[1][other]
            drawn.append((own[used[other] % len(own)], rows[i % len(rows)], other, k))
            used[other] += 1
    return Pairs(*np.array(drawn).T)


def judge(data: AuditData, pairs: Pairs, changed: np.ndarray) -> Outcome:
    """What the changed hosts (n, 3, H, W) are taken for, against what they were taken for before."""
    before, after = data.logits[pairs.hosts], data.run(changed)
    was, now = before.argmax(1), after.argmax(1)
    return Outcome(
        pairs,
        (now == pairs.donor_class) & (was != pairs.donor_class),
        (was == pairs.host_class) & (now != pairs.host_class),
        margin(after, pairs.donor_class) - margin(before, pairs.donor_class),
        margin(before, pairs.host_class) - margin(after, pairs.host_class),
    )


def margin(logits: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """(n,): a class's logit less the best other one."""
    rows = np.arange(len(logits))
    rest = logits.copy()
    rest[rows, classes] = -np.inf
    values: np.ndarray = logits[rows, classes] - rest.max(1)
    return values
