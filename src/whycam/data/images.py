"""The only place that decodes pictures: whatever the file holds comes back as upright 8-bit RGB."""

from __future__ import annotations

import hashlib
import io
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, ImageFile, PngImagePlugin, TiffImagePlugin

from whycam.data.budget import BUDGET
from whycam.data.pixels import ImageError as ImageError  # noqa: PLC0414 - decoding's own error, known from here
from whycam.data.pixels import make_rgb
from whycam.data.shards import open_file
from whycam.data.tiff import UnusualTiff, is_misread, open_unusual, silence_libtiff
from whycam.errors import UserError, as_clause

_JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".jp2")
_TIFF_AND_PNM_SUFFIXES = (".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm")
IMAGE_SUFFIXES: frozenset[str] = frozenset(
    (*_JPEG_SUFFIXES, *_TIFF_AND_PNM_SUFFIXES, ".png", ".apng", ".webp", ".avif", ".gif", ".bmp", ".dib")
)
# One photo of so many, the most that a phone takes, fits a machine of 4 GB beside a network: decoding takes 8 bytes a
# pixel and drawing 9, 1.8 GB together with nothing else, as what is larger than `data.budget` is read alone. (WebP and
# JPEG 2000, whose decoders keep copies, take up to 20.)
MAX_PIXELS = 200_000_000
_HEAVY_FORMATS = {"WEBP", "JPEG2000"}

# A list of our own: among Pillow's other formats are one that runs Ghostscript (EPS) and one that fits any file (TGA).
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "DIB", "JPEG2000")
_ORIENTATION_TAG = 0x0112
_CAMERA_TAGS, _DATE_TAG, _SHOT_TAGS, _TAKEN_TAG = (0x010F, 0x0110), 0x0132, 0x8769, 0x9003
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = {_UPRIGHT[number] for number in (5, 6, 7, 8)}
# Pillow logs what it finds wrong in a file, and then raises it too; a logger without a handler writes to the terminal.
logging.getLogger("PIL").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Header:
    """What a picture's file says of it before its pixels are decoded.

    Attributes:
        file_type: JPEG, PNG, ...
        mode: as Pillow names it (RGB, L, RGBA, P, CMYK, ...); how many channels, of an unusual TIFF.
        tables: a JPEG's tables of steps, 64 numbers each; none of other files.
        camera: make and model, where EXIF names them.
        taken: when, as EXIF writes it (2024:05:17 12:00:00); empty where it does not.
    """

    file_type: str
    mode: str
    tables: Mapping[int, Sequence[int]] = field(default_factory=dict)
    camera: str = ""
    taken: str = ""


