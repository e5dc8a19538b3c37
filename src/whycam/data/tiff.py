"""TIFFs beyond Pillow's, of floats or with channels one after the other: read, or told what they hold."""

from __future__ import annotations

import ctypes
import logging
import math
import zlib
from functools import cache
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image, TiffImagePlugin, _imaging

from whycam.data.pixels import Array, ImageError, cut_strips, find_span, make_rgb, scale_values

if TYPE_CHECKING:
    from tifffile import TiffPage

_WHITE_IS_0, _BLACK_IS_0, _RGB, _SEPARATE = 0, 1, 2, 2
_ALPHA = (1, 2)
_UNCOMPRESSED, _DEFLATE = 1, (8, 32946)
READABLE = "1, 3 or 4 channels of 8 or 16 bits or of floats, grey or RGB"


class UnusualTiff:
    """A TIFF whose header is read and whose pixels are not.

    Attributes:
        size: (width, height) as stored.
        orientation: 1 to 8.
        bytes_a_pixel: of the decoded numbers.
    """

    def __init__(self, page: TiffPage) -> None:
        self._page = page
        self.size = (int(page.imagewidth), int(page.imagelength))
        tag = page.tags.get(274)
        self.orientation = int(tag.value) if tag is not None and isinstance(tag.value, int) else 1
        self.bytes_a_pixel = int(page.samplesperpixel) * np.dtype(page.dtype).itemsize

    def decode(self) -> Image.Image:
        """The picture in RGB, as it is stored, on white where it is transparent."""
        page = self._page
        _check_chunks(page)
        values = page.asarray(maxworkers=1).reshape(_find_shape(page))
        if page.planarconfig == _SEPARATE:
            values = np.moveaxis(values, 0, 2)
        if page.bitspersample not in {8, 16, 32, 64}:
            values = values / np.float32(2**page.bitspersample - 1)
        return _to_image(values, is_inverted=page.photometric == _WHITE_IS_0, has_alpha=_has_alpha(page))


def open_unusual(file: BinaryIO, where: str) -> UnusualTiff:
    """The TIFF in an open file.

    Raises:
        ImageError: it is whole, and holds what is no photo; the message says what.
        Exception: whatever a damaged file leads to.
    """
    from tifffile import TiffFile  # noqa: PLC0415 - slow to import, and rarely needed

    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    file.seek(0)
    page = TiffFile(file).pages.first
    if page.dtype is None or not (page.imagewidth and page.imagelength):
        raise ValueError("its directory lacks the size or the kind of its pixels")
    _check_page(page, where)
    return UnusualTiff(page)


