"""From pixels to a network's input, on the device where it computes."""

from __future__ import annotations

import torch

from whycam.data.preprocess import Preprocess


def normalise_on(pixels: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    """(N, C, H, W) float32 network input from RGB uint8 pixels (N, 3, H, W), on the pixels' device."""
    count = preprocess.channel_count
    mean, std = (
        torch.tensor(numbers[:count], device=pixels.device).view(-1, 1, 1) * 255
        for numbers in (preprocess.mean, preprocess.std)
    )
    values: torch.Tensor = preprocess.arrange(pixels.float())
    return (values - mean) / std
