"""A handful of real photos that are on every machine which has whycam: scikit-image brings them."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from whycam.data.images import load_image
from whycam.data.preprocess import Preprocess

# File in scikit-image -> what is on it.
_PHOTOS = {
    "chelsea.png": "cat",
    "coffee.png": "espresso",
    "camera.png": "photographer",
    "motorcycle_left.png": "motorcycle",
    "rocket.jpg": "rocket",
    "grass.png": "grass",
    "gravel.png": "gravel",
    "brick.png": "brick",
}


def write_samples(folder: Path) -> list[Path]:
    """Copies the photos into a folder under plain names and returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    source = resources.files("skimage") / "data"
    paths = []
    for file, word in _PHOTOS.items():
        path = folder / f"{word}{Path(file).suffix}"
        path.write_bytes((source / file).read_bytes())
        paths.append(path)
    return paths


def load_samples(count: int) -> list[Image.Image]:
    """The first of the photos, upright RGB, from where they are installed."""
    with resources.as_file(resources.files("skimage") / "data") as folder:
        return [load_image(folder / file) for file in list(_PHOTOS)[:count]]


def make_probe(preprocess: Preprocess) -> np.ndarray:
    """(2, 3, H, W) uint8: an installed photo and noise, as a network is measured with: neither leaves it unmoved."""
    photo = preprocess.to_pixels(load_samples(1)[0])
    noise = np.random.default_rng(0).integers(0, 256, photo.shape, dtype=np.uint8)
    return np.stack([photo, noise])
