"""Generated flower scenes with exact masks, for the demo and the tests; nothing is downloaded.

Heads are painted in flowers.py, everything else in backdrops.py; this file composes, photographs and writes.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from whycam.data.backdrops import cast_shadow, make_prop, paint_surroundings, paste_with_shadow, to_fill
from whycam.data.flowers import FLOWERS, KINDS, Bloom, Floats, Kind, Plane
from whycam.errors import UserError, make_unknown_name

__all__ = [
    "FLOWERS",
    "MixedScene",
    "Scene",
    "make_mixed_scene",
    "make_scene",
    "write_garden",
    "write_mixed_garden",
]

_Length = TypeVar("_Length", float, Floats)
_SUPERSAMPLE = 2
_MIN_SIZE_PX = 32
_HEAD_DIAMETERS = {1: (0.34, 0.60), 2: (0.25, 0.42), 3: (0.18, 0.34)}  # shares of the side, by number of heads
_MAX_COVERED_FRAC = 0.12  # of the heads, by something in front of them


@dataclass(frozen=True)
class Scene:
    """A picture of one to three flowers of one kind, and where exactly they are."""

    image: Image.Image  # RGB, (H, W)
    mask: NDArray[np.bool_]  # (H, W), True on heads and petals in sight; stems, leaves and shadows do not count
    flower: str
    seed: int


@dataclass(frozen=True)
class _Head:
    """Where and how one head stands; lengths in canvas pixels, angles in radians."""

    x: float
    y: float
    radius: float
    spin: float
    tilt_axis: float
    squeeze: float  # length along the tilt axis, 1 when seen straight from the front
    perspective: float

    def make_plane(self, rows: slice, cols: slice) -> Plane:
        """The flower's plane under a block of canvas pixels."""
        y, x = np.mgrid[rows, cols].astype(np.float32)
        x, y = _rotate((x + 0.5 - self.x) / self.radius, (y + 0.5 - self.y) / self.radius, self.tilt_axis)
        depth = 1 + self.perspective * x
        x, y = _rotate(x / self.squeeze / depth, y / depth, self.spin - self.tilt_axis)
        return Plane(x, y, 1 / self.radius)

    def locate(self, y: float) -> tuple[float, float]:
        """Canvas point of the plane's point (0, y), perspective left aside."""
        dx, dy = _rotate(0.0, y, self.tilt_axis - self.spin)
        dx, dy = _rotate(dx * self.squeeze, dy, -self.tilt_axis)
        return self.x + self.radius * dx, self.y + self.radius * dy


def _rotate(x: _Length, y: _Length, angle: float) -> tuple[_Length, _Length]:
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


@dataclass
class _Canvas:
    """The scene while it is composed, `_SUPERSAMPLE` times as large as the picture."""

    image: Image.Image  # RGB
    cover: Floats  # (H, W), how much of a pixel is flower in sight, 0..1
    light: tuple[float, float]  # unit vector to the light

    @property
    def size(self) -> int:
        return self.image.width

    def shift_shadow(self, length: float) -> tuple[int, int]:
        """How a shadow of that length falls, away from the light."""
        return round(-self.light[0] * length), round(-self.light[1] * length)


def make_scene(flower: str, seed: int, size_px: int = 256) -> Scene:
    """The scene that belongs to a flower, a seed and a size, always the same.

    Args:
        flower: one of `FLOWERS`.
        seed: 0 or more; other seeds give other flowers, places, backgrounds and light.
        size_px: the picture's side.

    Raises:
        UserError: an unknown flower, a negative seed, or a side under 32 pixels.
    """
    _check_scene([flower], seed, size_px)
    return _photograph(flower, seed, size_px, has_heads=True)


def _photograph(flower: str, seed: int, size_px: int, *, has_heads: bool) -> Scene:
    """Compose and take the picture; without heads (the mask then says where they would be) all else stays as it is."""
    streams = np.random.default_rng([seed, size_px, *flower.encode()]).spawn(4)
    surroundings_rng, plants_rng, front_rng, camera_rng = streams
    canvas = _make_canvas(surroundings_rng, size_px)
    _plant(canvas, KINDS[flower], plants_rng, has_heads=has_heads)
    _put_in_front(canvas, front_rng)
    return Scene(_expose(canvas, size_px, camera_rng), _to_mask(canvas.cover, size_px), flower, seed)


def _plant(canvas: _Canvas, kind: Kind, rng: np.random.Generator, *, has_heads: bool) -> None:
    """Grow stems and leaves, then lay the heads over them, the smallest and so farthest first."""
    count = int(rng.choice([1, 2, 3], p=[0.5, 0.3, 0.2]))
    heads = sorted(_choose_heads([kind] * count, canvas.size, rng), key=lambda head: head.radius)
    for head in heads:
        _grow_stem(canvas, head.locate(kind.foot), head.radius, rng)
    bare = canvas.image.copy()
    for head in heads:
        _lay_head(canvas, head, kind, rng)
    if not has_heads:
        canvas.image = bare


