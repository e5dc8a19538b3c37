"""Maps to heatmaps to overlays: resize, scale and colour, each a choice that is made here once and recorded."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import matplotlib as mpl
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from whycam.errors import make_unknown_name

RESIZE = "bilinear, half-pixel centres"
SCALE_POSITIVE = "positive part of the resized map, divided by its maximum"
SCALE_SIGNED = "resized map divided by its largest absolute value, 0 at 0.5"
COLORMAP_POSITIVE = "inferno"
COLORMAP_SIGNED = "RdBu_r"
ALPHA = 0.6


def scale_map(values: Tensor, *, is_signed: bool) -> Tensor:
    """Heat in [0, 1] of maps (..., h, w); the division is by the maximum itself, so no constant changes a map.

    Not signed: negative values are no evidence and become 0; a map without a positive value is 0 everywhere.
    Signed: 0 evidence is 0.5; a map that is 0 everywhere stays there.
    """
    values = torch.where(values.isfinite(), values, torch.zeros_like(values))
    top = values.abs() if is_signed else values.clamp(min=0)
    peak = top.amax(dim=(-2, -1), keepdim=True)
    heat = (values if is_signed else top) / torch.where(peak > 0, peak, torch.ones_like(peak))
    return 0.5 + 0.5 * heat if is_signed else heat


def resize_map(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, h, w) at `size` (height, width), bilinear."""
    return nn.functional.interpolate(values[:, None].float(), size=size, mode="bilinear", align_corners=False)[:, 0]


def make_heatmap(values: Tensor, size: tuple[int, int], *, is_signed: bool) -> np.ndarray:
    """(H, W) float32 in [0, 1]: one map (h, w), resized to the photo and then scaled: its hottest pixel is 1."""
    finite = values.nan_to_num(nan=0, posinf=0, neginf=0)
    heat: np.ndarray = scale_map(resize_map(finite[None], size)[0], is_signed=is_signed).cpu().numpy()
    return heat


def check_colormap(name: str | None) -> None:
    """Refuses a name that matplotlib does not know.

    Raises:
        UserError: no colour map of that name.
    """
    if name is not None and name not in mpl.colormaps:
        raise make_unknown_name("colour map", name, mpl.colormaps)


@lru_cache(maxsize=8)
def _read_colors(name: str) -> np.ndarray:
    check_colormap(name)
    return np.asarray(mpl.colormaps[name](np.arange(256), bytes=True))[:, :3]


def color_heatmap(heatmap: np.ndarray, colormap: str) -> np.ndarray:
    """(H, W, 3) uint8 of heat in [0, 1]: 0 is the colour map's first colour, 1 its last.

    Raises:
        UserError: matplotlib has no colour map of that name.
    """
    colors: np.ndarray = _read_colors(colormap)[np.rint(np.clip(heatmap, 0, 1) * 255).astype(np.uint8)]
    return colors


def lay_over(photo: Image.Image, heatmap: np.ndarray, colormap: str, *, alpha: float, is_signed: bool) -> Image.Image:
    """The photo with coloured heat on it; a pixel's colour depends on nothing but its own photo colour and heat.

    The opacity grows with the evidence, to `alpha` at half of the strongest, so that the photo stays plain to see
    where there is none.
    """
    strength = np.abs(heatmap - 0.5) * 2 if is_signed else heatmap
    opacity = (alpha * np.minimum(1, 2 * strength))[..., None].astype(np.float32)
    base = np.asarray(photo.convert("RGB"), dtype=np.float32)
    return Image.fromarray(np.rint(base + opacity * (color_heatmap(heatmap, colormap) - base)).astype(np.uint8))


def to_picture(heatmap: np.ndarray, colormap: str) -> Image.Image:
    """The heatmap alone, coloured."""
    return Image.fromarray(color_heatmap(heatmap, colormap))


def join_pictures(pictures: Sequence[Image.Image], height_px: int = 224, gap_px: int = 4) -> Image.Image:
    """Pictures in a row on white, brought to one height."""
    scaled = [p.resize((max(1, round(p.width * height_px / p.height)), height_px)) for p in pictures]
    row = Image.new("RGB", (sum(p.width for p in scaled) + gap_px * (len(scaled) - 1), height_px), "white")
    left = 0
    for picture in scaled:
        row.paste(picture, (left, 0))
        left += picture.width + gap_px
    return row
