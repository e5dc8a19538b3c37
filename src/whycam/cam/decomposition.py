"""Maps from the structure of the features alone: eigen-cam, kpca-cam, fem, and dff with its concepts.

A new method that factors or thresholds the features, and asks the model for no gradient, is added here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from whycam.cam.registry import Pass, method
from whycam.errors import UserError

_MAX_KERNEL_POSITIONS = 4096


@method(
    "eigen-cam",
    needs="features",
    paper="arXiv:2008.00299, sec. 3",
    differs="Always: it never looks at the class, only at what the features have most in common.",
    cost="one forward pass",
    is_signed=True,
)
def eigen_cam(p: Pass) -> Tensor:
    """Position features projected on their first right singular vector: A v_1, signed, in the features' unit.

    Paper: arXiv:2008.00299. The features are not centred; `first_component` says how the sign is chosen.
    """
    return first_component(p.features)


@method(
    "kpca-cam",
    needs="features",
    paper="arXiv:2410.00267",
    differs="Always: class-free like eigen-cam, with a kernel in place of the plain inner product.",
    cost="one forward pass, and an eigenproblem of side h*w per image",
    is_signed=True,
)
def kpca_cam(p: Pass) -> Tensor:
    """First kernel principal component of the positions: u_1 sqrt(lambda_1) of the centred kernel, signed.

    With x_i the features at position i, less their mean: `kernel="sigmoid"` is tanh(gamma x_i.x_j + 1), the default
    of the paper's authors; `kernel="rbf"` is exp(-gamma |x_i - x_j|^2). `gamma` 0 stands for 1/C. The largest
    eigenvalue is taken by value, as the sigmoid kernel has negative ones too. Sign as in `first_component`.

    Paper: arXiv:2410.00267.

    Raises:
        UserError: an unknown kernel, or a grid of over 4,096 positions.
    """
    kernel, gamma = p.option("kernel", "sigmoid"), p.option("gamma", 0.0)
    if kernel not in {"sigmoid", "rbf"}:
        raise UserError(f"Option 'kernel' is {kernel!r}; expected 'sigmoid' or 'rbf'. For example: kernel='rbf'.")
    flat = _as_double(p.features).flatten(2).mT  # (N, hw, C)
    if flat.shape[1] > _MAX_KERNEL_POSITIONS:
        raise UserError(
            f"kpca-cam needs a kernel of side h*w, and these features {tuple(p.features.shape)} have {flat.shape[1]} "
            f"positions; expected at most {_MAX_KERNEL_POSITIONS}. Choose a deeper layer, or method 'eigen-cam'."
        )
    centred = flat - flat.mean(1, keepdim=True)
    gamma = gamma or 1 / flat.shape[2]
    maps = []
    for position in centred:  # one kernel at a time: (hw, hw) float64 is the memory
        gram = position @ position.mT
        norm = gram.diagonal()
        distance = (norm[:, None] + norm - 2 * gram).clamp(min=0)
        raw = torch.tanh(gamma * gram + 1) if kernel == "sigmoid" else torch.exp(-gamma * distance)
        raw = raw - raw.mean(0, keepdim=True)
        vectors, values = _leading(raw - raw.mean(1, keepdim=True), 1)
        maps.append(vectors[:, 0] * values[0].clamp(min=0).sqrt())
    return fix_sign(torch.stack(maps)).reshape(_map_shape(p.features)).to(p.features)


@method(
    "fem",
    needs="features",
    paper="Fuad et al., IPTA 2020, eq. 1-3",
    differs="Always: class-free; counts the positions where a channel is unusually strong.",
    cost="one forward pass",
)
def fem(p: Pass) -> Tensor:
    """Sum over channels of mu_k 1[A_k > mu_k + k sigma_k]: a channel votes with its mean where it is rare and strong.

    mu and sigma (of the population) are over the positions; option `k` is 2. A constant channel exceeds nothing, so
    it votes nowhere, and neither does any channel on k^2 + 1 positions or fewer. Negative only where channels have a
    negative mean.
    """
    flat = p.features.flatten(2)  # (N, C, hw)
    sigma, mu = torch.std_mean(flat, dim=2, correction=0, keepdim=True)
    # Rounding puts a constant channel's mean just below its values, and all of it would vote.
    is_rare = (flat > mu + p.option("k", 2.0) * sigma) & (flat.amax(2, keepdim=True) > flat.amin(2, keepdim=True))
    return (mu * is_rare).sum(1).reshape(_map_shape(p.features))


@method(
    "dff",
    needs="tail scores",
    paper="arXiv:1806.10206",
    differs="Always: shows where one concept lies, the one that raises the target's score most.",
    cost="one forward pass, a factorisation, and one tail run per concept",
)
def dff(p: Pass) -> Tensor:
    """Map of the concept that alone raises the target's score most: argmax_r score(tail(map_r concept_r)), >= 0.

    `factor_concepts` finds option `concepts` (5) of them in each image by itself, so that a map doesn't depend on
    the batch (the paper factors a set of images together; see there).

    Paper: arXiv:1806.10206.
    """
    concepts, maps = factor_concepts(p.features, p.option("concepts", 5))
    parts = torch.einsum("nrc,nrp->rncp", concepts, maps.flatten(2))  # (R, N, C, hw)
    scores = torch.stack([p.scores_of_features(part.reshape(p.features.shape), p.rows) for part in parts])
    return maps[p.rows, scores.argmax(0)]


def factor_concepts(features: Tensor, count: int, sweeps: int = 100) -> tuple[Tensor, Tensor]:
    """The features of each image as a sum of `count` non-negative concepts times maps, by least squares.

    The method is hierarchical alternating least squares from an NNDSVD start: no random numbers, and each step is an
    exact minimum over one concept, so that it needs far fewer sweeps than multiplicative updates and its zeros can
    be left again. Negative features count as zero, as the paper's features are those after a ReLU. Features of a
    lower rank than `count` leave the rest of the concepts zero. For concepts shared by several images lay these
    side by side first: `features.movedim(0, 1).flatten(1, 2)[None]`.

    Args:
        features: (N, C, h, w), or any number of spatial axes.
        count: concepts per image.
        sweeps: alternations; the error falls with each.

    Returns:
        Concepts (N, R, C) of unit length, and maps (N, R, h, w) in the features' unit, both >= 0.
    """
    if count < 1:
        raise UserError(f"Option 'concepts' is {count}; expected 1 or more. For example: concepts=5.")
    flat = _as_double(features).clamp(min=0).flatten(2).mT.contiguous()  # (N, hw, C)
    maps, concepts = _nonnegative_start(flat, count)  # (N, R, hw), (N, R, C)
    for _ in range(sweeps):
        _improve(maps, concepts @ flat.mT, concepts @ concepts.mT)
        _improve(concepts, maps @ flat, maps @ maps.mT)
    length = torch.linalg.vector_norm(concepts, dim=2, keepdim=True)
    grid = (len(features), count, *features.shape[2:])
    unit = torch.where(length > 0, concepts / length, concepts)
    return unit.to(features), (maps * length).reshape(grid).to(features)


def first_component(features: Tensor) -> Tensor:
    """Projection of each position on the first right singular vector of the features (h*w, C), not centred.

    Found in float64 through the smaller Gram matrix, h*w or C wide. An image that is not finite gives a map of NaN
    and leaves the others alone.

    Args:
        features: (N, C, h, w), or any number of spatial axes.

    Returns:
        Maps (N, h, w) in the features' unit and dtype, signed as `fix_sign` says.
    """
    left, values, _ = _singular(_as_double(features).flatten(2).mT, 1)
    return fix_sign(left[..., 0] * values).reshape(_map_shape(features)).to(features)


def fix_sign(maps: Tensor) -> Tensor:
    """Maps (N, ...) negated where their lowest value lies further from 0 than their highest; a tie goes by the sum."""
    flat = maps.flatten(1)
    balance = flat.amax(1) + flat.amin(1)
    is_negative = torch.where(balance == 0, flat.sum(1), balance) < 0
    return torch.where(is_negative.view(-1, *[1] * (maps.ndim - 1)), -maps, maps)


def _map_shape(features: Tensor) -> tuple[int, ...]:
    return (len(features), *features.shape[2:])


def _as_double(features: Tensor) -> Tensor:
    # Apple's GPU has no float64.
    return (features.cpu() if features.device.type == "mps" else features).double()


def _leading(gram: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Eigenvectors (..., P, R) and eigenvalues (..., R), largest first; NaN where the matrix is not finite."""
    is_finite = gram.isfinite().all(-1).all(-1)
    values, vectors = torch.linalg.eigh(torch.where(is_finite[..., None, None], gram, 0))
    values = torch.where(is_finite[..., None], values, math.nan)
    return vectors[..., -count:].flip(-1), values[..., -count:].flip(-1)


