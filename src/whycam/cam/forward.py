"""Methods that read the forward pass alone: the class activation map itself. Exact, and free.

A method is added here by one decorated function.
"""

from __future__ import annotations

import torch
from torch import Tensor

from whycam.cam.about import CAM, CONTRAST
from whycam.cam.registry import Pass, register
from whycam.errors import UserError


def read_class_weights(p: Pass) -> Tensor:
    """(N, C): each image's target's row of the classifier; of T targets (N, T, C), (1, T, C) if all images share them.

    Raises:
        UserError: the tail is not GAP + linear, or the target is no class.
    """
    if p.weight is None:
        raise UserError(
            "Found a model whose scores are not means of maps (its tail is not pooling followed by one linear layer); "
            "cam and contrast need that. Take a method that reads gradients, such as "
            "--method grad-cam, or train a GAP head on this backbone."
        )
    if bool((p.target < 0).any()):
        raise UserError("Found a callable target; cam explains a class. Give a class, or take --method grad-cam.")
    is_shared = p.target.ndim == 2 and bool((p.target == p.target[:1]).all())
    return p.weight[p.target[:1] if is_shared else p.target]


def _weigh(p: Pass, weight: Tensor) -> Tensor:
    return torch.einsum("ntc,nc...->nt..." if weight.ndim == 3 else "nc,nc...->n...", weight, p.features)


@register(CAM)
def cam(p: Pass) -> Tensor:
    """M = sum_k w_k^c F_k, signed, in the logit's unit: what each cell adds to the class's score."""
    return _weigh(p, read_class_weights(p))


@register(CONTRAST)
def contrast(p: Pass) -> Tensor:
    """M^a - M^b = sum_k (w_k^a - w_k^b) F_k, signed: evidence for the target a over the class b (option `versus`)."""
    if p.versus is None:
        raise UserError("The contrast map needs a second class; found none. Give --versus CLASS (versus= in Python).")
    weight = read_class_weights(p)
    assert p.weight is not None  # noqa: S101 - read_class_weights has refused that
    return _weigh(p, weight - p.weight[p.versus])