def _choose_heads(kinds: Sequence[Kind], size: int, rng: np.random.Generator) -> list[_Head]:
    """A head of each kind, apart from one another where there is room."""
    heads: list[_Head] = []
    for kind in kinds:
        radius = size / 2 * rng.uniform(*_HEAD_DIAMETERS[len(kinds)])
        for _ in range(30):
            x, y = rng.uniform(0.12, 0.88) * size, rng.uniform(0.12, 0.88) * size
            if all(np.hypot(x - head.x, y - head.y) > 0.75 * (radius + head.radius) for head in heads):
                break
        spin = rng.uniform(-0.6, 0.6) if kind.is_upright else rng.uniform(-np.pi, np.pi)
        squeeze = rng.uniform(0.85, 1.0) if kind.is_upright else rng.uniform(0.62, 1.0)
        heads.append(_Head(x, y, radius, spin, rng.uniform(0, np.pi), squeeze, rng.uniform(-0.12, 0.12)))
    return heads


def _grow_stem(canvas: _Canvas, foot: tuple[float, float], radius: float, rng: np.random.Generator) -> None:
    """Draw a stem from a head's foot out of the picture, with one or two leaves; the same for every kind."""
    size = canvas.size
    t = np.linspace(0, 1, 24)
    end = (foot[0] + rng.normal(0, 0.12) * size, size * 1.06 + max(0.0, foot[1] - 0.9 * size))
    bend = rng.normal(0, 0.10) * size
    x = foot[0] + (end[0] - foot[0]) * t + bend * t * (1 - t) * 2
    y = foot[1] + (end[1] - foot[1]) * t
    green = np.array([86, 128, 58]) * rng.uniform(0.75, 1.15) + rng.normal(0, 8, 3)
    layer = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    width = 0.010 * size + 0.05 * radius
    for k, tone in ((1.0, 0.72), (0.6, 1.0), (0.22, 1.2)):
        shift = (1 - k) * 0.25 * width * np.sign(canvas.light[0])
        line = list(zip(x + shift, y, strict=True))
        draw.line(line, fill=to_fill(green * tone), width=max(1, round(width * k)), joint="curve")
    for _ in range(int(rng.integers(1, 3))):
        k = int(rng.integers(8, 22))
        lean, length = rng.choice([-1, 1]) * rng.uniform(0.3, 1.1), radius * rng.uniform(0.9, 1.5)
        _draw_stem_leaf(draw, (x[k], y[k]), lean, length, green)
    box = layer.getbbox() or (0, 0, 1, 1)
    plant = layer.crop(box)
    paste_with_shadow(canvas.image, plant, (box[0], box[1]), canvas.shift_shadow(0.012 * size), 0.006 * size)


def _draw_stem_leaf(
    draw: ImageDraw.ImageDraw, root: tuple[float, float], lean: float, length: float, green: Floats
) -> None:
    """Draw a long curved leaf in two halves, one of them lit; `lean` is its angle from upright."""
    t = np.linspace(0, 1, 20)
    angle = lean * (0.6 + 0.9 * t)
    x, y = root[0] + length * t * np.sin(angle), root[1] - length * t * np.cos(angle)
    half = 0.14 * length * np.sin(np.pi * t**0.75)
    normal = np.cos(angle), np.sin(angle)
    spine = list(zip(x, y, strict=True))
    for side, tone in ((-1, 1.12), (1, 0.82)):
        edge = zip(x + side * half * normal[0], y + side * half * normal[1], strict=True)
        draw.polygon([*spine, *reversed(list(edge))], fill=to_fill(green * tone))
    draw.line(spine, fill=to_fill(green * 1.3), width=2)


def _lay_head(canvas: _Canvas, head: _Head, kind: Kind, rng: np.random.Generator) -> Floats:
    """Paint one head where it stands, its shadow first; (H, W): how much of each pixel it covers."""
    reach = 1.25 * head.radius
    top, bottom = (int(np.clip(head.y + d, 0, canvas.size)) for d in (-reach, reach))
    left, right = (int(np.clip(head.x + d, 0, canvas.size)) for d in (-reach, reach))
    rows, cols = slice(top, bottom), slice(left, right)
    bloom = Bloom.bare(head.make_plane(rows, cols))
    kind.paint(bloom, rng)
    shape = Image.fromarray((bloom.alpha * 255).astype(np.uint8))
    cast_shadow(canvas.image, shape, (left, top), canvas.shift_shadow(0.2 * head.radius), 0.1 * head.radius)
    y, x = np.mgrid[rows, cols].astype(np.float32)
    toward = ((x - head.x) * canvas.light[0] + (y - head.y) * canvas.light[1]) / head.radius
    lit = np.moveaxis(bloom.rgb * (255 + 33 * toward), 0, -1)
    below = np.asarray(canvas.image.crop((left, top, right, bottom)), np.float32)
    mixed = below * (1 - bloom.alpha)[..., None] + lit
    canvas.image.paste(Image.fromarray(mixed.clip(0, 255).astype(np.uint8)), (left, top))
    canvas.cover[rows, cols] += bloom.alpha * (1 - canvas.cover[rows, cols])
    own = np.zeros_like(canvas.cover)
    own[rows, cols] = bloom.alpha
    return own


