"""Maps from many scores of changed images or features: the Score-CAM family, ablation, recipro-cam, rise, occlusion.

Memory is bounded by `Pass.chunk` changed images, however many a method needs. A new method of this kind is added here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional

from whycam.cam.registry import Pass, method
from whycam.errors import UserError

_MOST_CELLS = 56  # per axis; a cell is 4 px of 224, and a RISE mask's is 32
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
_POOL: dict[int, Callable[..., Tensor]] = {
    1: functional.adaptive_avg_pool1d,
    2: functional.adaptive_avg_pool2d,
    3: functional.adaptive_avg_pool3d,
}
_PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@method(
    "score-cam",
    needs="features and scores",
    paper="arXiv:1910.01279, alg. 1",
    differs="Always: weights come from what each channel's region scores alone, through a softmax that depends on the "
    "logit's unit, as in the paper.",
    cost="one forward pass per live channel",
)
def score_cam(p: Pass) -> Tensor:
    """ReLU(sum_k a_k A_k), a = softmax_k(f(X * H_k) - f(X_b)), H_k = minmax(up(A_k)).

    X_b is the blank image, 0 after normalisation: the mean colour. A constant channel's mask is 0, so its gain is
    exactly 0: it takes its share exp(0) of the softmax and no forward pass. The softmax makes the map depend on the
    score's scale, as the paper's does. Option `dtype` runs the passes in bfloat16 or float16.

    Paper: arXiv:1910.01279, algorithm 1.
    """
    return _weighted(p, _mean_gain(p, 1, lambda masks, _: masks))


@method(
    "ss-cam",
    needs="features and scores",
    paper="arXiv:2006.14255, alg. 1",
    differs="Always, as score-cam (the logit's unit too); its masks are noisy.",
    cost="`samples` (35) forward passes per live channel",
)
def ss_cam(p: Pass) -> Tensor:
    """score-cam with the gain averaged over masks H_k + noise, noise ~ Normal(0, `sigma`) per pixel.

    Options: `samples` 35, `sigma` 2 (of a mask in [0, 1]), `dtype`. One noise field per sample is shared by all
    channels and images: every channel's expectation is the paper's, and channels are compared under the same noise.

    Paper: arXiv:2006.14255, algorithm 1. Differs: a constant channel's gain is 0 rather than that of noise alone.
    """
    samples = _at_least_one(p, "samples", 35)
    noise = torch.randn(samples, 1, *p.images.shape[2:], generator=_generator(p)) * p.option("sigma", 2.0)
    noise = noise.to(p.images)
    return _weighted(p, _mean_gain(p, samples, lambda masks, i: masks + noise[i]))


@method(
    "is-cam",
    needs="features and scores",
    paper="arXiv:2010.03023",
    differs="Always, as score-cam (the logit's unit too); its masks fade in.",
    cost="`samples` (10) forward passes per live channel",
)
def is_cam(p: Pass) -> Tensor:
    """score-cam with the gain averaged over masks H_k i/n, i = 1..n: the integral from the blank to the masked image.

    Options: `samples` n = 10, `dtype`.

    Paper: arXiv:2010.03023.
    """
    samples = _at_least_one(p, "samples", 10)
    return _weighted(p, _mean_gain(p, samples, lambda masks, i: masks * ((i + 1) / samples)))


@method(
    "ablation-cam",
    needs="tail scores",
    paper="Desai & Ramaswamy, WACV 2020, eq. 2-3",
    differs="Behind a layer that is not the last before GAP and a linear head.",
    cost="nothing on a linear head; else one tail run per live channel",
)
def ablation_cam(p: Pass) -> Tensor:
    """ReLU(sum_k w_k A_k), w_k = y - y_k, where y_k is the score with channel k set to zero.

    Differs: the paper divides w_k by y, which only scales the map when y > 0 and inverts it when y < 0; it is left
    out. A channel that is zero everywhere has w_k = 0 exactly.

    Paper: WACV 2020, equations 2 and 3.
    """
    return _weighted(p, _ablation_drops(p))


@method(
    "recipro-cam",
    needs="tail scores",
    paper="arXiv:2209.14074, sec. 3",
    differs="Always: a cell counts by the probability that it gives alone, through a softmax that depends on the "
    "logit's unit, as in the paper.",
    cost="one tail run per cell: 49 for a map of 7 x 7",
)
def recipro_cam(p: Pass) -> Tensor:
    """minmax_ij softmax(tail(A * G_ij))_c, G_ij the 3 x 3 Gaussian (1 2 1)/4 x (1 2 1)/4 around cell ij, else 0.

    The map is scaled to [0, 1] for each image, as in the paper; a flat one is zero. Of a single logit the sigmoid is
    taken. Option `score`: `softmax`, or `logit` for the explained score itself: behind GAP and a linear head that is
    the class map smoothed by the Gaussian. A difference of two classes or a function is always taken itself.

    Paper: arXiv:2209.14074, section 3. Differs: the authors' program spreads each cell's own features over its
    neighbours, where the paper masks the map.
    """
    is_share = _takes_share(p)
    grid = p.features.shape[2:]
    cells = torch.cartesian_prod(p.rows, *(torch.arange(side, device=p.rows.device) for side in grid))  # (N * cells, d)
    kernels = [_make_gaussian(side).to(p.features) for side in grid]
    scores = []
    with torch.no_grad():
        for part in torch.split(cells, p.chunk):
            rows, *where = part.unbind(1)
            features = p.features[rows]
            for axis, (kernel, index) in enumerate(zip(kernels, where, strict=True)):
                shape = [-1 if a == axis else 1 for a in range(len(grid))]
                features = features * kernel[index].view(len(part), 1, *shape)
            output = p.tail(features, rows)
            scores.append(_read_share(p, output, rows) if is_share else p.score(output, rows).double())
    return _minmax(torch.cat(scores).reshape(len(p.features), 1, *grid))[:, 0].to(p.features)


@method(
    "rise",
    needs="scores",
    paper="arXiv:1806.07421, eq. 6",
    differs="Always: it sees nothing of the model but scores, at the image's resolution.",
    cost="`masks` (2000) forward passes",
    is_signed=True,
)
def rise(p: Pass) -> Tensor:
    """sum_i f(X * M_i) M_i / (n E[M]): the mean score of the masks that let a position through.

    The n random masks are a grid of 0 and 1, drawn at `probability`, enlarged bilinearly and shifted by less than a
    cell. They come from the seed alone and are the same for every image. Hidden is 0 after normalisation: the mean
    colour. Masks are averaged to at most 56 cells per axis; the mean score is part of the map, as in the paper.
    Options: `masks` 2000, `grid` 7, `probability` 0.5, `dtype`.

    Paper: arXiv:1806.07421, equation 6. Differs: f is the explained score, by default a logit.
    """
    count, probability = _at_least_one(p, "masks", 2000), p.option("probability", 0.5)
    if not 0 < probability <= 1:
        raise UserError(f"Option 'probability' is {probability}; expected above 0, at most 1. Try probability=0.5.")
    total = 0.0
    for masks in _random_masks(p, count, probability):  # (B, 1, H, W)
        images = (image * masks for image in p.images)
        scores = torch.stack([_scores(p, part, p.rows[i].expand(len(part))) for i, part in enumerate(images)])
        cells = to_cells(masks)[:, 0]
        # A sum in float64 is the same to float32's last digit, however it is cut into chunks.
        total = total + torch.tensordot(scores.double(), cells.double(), dims=1)
    return torch.as_tensor(total / (count * probability)).float()


@method(
    "occlusion",
    needs="scores",
    paper="arXiv:1311.2901, sec. 4.2",
    differs="Always: it sees nothing of the model but scores, and only one patch at a time.",
    cost="one forward pass per position: 196 for the default patches",
    is_signed=True,
)
def occlusion(p: Pass) -> Tensor:
    """f(X) - f(X with one patch hidden), one value per position of the patch; negative where hiding helps.

    Positions are the centres of ceil(H/stride) x ceil(W/stride) equal cells, so that the map covers the image whether
    or not the stride divides it; patches are cut off at the border. Hidden is 0 after normalisation: the mean colour.
    Options in pixels: `patch` (a seventh of the shorter side), `stride` (half a patch), and `dtype`.

    Paper: arXiv:1311.2901.
    """
    sides = p.images.shape[2:]
    patch = _at_least_one(p, "patch", max(1, min(sides) // 7))
    stride = _at_least_one(p, "stride", max(1, patch // 2))
    if patch < stride:
        raise UserError(
            f"Patches of {patch} px every {stride} px leave pixels untouched. Choose stride={patch} or less."
        )
    hidden = [_patch_spans(side, patch, stride).to(p.images.device) for side in sides]
    grid = [len(spans) for spans in hidden]
    whole = _scores(p, p.images, p.rows)
    cells = torch.cartesian_prod(p.rows, *(torch.arange(n, device=p.images.device) for n in grid))  # (N * cells, 1 + d)
    drops = []
    for part in torch.split(cells, p.chunk):
        rows, *where = part.unbind(1)
        inside = torch.ones(len(part), *[1] * len(sides), dtype=torch.bool, device=part.device)
        for axis, (spans, index) in enumerate(zip(hidden, where, strict=True)):
            inside = inside & spans[index].view(len(part), *[-1 if a == axis else 1 for a in range(len(sides))])
        drops.append(whole[rows] - _scores(p, p.images[rows].masked_fill(inside[:, None], 0), rows))
    return torch.cat(drops).reshape(len(p.images), *grid)


def _weighted(p: Pass, weights: Tensor) -> Tensor:
    return torch.einsum("nc...,nc->n...", p.features, weights.to(p.features)).relu()


def _mean_gain(p: Pass, samples: int, vary: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Weights (N, C): softmax over channels of the mean over samples of f(X * vary(H_k, i)) - f(X_b)."""
    flat = p.features.flatten(2)
    live = (flat.amax(2) > flat.amin(2)).nonzero()  # (pairs, 2) of image and channel
    blank = _scores(p, torch.zeros_like(p.images[:1]).expand_as(p.images), p.rows)
    gains = torch.zeros_like(flat[..., 0])
    for pairs in torch.split(live, p.chunk):
        rows, channels = pairs.unbind(1)
        masks = _minmax(_enlarge(p.features[rows, channels].unsqueeze(1), p.images.shape[2:])).to(p.images)
        total = sum(_scores(p, p.images[rows] * vary(masks, i), rows) for i in range(samples))
        gains[rows, channels] = (total / samples - blank[rows]).to(gains)
    return gains.softmax(1)


