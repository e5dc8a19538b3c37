"""Cuts any image classifier at a layer: features (N, C, h, w), and the tail that makes the output of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from whycam.errors import UserError
from whycam.model.classifier import LINEAR
from whycam.model.cut.base import Cut, Trace
from whycam.model.cut.layer import choose_call, find_call, list_spatial, make_no_gradient, reaches_output, record_calls
from whycam.model.cut.layout import Layout
from whycam.model.cut.tail import (
    Probe,
    RawTail,
    Site,
    find_linear,
    find_tail,
    measure_noise,
    run_linear,
    run_with_swap,
    trace_site,
    undisturbed,
)

_PROBE_IMAGES = 2


@dataclass(frozen=True, eq=False, kw_only=True)
class ModuleCut(Cut):
    """A module, cut at the call of a layer.

    Attributes:
        layer: the layer's dotted name; "relu of NAME" where none was asked for and the model pools its ReLU.
        site: the call of the layer in the model.
        raw_tail: the tail; None where it is exactly GAP + linear.
        layout: of the layer's raw output.
        has_relu: whether the features are the ReLU of the raw output.
    """

    layout: Layout
    site: Site = field(repr=False)
    raw_tail: RawTail | None = field(repr=False)
    has_relu: bool = False

    def trace(self, images: Tensor) -> Trace:
        """See Cut."""
        images = as_input(self.site.module, images)
        sample = trace_site(self.site, self.layout, images)
        features, output = sample.features, sample.output
        if self.weight is not None and self.bias is not None:
            weight, bias = self.weight, self.bias
            if self.has_relu:
                # The model's own graph would pass through the ReLU once more, and block the gradient where a cell is 0.
                with torch.inference_mode(mode=False), torch.enable_grad():
                    features = features.detach().relu().requires_grad_()
                    output = run_linear(features, weight, bias)
            return Trace(features, output, images, lambda features, _: run_linear(features, weight, bias))
        return Trace(features, output, images, _Tail(self, images, sample.prefix, sample.dtype))

    def run(self, images: Tensor) -> tuple[object, Tensor]:
        """See Cut."""
        found: list[Tensor] = []

        def swap(raw: Tensor) -> Tensor:
            features = self.layout.read(raw)
            found.append(features.relu() if self.has_relu else features.clone())
            return raw

        images = as_input(self.site.module, images)
        with undisturbed(self.site.module, with_grad=False):
            output = run_with_swap(self.site, images, swap)
        if self.weight is not None and self.bias is not None:
            # The head in float32: in half precision, differences of scores would be lost in the logit's rounding.
            output = run_linear(found[0], self.weight, self.bias)
        return output, found[0]

    def fit(self, images: Tensor) -> Cut:
        """See Cut: tokens are laid out on the grid of one image size; other layouts hold for any."""
        return cut_model(self.site.module, images, self.site.layer) if self.layout.kind == "tokens" else self


@dataclass(frozen=True, eq=False)
class _Tail:
    """The tail of one pass over `images`, of which it keeps what the layer's features alone don't tell."""

    cut: ModuleCut
    images: Tensor
    prefix: Tensor
    dtype: torch.dtype

    @cached_property
    def _kept(self) -> tuple[Tensor, ...]:
        with undisturbed(self.cut.site.module, with_grad=False):
            return self.cut.raw_tail.keep(self.images) if self.cut.raw_tail else ()

    def __call__(self, features: Tensor, rows: Tensor) -> object:
        cut = self.cut
        if cut.raw_tail is None:
            raise RuntimeError(f"The cut at {cut.layer!r} has neither a linear tail nor another.")
        kept = [tensor[rows] for tensor in self._kept]
        with undisturbed(cut.site.module, with_grad=torch.is_grad_enabled()):
            raw = cut.layout.write(features, self.prefix[rows], self.dtype)
            return cut.raw_tail.run(raw, self.images[rows], kept)


def cut_model(
    module: nn.Module, images: Tensor, layer: str | nn.Module | None = None, *, needs_gradient: bool = True
) -> ModuleCut:
    """Cuts an image classifier at a layer, and measures that both halves together are the model.

    Args:
        module: any module whose forward takes images and gives logits (see `select_output`).
        images: (N, channels, ...) preprocessed, on the module's device; the first two are probed with.
        layer: a layer or its dotted name; None takes the last one with cells that the output depends on: for a
            transformer that reads its class token, the norm before the last attention.
        needs_gradient: refuse a layer whose cells don't reach the output.

    Raises:
        UserError: no such layer, one without cells, one the output doesn't depend on, or a module that can't be cut.
    """
    module = unwrap(module)
    images = as_input(module, images[:_PROBE_IMAGES])
    images = images.where(images.isfinite(), 0)  # a broken photo would hide what the model is made of
    calls, output = record_calls(module, images)
    if layer is not None:
        call = find_call(module, calls, layer)
        if needs_gradient and not reaches_output(call, images):
            raise make_no_gradient(call.site.name, choose_call(calls, images))
    else:
        last = list_spatial(calls)[-1]
        best = choose_call(calls, images) if needs_gradient else last
        if best is None:
            raise make_no_gradient(last.site.name, None)
        call = best
    layout = call.layout
    if layout is None:
        raise RuntimeError(f"Layer {call.site.name!r} was chosen without a layout.")
    later = [other.site.layer for other in calls[calls.index(call) + 1 :]]
    probe = Probe(images, layout, [trace_site(call.site, layout, images, disturb=disturb) for disturb in (False, True)])
    cut = _measure(call.site, probe, later, may_rectify=layer is None)
    return replace(cut, noise=measure_noise(output, probe.samples[0].output))


def unwrap(module: nn.Module) -> nn.Module:
    """The model inside DataParallel or torch.compile.

    Raises:
        UserError: TorchScript, which has no layers to hook.
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise UserError(
            f"The model is TorchScript ({type(module).__name__}), which can't be cut at a layer. Pass the nn.Module "
            "that it was made from, or export that with `whycam export`, which writes the maps into the file."
        )
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrap(module.module)
    inner = getattr(module, "_orig_mod", None)
    return unwrap(inner) if isinstance(inner, nn.Module) else module


def as_input(module: nn.Module, images: Tensor) -> Tensor:
    """The images in the model's precision, and usable in a graph even where they were made in inference mode."""
    with torch.inference_mode(mode=False), torch.no_grad():
        images = images.clone() if images.is_inference() else images.detach()
        dtype = next((part.dtype for part in module.parameters() if part.is_floating_point()), images.dtype)
        if images.is_floating_point() and not torch.is_autocast_enabled(images.device.type):
            images = images.to(dtype)
    return images


def _measure(site: Site, probe: Probe, later: list[nn.Module], *, may_rectify: bool) -> ModuleCut:
    where: dict[str, Any] = {"layout": probe.layout, "site": site, "node": site.layer}
    linear = find_linear(probe, later, with_relu=False)
    if not isinstance(linear, str):
        weight, bias = linear
        return ModuleCut(layer=site.name, how=LINEAR, weight=weight, bias=bias, raw_tail=None, **where)
    rectified = find_linear(probe, later, with_relu=True)
    if may_rectify and not isinstance(rectified, str):
        weight, bias = rectified
        name = f"relu of {site.name}"
        return ModuleCut(layer=name, how=LINEAR, weight=weight, bias=bias, raw_tail=None, has_relu=True, **where)
    tail = find_tail(site, probe)
    return ModuleCut(layer=site.name, how=tail.how, raw_tail=tail, why_not_linear=linear, **where)
