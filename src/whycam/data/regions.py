"""Parts of photos that evidence should stay out of: named, as a box, from an audit's finding, or as mask pictures.

Add a named part as one row of `_NAMED`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from whycam.data.annotations import Annotation, AnnotationError, Box, list_masks
from whycam.errors import UserError, as_clause, nearest_names

# Name -> (share of the photo's side if none is given, share -> boxes as fractions of the photo).
_NAMED: dict[str, tuple[float, Callable[[float], tuple[Box, ...]]]] = {
    "upper-left": (0.3, lambda s: ((0, 0, s, s),)),
    "upper-right": (0.3, lambda s: ((1 - s, 0, 1, s),)),
    "lower-left": (0.3, lambda s: ((0, 1 - s, s, 1),)),
    "lower-right": (0.3, lambda s: ((1 - s, 1 - s, 1, 1),)),
    "top": (0.15, lambda s: ((0, 0, 1, s),)),
    "bottom": (0.15, lambda s: ((0, 1 - s, 1, 1),)),
    "left": (0.15, lambda s: ((0, 0, s, 1),)),
    "right": (0.15, lambda s: ((1 - s, 0, 1, 1),)),
    "border": (0.1, lambda s: ((0, 0, 1, s), (0, 1 - s, 1, 1), (0, 0, s, 1), (1 - s, 0, 1, 1))),
}
_EXPECTED = (
    f"expected a folder of masks, one of {', '.join(_NAMED)} (with a share of the side, such as upper-right:0.25), a "
    "box as fractions x0,y0,x1,y1 (0.7,0,1,0.3), or a finding of an audit (audit.json#shortcut-tulips-1)"
)


@dataclass(frozen=True)
class Regions:
    """The part of each photo that evidence should stay out of.

    Attributes:
        boxes: x0, y0, x1, y1 as fractions, the same on every photo.
        masks: photo -> mask picture, in which all but 0 counts.
        is_outside: the part is all that the mask leaves out.
    """

    boxes: tuple[Box, ...] = ()
    masks: Mapping[Path, Path] = field(default_factory=dict)
    is_outside: bool = False

    def draw(self, photo: Path, photo_size: tuple[int, int], size: tuple[int, int]) -> np.ndarray | None:
        """(H, W) bool; None where the photo has no such part: no mask, an empty one, or one of another size.

        Args:
            photo: its file.
            photo_size: (width, height) of the photo, upright.
            size: (H, W) to which the whole photo is squashed.
        """
        if self.boxes:
            return _fill(self.boxes, size)
        if photo not in self.masks:
            return None
        try:
            mask = Annotation(photo, mask=self.masks[photo]).fit(photo_size, size).region
        except AnnotationError:
            return None
        return ~mask if self.is_outside else mask


def _fill(boxes: Sequence[Box], size: tuple[int, int]) -> np.ndarray:
    height, width = size
    mask = np.zeros(size, dtype=bool)
    for x0, y0, x1, y1 in boxes:
        left, top = min(round(x0 * width), width - 1), min(round(y0 * height), height - 1)
        mask[top : max(top + 1, round(y1 * height)), left : max(left + 1, round(x1 * width))] = True
    return mask


def read_regions(text: str, photos: Sequence[Path], root: Path, option: str) -> Regions:
    """What `--ignore` names.

    Args:
        text: a folder of masks, a named part, a box, or AUDIT.json#FINDING.
        photos: all photos, below `root`; mask pictures are found by their names.
        root: the folder of photos.
        option: for messages.

    Raises:
        UserError: none of these; masks of no photo; a finding that is not there or has no place.
    """
    if Path(text).is_dir():
        return Regions(masks=find_masks(Path(text), photos, root))
    if ".json" in text:
        return Regions(_read_finding(text, option))
    if "," in text:
        return Regions((_read_box(text, option),))
    return Regions(_read_named(text, option))


def find_masks(folder: Path, photos: Sequence[Path], root: Path) -> dict[Path, Path]:
    """Photo -> mask: PHOTO.png in the same sub-folders, in those below train/ and val/, or in none.

    Raises:
        UserError: no such folder, or not one photo has a mask.
    """
    files = list_masks(folder)
    found = {}
    for photo in photos:
        inside = photo.relative_to(root).with_suffix("")
        names = (inside.as_posix(), Path(*inside.parts[1:]).as_posix(), inside.name)
        mask = next((files[name] for name in names if name in files), None)
        if mask is not None:
            found[photo] = mask
    if not found:
        raise UserError(
            f"Found {len(files)} masks in '{folder.absolute()}' and none of the name of a photo; expected PHOTO.png "
            "for PHOTO.jpg, in the same sub-folders or in none. Rename them."
        )
    return found


def _read_named(text: str, option: str) -> tuple[Box, ...]:
    name, _, share = text.partition(":")
    if name not in _NAMED:
        near = nearest_names(name, _NAMED)
        hint = f"Did you mean {near[0]!r}?" if near else "Check the path, or name the part."
        raise UserError(f"{option} is {text!r}, which is no folder and no part of a photo; {_EXPECTED}. {hint}")
    usual, make = _NAMED[name]
    try:
        side = float(share) if share else usual
    except ValueError:
        side = 0.0
    if not 0 < side <= (0.5 if name == "border" else 1):
        raise UserError(
            f"{option} is {text!r}; expected a share of the photo's side over 0 and up to "
            f"{'0.5' if name == 'border' else '1'}. For example {name}:{usual}."
        )
    return make(side)


def _read_box(text: str, option: str) -> Box:
    try:
        x0, y0, x1, y1 = (float(word) for word in text.split(","))
        is_box = 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
    except ValueError:
        is_box = False
    if not is_box:
        raise UserError(
            f"{option} is {text!r}; expected a box x0,y0,x1,y1 as fractions of the photo, 0 <= x0 < x1 <= 1 and the "
            "same for y. For example 0.7,0,1,0.3 for the upper right corner."
        )
    return x0, y0, x1, y1


def _read_finding(text: str, option: str) -> tuple[Box, ...]:
    file, _, key = text.partition("#")
    findings = read_findings(Path(file), option)
    boxes = {name: (one.get("region") or {}).get("boxes") or [] for name, one in findings.items()}
    placed = [name for name, found in boxes.items() if found]
    if key not in placed:
        fault = "has no place of its own" if key in boxes else "is not among the findings"
        against = f" Or train --against {file}#{key}, which needs no place." if key in boxes else ""
        raise UserError(
            f"{option} names the finding {key!r}, which {fault} in '{Path(file).absolute()}'; expected one with a "
            f"region: {', '.join(placed) or 'there is none'}. Write {file}#{placed[0] if placed else 'FINDING'}, or "
            f"give masks.{against}"
        )
    return tuple((float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in boxes[key])


def read_findings(path: Path, option: str) -> dict[str, dict[str, Any]]:
    """The findings of an audit.json by their ids.

    Raises:
        UserError: it is none.
    """
    try:
        found = {str(one["id"]): dict(one) for one in json.loads(path.read_text(encoding="utf-8"))["findings"]}
        for one in found.values():
            (one.get("region") or {}).get("boxes")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"'{path.absolute()}' can't be read as an audit ({type(error).__name__}: {as_clause(error)}); expected "
            f"the audit.json that whycam audit writes. Check the path in {option}."
        ) from None
    return found
