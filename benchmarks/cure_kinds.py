"""What the cure is measured on: five causes, and photos with and without each.

Add a kind as one row in `KINDS`. The ground is planted by none: scenes of the generated garden are drawn with or
without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from whycam.data.backdrops import BACKDROPS
from whycam.data.folder import read_folder
from whycam.data.garden import FLOWERS, make_scene
from whycam.data.images import load_image

JPEG_QUALITY = 8
SHRINK = 3
DARKEN = 0.25
GROUND = "brick"
# Scenes of each class with the ground, and as many without.
GARDEN_TRAIN, GARDEN_TEST = 140, 60


def draw_logo(photo: Image.Image) -> Image.Image:
    """A red logo in the upper right corner."""
    photo = photo.copy()
    w, h = photo.size
    pen = ImageDraw.Draw(photo)
    box = (0.79 * w, 0.03 * h, 0.97 * w, 0.2 * h)
    pen.ellipse(box, fill=(200, 20, 30), outline=(255, 255, 255), width=max(1, w // 100))
    pen.text((0.88 * w, 0.115 * h), "LOGO", fill="white", font=ImageFont.load_default(0.05 * h), anchor="mm")
    return photo


def shrink(photo: Image.Image) -> Image.Image:
    """A third of the size, enlarged again."""
    small = photo.resize((max(1, photo.width // SHRINK), max(1, photo.height // SHRINK)), Image.Resampling.BILINEAR)
    return small.resize(photo.size, Image.Resampling.BILINEAR)


def darken(photo: Image.Image) -> Image.Image:
    """A quarter of the brightness."""
    return photo.point(lambda value: round(value * DARKEN))


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


@dataclass(frozen=True)
class Cause:
    """A cause that a class may be known by.

    Attributes:
        finding: what an audit would say of it: what --against reads.
        plant: a photo -> the photo with it; None for the ground.
        quality: that the photo with it is saved by.
        ignore: what --ignore is given, where it has a place.
    """

    finding: dict[str, Any]
    plant: Callable[[Image.Image], Image.Image] | None = None
    quality: int = 95
    ignore: str | None = None


KINDS: dict[str, Cause] = {
    "mark": Cause(
        {"region": {"name": "corner", "boxes": [[0.75, 0, 1, 0.25]]}, "numbers": {"found_by": "mark"}},
        draw_logo,
        ignore="upper-right:0.25",
    ),
    "ground": Cause({"numbers": {"found_by": "ground"}}),
    "compression": Cause({"numbers": {"found_by": "property", "property": "jpeg-quality"}}, lambda p: p, JPEG_QUALITY),
    "resolution": Cause({"numbers": {"found_by": "property", "property": "sharpness"}}, shrink),
    "darkness": Cause({"numbers": {"found_by": "property", "property": "brightness"}}, darken),
}


@dataclass(frozen=True)
class Pool:
    """Files of photos, each class with and without the cause.

    Attributes:
        classes: K names.
        train: (class, has the cause) -> files to train and validate on; of a planted cause in the same order.
        test: the same, to measure on.
    """

    classes: tuple[str, ...]
    train: dict[tuple[int, bool], list[Path]]
    test: dict[tuple[int, bool], list[Path]]


def make_pool(kind: str, photos: Path, work: Path) -> Pool:
    """The photos of a kind, made where they are not there yet."""
    return _draw_garden(work / "garden") if KINDS[kind].plant is None else _plant(KINDS[kind], photos, work / kind)


def _plant(cause: Cause, photos: Path, work: Path) -> Pool:
    folder = read_folder(photos)
    parts: list[dict[tuple[int, bool], list[Path]]] = []
    for samples in (folder.train, folder.val):
        part: dict[tuple[int, bool], list[Path]] = {}
        for sample in samples:
            to = work / sample.path.relative_to(folder.root).with_suffix(".jpg")
            if not to.exists() and cause.plant is not None:
                to.parent.mkdir(parents=True, exist_ok=True)
                cause.plant(load_image(sample.path)).save(to, quality=cause.quality)
            part.setdefault((sample.label, False), []).append(sample.path)
            part.setdefault((sample.label, True), []).append(to)
        parts.append(part)
    return Pool(folder.class_names, *parts)


def _draw_garden(work: Path) -> Pool:
    parts: list[dict[tuple[int, bool], list[Path]]] = []
    for split, count, first in (("train", GARDEN_TRAIN, 2_000_000), ("test", GARDEN_TEST, 3_000_000)):
        part = {}
        for label, flower in enumerate(FLOWERS):
            for has in (True, False):
                part[label, has] = []
                for seed in find_scene_seeds(flower, has_ground=has, count=count, first=first):
                    to = work / split / flower / f"{'with' if has else 'without'}-{seed}.jpg"
                    if not to.exists():
                        to.parent.mkdir(parents=True, exist_ok=True)
                        draw_scene(flower, seed).save(to, quality=95)
                    part[label, has].append(to)
        parts.append(part)
    return Pool(tuple(FLOWERS), *parts)
