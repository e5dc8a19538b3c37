"""Cuts any image classifier at a layer: features (N, C, h, w), and the tail that makes the output of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from whycam.errors import UserError
from whycam.model.card import LINEAR
from whycam.model.cut.base import Cut, Trace
from whycam.model.cut.blame import blame
from whycam.model.cut.layer import (
    Call,
    choose_call,
    find_call,
    list_spatial,
    make_elsewhere,
    make_no_gradient,
    reach_output,
    record_calls,
    settle,
)
from whycam.model.cut.layout import Layout
from whycam.model.cut.linear import find_linear
from whycam.model.cut.output import Wanted, read_wanted
from whycam.model.cut.tail import (
    Probe,
    RawTail,
    Site,
    find_tail,
    is_logits,
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
        layer: the layer's dotted name, or "NAME#k" for its k-th call; "relu of NAME" where none was asked for and the
            model pools its ReLU.
        label: the same without that ReLU.
        site: the call of the layer in the model.
        raw_tail: the tail; None where it is exactly GAP + linear.
        layout: of the layer's raw output.
        has_relu: whether the features are the ReLU of the raw output.
        is_named: whether the layer was asked for.
        is_plain: whether the model's output is logits (N, K) and nothing more.
    """

    layout: Layout
    site: Site = field(repr=False)
    raw_tail: RawTail | None = field(repr=False)
    has_relu: bool = False
    is_named: bool = False
    is_plain: bool = True
    label: str = ""

    def trace(self, images: Tensor) -> Trace:
        """See Cut."""
        images = as_input(self.site.module, images)
        sample = trace_site(self.site, self.layout, images)
        features = sample.features
        if self.weight is not None and self.bias is not None:
            weight, bias = self.weight, self.bias
            output = sample.output if callable(self.site.wanted) else sample.wanted
            if self.has_relu:
                # The model's own graph would pass through the ReLU once more, and block the gradient where a cell is 0.
                with torch.inference_mode(mode=False), torch.enable_grad():
                    features = features.detach().relu().requires_grad_()
                    output = run_linear(features, weight, bias)
            return Trace(features, output, images, lambda features, _: run_linear(features, weight, bias))
        return Trace(features, sample.output, images, _Tail(self, images, sample.prefix, sample.dtype))

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

    def reading(self, images: Tensor, wanted: Wanted) -> Cut:
        """See Cut: cut anew where the tail is of another entry, or leaves out what a function reads."""
        if callable(wanted):
            is_kept = self.is_plain or self.weight is None
        else:
            is_kept = wanted == self.site.wanted or (self.is_plain and wanted is None)
        layer = self.label if self.is_named else None
        return self if is_kept else cut_model(self.site.module, images, layer, needs_gradient=False, output=wanted)

    def fit(self, images: Tensor) -> Cut:
        """See Cut: tokens are laid out on the grid of one image size; other layouts hold for any."""
        if self.layout.kind != "tokens":
            return self
        return cut_model(self.site.module, images, self.label, output=self.site.wanted)


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
    module: nn.Module,
    images: Tensor,
    layer: str | nn.Module | None = None,
    *,
    needs_gradient: bool = True,
    output: Wanted = None,
) -> ModuleCut:
    """Cuts an image classifier at a layer, and measures that both halves together are the model.

    Args:
        module: any module whose forward takes images and gives logits (see `select_output`).
        images: (N, channels, ...) preprocessed, on the module's device; the first two are probed with.
        layer: a layer, its dotted name, or "NAME#2" for its second call; None takes the last one with cells that
            follow the images and that the output depends on: for a transformer that reads its class token, the norm
            before the last attention.
        needs_gradient: refuse a layer whose cells don't reach the output.
        output: which entry of a dict or tuple holds the logits, or the function of the output that is explained; None
            finds the logits.

    Raises:
        UserError: no such layer, one without cells, one the output doesn't depend on, one whose cells stand for other
            parts of the image than they lie in, no such entry of the output, or a module that can't be cut.
    """
    module = unwrap(module)
    count, images = len(images), as_input(module, images[:_PROBE_IMAGES])
    images = images.where(images.isfinite(), 0)  # a broken photo would hide what the model is made of
    with blame(module, images, count):
        calls, found = record_calls(module, images, output)
    read_wanted(found, output)
    call = _take(module, calls, images, layer, needs_gradient=needs_gradient)
    layout = call.layout
    if layout is None:
        raise RuntimeError(f"Layer {call.label!r} was chosen without a layout.")
    at = next(i for i, other in enumerate(calls) if other.site is call.site)
    later = [*(other.site.layer for other in calls[at + 1 :]), module]
    sample = call.sample or trace_site(call.site, layout, images)
    probe = Probe(images, layout, [sample, trace_site(call.site, layout, images, disturb=True)])
    cut = _measure(call, probe, later, may_rectify=layer is None)
    noise = measure_noise(found, probe.samples[0].output)
    return replace(cut, noise=noise, is_named=layer is not None, is_plain=is_logits(found))


def _take(
    module: nn.Module, calls: list[Call], images: Tensor, layer: str | nn.Module | None, *, needs_gradient: bool
) -> Call:
    """The call to cut at, with its layout as measured."""
    if layer is None:
        last = list_spatial(calls)[-1]
        if best := choose_call(calls, images, needs_gradient=needs_gradient):
            return best
        if needs_gradient and not reach_output(last, images):
            raise make_no_gradient(last.label, None)
        raise make_elsewhere(last.label, None)
    call = find_call(module, calls, layer, images)
    sample = reach_output(call, images) if needs_gradient else None
    if needs_gradient and not sample:
        raise make_no_gradient(call.label, choose_call(calls, images))
    settled = settle(replace(call, sample=sample), images)
    if settled is None:
        raise make_elsewhere(call.label, choose_call(calls, images, needs_gradient=needs_gradient))
    return settled


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


def _measure(call: Call, probe: Probe, later: list[nn.Module], *, may_rectify: bool) -> ModuleCut:
    site, name = call.site, call.label
    where: dict[str, Any] = {
        "layout": probe.layout,
        "site": site,
        "node": site.layer,
        "label": name,
        "note": call.note,
    }
    linear = find_linear(probe, later, site.wanted, with_relu=False)
    if not isinstance(linear, str):
        weight, bias = linear
        return ModuleCut(layer=name, how=LINEAR, weight=weight, bias=bias, raw_tail=None, **where)
    rectified = find_linear(probe, later, site.wanted, with_relu=True)
    if may_rectify and not isinstance(rectified, str):
        weight, bias = rectified
        return ModuleCut(
            layer=f"relu of {name}", how=LINEAR, weight=weight, bias=bias, raw_tail=None, has_relu=True, **where
        )
    tail = find_tail(site, probe)
    return ModuleCut(layer=name, how=tail.how, raw_tail=tail, why_not_linear=linear, **where)
