"""Paints one flower head as seen from the camera, petal by petal; no files, no scene.

A new flower is one `_paint_...` function and one row in `KINDS` at the end of this file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.floating]  # float32 wherever there are pixels
Rgb = tuple[float, float, float]

GOLDEN_ANGLE = float(np.pi * (3.0 - np.sqrt(5.0)))
_PROFILE_STEPS = 512


@dataclass(frozen=True)
class Plane:
    """The flower's own plane at each pixel of a patch: x to the right, y down, the head inside the unit circle."""

    x: Floats  # (H, W)
    y: Floats  # (H, W)
    pixel: float  # one pixel's width in the plane's units

    @property
    def radius(self) -> Floats:
        """(H, W) distance from the head's middle."""
        return np.hypot(self.x, self.y)


@dataclass
class Bloom:
    """A head while it is painted: colours in 0..1 and coverage in 0..1, the nearest petal last."""

    plane: Plane
    rgb: Floats  # (3, H, W)
    alpha: Floats  # (H, W)

    @classmethod
    def bare(cls, plane: Plane) -> Bloom:
        """A bloom without petals."""
        shape = plane.x.shape
        return cls(plane, np.zeros((3, *shape), np.float32), np.zeros(shape, np.float32))

    def near(self, x: float, y: float, reach: float) -> Bloom:
        """A view of the part within `reach` of a point of the plane; what is laid there is laid here too."""
        step = 4
        rows, cols = np.nonzero(np.hypot(self.plane.x[::step, ::step] - x, self.plane.y[::step, ::step] - y) < reach)
        if not len(rows):
            return self._cut(slice(0, 0), slice(0, 0))
        top, left = (max(0, (int(at.min()) - 1) * step) for at in (rows, cols))
        return self._cut(slice(top, (int(rows.max()) + 2) * step), slice(left, (int(cols.max()) + 2) * step))

    def _cut(self, *box: slice) -> Bloom:
        plane = Plane(self.plane.x[box], self.plane.y[box], self.plane.pixel)
        return Bloom(plane, self.rgb[:, *box], self.alpha[box])

    def lay(self, inside: Floats, rgb: Floats, *, shade: float = 0.35, spread: float = 0.07) -> None:
        """Lay one shape on top, with its soft shadow on what lies below.

        Args:
            inside: (H, W) distance to the shape's edge in plane units, positive inside.
            rgb: (3, H, W) colour in 0..1.
            shade: darkening right at the edge, 0..1.
            spread: the shadow's width in plane units.
        """
        cover = np.clip(inside / self.plane.pixel + 0.5, 0.0, 1.0)
        shadow = 1.0 - shade * np.square(np.clip(1.0 + inside / spread, 0.0, 1.0))
        self.rgb *= (1.0 - cover) * shadow
        self.rgb += rgb * cover
        self.alpha += cover * (1.0 - self.alpha)


@dataclass(frozen=True)
class Ring:
    """Petals of one kind around the middle; lengths and widths in plane units."""

    count: int
    reach: float  # from the middle to the tips
    half_width: float
    root: float  # how quickly the petal widens from the middle (small: at once)
    tip: float  # how pointed the end is (small: blunt)
    inner_rgb: Rgb
    outer_rgb: Rgb
    veins: float = 0.06
    jitter: float = 0.05


@lru_cache(maxsize=32)
def _petal_profile(root: float, tip: float) -> Floats:
    """Half width, at most 1, along a petal from its foot to its end; one more cell so that past the end is -1."""
    u = np.linspace(0.0, 1.0, _PROFILE_STEPS, dtype=np.float32)
    width = u**root * (1.0 - u) ** tip
    return np.append(width / width.max(), -1.0).astype(np.float32)


def _compute_half_width(u: Floats, root: float, tip: float) -> Floats:
    cells = np.clip(u * (_PROFILE_STEPS - 1), -1, _PROFILE_STEPS).astype(np.intp)
    return np.take(_petal_profile(root, tip), cells, mode="wrap")


