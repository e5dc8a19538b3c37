"""Trainings that are repeated with many seeds: heads on a frozen network's features, and small networks in whole.

Add a training as one function in `TRAININGS`: (photos, seed) -> the trained network.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from cure_features import Features

from whycam.config import make_train_options
from whycam.data.folder import PhotoFolder, Sample
from whycam.data.images import load_image
from whycam.model.backbone import make_backbone
from whycam.model.gap import GapClassifier
from whycam.model.input import normalise_on
from whycam.train.features import FeatureStore, Stores
from whycam.train.phases import train_head
from whycam.train.work import Work

SMALL_PX, SMALL_EPOCHS, DRAWN = 64, 5, 100


@dataclass(frozen=True)
class Photos:
    """Class folders, and what trainings on them share.

    Attributes:
        root: has train/CLASS/photo.
        features: of the frozen default network, kept on disk.
        work: a folder for what a training writes.
    """

    root: Path
    features: Features
    work: Path

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(sorted(path.name for path in (self.root / "train").iterdir()))

    @cached_property
    def train(self) -> list[Sample]:
        """The photos to train on."""
        return self._list("train")

    @cached_property
    def val(self) -> list[Sample]:
        """Those held out."""
        return self._list("val")

    def _list(self, split: str) -> list[Sample]:
        paths = sorted((self.root / split).glob("*/*.jpg"))
        return [Sample(path, self.classes.index(path.parent.name)) for path in paths]

    @cached_property
    def small(self) -> dict[str, torch.Tensor]:
        """Split -> (N, 3, H, W) normalised photos at the small network's size."""
        preprocess = make_backbone("test_resnet", is_random=True, image_size=SMALL_PX).preprocess
        pixels = {
            split: np.stack([preprocess.to_pixels(load_image(one.path)) for one in samples])
            for split, samples in (("train", self.train), ("val", self.val))
        }
        return {split: normalise_on(torch.from_numpy(values), preprocess) for split, values in pixels.items()}


def train_layer(photos: Photos, samples: Sequence[Sample], seed: int) -> GapClassifier:
    """The head as every `whycam train` begins it; a fifth of the photos, drawn by the seed, chooses the epoch."""
    order = np.random.default_rng(seed).permutation(len(samples))
    held = {int(i) for i in order[: len(samples) // 5]}
    train, val = ([one for i, one in enumerate(samples) if (i in held) == is_val] for is_val in (False, True))
    torch.manual_seed(seed)
    model = GapClassifier(photos.features.origin, photos.classes).eval()
    folder = PhotoFolder(photos.root, photos.classes, tuple(train), tuple(val), False)
    hashes = {one.path: str(one.path) for one in samples}
    run = photos.work / "run"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    options = make_train_options(seed=seed, choose_on="val")
    work = Work(options, folder, hashes, {}, model, torch.device("cpu"), run, lambda *_: nullcontext(lambda _: None))
    values = photos.features.of_files([one.path for one in folder.samples]).numpy()[:, :, None, None]
    rows = {str(one.path): row for row, one in enumerate(folder.samples)}
    train_head(work, Stores(FeatureStore(values, rows, {}, True)))
    return model.eval()


def train_frozen(photos: Photos, seed: int) -> GapClassifier:
    """The default training: frozen network, linear head, all photos."""
    return train_layer(photos, photos.train, seed)


def train_drawn(photos: Photos, seed: int) -> GapClassifier:
    """The same on photos that each seed draws anew, half of them."""
    return train_layer(photos, draw(photos.train, DRAWN, seed), seed)


def draw(samples: Sequence[Sample], each: int, seed: int) -> list[Sample]:
    """So many samples of each class."""
    chance, kept = np.random.default_rng([9, seed]), []
    for label in sorted({one.label for one in samples}):
        own = [one for one in samples if one.label == label]
        kept += [own[i] for i in sorted(chance.permutation(len(own))[:each])]
    return kept


def train_small(photos: Photos, seed: int) -> GapClassifier:
    """A small network from random weights, in whole."""
    torch.manual_seed(seed)
    model = GapClassifier(make_backbone("test_resnet", is_random=True, image_size=SMALL_PX), photos.classes)
    images, labels = photos.small["train"], torch.tensor([one.label for one in photos.train])
    steps = SMALL_EPOCHS * (len(images) // 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    model.train()
    for _ in range(SMALL_EPOCHS):
        for rows in torch.randperm(len(images))[: 32 * (len(images) // 32)].split(32):
            batch = images[rows]
            if torch.rand(()) < 0.5:
                batch = batch.flip(3)
            loss = torch.nn.functional.cross_entropy(model(batch), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def name_classes(photos: Photos, model: GapClassifier) -> torch.Tensor:
    """(N,) classes of the held-out photos; heads on the frozen network read its kept features."""
    if model.origin is photos.features.origin:
        pooled = photos.features.of_files([one.path for one in photos.val])
        return model.classifier(pooled).argmax(1)
    return torch.cat([model(some).argmax(1) for some in photos.small["val"].split(64)])


TRAININGS: dict[str, Callable[[Photos, int], GapClassifier]] = {
    "frozen network, linear head": train_frozen,
    f"the same, {DRAWN} photos a class drawn by each seed": train_drawn,
    f"a small network from random weights, {SMALL_PX} px": train_small,
}
