"""Decoding: every kind of picture becomes upright 8-bit RGB, and every bad one an error that helps."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin, features

from whycam.data import pixels
from whycam.data.images import (
    IMAGE_SUFFIXES,
    ImageError,
    content_hash,
    load_image,
    open_picture,
)
from whycam.data.pixels import image_from_array

RED, GREEN, BLUE, GREY = (250, 10, 10), (10, 250, 10), (10, 10, 250), (120, 120, 120)
WHITE = (255, 255, 255)


def make_corners(width: int = 48, height: int = 32) -> Image.Image:
    """Red top left, green top right, blue bottom left, grey bottom right."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    image.paste(GREY, (width // 2, height // 2, width, height))
    return image


def corner_colors(image: Image.Image) -> list[tuple[int, int, int]]:
    right, bottom = image.width - 3, image.height - 3
    return [image.getpixel(at) for at in ((2, 2), (right, 2), (2, bottom), (right, bottom))]


def are_near(found: object, expected: object, tolerance: int = 12) -> bool:
    return bool(np.abs(np.asarray(found, dtype=int) - np.asarray(expected, dtype=int)).max() <= tolerance)


def encode(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def make_png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000"])
def test_every_format_gives_the_same_corners(form: str, tmp_path: Path) -> None:
    if form == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    path = tmp_path / "picture.bin"
    path.write_bytes(encode(make_corners(), form))
    image = load_image(path)
    assert (image.mode, image.size, image.info) == ("RGB", (48, 32), {})
    assert are_near(corner_colors(image), [RED, GREEN, BLUE, GREY])


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(form: str, orientation: int) -> None:
    stored_as = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a.transpose(1, 0, 2)[::-1],
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    }
    stored = Image.fromarray(np.ascontiguousarray(stored_as[orientation](np.asarray(make_corners()))))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = load_image(encode(stored, form, exif=exif))
    assert image.size == (48, 32)
    assert are_near(corner_colors(image), [RED, GREEN, BLUE, GREY])


def test_damaged_exif_does_not_cost_the_picture() -> None:
    image = load_image(encode(make_corners(), "JPEG", exif=b"Exif\0\0" + b"MM\0*" + b"\xff" * 40))
    assert are_near(corner_colors(image), [RED, GREEN, BLUE, GREY])


@pytest.mark.parametrize("place", ["before", "behind"])
def test_a_png_is_opened_without_its_pixels(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(make_corners(), "PNG")
    chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    at = data.index(b"IDAT" if place == "before" else b"IEND") - 4
    turned = data[:at] + chunk + data[at:]
    assert load_image(turned).size == (32, 48)

    decoded = []
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda image: decoded.append(image.size))
    for source, size in ((data, (48, 32)), (turned, (32, 48))):
        with open_picture(source) as picture:
            assert picture.size == size
    with pytest.raises(ImageError, match="the limit is"):
        load_image(make_png_header(100_000, 100_000))
    assert not decoded


