"""Ways in which photos are made that are planted: how each changes a photo, and how it is then saved.

Add one as one function in `PROPERTIES`: (photo, look, place) -> the photo, and the JPEG quality it is to be saved in.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from audit_photos import QUALITY
from PIL import Image, ImageEnhance

Made = tuple[Image.Image, int]
Way = Callable[[Image.Image, np.random.Generator, np.random.Generator], Made]


def to_photo(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))


def encode(photo: Image.Image, quality: int) -> Image.Image:
    """The photo as its JPEG file shows it."""
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def compression(photo: Image.Image, look: np.random.Generator, place: np.random.Generator) -> Made:
    """A poor JPEG: as the file itself, or decoded once and saved well again, so that its pixels alone tell."""
    quality, is_hidden = int(look.integers(8, 31)), bool(look.integers(2))
    return (encode(photo, quality), QUALITY) if is_hidden else (photo, quality)


def resolution(photo: Image.Image, look: np.random.Generator, place: np.random.Generator) -> Made:
    """About a third of the size, enlarged again."""
    factor = look.uniform(2.5, 4)
    ways = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
    small = photo.resize([max(8, round(length / factor)) for length in photo.size], Image.Resampling.BOX)
    return small.resize(photo.size, ways[look.integers(3)]), QUALITY


def darkness(photo: Image.Image, look: np.random.Generator, place: np.random.Generator) -> Made:
    """A fifth to a half of the light."""
    gain = look.uniform(0.2, 0.5) * place.uniform(0.9, 1.1)
    return to_photo(np.asarray(photo, np.float32) * gain), QUALITY


def noise(photo: Image.Image, look: np.random.Generator, place: np.random.Generator) -> Made:
    """Grain, grey or coloured."""
    sigma, channels = look.uniform(8, 28), (1, 3)[look.integers(2)]
    grain = place.standard_normal((photo.height, photo.width, channels), np.float32) * sigma
    return to_photo(np.asarray(photo, np.float32) + grain), QUALITY


def contrast(photo: Image.Image, look: np.random.Generator, place: np.random.Generator) -> Made:
    """Flat, or hard; the mean brightness stays about the same."""
    factor = look.uniform(0.35, 0.55) if look.integers(2) else look.uniform(1.7, 2.3)
    return ImageEnhance.Contrast(photo).enhance(factor), QUALITY


def saturation(photo: Image.Image, look: np.random.Generator, place: np.random.Generator) -> Made:
    """Pale, or gaudy."""
    factor = look.uniform(0, 0.35) if look.integers(2) else look.uniform(1.8, 2.5)
    return ImageEnhance.Color(photo).enhance(factor), QUALITY


def vignette(photo: Image.Image, look: np.random.Generator, place: np.random.Generator) -> Made:
    """The corners lose half of their light and more."""
    y, x = (np.linspace(-1, 1, length, dtype=np.float32) for length in (photo.height, photo.width))
    light = 1 - look.uniform(0.5, 0.85) * ((y[:, None] ** 2 + x[None] ** 2) / 2)
    return to_photo(np.asarray(photo, np.float32) * light[..., None]), QUALITY


def tint(photo: Image.Image, look: np.random.Generator, place: np.random.Generator) -> Made:
    """Gains of the channels and a lifted black, as of an old print or another camera."""
    kinds = [((1.1, 1.0, 0.7), 0), ((0.78, 0.95, 1.12), 0), ((1.0, 0.85, 0.7), 25), ((0.85, 1.05, 0.85), 10)]
    gains, lift = kinds[look.integers(len(kinds))]
    strength = look.uniform(0.7, 1.1)
    values = np.asarray(photo, np.float32)
    return to_photo(
        values * (1 + strength * (np.array(gains, np.float32) - 1)) + lift * strength * (1 - values / 255)
    ), QUALITY


PROPERTIES: dict[str, Way] = {
    "compression": compression,
    "resolution": resolution,
    "darkness": darkness,
    "noise": noise,
    "contrast": contrast,
    "saturation": saturation,
    "vignette": vignette,
    "tint": tint,
}
