"""Paints what is not a flower: backgrounds and the things that stand about in them. No class name reaches this file.

A new background is one function and one row in `BACKDROPS`; a new thing is one function and one row in `PROPS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Floats = NDArray[np.floating]
Colour = tuple[int, int, int]


def make_noise(rng: np.random.Generator, size: int, cells: tuple[int, int] = (4, 4), octaves: int = 5) -> Floats:
    """(size, size) smooth noise of about -1..1: octaves of random grids, each twice as fine and half as strong."""
    half = size // 2
    total = np.zeros((half, half), np.float32)
    for octave in range(octaves):
        rows, cols = (min(half, n << octave) for n in cells)
        grid = Image.fromarray(rng.standard_normal((rows, cols), np.float32) * np.float32(0.6 * 0.5**octave))
        total += np.asarray(grid.resize((half, half), Image.Resampling.BICUBIC))
    return np.asarray(Image.fromarray(total).resize((size, size), Image.Resampling.BILINEAR))


def _tint(rng: np.random.Generator, *choices: Colour, amount: float = 9) -> Floats:
    """One of the colours, a little off, as (3,) in 0..255."""
    return (np.asarray(choices[rng.integers(len(choices))]) + rng.normal(0, amount, 3)).clip(0, 255).astype(np.float32)


def to_fill(rgb: Floats) -> Colour:
    """A colour (3,) in 0..255 as Pillow's drawing takes it."""
    r, g, b = (int(min(max(v, 0.0), 255.0)) for v in rgb.tolist())
    return r, g, b


def _make_image(rgb: Iterable[Floats | np.floating], tone: Floats) -> Image.Image:
    """The three colour planes (or numbers) times a tone (H, W) as a picture."""
    return Image.merge("RGB", [Image.fromarray((plane * tone).clip(0, 255).astype(np.uint8)) for plane in rgb])


def _draw_dome(draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], rgb: Floats, steps: int) -> None:
    """An ellipse lit from the upper left, as ever smaller and brighter ellipses."""
    left, top, right, bottom = box
    for step in range(steps):
        k = step / steps
        dx, dy = (right - left) / 2 * k, (bottom - top) / 2 * k
        inner = (left + dx * 0.6, top + dy * 0.6, right - dx * 1.4, bottom - dy * 1.4)
        draw.ellipse(inner, fill=to_fill(rgb * (0.6 + 0.6 * k)))


def _paint_grass(rng: np.random.Generator, size: int) -> Image.Image:
    base = _tint(rng, (40, 62, 26), (48, 58, 28))
    image = _make_image(base, 1 + 0.3 * make_noise(rng, size))
    draw = ImageDraw.Draw(image)
    green = _tint(rng, (96, 140, 52), (120, 140, 60), (80, 130, 66))
    count = 420
    for k in range(count):
        x, y = rng.uniform(-0.05, 1.05) * size, size * (0.05 + 1.15 * k / count)
        lean, height, width = (
            rng.normal(0, 0.10) * size,
            rng.uniform(0.12, 0.26) * size,
            rng.uniform(0.006, 0.013) * size,
        )
        middle = (x + lean * 0.35, y - height * 0.55)
        blade = [(x - width, y), (middle[0] - width * 0.8, middle[1]), (x + lean, y - height)]
        blade += [(middle[0] + width * 0.8, middle[1]), (x + width, y)]
        draw.polygon(blade, fill=to_fill(green * rng.uniform(0.45, 1.1)))
        draw.line([(x, y), middle, (x + lean, y - height)], fill=to_fill(green * rng.uniform(0.6, 1.25)))
    return image


def _paint_soil(rng: np.random.Generator, size: int) -> Image.Image:
    base = _tint(rng, (112, 88, 66), (128, 118, 104), (150, 132, 104))
    image = _make_image(base, 1 + 0.28 * make_noise(rng, size, (8, 8)))
    draw = ImageDraw.Draw(image)
    for _ in range(240):
        x, y = rng.uniform(0, size, 2)
        rx = size * rng.uniform(0.006, 0.028)
        ry = rx * rng.uniform(0.6, 1.0)
        draw.ellipse((x - rx * 0.8, y - ry * 0.7, x + rx * 1.3, y + ry * 1.35), fill=to_fill(base * 0.45))
        _draw_dome(draw, (x - rx, y - ry, x + rx, y + ry), base * rng.uniform(0.75, 1.25), 4)
    return image


