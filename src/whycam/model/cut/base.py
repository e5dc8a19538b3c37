"""Cut: a classifier in two halves, whatever runs them; Trace: one pass through both, which can be differentiated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from whycam.model.cut.output import Wanted, make_no_entry


@dataclass(frozen=True, eq=False)
class Trace:
    """One forward pass whose graph starts at the layer.

    Attributes:
        features: (N, C, h, w) float32 (float64 for such a model), the leaf of the graph.
        output: the model's output, or its logits alone where the tail is linear, differentiable in `features`.
        images: (N, ...) as the model got them.
        tail: (features (B, C, h, w), rows (B,)) -> the model's output, or its logits alone where it is linear;
            differentiable in them where gradients are enabled. `rows` says which of the N images each belongs to: what
            the tail needs beside the features (prefix tokens, a residual stream) is that image's.
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
        note: what the reader of a map should know of how the layer was chosen; empty where there is nothing.
    """

    layer: str
    how: str = ""
    weight: Tensor | None = None
    bias: Tensor | None = None
    why_not_linear: str = ""
    noise: float = 0.0
    node: nn.Module | None = None
    has_gradient: bool = True
    note: str = ""

    @abstractmethod
    def trace(self, images: Tensor) -> Trace:
        """One forward pass over all the images, whose graph starts at the layer."""

    @abstractmethod
    def run(self, images: Tensor) -> tuple[object, Tensor]:
        """The model's output and the features (N, C, h, w), without any graph; behind a linear tail in float32."""

    def read(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, K) and every class's map (N, K, h, w), behind a linear tail."""
        return self.read_pooled(images)[:2]

    def read_pooled(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same, and the means of the features (N, C) that the maps weigh."""
        if self.weight is None:
            raise RuntimeError(f"The cut at {self.layer!r} has no linear tail: {self.why_not_linear or self.how}.")
        output, features = self.run(images)
        maps = torch.einsum("kc,nchw->nkhw", self.weight, features)
        return cast(Tensor, output), maps, features.mean((2, 3))

    def features(self, images: Tensor) -> Tensor:
        """The features (N, C, h, w) alone."""
        return self.run(images)[1]

    def reading(self, _images: Tensor, wanted: Wanted) -> Cut:
        """The same cut, whose tail gives what is explained of the model's output: the logits, or a function's input.

        Raises:
            UserError: a key to an output that is one tensor.
        """
        if isinstance(wanted, str | int):
            raise make_no_entry(wanted)
        return self

    def fit(self, _images: Tensor) -> Cut:
        """The same cut for images of another size."""
        return self
