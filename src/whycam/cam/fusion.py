"""Several layers' maps in one: a deep layer knows what, an early one where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from whycam.cam.gradient import grad_cam_plus_plus
from whycam.cam.registry import Pass, method
from whycam.errors import UserError

Rule = Literal["mean", "max", "product", "tanh-max"]
_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


@method(
    "refine-cam",
    needs="gradients",
    paper="arXiv:2605.14641",
    differs="Always: a cell counts only where the maps of all the layers have it; on the logit's unit it depends as "
    "grad-cam++ does.",
    cost="a forward pass, and the tail backwards, for each layer",
    layers=3,
)
def refine_cam(p: Pass) -> Tensor:
    """prod_layers minmax(resize(M_l)), M_l the layers' maps by grad-cam++; in [0, 1], with the size of the largest."""
    return fuse_maps([grad_cam_plus_plus(q) for q in (*p.others, p)], "product")


def fuse_maps(maps: Sequence[Tensor], rule: Rule) -> Tensor:
    """One map of several layers' (N, h, w), resized (bilinear, half-pixel centres) to the largest.

    The scales of two layers' maps have nothing to do with each other, so each is first divided by its image's largest
    absolute value ("mean", "max": the sign stays), scaled from least and largest to [0, 1] ("product", after
    arXiv:2605.14641), or has tanh(2 M / max M) taken of its positive part ("tanh-max", LayerCAM's way with its early
    layers). A map that is the same everywhere becomes zero where that division has no meaning.

    Raises:
        UserError: no maps, or an unknown rule.
    """
    if not maps or rule not in get_args(Rule):
        raise UserError(
            f"Found {len(maps)} maps and rule {rule!r}; expected one or more maps (N, h, w) and one of "
            f"{', '.join(get_args(Rule))}. For example: fuse_maps([early, late], 'product')."
        )
    size = max((m.shape[1:] for m in maps), key=lambda shape: shape.numel())
    scaled = torch.stack([_scale(_resize(m, size), rule) for m in maps])
    if rule == "mean":
        return scaled.mean(0)
    return scaled.prod(0) if rule == "product" else scaled.amax(0)


def _resize(maps: Tensor, size: torch.Size) -> Tensor:
    if maps.shape[1:] == size:
        return maps
    return functional.interpolate(maps[:, None], tuple(size), mode=_MODES[len(size)], align_corners=False)[:, 0]


def _scale(maps: Tensor, rule: Rule) -> Tensor:
    flat = maps.flatten(1)
    if rule == "product":
        flat = flat - flat.amin(1, keepdim=True)
    elif rule == "tanh-max":
        flat = flat.relu()
    largest = flat.abs().amax(1, keepdim=True)
    flat = torch.where(largest > 0, flat / largest, 0)
    return (torch.tanh(2 * flat) if rule == "tanh-max" else flat).view(maps.shape)
