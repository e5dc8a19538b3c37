"""Which parameters of a backbone are trained after the head, and how its normalisation behaves meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from timm.models import group_parameters
from timm.optim import param_groups_layer_decay
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from whycam.config import TrainOptions
from whycam.config.wrong import name_option
from whycam.errors import UserError

# "last" is this share of the backbone's blocks, counted from its end.
_LAST_SHARE = 1 / 3


def check_finetuning(options: TrainOptions) -> None:
    """Refuses options of a network's training where the backbone stays frozen: they would do nothing in silence.

    Raises:
        UserError: there is one.
    """
    if options.scratch or options.unfreeze != "none":
        return
    usual = TrainOptions()
    given = [
        name for name in ("ema", "randaugment", "finetune_decay") if getattr(options, name) != getattr(usual, name)
    ]
    if given:
        word = name_option(given[0])
        raise UserError(
            f"Found {word} for a frozen backbone, on whose stored features it does nothing; expected it beside "
            f"--unfreeze or --scratch. Give one of them, or leave {word} out."
        )


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
    backbone: nn.Module,
    head: nn.ModuleDict,
    depth: Literal["last", "all"],
    lr: float,
    *,
    decay: float = 1.0,
    weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """Optimiser groups of the fine-tuned part of the backbone and of the head; the rest of the backbone is frozen.

    Args:
        backbone: a timm network.
        head: what stands behind it.
        depth: how much of the backbone is trained.
        lr: of the head, and of the backbone's last layer.
        decay: a layer's learning rate over that of the next one up (Bao et al., arXiv:2106.08254, by timm); 1: one for
            all.
        weight_decay: of the backbone's layers where their rates differ; biases and norms then have none.
    """
    backbone.requires_grad_(requires_grad=False)
    chosen = list(list_trainable(backbone, depth))
    for parameter in chosen:
        parameter.requires_grad_()
    own = {"params": list(head.parameters()), "lr": lr}
    if decay == 1:
        return [{"params": chosen, "lr": lr}, own]
    # The head first: the rate that is told of an epoch is the first group's.
    groups = param_groups_layer_decay(backbone, weight_decay, layer_decay=decay)
    return [own, *({**group, "lr": lr * group["lr_scale"]} for group in groups)]


def freeze_batch_norm(module: nn.Module) -> None:
    """Batch normalisation keeps its ImageNet statistics: those of a few hundred photos in small batches are worse."""
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.eval()