def _mix(first: Rgb, second: Rgb, share: Floats) -> Floats:
    """(3, H, W) colour that goes from `first` at share 0 to `second` at share 1."""
    a, b = _as_planes(first), _as_planes(second)
    return a + np.clip(share, 0.0, 1.0) * (b - a)


def _as_planes(rgb: Rgb) -> Floats:
    return np.array(rgb, np.float32)[:, None, None]


def _vary(rgb: Rgb, rng: np.random.Generator, amount: float = 0.05) -> Rgb:
    r, g, b = np.clip(np.asarray(rgb) + rng.normal(0.0, amount, 3), 0.0, 1.0)
    return float(r), float(g), float(b)


def _lay_ring(bloom: Bloom, ring: Ring, rng: np.random.Generator) -> None:
    """Lay a ring of petals that do not overlap one another; use two rings for petals that do."""
    bloom = bloom.near(0.0, 0.0, 1.1 * ring.reach)
    plane, n = bloom.plane, ring.count
    step = 2 * np.pi / n
    phase = rng.uniform(0, step)
    which = np.floor((np.arctan2(plane.y, plane.x) - phase) / step + 0.5).astype(np.intp) % n  # (H, W)
    angle = phase + step * (np.arange(n) + rng.normal(0, ring.jitter, n))
    reach = ring.reach * (1 - np.abs(rng.normal(0, ring.jitter, n)))
    tone = 1 + rng.normal(0, 0.045, n)
    wave = rng.uniform(0, 2 * np.pi, n)
    of_petals = np.stack([np.cos(angle), np.sin(angle), reach, tone, wave]).astype(np.float32)  # (5, n)
    cos, sin, reach, tone, wave = np.take(of_petals, which, axis=1)  # each (H, W)
    along = (plane.x * cos + plane.y * sin) / reach  # 0 at the middle, 1 at the tip
    bend = 0.05 * np.sin(wave) * along * along
    across = plane.y * cos - plane.x * sin - bend
    half = ring.half_width * _compute_half_width(along, ring.root, ring.tip) * (1 + 0.05 * np.sin(9 * along + wave))
    side = across / np.maximum(half, 0.02)  # -1..1 from edge to edge
    light = tone * (1 + ring.veins * np.cos(side * 7 + wave * 0.3) - 0.14 * side * side + 0.07 * side)
    rgb = _mix(ring.inner_rgb, ring.outer_rgb, along) * light
    bloom.lay(half - np.abs(across), rgb, shade=0.4, spread=0.06)


@lru_cache(maxsize=4)
def _make_seed_head(count: int, size: int = 256) -> Floats:
    """(size, size) heights in 0..1 of seeds laid in the golden angle (Vogel 1979), the unit circle's square."""
    index = np.arange(count)
    radius, angle = np.sqrt((index + 0.5) / count), index * GOLDEN_ANGLE
    at = np.clip(((np.stack([np.sin(angle), np.cos(angle)]) * radius + 1) * size / 2).astype(int), 0, size - 1)
    empty = np.ones((size, size), bool)
    empty[at[0], at[1]] = False
    distance = ndimage.distance_transform_edt(empty)
    spacing = size / 2 * np.sqrt(np.pi / count) * 0.55
    heights: Floats = np.clip(1.0 - (distance / spacing) ** 2, 0.0, 1.0).astype(np.float32)
    return heights


def _sample_seeds(plane: Plane, count: int, reach: float) -> Floats:
    heights = _make_seed_head(count)
    size = heights.shape[0]
    at = np.stack([plane.y, plane.x]) / reach * (size / 2) + size / 2
    seeds: Floats = ndimage.map_coordinates(heights, at, order=1, mode="constant")
    return seeds


def _paint_daisy(bloom: Bloom, rng: np.random.Generator) -> None:
    count = int(rng.integers(10, 14))
    blush = _vary((0.97, 0.96, 0.97), rng, 0.02)
    ring = Ring(count, 1.0, 0.135, 0.55, 0.28, (0.74, 0.78, 0.72), blush, veins=0.035)
    _lay_ring(bloom, ring, rng)
    _lay_ring(bloom, replace(ring, reach=0.95), rng)
    plane, reach = bloom.plane, rng.uniform(0.25, 0.33)
    dome = plane.radius / reach
    seeds = _sample_seeds(plane, 150, reach)
    yellow = _mix(_vary((0.98, 0.78, 0.10), rng, 0.03), (0.80, 0.48, 0.02), dome**3)
    light = 0.72 + 0.36 * seeds - 0.14 * (plane.x + plane.y) / reach
    bloom.lay(reach - plane.radius, yellow * light, shade=0.5, spread=0.12)