def _paint_brick(rng: np.random.Generator, size: int) -> Image.Image:
    brick = _tint(rng, (150, 84, 66), (168, 128, 100), (132, 126, 122))
    image = Image.new("RGB", (size, size), to_fill(_tint(rng, (178, 170, 158), (120, 112, 104))))
    draw = ImageDraw.Draw(image)
    height, gap = size * rng.uniform(0.07, 0.12), max(2.0, size * 0.009)
    width = height * 2.3
    for row in range(int(size / height) + 2):
        shift = rng.uniform(-0.03, 0.03) * width - (row % 2) * width / 2
        for col in range(int(size / width) + 3):
            x, y, rgb = col * width + shift - width / 2, row * height, brick * rng.normal(1, 0.10)
            draw.rectangle((x, y, x + width - gap, y + height - gap), fill=to_fill(rgb * 0.72))
            draw.rectangle((x, y, x + width - 1.7 * gap, y + height - 1.7 * gap), fill=to_fill(rgb))
            draw.line((x, y, x + width - 1.7 * gap, y), fill=to_fill(rgb * 1.2), width=2)
    grain = 1 + 0.10 * make_noise(rng, size, (6, 6), 6)
    return _make_image([np.asarray(band, np.float32) for band in image.split()], grain)


def _paint_wood(rng: np.random.Generator, size: int) -> Image.Image:
    base = _tint(rng, (150, 110, 72), (112, 82, 58), (166, 150, 130))
    rings = make_noise(rng, size, (2, 10), 4) * 9 + np.linspace(0, 60, size, dtype=np.float32)[None]
    light = 1 + 0.09 * np.sin(rings) + 0.12 * make_noise(rng, size, (2, 48), 3)
    plank = size / int(rng.integers(4, 8))
    place = np.arange(size) / plank
    tone = rng.normal(1, 0.09, int(place.max()) + 1)[place.astype(int)]
    seam = 1 - 0.65 * np.exp(-np.square((place - np.round(place)) * plank / (0.006 * size)))
    image = _make_image(base, light * (tone * seam).astype(np.float32)[None])
    return image.transpose(Image.Transpose.ROTATE_90) if rng.random() < 0.5 else image


def _paint_bokeh(rng: np.random.Generator, size: int) -> Image.Image:
    base = _tint(rng, (56, 84, 46), (70, 92, 62), (92, 84, 60), (64, 84, 92))
    small = size // 2
    image = _make_image(base, 1 + 0.45 * make_noise(rng, small, (3, 3), 3))
    for _ in range(int(rng.integers(14, 30))):
        x, y = rng.uniform(0, small, 2)
        r = small * rng.uniform(0.03, 0.11)
        disc = Image.new("L", image.size, 0)
        ImageDraw.Draw(disc).ellipse((x - r, y - r, x + r, y + r), fill=int(rng.integers(30, 90)))
        image.paste(to_fill(base * rng.uniform(1.2, 2.2) + 25), (0, 0), disc)
    return image.filter(ImageFilter.GaussianBlur(small * 0.008)).resize((size, size), Image.Resampling.BICUBIC)


def _paint_sky(rng: np.random.Generator, size: int) -> Image.Image:
    high, low = _tint(rng, (84, 138, 204), (110, 150, 196)), _tint(rng, (196, 216, 232), (232, 212, 196))
    share = np.linspace(0, 1, size, dtype=np.float32)[:, None]
    cloud = np.clip(make_noise(rng, size, (3, 2), 6) * 0.9 + rng.uniform(-0.2, 0.2), 0, 0.9)
    hill = size * (rng.uniform(0.72, 1.05) + 0.06 * make_noise(rng, size, (1, 3), 3)[0])
    rows = np.arange(size, dtype=np.float32)[:, None]
    sky = [(top + share * (bottom - top)) * (1 - cloud) + 246 * cloud for top, bottom in zip(high, low, strict=True)]
    image = _make_image(sky, np.ones_like(share))
    meadow = _make_image(_tint(rng, (92, 124, 66), (120, 128, 74)), 1 + 0.2 * make_noise(rng, size, (24, 6), 3))
    image.paste(meadow, (0, 0), Image.fromarray(rows > hill))
    return image


BACKDROPS: dict[str, Callable[[np.random.Generator, int], Image.Image]] = {
    "grass": _paint_grass,
    "soil": _paint_soil,
    "brick": _paint_brick,
    "wood": _paint_wood,
    "bokeh": _paint_bokeh,
    "sky": _paint_sky,
}


