"""How a photo was made: what its file and its pixels tell of that, each property a number or a word.

Add a property as one entry in `PROPERTIES`; `data/remake.py` says how photos are given another level of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from whycam.data.budget import BUDGET
from whycam.data.compression import NO_LOSS, estimate_quality, read_quality
from whycam.data.images import Header, ImageError, open_picture
from whycam.data.loader import map_ahead
from whycam.data.shards import measure_size

Value = float | str
# A larger JPEG is decoded at a part of its size, and of any larger picture a middle part is measured: what is looked
# for is all over the photo, and time does not grow with its size.
SIDE_PX = 1024
# So far the quality that is seen in pixels lies from the true one at the most.
_QUALITY_ERROR = 4
_BRIGHTNESS = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass
class Facts:
    """What one photo's file says, and its pixels.

    Attributes:
        header: the file's own words.
        size_px: (width, height) of the whole upright photo.
        file_bytes: the size of the file.
        pixels: (H, W, 3) uint8: the photo, its middle, or the photo at a part of its size.
        is_shrunk: it was decoded at a part of its size, which leaves no trace of how it was saved.
    """

    header: Header
    size_px: tuple[int, int]
    file_bytes: int
    pixels: np.ndarray
    is_shrunk: bool = False

    @classmethod
    def of_pixels(cls, pixels: np.ndarray) -> Facts:
        """What pixels (H, W, 3) alone tell."""
        return cls(Header("", ""), (pixels.shape[1], pixels.shape[0]), 0, pixels)

    @cached_property
    def luma(self) -> np.ndarray:
        """(H, W) brightness, 0 to 255."""
        values: np.ndarray = self.pixels @ _BRIGHTNESS
        return values

    @cached_property
    def parts(self) -> np.ndarray:
        """(2, 3, 256) how many pixels of the rim, and of the middle, have each value."""
        whole, middle = (
            np.stack([np.bincount(one[..., k].ravel(), minlength=256) for k in range(3)])
            for one in (self.pixels, self.pixels[_cut(self.pixels.shape)])
        )
        return np.stack([whole - middle, middle])

    @property
    def means(self) -> np.ndarray:
        """(2, 3) mean of each channel, rim and middle, never 0."""
        values: np.ndarray = self.parts @ np.arange(256) / self.parts.sum(2).clip(1) + 1
        return values

    @property
    def lightest(self) -> np.ndarray:
        """(2, 3) the lightest value of each channel, rim and middle, never 0: a hundredth of the pixels are lighter."""
        return np.stack([find_range(part)[1] for part in self.parts]) + 1

    @property
    def range(self) -> tuple[float, float]:
        """The darkest and the lightest values of the whole photo, the channels' mean."""
        dark, light = find_range(self.parts.sum(0))
        return float(dark.mean()), float(light.mean())

    @cached_property
    def details(self) -> list[tuple[float, float]]:
        """Haar details of three sizes, the finest first: mean square of the straight ones, median of the oblique."""
        found, level = [], self.luma
        for _ in range(3):
            height, width = (side // 2 * 2 for side in level.shape)
            if min(height, width) < 4:
                found.append((0.0, 0.0))
                continue
            a, b = level[0:height:2, 0:width:2], level[0:height:2, 1:width:2]
            c, d = level[1:height:2, 0:width:2], level[1:height:2, 1:width:2]
            top, low = a + b, c + d
            across, down, oblique = top - low, (a + c) - (b + d), (a + d) - (b + c)
            straight = float(np.square(across).mean() + np.square(down).mean()) / 8
            found.append((straight, float(np.median(np.abs(oblique))) / 2))
            level = (top + low) / 4
        return found


def _cut(shape: tuple[int, ...]) -> tuple[slice, slice]:
    """The middle: all but a fifth at each side."""
    height, width = (side // 10 * 2 for side in shape[:2])
    return slice(height, shape[0] - height), slice(width, shape[1] - width)


def find_range(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The darkest and the lightest value, (3,) each, of pixels of which so many (3, 256) have each value.

    A hundredth of the pixels go beyond.
    """
    share = counts.cumsum(1) / counts.sum(1, keepdims=True).clip(1)
    return (share >= 0.01).argmax(1).astype(float), (share >= 0.99).argmax(1).astype(float)


def measure_warmth(levels: np.ndarray) -> float:
    """Log2 of red over blue of levels (2, 3) that rim and middle share: an object's own colour is on one of them."""
    return find_shared(np.log2(levels[:, 0] / levels[:, 2]))


def measure_greenness(levels: np.ndarray) -> float:
    """Log2 of green over red and blue that rim and middle share."""
    return find_shared(np.log2(levels[:, 1] / np.sqrt(levels[:, 0] * levels[:, 2])))


def find_shared(casts: np.ndarray) -> float:
    """The smaller one of two casts of one sign; 0 of casts of two signs."""
    return float(casts[np.abs(casts).argmin()]) if casts.prod() > 0 else 0.0


def measure_quality(facts: Facts) -> float:
    """The lowest JPEG quality that the photo was ever saved by; 100: none that can be seen."""
    told = read_quality(facts.header.tables) if facts.header.tables else NO_LOSS
    if facts.is_shrunk:
        return told
    seen = estimate_quality(facts.luma - 128)
    return seen if seen < told - _QUALITY_ERROR else told


def measure_sharpness(facts: Facts) -> float:
    """Log2 of the finest details' strength over that of details four times as large; both grow with contrast."""
    fine, coarse = facts.details[0][0], facts.details[2][0]
    return float(0.5 * np.log2((fine + 0.05) / (coarse + 0.05)))


def measure_noise(facts: Facts) -> float:
    """Standard deviation of the noise, in levels of 255 (Donoho's median of the finest oblique details)."""
    return facts.details[0][1] / 0.6745


def measure_contrast(facts: Facts) -> float:
    """Standard deviation of brightness over its mean: what darkening by a factor leaves as it is."""
    return float(facts.luma.std() / (facts.luma.mean() + 1))


def measure_saturation(facts: Facts) -> float:
    """The channels' spread over the strongest channel, in [0, 1], where it is the smaller: on the rim or the middle."""
    spread, strongest = (values.sum() for values in measure_colours(facts.pixels))
    inner, inner_strongest = (values.sum() for values in measure_colours(facts.pixels[_cut(facts.pixels.shape)]))
    return float(min((spread - inner) / (strongest - inner_strongest + 1), inner / (inner_strongest + 1)))


def measure_colours(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The spread of the channels and the strongest one, of every second pixel."""
    channels = [pixels[::2, ::2, k] for k in range(3)]
    strongest = np.maximum(np.maximum(channels[0], channels[1]), channels[2])
    weakest = np.minimum(np.minimum(channels[0], channels[1]), channels[2])
    return (strongest - weakest).astype(np.float64), strongest.astype(np.float64)


def tell_grey(facts: Facts) -> str:
    """Whether it is grey."""
    spread, strongest = measure_colours(facts.pixels)
    return "grey" if spread.sum() < 0.01 * strongest.sum() + 1 else "colour"


def measure_vignette(facts: Facts) -> float:
    """Log2 of the middle's brightness over the corners'."""
    height, width = (max(1, side // 6) for side in facts.luma.shape)
    luma = facts.luma
    corners = np.mean([luma[y, x].mean() for y in (slice(height), slice(-height, None)) for x in _ends(width)])
    middle = luma[
        luma.shape[0] // 3 : -(luma.shape[0] // 3) or None, luma.shape[1] // 3 : -(luma.shape[1] // 3) or None
    ]
    return float(np.log2((middle.mean() + 1) / (corners + 1)))


def _ends(width: int) -> tuple[slice, slice]:
    return slice(width), slice(-width, None)


def read_date(facts: Facts) -> float:
    """Days since year 1 at which EXIF says that the photo was taken; NaN where it does not."""
    try:
        return datetime.strptime(facts.header.taken[:10], "%Y:%m:%d").toordinal()
    except ValueError:
        return float("nan")


@dataclass(frozen=True)
class Property:
    """One way in which photos are made alike or unlike.

    Attributes:
        words: what it is called in a sentence.
        measure: facts -> a number, NaN where there is none; or a word.
        by_nature: how often what is photographed has it, or looks like it, by its own nature.
        write: a value -> how it is said.
    """

    words: str
    measure: Callable[[Facts], Value]
    by_nature: Literal["never", "seldom", "often"] = "seldom"
    write: Callable[[Value], str] = field(default=lambda value: value if isinstance(value, str) else f"{value:.2f}")


def _whole(value: Value) -> str:
    return f"{value:,.0f}"


def _percent(value: Value) -> str:
    return f"{value:.0%}"


def _day(value: Value) -> str:
    return datetime.fromordinal(int(float(value))).date().isoformat()


# Those that cause others stand before them: strong compression also makes a photo blurred and its file small.
PROPERTIES: dict[str, Property] = {
    "jpeg-quality": Property("JPEG quality", measure_quality, by_nature="never", write=_whole),
    "file-type": Property("file type", lambda facts: facts.header.file_type, by_nature="never"),
    "mode": Property("colour mode of the file", lambda facts: facts.header.mode, by_nature="never"),
    "dimensions": Property("size in pixels", lambda f: f"{f.size_px[0]} x {f.size_px[1]}", by_nature="never"),
    "resolution": Property(
        "number of pixels", lambda facts: float(np.prod(facts.size_px)), by_nature="never", write=_whole
    ),
    "shape": Property("width over height", lambda facts: facts.size_px[0] / facts.size_px[1]),
    "camera": Property("camera", lambda facts: facts.header.camera or "none named", by_nature="never"),
    "has-date": Property(
        "a date in EXIF", lambda facts: "a date" if facts.header.taken else "no date", by_nature="never"
    ),
    "date": Property("day it was taken", read_date, by_nature="never", write=_day),
    "grey": Property("colour or grey", tell_grey, by_nature="never"),
    "brightness": Property("brightness", lambda facts: float(facts.luma.mean() / 255), write=_percent),
    "sharpness": Property("sharpness", measure_sharpness),
    "noise": Property("noise", measure_noise, write=lambda value: f"{value:.1f}"),
    "contrast": Property("contrast", measure_contrast),
    "saturation": Property("saturation", measure_saturation, "often", _percent),
    "warmth": Property("warmth (red over blue)", lambda facts: measure_warmth(facts.means), "often"),
    "greenness": Property("green cast", lambda facts: measure_greenness(facts.means), "often"),
    "light-warmth": Property(
        "warmth of the lightest values (red over blue)",
        lambda facts: measure_warmth(facts.lightest),
    ),
    "light-greenness": Property(
        "green cast of the lightest values",
        lambda facts: measure_greenness(facts.lightest),
    ),
    "darkest": Property("darkest values", lambda facts: facts.range[0], write=_whole),
    "lightest": Property("lightest values", lambda facts: facts.range[1], write=_whole),
    "vignette": Property("vignette (middle over corners)", measure_vignette),
    "bytes-per-pixel": Property("bytes a pixel", lambda facts: facts.file_bytes / float(np.prod(facts.size_px))),
    "file-size": Property("size of the file", lambda facts: float(facts.file_bytes), write=_whole),
}


def read_facts(path: Path) -> Facts:
    """One photo's facts, by one decoding.

    Raises:
        ImageError: it can't be read.
    """
    with open_picture(path, at_least=(SIDE_PX, SIDE_PX)) as picture:
        header, full = picture.read_header(), picture.size[0] * picture.size[1]
        with BUDGET.hold(picture.pixels):
            image = picture.decode()
    is_shrunk = image.width * image.height < full
    return Facts(header, picture.size, measure_size(path), _cut_middle(image), is_shrunk)


def _cut_middle(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 of the photo, or of a middle part of it that begins on the grid that JPEG saves by."""
    left, top = (max(0, side - SIDE_PX) // 16 * 8 for side in image.size)
    box = (left, top, min(image.width, left + SIDE_PX), min(image.height, top + SIDE_PX))
    return np.asarray(image if box == (0, 0, *image.size) else image.crop(box))


@dataclass(frozen=True)
class Measured:
    """One photo's properties by name, or why it can't be read."""

    path: Path
    values: dict[str, Value] = field(default_factory=dict)
    error: str = ""


def measure_facts(path: Path) -> dict[str, Value]:
    """All properties of one photo.

    Raises:
        ImageError: it can't be read.
    """
    facts = read_facts(path)
    return {name: one.measure(facts) for name, one in PROPERTIES.items()}


def measure_photo(path: Path) -> Measured:
    """All properties of one photo, or why it can't be read."""
    try:
        return Measured(path, measure_facts(path))
    except (ImageError, OSError) as error:
        return Measured(path, error=str(error))


@dataclass(frozen=True)
class PropertyTable:
    """The properties of N photos.

    Attributes:
        columns: property -> (N,) numbers, NaN where there is none; or words, empty where there is none.
        unreadable: file -> why.
    """

    columns: dict[str, np.ndarray]
    unreadable: dict[Path, str] = field(default_factory=dict)

    def __getitem__(self, row: int) -> dict[str, Value]:
        """One photo's properties."""
        return {name: values[row].item() for name, values in self.columns.items()}


def read_table(paths: Sequence[Path], advance: Callable[[int], None] = lambda _: None) -> PropertyTable:
    """The properties of those photos, in their order; `advance` is told of each."""
    rows = []
    for row in measure_photos(paths):
        rows.append(row)
        advance(1)
    columns = {}
    for name in PROPERTIES:
        values = [row.values.get(name) for row in rows]
        is_word = any(isinstance(value, str) for value in values)
        none: Value = "" if is_word else float("nan")
        columns[name] = np.array([none if value is None else value for value in values], None if is_word else float)
    return PropertyTable(columns, {row.path: row.error for row in rows if row.error})


def measure_photos(paths: Iterable[Path]) -> Iterator[Measured]:
    """The same of many, in order, by threads."""
    return map_ahead(measure_photo, paths)