def _ablation_drops(p: Pass) -> Tensor:
    """Drops (N, C): the score less the score without the channel."""
    whole = p.scores_of_features(p.features, p.rows)
    flat = p.features.flatten(2)
    closed = _linear_parts(p, whole)
    if closed is not None:
        return closed
    drops = torch.zeros_like(flat[..., 0])
    for pairs in torch.split(flat.any(2).nonzero(), p.chunk):
        rows, channels = pairs.unbind(1)
        ablated = p.features[rows]
        ablated[torch.arange(len(pairs), device=pairs.device), channels] = 0
        drops[rows, channels] = (whole[rows] - p.scores_of_features(ablated, rows)).to(drops)
    return drops


def _takes_share(p: Pass) -> bool:
    """Whether recipro-cam reads a class's probability, and not the explained score itself."""
    name = p.option("score", "softmax")
    if name not in {"softmax", "logit"}:
        raise UserError(f"Option 'score' is {name!r}; expected softmax or logit. For example: score='logit'.")
    return name == "softmax" and p.versus is None and not bool((p.target < 0).any())


def _read_share(p: Pass, output: object, rows: Tensor) -> Tensor:
    """(B,) float64: the target's share of a softmax; of a single logit the sigmoid of the side that is explained."""
    logits = p.logits(output).double()
    if logits.shape[1] == 1:
        return p.score(output, rows).double().sigmoid()
    return logits.softmax(1).gather(1, p.target[rows, None])[:, 0]