def _paint_dandelion(bloom: Bloom, rng: np.random.Generator) -> None:
    outer, inner = _vary((1.0, 0.84, 0.10), rng, 0.03), _vary((0.93, 0.62, 0.02), rng, 0.03)
    reaches = np.linspace(1.0, 0.16, 8)
    for layer, reach in enumerate(reaches):
        depth = layer / (len(reaches) - 1)
        foot = (0.80 - 0.05 * depth, 0.50, 0.02)
        tip = tuple(float(a + (b - a) * depth) for a, b in zip(outer, inner, strict=True))
        count = int(44 - 24 * depth)
        ring = Ring(
            count, float(reach), 0.048 - 0.012 * depth, 0.45, 0.12, foot, (tip[0], tip[1], tip[2]), jitter=0.075
        )
        _lay_ring(bloom, ring, rng)


def _paint_sunflower(bloom: Bloom, rng: np.random.Generator) -> None:
    foot, tip = _vary((0.93, 0.52, 0.03), rng, 0.03), _vary((1.0, 0.80, 0.10), rng, 0.03)
    count = int(rng.integers(11, 15))
    for reach in (1.0, 0.97, 0.84):
        _lay_ring(bloom, Ring(count, reach, 0.155, 1.5, 0.75, foot, tip, veins=0.07), rng)
    plane, reach = bloom.plane, rng.uniform(0.46, 0.54)
    share = plane.radius / reach
    seeds = _sample_seeds(plane, 420, reach)
    brown = _mix(_vary((0.30, 0.20, 0.07), rng, 0.02), _vary((0.36, 0.19, 0.07), rng, 0.02), share)
    band = np.exp(-np.square((share - 0.62) / 0.16))  # the ring of open florets between seeds and heart
    brown = brown + _as_planes((0.26, 0.13, 0.02)) * (band * seeds)
    light = 0.42 + 0.85 * seeds - 0.12 * (plane.x + plane.y)
    bloom.lay(reach - plane.radius, brown * light, shade=0.55, spread=0.12)


_ROSE_RGB: Sequence[Rgb] = ((0.80, 0.05, 0.10), (0.93, 0.42, 0.55), (0.96, 0.92, 0.86), (0.97, 0.66, 0.48))
_ROSE_RINGS = ((5, 1.0), (5, 0.84), (5, 0.68), (4, 0.53), (4, 0.40), (3, 0.28), (3, 0.18), (2, 0.10))


def _paint_rose(bloom: Bloom, rng: np.random.Generator) -> None:
    rim = _vary(_ROSE_RGB[int(rng.integers(len(_ROSE_RGB)))], rng, 0.04)
    deep = (rim[0] * 0.62, rim[1] * 0.40, rim[2] * 0.42)
    turn = rng.uniform(0, 2 * np.pi)
    for count, reach in _ROSE_RINGS:
        turn += GOLDEN_ANGLE
        for k in range(count):
            angle = turn + 2 * np.pi * (k + rng.normal(0, 0.06)) / count
            _lay_rose_petal(bloom, angle, reach * rng.uniform(0.94, 1.0), (rim, deep), rng)


