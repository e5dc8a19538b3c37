"""Maps to heatmaps to overlays: resize, scale and colour, each a choice that is made here once and recorded."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image

from whycam.data.pixels import STRIP_PX, cut_strips
from whycam.errors import make_unknown_name

NO_RELU = "none: the raw map is kept"
RESIZE = "bilinear, half-pixel centres"
SCALE_POSITIVE = "positive part of the resized map, divided by its maximum"
SCALE_SIGNED = "resized map divided by its largest absolute value, 0 at 0.5"
COLORMAP_POSITIVE = "inferno"
COLORMAP_SIGNED = "RdBu_r"
ALPHA = 0.6
_BILINEAR = Image.Resampling.BILINEAR


def scale_map(values: np.ndarray, *, is_signed: bool) -> np.ndarray:
    """Heat in [0, 1] of one map (h, w); the division is by the maximum itself, so no constant changes a map.

    Not signed: negative values are no evidence and become 0; a map without a positive value is 0 everywhere.
    Signed: 0 evidence is 0.5; a map that is 0 everywhere stays there.
    """
    values = np.where(np.isfinite(values), values, np.float32(0))
    return _scale(values, _find_peak(values, is_signed), is_signed)


def _find_peak(values: np.ndarray, is_signed: bool) -> np.floating:
    """What `scale_map` divides finite values by; 0 where there is no evidence."""
    peak: np.floating = (np.abs(values) if is_signed else values.clip(0)).max()
    return peak


def _scale(values: np.ndarray, peak: np.floating, is_signed: bool) -> np.ndarray:
    peak = peak or np.float32(1)
    return 0.5 + 0.5 * (values / peak) if is_signed else values.clip(0) / peak


def resize_map(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """One finite map (h, w) at `size` (height, width), bilinear; where that is smaller, averaged over what it loses."""
    resized = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32)).resize(size[::-1], _BILINEAR)
    return np.asarray(resized)


def make_heatmap(values: np.ndarray, size: tuple[int, int], *, is_signed: bool) -> np.ndarray:
    """(H, W) float32 in [0, 1]: one map (h, w), resized to the photo and then scaled: its hottest pixel is 1."""
    finite = np.where(np.isfinite(values), values, 0)
    return scale_map(resize_map(finite, size), is_signed=is_signed)


def draw_levels(values: np.ndarray, size: tuple[int, int], *, is_signed: bool) -> np.ndarray:
    """(H, W) uint8: `make_heatmap` in 256 steps, 0.5 is 128, which is all that a picture shows of it.

    A large one is made in strips of columns, and so takes a byte a pixel, not twelve. Pillow resizes rows first and
    each column then by itself: the strips are the same to the bit.
    """
    height, width = size
    columns = max(1, STRIP_PX // height)
    if columns >= width:
        return _to_levels(make_heatmap(values, size, is_signed=is_signed))
    wide = resize_map(np.where(np.isfinite(values), values, 0), (values.shape[0], width))
    cuts = [slice(left, min(left + columns, width)) for left in range(0, width, columns)]
    peak = max(_find_peak(resize_map(wide[:, cut], (height, cut.stop - cut.start)), is_signed) for cut in cuts)
    levels = np.empty(size, dtype=np.uint8)
    for cut in cuts:
        strip = resize_map(wide[:, cut], (height, cut.stop - cut.start))
        levels[:, cut] = _to_levels(_scale(strip, peak, is_signed))
    return levels


def check_colormap(name: str | None) -> None:
    """Refuses a name that matplotlib does not know.

    Raises:
        UserError: no colour map of that name.
    """
    if name is None:
        return
    from matplotlib import colormaps  # noqa: PLC0415 - slow to import, and heatmaps alone do without

    if name not in colormaps:
        raise make_unknown_name("colour map", name, colormaps)


@lru_cache(maxsize=8)
def read_colors(name: str) -> np.ndarray:
    """(256, 3) uint8: the colours of a colour map.

    Raises:
        UserError: matplotlib has no colour map of that name.
    """
    check_colormap(name)
    from matplotlib import colormaps  # noqa: PLC0415 - as above

    return np.asarray(colormaps[name](np.arange(256), bytes=True))[:, :3]


def color_heatmap(heatmap: np.ndarray, colormap: str) -> np.ndarray:
    """(H, W, 3) uint8 of heat in [0, 1]: 0 is the colour map's first colour, 1 its last.

    Raises:
        UserError: matplotlib has no colour map of that name.
    """
    return np.asarray(to_picture(heatmap, colormap))


def lay_over(photo: Image.Image, heatmap: np.ndarray, colormap: str, *, alpha: float, is_signed: bool) -> Image.Image:
    """The photo with coloured heat on it; a pixel's colour depends on nothing but its own photo colour and heat.

    The opacity grows with the evidence, to `alpha` at half of the strongest, so that the photo stays plain to see
    where there is none.

    Args:
        photo: (W, H).
        heatmap: (H, W) in [0, 1], or its levels: see `draw_levels`.
        colormap: matplotlib's name.
        alpha: the highest opacity.
        is_signed: whether there is no evidence at 0.5, not at 0.

    Raises:
        ValueError: photo and heatmap differ in size.
    """
    if heatmap.shape != photo.size[::-1]:
        raise ValueError(f"the heatmap is {heatmap.shape}, the photo {photo.size[::-1]}")
    levels = np.arange(256) / 255
    strength = np.abs(levels - 128 / 255) * 2 if is_signed else levels
    opacity = np.rint(255 * alpha * np.minimum(1, 2 * strength)).astype(np.uint8)
    over = Image.new("RGB", photo.size)
    for box in cut_strips(photo.size):
        heat = _to_levels(heatmap[box[1] : box[3]])
        mask = Image.fromarray(opacity[heat])
        over.paste(Image.composite(to_picture(heat, colormap), photo.crop(box).convert("RGB"), mask), box[:2])
    return over


def to_picture(heatmap: np.ndarray, colormap: str) -> Image.Image:
    """The heatmap alone, coloured: (H, W) in [0, 1], or its levels."""
    picture = Image.fromarray(_to_levels(heatmap))
    picture.putpalette(read_colors(colormap).tobytes())
    return picture.convert("RGB")


def _to_levels(heatmap: np.ndarray) -> np.ndarray:
    """(H, W) uint8 of heat in [0, 1]; 0.5, where a signed map has no evidence, is 128."""
    if heatmap.dtype == np.uint8:
        return heatmap
    return (heatmap * np.float32(255) + np.float32(0.5)).clip(0, 255).astype(np.uint8)


def join_pictures(pictures: Sequence[Image.Image], height_px: int = 224, gap_px: int = 4) -> Image.Image:
    """Pictures in a row on white, brought to one height."""
    scaled = [p.resize((max(1, round(p.width * height_px / p.height)), height_px)) for p in pictures]
    row = Image.new("RGB", (sum(p.width for p in scaled) + gap_px * (len(scaled) - 1), height_px), "white")
    left = 0
    for picture in scaled:
        row.paste(picture, (left, 0))
        left += picture.width + gap_px
    return row
