"""Labelled photos for training the network itself: plain, or as seeded random views."""

from __future__ import annotations

import random
from collections.abc import Sequence
from zlib import crc32

import numpy as np
import torch
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import Dataset

from whycam.data.folder import Sample
from whycam.data.images import load_image
from whycam.data.preprocess import Preprocess

# A view keeps at least this share of the photo's area: the object must stay in it.
_MIN_SCALE = 0.35


class ViewDataset(Dataset[tuple[Tensor, int]]):
    """(pixels (3, H, W) uint8, label) of each sample; a photo's view in an epoch is the same whatever else was drawn.

    Set `epoch` before each pass; the views of two epochs differ.
    """

    def __init__(self, samples: Sequence[Sample], preprocess: Preprocess, *, is_random: bool, seed: int = 0) -> None:
        self.samples, self.preprocess, self.is_random, self.seed = samples, preprocess, is_random, seed
        self.epoch = 0
        self._transform = create_transform(
            (3, preprocess.height_px, preprocess.width_px),
            is_training=True,
            scale=(_MIN_SCALE, 1.0),
            color_jitter=0.2,
            interpolation=preprocess.interpolation,
            normalize=False,
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        sample = self.samples[index]
        image = load_image(sample.path)
        if not self.is_random:
            return torch.from_numpy(self.preprocess.to_pixels(image)), sample.label
        # timm's transforms draw from the global generators: seed them for this item and put them back.
        state = random.getstate()
        with torch.random.fork_rng(devices=[]):
            # By name, not by place in the list: a pass that goes on in the middle draws the same views.
            key = int(
                np.random.SeedSequence([self.seed, self.epoch, crc32(sample.path.name.encode())]).generate_state(1)[0]
            )
            random.seed(key)
            torch.manual_seed(key)
            pixels = self._transform(image)
        random.setstate(state)
        return pixels, sample.label
