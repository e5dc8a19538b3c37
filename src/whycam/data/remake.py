"""A photo made as another one was made: encoded so, blurred so, darkened so; what is on it stays.

Add an edit as one entry in `REMAKES`, under the name of the property in `data/properties.py` that it changes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from whycam.data.images import load_image
from whycam.data.properties import SIDE_PX, Facts, Value, measure_facts, measure_sharpness

Row = Mapping[str, Value]
_LEAST_SIDE_PX = 8
# Shares of a photo's size that it is brought to and enlarged again from, to find how sharp each leaves it.
_SCALES = (1.0, 0.7, 0.5, 0.33, 0.2, 0.12)


@dataclass(frozen=True)
class Host:
    """A photo that is to be re-made.

    Attributes:
        image: RGB, upright, at its file's size; a JPEG of more than twice 1,024 pixels a side at a part of it.
        row: its properties by name.
        sharpness: what is left of its sharpness at each of the shares of its size that it was brought to; none measured
            where it is empty.
    """

    image: Image.Image
    row: Row
    sharpness: tuple[float, ...] = ()


def open_host(path: Path, row: Row | None = None) -> Host:
    """The photo in a file; `row` are its properties, where they are measured already.

    Raises:
        ImageError: it can't be read.
    """
    return Host(load_image(path, at_least=(SIDE_PX, SIDE_PX)), row or measure_facts(path))


Edit = Callable[[Host, Row], Image.Image]


@dataclass(frozen=True)
class Remake:
    """How a property is given another level.

    Attributes:
        edit: (photo, the properties of a photo that was made so) -> the photo made so.
        way: which levels it can be given: what is lost, such as detail, can't be given back.
        family: edits that change much the same.
        title: what a class is known by, if by this: 'how its photos were saved'.
    """

    edit: Edit
    way: Literal["lower", "higher", "both"]
    family: str
    title: str


def remake(name: str, host: Host, row: Row) -> Image.Image:
    """The photo as it would be, had it been made as the photo was whose properties are `row`.

    A level that can't be given leaves the photo as it is: a saved photo can't be made better.
    """
    own, level, way = host.row[name], row[name], REMAKES[name].way
    if isinstance(own, str) or isinstance(level, str):
        return host.image if own == level else REMAKES[name].edit(host, row)
    if not np.isfinite(own - level) or (way == "lower" and level >= own) or (way == "higher" and level <= own):
        return host.image
    return REMAKES[name].edit(host, row)


def _to_image(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(values).clip(0, 255).astype(np.uint8))


def _to_values(host: Host) -> np.ndarray:
    return np.asarray(host.image, np.float32)


def _differ(host: Host, row: Row, name: str) -> float:
    return float(row[name]) - float(host.row[name])


def _ratio(host: Host, row: Row, name: str) -> float:
    return float(row[name]) / max(float(host.row[name]), 1e-3)


def encode(host: Host, row: Row) -> Image.Image:
    """Saved as JPEG of that quality, and read again."""
    file = io.BytesIO()
    host.image.save(file, "JPEG", quality=round(float(row["jpeg-quality"])))
    return load_image(file.getvalue())


def scale_to(image: Image.Image, share: float) -> Image.Image:
    """Brought to a share of its size."""
    size = tuple(max(_LEAST_SIDE_PX, round(side * share)) for side in image.size)
    return image.resize((min(size[0], image.width), min(size[1], image.height)), Image.Resampling.BICUBIC)


def measure_scales(image: Image.Image) -> tuple[float, ...]:
    """The sharpness that is left of a photo at each of `_SCALES`."""
    found = []
    for share in _SCALES:
        small = scale_to(image, share) if share < 1 else image
        pixels = np.asarray(small.resize(image.size, Image.Resampling.BICUBIC) if share < 1 else small)
        found.append(measure_sharpness(Facts.of_pixels(pixels)))
    return tuple(found)


def soften(host: Host, row: Row) -> Image.Image:
    """Brought to a smaller size and enlarged again, so that it is as sharp as that."""
    left = np.minimum.accumulate(host.sharpness or measure_scales(host.image))
    share = float(np.interp(-float(row["sharpness"]), -left, _SCALES))
    return scale_to(host.image, share).resize(host.image.size, Image.Resampling.BICUBIC)


def shrink(host: Host, row: Row) -> Image.Image:
    """Brought to that number of pixels."""
    return scale_to(host.image, float(np.sqrt(_ratio(host, row, "resolution"))))


def roughen(host: Host, row: Row) -> Image.Image:
    """With so much more noise, the same in all channels; of one photo it is always the same."""
    lacking = np.sqrt(float(row["noise"]) ** 2 - float(host.row["noise"]) ** 2)
    values = _to_values(host)
    draw = np.random.default_rng(int(values[::16, ::16].sum()))
    return _to_image(values + draw.normal(0, lacking, (*values.shape[:2], 1)))


def light(host: Host, row: Row) -> Image.Image:
    """As bright: all values times one number."""
    return _to_image(_to_values(host) * _ratio(host, row, "brightness"))


def stretch(host: Host, row: Row) -> Image.Image:
    """With the same darkest and lightest values."""
    (low, high), (dark, bright) = ((float(one["darkest"]), float(one["lightest"])) for one in (host.row, row))
    return _to_image((_to_values(host) - low) * ((bright - dark) / max(high - low, 8)) + dark)


def contrast(host: Host, row: Row) -> Image.Image:
    """With so much contrast, and the brightness that it has."""
    values = _to_values(host)
    mean = values.mean()
    return _to_image(mean + (values - mean) * _ratio(host, row, "contrast"))


def saturate(host: Host, row: Row) -> Image.Image:
    """With such strong colours; grey stays grey."""
    values, grey = _to_values(host), np.asarray(host.image.convert("L"), np.float32)[..., None]
    return _to_image(grey + (values - grey) * min(_ratio(host, row, "saturation"), 4))


def turn_grey(host: Host, row: Row) -> Image.Image:
    """Grey."""
    return host.image.convert("L").convert("RGB") if row["grey"] == "grey" else host.image


def tint(prefix: str) -> Edit:
    """Red over blue, and green over both, as there; as bright as before."""
    warm, green = np.array([0.5, 0, -0.5]), np.array([-1 / 3, 2 / 3, -1 / 3])
    return lambda host, row: _gain(
        host, warm * _differ(host, row, f"{prefix}warmth") + green * _differ(host, row, f"{prefix}greenness")
    )


def _gain(host: Host, powers: np.ndarray) -> Image.Image:
    values = _to_values(host)
    changed = values * np.exp2(powers).astype(np.float32)
    return _to_image(changed * (values.mean() / max(changed.mean(), 1)))


def shade(host: Host, row: Row) -> Image.Image:
    """With corners so much darker than the middle."""
    values = _to_values(host)
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in values.shape[:2])
    falling = (y[:, None, None] ** 2 + x[None, :, None] ** 2) / 2
    # The measured corners, a sixth of each side, and the measured third in the middle lie so far apart on that slope.
    return _to_image(values * np.exp2(-_differ(host, row, "vignette") * falling / 0.66))


def cut(host: Host, row: Row) -> Image.Image:
    """Cut in the middle to that shape."""
    image, shape = host.image, float(row["shape"])
    width, height = min(image.width, image.height * shape), min(image.height, image.width / shape)
    left, top = (image.width - width) / 2, (image.height - height) / 2
    box = (round(left), round(top), round(left + max(1, width)), round(top + max(1, height)))
    return image.crop(box)


REMAKES: dict[str, Remake] = {
    "jpeg-quality": Remake(encode, "lower", "detail", "how its photos were saved"),
    "sharpness": Remake(soften, "lower", "detail", "how little detail its photos have"),
    "noise": Remake(roughen, "higher", "detail", "the noise of its photos"),
    "resolution": Remake(shrink, "lower", "detail", "how few pixels its photos have"),
    "grey": Remake(turn_grey, "both", "colour", "its photos being grey"),
    "saturation": Remake(saturate, "both", "colour", "how strong the colours of its photos are"),
    "warmth": Remake(tint(""), "both", "colour", "the colour cast of its photos"),
    "greenness": Remake(tint(""), "both", "colour", "the colour cast of its photos"),
    "light-warmth": Remake(tint("light-"), "both", "colour", "the colour cast of its photos"),
    "light-greenness": Remake(tint("light-"), "both", "colour", "the colour cast of its photos"),
    "brightness": Remake(light, "both", "light", "how bright its photos are"),
    "lightest": Remake(stretch, "both", "light", "how bright its photos are"),
    "darkest": Remake(stretch, "both", "light", "how dark the darkest parts of its photos are"),
    "contrast": Remake(contrast, "both", "light", "the contrast of its photos"),
    "vignette": Remake(shade, "both", "corners", "how dark the corners of its photos are"),
    "shape": Remake(cut, "both", "shape", "the shape of its photos"),
}