def _draw_stone(draw: ImageDraw.ImageDraw, size: float, rng: np.random.Generator) -> None:
    rgb = _tint(rng, (140, 138, 134), (120, 108, 96))
    _draw_dome(draw, (0.08 * size, 0.22 * size, 0.92 * size, 0.8 * size), rgb, 14)


def _draw_ball(draw: ImageDraw.ImageDraw, size: float, rng: np.random.Generator) -> None:
    rgb = _tint(rng, (206, 52, 44), (54, 98, 186), (236, 196, 44), (240, 240, 236), (214, 108, 160), (232, 124, 36))
    _draw_dome(draw, (0.08 * size, 0.08 * size, 0.92 * size, 0.92 * size), rgb, 24)


def _draw_leaf(draw: ImageDraw.ImageDraw, size: float, rng: np.random.Generator) -> None:
    rgb = _tint(rng, (78, 118, 48), (176, 96, 34), (196, 150, 46), (126, 60, 36))
    u = np.linspace(0, 1, 24)
    half = 0.24 * size * np.sin(np.pi * u**0.8) ** 0.8
    x = size * (0.06 + 0.88 * u)
    upper, lower = size / 2 - half, size / 2 + half
    draw.polygon([*zip(x, upper, strict=True), *zip(x[::-1], lower[::-1], strict=True)], fill=to_fill(rgb))
    draw.polygon([*zip(x, upper, strict=True), (0.94 * size, size / 2)], fill=to_fill(rgb * 1.15))
    for k in range(3, 21, 3):
        for edge in (upper, lower):
            draw.line((x[k], size / 2, x[k + 2], (edge[k + 2] + size / 2) / 2), fill=to_fill(rgb * 0.75), width=2)
    draw.line((0, size / 2, 0.94 * size, size / 2), fill=to_fill(rgb * 0.65), width=max(2, int(size / 50)))


def _draw_mug(draw: ImageDraw.ImageDraw, size: float, rng: np.random.Generator) -> None:
    rgb = _tint(rng, (226, 222, 212), (70, 112, 150), (188, 70, 56), (90, 132, 104), (220, 170, 70))
    left, right, top, bottom = 0.14 * size, 0.70 * size, 0.2 * size, 0.86 * size
    draw.ellipse(
        (0.55 * size, 0.34 * size, 0.94 * size, 0.72 * size), outline=to_fill(rgb * 0.8), width=int(0.075 * size)
    )
    for k in range(28):
        x = left + (right - left) * k / 28
        light = 0.7 + 0.4 * np.sin(np.pi * (0.15 + 0.75 * k / 28))
        sag = 0.05 * size * np.sin(np.pi * k / 28)
        draw.rectangle((x, top, x + (right - left) / 28 + 1, bottom + sag), fill=to_fill(rgb * light))
    draw.ellipse((left, top - 0.07 * size, right + 1, top + 0.07 * size), fill=to_fill(rgb * 1.12))
    rim = 0.03 * size
    draw.ellipse((left + rim, top - 0.045 * size, right - rim, top + 0.055 * size), fill=to_fill(rgb * 0.45))


def _draw_butterfly(draw: ImageDraw.ImageDraw, size: float, rng: np.random.Generator) -> None:
    rgb = _tint(rng, (228, 132, 36), (88, 132, 206), (236, 232, 214), (232, 206, 84))
    dark = (44, 34, 28)
    fore = ((0.50, 0.46), (0.62, 0.24), (0.80, 0.10), (0.96, 0.12), (0.95, 0.30), (0.84, 0.46), (0.66, 0.54))
    hind = ((0.50, 0.50), (0.72, 0.52), (0.86, 0.62), (0.84, 0.78), (0.72, 0.88), (0.60, 0.80), (0.53, 0.64))
    for wing in (hind, fore):
        middle = np.mean(wing, axis=0)
        for scale, colour in ((1.0, rgb * 0.28), (0.80, rgb), (0.45, rgb * 1.2)):
            for side in (-1, 1):
                points = middle + scale * (np.array(wing) - middle)
                draw.polygon([(size * (0.5 + side * (x - 0.5)), size * y) for x, y in points], fill=to_fill(colour))
    draw.ellipse((0.465 * size, 0.24 * size, 0.535 * size, 0.8 * size), fill=dark)
    for side in (-1, 1):
        draw.line((size / 2, 0.27 * size, size * (0.5 + 0.12 * side), 0.06 * size), fill=dark, width=2)


