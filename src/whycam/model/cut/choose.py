"""Where a model is cut if no layer is named: a GapClassifier at its own split, any other at the last cells."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from whycam.errors import UserError
from whycam.model.card import LINEAR, POOLED
from whycam.model.cut.base import Cut, Trace
from whycam.model.cut.output import Wanted
from whycam.model.cut.tail import run_linear, undisturbed
from whycam.model.cut.tap import cut_model

if TYPE_CHECKING:
    from whycam.model.gap import GapClassifier


@dataclass(frozen=True, eq=False, kw_only=True)
class PooledCut(Cut):
    """A GapClassifier (`classifier`), cut before its pooling."""

    classifier: GapClassifier = field(repr=False)
    weight: Tensor
    bias: Tensor

    def trace(self, images: Tensor) -> Trace:
        """See Cut."""
        features = self._read(images)
        with torch.inference_mode(mode=False), torch.enable_grad():
            leaf = features.detach().requires_grad_()
            output = run_linear(leaf, self.weight, self.bias)
        return Trace(leaf, output, images, lambda features, _: run_linear(features, self.weight, self.bias))

    def run(self, images: Tensor) -> tuple[object, Tensor]:
        """See Cut."""
        features = self._read(images)
        return run_linear(features, self.weight, self.bias), features

    def _read(self, images: Tensor) -> Tensor:
        with undisturbed(self.classifier, with_grad=False):
            return _widen(self.classifier.features(images))


def cut_by_itself(module: nn.Module, images: Tensor, *, reads_tail: bool, output: Wanted = None) -> Cut:
    """The model cut at the same layer for every method, so that their maps can be compared; `output` as in `cut_model`.

    Raises:
        UserError: it has no layer with cells; none whose cells reach the output, where a method reads the tail; or no
            such output.
    """
    from whycam.model.gap import GapClassifier  # noqa: PLC0415 - timm, slow to import

    if isinstance(module, GapClassifier):
        layer = module.classifier
        cut = PooledCut(
            layer=POOLED,
            how=LINEAR,
            classifier=module,
            weight=_widen(layer.weight.detach()),
            bias=_widen(layer.bias.detach()),
        )
        return cut.reading(images, output)
    try:
        return cut_model(module, images, output=output)
    except UserError:
        if reads_tail:
            raise
        return cut_model(module, images, needs_gradient=False, output=output)


def _widen(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