def _make_gaussian(side: int) -> Tensor:
    """(side, side): for each cell of one axis 1/2 there and 1/4 beside it."""
    cells = torch.arange(side)
    return (0.5 - 0.25 * (cells[:, None] - cells).abs()).clamp(min=0)


def _linear_parts(p: Pass, whole: Tensor) -> Tensor | None:
    """w_kc mean(A_k), (N, C), where the explained score is a linear head's own logit; else None."""
    if p.weight is None or (p.target < 0).any():
        return None
    parts = p.weight[p.target] * p.features.flatten(2).mean(2)
    logits = parts.sum(1) + (0 if p.bias is None else p.bias[p.target])
    # A probability, a margin or any other score of the same head is not that sum.
    size = parts.abs().sum(1) + logits.abs()
    return parts if ((logits - whole).abs() <= 1e-4 * size).all() else None


def _random_masks(p: Pass, count: int, probability: float) -> Iterator[Tensor]:
    """RISE's masks (B, 1, H, W) in chunks; the same masks whatever the chunk."""
    generator, grid, sides = _generator(p), _at_least_one(p, "grid", 7), p.images.shape[2:]
    steps = [-(-side // grid) for side in sides]  # the size of a cell, in pixels
    coarse = (torch.rand(count, 1, *[grid] * len(sides), generator=generator) < probability).float()
    shifts = torch.stack([torch.randint(step, (count,), generator=generator) for step in steps], 1).tolist()
    for start in range(0, count, p.chunk):
        large = _enlarge(coarse[start : start + p.chunk].to(p.images), [(grid + 1) * step for step in steps])
        parts = zip(large, shifts[start : start + p.chunk], strict=True)
        yield torch.stack([mask[_window(shift, sides)] for mask, shift in parts])


def _window(first: list[int], sides: torch.Size) -> tuple[slice, ...]:
    return (slice(None), *(slice(a, a + side) for a, side in zip(first, sides, strict=True)))


def _patch_spans(side: int, patch: int, stride: int) -> Tensor:
    """(positions, side) bool: the pixels along one axis that the patch hides at each position."""
    count = -(-side // stride)
    first = ((torch.arange(count) + 0.5) * (side / count) - patch / 2).round()[:, None]
    pixels = torch.arange(side)
    return (pixels >= first) & (pixels < first + patch)


def _scores(p: Pass, images: Tensor, rows: Tensor) -> Tensor:
    """Scores (B,) of the images, with the passes in the precision of option `dtype`."""
    name = p.option("dtype", "float32").removeprefix("torch.")
    if name not in _PRECISIONS:
        raise UserError(
            f"Option 'dtype' is {name!r}; expected {', '.join(_PRECISIONS)}. For example: dtype='bfloat16'."
        )
    dtype = _PRECISIONS[name]
    context: AbstractContextManager[object] = torch.autocast(images.device.type, dtype) if dtype else nullcontext()
    with context:
        return p.scores_of_images(images, rows)


def _generator(p: Pass) -> torch.Generator:
    # On the CPU, so that every device draws the same.
    return torch.Generator().manual_seed(p.seed)


def _at_least_one(p: Pass, name: str, default: int) -> int:
    value = p.option(name, default)
    if value < 1:
        raise UserError(f"Option {name!r} is {value}; expected 1 or more. For example: {name}={default}.")
    return value


def _enlarge(maps: Tensor, size: list[int] | torch.Size) -> Tensor:
    """Maps (B, 1, ...) resized linearly, by pixel centres."""
    if maps.ndim - 2 != len(size):
        raise UserError(
            f"The features have {maps.ndim - 2} spatial axes and the images {len(size)}; expected as many. "
            "Choose a layer whose features lie on the image, or method 'rise' or 'occlusion'."
        )
    return functional.interpolate(maps, list(size), mode=_LINEAR[len(size)], align_corners=False)


def _minmax(maps: Tensor) -> Tensor:
    """Maps (B, 1, ...) scaled to [0, 1] each; zero where constant."""
    flat = maps.flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    return torch.where(high > low, (flat - low) / (high - low), 0).view_as(maps)


def to_cells(maps: Tensor) -> Tensor:
    """Maps (B, C, ...) averaged to at most 56 cells per axis."""
    size = tuple(min(_MOST_CELLS, side) for side in maps.shape[2:])
    return _POOL[len(size)](maps, size)
