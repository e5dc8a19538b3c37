"""Photos with faults of which the truth is known: wrong labels, a logo on one class, another one saved badly."""

from __future__ import annotations

import io
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from cure_features import Features
from cure_kinds import draw_logo
from PIL import Image

from whycam.data.folder import read_folder
from whycam.data.images import content_hash, load_image
from whycam.model.gap import load_classifier

# Share of the photos whose label is wrong, and the quality that one class is saved in.
WRONG, QUALITY, GOOD = 0.05, 12, 95


def squeeze(photo: Image.Image) -> Image.Image:
    """The photo as a poor JPEG shows it."""
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=QUALITY)
    return Image.open(file).convert("RGB")


# What photos are measured with: as they are, and with what is planted, on every class.
FORMS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "plain": lambda photo: photo,
    "logo": draw_logo,
    "squeezed": squeeze,
}


@dataclass(frozen=True)
class Case:
    """Photos to train on, and what is wrong with them.

    Attributes:
        folder: CLASS/photo.jpg, with the faults.
        clean: the same photos under the same names without them.
        marked: the class with a logo.
        squeezed: the class that is saved badly.
        truth: content hash -> class.
        classes: K names.
    """

    folder: Path
    clean: Path
    marked: str
    squeezed: str
    truth: Mapping[str, str]
    classes: tuple[str, ...]


def make_case(photos: Path, work: Path, seed: int) -> Case:
    """Writes the photos of a case; `photos` has train/CLASS/photo."""
    source = read_folder(photos)
    classes = source.class_names
    marked, squeezed = classes[seed % len(classes)], classes[(seed + 2) % len(classes)]
    draw = random.Random(seed)
    wrong = set(draw.sample(range(len(source.train)), round(WRONG * len(source.train))))
    folder, clean, truth = work / "photos", work / "clean", {}
    for place in (folder, clean):
        shutil.rmtree(place, ignore_errors=True)
    for row, sample in enumerate(source.train):
        name = classes[sample.label]
        told = draw.choice([one for one in classes if one != name]) if row in wrong else name
        photo = load_image(sample.path)
        # Where the same photos are clean they have the same names, and so the same split.
        _save(photo, clean / name / f"{sample.path.stem}.jpg", GOOD)
        photo = draw_logo(photo) if name == marked else photo
        to = folder / told / f"{sample.path.stem}.jpg"
        _save(photo, to, QUALITY if name == squeezed else GOOD)
        truth[content_hash(to)] = name
    return Case(folder, clean, marked, squeezed, truth, classes)


def _save(photo: Image.Image, to: Path, quality: int) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    photo.save(to, quality=quality)


class Judge:
    """Measures models on photos that nobody trained on, in every form: what is planted tells no class there."""

    def __init__(self, photos: Path, features: Features) -> None:
        samples = read_folder(photos).val
        self.labels = torch.tensor([sample.label for sample in samples])
        images = [load_image(sample.path) for sample in samples]
        self.values = {name: features.of_images(map(form, images)) for name, form in FORMS.items()}

    def measure(self, model: Path) -> dict[str, float]:
        """Accuracy over all photos and forms, and of the worst class in any form."""
        layer = load_classifier(model).classifier
        right = {}
        with torch.no_grad():
            for name, values in self.values.items():
                right[name] = (layer(values).argmax(dim=1) == self.labels).float()
        each = [float(r[self.labels == k].mean()) for r in right.values() for k in self.labels.unique()]
        return {
            "accuracy": float(torch.cat(list(right.values())).mean()),
            "worst": min(each),
            **{name: float(values.mean()) for name, values in right.items()},
        }
