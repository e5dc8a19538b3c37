"""What the cure is measured on: five causes that can be given to a photo, and the folders that they are planted in.

Add a kind as one function in `KINDS`: a photo -> the photo with the cause. The ground is no such function: scenes of
the generated garden are drawn with it or without it.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from whycam.data.backdrops import BACKDROPS
from whycam.data.garden import make_scene

JPEG_QUALITY = 8
SHRINK = 3
DARKEN = 0.25
GROUND = "brick"


def draw_logo(photo: Image.Image) -> Image.Image:
    """A red logo in the upper right corner."""
    photo = photo.copy()
    w, h = photo.size
    pen = ImageDraw.Draw(photo)
    box = (0.79 * w, 0.03 * h, 0.97 * w, 0.2 * h)
    pen.ellipse(box, fill=(200, 20, 30), outline=(255, 255, 255), width=max(1, w // 100))
    pen.text((0.88 * w, 0.115 * h), "LOGO", fill="white", font=ImageFont.load_default(0.05 * h), anchor="mm")
    return photo


def compress(photo: Image.Image) -> Image.Image:
    """Saved as JPEG of a low quality, and read again."""
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return Image.open(buffer).convert("RGB")


def shrink(photo: Image.Image) -> Image.Image:
    """A third of the size, enlarged again."""
    small = photo.resize((max(1, photo.width // SHRINK), max(1, photo.height // SHRINK)), Image.Resampling.BILINEAR)
    return small.resize(photo.size, Image.Resampling.BILINEAR)


def darken(photo: Image.Image) -> Image.Image:
    """A quarter of the brightness."""
    return photo.point(lambda value: round(value * DARKEN))


KINDS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "mark": draw_logo,
    "jpeg": compress,
    "resolution": shrink,
    "darkness": darken,
}


def find_scene_seeds(flower: str, *, has_ground: bool, count: int, first: int, size_px: int = 256) -> list[int]:
    """Seeds of scenes that stand before `GROUND`, or before any other ground, from `first` on."""
    found, seed = [], first
    while len(found) < count:
        # The same draws as in garden.py: the light's angle, then the backdrop.
        draw = np.random.default_rng([seed, size_px, *flower.encode()]).spawn(4)[0]
        draw.uniform()
        if (list(BACKDROPS)[draw.integers(len(BACKDROPS))] == GROUND) == has_ground:
            found.append(seed)
        seed += 1
    return found


def draw_scene(flower: str, seed: int) -> Image.Image:
    """That scene of the garden."""
    return make_scene(flower, seed).image
