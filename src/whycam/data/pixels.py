"""Numbers of any kind to 8-bit RGB: deep greyscale, floats, transparency, arrays. Large pictures go in strips."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from whycam.errors import UserError

# So many pixels are converted at once: what a conversion needs beside its result then does not grow with the picture.
STRIP_PX = 1 << 20
_SIXTEEN_TO_EIGHT = ((np.arange(65536) + 128) // 257).astype(np.uint8)
Array = np.ndarray[Any, Any]


class ImageError(UserError):
    """A picture that cannot be read, with its path, what was found in it and what to do."""


def cut_strips(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Boxes (left, upper, right, lower) of whole rows that make up a picture of that (width, height), top first."""
    width, height = size
    rows = max(1, STRIP_PX // max(1, width))
    return ((0, top, width, min(top + rows, height)) for top in range(0, height, rows))


def make_rgb(image: Image.Image) -> Image.Image:
    """The image in RGB, a new one, on white where it is transparent.

    Raises:
        ValueError: greyscale of floats without a finite one.
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        return image.copy()
    is_deep = image.mode in {"I", "F"} or image.mode.startswith("I;16")
    span = find_span(np.asarray(image.crop(box)) for box in cut_strips(image.size)) if is_deep else None
    rgb = Image.new("RGB", image.size)
    for box in cut_strips(image.size):
        strip = image.crop(box)
        rgb.paste(Image.fromarray(scale_values(np.asarray(strip), *span)) if span else _flatten(strip), box[:2])
    return rgb


def _flatten(image: Image.Image) -> Image.Image:
    """An image of 8 bits a channel in RGB, on white where it is transparent."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    # Premultiplied greyscale converts to RGBA only by way of LA.
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    white = Image.new("RGB", rgba.size, (255, 255, 255))
    white.paste(rgba.convert("RGB"), mask=rgba.getchannel("A"))
    return white


def find_span(parts: Iterator[Array], float_tops: tuple[int, ...] = (1,)) -> tuple[float, float]:
    """The values that become 0 and 255: the usual range of such numbers, or the least and the largest of them.

    Args:
        parts: a picture in parts of any shape.
        float_tops: the upper ends of the ranges that are usual of floats, all from 0.

    Raises:
        ValueError: floats, and none of them is finite.
    """
    low, high, tops = np.inf, -np.inf, float_tops
    for part in parts:
        if part.dtype.kind != "f":
            tops = (255,) if part.dtype.itemsize == 1 else (65535,)
        usable = part[np.isfinite(part)] if part.dtype.kind == "f" else part
        if usable.size:
            low, high = min(low, float(usable.min())), max(high, float(usable.max()))
    if low > high:
        raise ValueError("no pixel is a finite number")
    usual = [top for top in tops if low >= 0 and high <= top]
    return (0.0, float(usual[0])) if usual else (low, high)


def scale_values(values: Array, low: float, high: float) -> Array:
    """uint8 of numbers from `low` to `high`; NaN and infinite ones are 0."""
    if values.dtype.kind in "iu":
        if (low, high) == (0, 65535):
            return np.asarray(_SIXTEEN_TO_EIGHT[values])
        values = values.astype(np.float64)
    usable = np.isfinite(values)
    scaled = (np.where(usable, values, low) - low) / (high - low or 1.0)
    return np.asarray(np.rint(scaled * 255), dtype=np.uint8)


def image_from_array(array: Array) -> Image.Image:
    """The array as an RGB image, 8 bits a channel; the fourth channel is transparency and lies on white.

    Args:
        array: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), else (1, H, W) or (3, H, W): an array that fits both orders
            has its channels last. uint8, uint16 (divided by 257), bool, or float in [0, 1].

    Raises:
        ImageError: another shape or type, or floats outside [0, 1].
    """
    if not isinstance(array, np.ndarray):
        raise ImageError(
            f"An image array must be a NumPy array; got {type(array).__name__}. Convert it with numpy.asarray(...)."
        )
    levels = _eight_bit(_channels_last(array))
    if levels.shape[2] == 1:
        return Image.fromarray(levels[:, :, 0]).convert("RGB")
    return make_rgb(Image.fromarray(np.ascontiguousarray(levels)))


def _channels_last(array: Array) -> Array:
    """The array as (H, W, 1), (H, W, 3) or (H, W, 4)."""
    if array.size > 0:
        if array.ndim == 2:
            return array[:, :, None]
        if array.ndim == 3 and array.shape[2] in {1, 3, 4}:
            return array
        if array.ndim == 3 and array.shape[0] in {1, 3}:
            return np.moveaxis(array, 0, 2)
    hint = " Pass one picture at a time: array[0]." if array.ndim == 4 else " Reorder its axes with numpy.moveaxis."
    raise ImageError(
        f"An image array must be (H, W), (H, W, 1), (H, W, 3), (H, W, 4), (1, H, W) or (3, H, W); "
        f"got {array.shape}.{hint}"
    )


def _eight_bit(pixels: Array) -> Array:
    """The pixels as uint8, 0 to 255."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        return np.asarray(_SIXTEEN_TO_EIGHT[pixels])
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype.kind != "f":
        raise ImageError(
            f"An image array must be uint8, uint16, bool or float in [0, 1]; got {pixels.dtype}. "
            "For values 0 to 255 pass array.astype('uint8')."
        )
    low, high = float(pixels.min()), float(pixels.max())
    slack = 1e-5  # what float arithmetic leaves behind
    if not (low >= -slack and high <= 1 + slack):
        raise ImageError(
            f"A float image array must lie in [0, 1]; got values from {low:g} to {high:g}. "
            "For 0 to 255 pass array / 255; undo a normalisation by mean and deviation first."
        )
    return np.rint(pixels.clip(0, 1).astype(np.float32) * 255).astype(np.uint8)
