"""The parts of a photo that are tried: corners, edges and frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from whycam.audit.findings import Box, Region

_CORNER, _EDGE, _FRAMES = 0.28, 0.14, (0.05,)


@dataclass(frozen=True)
class Place:
    """A part of the photo that can be moved from one photo to another.

    Attributes:
        region: its name and boxes.
        mask: (H, W) bool.
    """

    region: Region
    mask: np.ndarray

    @property
    def share(self) -> float:
        """Of the photo's area."""
        return float(self.mask.mean())


def list_places(height: int, width: int) -> list[Place]:
    """The places that any photo has, the smaller ones first."""
    boxes: dict[str, tuple[Box, ...]] = {
        f"{vertical} {side} corner": (_corner(side, vertical),)
        for vertical in ("upper", "lower")
        for side in ("left", "right")
    }
    boxes |= {
        "upper edge": ((0, 0, 1, _EDGE),),
        "lower edge": ((0, 1 - _EDGE, 1, 1),),
        "left edge": ((0, 0, _EDGE, 1),),
        "right edge": ((1 - _EDGE, 0, 1, 1),),
    }
    boxes |= {f"frame of {width_frac:.0%}": frame(width_frac) for width_frac in _FRAMES}
    places = [Place(Region(name, parts), draw_boxes(parts, height, width)) for name, parts in boxes.items()]
    return sorted(places, key=lambda place: place.share)


def _corner(side: str, vertical: str) -> Box:
    x = 0.0 if side == "left" else 1 - _CORNER
    y = 0.0 if vertical == "upper" else 1 - _CORNER
    return x, y, x + _CORNER, y + _CORNER


def frame(width_frac: float) -> tuple[Box, ...]:
    """The four strips along the edges."""
    w = width_frac
    return (0, 0, 1, w), (0, 1 - w, 1, 1), (0, w, w, 1 - w), (1 - w, w, 1, 1 - w)


def draw_boxes(boxes: tuple[Box, ...], height: int, width: int) -> np.ndarray:
    """(H, W) bool, True inside the boxes."""
    mask = np.zeros((height, width), dtype=bool)
    for x0, y0, x1, y1 in boxes:
        rows = slice(round(y0 * height), max(round(y1 * height), round(y0 * height) + 1))
        mask[rows, round(x0 * width) : max(round(x1 * width), round(x0 * width) + 1)] = True
    return mask


def name_box(box: Box) -> str:
    """Where a box lies, in plain words."""
    x0, y0, x1, y1 = box
    if x1 - x0 > 0.8 and y1 - y0 > 0.8:
        return "all over the photo"
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    side = "" if x1 - x0 > 0.7 else "left" if x < 0.4 else "right" if x > 0.6 else ""
    level = "" if y1 - y0 > 0.7 else "upper" if y < 0.4 else "lower" if y > 0.6 else ""
    if side and level:
        return f"{level} {side} corner"
    return f"{level or side} edge" if side or level else "middle"
