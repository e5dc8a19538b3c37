"""A suspect: something on the photos of one class that may decide it, and how it is given to and taken from photos."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from whycam.audit.data import AuditData
from whycam.audit.findings import Box, Region

# Of a class with fewer photos nothing can be told: no p is smaller than 2^-photos, and some 20 suspects are tried.
MIN_PHOTOS = 10
# What is left of a photo outside so large a place is the object, whose colours say nothing of the light.
_MOST_MATCHED, _MOST_SLOPE = 0.5, 4
Change = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Suspect:
    """What is to be tried.

    Attributes:
        kind: by what it was found.
        label: the class.
        region: where it lies.
        give: (hosts, donors), rows -> (n, 3, H, W) the hosts with what the donors have.
        take: the same of hosts of the class: what the donors have stands in its place; a donor of the class that has
            it puts its own there. None where it can't be taken away.
        title: what it is called: 'a mark in the upper left corner'.
        words: a sentence: what was seen of it.
        mask: (H, W) bool; None where it has no fixed place.
        members: rows of the class's photos that have it; None: all of them.
        pool: rows among which photos are drawn at all, where not each can be changed so; None: all of them.
        boxes_of: row -> boxes on that photo, where the place differs.
        partners: other classes whose photos have the same.
        may_be_object: nothing but a general network's words tells it from the object.
        numbers: what the finding's numbers say of it beside those of the trial.
    """

    kind: str
    label: int
    region: Region
    give: Change
    take: Change | None
    title: str
    words: str
    mask: np.ndarray | None = None
    members: np.ndarray | None = None
    boxes_of: Callable[[int], tuple[Box, ...]] | None = None
    pool: np.ndarray | None = None
    partners: tuple[int, ...] = ()
    may_be_object: bool = False
    numbers: Mapping[str, Any] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[int, ...]:
        """The class, and those that share the cause."""
        return (self.label, *self.partners)


def list_classes(data: AuditData) -> list[int]:
    """The classes with enough photos to tell something of them."""
    return [k for k, rows in data.groups.items() if len(rows) >= MIN_PHOTOS]


def find_owners(data: AuditData) -> np.ndarray:
    """(N,) each photo's class; -1 of those with too few photos."""
    owners: np.ndarray = np.where(np.isin(data.classes, list_classes(data)), data.classes, -1)
    return owners


def swap_place(data: AuditData, mask: np.ndarray, *, is_matched: bool = False) -> Change:
    """Puts the masked pixels (H, W) of donors into hosts.

    Args:
        data: the photos.
        mask: which pixels.
        is_matched: brings the donor to the brightness and contrast of the host, as the rest of both photos has them:
            a patch of a bright photo would stand out in a dark one whatever it shows.
    """
    is_matched = is_matched and mask.mean() < _MOST_MATCHED

    def change(hosts: np.ndarray, donors: np.ndarray) -> np.ndarray:
        patches = match_light(data.pixels[donors], data.pixels[hosts], ~mask) if is_matched else data.pixels[donors]
        values: np.ndarray = np.where(mask, patches, data.pixels[hosts])
        return values

    return change


def match_light(pixels: np.ndarray, others: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Pixels (n, 3, H, W) with each channel's mean and spread under the mask (H, W) brought to those of the others."""
    if not mask.any():
        return pixels
    own, goal = (part[:, :, mask].astype(np.float32) for part in (pixels, others))
    slope = ((goal.std(2) + 1) / (own.std(2) + 1)).clip(1 / _MOST_SLOPE, _MOST_SLOPE)[..., None, None]
    values = (pixels - own.mean(2)[..., None, None]) * slope + goal.mean(2)[..., None, None]
    matched: np.ndarray = values.clip(0, 255).astype(np.uint8)
    return matched
