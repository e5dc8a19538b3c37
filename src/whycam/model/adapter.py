"""Adapter: a model that is no torch module, as one; its weights are nobody's, and nothing can be differentiated."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from whycam.model.runtime import Runtime


class Adapter(nn.Module):
    """Normalised images (N, C, H, W) -> logits (N, K), by the runtime."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__()
        self.runtime = runtime

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        return torch.from_numpy(self.runtime.scores(images.detach().cpu().float().numpy())).to(images.device)
