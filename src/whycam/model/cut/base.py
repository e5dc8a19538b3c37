"""Cut: a classifier in two halves, whatever runs them; Trace: one pass through both, which can be differentiated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Trace:
    """One forward pass whose graph starts at the layer.

    Attributes:
        features: (N, C, h, w) float32 (float64 for such a model), the leaf of the graph.
        output: the model's output, differentiable in `features`.
        images: (N, ...) as the model got them.
        tail: (features (B, C, h, w), rows (B,)) -> the model's output, differentiable in them where gradients are
            enabled. `rows` says which of the N images each belongs to: what the tail needs beside the features (prefix
            tokens, a residual stream) is that image's.
    """

    features: Tensor
    output: object
    images: Tensor
    tail: Callable[[Tensor, Tensor], object]


@dataclass(frozen=True, eq=False, kw_only=True)
class Cut(ABC):
    """A model, cut at a layer.

    Attributes:
        layer: its name.
        how: what the tail is made of.
        weight, bias: (K, C) and (K,) where mean(weight @ features) + bias was measured to be the output; else None.
        why_not_linear: why there is no `weight`; empty where there is.
        noise: how far two answers of the model to the same images lay apart, as a part of the largest number; 0 where
            it draws nothing at random.
        node: the layer itself, where it is a module.
        has_gradient: whether the tail can be differentiated.
    """

    layer: str
    how: str = ""
    weight: Tensor | None = None
    bias: Tensor | None = None
    why_not_linear: str = ""
    noise: float = 0.0
    node: nn.Module | None = None
    has_gradient: bool = True

    @abstractmethod
    def trace(self, images: Tensor) -> Trace:
        """One forward pass over all the images, whose graph starts at the layer."""

    @abstractmethod
    def run(self, images: Tensor) -> tuple[object, Tensor]:
        """The model's output and the features (N, C, h, w), without any graph; behind a linear tail in float32."""

    def features(self, images: Tensor) -> Tensor:
        """The features (N, C, h, w) alone."""
        return self.run(images)[1]

    def fit(self, _images: Tensor) -> Cut:
        """The same cut for images of another size."""
        return self
