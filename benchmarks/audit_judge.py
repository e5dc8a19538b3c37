"""Which findings are right: the class, the kind and, of what has a place, the place.

They are judged as `audit.json` tells them, and against the known causes, which the audit never sees. The field's words
differ: `SAYS` holds, for each planted cause, what a finding may call it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from audit_cases import TWO, Case, Cause, list_causes
from audit_photos import Photo
from audit_prepare import sum_up
from audit_properties import PROPERTIES

Found = dict[str, Any]
_IN_PLACE = ("mark", "stamp", "place")
# By what a finding of each cause may be found. A texture around the middle is another ground, and a mark that lies
# there; a thing whose pixels come back is a stamp. `tint` is what a property was called before there were others.
SAYS: dict[str, tuple[str, ...]] = {
    "stamp": _IN_PLACE,
    "frame": _IN_PLACE,
    "caption": _IN_PLACE,
    "date": _IN_PLACE,
    "centre": _IN_PLACE,
    TWO: _IN_PLACE,
    "watermark": ("stamp", "mark"),
    "texture": ("ground", "mark", "place"),
    "thing": ("thing", "stamp"),
    "ground": ("ground",),
    **dict.fromkeys(PROPERTIES, ("property", "tint")),
}
# What a property may be called. What is dark has low lightest values; a flat or hard contrast moves the darkest and the
# lightest; grey has no saturation; a tint is a cast in one of two directions, measured anywhere.
PROPERTY_NAMES: dict[str, tuple[str, ...]] = {
    "compression": ("jpeg-quality", "compression"),
    "resolution": ("sharpness", "blur", "detail"),
    "darkness": ("brightness", "darkness", "exposure", "lightest"),
    "noise": ("noise", "grain"),
    "contrast": ("contrast", "darkest", "lightest"),
    "saturation": ("saturation", "grey"),
    "vignette": ("vignette",),
    "tint": ("warmth", "greenness", "light-warmth", "light-greenness", "colour-cast", "tint"),
}


def name_property(found: Found) -> str:
    """What property a finding is of, in lower case; the old tints call themselves so."""
    numbers = found["numbers"]
    return str(numbers.get("property", "tint" if numbers.get("found_by") == "tint" else "")).lower()


def tell_kind(found: Found) -> str:
    """By what a finding says that the class is known: mark, ground, property: sharpness, ..."""
    by, name = str(found["numbers"].get("found_by", found["kind"])), name_property(found)
    return f"property: {name}" if by == "property" else by


def is_named(found: Found, case: Case, about: dict[str, Any], cause: Cause) -> bool:
    """Whether a finding calls the cause what it is, whatever the class: by its kind, its property, its place."""
    if found["numbers"].get("found_by") not in SAYS[case.kind]:
        return False
    if case.kind in PROPERTIES:
        return name_property(found) in PROPERTY_NAMES[case.kind]
    if case.kind == "ground" or found["numbers"]["found_by"] == "ground":
        return True
    return is_in_place(found, about, cause)


def is_warned(found: Found, case: Case, classes: Sequence[str]) -> bool:
    """Whether a warning about the data names a planted property and its class; of two classes it names both."""
    names = found["numbers"].get("properties", [name_property(found)])
    is_own = found["class"] in classes or found["other"] in classes
    return found["kind"] == "data" and is_own and bool(set(names) & set(PROPERTY_NAMES.get(case.kind, ())))


def is_in_place(found: Found, about: dict[str, Any], cause: Cause) -> bool:
    """Whether the finding's boxes cover at least half of the mark, and are no larger than it by half of the photo.

    Those of what lies elsewhere on every photo are drawn on the evidence photos: there they must cover a third of it
    on half of the photos that have it.
    """
    shown = [(one["path"], one["boxes"]) for one in found["photos"] if one["path"] in about["planted"] and one["boxes"]]
    boxes = (found["region"] or {"boxes": []})["boxes"]
    if boxes:
        path = next((path for path, _ in about["samples"] if path in about["planted"]), None)
        return path is not None and is_covering(boxes, find_mask(path, about, cause), 0.5)
    said = [is_covering(some, find_mask(path, about, cause), 1 / 3) for path, some in shown]
    return bool(said) and sum(said) >= len(said) / 2


def find_mask(path: str, about: dict[str, Any], cause: Cause) -> np.ndarray:
    """(H, W) bool: where the mark lies on a planted photo."""
    origin, _, place = about["planted"][path]
    mask = cause.plant(Photo(about["pool"], Path(path).parent.name, Path(origin)), place).mask
    if mask is None:
        raise RuntimeError(f"{about['key']} has no mark, so no place of one.")
    return mask


def is_covering(boxes: Sequence[Sequence[float]], mask: np.ndarray, least: float) -> bool:
    """Whether boxes cover that share of the mask (H, W), and little else."""
    height, width = mask.shape
    covered = np.zeros_like(mask)
    for x0, y0, x1, y1 in boxes:
        covered[round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)] = True
    return bool((covered & mask).sum() >= least * max(1, mask.sum()) and covered.mean() <= mask.mean() + 0.5)


def judge(case: Case, about: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """What an audit is worth: of each cause whether it was found, and of each accusation what it is.

    An accusation is `right` (class and kind of a cause that is not ignored), `ignored` (of a cause that the model
    ignores), `misnamed` (the class of a cause that it does not ignore, called something else), `turned` (what the
    cause is, told of another class), or `false`. Of two classes a finding names both, and is of either. A question
    accuses nobody; where it names a cause and its class the cause is found.
    """
    names, causes = about["class_names"], list_causes(case, len(about["class_names"]))
    accusations = [one for one in row["findings"] if one["kind"] in {"shortcut", "question"}]
    told = [
        {"of": "false", "class": one["class"], "by": tell_kind(one), "title": one["title"], "kind": one["kind"]}
        for one in accusations
    ]
    results = []
    for cause, truth in zip(causes, about["causes"], strict=True):
        classes = [names[k] for k in (range(len(names)) if case.where == "even" else cause.labels)]
        reliance, found = sum_up(truth), False
        for one, line in zip(accusations, told, strict=True):
            is_own, is_kind = is_of(one, classes, len(names)), is_named(one, case, about, cause)
            found = found or (is_own and is_kind)
            said = _sort(is_own=is_own, is_kind=is_kind, is_ignored=reliance.ignores)
            if _RANKS.index(said) < _RANKS.index(line["of"]):
                line["of"] = said
        results.append(
            {
                "told_of": classes,
                "reliance": reliance.value,
                "relies": reliance.relies,
                "ignores": reliance.ignores,
                "found": found,
                "warned": any(is_warned(one, case, classes) for one in row["findings"]),
                "class_found": any(is_of(one, classes, len(names)) for one in accusations),
                "said": [line["by"] for line in told if line["class"] in classes],
            }
        )
    return {
        "causes": results,
        "accusations": [line for line in told if line["kind"] == "shortcut"],
        "questions": [line for line in told if line["kind"] == "question"],
    }


def is_of(found: Found, classes: Sequence[str], count: int) -> bool:
    """Whether a finding is of one of the classes; of two classes in all it is of both."""
    return found["class"] in classes or (count == 2 and found["other"] in classes)


_RANKS = ("right", "ignored", "misnamed", "turned", "false")


def _sort(*, is_own: bool, is_kind: bool, is_ignored: bool) -> str:
    if is_own and is_kind:
        return "ignored" if is_ignored else "right"
    if is_kind:
        return "turned"
    return "misnamed" if is_own and not is_ignored else "false"