PROPS: dict[str, Callable[[ImageDraw.ImageDraw, float, np.random.Generator], None]] = {
    "stone": _draw_stone,
    "ball": _draw_ball,
    "leaf": _draw_leaf,
    "mug": _draw_mug,
    "butterfly": _draw_butterfly,
}
_LYING = ("leaf", "butterfly")  # may be anywhere and turned any way; the others stand on the ground


def make_prop(name: str, rng: np.random.Generator, size: int) -> Image.Image:
    """(size, size) RGBA picture of one thing with smooth edges."""
    image = Image.new("RGBA", (2 * size, 2 * size), (0, 0, 0, 0))
    PROPS[name](ImageDraw.Draw(image), 2.0 * size, rng)
    spread = 180 if name in _LYING else 8
    return image.rotate(rng.uniform(-spread, spread), Image.Resampling.BICUBIC).reduce(2)


def _draw_fence(image: Image.Image, rng: np.random.Generator) -> None:
    size = image.width
    rgb = _tint(rng, (226, 222, 212), (146, 112, 80), (120, 118, 112))
    draw = ImageDraw.Draw(image)
    top, gap = size * rng.uniform(0.15, 0.5), size * rng.uniform(0.13, 0.2)
    for rail in (0.2, 0.55):
        y = top + rail * (size - top)
        draw.rectangle((0, y, size, y + 0.035 * size), fill=to_fill(rgb * 0.8))
    for x in np.arange(rng.uniform(-gap, 0), size, gap):
        half, tone = 0.27 * gap, rgb * rng.uniform(0.9, 1.05)
        picket = [(x, size), (x, top), (x + half, top - half), (x + 2 * half, top), (x + 2 * half, size)]
        draw.polygon([(px + 0.012 * size, py + 0.012 * size) for px, py in picket], fill=to_fill(rgb * 0.35))
        draw.polygon(picket, fill=to_fill(tone))
        draw.line(picket[:3], fill=to_fill(tone * 1.12), width=2)


def paste_with_shadow(
    image: Image.Image, prop: Image.Image, corner: tuple[int, int], shift: tuple[int, int], blur_px: float
) -> None:
    """Put a thing on the picture, its soft shadow first, `shift` pixels away."""
    cast_shadow(image, prop.getchannel("A"), corner, shift, blur_px)
    image.paste(prop, corner, prop)


def cast_shadow(
    image: Image.Image, cover: Image.Image, corner: tuple[int, int], shift: tuple[int, int], blur_px: float
) -> None:
    """Darken the picture under a shape (L, at `corner`), blurred at a quarter of the size, for speed."""
    margin = int(3 * blur_px) + 4
    wide = Image.new("L", (cover.width + 2 * margin, cover.height + 2 * margin), 0)
    wide.paste(cover, (margin, margin))
    soft = wide.reduce(4).filter(ImageFilter.GaussianBlur(blur_px / 4)).point(lambda v: v // 2)
    at = (corner[0] - margin + shift[0], corner[1] - margin + shift[1])
    image.paste((14, 16, 18), at, soft.resize(wide.size, Image.Resampling.BILINEAR))


def paint_surroundings(rng: np.random.Generator, size: int, light: tuple[float, float]) -> Image.Image:
    """(size, size) RGB background with none to three things in it, softly out of focus.

    `light` is the unit vector that points to the light; shadows fall away from it.
    """
    image = BACKDROPS[list(BACKDROPS)[rng.integers(len(BACKDROPS))]](rng, size)
    if rng.random() < 0.15:
        _draw_fence(image, rng)
    for _ in range(int(rng.integers(0, 4))):
        name = list(PROPS)[rng.integers(len(PROPS))]
        prop = make_prop(name, rng, int(size * rng.uniform(0.08, 0.24)))
        highest = -0.05 if name in _LYING else 0.45
        corner = (int(rng.uniform(-0.05, 0.9) * size), int(rng.uniform(highest, 0.9) * size))
        shift = (round(-light[0] * 0.02 * size), round(-light[1] * 0.02 * size))
        paste_with_shadow(image, prop, corner, shift, 0.05 * prop.width)
    return image.filter(ImageFilter.BoxBlur(size * rng.uniform(0.0, 0.009)))
