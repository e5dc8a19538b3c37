"""Sentences on what could not be looked at, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from whycam.audit.data import AuditData
from whycam.audit.suspects import MIN_PHOTOS
from whycam.errors import as_clause

_MOST_LISTED = 8


def tell_undrawn(count: int) -> list[str]:
    """What the limit left out."""
    return [f"{count} photos were left out by the limit."] if count else []


def tell_unreadable(unreadable: Mapping[Path, str], what: str = "photos") -> list[str]:
    """Which files can't be read."""
    if not unreadable:
        return []
    first, why = next(iter(unreadable.items()))
    return [f"{len(unreadable)} {what} could not be read; the first: '{first}': {as_clause(why)}."]


def tell_unlabelled(data: AuditData) -> str:
    """How many photos say no class."""
    return f"{int((data.labels < 0).sum())} of {len(data)} photos are in no folder of a class that the model knows"


def tell_few(names: Sequence[str], what: str) -> list[str]:
    """The classes with too few photos for `what`."""
    if not names:
        return []
    listed = ", ".join(names[:_MOST_LISTED])
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return [f"Fewer than {MIN_PHOTOS} photos, so {what} can be told: {listed}{more}."]
