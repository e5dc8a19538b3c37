"""Over 800 generated files: whole ones of odd kinds, whose pixels are known, and damaged ones; seeded."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tifffile
from PIL import Image, ImageFilter, features

from campaign.scene import draw_photo

Expect = Literal["same", "error", "error or same", "any", "told"]
_SIZE = (64, 40)
# By how many levels the mean may differ where a format loses something.
_LOSSY = 9.0


@dataclass(frozen=True)
class File:
    """One file of the corpus.

    Attributes:
        name: with its suffix.
        expect: its photo, an error, either of both, anything; `told`: its photo, or an error that does not call a
            whole file damaged.
        pixels: (H, W, 3) uint8 of the upright photo that it holds.
        most: by how much the mean of its pixels may differ, in levels.
    """

    name: str
    data: bytes
    expect: Expect
    pixels: np.ndarray | None = None
    most: float = 0.6


def make_groups(seed: int, share: float) -> dict[str, list[File]]:
    """The files by kind; `share` 1 makes all."""
    draw = random.Random(seed)
    # Smooth, so that what a lossy format changes is little.
    photo = draw_photo("circle", np.random.default_rng(seed), _SIZE).filter(ImageFilter.GaussianBlur(2))
    groups = {
        "truncated": list(_truncate(photo)),
        "bits flipped": list(_flip(photo, draw)),
        "wrong suffixes": list(_rename(photo)),
        "no pictures": list(_make_nonsense(draw)),
        "huge by their headers": list(_make_huge()),
        "odd modes": [*_make_modes(photo), *_make_extras(photo)],
        "turned": list(_turn(photo)),
        "odd TIFFs": [*_make_tiffs(photo), *_make_odd_tiffs(photo)],
        "odd sizes": list(_make_sizes()),
    }
    if share >= 1:
        return groups
    return {
        name: sorted(draw.sample(files, max(4, round(len(files) * share))), key=lambda f: f.name)
        for name, files in groups.items()
    }


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def encode_all(photo: Image.Image) -> dict[str, tuple[bytes, bool]]:
    """File name -> bytes, and whether its pixels are the photo's own."""
    found = {
        "plain.jpg": (encode(photo, "JPEG", quality=92), False),
        "progressive.jpg": (encode(photo, "JPEG", quality=92, progressive=True), False),
        "plain.png": (encode(photo, "PNG"), True),
        "lossless.webp": (encode(photo, "WEBP", lossless=True), True),
        "lossy.webp": (encode(photo, "WEBP", quality=95), False),
        "plain.bmp": (encode(photo, "BMP"), True),
        "raw.tif": (encode(photo, "TIFF"), True),
        "lzw.tif": (encode(photo, "TIFF", compression="tiff_lzw"), True),
        "deflate.tif": (encode(photo, "TIFF", compression="tiff_adobe_deflate"), True),
        "plain.ppm": (encode(photo, "PPM"), True),
        "few.gif": (encode(photo.quantize(256), "GIF"), False),
    }
    if features.check("jpg_2000"):
        found["plain.jp2"] = (encode(photo, "JPEG2000"), True)
    if features.check("avif"):
        found["plain.avif"] = (encode(photo, "AVIF", quality=95), False)
    return found