class Picture:
    """A picture whose header is read and whose pixels are not: the one place that knows a photo's size.

    Attributes:
        size: (width, height) of the whole upright picture.
        pixels: what `decode` fills memory with, in pixels of 8 bytes: fewer than `size` has where it decodes at a part
            of the size, more where each takes more bytes.
    """

    def __init__(self, image: ImageFile.ImageFile | UnusualTiff, where: str) -> None:
        self._image, self._where = image, where
        width, height = _read_stored_size(image)
        self._turn = _UPRIGHT.get(_read_orientation(image))
        self._is_on_its_side = self._turn in _ON_ITS_SIDE
        self.size = (height, width) if self._is_on_its_side else (width, height)
        self.pixels = width * height
        if isinstance(image, UnusualTiff):
            self.pixels *= max(1, image.bytes_a_pixel // 4)
        elif image.format in _HEAVY_FORMATS:
            self.pixels *= 2

    def shrink(self, at_least: tuple[int, int]) -> None:
        """Lets `decode` give fewer pixels, where the format can: see `load_image`."""
        if isinstance(self._image, ImageFile.ImageFile) and self._image.format in {"JPEG", "MPO"}:
            self._image.draft(None, at_least[::-1] if self._is_on_its_side else at_least)
            self.pixels = self._image.width * self._image.height

    def read_header(self) -> Header:
        """What the file says of itself."""
        image = self._image
        if isinstance(image, UnusualTiff):
            return Header("TIFF", "unusual")
        exif = _read_exif(image)
        camera = " ".join(_clean(exif.get(tag)) for tag in _CAMERA_TAGS).strip()
        return Header(
            "JPEG" if image.format == "MPO" else str(image.format),
            image.mode,
            dict(getattr(image, "quantization", None) or {}),
            camera,
            _clean(exif.get(_TAKEN_TAG) or exif.get(_DATE_TAG)),
        )

    def decode(self) -> Image.Image:
        """The upright picture in RGB; works once.

        Raises:
            ImageError: its bytes are damaged, or memory does not hold it.
        """
        with _as_image_error(self._where):
            if isinstance(self._image, ImageFile.ImageFile):
                return image_from_pil(self._image)
            stored = self._image.decode()
            return stored if self._turn is None else stored.transpose(self._turn)


@contextmanager
def open_picture(
    source: str | Path | bytes | BinaryIO, *, max_pixels: int = MAX_PIXELS, at_least: tuple[int, int] | None = None
) -> Iterator[Picture]:
    """The picture in `source`, its header read, for as long as the block lasts; see `load_image`."""
    if isinstance(source, str | Path):
        with _open_file(Path(source)) as file:
            yield _read_picture(file, f"'{Path(source).absolute()}'", max_pixels, at_least)
    elif isinstance(source, bytes):
        yield _read_picture(io.BytesIO(source), f"the {len(source)} bytes given", max_pixels, at_least)
    else:
        name = getattr(source, "name", None)
        where = f"'{name}'" if isinstance(name, str) else "the open file given"
        yield _read_picture(source, where, max_pixels, at_least)


def read_size(source: str | Path | bytes | BinaryIO, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(width, height) of the upright picture in `source`, from its header alone.

    Raises:
        ImageError: see `load_image`; damaged pixels are not found.
    """
    with open_picture(source, max_pixels=max_pixels) as picture:
        return picture.size


def load_image(
    source: str | Path | bytes | BinaryIO, *, max_pixels: int = MAX_PIXELS, at_least: tuple[int, int] | None = None
) -> Image.Image:
    """The picture in `source` as a new RGB image, 8 bits a channel, upright, without metadata.

    Of an animation the first frame; what is transparent lies on white. 16-bit greyscale is divided by 257. 32-bit
    greyscale counts as 0..65535 (integers) or 0..1 (floats); a picture with values outside is stretched from its
    minimum to its maximum, and NaN or infinite pixels turn black; colours of a TIFF likewise, where floats may also
    count as 0..255. An embedded ICC profile is not applied: the numbers stay those in the file. Safe to call from many
    threads, which wait where `data.budget` has too few pixels left; of Pillow's global settings none is needed.

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
    with open_picture(source, max_pixels=max_pixels, at_least=at_least) as picture, BUDGET.hold(picture.pixels):
        return picture.decode(), picture.size


def image_from_pil(image: Image.Image) -> Image.Image:
    """An opened Pillow image as `load_image` would give it: upright RGB, a new image."""
    image.load()
    turn = _UPRIGHT.get(_read_orientation(image))
    if turn is not None and image.mode == "RGB" and not image.has_transparency_data:
        upright = image.transpose(turn)  # a copy already
    else:
        rgb = make_rgb(image)
        upright = rgb if turn is None else rgb.transpose(turn)
    upright.info.clear()
    return upright


def content_hash(path: str | Path) -> str:
    """The BLAKE2b-128 of the file's bytes, as 32 hexadecimal digits: equal for equal files, whatever their names."""
    with _open_file(Path(path), "file") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _open_file(path: Path, kind: str = "picture") -> io.BufferedReader | io.BytesIO:
    """The regular file at `path`, or in a shard, open for reading; `kind` is what an error says was expected."""
    where = f"'{path.absolute()}'"
    try:
        if path.is_dir():
            # One that can be listed was named by hand; the walker lists those that can't.
            with os.scandir(path):
                raise ImageError(f"{where} is a folder; expected a {kind}. Name a file in it.")
        if path.exists() and not path.is_file():
            raise ImageError(f"{where} is a device or a pipe; expected a {kind}. Save its content to a file first.")
        return open_file(path)
    except FileNotFoundError:
        raise ImageError(f"No file {where}; expected a {kind}. Check the spelling.") from None
    except PermissionError:
        raise ImageError(f"{where} may not be read; expected a readable {kind}. Run: chmod u+r {where}") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"{where} cannot be opened: {as_clause(error)}. Expected a {kind}. Check the path.") from None


@contextmanager
def _as_image_error(where: str) -> Iterator[None]:
    """Whatever goes wrong in the block while a picture is read becomes an ImageError."""
    try:
        yield
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


def _read_picture(file: BinaryIO, where: str, max_pixels: int, at_least: tuple[int, int] | None) -> Picture:
    """The picture in an open file."""
    with _as_image_error(where):
        picture = Picture(_read_header(file if file.seekable() else io.BytesIO(file.read()), where), where)
        _check_size(picture.size, where, max_pixels)
        if at_least is not None:
            picture.shrink(at_least)
        return picture


def _check_size(size: tuple[int, int], where: str, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(
            f"{where} has {width} x {height} = {width * height:,} pixels; the limit is {max_pixels:,}. "
            "Make the picture smaller, or raise max_pixels if you trust where it comes from."
        )


def _read_header(file: BinaryIO, where: str) -> ImageFile.ImageFile | UnusualTiff:
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
            if name == "TIFF":
                return _read_tiff_header(file, where)
            try:
                return factory(file, "")
            except SyntaxError as error:
                raise _make_header_error(name, where, error) from None
    raise ImageError(f"{where} {_describe(head)}. Expected a picture: JPEG, PNG, WebP, GIF, BMP, TIFF, PPM or AVIF.")


def _read_tiff_header(file: BinaryIO, where: str) -> ImageFile.ImageFile | UnusualTiff:
    """The first picture of a TIFF; what Pillow does not know, and what it would misread, is read another way."""
    silence_libtiff()
    try:
        image: ImageFile.ImageFile = Image.OPEN["TIFF"][0](file, "")
        if not is_misread(image):
            return image
    except Exception as error:  # noqa: BLE001 - Pillow raises almost anything on tags that it does not expect
        refusal: Exception | None = error
    else:
        refusal = None
    try:
        return open_unusual(file, where)
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001 - so does tifffile
        raise _make_header_error("TIFF", where, refusal or error) from None


def _make_header_error(name: str, where: str, error: Exception) -> ImageError:
    return ImageError(
        f"{where} begins like a {name} picture, but its header is damaged: {as_clause(error)}. Expected a whole "
        "picture. Copy or download it again, or leave it out."
    )


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


def _read_stored_size(image: ImageFile.ImageFile | UnusualTiff) -> tuple[int, int]:
    """(width, height) before the picture is turned upright; Pillow gives that of a TIFF, and of no other, turned."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(image.tag_v2[TiffImagePlugin.IMAGEWIDTH]), int(image.tag_v2[TiffImagePlugin.IMAGELENGTH])
    return image.size


def _read_png_exif(image: PngImagePlugin.PngImageFile) -> Image.Exif:
    """A PNG's EXIF by its chunks alone: Pillow's own way decodes all pixels, to reach what may stand behind them."""
    if "exif" not in image.info and image.fp is not None:
        place = image.fp.tell()
        image.fp.seek(8)
        while len(head := image.fp.read(8)) == 8 and head[4:] != b"IEND":
            size = int.from_bytes(head[:4], "big")
            if head[4:] == b"eXIf":
                image.info["exif"] = b"Exif\0\0" + image.fp.read(size)
                break
            image.fp.seek(size + 4, os.SEEK_CUR)
        image.fp.seek(place)
    return Image.Image.getexif(image)


def _read_orientation(image: Image.Image | UnusualTiff) -> int:
    """The EXIF orientation: 1 to 8, or a number that means nothing; 1 where there is none."""
    if isinstance(image, UnusualTiff):
        return image.orientation
    value = _read_exif(image, with_details=False).get(_ORIENTATION_TAG, 1)
    return value if isinstance(value, int) else 1


def _read_exif(image: Image.Image, *, with_details: bool = True) -> dict[int, Any]:
    """EXIF's tags, with those of the shot itself; what can't be read is left out."""
    try:
        exif = _read_png_exif(image) if isinstance(image, PngImagePlugin.PngImageFile) else image.getexif()
        return {**(exif.get_ifd(_SHOT_TAGS) if with_details and _SHOT_TAGS in exif else {}), **exif}
    except Exception:  # noqa: BLE001 - damaged EXIF raises almost anything, and the picture is good without it
        return {}


def _clean(value: object) -> str:
    """A word of EXIF without the zeros and blanks that cameras fill it up with."""
    return value.replace("\0", " ").strip() if isinstance(value, str) else ""