def _singular(flat: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Left (N, P, R) and right (N, C, R) vectors and values (N, R) of flat (N, P, C); zero beyond its rank."""
    is_wide = flat.shape[1] <= flat.shape[2]
    work = flat if is_wide else flat.mT
    known, squares = _leading(work @ work.mT, min(count, work.shape[1]))
    values = squares.clamp(min=0).sqrt()
    # An eigenvalue of a Gram matrix below this is rounding, and its vector arbitrary.
    floor = values[:, :1] * math.sqrt(torch.finfo(values.dtype).eps * max(flat.shape[1:]))
    values = torch.where(values < floor, 0, values)
    other = torch.where(values[:, None] == 0, 0, work.mT @ known / values[:, None])
    left, right = (known, other) if is_wide else (other, known)
    return left, values, right


def _nonnegative_start(flat: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """NNDSVD: each singular pair's positive or negative half, whichever weighs more; (N, R, P) and (N, R, C)."""
    left, values, right = _singular(flat, count)
    halves = [((sign * left).clamp(min=0), (sign * right).clamp(min=0)) for sign in (1, -1)]
    weights = [torch.linalg.vector_norm(u, dim=1) * torch.linalg.vector_norm(v, dim=1) for u, v in halves]
    is_first = (weights[0] >= weights[1])[:, None]
    u, v = (torch.where(is_first, first, second) for first, second in zip(*halves, strict=True))
    size = torch.maximum(*weights)[:, None]
    scale = torch.where(size == 0, 0, (values[:, None] * size).sqrt())
    missing = (0, 0, 0, count - u.shape[2])
    maps, concepts = (functional.pad((_unit(part) * scale).mT, missing) for part in (u, v))
    return maps, concepts


def _unit(columns: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(columns, dim=1, keepdim=True)
    return torch.where(length > 0, columns / length, columns)


def _improve(factor: Tensor, cross: Tensor, gram: Tensor) -> None:
    """One sweep, in place, over the rows of factor (N, R, P): each to its non-negative optimum given the others."""
    size = gram.diagonal(dim1=1, dim2=2)[..., None]
    step = torch.where(size == 0, 0, 1 / size)  # a row whose partner is zero stays
    for r in range(factor.shape[1]):
        slope = cross[:, r] - (gram[:, r, None] @ factor)[:, 0]
        factor[:, r].addcmul_(slope, step[:, r]).clamp_(min=0)
