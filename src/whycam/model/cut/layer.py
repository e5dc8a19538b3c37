"""Finds the layer to cut: the last one with cells that the output depends on, measured, not guessed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from whycam.errors import UserError, make_unknown_name
from whycam.model.cut.layout import Hints, Layout, find_layout
from whycam.model.cut.output import Wanted
from whycam.model.cut.tail import Site, measure_gradient, trace_site, undisturbed

_MOST_TRIES = 16


@dataclass(frozen=True, eq=False)
class Call:
    """One call of one module in the probe's forward pass.

    Attributes:
        site: the call.
        shape: of its output (of the first tensor of a tuple); () where there is none.
        layout: how that output holds cells; None if it doesn't.
    """

    site: Site
    shape: tuple[int, ...]
    layout: Layout | None


def record_calls(module: nn.Module, images: Tensor, wanted: Wanted = None) -> tuple[list[Call], object]:
    """Every module call of one forward pass, in the order in which they end, and the output."""
    names = {part: name for name, part in module.named_modules() if name}
    norms = [part for part in module.modules() if isinstance(part, nn.LayerNorm) and len(part.normalized_shape) == 1]
    widths = frozenset(norm.normalized_shape[0] for norm in norms)
    prefix = getattr(module, "num_prefix_tokens", None)
    calls: list[Call] = []
    grids: list[tuple[int, ...]] = []
    seen: Counter[str] = Counter()
    tokens = 0

    def record(part: nn.Module, _args: object, output: object) -> None:
        nonlocal tokens
        first = output[0] if isinstance(output, tuple) and output else output
        shape = tuple(first.shape) if isinstance(first, Tensor) and first.is_floating_point() else ()
        layout = find_layout(shape, images.shape, Hints(prefix, widths, tuple(grids), tokens))
        if layout is not None and layout.kind == "tokens":
            tokens = shape[1]
        if isinstance(part, nn.modules.conv._ConvNd) and len(shape) == images.ndim:
            grids.append(shape[2:])
        name = names[part]
        calls.append(Call(Site(module, part, name, seen[name], wanted), shape, layout))
        seen[name] += 1

    with undisturbed(module, with_grad=False):
        hooks = [part.register_forward_hook(record) for part in names]
        torch.rand(1, device=images.device)  # other passes begin in the state before it: only noise will differ
        try:
            output = module(images)
        finally:
            for hook in hooks:
                hook.remove()
    return calls, output


def choose_call(calls: list[Call], images: Tensor) -> Call | None:
    """The last call with cells that the output depends on; among tokens, the last such norm.

    Behind a transformer's last attention only the class token matters, so that no gradient reaches the patches; a norm
    in front of it is where all of them still do.
    """
    spatial = list_spatial(calls)
    last = spatial[-1]
    if reaches_output(last, images):
        return last
    if _is_tokens(last):
        first = next(index for index, call in enumerate(spatial) if _is_tokens(call))
        norms = [call for call in spatial if _is_tokens(call) and "Norm" in type(call.site.layer).__name__]
        spatial = [*spatial[:first], *norms]
    return next(
        (call for call in spatial[: -_MOST_TRIES - 1 : -1] if call is not last and reaches_output(call, images)), None
    )


def list_spatial(calls: list[Call]) -> list[Call]:
    """The calls whose output has cells, first to last.

    Adaptive pooling, which may stretch a map, and the projections of tokens inside a block are left out.

    Raises:
        UserError: there are none.
    """
    spatial = [call for call in calls if call.layout and not _is_inner(call)]
    if not spatial:
        raise UserError(
            f"None of the {len(calls)} layer calls gives features with cells (N, C, h, w) or tokens (N, L, C). A map "
            "needs such a layer; explain this model with a method of the image, such as occlusion, rise or full-grad."
        )
    return spatial


def _is_inner(call: Call) -> bool:
    is_projection = _is_tokens(call) and isinstance(call.site.layer, nn.Linear)
    return is_projection or type(call.site.layer).__name__.startswith("Adaptive")


def _is_tokens(call: Call) -> bool:
    return call.layout is not None and call.layout.kind == "tokens"


def find_call(module: nn.Module, calls: list[Call], layer: str | nn.Module) -> Call:
    """The last call of a layer given by module or dotted name.

    Raises:
        UserError: no such layer, one that didn't run, or whose output has no cells.
    """
    names = dict(module.named_modules())
    if isinstance(layer, str):
        if layer not in names or not layer:
            raise make_unknown_name("layer", layer, [name for name in names if name])
        layer = names[layer]
    if all(layer is not part for part in names.values()):
        raise UserError(
            f"The layer {type(layer).__name__} is not part of the {type(module).__name__}. Take it from that object: "
            "layer=model.layer4, or name it: layer='layer4'."
        )
    name = next(name for name, part in names.items() if part is layer)
    own = [call for call in calls if call.site.layer is layer]
    if not own:
        raise UserError(
            f"Layer {name!r} doesn't run when the model is called. Choose one that does, such as {_offer(calls)}."
        )
    if own[-1].layout is None:
        raise UserError(
            f"Layer {name!r} gives {own[-1].shape or 'no tensor'}; expected cells, (N, C, h, w) or tokens (N, L, C), "
            f"with the images first. Choose an earlier layer, such as {_offer(calls)}."
        )
    return own[-1]


def reaches_output(call: Call, images: Tensor) -> bool:
    """Whether any cell of the layer has a gradient: on the images, or on disturbed features."""
    if call.layout is None:
        return False
    for disturb in (False, True):
        sample = trace_site(call.site, call.layout, images, disturb=disturb)
        gradient = measure_gradient(sample.wanted, sample.features)
        if gradient is not None and gradient.any():
            return True
        if _is_tokens(call):  # no ReLU there that real features could leave dead
            return False
    return False


def make_no_gradient(name: str, better: Call | None) -> UserError:
    """The error for a layer whose cells don't reach the output; `better` is one whose cells do."""
    found = f"The output doesn't depend on the cells of layer {name!r}: their gradient is exactly zero, so every map "
    if better:
        return UserError(
            f"{found}would be blank. Behind a transformer's last attention only the class token is read; an unused "
            f"branch, no_grad or a detach inside the model has the same effect. Take layer={better.site.name!r}, or "
            "leave the layer out."
        )
    return UserError(
        f"{found}would be blank; the layers before it do no better. ReLUs that are all dead, weights that are zero, "
        "no_grad or a detach inside the model have this effect. Look at the weights and at how the images are "
        "normalised; if the model hides its gradient alone, take a method without one, such as occlusion or rise."
    )


def _offer(calls: list[Call]) -> str:
    names = list(dict.fromkeys(call.site.name for call in list_spatial(calls)))
    return ", ".join(map(repr, names[:-4:-1]))
