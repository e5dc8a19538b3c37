"""How much of the photo does the map show? Few strong places or heat everywhere."""

from __future__ import annotations

import torch
from torch import Tensor

from whycam.metrics.case import Case
from whycam.metrics.registry import metric


@metric("gini", better="higher", category="complexity", paper="arXiv:1810.06583, sec. 4")
def gini(case: Case) -> Tensor:
    """Gini's index of the heat in [0, 1): 0 where all pixels have the same, near 1 where a few have all."""
    heat = case.heatmaps.flatten(1).double().sort(dim=1).values
    count = heat.shape[1]
    weight = 2 * torch.arange(1, count + 1, device=heat.device) - count - 1
    total = heat.sum(1)
    return torch.where(total > 0, (heat * weight).sum(1) / (count * total.clamp(min=1e-12)), torch.nan)


@metric("entropy", better="lower", category="complexity", paper="arXiv:2005.00631, sec. 3.3")
def entropy(case: Case) -> Tensor:
    """Entropy of the heat as shares of its sum, in bits; log2 of the number of pixels where all have the same."""
    heat = case.heatmaps.flatten(1).double()
    total = heat.sum(1, keepdim=True)
    share = heat / total.clamp(min=1e-12)
    bits = -torch.xlogy(share, share).sum(1) / torch.log(torch.tensor(2.0, dtype=torch.float64))
    return torch.where(total[:, 0] > 0, bits, torch.nan)