def _truncate(photo: Image.Image) -> Iterator[File]:
    for name, (data, is_exact) in encode_all(photo).items():
        stem, suffix = name.split(".")
        cuts = [1, 2, 4, 8, 16, 40, *(len(data) * part // 100 for part in (5, 25, 50, 75, 90, 98)), len(data) - 1]
        for cut in dict.fromkeys(cuts):
            told = np.asarray(photo)
            yield File(f"{stem}-{cut}.{suffix}", data[:cut], "error or same", told, 0.6 if is_exact else _LOSSY)


def _flip(photo: Image.Image, draw: random.Random) -> Iterator[File]:
    """A bit, or 16 bytes, changed anywhere: what the format notices is an error, what it does not is a photo."""
    for name, (data, _) in encode_all(photo).items():
        stem, suffix = name.split(".")
        for i in range(28):
            changed = bytearray(data)
            # Half of them in the first 100 bytes, where the format's own words stand.
            at = draw.randrange(min(100, len(data))) if i % 2 else draw.randrange(len(data))
            changed[at] ^= 1 << draw.randrange(8)
            yield File(f"{stem}-bit-{i:02}.{suffix}", bytes(changed), "any")
        for i in range(6):
            at = draw.randrange(len(data) - 16)
            filler = draw.randbytes(16) if i % 2 else bytes(16)
            yield File(f"{stem}-bytes-{i}.{suffix}", data[:at] + filler + data[at + 16 :], "any")


def _rename(photo: Image.Image) -> Iterator[File]:
    for name, (data, is_exact) in encode_all(photo).items():
        stem, suffix = name.split(".")
        for other in ("jpg", "png", "tif", "gif", "webp"):
            if other != suffix:
                yield File(f"{stem}-{suffix}.{other}", data, "same", np.asarray(photo), 0.6 if is_exact else _LOSSY)


def _make_nonsense(draw: random.Random) -> Iterator[File]:
    contents = {
        "empty": b"",
        "zero": b"\0",
        "zeros": bytes(5000),
        "text": b"this is no picture\n",
        "page": b"<!doctype html><title>404</title>",
        "zip": b"PK\x03\x04" + bytes(100),
        "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + bytes(100),
        "elf": b"\x7fELF\x02\x01\x01" + bytes(100),
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        "heic": b"\0\0\0\x18ftypheic" + bytes(100),
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "npy": b"\x93NUMPY\x01\x00" + bytes(100),
        "jpeg-head": b"\xff\xd8\xff\xe0\x00\x10JFIF",
        "jpeg-ends": b"\xff\xd8\xff\xd9",
        "png-head": b"\x89PNG\r\n\x1a\n",
        "gif-head": b"GIF89a",
        "tiff-loop": b"II*\0\x08\0\0\0\x01\0\x00\x01\x03\0\x01\0\0\0\x01\0\0\0\x08\0\0\0",
        "riff": b"RIFF\xff\xff\xff\xffWEBPVP8 \xff\xff\xff\xff",
        "pickle": b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94.",
    }
    for name, data in contents.items():
        for suffix in ("jpg", "png", "tif"):
            yield File(f"{name}.{suffix}", data, "error")
    for i in range(12):
        yield File(f"random-{i:02}.{('jpg', 'png', 'gif', 'webp')[i % 4]}", draw.randbytes(10 ** (1 + i % 4)), "error")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _make_huge() -> Iterator[File]:
    """Sizes in the header that no memory holds, with next to nothing behind them."""
    sizes = [(2**31 - 1, 2**31 - 1), (100_000, 100_000), (65_535, 65_535), (1, 2**31 - 1), (13_400, 13_400)]
    small = zlib.compress(bytes(1000))
    for i, (width, height) in enumerate(sizes):
        for bits, color in ((8, 2), (16, 6), (1, 0)):
            head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
            body = b"\x89PNG\r\n\x1a\n" + head + _chunk(b"IDAT", small) + _chunk(b"IEND", b"")
            yield File(f"png-{i}-{bits}.png", body, "error")
        yield File(f"ppm-{i}.ppm", b"P6 %d %d 255\n" % (width, height) + bytes(100), "error")
        side = struct.pack("<ii", width, height)
        yield File(
            f"bmp-{i}.bmp",
            b"BM"
            + struct.pack("<IHHII", 1000, 0, 0, 54, 40)
            + side
            + struct.pack("<HHIIIIII", 1, 24, 0, 0, 0, 0, 0, 0)
            + bytes(100),
            "error",
        )
        tags = [
            (256, 4, 1, width),
            (257, 4, 1, height),
            (258, 3, 1, 8),
            (259, 3, 1, 1),
            (262, 3, 1, 1),
            (273, 4, 1, 8),
            (277, 3, 1, 1),
            (278, 4, 1, height),
            (279, 4, 1, 100),
        ]
        entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
        yield File(f"tif-{i}.tif", b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(104), "error")
    yield File("gif.gif", b"GIF89a\xff\xff\xff\xff\x00\x00\x00,\0\0\0\0\xff\xff\xff\xff\0\x02\x02L\x01\0;", "error")
    bomb = zlib.compressobj(9)
    text = bomb.compress(bytes(50_000_000)) + bomb.flush()
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 2, 0, 0, 0))
    line = zlib.compress(bytes(9 * 28))
    body = b"\x89PNG\r\n\x1a\n" + head + _chunk(b"zTXt", b"a\0\0" + text) + _chunk(b"IDAT", line) + _chunk(b"IEND", b"")
    yield File("text-bomb.png", body, "any")


