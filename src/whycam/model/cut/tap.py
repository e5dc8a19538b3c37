"""Cuts any image classifier at a layer: features (N, C, h, w), and the tail that makes the output of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from whycam.errors import UserError
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


@dataclass(frozen=True, eq=False)
class Trace:
    """One forward pass whose graph starts at the layer.

    Attributes:
        features: (N, C, h, w) float32 (float64 for such a model), the leaf of the graph.
        output: the model's output, differentiable in `features`.
        images: (N, ...) as the model got them.
        prefix: (N, P, C) the prefix tokens of a token layout, constants of the tail.
        dtype: of the layer's raw output.
        cut: where.
    """

    features: Tensor
    output: object
    images: Tensor
    prefix: Tensor
    dtype: torch.dtype
    cut: Cut

    @cached_property
    def _kept(self) -> tuple[Tensor, ...]:
        with undisturbed(self.cut.site.module, with_grad=False):
            return self.cut.raw_tail.keep(self.images) if self.cut.raw_tail else ()

    def tail(self, features: Tensor, rows: Tensor) -> object:
        """The model's output for features (B, C, h, w), differentiable in them where gradients are enabled.

        `rows` (B,) says which of the N images each belongs to: what the tail needs beside the features (prefix
        tokens, a residual stream) is that image's.
        """
        cut = self.cut
        if cut.weight is not None and cut.bias is not None:
            return run_linear(features, cut.weight, cut.bias)
        if cut.raw_tail is None:
            raise RuntimeError(f"The cut at {cut.layer!r} has neither a linear tail nor another.")
        kept = [tensor[rows] for tensor in self._kept]
        with undisturbed(cut.site.module, with_grad=torch.is_grad_enabled()):
            raw = cut.layout.write(features, self.prefix[rows], self.dtype)
            return cut.raw_tail.run(raw, self.images[rows], kept)


@dataclass(frozen=True, eq=False)
class Cut:
    """A model, cut at a layer.

    Attributes:
        layer: the layer's dotted name; "relu of NAME" where none was asked for and the model pools its ReLU.
        site: the call of the layer in the model.
        raw_tail: the tail; None where it is exactly GAP + linear.
        layout: of the layer's raw output.
        weight, bias: (K, C) and (K,) where mean(weight @ features) + bias was measured to be the output; else None.
        why_not_linear: the reason for None; empty otherwise.
        has_relu: whether the features are the ReLU of the raw output.
        noise: how far two answers of the model to the same images lay apart, as a part of the largest number; 0 where
            it draws nothing at random.
    """

    layer: str
    layout: Layout
    site: Site = field(repr=False)
    raw_tail: RawTail | None = field(repr=False)
    weight: Tensor | None = field(default=None, repr=False)
    bias: Tensor | None = field(default=None, repr=False)
    why_not_linear: str = ""
    has_relu: bool = False
    noise: float = 0.0

    @property
    def how(self) -> str:
        """What the tail is made of."""
        return self.raw_tail.how if self.raw_tail else "GAP + linear"

    def trace(self, images: Tensor) -> Trace:
        """One forward pass over all the images, whose graph starts at the layer."""
        images = as_input(self.site.module, images)
        sample = trace_site(self.site, self.layout, images)
        features, output = sample.features, sample.output
        if self.has_relu and self.weight is not None and self.bias is not None:
            # The model's own graph would pass through the ReLU once more, and block the gradient where a cell is zero.
            with torch.inference_mode(mode=False), torch.enable_grad():
                features = features.detach().relu().requires_grad_()
                output = run_linear(features, self.weight, self.bias)
        return Trace(features, output, images, sample.prefix, sample.dtype, self)

    def run(self, images: Tensor) -> tuple[object, Tensor]:
        """The model's output and the features (N, C, h, w), without any graph."""
        found: list[Tensor] = []

        def swap(raw: Tensor) -> Tensor:
            features = self.layout.read(raw)
            found.append(features.relu() if self.has_relu else features.clone())
            return raw

        images = as_input(self.site.module, images)
        with undisturbed(self.site.module, with_grad=False):
            output = run_with_swap(self.site, images, swap)
        return output, found[0]

    def features(self, images: Tensor) -> Tensor:
        """The features (N, C, h, w) alone."""
        return self.run(images)[1]


def cut_model(
    module: nn.Module, images: Tensor, layer: str | nn.Module | None = None, *, needs_gradient: bool = True
) -> Cut:
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


def _measure(site: Site, probe: Probe, later: list[nn.Module], *, may_rectify: bool) -> Cut:
    layout = probe.layout
    linear = find_linear(probe, later, with_relu=False)
    if not isinstance(linear, str):
        return Cut(site.name, layout, site, None, *linear)
    rectified = find_linear(probe, later, with_relu=True)
    if may_rectify and not isinstance(rectified, str):
        return Cut(f"relu of {site.name}", layout, site, None, *rectified, has_relu=True)
    return Cut(site.name, layout, site, find_tail(site, probe), why_not_linear=linear)
