"""WholeCut: a model of which nothing is known but its scores; its cells are a grid on the images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from whycam.model.cut.base import Cut, Trace

# Cells a side of the maps that look at no features.
_GRID = 7


@dataclass(frozen=True, eq=False, kw_only=True)
class WholeCut(Cut):
    """Scores alone: features are the images' means on a grid, which no tail runs on from."""

    scores: Callable[[np.ndarray], np.ndarray] = field(repr=False)

    def trace(self, images: Tensor) -> Trace:
        """See Cut."""
        output, features = self.run(images)

        def tail(*_: Tensor) -> object:
            raise RuntimeError("A model of which only scores are known has no tail.")

        return Trace(features, output, images, tail)

    def run(self, images: Tensor) -> tuple[object, Tensor]:
        """See Cut."""
        output = torch.from_numpy(self.scores(images.detach().cpu().float().numpy())).to(images.device)
        return output, functional.adaptive_avg_pool2d(images.detach().float(), _GRID)


def cut_whole(scores: Callable[[np.ndarray], np.ndarray], name: str) -> WholeCut:
    """A model that is scores and nothing more."""
    return WholeCut(layer="the image", how=f"the whole of {name}", scores=scores)
