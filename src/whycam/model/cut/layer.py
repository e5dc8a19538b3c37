"""Finds the layer to cut: the last one with cells that the output depends on, measured, not guessed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from whycam.errors import UserError, make_unknown_name
from whycam.model.cut.layout import Hints, Layout, find_layout, is_odd
from whycam.model.cut.output import Wanted
from whycam.model.cut.place import Place, find_moving, follows, measure_places
from whycam.model.cut.tail import Sample, Site, measure_gradient, trace_site, undisturbed

_MOST_TRIES = 16


class NoCellsError(UserError):
    """A model that has no layer with cells: what needs scores alone can do without."""


@dataclass(frozen=True, eq=False)
class Call:
    """One call of one module in the probe's forward pass.

    Attributes:
        site: the call.
        shape: of its output (of the first tensor of a tuple); () where there is none.
        layout: how that output holds cells; None if it doesn't.
        is_plain: whether its cells are those of a convolution in the model, which stand where they should.
        is_odd: whether its cells are of a number that nothing in the model speaks for.
        label: what names this call and no other: the layer's name; "NAME#k" for its k-th call if that isn't the last.
        note: what the reader of a map should know of the choice of this call; empty where there was none.
        sample: the pass by which the output was seen to depend on the cells; None where that wasn't asked.
    """

    site: Site
    shape: tuple[int, ...]
    layout: Layout | None
    is_plain: bool = False
    is_odd: bool = False
    label: str = ""
    note: str = ""
    sample: Sample | None = None


def record_calls(module: nn.Module, images: Tensor, wanted: Wanted = None) -> tuple[list[Call], object]:
    """Every module call of one forward pass, in the order in which they end, and the output."""
    names = {part: name for name, part in module.named_modules() if name}
    norms = [part for part in module.modules() if isinstance(part, nn.LayerNorm) and len(part.normalized_shape) == 1]
    widths = frozenset(norm.normalized_shape[0] for norm in norms)
    prefix = getattr(module, "num_prefix_tokens", None)
    calls: list[Call] = []
    grids: list[tuple[int, ...]] = []
    seen: Counter[nn.Module] = Counter()
    tokens = 0

    def record(part: nn.Module, _args: object, output: object) -> None:
        nonlocal tokens
        first = output[0] if isinstance(output, tuple) and output else output
        shape = tuple(first.shape) if isinstance(first, Tensor) and first.is_floating_point() else ()
        hints = Hints(prefix, widths, tuple(grids), tokens)
        layout = find_layout(shape, images.shape, hints)
        if layout is not None and layout.kind == "tokens":
            tokens = shape[1]
        if isinstance(part, nn.modules.conv._ConvNd) and len(shape) == images.ndim:
            grids.append(shape[2:])
        is_cube = len(set(shape[1:])) == 1  # with its channels first or last
        is_known = layout == Layout("channels first") and shape[2:] in grids and not is_cube
        is_guess = layout is not None and is_odd(layout, shape, hints)
        site = Site(module, part, names[part], seen[part], wanted)
        calls.append(Call(site, shape, layout, is_known, is_guess))
        seen[part] += 1

    with undisturbed(module, with_grad=False):
        hooks = [part.register_forward_hook(record) for part in names]
        torch.rand(1, device=images.device)  # other passes begin in the state before it: only noise will differ
        try:
            output = module(images)
        finally:
            for hook in hooks:
                hook.remove()
    return [replace(call, label=_name(call, seen[call.site.layer])) for call in calls], output


def _name(call: Call, count: int) -> str:
    site = call.site
    return site.name if site.call == count - 1 else f"{site.name}#{site.call + 1}"


def choose_call(calls: list[Call], images: Tensor, *, needs_gradient: bool = True) -> Call | None:
    """The last call with cells that follow the images and that the output depends on; among tokens, the last such norm.

    Behind a transformer's last attention only the class token matters, so that no gradient reaches the patches; a norm
    in front of it is where all of them still do. A call whose cells stand for other parts of the image is left out.
    """
    spatial = _list_moving(list_spatial(calls), images)
    last = spatial[-1]

    def try_out(call: Call) -> Call | None:
        sample = reach_output(call, images) if needs_gradient else None
        return settle(replace(call, sample=sample), images) if sample or not needs_gradient else None

    found = try_out(last)
    first = next((index for index, call in enumerate(spatial) if _is_tokens(call)), None)
    if found is None and first is not None and needs_gradient:
        # Among them stand maps that tokens were made of, or turned back to between two stages.
        behind = [call for call in spatial[first:] if not _is_tokens(call) or "Norm" in type(call.site.layer).__name__]
        spatial = [*spatial[:first], *behind]
    tries = (call for call in spatial[: -_MOST_TRIES - 1 : -1] if call is not last)
    found = found or next(filter(None, map(try_out, tries)), None)
    return found and _remark_parallel(found, calls, images)


def _list_moving(spatial: list[Call], images: Tensor) -> list[Call]:
    """The calls up to the last one that follows the images; all of them where none does."""
    if find_moving([spatial[-1].site], images)[0]:
        return spatial
    moves = find_moving([call.site for call in spatial], images)
    return [call for call, follows_images in zip(spatial, moves, strict=True) if follows_images] or spatial


def settle(call: Call, images: Tensor) -> Call | None:
    """The call with the order of its axes as measured; None if its cells stand for other parts of the image.

    Cells of an odd number must be seen to stand right.
    """
    return settle_all([call], images)[0][0]


def settle_all(calls: Sequence[Call], images: Tensor) -> list[tuple[Call | None, bool]]:
    """For each call the same, and whether its cells were seen to stand right or are known to."""
    unknown = [call for call in calls if not call.is_plain and call.layout]
    layouts = [call.layout for call in unknown if call.layout]
    places = dict(zip(unknown, measure_places([call.site for call in unknown], layouts, images), strict=True))
    return [(_apply(call, places.get(call)), call not in places or places[call].is_right) for call in calls]


def _apply(call: Call, place: Place | None) -> Call | None:
    if place is None:
        return call
    if place.is_elsewhere or (call.is_odd and not place.is_surely_right):
        return None
    return call if place.layout == call.layout else replace(call, layout=place.layout, sample=None)


def _remark_parallel(call: Call, calls: list[Call], images: Tensor) -> Call:
    """With a note where the layer runs on several things that all follow the images, none made of the other."""
    before = [other for other in _list_own(calls, call.site.layer) if other.site.call < call.site.call]
    if not before or not find_moving([before[-1].site], images)[0]:
        return call
    return call if follows(call.site, before[-1].site, images) else replace(call, note=_make_note(call, before))


def _make_note(call: Call, others: Sequence[Call]) -> str:
    numbers = ", ".join(str(other.site.call + 1) for other in others)
    name = call.site.name
    return (
        f"Layer {name!r} runs several times in one pass, and its calls {numbers} and {call.site.call + 1} follow the "
        f"images; the map is of call {call.site.call + 1}. layer='{name}#{others[-1].site.call + 1}' explains another."
    )


def _list_own(calls: list[Call], layer: nn.Module) -> list[Call]:
    return [call for call in calls if call.site.layer is layer and call.layout]


def list_spatial(calls: list[Call]) -> list[Call]:
    """The calls whose output has cells, first to last.

    Adaptive pooling, which may stretch a map, and the projections of tokens inside a block are left out.

    Raises:
        UserError: there are none.
    """
    spatial = [call for call in calls if call.layout and not _is_inner(call)]
    if not spatial:
        raise NoCellsError(
            f"None of the {len(calls)} layer calls gives features with cells (N, C, h, w) or tokens (N, L, C). A map "
            "needs such a layer; explain this model with a method of the image, such as occlusion, rise or full-grad."
        )
    return spatial


def _is_inner(call: Call) -> bool:
    is_projection = _is_tokens(call) and isinstance(call.site.layer, nn.Linear)
    return is_projection or type(call.site.layer).__name__.startswith("Adaptive")


def _is_tokens(call: Call) -> bool:
    return call.layout is not None and call.layout.kind == "tokens"


def find_call(module: nn.Module, calls: list[Call], layer: str | nn.Module, images: Tensor) -> Call:
    """A call of a layer given by module or dotted name: of several the last that follows the images.

    "NAME#2" is the second one.

    Raises:
        UserError: no such layer or call, one that didn't run, or whose output has no cells.
    """
    name, part, number = _find_layer(module, layer)
    own = [call for call in calls if call.site.layer is part]
    if not own:
        raise UserError(
            f"Layer {name!r} doesn't run when the model is called. Choose one that does, such as {_offer(calls)}."
        )
    if number is not None:
        if number not in {str(k) for k in range(1, 1 + len(own))}:
            raise UserError(
                f"Found layer='{name}#{number}', but {name!r} runs {len(own)} time(s) in one pass; expected a number "
                f"from 1 to {len(own)}. For example: layer='{name}#1'."
            )
        own = [replace(own[int(number) - 1], label=f"{name}#{number}")]
    spatial = _list_own(own, part)
    if not spatial:
        raise UserError(
            f"Layer {name!r} gives {own[-1].shape or 'no tensor'}; expected cells, (N, C, h, w) or tokens (N, L, C), "
            f"with the images first. Choose an earlier layer, such as {_offer(calls)}."
        )
    return spatial[0] if len(spatial) == 1 else _take_moving(spatial, images)


def _find_layer(module: nn.Module, layer: str | nn.Module) -> tuple[str, nn.Module, str | None]:
    """The layer's dotted name, the layer, and what stands behind a "#"; None where nothing does."""
    parts = dict(module.named_modules())
    if isinstance(layer, str):
        name, mark, number = layer.rpartition("#")
        if layer in parts or not mark:
            name, mark = layer, ""
        if name not in parts or not name:
            raise make_unknown_name("layer", name, [name for name in parts if name])
        return name, parts[name], number if mark else None
    for name, part in parts.items():
        if part is layer:
            return name, part, None
    raise UserError(
        f"The layer {type(layer).__name__} is not part of the {type(module).__name__}. Take it from that object: "
        "layer=model.layer4, or name it: layer='layer4'."
    )


