"""Two audits of one folder, before a cure and after it: curing one shortcut can feed another (arXiv:2212.04825)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whycam.data.exchange import CAUSES

Row = Mapping[str, Any]
# How much the severity of a finding must differ to be called worse or better.
_LEAST_CHANGE = 0.02


def compare_audits(before: Row, after: Row) -> list[str]:
    """Sentences on two audits as `audit.json` holds them; of kinds that were looked for in both."""
    kinds = [set(one["record"]["kinds"]) for one in (before, after)]
    both = kinds[0] & kinds[1]
    sought = {*both, *(CAUSES if "shortcut" in both else ())}
    rows = [[one for one in part["findings"] if one["kind"] in sought] for part in (before, after)]
    apart = sorted(kinds[0] ^ kinds[1])
    left_out = [f"Not compared, as only one of the two audits looked for it: {', '.join(apart)}."] if apart else []
    filled = [bool(one["record"].get("training_photos")) for one in (before, after)]
    if filled[0] != filled[1] and "shortcut" in both:
        which = "the one before" if filled[0] else "this one"
        left_out.append(
            f"Only {which} looked for shortcuts on training photos, too, which prove more: what is gone or new may be "
            "so by that alone."
        )
    return [*compare_findings(*rows), *left_out]


@dataclass(frozen=True)
class Matched:
    """Findings of two audits, as `audit.json` holds them.

    Attributes:
        gone: only before.
        fresh: only after.
        left: (before, after) of each that is in both.
    """

    gone: tuple[Row, ...]
    fresh: tuple[Row, ...]
    left: tuple[tuple[Row, Row], ...]


def match_findings(before: Sequence[Row], after: Sequence[Row]) -> Matched:
    """Which findings of two audits are the same: their kind, their classes, how they were found and their place are."""
    old, new = ({_name(one): one for one in part} for part in (before, after))
    gone = tuple(one for name, one in old.items() if name not in new)
    fresh = tuple(one for name, one in new.items() if name not in old)
    return Matched(gone, fresh, tuple((old[name], one) for name, one in new.items() if name in old))


def compare_findings(before: Sequence[Row], after: Sequence[Row]) -> list[str]:
    """Sentences: what is gone, what is new, and what is worse or better; findings as `audit.json` holds them."""
    found = match_findings(before, after)
    changed = [
        f"{one['title']} ({old['severity']:.2f} before, {one['severity']:.2f} now)"
        for old, one in found.left
        if abs(one["severity"] - old["severity"]) >= _LEAST_CHANGE
    ]
    same = len(found.left) - len(changed)
    told = [
        _list("No longer found", [one["title"] for one in found.gone]),
        _list("New, and not there before: curing one shortcut can feed another", [one["title"] for one in found.fresh]),
        _list("Still found, more or less than before", changed),
        [f"{same} findings are as they were before."] if same else [],
    ]
    return [sentence for part in told for sentence in part] or ["Nothing was found before, and nothing now."]


def _list(words: str, titles: Sequence[str]) -> list[str]:
    return [f"{words} ({len(titles)}): {' '.join(titles)}"] if titles else []


def _name(one: Row) -> tuple[str, ...]:
    region, numbers = one.get("region") or {}, one.get("numbers") or {}
    about = (numbers.get("found_by"), numbers.get("property"), region.get("name"))
    # The words of other kinds differ with their counts.
    return tuple(str(word) for word in (one["kind"], one["class"], one["other"], *about))
