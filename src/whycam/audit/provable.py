"""What so many photos of a class can prove at the most: the smallest effect of a cause that a trial could convict."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from whycam.audit.chance import compare_pairs, to_certainty
from whycam.audit.data import AuditData
from whycam.audit.findings import LEAST_CERTAINTY
from whycam.audit.suspects import list_classes
from whycam.audit.training import ENOUGH
from whycam.audit.trial import LINES

_MOST_LISTED = 8


@cache
def _find_fewest() -> int:
    """Of any number of photos: if one fewer changes, the chance of it is over what the mildest line allows."""
    worst = max(line.p for line in LINES.values())
    return next(n for n in range(1, 99) if compare_pairs(np.ones(n), np.arange(n)) <= worst)


@cache
def find_least_changed(photos: int, tests: int) -> int | None:
    """Of so many photos the fewest that must change their class for any kind of cause to be told; None: all don't do.

    Each counts once, none changes in the control, and all leads move as claimed: no trial can be clearer.
    """
    places = np.arange(photos)
    if to_certainty(compare_pairs(np.ones(photos), places), tests) < LEAST_CERTAINTY:
        return None
    for changed in range(1, photos + 1):
        p = compare_pairs((places < changed).astype(float), places)
        if any(changed / photos >= line.effect and p <= line.p for line in LINES.values()):
            return changed
    return None


def measure_provable(data: AuditData) -> dict[str, float | None]:
    """Class name -> the smallest share of its photos that a cause must change to be told; None: nothing can be.

    Of the classes with enough photos to be tried; the tests are those that are made in any case.
    """
    classes = list_classes(data)
    found = {}
    for k in classes if len(classes) > 1 else []:
        photos = len(data.groups[k])
        least = find_least_changed(photos, 2 * (len(classes) + 1))
        found[data.name(k)] = None if least is None else least / photos
    return found


def tell_provable(data: AuditData) -> list[str]:
    """Sentences on the classes with few photos: what is too small to be told of them."""
    rows = {data.name(k): len(own) for k, own in data.groups.items()}
    few = sorted((rows[name], name, share) for name, share in measure_provable(data).items() if rows[name] < ENOUGH)
    nothing = [f"{count} of {name!r}" for count, name, share in few if share is None]
    some = [
        f"{round(count * share)} of the {count} photos of {name!r} ({share:.0%})"
        for count, name, share in few
        if share is not None
    ]
    told = []
    if some:
        told.append(
            f"Few photos prove large effects alone. Taken away, a shortcut must change {_list(some)}; a smaller one is "
            f"told only if it changes {_find_fewest()} photos of other classes, to which it is given, and "
            f"{min(line.effect for line in LINES.values()):.0%} of them."
        )
    if nothing:
        told.append(f"Among so many classes so few photos prove nothing, so no shortcut can be told: {_list(nothing)}.")
    return told


def _list(words: Sequence[str]) -> str:
    more = len(words) - _MOST_LISTED
    return ", ".join(words[:_MOST_LISTED]) + (f" and so on of {more} more classes" if more > 0 else "")