def _take_moving(own: list[Call], images: Tensor) -> Call:
    """Of a layer's calls the last that follows the images, with a note if others do; the last of all if none does."""
    moves = find_moving([call.site for call in own], images)
    *others, last = [call for call, is_moving in zip(own, moves, strict=True) if is_moving] or own[-1:]
    return replace(last, note=_make_note(last, others)) if others else last


def reach_output(call: Call, images: Tensor) -> Sample | None:
    """A pass over the images, if any cell of the layer has a gradient: on the images, or on disturbed features."""
    if call.layout is None:
        return None
    first: Sample | None = None
    for disturb in (False, True):
        sample = trace_site(call.site, call.layout, images, disturb=disturb)
        first = first or sample
        gradient = measure_gradient(sample.wanted, sample.features)
        if gradient is not None and gradient.any():
            return first
        if _is_tokens(call):  # no ReLU there that real features could leave dead
            return None
    return None


def make_no_gradient(name: str, better: Call | None) -> UserError:
    """The error for a layer whose cells don't reach the output; `better` is one whose cells do."""
    found = f"The output doesn't depend on the cells of layer {name!r}: their gradient is exactly zero, so every map "
    if better:
        return UserError(
            f"{found}would be blank. Behind a transformer's last attention only the class token is read; an unused "
            f"branch, no_grad or a detach inside the model has the same effect. Take layer={better.label!r}, or "
            "leave the layer out."
        )
    return UserError(
        f"{found}would be blank; the layers before it do no better. ReLUs that are all dead, weights that are zero, "
        "no_grad or a detach inside the model have this effect. Look at the weights and at how the images are "
        "normalised; if the model hides its gradient alone, take a method without one, such as occlusion or rise."
    )


def make_elsewhere(name: str, better: Call | None) -> UserError:
    """The error for a layer whose cells stand for other parts of the image than they lie in."""
    remedy = (
        f"Take layer={better.label!r}, or leave the layer out."
        if better
        else "Name a layer before the tokens are put in that order, or take a method of the image, such as occlusion."
    )
    return UserError(
        f"The cells of layer {name!r} don't stand where they lie: they answer to changes in other parts of the image "
        "more than to those in their own. Tokens kept window by window, windows that are padded, and attention "
        f"matrices have this effect; a map read from them would be scrambled. {remedy}"
    )


def _offer(calls: list[Call]) -> str:
    names = list(dict.fromkeys(call.site.name for call in list_spatial(calls)))
    return ", ".join(map(repr, names[:-4:-1]))
