"""From pixels to a network's input, on the device where it computes."""

from __future__ import annotations

import numpy as np
import torch

from whycam.data.preprocess import Preprocess
from whycam.data.samples import load_samples


def normalise_on(pixels: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    """(N, C, H, W) float32 network input from RGB uint8 pixels (N, 3, H, W), on the pixels' device."""
    count = preprocess.channel_count
    mean, std = (
        torch.tensor(numbers[:count], device=pixels.device).view(-1, 1, 1) * 255
        for numbers in (preprocess.mean, preprocess.std)
    )
    values: torch.Tensor = preprocess.arrange(pixels.float())
    return (values - mean) / std


def make_probe(preprocess: Preprocess, device: str) -> torch.Tensor:
    """(2, C, H, W): an installed photo and noise, as the network takes them: neither leaves it without an answer."""
    photo = preprocess.to_pixels(load_samples(1)[0])
    noise = np.random.default_rng(0).integers(0, 256, photo.shape, dtype=np.uint8)
    return normalise_on(torch.from_numpy(np.stack([photo, noise])).to(device), preprocess)
