"""SelfCut: a model that is no torch inside, in the form of a module, which says itself where it can be cut."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from whycam.errors import UserError
from whycam.model.cut.base import Cut, Trace

# The grid on which controls are drawn where nothing is known of a model's cells.
_GRID = 7


class SelfCut(nn.Module):
    """Images -> logits (N, K) by another runtime; gradients of the images and attention are not to be had."""

    @abstractmethod
    def cut(self, images: Tensor, layer: str | None = None) -> Cut:
        """The model in two halves.

        Raises:
            UserError: no such layer, or nothing to cut at.
        """

    def cut_for(self, images: Tensor, layer: str | None, *, reads_features: bool) -> Cut:
        """The same; where nothing can be cut and no method reads features, a cut that has none."""
        try:
            return self.cut(images, layer)
        except UserError:
            if reads_features or layer is not None:
                raise
            return BlindCut(layer="input", how="scores alone", has_gradient=False, module=self)


class ScoresModule(SelfCut):
    """A function of normalised images (N, C, H, W) -> (N, K), as arrays; there is nothing to cut."""

    def __init__(self, scores: Callable[[np.ndarray], np.ndarray], name: str) -> None:
        super().__init__()
        self._scores, self._name = scores, name

    def forward(self, images: Tensor) -> Tensor:
        """(N, K)."""
        return torch.from_numpy(self._scores(images.detach().cpu().float().numpy())).to(images.device)

    def cut(self, images: Tensor, layer: str | None = None) -> Cut:
        """There are no layers."""
        raise UserError(f"{self._name!r} gives scores alone, and has no layer to cut at; found layer {layer!r}.")


@dataclass(frozen=True, eq=False, kw_only=True)
class BlindCut(Cut):
    """A model of which only scores can be had (`module`); its features are the images in a few cells, for controls."""

    module: nn.Module = field(repr=False)

    def trace(self, images: Tensor) -> Trace:
        """See Cut; the tail can't be run."""

        def refuse(_features: Tensor, _rows: Tensor) -> object:
            raise RuntimeError("A method ran the tail of a model that has none.")

        output, features = self.run(images)
        return Trace(features, output, images, refuse)

    def run(self, images: Tensor) -> tuple[object, Tensor]:
        """See Cut."""
        with torch.no_grad():
            return self.module(images), nn.functional.adaptive_avg_pool2d(images.float(), _GRID)
