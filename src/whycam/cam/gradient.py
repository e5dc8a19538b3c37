"""Maps from the score's gradient at the features: the backbone is never differentiated, only the tail.

A new method of that kind is added here. In the formulas A_k is channel k of the features, g = d score / d A, and sums
and means run over the cells.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from whycam.cam.decomposition import first_component
from whycam.cam.registry import Pass, method
from whycam.errors import UserError


@method(
    "grad-cam",
    needs="gradients",
    paper="arXiv:1610.02391, eq. 1-2",
    differs="Where more than pooling and one linear layer follows; there it is the positive part of CAM / (h w).",
    cost="one forward pass, and the tail backwards",
)
def grad_cam(p: Pass) -> Tensor:
    """ReLU(sum_k mean(g_k) A_k), in the score's unit over the number of cells."""
    return _weigh(p.features, _mean(p.gradients)).relu()


@method(
    "grad-cam++",
    needs="gradients",
    paper="arXiv:1710.11063, eq. 19",
    differs="Always: only positive gradients count, less so in channels with large sums; how much less depends on the "
    "logit's unit, as in the paper (unit='max' is free of it).",
    cost="one forward pass, and the tail backwards",
)
def grad_cam_plus_plus(p: Pass) -> Tensor:
    """ReLU(sum_k w_k A_k), w_k = sum alpha ReLU(g_k), alpha = g^2 / (2 g^2 + (sum_ab ReLU(A_ab)) g^3).

    Where the gradient is not positive alpha has no part in the map; it lies in (0, 1/2] elsewhere. The paper's score is
    exp(logit), whose factor exp(logit) is left out of w: it only scales the map. As alpha compares 2 with (sum A) g,
    the formula fixes the logit's unit: a logit of half the size gives a slightly different map. The option `unit="max"`
    counts g in units of its largest |g| instead, for maps that are the same for any size of the logit.

    Differs: the paper's features are those behind a ReLU. Of others the positive part is summed, since a negative sum
    takes the denominator through zero, where a few channels drown the rest and half the logit has another map.
    """
    return _plus_plus(p, p.gradients[None])


@method(
    "smooth-grad-cam++",
    needs="gradients",
    paper="arXiv:1908.01224, eq. 6-8",
    differs="Always, as grad-cam++ (the logit's unit too), with gradients averaged over noisy copies of the image.",
    cost="`samples` forward passes, and as many tails backwards",
)
def smooth_grad_cam_plus_plus(p: Pass) -> Tensor:
    """Grad-CAM++ with alpha = D_2 / (2 D_2 + (sum ReLU(A)) D_3), w = sum alpha ReLU(D_1), D_n the mean g^n in noise.

    Where the denominator is not positive alpha is 0. A and its sum are the clean image's. The noise is normal with
    standard deviation `noise` times the image's range, `samples` draws from the seed, the same for every image. `unit`
    as in grad-cam++.
    """
    if p.retrace is None:
        raise UserError(
            "smooth-grad-cam++ runs the model again on noisy images; found features alone. Explain the model itself: "
            "whycam.explain(module, images, method='smooth-grad-cam++')."
        )
    samples, noise = max(1, p.option("samples", 8)), p.option("noise", 0.15)
    flat = p.images.flatten(1)
    spread = noise * (flat.amax(1) - flat.amin(1)).view(-1, *[1] * (p.images.ndim - 1))
    generator = torch.Generator().manual_seed(p.seed)
    gradients = []
    for _ in range(samples):
        draw = torch.randn(p.images.shape[1:], generator=generator).to(p.images)
        with torch.inference_mode(mode=False), torch.enable_grad():
            features, output = p.retrace(p.images + spread * draw)
            gradients.append(torch.autograd.grad(p.score(output, p.rows).sum(), features)[0])
    return _plus_plus(p, torch.stack(gradients))