def is_misread(image: Image.Image) -> bool:
    """Whether Pillow opens this picture and gives wrong pixels: deep channels one after the other, or white as 0."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return False
    tags = image.tag_v2
    is_deep = max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))) > 8
    is_separate = tags.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) == _SEPARATE and image.mode != "L"
    return is_deep and (is_separate or tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_0)


@cache
def silence_libtiff() -> None:
    """Keeps libtiff's lines about damaged files off the terminal; what it finds, Pillow raises.

    It prints them itself, past Python, and Pillow has no setting for it. Where Pillow hides its libtiff's functions (on
    Windows), the lines stay.
    """
    try:
        library = ctypes.CDLL(_imaging.__file__)
        library.TIFFSetErrorHandler.restype = library.TIFFSetWarningHandler.restype = ctypes.c_void_p
        library.TIFFSetErrorHandler(None)
        library.TIFFSetWarningHandler(None)
    except (OSError, AttributeError):
        return


def _check_page(page: TiffPage, where: str) -> None:
    """Refuses what is no photo, by what it holds."""
    needed = None
    channels, kind = int(page.samplesperpixel), np.dtype(page.dtype).kind
    if page.imagedepth > 1 or channels not in {1, 3, 4} or kind not in "iuf":
        needed = f"Expected {READABLE}. Export three of its channels as an RGB TIFF or PNG"
    elif page.photometric not in {_WHITE_IS_0, _BLACK_IS_0, _RGB} or page.compression in {6, 7, 34892}:
        needed = f"Expected {READABLE}. Save it as an RGB TIFF or PNG"
    elif not _is_decodable(page):
        needed = "Such pixels are read without compression or with deflate alone. Save it so, or as PNG"
    if needed:
        raise ImageError(f"{where} is a TIFF of {_describe(page)}. {needed}.")


def _describe(page: TiffPage) -> str:
    """What the picture holds, in words."""
    kinds = {"u": "unsigned integers", "i": "signed integers", "f": "floats", "c": "complex numbers"}
    kind = kinds.get(np.dtype(page.dtype).kind, str(page.dtype))
    plural = "" if page.samplesperpixel == 1 else "s"
    depth = f" in {page.imagedepth} layers" if page.imagedepth > 1 else ""
    return (
        f"{page.imagewidth} x {page.imagelength} pixels{depth} with {page.samplesperpixel} channel{plural} of "
        f"{page.bitspersample}-bit {kind} ({_name(page.photometric)}, compression {_name(page.compression)})"
    )


def _name(code: object) -> str:
    return str(getattr(code, "name", code)).lower()


def _is_decodable(page: TiffPage) -> bool:
    """Whether there is a decoder for its predictor, and one for its compression whose output can be limited."""
    from tifffile import TIFF  # noqa: PLC0415 - slow to import

    try:
        TIFF.UNPREDICTORS[page.predictor]
    except KeyError:
        return False
    return page.compression in {_UNCOMPRESSED, *_DEFLATE}


def _check_chunks(page: TiffPage) -> None:
    """Refuses tiles and strips that would fill memory with far more than the picture: tifffile unpacks them whole.

    Raises:
        ValueError: a chunk is larger than the picture, or unpacks to more than it should hold.
    """
    pixels = math.prod(page.chunks)
    if pixels > 4 * page.size + (1 << 20):
        raise ValueError(f"it has chunks of {pixels:,} numbers for {page.size:,} in all")
    if page.compression not in _DEFLATE:
        return
    expected = pixels * np.dtype(page.dtype).itemsize
    for start, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        page.parent.filehandle.seek(start)
        data, size, unpack = page.parent.filehandle.read(count), 0, zlib.decompressobj()
        while data and not unpack.eof:
            size += len(unpack.decompress(data, 1 << 20))
            data = unpack.unconsumed_tail
            if size > expected:
                raise ValueError(f"a chunk unpacks to more than the {expected:,} bytes that it should hold")


def _find_shape(page: TiffPage) -> tuple[int, int, int]:
    """The shape of its numbers as they are stored."""
    height, width, channels = int(page.imagelength), int(page.imagewidth), int(page.samplesperpixel)
    return (channels, height, width) if page.planarconfig == _SEPARATE else (height, width, channels)


def _has_alpha(page: TiffPage) -> bool:
    return bool(page.samplesperpixel == 4 and page.extrasamples and page.extrasamples[0] in _ALPHA)


def _to_image(values: Array, *, is_inverted: bool, has_alpha: bool) -> Image.Image:
    """(H, W, C) numbers in RGB; a fourth channel that is no transparency is left out."""
    height, width, channels = values.shape
    boxes = list(cut_strips((width, height)))
    colors = values[..., :3]
    # Floats of colours are shares or the usual 0 to 255; greys may be measurements, which have no usual range.
    tops = (1, 255) if channels > 1 else (1,)
    span = find_span((colors[top:bottom] for _, top, _, bottom in boxes), tops)
    alpha_span = find_span((values[top:bottom, :, 3:] for _, top, _, bottom in boxes), (1, 255)) if has_alpha else None
    rgb = Image.new("RGB", (width, height))
    for _, top, _, bottom in boxes:
        levels = scale_values(colors[top:bottom], *span)
        if is_inverted:
            levels = 255 - levels
        if alpha_span:
            levels = np.concatenate([levels, scale_values(values[top:bottom, :, 3:], *alpha_span)], axis=2)
        strip = Image.fromarray(levels[..., 0] if channels == 1 else np.ascontiguousarray(levels))
        rgb.paste(make_rgb(strip), (0, top))
    return rgb
