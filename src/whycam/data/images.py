"""The only place that decodes pictures: whatever the file holds comes back as upright 8-bit RGB."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile

from whycam.errors import UserError, as_clause

_JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".jp2")
_TIFF_AND_PNM_SUFFIXES = (".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm")
IMAGE_SUFFIXES: frozenset[str] = frozenset(
    (*_JPEG_SUFFIXES, *_TIFF_AND_PNM_SUFFIXES, ".png", ".apng", ".webp", ".avif", ".gif", ".bmp", ".dib")
)
MAX_PIXELS = 180_000_000

# A list of our own: among Pillow's other formats are one that runs Ghostscript (EPS) and one that fits any file (TGA).
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "DIB", "JPEG2000")
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIXTEEN_TO_EIGHT = ((np.arange(65536) + 128) // 257).astype(np.uint8)


class ImageError(UserError):
    """A picture that cannot be read, with its path, what was found in it and what to do."""


def load_image(
    source: str | Path | bytes | BinaryIO, *, max_pixels: int = MAX_PIXELS, at_least: tuple[int, int] | None = None
) -> Image.Image:
    """The picture in `source` as a new RGB image, 8 bits a channel, upright, without metadata.

    Of an animation the first frame; what is transparent lies on white. 16-bit greyscale is divided by 257. 32-bit
    greyscale counts as 0..65535 (integers) or 0..1 (floats); a picture with values outside is stretched from its
    minimum to its maximum, and NaN or infinite pixels turn black. An embedded ICC profile is not applied: the numbers
    stay those in the file. Safe to call from many threads; Pillow's global settings are neither changed nor needed.

    Args:
        source: A path, a file's bytes, or an open binary file.
        max_pixels: Larger pictures are refused after reading their header, before their pixels are decoded.
        at_least: (width, height) of the upright picture that suffice. A larger JPEG is decoded at 1/2, 1/4 or 1/8 of
            its size, several times faster, as long as neither side falls below these.

    Raises:
        ImageError: the source is missing, empty, not a picture, truncated, damaged or larger than `max_pixels`.
    """
    return load_sized(source, max_pixels=max_pixels, at_least=at_least)[0]


def load_sized(
    source: str | Path | bytes | BinaryIO, *, max_pixels: int = MAX_PIXELS, at_least: tuple[int, int] | None = None
) -> tuple[Image.Image, tuple[int, int]]:
    """What `load_image` gives, and the (width, height) of the upright picture before any reduction."""
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), f"the {len(source)} bytes given", max_pixels, at_least)
    if isinstance(source, str | Path):
        with _open_file(Path(source)) as file:
            return _decode(file, f"'{Path(source).absolute()}'", max_pixels, at_least)
    name = getattr(source, "name", None)
    return _decode(source, f"'{name}'" if isinstance(name, str) else "the open file given", max_pixels, at_least)


def image_from_pil(image: Image.Image) -> Image.Image:
    """An opened Pillow image as `load_image` would give it: upright RGB, a new image."""
    image.load()
    turn = _UPRIGHT.get(_read_orientation(image))
    rgb = _make_rgb(image)
    upright = rgb if turn is None else rgb.transpose(turn)
    upright.info.clear()
    return upright


def image_from_array(array: np.ndarray[Any, Any]) -> Image.Image:
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
    pixels = _channels_last(array)
    levels = _eight_bit(pixels)
    if levels.shape[2] == 1:
        return Image.fromarray(levels[:, :, 0]).convert("RGB")
    return _make_rgb(Image.fromarray(np.ascontiguousarray(levels)))


def content_hash(path: str | Path) -> str:
    """The BLAKE2b-128 of the file's bytes, as 32 hexadecimal digits: equal for equal files, whatever their names."""
    with _open_file(Path(path), "file") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _open_file(path: Path, kind: str = "picture") -> io.BufferedReader:
    """The regular file at `path`, open for reading; `kind` is what an error says was expected."""
    where = f"'{path.absolute()}'"
    try:
        if path.is_dir():
            # One that can be listed was named by hand; the walker lists those that can't.
            with os.scandir(path):
                raise ImageError(f"{where} is a folder; expected a {kind}. Name a file in it.")
        if path.exists() and not path.is_file():
            raise ImageError(f"{where} is a device or a pipe; expected a {kind}. Save its content to a file first.")
        return path.open("rb")
    except FileNotFoundError:
        raise ImageError(f"No file {where}; expected a {kind}. Check the spelling.") from None
    except PermissionError:
        raise ImageError(f"{where} may not be read; expected a readable {kind}. Run: chmod u+r {where}") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"{where} cannot be opened: {as_clause(error)}. Expected a {kind}. Check the path.") from None