@method(
    "xgrad-cam",
    needs="gradients",
    paper="arXiv:2008.02312, eq. 8",
    differs="Where more than pooling and one linear layer follows; there it is CAM / (h w).",
    cost="one forward pass, and the tail backwards",
    is_signed=True,
)
def xgrad_cam(p: Pass) -> Tensor:
    """sum_k w_k A_k, w_k = sum g_k A_k / sum A_k: each channel adds up to its gradient times its activation.

    A channel whose sum is zero has weight 0. The formula is meant for features behind a ReLU: with others a sum may
    come close to zero by chance, and that channel then drowns the rest.
    """
    total = p.features.flatten(2).sum(2)
    weight = (p.gradients * p.features).flatten(2).sum(2) / total
    return _weigh(p.features, torch.where(total == 0, 0, weight))


@method(
    "layer-cam",
    needs="gradients",
    paper="IEEE TIP 2021, doi:10.1109/TIP.2021.3089943, eq. 6-7",
    differs="At early layers above all: each cell has its own weight. With gradients that are the same in all cells, "
    "channels with a negative weight are left out of CAM.",
    cost="one forward pass, and the tail backwards",
)
def layer_cam(p: Pass) -> Tensor:
    """ReLU(sum_k ReLU(g_k) A_k)."""
    return (p.gradients.relu() * p.features).sum(1).relu()


@method(
    "hires-cam",
    needs="gradients",
    paper="arXiv:2011.08891, eq. 3",
    differs="Where more than pooling and one linear layer follows; there it is CAM / (h w), with the sum logit - bias.",
    cost="one forward pass, and the tail backwards",
    is_signed=True,
)
def hires_cam(p: Pass) -> Tensor:
    """sum_k g_k A_k, signed."""
    return (p.gradients * p.features).sum(1)


@method(
    "element-wise",
    needs="gradients",
    paper="Pillai and Pirsiavash, AAAI 2021, sec. 3",
    differs="Always: evidence against the class is dropped in each channel, not set off against evidence for it.",
    cost="one forward pass, and the tail backwards",
)
def element_wise(p: Pass) -> Tensor:
    """sum_k ReLU(g_k A_k)."""
    return (p.gradients * p.features).relu().sum(1)


@method(
    "eigen-grad-cam",
    needs="gradients",
    paper="eigen-cam (arXiv:2008.00299) of g A; no paper of its own",
    differs="Always: it shows what the channels' evidence has most in common, not its sum.",
    cost="one forward pass, the tail backwards, and an eigenproblem of side min(C, h w)",
    is_signed=True,
)
def eigen_grad_cam(p: Pass) -> Tensor:
    """G A projected on its first right singular vector v, not centred; signed so that sum_k v_k >= 0.

    The positive side is then the one that hires-cam, the sum of G A over the channels, has too: evidence for the class.
    """
    evidence = p.gradients * p.features
    maps = first_component(evidence)
    agreement = (maps * evidence.sum(1)).flatten(1).sum(1)
    return torch.where((agreement < 0).view(-1, *[1] * (maps.ndim - 1)), -maps, maps)


