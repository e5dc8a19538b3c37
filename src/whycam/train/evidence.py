"""How much of a map's evidence lies in a part of the photo, as something that can be trained away."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_cells(mask: np.ndarray, shape: tuple[int, int]) -> Tensor:
    """(h, w) in [0, 1]: the share of each map cell's area that lies in a mask (H, W) bool."""
    cells: Tensor = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(mask).float()[None], shape)[0]
    return cells


def compute_evidence(maps: Tensor) -> Tensor:
    """(N, h, w): squared evidence for and against all classes in each cell of maps (N, K, h, w).

    What all classes share is taken off first: softmax does not see it.
    """
    evidence: Tensor = (maps - maps.mean(dim=1, keepdim=True)).square().sum(dim=1)
    return evidence


def compute_share(evidence: Tensor, cells: Tensor) -> Tensor:
    """(N,) in [0, 1]: the share of evidence (N, h, w) that lies in the region; cells (N, h, w) in [0, 1].

    A share, so the whole map can't be shrunk to please it.
    """
    total = evidence.sum(dim=(1, 2)).clamp(min=torch.finfo(evidence.dtype).tiny)
    share: Tensor = (evidence * cells).sum(dim=(1, 2)) / total
    return share