def _lay_rose_petal(
    bloom: Bloom, angle: float, reach: float, colours: tuple[Rgb, Rgb], rng: np.random.Generator
) -> None:
    """Lay a round lobe from the middle outwards, its rim curled to the light and its depth dark."""
    size = 0.60 * reach
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    bloom = bloom.near(cos * (reach - size), sin * (reach - size), 1.3 * size)
    plane = bloom.plane
    along, across = plane.x * cos + plane.y * sin, plane.y * cos - plane.x * sin
    from_middle = np.hypot(along - (reach - size), across * np.float32(rng.uniform(0.84, 0.95)))
    wave = 0.03 * size * np.sin(across * (8 / reach) + rng.uniform(0, 6))
    inside = size - from_middle + wave
    depth = inside / (0.95 * size)
    rgb = _mix(colours[0], colours[1], depth)
    curl = 0.16 * np.exp(-np.square(depth / 0.07))
    veins = 0.02 * np.sin(across * (34 / reach))
    light = float(rng.normal(1.0, 0.04)) + curl + veins - 0.10 * (plane.x + plane.y)
    bloom.lay(inside, rgb * light, shade=0.5, spread=0.16 * reach)


_TULIP_RGB: Sequence[tuple[Rgb, Rgb]] = (  # at the foot, at the tip
    ((0.88, 0.55, 0.12), (0.85, 0.07, 0.09)),
    ((0.98, 0.86, 0.80), (0.93, 0.34, 0.55)),
    ((0.86, 0.66, 0.08), (1.00, 0.85, 0.15)),
    ((0.72, 0.55, 0.72), (0.47, 0.14, 0.53)),
    ((0.95, 0.72, 0.15), (0.97, 0.44, 0.08)),
)
TULIP_FOOT = 0.92
_TULIP_PETALS = (  # lean in radians, length, half width, brightness; from the back to the front
    (-0.17, 1.72, 0.42, 0.62),
    (0.19, 1.76, 0.42, 0.66),
    (0.0, 1.80, 0.40, 0.74),
    (-0.34, 1.78, 0.50, 0.92),
    (0.34, 1.74, 0.50, 0.86),
    (0.03, 1.46, 0.42, 1.04),
)


def _paint_tulip(bloom: Bloom, rng: np.random.Generator) -> None:
    foot, tip = _TULIP_RGB[int(rng.integers(len(_TULIP_RGB)))]
    colours = _vary(foot, rng, 0.03), _vary(tip, rng, 0.04)
    first = int(rng.integers(0, 3))  # 4 to 6 petals in sight
    openness = rng.uniform(0.75, 1.25)
    for lean, length, half_width, tone in _TULIP_PETALS[first:]:
        angle = lean * openness + rng.normal(0, 0.03)
        _lay_tulip_petal(bloom, angle, (length * rng.uniform(0.95, 1.0), half_width, tone), colours, rng)


def _lay_tulip_petal(
    bloom: Bloom, lean: float, shape: tuple[float, float, float], colours: tuple[Rgb, Rgb], rng: np.random.Generator
) -> None:
    """Lay a pointed cup petal that rises from the foot and bends back to the axis."""
    plane, (length, half_width, tone) = bloom.plane, shape
    cos, sin = float(np.cos(lean)), float(np.sin(lean))
    up = TULIP_FOOT - plane.y
    along = (up * cos + plane.x * sin) / length
    across = plane.x * cos - up * sin + np.float32(0.75 * lean) * along * along
    half = half_width * _compute_half_width(along, 0.50, 0.80)
    side = across / np.maximum(half, 0.03)
    veins = 0.035 * np.sin(side * 11 + rng.uniform(0, 6)) + 0.02 * np.sin(side * 23)
    light = tone * (1.02 + veins - 0.24 * side * side - 0.10 * side) + 0.08 * np.exp(-np.square(side / 0.12)) * along
    rgb = _mix(*colours, along * 1.6 - 0.12 - 0.15 * side * side)
    bloom.lay(half - np.abs(across), rgb * light, shade=0.45, spread=0.12)


@dataclass(frozen=True)
class Kind:
    """How one flower is painted and seen."""

    paint: Callable[[Bloom, np.random.Generator], None]
    is_upright: bool = False  # seen from the side: it may lean but not turn over
    foot: float = 0.0  # where the stem meets the head, along the plane's y


KINDS = {
    "daisy": Kind(_paint_daisy),
    "dandelion": Kind(_paint_dandelion),
    "rose": Kind(_paint_rose),
    "sunflower": Kind(_paint_sunflower),
    "tulip": Kind(_paint_tulip, is_upright=True, foot=TULIP_FOOT),
}
FLOWERS = tuple(KINDS)