def _make_modes(photo: Image.Image) -> Iterator[File]:
    grey = photo.convert("L")
    as_rgb = np.asarray(grey.convert("RGB"))
    own = np.asarray(photo)
    alpha = photo.copy()
    alpha.putalpha(255)
    deep = np.asarray(grey).astype(np.uint16) * 257
    ink = grey.point(lambda v: 255 if v > 128 else 0, "1")
    two = np.asarray(ink.convert("RGB"))
    few = photo.quantize(16)
    few_rgb = np.asarray(few.convert("RGB"))
    for kind, suffix in (("PNG", "png"), ("TIFF", "tif"), ("WEBP", "webp")):
        exact: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
        yield File(f"alpha.{suffix}", encode(alpha, kind, **exact), "same", own)
        if kind != "WEBP":
            yield File(f"grey.{suffix}", encode(grey, kind), "same", as_rgb)
            yield File(f"grey-alpha.{suffix}", encode(grey.convert("LA"), kind), "same", as_rgb)
            yield File(f"ink.{suffix}", encode(ink, kind), "same", two)
            yield File(f"few.{suffix}", encode(few, kind), "same", few_rgb)
            yield File(f"deep.{suffix}", encode(Image.fromarray(deep), kind), "same", as_rgb)
    yield File("grey.jpg", encode(grey, "JPEG", quality=95), "same", as_rgb, _LOSSY)
    yield File("ink-four.jpg", encode(photo.convert("CMYK"), "JPEG", quality=95), "same", own, _LOSSY)
    yield File("ink-four.tif", encode(photo.convert("CMYK"), "TIFF"), "same", own, _LOSSY)
    yield File("grey.bmp", encode(grey, "BMP"), "same", as_rgb)
    yield File("grey.gif", encode(grey, "GIF"), "same", as_rgb)
    yield File("moving.gif", encode(few, "GIF", save_all=True, append_images=[few.rotate(9)] * 3), "same", few_rgb)
    yield File("moving.png", encode(photo, "PNG", save_all=True, append_images=[photo.rotate(9)] * 3), "same", own)
    yield File(
        "moving.webp", encode(photo, "WEBP", lossless=True, save_all=True, append_images=[photo.rotate(9)]), "same", own
    )
    for bits in (1, 2, 4):
        level = Image.fromarray((np.asarray(grey) >> (8 - bits)).astype(np.uint8))
        level.putpalette([v * 255 // (2**bits - 1) for v in range(2**bits) for _ in range(3)])
        data = encode(level, "PNG", bits=bits)
        yield File(f"bits-{bits}.png", data, "same", np.asarray(level.convert("RGB")))


def _make_extras(photo: Image.Image) -> Iterator[File]:
    """Whole photos with something about them: 48 bits, bytes behind the end, broken or long notes."""
    own = np.asarray(photo)
    wide = np.repeat(own.astype(">u2") * 257, 1, axis=2)
    rows = b"".join(b"\0" + row.tobytes() for row in wide)
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", *_SIZE, 16, 2, 0, 0, 0))
    body = b"\x89PNG\r\n\x1a\n" + head + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    yield File("deep-rgb.png", body, "same", own, 1.1)
    extra = encode(photo, "PNG")
    yield File("behind.png", extra + b"something behind it" * 50, "same", own)
    jpeg = encode(photo, "JPEG", quality=92)
    yield File("behind.jpg", jpeg + bytes(500), "same", own, _LOSSY)
    yield File(
        "comment.jpg", encode(photo, "JPEG", quality=92, comment=b"\xff\xfe</script>" * 3000), "same", own, _LOSSY
    )
    broken = b"Exif\0\0II*\0\xff\xff\xff\xff"
    yield File("broken-exif.jpg", encode(photo, "JPEG", quality=92, exif=broken), "same", own, _LOSSY)
    yield File("broken-profile.jpg", encode(photo, "JPEG", quality=92, icc_profile=b"no profile"), "same", own, _LOSSY)


def _turn(photo: Image.Image) -> Iterator[File]:
    """Every orientation that there is, and some that there are not, in each format that has them."""
    order = [
        None,
        None,
        Image.Transpose.FLIP_LEFT_RIGHT,
        Image.Transpose.ROTATE_180,
        Image.Transpose.FLIP_TOP_BOTTOM,
        Image.Transpose.TRANSPOSE,
        Image.Transpose.ROTATE_270,
        Image.Transpose.TRANSVERSE,
        Image.Transpose.ROTATE_90,
    ]
    for value in (*range(12), 255, 65535):
        way = order[value] if value < len(order) else None
        upright = np.asarray(photo if way is None else photo.transpose(way))
        exif = Image.Exif()
        exif[0x0112] = value
        yield File(f"turn-{value}.jpg", encode(photo, "JPEG", quality=92, exif=exif), "same", upright, _LOSSY)
        yield File(f"turn-{value}.png", encode(photo, "PNG", exif=exif), "same", upright)
        yield File(f"turn-{value}.webp", encode(photo, "WEBP", lossless=True, exif=exif), "same", upright)
        yield File(f"turn-{value}.tif", encode(photo, "TIFF", tiffinfo={274: value}), "same", upright)


def _write_tiff(array: np.ndarray, **how: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **how)
    return buffer.getvalue()


def _make_tiffs(photo: Image.Image) -> Iterator[File]:
    own = np.asarray(photo)
    grey = np.asarray(photo.convert("L"))
    as_rgb = np.repeat(grey[:, :, None], 3, axis=2)
    whole: dict[str, tuple[np.ndarray, dict[str, Any], np.ndarray]] = {
        "plain": (own, {}, own),
        "big-endian": (own, {"byteorder": ">"}, own),
        "big-tiff": (own, {"bigtiff": True}, own),
        "planes": (np.moveaxis(own, 2, 0), {"photometric": "rgb", "planarconfig": "separate"}, own),
        "tiles": (own, {"tile": (16, 16), "photometric": "rgb"}, own),
        "strips": (own, {"rowsperstrip": 3, "photometric": "rgb"}, own),
        "pages": (np.stack([own, 255 - own]), {"photometric": "rgb"}, own),
        "grey-8": (grey, {}, as_rgb),
        "grey-16": (grey.astype(np.uint16) * 257, {}, as_rgb),
        "grey-float": (grey.astype(np.float32) / 255, {}, as_rgb),
        "inverse": (255 - grey, {"photometric": "miniswhite"}, as_rgb),
    }
    for name, (array, how, pixels) in whole.items():
        yield File(f"{name}.tif", _write_tiff(array, **how), "same", pixels, 1.1)
    for kind in ("jpeg", "packbits", "group4", "tiff_lzw"):
        image = photo.convert("1") if kind == "group4" else photo
        wanted = np.asarray(image.convert("RGB"))
        yield File(f"by-{kind}.tif", encode(image, "TIFF", compression=kind), "same", wanted, _LOSSY)


def _make_odd_tiffs(photo: Image.Image) -> Iterator[File]:
    """Whole ones that not every program reads: they are read, or told to be what they are."""
    own = np.asarray(photo)
    grey = np.asarray(photo.convert("L"))
    bands = np.repeat(grey[:, :, None], 7, axis=2)
    odd: dict[str, tuple[np.ndarray, dict[str, Any], np.ndarray | None]] = {
        "float-rgb": (own.astype(np.float32) / 255, {"photometric": "rgb"}, own),
        "float-rgb-255": (own.astype(np.float32), {"photometric": "rgb"}, own),
        "double-rgb": (own.astype(np.float64) / 255, {"photometric": "rgb"}, own),
        "half-rgb": (own.astype(np.float16) / np.float16(255), {"photometric": "rgb"}, own),
        "deep-rgb": (own.astype(np.uint16) * 257, {"photometric": "rgb"}, own),
        "deep-rgba": (np.dstack([own, np.full_like(grey, 255)]).astype(np.uint16) * 257, {"photometric": "rgb"}, own),
        "bands-7": (bands, {"photometric": "minisblack", "planarconfig": "contig"}, None),
        "bands-2": (bands[:, :, :2], {"photometric": "minisblack", "planarconfig": "contig"}, None),
        "bands-5-deep": (bands[:, :, :5].astype(np.uint16), {"photometric": "minisblack"}, None),
        "grey-32": (grey.astype(np.uint32), {}, None),
        "grey-double": (grey.astype(np.float64) / 255, {}, None),
        "signed": (grey.astype(np.int16), {}, None),
        "complex": (grey.astype(np.complex64), {}, None),
        "nan": (np.where(grey > 99, np.nan, grey / 255).astype(np.float32), {}, None),
        "volume": (np.stack([grey] * 5), {"photometric": "minisblack", "volumetric": True}, None),
    }
    for name, (array, how, pixels) in odd.items():
        yield File(f"{name}.tif", _write_tiff(array, **how), "told", pixels, 1.6)


def _make_sizes() -> Iterator[File]:
    draw_from = np.random.default_rng(1)
    for width, height in ((1, 1), (1, 300), (300, 1), (2, 2), (3, 5), (3000, 2), (2, 3000), (63, 65)):
        own = draw_from.integers(0, 256, (height, width, 3), dtype=np.uint8)
        for kind, suffix in (("PNG", "png"), ("BMP", "bmp"), ("TIFF", "tif")):
            yield File(f"size-{width}x{height}.{suffix}", encode(Image.fromarray(own), kind), "same", own)
