"""Which parameters of a backbone are trained after the head, and how its normalisation behaves meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from timm.models import group_parameters
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

# "last" is this share of the backbone's blocks, counted from its end.
_LAST_SHARE = 1 / 3


def list_trainable(backbone: nn.Module, depth: Literal["last", "all"]) -> Iterator[nn.Parameter]:
    """The backbone's parameters that are fine-tuned: all, or those of its last third of blocks as timm orders them."""
    if depth == "all":
        yield from backbone.parameters()
        return
    matcher: Any = backbone.group_matcher
    groups = group_parameters(backbone, matcher(coarse=False), reverse=True)
    first = max(groups.values()) * (1 - _LAST_SHARE)
    for name, parameter in backbone.named_parameters():
        if groups.get(name, -1) > first:
            yield parameter


def make_groups(
    backbone: nn.Module, head: nn.ModuleDict, depth: Literal["last", "all"], lr: float
) -> list[dict[str, Any]]:
    """Optimiser groups of the fine-tuned part of the backbone and of the head; the rest of the backbone is frozen."""
    backbone.requires_grad_(requires_grad=False)
    chosen = list(list_trainable(backbone, depth))
    for parameter in chosen:
        parameter.requires_grad_()
    return [{"params": chosen, "lr": lr}, {"params": list(head.parameters()), "lr": lr}]


def freeze_batch_norm(module: nn.Module) -> None:
    """Batch normalisation keeps its ImageNet statistics: those of a few hundred photos in small batches are worse."""
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.eval()