def test_sources_path_string_bytes_and_files_agree(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(data := encode(make_corners(), "PNG"))

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    with path.open("rb") as file:
        images = [load_image(source) for source in (path, str(path), data, io.BytesIO(data), file, Pipe(data))]
    assert {image.tobytes() for image in images} == {make_corners().tobytes()}


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_keeps_its_colors(form: str) -> None:
    image = load_image(encode(make_corners().convert("CMYK"), form))
    assert are_near(corner_colors(image), [RED, GREEN, BLUE, GREY], tolerance=20)


def test_adobe_inverted_cmyk_jpeg_is_not_a_negative() -> None:
    data = encode(make_corners().convert("CMYK"), "JPEG")
    assert b"Adobe" in data  # Pillow writes CMYK inverted, as Adobe does, and marks it so
    white = load_image(encode(Image.new("CMYK", (16, 16), (0, 0, 0, 0)), "JPEG"))
    assert are_near(white.getpixel((8, 8)), WHITE)


def test_lab_and_ycbcr_become_rgb() -> None:
    lab = load_image(encode(Image.new("LAB", (8, 8), (255, 128, 128)), "TIFF"))
    assert are_near(lab.getpixel((4, 4)), WHITE)
    ycbcr = load_image(encode(make_corners().convert("YCbCr"), "TIFF", compression="tiff_lzw"))
    assert are_near(corner_colors(ycbcr), [RED, GREEN, BLUE, GREY])


def test_greyscale_and_one_bit() -> None:
    assert load_image(encode(Image.new("L", (4, 4), 77), "PNG")).getpixel((1, 1)) == (77, 77, 77)
    assert load_image(encode(Image.new("1", (4, 4), 1), "PNG")).getpixel((1, 1)) == WHITE


def test_transparent_pixels_are_white() -> None:
    rgba = Image.new("RGBA", (8, 8), (200, 0, 0, 255))
    rgba.paste((0, 0, 0, 0), (0, 0, 4, 8))
    rgba.putpixel((7, 7), (0, 0, 0, 128))
    for form in ("PNG", "TIFF"):
        image = load_image(encode(rgba, form))
        assert image.getpixel((1, 1)) == WHITE
        assert image.getpixel((6, 1)) == (200, 0, 0)
        assert are_near(image.getpixel((7, 7)), (127, 127, 127), tolerance=1)
    assert load_image(encode(Image.new("LA", (4, 4), (9, 0)), "PNG")).getpixel((0, 0)) == WHITE


def test_transparent_color_of_palette_grey_and_rgb_is_white() -> None:
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 0, 0, 200])
    palette.putpixel((0, 0), 0)
    for form in ("PNG", "GIF"):
        image = load_image(encode(palette, form, transparency=0))
        assert (image.getpixel((0, 0)), image.getpixel((3, 3))) == (WHITE, (0, 0, 200))
    assert load_image(encode(Image.new("L", (4, 4), 5), "PNG", transparency=5)).getpixel((0, 0)) == WHITE
    rgb = load_image(encode(Image.new("RGB", (4, 4), RED), "PNG", transparency=RED))
    assert rgb.getpixel((0, 0)) == WHITE


@pytest.mark.parametrize(("form", "order"), [("PNG", "<u2"), ("TIFF", "<u2"), ("TIFF", ">u2"), ("PPM", "<u2")])
def test_sixteen_bit_grey_is_scaled_not_clipped(form: str, order: str) -> None:
    values = np.array([[0, 257], [32896, 65535]], dtype=order)
    image = load_image(encode(Image.fromarray(values), form))
    assert np.asarray(image)[:, :, 0].tolist() == [[0, 1], [128, 255]]


def test_sixteen_bit_big_endian_tiff_as_a_microscope_writes_it() -> None:
    values = np.array([[0, 257], [32896, 65535]], dtype=">u2")
    tags = [(256, 2), (257, 2), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, 2), (279, 8)]
    directory = struct.pack(">H", len(tags)) + b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags)
    data = b"MM\0*" + struct.pack(">I", 16) + values.tobytes() + directory + b"\0\0\0\0"
    assert np.asarray(load_image(data))[:, :, 1].tolist() == [[0, 1], [128, 255]]


def test_thirty_two_bit_grey() -> None:
    def load(values: list[float], dtype: str) -> list[int]:
        return np.asarray(load_image(encode(Image.fromarray(np.array([values], dtype=dtype)), "TIFF")))[
            0, :, 0
        ].tolist()

    assert load([0, 257, 65535], "int32") == [0, 1, 255]
    assert load([-100, 0, 100], "int32") == [0, 128, 255]
    assert load([0, 0.5, 1], "float32") == [0, 128, 255]
    assert load([0.25, 0.25, 0.5], "float32") == [64, 64, 128]
    assert load([0, 1000, np.nan, np.inf], "float32") == [0, 255, 0, 0]
    assert load([7, 7], "float32") == [0, 0]
    with pytest.raises(ImageError, match="no pixel is a finite number"):
        load([np.nan, np.nan], "float32")


