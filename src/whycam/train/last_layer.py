"""The last layer alone, fitted once more to weighted photos: to groups of equal weight, or to what a first head misses.

Add a way to weigh photos as one function here; `retrain.py` reads its photos and chooses its numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

# A convex problem: far fewer suffice.
_STEPS = 100


@dataclass(frozen=True)
class Layer:
    """logits (N, K) = pooled features (N, C) @ weight (K, C) + bias (K,)."""

    weight: Tensor
    bias: Tensor

    @property
    def zeros(self) -> Layer:
        """A layer of that shape that says nothing."""
        return Layer(torch.zeros_like(self.weight), torch.zeros_like(self.bias))

    def __call__(self, pooled: Tensor) -> Tensor:
        """(N, K) logits."""
        return functional.linear(pooled, self.weight, self.bias)


@dataclass(frozen=True)
class Stillness:
    """Changes of photos that should change no answer.

    Attributes:
        changes: (M, C) of their features.
        weights: (M,) of the logits' squared change, what all classes share left out.
    """

    changes: Tensor
    weights: Tensor


def fit_layer(
    pooled: Tensor, labels: Tensor, weights: Tensor, towards: Layer, *, decay: float, still: Stillness | None = None
) -> Layer:
    """The layer with the least `sum_i weights_i loss_i + decay ||(W - towards) s||^2`, by L-BFGS from `towards`.

    `s` are the features' standard deviations, so that `decay` means the same for every backbone; the bias is free.
    With `still`, its weighted penalty is added.

    Args:
        pooled: (N, C) features.
        labels: (N,) classes.
        weights: (N,), not negative; scaled to the sum 1.
        towards: the layer to stay near; one of zeros makes it plain ridge.
        decay: 0 or more.
        still: what should change no answer.
    """
    values = pooled.double()
    mean, spread = values.mean(dim=0), values.std(dim=0, unbiased=False)
    # A feature that is the same on all these photos says nothing here; its weight stays.
    spread = torch.where(spread > 1e-6, spread, torch.zeros_like(spread))
    scale = torch.where(spread > 0, 1 / spread.clamp(min=1e-6), torch.zeros_like(spread))
    values = (values - mean) * scale
    share = weights.double() / weights.sum()
    first = towards.weight.double() * spread
    rest = towards.weight.double() * (spread == 0)
    weight = first.clone().requires_grad_()
    bias = (towards.bias.double() + towards.weight.double() @ mean).requires_grad_()
    moves = None if still is None else still.changes.double() * scale
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=_STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-5, tolerance_change=1e-7
    )

    def measure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(functional.linear(values, weight, bias), labels, reduction="none")
        total = (share * loss).sum() + decay * (weight - first).square().sum()
        if moves is not None and still is not None:
            moved = moves @ weight.T
            squared = (moved - moved.mean(dim=1, keepdim=True)).square().sum(dim=1)
            total = total + (still.weights.double() * squared).sum()
        total.backward()
        return total

    optimizer.step(measure)
    final = weight.detach() * scale + rest
    return Layer(final.to(pooled.dtype), (bias.detach() - final @ mean).to(pooled.dtype))


def weigh_groups(groups: Tensor) -> Tensor:
    """(N,) weights with which each group counts the same; groups (N,) are numbers, photos under 0 count nothing.

    Paper: DFR, Kirichenko et al., arXiv:2204.02937, section 4.
    Differs: it draws ten subsets with as many photos of each group, and averages the layers fitted to them; here every
    photo is in one fit, with one over its group's count as its weight, which is what a group-balanced batch is on
    average. Small groups lose no photo to the draw, and nothing is random.
    """
    counts = torch.bincount(groups.clamp(min=0)[groups >= 0])
    return torch.where(groups >= 0, 1 / counts[groups.clamp(min=0)].clamp(min=1), torch.zeros(len(groups)))


def weigh_missed(logits: Tensor, labels: Tensor, gamma: float, classes: int) -> Tensor:
    """(N,) weights `beta_y exp(-gamma p)`, p the probability of the true class by logits (N, K), beta_y 1 / count of y.

    Paper: AFR, Qiu et al., arXiv:2306.11074, eq. 2-3.
    """
    truth = logits.softmax(dim=1).gather(1, labels[:, None])[:, 0]
    counts = torch.bincount(labels, minlength=classes).clamp(min=1)
    return torch.exp(-gamma * truth) / counts[labels]