def _put_in_front(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Let a small leaf or butterfly come in front now and then, unless it would hide much of the flowers."""
    if rng.random() < 0.6:
        return
    prop = make_prop(str(rng.choice(["leaf", "butterfly"])), rng, int(canvas.size * rng.uniform(0.07, 0.14)))
    corner = (int(rng.uniform(0, 0.9) * canvas.size), int(rng.uniform(0, 0.9) * canvas.size))
    whole = Image.new("L", canvas.image.size, 0)
    whole.paste(prop.getchannel("A"), corner)
    cover = canvas.cover * (1 - np.asarray(whole, np.float32) / 255)
    if cover.sum() >= (1 - _MAX_COVERED_FRAC) * canvas.cover.sum():
        paste_with_shadow(canvas.image, prop, corner, canvas.shift_shadow(0.012 * canvas.size), 0.05 * prop.width)
        canvas.cover = cover


def _expose(canvas: _Canvas, size_px: int, rng: np.random.Generator) -> Image.Image:
    """Take the picture: scale down, exposure, colour temperature, vignette, film grain."""
    rgb = np.asarray(canvas.image.resize((size_px, size_px), Image.Resampling.HAMMING), np.float32)
    warmth = rng.normal(0, 0.035)
    gain = rng.uniform(0.88, 1.14) * np.array([1 + warmth, 1, 1 - warmth])
    line = np.linspace(-1, 1, size_px, dtype=np.float32)
    vignette = 1 - rng.uniform(0.05, 0.22) * (line[:, None] ** 2 + line[None] ** 2) / 2
    grain = rng.standard_normal((size_px, size_px, 1), np.float32) * rng.uniform(1.0, 3.5)
    photo = rgb * gain.astype(np.float32) * vignette[..., None] + grain
    return Image.fromarray(photo.clip(0, 255).astype(np.uint8))


@dataclass(frozen=True)
class MixedScene:
    """A picture of flowers of one to three kinds, and where exactly each kind is."""

    image: Image.Image  # RGB, (H, W)
    masks: dict[str, NDArray[np.bool_]]  # flower -> (H, W), True on its heads in sight; empty: no flower at all
    seed: int


def make_mixed_scene(flowers: Sequence[str], seed: int, size_px: int = 256) -> MixedScene:
    """The scene with one head of each of these flowers, none to three; always the same for a seed and a size.

    Raises:
        UserError: an unknown flower, one twice, more than three, a negative seed, or a side under 32 pixels.
    """
    _check_scene(flowers, seed, size_px)
    if len(set(flowers)) < len(flowers) or len(flowers) > max(_HEAD_DIAMETERS):
        raise UserError(f"flowers is {list(flowers)}; expected up to {max(_HEAD_DIAMETERS)} kinds, each once.")
    streams = np.random.default_rng([seed, size_px, *" ".join(sorted(flowers)).encode()]).spawn(4)
    surroundings_rng, plants_rng, front_rng, camera_rng = streams
    canvas = _make_canvas(surroundings_rng, size_px)
    heads = _choose_heads([KINDS[flower] for flower in flowers], canvas.size, plants_rng)
    planted = sorted(zip(flowers, heads, strict=True), key=lambda one: one[1].radius)
    for flower, head in planted:
        _grow_stem(canvas, head.locate(KINDS[flower].foot), head.radius, plants_rng)
    covers: dict[str, Floats] = {}
    for flower, head in planted:
        own = _lay_head(canvas, head, KINDS[flower], plants_rng)
        covers = {name: cover * (1 - own) for name, cover in covers.items()} | {flower: own}
    whole = canvas.cover.copy()
    if flowers:
        _put_in_front(canvas, front_rng)
    in_sight = np.divide(canvas.cover, whole, out=np.zeros_like(whole), where=whole > 0)
    masks = {name: _to_mask(cover * in_sight, size_px) for name, cover in covers.items()}
    return MixedScene(_expose(canvas, size_px, camera_rng), masks, seed)


def _check_scene(flowers: Sequence[str], seed: int, size_px: int) -> None:
    if unknown := next((flower for flower in flowers if flower not in KINDS), None):
        raise make_unknown_name("flower", unknown, FLOWERS)
    if seed < 0:
        raise UserError(f"seed is {seed}; scenes are numbered from 0. Give a seed of 0 or more.")
    if size_px < _MIN_SIZE_PX:
        raise UserError(
            f"size_px is {size_px}; a scene needs at least {_MIN_SIZE_PX} pixels a side. Leave size_px out for 256."
        )


def _make_canvas(rng: np.random.Generator, size_px: int) -> _Canvas:
    """The surroundings, and the light from the upper left, as on the things in backdrops.py."""
    size = size_px * _SUPERSAMPLE
    angle = rng.uniform(-0.85, -0.55) * np.pi
    light = (float(np.cos(angle)), float(np.sin(angle)))
    return _Canvas(paint_surroundings(rng, size, light), np.zeros((size, size), np.float32), light)


def _to_mask(cover: Floats, size_px: int) -> NDArray[np.bool_]:
    """(H, W) bool: the pixels at least half of which are covered."""
    mask: NDArray[np.bool_] = cover.reshape(size_px, _SUPERSAMPLE, size_px, _SUPERSAMPLE).mean(axis=(1, 3)) >= 0.5
    return mask


def write_garden(
    folder: Path,
    *,
    train_per_class: int = 40,
    val_per_class: int = 16,
    seed: int = 0,
    size_px: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a class-folder tree of scenes, and beside it their masks.

    Photos are `photos/train/CLASS/0000.jpg` and `photos/val/CLASS/0000.jpg`, masks `masks/SPLIT/CLASS/0000.png`
    (8 bit, 255 on the flower). No scene is in both splits: train has the even scene seeds and val the odd ones.

    Args:
        folder: made if it is missing; files of the same names are replaced.
        train_per_class: scenes of each flower in train.
        val_per_class: scenes of each flower in val.
        seed: another seed gives another garden.
        size_px: side of photos and masks.
        progress: called after each scene with how many are written and how many there will be.
    """
    first = 10_000_000 * seed
    jobs = [
        (split, flower, index, first + 2 * index + odd)
        for split, count, odd in (("train", train_per_class, 0), ("val", val_per_class, 1))
        for flower in FLOWERS
        for index in range(count)
    ]
    for split, flower in sorted({job[:2] for job in jobs}):
        for tree in ("photos", "masks"):
            (folder / tree / split / flower).mkdir(parents=True, exist_ok=True)

    def write(job: tuple[str, str, int, int]) -> None:
        split, flower, index, scene_seed = job
        scene = make_scene(flower, scene_seed, size_px)
        scene.image.save(folder / "photos" / split / flower / f"{index:04d}.jpg", quality=92)
        mask = Image.fromarray(scene.mask.astype(np.uint8) * 255)
        mask.save(folder / "masks" / split / flower / f"{index:04d}.png")

    with ThreadPoolExecutor(max_workers=2) as pool:  # NumPy and Pillow release the lock where the time goes
        for done, _ in enumerate(pool.map(write, jobs), start=1):
            if progress is not None:
                progress(done, len(jobs))


def write_mixed_garden(
    folder: Path, *, train: int = 200, val: int = 100, seed: int = 0, size_px: int = 256
) -> dict[str, tuple[str, ...]]:
    """Write scenes of one to three flowers, some of none, and a list of them; what comes back are each photo's flowers.

    Photos are `photos/0000.jpg`, masks `masks/FLOWER/0000.png`, and `labels.csv` has path,labels,split. One scene in
    twelve has no flower.

    Args:
        folder: made if it is missing; files of the same names are replaced.
        train: scenes to train on.
        val: scenes that are held out.
        seed: another seed gives another garden.
        size_px: side of photos and masks.
    """
    draw = np.random.default_rng([seed, train, val])
    jobs = []
    for index in range(train + val):
        count = 0 if draw.random() < 1 / 12 else int(draw.integers(1, 4))
        jobs.append((index, tuple(sorted(draw.choice(FLOWERS, size=count, replace=False).tolist()))))
    for place in ("photos", *(f"masks/{flower}" for flower in FLOWERS)):
        (folder / place).mkdir(parents=True, exist_ok=True)

    def write(job: tuple[int, tuple[str, ...]]) -> None:
        index, flowers = job
        scene = make_mixed_scene(flowers, 10_000_000 * seed + index, size_px)
        scene.image.save(folder / "photos" / f"{index:04d}.jpg", quality=92)
        for flower, mask in scene.masks.items():
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / flower / f"{index:04d}.png")

    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(write, jobs))
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("path", "labels", "split"))
        for index, flowers in jobs:
            table.writerow((f"photos/{index:04d}.jpg", ";".join(flowers), "train" if index < train else "val"))
    return {f"photos/{index:04d}.jpg": flowers for index, flowers in jobs}