@method(
    "shapley-cam",
    needs="gradients",
    paper="arXiv:2501.06261, eq. 12",
    differs="By the curvature of the tail and of the softmax, whose sharpness is the logit's unit. With option "
    "score='logit', on pooling and one linear layer, it is grad-cam.",
    cost="one forward pass, and the tail forwards once and backwards twice",
)
def shapley_cam(p: Pass) -> Tensor:
    """ReLU(sum_k w_k A_k), w_k = mean(g_k - (H A)_k / 2), H the score's Hessian in all of the features.

    The score is the paper's ReST, logit + log softmax of the class, or with `score="logit"` the plain one, which is
    also taken where a function or a single logit is explained.
    """
    # The product with the Hessian goes backwards twice, which the fused attention kernels can't.
    with torch.inference_mode(mode=False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        features = p.features.detach().clone().requires_grad_()
        score = _residual_softmax(p, p.tail(features, p.rows)).sum()
        gradients = torch.autograd.grad(score, features, create_graph=True)[0]
        change = torch.zeros_like(gradients)
        if gradients.requires_grad:
            product = (gradients * features.detach()).sum()
            change = torch.autograd.grad(product, features, allow_unused=True, materialize_grads=True)[0]
    return _weigh(p.features, _mean((gradients - change / 2).detach())).relu()


@method(
    "finer-cam",
    needs="gradients",
    paper="arXiv:2501.11309, eq. 4-6",
    differs="Always: it shows what tells the class from those most like it, not what speaks for it.",
    cost="one forward pass, and the tail backwards",
)
def finer_cam(p: Pass) -> Tensor:
    """Grad-CAM of y_c - gamma mean_t y_t, over the `references` classes t with the logits nearest to y_c.

    With fewer other classes than `references` (3), all of them.

    Raises:
        UserError: no other class, or the target is a function.
    """
    gamma, references = p.option("gamma", 0.6), p.option("references", 3)
    with torch.inference_mode(mode=False):
        logits = p.logits(p.output).detach()
    if logits.shape[1] < 2 or (p.target < 0).any() or references < 1:
        is_function = bool((p.target < 0).any())
        found = "a function as the target" if is_function else f"{logits.shape[1]} class(es), {references} reference(s)"
        raise UserError(
            f"finer-cam compares a class with one or more others; found {found}. Explain a class of several, or take "
            "grad-cam."
        )
    with torch.inference_mode(mode=False):  # indices made in inference mode can't be part of a graph
        target = p.target[:, None].clone()
        distance = (logits - logits.gather(1, target)).abs().scatter(1, target, torch.inf)
        nearest = distance.topk(min(references, logits.shape[1] - 1), largest=False).indices  # (N, T)

    def score(output: object) -> Tensor:
        scores = p.logits(output)
        return scores.gather(1, target)[:, 0] - gamma * scores.gather(1, nearest).mean(1)

    return _weigh(p.features, _mean(p.differentiate(score))).relu()


def _mean(values: Tensor) -> Tensor:
    return values.flatten(2).mean(2)


def _weigh(features: Tensor, weight: Tensor) -> Tensor:
    """(N, h, w): the sum of the channels, each times its weight (N, C)."""
    return torch.einsum("nc...,nc->n...", features, weight)


def _plus_plus(p: Pass, gradients: Tensor) -> Tensor:
    """The map of grad-cam++, with D_n the mean of the n-th powers of gradients (samples, N, C, h, w)."""
    unit = p.option("unit", "logit")
    if unit not in {"logit", "max"}:
        raise UserError(f"Option 'unit' is {unit!r}; expected 'logit' or 'max'. For example: unit='max'.")
    axes = [1] * (p.features.ndim - 1)
    largest = gradients.abs().amax(0).flatten(1).amax(1).view(-1, *axes)
    scaled = torch.where(largest > 0, gradients / largest, 0)  # the powers of small gradients would vanish
    second, third = scaled.square().mean(0), scaled.pow(3).mean(0)
    total = p.features.relu().flatten(2).sum(2).view(*p.features.shape[:2], *axes[1:])
    denominator = 2 * second + total * third * (largest if unit == "logit" else 1)
    alpha = torch.where(denominator > 0, second / denominator, 0)
    return _weigh(p.features, (alpha * gradients.mean(0).relu()).flatten(2).sum(2)).relu()


def _residual_softmax(p: Pass, output: object) -> Tensor:
    name = p.option("score", "rest")
    if name not in {"rest", "logit"}:
        raise UserError(f"Option 'score' is {name!r}; expected 'rest' or 'logit'. For example: score='logit'.")
    logits = p.logits(output) if name == "rest" and (p.target >= 0).all() else None
    if logits is None or logits.shape[1] == 1:
        return p.score(output, p.rows)
    target = p.target[:, None].clone()  # one made in inference mode can't be part of a graph
    return (logits.gather(1, target) + logits.log_softmax(1).gather(1, target))[:, 0]
