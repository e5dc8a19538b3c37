"""Drawn parts of photos: what is inside, on photos of any size, and drawings that are none."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from whycam.data.drawn import Drawn, read_mask, write_mask


def test_a_box_is_its_pixels() -> None:
    drawn = Drawn(boxes=[(0.25, 0.5, 0.75, 1.0)]).draw((8, 16))
    expected = np.zeros((8, 16), dtype=bool)
    expected[4:8, 4:12] = True
    assert (drawn == expected).all()


def test_the_smallest_box_has_a_pixel() -> None:
    assert Drawn(boxes=[(0.999, 0.999, 1.0, 1.0)]).draw((10, 10)).sum() == 1


def test_a_polygon_holds_what_is_inside() -> None:
    triangle = Drawn(polygons=[[(0, 0), (1, 0), (0, 1)]]).draw((100, 100))
    rows, columns = np.indices((100, 100))
    inside, outside = rows + columns < 97, rows + columns > 101
    assert triangle[inside].all()
    assert not triangle[outside].any()


def test_shapes_are_joined() -> None:
    both = Drawn(boxes=[(0, 0, 0.5, 0.5)], mask=write_mask(np.eye(2, dtype=bool)))
    assert (both.draw((4, 4)) == np.kron(np.eye(2), np.ones((2, 2))).astype(bool)).all()


def test_a_mask_is_squashed_over_the_whole_photo() -> None:
    mask = np.random.default_rng(0).random((6, 9)) > 0.5
    assert (read_mask(write_mask(mask)) == mask).all()
    assert (Drawn(mask=write_mask(mask)).draw((12, 27)) == mask.repeat(2, 0).repeat(3, 1)).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_a_mask_may_be_any_png(mode: str) -> None:
    """As a canvas gives it, strokes are what is not transparent; else what is not black."""
    picture = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    picture.paste((255, 255, 255, 255), (0, 0, 2, 4))
    file = io.BytesIO()
    picture.convert(mode).save(file, "PNG")
    mask = read_mask(base64.b64encode(file.getvalue()).decode())
    assert (mask == (np.arange(4) < 2)).all()


def test_over_each_other_is_seen() -> None:
    left, right, middle = (Drawn(boxes=[(x, 0, x + 0.5, 1)]) for x in (0, 0.5, 0.25))
    assert not left.overlaps(right)
    assert left.overlaps(middle)
    assert left.digest != right.digest
    assert left.digest == Drawn.model_validate(left.model_dump(mode="json")).digest


def png(width: int, height: int) -> str:
    file = io.BytesIO()
    Image.new("L", (width, height), 255).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, "nothing is drawn"),
        ({"boxes": [(0.5, 0, 0.5, 1)]}, "has no area"),
        ({"boxes": [(0, 0, 1.5, 1)]}, "less than or equal to 1"),
        ({"boxes": [(0, 0, float("nan"), 1)]}, "boxes"),
        ({"boxes": [(0, 0, 1, 1)] * 201}, "at most 200"),
        ({"polygons": [[(0, 0), (1, 1)]]}, "2 corners"),
        ({"polygons": [[(0, 0)] * 2001]}, "2001 corners"),
        ({"mask": "no Base64!"}, "can't be read as a PNG"),
        ({"mask": base64.b64encode(b"no picture").decode()}, "can't be read as a PNG"),
        ({"mask": png(1025, 4)}, "1025 x 4"),
        ({"mask": write_mask(np.zeros((4, 4), dtype=bool))}, "the mask is empty"),
        ({"mask": "A" * 200_001}, "at most 200000"),
        ({"circle": 1}, "Extra inputs"),
    ],
)
def test_what_is_no_drawing_is_refused(words: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Drawn.model_validate(words)