def _decode(
    file: BinaryIO, where: str, max_pixels: int, at_least: tuple[int, int] | None
) -> tuple[Image.Image, tuple[int, int]]:
    """The upright RGB picture in an open file, and its whole size; whatever can go wrong becomes an ImageError."""
    try:
        if not file.seekable():
            file = io.BytesIO(file.read())
        image = _read_header(file, where)
        _check_size(image.size, where, max_pixels)
        is_turned = _read_orientation(image) >= 5
        whole = image.size[::-1] if is_turned else image.size
        if at_least is not None and image.format in {"JPEG", "MPO"}:
            image.draft(None, at_least[::-1] if is_turned else at_least)
        return image_from_pil(image), whole
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"{where} is too large for Pillow: {as_clause(error)}. Make the picture smaller.") from None
    except MemoryError:
        raise ImageError(
            f"{where} does not fit into memory. Expected a smaller picture: scale it down first."
        ) from None
    except Exception as error:  # noqa: BLE001 - on damaged bytes Pillow's decoders raise almost any exception
        raise ImageError(
            f"{where} is damaged or truncated: {as_clause(error)}. Expected a whole picture. "
            "Copy or download it again, or leave it out."
        ) from None


def _check_size(size: tuple[int, int], where: str, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(
            f"{where} has {width} x {height} = {width * height:,} pixels; the limit is {max_pixels:,}. "
            "Make the picture smaller, or raise max_pixels if you trust where it comes from."
        )


def _read_header(file: BinaryIO, where: str) -> ImageFile.ImageFile:
    """The picture with its size known and its pixels not yet decoded.

    Image.open is not used: it compares the size with a global limit, and its warning cannot be silenced for one thread.
    """
    Image.init()
    file.seek(0)
    head = file.read(512)
    for name in _FORMATS if head else ():
        if name not in Image.OPEN:  # AVIF, before Pillow 11.3
            continue
        factory, accept = Image.OPEN[name]
        if accept is None or accept(head[:16]) is True:
            file.seek(0)
            try:
                return factory(file, "")
            except SyntaxError as error:
                raise ImageError(
                    f"{where} begins like a {name} picture, but its header is damaged: {as_clause(error)}. Expected "
                    "a whole picture. Copy or download it again, or leave it out."
                ) from None
    raise ImageError(f"{where} {_describe(head)}. Expected a picture: JPEG, PNG, WebP, GIF, BMP, TIFF, PPM or AVIF.")


def _describe(head: bytes) -> str:
    """What a file that is no readable picture begins with, and what to do about it, as the end of a sentence."""
    if not head:
        return "is empty (0 bytes): copy or download it again, or leave it out"
    if head[4:8] == b"ftyp" and head[8:12] in {b"heic", b"heix", b"hevc", b"mif1", b"msf1"}:
        return "is a HEIC photo: save it as JPEG first (on an iPhone: Settings, Camera, Formats, Most Compatible)"
    text = head.decode("ascii", errors="replace")
    if "\ufffd" not in text and (text.isprintable() or any(character in text for character in "\n\t")):
        return f"holds text, not a picture ({text[:40]!r}): if a web page was saved here, get the picture itself"
    return f"is no picture in a known format (it begins with the bytes {head[:8].hex(' ')}): save it as JPEG or PNG"


def _read_orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001 - damaged EXIF raises almost anything, and the picture is good without it
        return 1
    return value if isinstance(value, int) else 1


def _make_rgb(image: Image.Image) -> Image.Image:
    """The image in RGB, a new one, on white where it is transparent."""
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        return Image.fromarray(_scale_deep_grey(np.asarray(image))).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB") if image.mode != "RGB" else image.copy()
    # Premultiplied greyscale converts to RGBA only by way of LA.
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    white = Image.new("RGB", rgba.size, (255, 255, 255))
    white.paste(rgba.convert("RGB"), mask=rgba.getchannel("A"))
    return white


def _scale_deep_grey(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(H, W) greyscale of 16 or 32 bits as uint8, by the rules that `load_image` states."""
    if values.dtype.kind in "iu":
        if values.min() >= 0 and values.max() <= 65535:
            return np.asarray(_SIXTEEN_TO_EIGHT[values])
        values = values.astype(np.float64)
    usable = np.isfinite(values)
    if not usable.any():
        raise ValueError("no pixel is a finite number")
    low, high = float(values[usable].min()), float(values[usable].max())
    if values.dtype == np.float32 and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    scaled = (values - low) / (high - low or 1.0)
    return np.asarray(np.rint(np.where(usable, scaled, 0) * 255), dtype=np.uint8)


def _channels_last(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
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


def _eight_bit(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
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
