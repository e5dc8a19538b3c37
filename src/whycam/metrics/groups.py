"""How well a classifier does on each group of photos, and on the worst one: a mean over all hides a few."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# scipy.special.ndtri(0.975), whose import is a tenth of a report's start.
_NORMAL_975 = 1.959963984540054
# So many groups are told in a sentence.
_TOLD = 8


def find_interval(hits: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson), as `scipy.stats.binomtest` gives it; that takes a second to import."""
    if not total:
        return 0.0, 1.0
    share, square = hits / total, _NORMAL_975**2
    middle = (share + square / (2 * total)) / (1 + square / total)
    half = (square * (share * (1 - share) / total + square / (4 * total**2))) ** 0.5 / (1 + square / total)
    return max(0.0, middle - half) if hits else 0.0, min(1.0, middle + half) if hits < total else 1.0


def score_groups(classes: Sequence[str], groups: Sequence[str | None], is_right: Sequence[bool]) -> dict[str, Any]:
    """The accuracy of each group, as JSON: `each`, the worst first, and `worst`, the first of them; empty without.

    A group is a class and a word (Sagawa et al., arXiv:1911.08731): tulips with a logo, tulips without, roses with it.

    Args:
        classes: N names of the true class.
        groups: N words; None where a photo's is not known, which is then left out.
        is_right: N, whether the photo's class was named.
    """
    counts: dict[tuple[str, str], list[int]] = {}
    for name, group, is_hit in zip(classes, groups, is_right, strict=True):
        if group is not None:
            count = counts.setdefault((name, group), [0, 0])
            count[0] += bool(is_hit)
            count[1] += 1
    each: list[dict[str, Any]] = []
    for (name, group), (right, photos) in counts.items():
        low, high = find_interval(right, photos)
        about = {"class": name, "group": group, "photos": photos, "right": right}
        each.append({**about, "accuracy": right / photos, "low": low, "high": high})
    # Of two that are equally bad, that with more photos is surer.
    each.sort(key=lambda one: (one["accuracy"], -one["photos"], one["class"], one["group"]))
    return {"each": each, "worst": each[0]} if each else {}


def tell_groups(found: Mapping[str, Any]) -> str:
    """A sentence with the worst group's accuracy and the others'; nothing without groups."""
    if not found:
        return ""
    first, *rest = found["each"]
    told = f"The worst group, {_tell_name(first)}: accuracy {first['accuracy']:.3f} on {first['photos']} photos"
    told += f" (95 % interval {first['low']:.3f} to {first['high']:.3f})"
    listed = "; ".join(f"{_tell_name(one)} {one['accuracy']:.3f} on {one['photos']}" for one in rest[:_TOLD])
    more = f"; and {len(rest) - _TOLD} more" if len(rest) > _TOLD else ""
    return f"{told}; {listed}{more}." if rest else f"{told}."


def _tell_name(one: Mapping[str, Any]) -> str:
    return f"{one['class']} / {one['group']}"
