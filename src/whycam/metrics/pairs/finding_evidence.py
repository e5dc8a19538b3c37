"""What a model draws from the places that an audit's findings name, in units of the logit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from whycam.errors import UserError
from whycam.maps.cells import cover_cells

Boxes = tuple[tuple[float, ...], ...]
# Their second class is the one that the first is taken for.
_TAKEN_FOR = {"confusion", "slice"}


@dataclass(frozen=True)
class PlacedFinding:
    """A finding with a place.

    Attributes:
        key: its id.
        title: what it says.
        place: where, in words.
        owner: the class whose photos have it, an index of the shared ones.
        label: the class that it speaks for.
        versus: the class that it is weighed against; None: the mean of all classes.
        boxes: the place that all photos have, in fractions of the photo; empty where it differs.
        of_photo: where it differs, photo -> its own.
    """

    key: str
    title: str
    place: str
    owner: int
    label: int
    versus: int | None
    boxes: Boxes
    of_photo: Mapping[str, Boxes] = field(default_factory=dict)

    def is_about(self, path: Path, classes: Collection[int]) -> bool:
        """Whether a photo of one of these classes has the place: any of the owner's, or one that the finding shows."""
        return self.owner in classes if self.boxes else str(path) in self.of_photo

    def measure(self, path: Path, maps: np.ndarray) -> float:
        """What the place gives to the class's lead, of exact maps (S, h, w): mean over the photo of cover x evidence.

        What all classes share decides nothing: the evidence is the class's map less the mean of all, or less the map
        of the class that it is weighed against.
        """
        cover = _cover(self.boxes or self.of_photo[str(path)], maps.shape[-2:])
        other = maps.mean(0) if self.versus is None else maps[self.versus]
        return float((cover * (maps[self.label] - other)).mean())

    @property
    def area(self) -> float:
        """The share of the photo that it covers, on the average."""
        each = [self.boxes] if self.boxes else list(self.of_photo.values())
        return float(np.mean([cover_cells(boxes, (1, 1))[0, 0] for boxes in each]))


@lru_cache(4096)
def _cover(boxes: Boxes, size: tuple[int, int]) -> np.ndarray:
    return cover_cells(boxes, size)


def place_findings(
    audit: Mapping[str, Any] | None, class_names: Sequence[str]
) -> tuple[tuple[PlacedFinding, ...], list[str]]:
    """The findings whose place can be measured, and sentences on those that have none.

    Args:
        audit: as `audit.json` holds it.
        class_names: the shared ones.

    Raises:
        UserError: a finding on a class that is not shared: the audit is of another model.
    """
    rows = (audit or {}).get("findings", ())
    known = {name: k for k, name in enumerate(class_names)}
    foreign = sorted({one["class"] for one in rows if one["class"] is not None} - set(known))
    if foreign:
        raise UserError(
            f"The audit speaks of {', '.join(map(repr, foreign[:5]))}, which is no class that both models have "
            f"({', '.join(map(repr, class_names[:5]))}); expected an audit of one of them. Run whycam audit with it."
        )
    placed = [one for row in rows if (one := _place(row, known)) is not None]
    left = len(rows) - len(placed)
    told = (
        f"{left} of the audit's {len(rows)} findings have no place on the photos, or no class: they are not measured."
    )
    return tuple(placed), [told] if left else []


def _place(row: Mapping[str, Any], known: Mapping[str, int]) -> PlacedFinding | None:
    region = row.get("region") or {}
    boxes = _freeze(region.get("boxes") or ())
    photos = {photo["path"]: _freeze(photo["boxes"]) for photo in row["photos"] if photo["boxes"]}
    if row["class"] is None or not (boxes or photos):
        return None
    owner, other = known[row["class"]], known.get(row.get("other") or "")
    is_taken = row["kind"] in _TAKEN_FOR and other is not None
    label, versus = (other, owner) if is_taken and other is not None else (owner, None)
    name = region.get("name") or "its boxes"
    return PlacedFinding(str(row["id"]), row["title"], name, owner, label, versus, boxes, {} if boxes else photos)


def _freeze(boxes: Sequence[Sequence[float]]) -> Boxes:
    return tuple(tuple(float(value) for value in box) for box in boxes)
