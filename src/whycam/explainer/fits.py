"""Which map methods a model can be explained by: what a method needs, against what its cut gives."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from whycam.cam.registry import Method, iter_methods
from whycam.errors import UserError
from whycam.model.cut.base import Cut
from whycam.model.cut.own import BlindCut, SelfCut

WITHOUT_FEATURES = {"scores", "image"}
_INSIDE = {"attention", "image gradients"}


def cut_itself(
    model: SelfCut, images: Tensor, layer: object | Sequence[object] | None, methods: Sequence[Method]
) -> list[Cut]:
    """The cuts of a model that says itself where it can be cut.

    Raises:
        UserError: no such layer, or nothing to cut at.
    """
    reads = any(method.needs not in WITHOUT_FEATURES for method in methods)
    layers = list(layer) if isinstance(layer, list | tuple) else [layer]
    if wrong := [one for one in layers if not isinstance(one, str | Cut | None)]:
        raise UserError(f"Found {wrong[0]!r} as a layer; expected the name of a tensor or node of the graph.")
    return [
        one if isinstance(one, Cut) else model.cut_for(images, one, reads_features=reads)  # type: ignore[arg-type]
        for one in layers
    ]


def check_methods(module: nn.Module, cuts: Sequence[Cut], methods: Sequence[Method]) -> None:
    """Refuses a method that needs what the model does not give, naming those that work.

    Raises:
        UserError: such a method.
    """
    for method in methods:
        if fits(method, module, cuts[-1]):
            continue
        if method.needs == "linear head" and isinstance(module, SelfCut):
            raise UserError(cuts[-1].why_not_linear or f"Layer {cuts[-1].layer!r} is not the one before pooling.")
        names = [each.name for each in iter_methods() if each.needs != "image" and fits(each, module, cuts[-1])]
        raise UserError(
            f"{method.name} needs {_NAMES.get(method.needs, method.needs)}, which this model does not give: "
            f"it is run by another library than torch. What works on it: {', '.join(names)}."
        )


_NAMES = {"image gradients": "gradients of the image", "attention": "the attention inside the model"}


def fits(method: Method, module: nn.Module, cut: Cut) -> bool:
    """Whether the model, cut there, gives what the method needs."""
    if isinstance(cut, BlindCut) and method.needs not in WITHOUT_FEATURES:
        return False
    if isinstance(module, SelfCut):
        # What combines several layers would take gradients at those before the head.
        is_inside = method.needs in _INSIDE or method.layers > 1
        if is_inside or (method.needs == "linear head" and cut.weight is None):
            return False
    return cut.has_gradient or method.needs != "gradients"
