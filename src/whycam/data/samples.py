"""A handful of real photos that are on every machine which has whycam: scikit-image brings them."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from PIL import Image

from whycam.data.images import load_image

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
