"""Labelled photos for training the network itself: plain, or as seeded random views."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import Dataset

from whycam.data.exchange import swap_region
from whycam.data.folder import Sample
from whycam.data.images import load_image
from whycam.data.preprocess import Preprocess
from whycam.data.regions import Regions

# A view keeps at least this share of the photo's area: the object must stay in it.
_MIN_SCALE = 0.35


class ViewDataset(Dataset[tuple[Tensor, Tensor]]):
    """(pixels (3, H, W) uint8, label) of each sample; a photo's view in an epoch is the same whatever else was drawn.

    Set `epoch` before each pass; the views of two epochs differ. `load` (path, epoch) reads a photo another way;
    `labels` (N, ...) stand for the samples' own. `strength` 1 to 10 adds RandAugment (Cubuk et al.,
    arXiv:1909.13719), as timm has it, in place of changed colours.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        preprocess: Preprocess,
        *,
        is_random: bool,
        labels: Tensor | None = None,
        seed: int = 0,
        load: Callable[[Path, int], Image.Image] | None = None,
        strength: int = 0,
    ) -> None:
        self.labels = torch.tensor([sample.label for sample in samples]) if labels is None else labels
        self.samples, self.preprocess, self.is_random, self.seed = samples, preprocess, is_random, seed
        self.load = load
        self.epoch = 0
        self._transform = create_transform(
            (3, preprocess.height_px, preprocess.width_px),
            is_training=True,
            scale=(_MIN_SCALE, 1.0),
            color_jitter=0.2,
            auto_augment=f"rand-m{strength}-mstd0.5-inc1" if strength else None,
            interpolation=preprocess.interpolation,
            normalize=False,
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample = self.samples[index]
        image = self.load(sample.path, self.epoch) if self.load else load_image(sample.path)
        if not self.is_random:
            return torch.from_numpy(self.preprocess.to_pixels(image)), self.labels[index]
        # timm's transforms draw from the global generators: seed them for this item and put them back.
        state, numpys = random.getstate(), np.random.get_state()
        with torch.random.fork_rng(devices=[]):
            # By name, not by place in the list: a pass that goes on in the middle draws the same views.
            key = int(
                np.random.SeedSequence([self.seed, self.epoch, crc32(os.fsencode(sample.path.name))]).generate_state(1)[
                    0
                ]
            )
            random.seed(key)
            np.random.seed(key)
            torch.manual_seed(key)
            pixels = self._transform(image)
        random.setstate(state)
        np.random.set_state(numpys)
        return pixels, self.labels[index]


@dataclass(frozen=True)
class Swaps:
    """Photos whose region shows what another photo has there, so that its content says nothing about the class.

    The other photo's class is drawn evenly, then the photo. What is swapped is the region of either of the two: an
    artefact under a mask goes from its photo and comes to others.

    Attributes:
        samples: the photos, each also in the role of the other.
        regions: what is swapped.
        seed: the draws follow from it, from the view and from the photo's name.
        at_least: (width, height) of a photo that suffice.
    """

    samples: tuple[Sample, ...]
    regions: Regions
    seed: int
    at_least: tuple[int, int]

    def __call__(self, photo: Path, view: int) -> Image.Image:
        """The photo in one of its views."""
        return swap_region(photo, self.find_donor(photo, view), self.regions, self.at_least)

    def find_donor(self, photo: Path, view: int) -> Path:
        """The other photo."""
        draw = np.random.default_rng([self.seed, view, crc32(os.fsencode(f"{photo.parent.name}/{photo.name}"))])
        group = self._classes[draw.integers(len(self._classes))]
        return group[draw.integers(len(group))]

    @cached_property
    def _classes(self) -> list[list[Path]]:
        labels = sorted({sample.label for sample in self.samples})
        return [[sample.path for sample in self.samples if sample.label == label] for label in labels]
