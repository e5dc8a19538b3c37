"""TIFFs that Pillow refuses or misreads: read where they are photos, else told what they hold."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from whycam.data.images import ImageError, load_image, load_sized, read_size

KINDS = {"u1": 255, "u2": 65535, "u4": 65535, "f2": 1, "f4": 1, "f8": 1}
WIDTH, HEIGHT = 60, 40


def make_shades() -> np.ndarray:
    """(H, W, 3) in [0, 1]: red grows to the right, green downwards, blue is even."""
    shades = np.full((HEIGHT, WIDTH, 3), 0.25)
    shades[..., 0] = np.linspace(0, 1, WIDTH)
    shades[..., 1] = np.linspace(0, 1, HEIGHT)[:, None]
    return shades


LEVELS = (make_shades() * 255).round().astype(int)


def write(values: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def check_shades(data: bytes, expected: np.ndarray = LEVELS) -> None:
    assert read_size(data) == (WIDTH, HEIGHT)
    found = np.asarray(load_image(data)).astype(int)
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "zlib"}, {"tile": (16, 16)}, {"byteorder": ">"}, {"bigtiff": True}, {"rowsperstrip": 7}],
    ids=str,
)
@pytest.mark.parametrize("kind", KINDS)
def test_colour_of_every_depth(kind: str, options: dict[str, Any]) -> None:
    values = (make_shades() * KINDS[kind]).astype(kind)
    check_shades(write(values, photometric="rgb", **options))
    check_shades(write(values, photometric="minisblack", planarconfig="contig", **options))
    separate = np.ascontiguousarray(values.transpose(2, 0, 1))
    check_shades(write(separate, photometric="rgb", planarconfig="separate", **options))


@pytest.mark.parametrize("kind", KINDS)
def test_grey_of_every_depth(kind: str) -> None:
    values = (make_shades()[..., 0] * KINDS[kind]).astype(kind)
    check_shades(write(values, photometric="minisblack"), LEVELS[..., :1])
    check_shades(write(values, photometric="miniswhite"), 255 - LEVELS[..., :1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_fourth_channel_is_transparency_or_nothing(kind: str) -> None:
    fourth = np.ones((HEIGHT, WIDTH, 1))
    fourth[:, :20] = 0
    values = (np.concatenate([make_shades(), fourth], axis=2) * KINDS[kind]).astype(kind)
    if kind != "u4":
        on_white = np.where(fourth > 0, LEVELS, 255)
        check_shades(write(values, photometric="rgb", extrasamples=["unassalpha"]), on_white)
    check_shades(write(values, photometric="rgb", extrasamples=["unspecified"]))


def test_floats_of_colours_are_shares_or_0_to_255_or_stretched() -> None:
    def load(*values: float) -> list[int]:
        pixels = np.array(values, np.float32).reshape(1, -1, 3)
        return np.asarray(load_image(write(pixels, photometric="rgb"))).ravel().tolist()

    assert load(0, 0.25, 0.5) == [0, 64, 128]
    assert load(0, 64, 128) == [0, 64, 128]
    assert load(0, 500, 1000) == [0, 128, 255]
    assert load(-1, 0, 1) == [0, 128, 255]
    assert load(np.nan, 0.5, np.inf) == [0, 128, 0]


@pytest.mark.parametrize(
    ("make", "found", "remedy"),
    [
        (lambda: write(np.zeros((9, 8, 7), "u1"), photometric="rgb"), "8 x 9 pixels with 7 channels of 8-bit", "three"),
        (lambda: write(np.zeros((7, 9, 8), "u2"), planarconfig="separate", photometric=1), "7 channels of 16", "three"),
        (lambda: write(np.zeros((9, 8, 2), "u2"), photometric=1, planarconfig="contig"), "2 channels of 16", "three"),
        (lambda: write(np.zeros((9, 8), "c8")), "1 channel of 64-bit complex numbers", "Export"),
        (lambda: write(np.zeros((9, 8), "u2"), photometric="cfa"), "(cfa, compression none)", "as an RGB TIFF or PNG"),
    ],
)
def test_what_is_no_photo_is_not_called_damaged(make: Callable[[], bytes], found: str, remedy: str) -> None:
    for read in (load_image, read_size):
        with pytest.raises(ImageError) as caught:
            read(make())
        assert found in str(caught.value)
        assert "1, 3 or 4 channels of 8 or 16 bits" in str(caught.value)
        assert remedy in str(caught.value)
        assert "damaged" not in str(caught.value)


def test_a_compression_without_a_decoder_is_told() -> None:
    data = bytearray(write(np.zeros((9, 8, 3), "f4"), photometric="rgb", compression="zlib"))
    at = data.index(struct.pack("<HHI", 259, 3, 1)) + 8
    data[at : at + 2] = struct.pack("<H", 5)
    with pytest.raises(ImageError, match=r"floats \(rgb, compression lzw\).*without compression or with deflate"):
        load_image(bytes(data))


def test_damaged_ones_are_still_called_damaged() -> None:
    whole = write(np.random.default_rng(0).random((40, 60, 3), np.float32), photometric="rgb", compression="zlib")
    for data in (whole[:300], whole[: len(whole) // 2], whole[:50] + b"\xff" * 40 + whole[90:]):
        with pytest.raises(ImageError, match=r"(damaged|truncated).*leave it out"):
            load_image(data)


def replace_tag(data: bytes, tag: int, kind: int, value: int) -> bytes:
    """The file with the value of a tag that lies in the directory itself."""
    at = data.index(struct.pack("<HHI", tag, kind, 1)) + 8
    return data[:at] + struct.pack("<I", value) + data[at + 4 :]


def test_a_bomb_does_not_fill_memory() -> None:
    zeros = np.zeros((2000, 2000, 3), "f4")
    data = write(zeros, photometric="rgb", compression="zlib", rowsperstrip=2000, metadata=None)
    small = replace_tag(replace_tag(data, 257, 4, 10), 278, 4, 10)
    tracemalloc.start()
    with pytest.raises(ImageError, match="unpacks to more than the 240,000 bytes"):
        load_image(small)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 5_000_000


def test_tiles_far_larger_than_the_picture_are_refused() -> None:
    data = write(np.zeros((32, 32, 3), "f4"), photometric="rgb", tile=(32, 32), metadata=None)
    with pytest.raises(ImageError, match=r"damaged.*chunks of"):
        load_image(replace_tag(replace_tag(data, 322, 4, 60000), 323, 4, 60000))


@pytest.mark.parametrize("orientation", range(13))
@pytest.mark.parametrize("form", ["TIFF", "JPEG", "PNG", "WEBP", "float TIFF"])
def test_the_size_is_that_of_the_upright_picture(form: str, orientation: int) -> None:
    if form == "float TIFF":
        data = write(
            np.zeros((20, 40, 3), "f4"), photometric="rgb", extratags=[(274, "H", 1, orientation, True)], metadata=None
        )
    else:
        exif, file = Image.Exif(), io.BytesIO()
        exif[0x0112] = orientation
        Image.new("RGB", (40, 20)).save(file, form, exif=exif)
        data = file.getvalue()
    expected = (20, 40) if 5 <= orientation <= 8 else (40, 20)
    image, size = load_sized(data)
    assert (image.size, size, read_size(data)) == (expected, expected, expected)
    assert load_sized(data, at_least=(5, 5))[1] == expected


def test_float_tiffs_are_turned_upright() -> None:
    turned = np.ascontiguousarray(make_shades().transpose(1, 0, 2)[::-1]).astype("f4")
    check_shades(write(turned, photometric="rgb", extratags=[(274, "H", 1, 6, True)], metadata=None))


def test_no_library_writes_to_the_terminal(tmp_path: Path) -> None:
    """Neither libtiff, past Python, nor the loggers and warnings of Pillow and tifffile."""
    rng = np.random.default_rng(0)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(file, "TIFF", compression="tiff_lzw")
    lzw = file.getvalue()
    (tmp_path / "lzw.tif").write_bytes(lzw[:400] + bytes(400) + lzw[800:])
    (tmp_path / "cut.tif").write_bytes(write(rng.random((64, 64, 3)), photometric="rgb")[:900])
    (tmp_path / "seven.tif").write_bytes(write(np.zeros((9, 8, 7), "u1"), photometric="rgb"))
    code = (
        "import sys, pathlib; from whycam.data.images import load_image, ImageError\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        "    try: load_image(path)\n"
        "    except ImageError: print(path.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cut.tif", "lzw.tif", "seven.tif"]
    assert done.stderr == ""