def test_sixteen_bit_rgb_png() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    pixel = struct.pack(">HHH", 65535, 32896, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
    data += chunk(b"IDAT", zlib.compress(b"\0" + pixel)) + chunk(b"IEND", b"")
    assert load_image(data).getpixel((0, 0)) == (255, 128, 0)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animation_gives_its_first_frame(form: str) -> None:
    frames = [Image.new("RGB", (16, 16), color) for color in (BLUE, RED)]
    image = load_image(encode(frames[0], form, save_all=True, append_images=frames[1:]))
    assert are_near(image.getpixel((8, 8)), BLUE)


def test_icc_profile_leaves_pixels_alone() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    assert load_image(encode(make_corners(), "PNG", icc_profile=profile)).tobytes() == make_corners().tobytes()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.2, 0.6])
def test_truncated_file_is_an_error_with_its_path(form: str, share: float, tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = encode(noise, form)
    path = tmp_path / "cut.jpg"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError, match=r"(damaged|truncated).*leave it out") as caught:
        load_image(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "is empty"),
        (b"<!doctype html>\n<p>404", "holds text"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\x00\x01\x02\x03\xff\xfe", "00 01 02 03 ff fe"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "holds text"),
        (b"\x89PNG\r\n\x1a\nrubbish", "PNG"),
        (b"\xff\xd8\xff\xe0", "JPEG"),
    ],
)
def test_what_is_no_picture_is_named(data: bytes, found: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=found) as caught:
        load_image(path)
    assert str(path) in str(caught.value)


def test_folder_missing_path_pipe_and_odd_name(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is a folder"):
        load_image(tmp_path)
    with pytest.raises(ImageError, match="No file"):
        load_image(tmp_path / "none.jpg")
    with pytest.raises(ImageError, match="cannot be opened"):
        load_image("a\0b.jpg")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.jpg")
        with pytest.raises(ImageError, match="a device or a pipe"):
            load_image(tmp_path / "pipe.jpg")


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode(make_corners(), "PNG"))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ImageError, match="may not be read"):
        load_image(path)


