"""A suspect: something on the photos of one class that may decide it, and how it is given to and taken from photos."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from whycam.audit.data import AuditData
from whycam.audit.findings import Box, Region

# Of a class with fewer photos nothing can be told.
MIN_PHOTOS = 8
Change = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Suspect:
    """What is to be tried.

    Attributes:
        kind: by what it was found.
        label: the class.
        region: where it lies.
        give: (hosts, donors), rows -> (n, 3, H, W) the hosts with what the donors have.
        take: the same of hosts of the class: without it, with what the donors have instead.
        title: what it is called: 'a mark in the upper left corner'.
        words: a sentence: what was seen of it.
        mask: (H, W) bool; None where it has no fixed place.
        members: rows of the class's photos that have it; None: all of them.
        boxes_of: row -> boxes on that photo, where the place differs.
    """

    kind: str
    label: int
    region: Region
    give: Change
    take: Change
    title: str
    words: str
    mask: np.ndarray | None = None
    members: np.ndarray | None = None
    boxes_of: Callable[[int], tuple[Box, ...]] | None = None


def list_classes(data: AuditData) -> list[int]:
    """The classes with enough photos to tell something of them."""
    return [k for k, rows in data.groups.items() if len(rows) >= MIN_PHOTOS]


def swap_place(data: AuditData, mask: np.ndarray) -> Change:
    """Puts the masked pixels (H, W) of donors into hosts."""

    def change(hosts: np.ndarray, donors: np.ndarray) -> np.ndarray:
        values: np.ndarray = np.where(mask, data.pixels[donors], data.pixels[hosts])
        return values

    return change
