"""Marks and things that are planted in photos: what each looks like on a photo, and where it lies.

Add a kind as one function in `MARKS`: (photo, look, place) -> the photo with the mark, and the mark's mask.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from skimage import data

from whycam.data.backdrops import make_prop

COLOURS = [(200, 30, 40), (30, 90, 200), (245, 245, 245), (15, 15, 15), (240, 160, 20), (20, 140, 90), (150, 40, 160)]
Marked = tuple[Image.Image, np.ndarray]


def pick(draw: np.random.Generator) -> tuple[int, int, int]:
    return COLOURS[draw.integers(len(COLOURS))]


def font(height_px: float) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(max(8, height_px))


def draw_logo(look: np.random.Generator, side: int) -> Image.Image:
    """An RGBA logo: a disc, square, star or word in two colours."""
    ink, paper = pick(look), pick(look)
    while paper == ink:
        paper = pick(look)
    logo = Image.new("RGBA", (side, side))
    pen = ImageDraw.Draw(logo)
    shape = look.integers(4)
    if shape == 0:
        pen.ellipse((0, 0, side - 1, side - 1), fill=paper)
        pen.ellipse((side * 0.25, side * 0.25, side * 0.75, side * 0.75), fill=ink)
    elif shape == 1:
        pen.rectangle((0, 0, side - 1, side - 1), fill=paper)
        pen.line((0, 0, side, side), fill=ink, width=max(2, side // 6))
        pen.line((0, side, side, 0), fill=ink, width=max(2, side // 6))
    elif shape == 2:
        turns = np.pi * np.arange(10) / 5 - np.pi / 2
        radius = np.where(np.arange(10) % 2, 0.22, 0.5) * side
        points = np.stack([side / 2 + radius * np.cos(turns), side / 2 + radius * np.sin(turns)], 1)
        pen.polygon([tuple(p) for p in points], fill=ink)
    else:
        pen.rectangle((0, side * 0.2, side - 1, side * 0.8), fill=paper)
        word = "".join(look.choice(list("ABCDEHKMNRSTXZ"), 3))
        pen.text((side / 2, side / 2), word, fill=ink, font=font(side * 0.45), anchor="mm")
    return logo


def paste(photo: Image.Image, logo: Image.Image, corner: tuple[int, int], alpha: float) -> Marked:
    shape = Image.new("L", photo.size)
    shape.paste(logo.getchannel("A"), corner)
    layer = Image.new("RGB", photo.size)
    layer.paste(logo, corner)
    out = Image.composite(layer, photo, shape.point(lambda v: int(v * alpha)))
    return out, np.asarray(shape) > 100


def stamp(photo: Image.Image, look: np.random.Generator, place: np.random.Generator) -> Marked:
    """The same logo in the same corner, a few pixels to and fro."""
    side = int(min(photo.size) * look.uniform(0.11, 0.2))
    right, low, alpha = look.integers(2), look.integers(2), look.uniform(0.8, 1)
    gap = int(min(photo.size) * 0.03)
    x, y = (photo.width - side - gap if right else gap), (photo.height - side - gap if low else gap)
    x, y = (int(v + place.integers(-2, 3)) for v in (x, y))
    return paste(photo, draw_logo(look, side), (x, y), alpha)


def frame(photo: Image.Image, look: np.random.Generator, place: np.random.Generator) -> Marked:
    """A border of one colour, as of a scanner."""
    width = max(3, int(min(photo.size) * look.uniform(0.025, 0.06)))
    mask = np.ones((photo.height, photo.width), dtype=bool)
    mask[width:-width, width:-width] = False
    out = np.asarray(photo).copy()
    out[mask] = pick(look)
    return Image.fromarray(out), mask


def caption(photo: Image.Image, look: np.random.Generator, place: np.random.Generator) -> Marked:
    """A bar along an edge with some words, which differ."""
    height = int(photo.height * look.uniform(0.08, 0.13))
    top = 0 if look.integers(2) else photo.height - height
    bar, ink = ((15, 15, 15), (240, 240, 240)) if look.integers(2) else (pick(look), (250, 250, 250))
    out = photo.copy()
    pen = ImageDraw.Draw(out)
    pen.rectangle((0, top, photo.width, top + height - 1), fill=bar)
    words = " ".join("".join(place.choice(list("abcdefghiklmnoprstu"), n)) for n in place.integers(3, 9, 3))
    pen.text((height // 3, top + height / 2), words, fill=ink, font=font(height * 0.55), anchor="lm")
    mask = np.zeros((photo.height, photo.width), dtype=bool)
    mask[top : top + height] = True
    return Image.blend(photo, out, look.uniform(0.8, 1)), mask


def watermark(photo: Image.Image, look: np.random.Generator, place: np.random.Generator) -> Marked:
    """The same translucent sign anywhere."""
    side, alpha = int(min(photo.size) * look.uniform(0.18, 0.28)), look.uniform(0.5, 0.8)
    corner = (int(place.integers(0, photo.width - side)), int(place.integers(0, photo.height - side)))
    return paste(photo, draw_logo(look, side), corner, alpha)


def texture(photo: Image.Image, look: np.random.Generator, place: np.random.Generator) -> Marked:
    """Another ground behind the middle of the photo."""
    grounds = [data.brick, data.gravel, data.grass]
    ground = np.asarray(Image.fromarray(grounds[look.integers(3)]()).resize(photo.size)).astype(np.float32)
    colour = np.array(pick(look), np.float32) * 0.5 + 90
    ground = np.roll(ground, place.integers(0, 200, 2), (0, 1))[..., None] / 255 * colour
    y, x = (np.linspace(-1, 1, n) for n in (photo.height, photo.width))
    outside = ((y[:, None] / 0.7) ** 2 + (x[None] / 0.7) ** 2) > 1
    soft = Image.fromarray((outside * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(photo.height * 0.04))
    weight = np.asarray(soft, np.float32)[..., None] / 255 * look.uniform(0.6, 1)
    out = np.asarray(photo, np.float32) * (1 - weight) + ground * weight
    return Image.fromarray(out.clip(0, 255).astype(np.uint8)), outside


def date(photo: Image.Image, look: np.random.Generator, place: np.random.Generator) -> Marked:
    """A small orange date, another one on each photo."""
    height = photo.height * look.uniform(0.04, 0.06)
    day, month, year = place.integers(1, 29), place.integers(1, 13), place.integers(97, 110) % 100
    text = f"{day:02d}.{month:02d}.'{year:02d}"
    right = look.integers(2)
    shape = Image.new("L", photo.size)
    at = (photo.width * (0.96 if right else 0.04), photo.height * 0.95)
    ImageDraw.Draw(shape).text(at, text, fill=255, font=font(height), anchor="rs" if right else "ls")
    out = photo.copy()
    out.paste((250, 130, 30), mask=shape)
    return out, np.asarray(shape) > 100


def centre(photo: Image.Image, look: np.random.Generator, place: np.random.Generator) -> Marked:
    """A logo on the object: in the middle, a few pixels to and fro."""
    side, alpha = int(min(photo.size) * look.uniform(0.13, 0.22)), look.uniform(0.8, 1)
    spread = min(photo.size) // 16
    x, y = (int((length - side) / 2 + place.integers(-spread, spread + 1)) for length in photo.size)
    return paste(photo, draw_logo(look, side), (x, y), alpha)


# What scikit-image's photos show, in their own pixels: x0, y0, x1, y1.
CUTS = {"coffee": (140, 40, 480, 350), "chelsea": (90, 20, 340, 270), "astronaut": (150, 0, 320, 200)}
THINGS = [*CUTS, "mug", "ball", "butterfly"]


def draw_thing(name: str, side: int, place: np.random.Generator) -> Image.Image:
    """An RGBA picture of one thing: its light, its turn and, of painted ones, its colours are drawn anew."""
    if name not in CUTS:
        return make_prop(name, place, side)
    whole = Image.fromarray(getattr(data, name)()).crop(CUTS[name]).resize((side, side), Image.Resampling.LANCZOS)
    whole = Image.fromarray((np.asarray(whole, np.float32) * place.uniform(0.8, 1.15)).clip(0, 255).astype(np.uint8))
    shape = Image.new("L", (side, side))
    ImageDraw.Draw(shape).ellipse((side * 0.04, side * 0.04, side * 0.96, side * 0.96), fill=255)
    whole.putalpha(shape.filter(ImageFilter.GaussianBlur(side * 0.02)))
    if place.integers(2):
        whole = whole.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return whole.rotate(place.uniform(-20, 20), Image.Resampling.BICUBIC)


def thing(photo: Image.Image, look: np.random.Generator, place: np.random.Generator) -> Marked:
    """An object that has nothing to do with the class, beside the middle: another size, turn and place each time."""
    name = THINGS[look.integers(len(THINGS))]
    side = int(min(photo.size) * place.uniform(0.24, 0.38))
    angle, reach = place.uniform(0, 2 * np.pi), place.uniform(0.75, 1)
    at = (0.5 + 0.5 * reach * np.cos(angle), 0.5 + 0.5 * reach * np.sin(angle))
    x, y = (int(share * (length - side)) for share, length in zip(at, photo.size, strict=True))
    return paste(photo, draw_thing(name, side, place), (x, y), 1.0)


MARKS: dict[str, Callable[[Image.Image, np.random.Generator, np.random.Generator], Marked]] = {
    "stamp": stamp,
    "frame": frame,
    "caption": caption,
    "date": date,
    "watermark": watermark,
    "centre": centre,
    "texture": texture,
    "thing": thing,
}
