"""Garden scenes whose attributes are drawn one by one and known, so that a blind spot is a combination of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
from PIL import Image

from whycam.data import backdrops, garden
from whycam.data.flowers import KINDS

PROPS = ("stone", "ball", "mug", "butterfly")
# Attribute -> value -> how often it is drawn, independently of all others and of the flower.
ATTRIBUTES: Mapping[str, Mapping[str, float]] = {
    "ground": dict.fromkeys(backdrops.BACKDROPS, 1 / len(backdrops.BACKDROPS)),
    "fence": {"yes": 0.25, "no": 0.75},
    "thing": {"none": 0.4, **dict.fromkeys(PROPS, 0.15)},
    "heads": {"one": 0.5, "several": 0.5},
    "light": {"day": 0.6, "dusk": 0.2, "evening sun": 0.2},
}
_LIGHTS = {"day": (1.0, 1.0, 1.0), "dusk": (0.38, 0.42, 0.55), "evening sun": (1.25, 0.9, 0.5)}
_MOST_COVERED = 0.12
Scene = dict[str, str]


def draw_attributes(draw: np.random.Generator) -> Scene:
    return {name: str(draw.choice(list(of), p=list(of.values()))) for name, of in ATTRIBUTES.items()}


def list_spots(least: float, most: float) -> list[Scene]:
    """All combinations of one or two attributes that so large a share of the scenes has."""
    spots = []
    for count in (1, 2):
        for names in itertools.combinations(ATTRIBUTES, count):
            for values in itertools.product(*(ATTRIBUTES[name] for name in names)):
                share = np.prod([ATTRIBUTES[name][value] for name, value in zip(names, values, strict=True)])
                if least <= share <= most and "none" not in values and "no" not in values:
                    spots.append(dict(zip(names, values, strict=True)))
    return spots


def make_scene(flower: str, seed: int, size_px: int) -> tuple[Image.Image, Scene]:
    """A picture and its attributes, always the same for a flower and a seed."""
    surroundings, plants, front, camera, what = np.random.default_rng([17, seed, *flower.encode()]).spawn(5)
    scene = draw_attributes(what)
    size = 2 * size_px
    angle = surroundings.uniform(-0.85, -0.55) * np.pi
    image = backdrops.BACKDROPS[scene["ground"]](surroundings, size)
    if scene["fence"] == "yes":
        backdrops._draw_fence(image, surroundings)
    light = (float(np.cos(angle)), float(np.sin(angle)))
    canvas = garden._Canvas(image, np.zeros((size, size), np.float32), light)
    while True:
        # The number of heads is the first that a garden's generator draws: of the generators the first that fits.
        start = int(plants.integers(2**32))
        count = int(np.random.default_rng(start).choice([1, 2, 3], p=[0.5, 0.3, 0.2]))
        if (count == 1) == (scene["heads"] == "one"):
            break
    garden._plant(canvas, KINDS[flower], np.random.default_rng(start), has_heads=True)
    if scene["thing"] != "none":
        _put(canvas, scene["thing"], front)
    photo = np.asarray(garden._expose(canvas, size_px, camera), np.float32) * np.array(_LIGHTS[scene["light"]])
    return Image.fromarray(photo.clip(0, 255).astype(np.uint8)), scene


def _put(canvas: garden._Canvas, name: str, draw: np.random.Generator) -> None:
    """A thing in front, where it hides little of the flowers: of twelve places the first that does, or the best."""
    prop = backdrops.make_prop(name, draw, int(canvas.size * draw.uniform(0.24, 0.34)))
    hidden = {}
    for _ in range(12):
        corner = (int(draw.uniform(0, 0.7) * canvas.size), int(draw.uniform(0, 0.7) * canvas.size))
        whole = Image.new("L", canvas.image.size, 0)
        whole.paste(prop.getchannel("A"), corner)
        hidden[corner] = float((canvas.cover * (np.asarray(whole, np.float32) / 255)).sum() / canvas.cover.sum())
        if hidden[corner] <= _MOST_COVERED:
            break
    corner = min(hidden, key=lambda one: hidden[one])
    shift = canvas.shift_shadow(0.012 * canvas.size)
    backdrops.paste_with_shadow(canvas.image, prop, corner, shift, 0.05 * prop.width)
