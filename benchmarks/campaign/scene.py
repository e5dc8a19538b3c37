"""What all parts of the campaign work with: a few drawn photos, a tiny network, and a run trained on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from campaign.process import Room, in_fork, run

CLASSES = ("circle", "square", "triangle")
SIDE_PX = 64
ARCHITECTURE = "test_resnet"


@dataclass(frozen=True)
class Scene:
    """Where things lie; all of it is to be read only."""

    root: Path

    @property
    def photos(self) -> Path:
        """Class folders."""
        return self.root / "photos"

    @property
    def weights(self) -> Path:
        """Of the backbone, random."""
        return self.root / "weights.safetensors"

    @property
    def run(self) -> Path:
        """A finished training."""
        return self.root / "room" / "work" / "run"

    @property
    def cache(self) -> Path:
        """With the features of the photos and the graph of the run."""
        return self.root / "room" / "cache"

    def train_words(self, photos: Path, out: str, *more: object) -> list[object]:
        """The command that trains on a folder in a second or two."""
        own = ["--weights", self.weights, "--image-size", 64, "--epochs", 3]
        return ["train", photos, "-o", out, "--backbone", ARCHITECTURE, *own, *more]


def make_scene(root: Path) -> Scene:
    """Draws, trains and exports.

    Raises:
        SystemExit: the undisturbed commands fail.
    """
    scene = Scene(root)
    draw_from = np.random.default_rng(0)
    for name in CLASSES:
        (scene.photos / name).mkdir(parents=True)
        for index in range(8):
            draw_photo(name, draw_from).save(scene.photos / name / f"{index:02}.jpg", quality=92)
    in_fork(_Weights(scene.weights))
    room = Room(root / "room").make()
    for words in (
        scene.train_words(scene.photos, "run"),
        ["explain", scene.run, scene.photos, "-o", "first", "--engine", "onnx"],
    ):
        end = run(words, room)
        if end.code:
            raise SystemExit(f"The undisturbed command fails: {words}\n{end.err}")
    return scene


@dataclass(frozen=True)
class _Weights:
    """Writes seeded random weights."""

    path: Path

    def __call__(self) -> None:
        import torch  # noqa: PLC0415 - imported already, by `ready`
        from safetensors.torch import save_file  # noqa: PLC0415

        from whycam.model.backbone import create_backbone  # noqa: PLC0415

        torch.manual_seed(0)
        save_file(create_backbone(ARCHITECTURE, image_size=64).module.state_dict(), self.path)
        self.path.chmod(0o644)


def draw_photo(name: str, draw_from: np.random.Generator, size: tuple[int, int] = (SIDE_PX, SIDE_PX)) -> Image.Image:
    """A coloured shape on noise."""
    width, height = size
    photo = Image.fromarray(draw_from.integers(0, 110, (height, width, 3), dtype=np.uint8))
    side = int(draw_from.integers(min(size) // 3, min(size) * 2 // 3))
    x, y = int(draw_from.integers(0, width - side)), int(draw_from.integers(0, height - side))
    color = tuple(int(v) for v in draw_from.integers(150, 256, 3))
    pen = ImageDraw.Draw(photo)
    if name == "circle":
        pen.ellipse((x, y, x + side, y + side), fill=color)
    elif name == "square":
        pen.rectangle((x, y, x + side, y + side), fill=color)
    else:
        pen.polygon([(x + side / 2, y), (x, y + side), (x + side, y + side)], fill=color)
    return photo
