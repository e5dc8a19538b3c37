"""A part of one photo that a person drew: boxes, polygons, brush strokes as a small mask; as fractions of the photo.

Add a way to draw as one field of `Drawn` and its lines in `Drawn.draw`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated

import numpy as np
from PIL import Image, ImageDraw
from pydantic import BaseModel, ConfigDict, Field, model_validator

# What one drawing may hold: more is no drawing by hand, and would make a journal that nobody can load.
_MOST_SHAPES, _MOST_CORNERS, _MOST_SIDE_PX, _MOST_LETTERS = 200, 2000, 1024, 200_000
# Cells a side in which it is seen whether two drawings lie over each other.
_COARSE = 64

Share = Annotated[float, Field(ge=0, le=1)]
Corner = tuple[Share, Share]
DrawnBox = tuple[Share, Share, Share, Share]


class Drawn(BaseModel):
    """A part of a photo.

    Attributes:
        boxes: x0, y0, x1, y1 as fractions of the width and height.
        polygons: corners x, y as fractions.
        mask: a PNG in Base64, squashed over the whole photo; all but 0 counts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    boxes: tuple[DrawnBox, ...] = Field((), max_length=_MOST_SHAPES)
    polygons: tuple[tuple[Corner, ...], ...] = Field((), max_length=_MOST_SHAPES)
    mask: str | None = Field(None, max_length=_MOST_LETTERS)

    @model_validator(mode="after")
    def _check(self) -> Drawn:
        for x0, y0, x1, y1 in self.boxes:
            if not (x0 < x1 and y0 < y1):
                raise ValueError(f"the box {x0:g},{y0:g},{x1:g},{y1:g} has no area; expected x0 < x1 and y0 < y1")
        for corners in self.polygons:
            if not 3 <= len(corners) <= _MOST_CORNERS:
                raise ValueError(f"a polygon has {len(corners)} corners; expected 3 to {_MOST_CORNERS:,}")
        if self.mask is not None and not self._mask.any():
            raise ValueError("the mask is empty; expected some value over 0 in it")
        if not (self.boxes or self.polygons or self.mask):
            raise ValueError("nothing is drawn; expected boxes, polygons or a mask")
        return self

    @cached_property
    def _mask(self) -> np.ndarray:
        return read_mask(self.mask or "")

    def draw(self, size: tuple[int, int]) -> np.ndarray:
        """(H, W) bool: the part on a photo of that size; at least a pixel of each shape."""
        height, width = size
        canvas = Image.new("1", (width, height))
        pen = ImageDraw.Draw(canvas)
        for x0, y0, x1, y1 in self.boxes:
            left, top = min(round(x0 * width), width - 1), min(round(y0 * height), height - 1)
            pen.rectangle((left, top, max(left, round(x1 * width) - 1), max(top, round(y1 * height) - 1)), fill=1)
        for corners in self.polygons:
            pen.polygon([(x * (width - 1), y * (height - 1)) for x, y in corners], fill=1, outline=1)
        drawn: np.ndarray = np.array(canvas)
        if self.mask is not None:
            picture = Image.fromarray(self._mask).resize((width, height), Image.Resampling.NEAREST)
            drawn |= np.asarray(picture)
        return drawn

    def overlaps(self, other: Drawn) -> bool:
        """Whether the two lie over each other, as far as coarse cells tell."""
        size = (_COARSE, _COARSE)
        return bool((self.draw(size) & other.draw(size)).any())

    @cached_property
    def digest(self) -> str:
        """A word for it."""
        return hashlib.blake2b(self.model_dump_json().encode(), digest_size=16).hexdigest()


def read_mask(text: str) -> np.ndarray:
    """(h, w) bool of a PNG in Base64.

    Raises:
        ValueError: it is none, or a large one.
    """
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=("PNG",)) as picture:
            if max(picture.size) > _MOST_SIDE_PX:
                raise ValueError(
                    f"the mask has {picture.width} x {picture.height} pixels; expected {_MOST_SIDE_PX} or less a side"
                )
            values = np.asarray(picture.convert("RGBA") if picture.mode in {"P", "LA"} else picture)
    except (binascii.Error, OSError, SyntaxError) as error:
        raise ValueError(f"the mask can't be read as a PNG in Base64 ({type(error).__name__})") from None
    if values.ndim == 3:
        # What a canvas gives: strokes are where it is not transparent.
        values = values[..., 3] if values.shape[2] == 4 else values.max(axis=2)
    mask: np.ndarray = values > 0
    return mask


def write_mask(mask: np.ndarray) -> str:
    """A mask (h, w) bool as a PNG of one bit a pixel in Base64."""
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


def draw_all(drawn: Sequence[Drawn], size: Sequence[int]) -> np.ndarray:
    """(H, W) bool: several drawings together."""
    mask = np.zeros((size[0], size[1]), dtype=bool)
    for one in drawn:
        mask |= one.draw((size[0], size[1]))
    return mask