def test_bomb_is_refused_from_its_header_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: object) -> None:
        raise AssertionError("the pixels were decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    with pytest.raises(ImageError, match=r"60000 x 60000 = 3,600,000,000 pixels; the limit is 200,000,000"):
        load_image(make_png_header(60_000, 60_000))
    with pytest.raises(ImageError, match=r"48 x 32 = 1,536 pixels; the limit is 1,535"):
        load_image(encode(make_corners(), "PNG"), max_pixels=1535)


def test_webp_bomb_is_refused_by_pillows_own_limit() -> None:
    canvas = (16382).to_bytes(3, "little") * 2
    chunk = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + canvas
    with pytest.raises(
        ImageError, match=r"too large for Pillow|damaged"
    ):  # Pillow before 13 cannot open this one at all
        load_image(b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk)


def test_large_picture_below_the_limit_makes_no_warning() -> None:
    large = encode(Image.new("1", (10_000, 10_000)), "PNG")  # above Pillow's own warning, below its error
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(large).size == (10_000, 10_000)


def test_limit_can_be_raised_above_pillows_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow itself now refuses more than 200 pixels
    assert load_image(encode(make_corners(), "PNG")).size == (48, 32)


def test_eight_threads_leave_global_state_alone(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.jpg", tmp_path / "bad.jpg"
    good.write_bytes(encode(make_corners(480, 320), "JPEG", quality=95))
    bad.write_bytes(good.read_bytes()[:900])
    before = (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, list(warnings.filters))

    def decode(index: int) -> bytes:
        if index % 4 == 3:
            with pytest.raises(ImageError):
                load_image(bad)
            return b"refused"
        return load_image(good).tobytes()

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(decode, range(64)))
    assert set(results) == {b"refused", load_image(good).tobytes()}
    assert (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == before


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("at_least", "expected"),
    [
        ((60, 20), (60, 40)),
        ((61, 20), (120, 80)),
        ((20, 81), (240, 160)),
        ((20, 41), (120, 80)),
        ((900, 9), (480, 320)),
    ],
)
def test_scaled_decode_keeps_both_sides(orientation: int, at_least: tuple[int, int], expected: tuple[int, int]) -> None:
    upright = make_corners(480, 320)
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = load_image(encode(stored, "JPEG", exif=exif), at_least=at_least)
    assert image.size == expected
    assert are_near(corner_colors(image), [RED, GREEN, BLUE, GREY])


def test_scaled_decode_rounds_up_and_leaves_other_formats_whole() -> None:
    assert load_image(encode(make_corners(101, 99), "JPEG"), at_least=(50, 49)).size == (51, 50)
    assert load_image(encode(make_corners(480, 320), "PNG"), at_least=(10, 10)).size == (480, 320)


@pytest.mark.parametrize(
    ("array", "pixel"),
    [
        (np.full((5, 7), 9, np.uint8), (9, 9, 9)),
        (np.full((5, 7, 1), 257, np.uint16), (1, 1, 1)),
        (np.ones((5, 7), bool), WHITE),
        (np.full((5, 7, 3), 0.5, np.float32), (128, 128, 128)),
        (np.full((5, 7, 3), 1.000001, np.float64), WHITE),
        (np.zeros((5, 7, 4), np.uint8), WHITE),
        (np.broadcast_to(np.array(RED, np.uint8)[:, None, None], (3, 5, 7)), RED),
        (np.full((1, 5, 7), 0.25, np.float16), (64, 64, 64)),
    ],
)
def test_arrays(array: np.ndarray, pixel: tuple[int, int, int]) -> None:
    image = image_from_array(array)
    assert (image.mode, image.size, image.getpixel((6, 4))) == ("RGB", (7, 5), pixel)


def test_array_that_fits_both_orders_has_channels_last() -> None:
    assert image_from_array(np.zeros((3, 8, 3), np.uint8)).size == (8, 3)


def test_image_does_not_share_the_arrays_memory() -> None:
    array = np.zeros((4, 4, 3), np.uint8)
    image = image_from_array(array)
    array[:] = 255
    assert image.getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros((2, 5, 7, 3), np.uint8), r"\(2, 5, 7, 3\).*array\[0\]"),
        (np.zeros((5, 7, 2), np.uint8), r"\(5, 7, 2\)"),
        (np.zeros(7, np.uint8), r"\(7,\)"),
        (np.zeros((0, 7, 3), np.uint8), r"\(0, 7, 3\)"),
        (np.zeros((5, 7), np.int64), "int64"),
        (np.full((5, 7), 200.0), "from 200 to 200"),
        (np.full((5, 7), -0.5), "from -0.5 to -0.5"),
        (np.full((5, 7), np.nan), "from nan to nan"),
        ([[0, 1]], "got list"),
    ],
)
def test_bad_arrays_are_named(array: np.ndarray, found: str) -> None:
    with pytest.raises(ImageError, match=found):
        image_from_array(array)


def test_suffixes_are_lower_case_and_common() -> None:
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in IMAGE_SUFFIXES)
    assert {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"} <= (
        IMAGE_SUFFIXES
    )


def test_content_hash_is_blake2b_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(data := bytes(range(256)) * 5000)
    assert content_hash(path) == hashlib.blake2b(data, digest_size=16).hexdigest()
    with pytest.raises(ImageError, match="No file"):
        content_hash(tmp_path / "none")


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "La", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "LAB", "I"])
def test_strips_are_the_same_to_the_byte(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (23, 31, 4), dtype=np.uint8))
    by_way = {"La": "LA", "LAB": None, "PA": "P"}.get(mode, mode)
    if by_way is None:
        image = Image.merge("LAB", image.split()[:3])
    else:
        image = (image if by_way in {"RGBA", "RGBa"} else image.convert("RGB")).convert(by_way).convert(mode)
    whole = pixels.make_rgb(image)
    monkeypatch.setattr(pixels, "STRIP_PX", 100)
    assert pixels.make_rgb(image).tobytes() == whole.tobytes()


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32"])
def test_strips_of_deep_grey_have_one_range(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray((np.arange(23 * 31).reshape(23, 31) * (-1 if dtype == "int32" else 1)).astype(dtype))
    whole = pixels.make_rgb(image)
    monkeypatch.setattr(pixels, "STRIP_PX", 100)
    assert pixels.make_rgb(image).tobytes() == whole.tobytes()
