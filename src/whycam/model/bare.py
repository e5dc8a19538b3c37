"""Bare: a module without its last activation, so that logits are explained and not probabilities."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from whycam.model.activation import Activation, measure_activation
from whycam.model.cut.output import select_output
from whycam.model.cut.tail import undisturbed
from whycam.model.cut.tap import as_input

_LAYERS = (nn.Softmax, nn.LogSoftmax, nn.Sigmoid)


class Bare(nn.Module):
    """A module without its last activation, where that is a layer; else with the activation's inverse behind it.

    Its layers and weights are the module's own, under their own names.
    """

    def __init__(
        self, module: nn.Module, activation: Activation, layer: nn.Module | None, output: str | int | None = None
    ) -> None:
        super().__init__()
        self.activation, self._output = activation, output
        self._modules, self._parameters, self._buffers = module._modules, module._parameters, module._buffers
        # In a tuple: to be no layers of this one.
        self._inner = (module, layer)

    def forward(self, images: Tensor) -> Tensor:
        """(N, K) logits."""
        module, layer = self._inner
        if layer is None:
            return _invert(select_output(module(images), self._output), self.activation)
        caught: list[Tensor] = []
        handle = layer.register_forward_hook(lambda _, inputs, __: caught.append(inputs[0]))
        try:
            module(images)
        finally:
            handle.remove()
        return caught[-1].flatten(1)


def _invert(scores: Tensor, activation: Activation) -> Tensor:
    """As `activation.invert`, differentiable."""
    if activation == "log-softmax":
        return scores
    shares = scores.float().clamp(torch.finfo(torch.float32).tiny, 1)
    return shares.log() if activation == "softmax" else shares.log() - (1 - shares).clamp(min=2**-24).log()


@torch.no_grad()
def take_off(module: nn.Module, images: Tensor, output: str | int | None = None) -> tuple[nn.Module, Activation, bool]:
    """The module as one that gives logits; what its last activation is; whether that is a layer that was taken off.

    Args:
        module: gives (N, K), or a structure that holds it.
        images: (N, ...) normalised, of which two are asked about.
        output: which entry of a structure holds the scores.
    """
    images = as_input(module, images[:2])
    with undisturbed(module, with_grad=False):
        scores = select_output(module(images), output)

        def run(times: float) -> np.ndarray:
            # A blank image is as blank however strong it is.
            noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).to(images)
            return select_output(module((images + noise) * times), output).float().cpu().numpy()

        found = measure_activation(scores.float().cpu().numpy(), run)
        if found == "none":
            return module, found, False
        layer = _find_layer(module, images, scores)
    return Bare(module, found, layer, output), found, layer is not None


def _find_layer(module: nn.Module, images: Tensor, scores: Tensor) -> nn.Module | None:
    """The activation layer whose result is the module's; None where it is no layer."""
    results: list[tuple[nn.Module, Tensor]] = []
    layers = [part for part in module.modules() if isinstance(part, _LAYERS)]
    handles = [part.register_forward_hook(lambda part, _, output: results.append((part, output))) for part in layers]
    try:
        module(images)
    finally:
        for handle in handles:
            handle.remove()
    return next((part for part, result in reversed(results) if torch.equal(result.flatten(1), scores.flatten(1))), None)
