"""From pixels to a network's input, on the device where it computes."""

from __future__ import annotations

import torch

from whycam.data.preprocess import Preprocess


def normalise_on(pixels: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    """(N, 3, H, W) float32 network input from uint8 pixels, on the pixels' device."""
    mean = torch.tensor(preprocess.mean, device=pixels.device).view(3, 1, 1) * 255
    std = torch.tensor(preprocess.std, device=pixels.device).view(3, 1, 1) * 255
    return (pixels.float() - mean) / std
