"""Pictures of the photos that speak against a model: overlays, masks and boxes, no larger than a page needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from whycam.audit.findings import Box
from whycam.data.images import load_image
from whycam.maps import render
from whycam.testing.models import Tested
from whycam.testing.verdict import Panel

_SIDE_PX = 480
_LINES = (("#000000", 4), ("#ffffff", 2))


def load_small(path: Path) -> Image.Image:
    """The photo as it is shown, its longer side 480 px at the most."""
    photo = load_image(path, at_least=(_SIDE_PX, _SIDE_PX))
    photo.thumbnail((_SIDE_PX, _SIDE_PX))
    return photo


def draw_heat(tested: Tested, path: Path, target: int, method: str | None = None) -> Image.Image:
    """The photo with the evidence for a class on it."""
    why: Any = tested.model.explain([path], target, method=tested.choose_method(method))
    photo = load_small(path)
    levels = render.draw_levels(why.reading().maps[0], photo.size[::-1], is_signed=False)
    return render.lay_over(photo, levels, why.colormap, alpha=render.ALPHA, is_signed=False)


def draw_classes(tested: Tested, path: Path, classes: Sequence[int], method: str | None = None) -> list[Panel]:
    """The photo, and the evidence on it for each class."""
    names, how = tested.card.class_names, tested.choose_method(method)
    drawn = [(f"for {names[k]} ({how})", draw_heat(tested, path, k, method)) for k in classes]
    return [("the photo", load_small(path)), *drawn]


def outline(picture: Image.Image, mask: np.ndarray) -> Image.Image:
    """The picture with the edge of a mask (H, W) bool, of any size, drawn on it."""
    grown = np.asarray(Image.fromarray(mask).resize(picture.size, Image.Resampling.NEAREST))
    drawn = np.asarray(picture).copy()
    for colour, wide in ((0, 2), (255, 1)):
        edge = ndimage.binary_dilation(grown, iterations=wide) & ~ndimage.binary_erosion(grown, iterations=wide)
        drawn[edge] = colour
    return Image.fromarray(drawn)


def draw_boxes(picture: Image.Image, boxes: Sequence[Box]) -> Image.Image:
    """The picture with boxes, x0, y0, x1, y1 as fractions of it."""
    drawn = picture.copy()
    pen = ImageDraw.Draw(drawn)
    for x0, y0, x1, y1 in boxes:
        corners = (x0 * picture.width, y0 * picture.height, x1 * picture.width - 1, y1 * picture.height - 1)
        for colour, width in _LINES:
            pen.rectangle(corners, outline=colour, width=width)
    return drawn
