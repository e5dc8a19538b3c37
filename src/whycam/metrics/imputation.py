"""Noisy linear imputation (ROAD): removed pixels become the weighted mean of their neighbours, all solved at once.

The linear systems of all photos and masks are one batch: conjugate gradients, preconditioned by a multigrid cycle.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

# Direct neighbours weigh twice what diagonal ones do (arXiv:2202.00449, sec. 4.2).
DIRECT, DIAGONAL = 1 / 6, 1 / 12
NOISE = 0.01
_COARSEST_PX = 8
_DAMPING = 0.8


def impute(images: Tensor, is_removed: Tensor, *, tolerance: float = 3e-4, limit: int = 60) -> Tensor:
    """Images with each removed pixel the weighted mean of its 8 neighbours, those outside the image left out.

    Args:
        images: (B, C, H, W).
        is_removed: (B, H, W) bool. An image without a pixel left becomes its own mean colour.
        tolerance: largest residual of a pixel in the images' unit, at which the iteration ends.
        limit: the most iterations.

    Paper: arXiv:2202.00449, sec. 4.2, without the noise.
    """
    height, width = images.shape[-2:]
    levels = 0
    while min(height, width) >> levels > _COARSEST_PX:
        levels += 1
    pad = (0, -width % (1 << levels), 0, -height % (1 << levels))
    inside = functional.pad(images.new_ones(1, 1, height, width), pad)
    unknown = functional.pad(is_removed[:, None].to(images.dtype), pad)
    known = functional.pad(images, pad) * (1 - unknown)
    grids = _make_grids(unknown, inside, levels)
    start = _guess(known, inside - unknown, levels) * unknown
    solved = _solve(grids, _blur(known) * unknown, start, tolerance, limit)
    empty = is_removed.flatten(1).all(1).view(-1, 1, 1, 1)
    filled = (known + solved)[..., :height, :width]
    return torch.where(empty, images.mean(dim=(2, 3), keepdim=True), filled)


@dataclass(frozen=True)
class _Grid:
    """One level: which cells are unknown, and the sum of each cell's weights, both (B or 1, 1, h, w)."""

    unknown: Tensor
    weight: Tensor

    def apply(self, values: Tensor) -> Tensor:
        """The system's matrix: weight * value - weighted neighbours, on unknown cells; `values` is 0 on the others."""
        return (self.weight * values).sub_(_blur(values)).mul_(self.unknown)

    def smooth(self, values: Tensor, right: Tensor) -> Tensor:
        """One damped Jacobi step."""
        return values + (right - self.apply(values)) * (_DAMPING / self.weight)


def _blur(values: Tensor) -> Tensor:
    """Sum of the 8 neighbours by weight; nothing lies outside."""
    padded = functional.pad(values, (1, 1, 1, 1))
    across = padded[..., :-2] + padded[..., 2:]
    rows = torch.add(across, padded[..., 1:-1], alpha=DIRECT / DIAGONAL)
    blurred = (rows[..., :-2, :] + rows[..., 2:, :]).mul_(DIAGONAL)
    return blurred.add_(across[..., 1:-1, :], alpha=DIRECT)


def _make_grids(unknown: Tensor, inside: Tensor, levels: int) -> list[_Grid]:
    grids = []
    for _ in range(levels + 1):
        grids.append(_Grid(unknown, _blur(inside).clamp_(min=DIAGONAL)))
        # A coarse cell is unknown if all four of its cells are: then the correction is 0 where pixels are known.
        unknown = -functional.max_pool2d(-unknown, 2)
        inside = functional.max_pool2d(inside, 2)
    return grids


def _guess(known: Tensor, weight: Tensor, levels: int) -> Tensor:
    """A first guess: of each cell the mean of known pixels in the smallest block around it that has any."""
    if levels == 0:
        mean = known.sum(dim=(2, 3), keepdim=True) / weight.sum(dim=(2, 3), keepdim=True).clamp(min=1)
        return mean.expand_as(known)
    coarse = _guess(functional.avg_pool2d(known, 2) * 4, functional.avg_pool2d(weight, 2) * 4, levels - 1)
    return torch.where(weight > 0, known / weight.clamp(min=1), _prolong(coarse))


def _prolong(values: Tensor) -> Tensor:
    return functional.interpolate(values, scale_factor=2, mode="bilinear")


def _restrict(values: Tensor) -> Tensor:
    """The transpose of `_prolong`: each cell gives 9/16, 3/16, 3/16 and 1/16 to the four coarse ones around it."""
    return _restrict_axis(_restrict_axis(values, 3), 2)


def _restrict_axis(values: Tensor, axis: int) -> Tensor:
    even, odd = (values.unflatten(axis, (-1, 2)).select(axis + 1, k) for k in (0, 1))
    summed = (even + odd).mul_(0.75)
    count = even.shape[axis]
    summed.narrow(axis, 0, count - 1).add_(even.narrow(axis, 1, count - 1), alpha=0.25)
    summed.narrow(axis, 1, count - 1).add_(odd.narrow(axis, 0, count - 1), alpha=0.25)
    summed.select(axis, 0).add_(even.select(axis, 0), alpha=0.25)
    summed.select(axis, count - 1).add_(odd.select(axis, count - 1), alpha=0.25)
    return torch.as_tensor(summed)


def _cycle(grids: list[_Grid], right: Tensor) -> Tensor:
    """An approximate solution: smoothed, corrected on the coarser grid, smoothed again (a symmetric V-cycle)."""
    grid, *coarser = grids
    values = right * (_DAMPING / grid.weight)
    if not coarser:
        for _ in range(2 * _COARSEST_PX):
            values = grid.smooth(values, right)
        return values
    values = grid.smooth(values, right)
    rest = _restrict(right - grid.apply(values)).mul_(coarser[0].unknown)
    values = values + _prolong(_cycle(coarser, rest)).mul_(grid.unknown)
    return grid.smooth(grid.smooth(values, right), right)


def _solve(grids: list[_Grid], right: Tensor, start: Tensor, tolerance: float, limit: int) -> Tensor:
    """Conjugate gradients on the finest grid, one step size for each system (B, C)."""
    grid, solved = grids[0], start
    rest = right - grid.apply(solved)
    direction, before = torch.zeros_like(rest), torch.ones_like(rest[..., :1, :1])
    for _ in range(limit):
        if float(rest.abs().max()) < tolerance:
            break
        better = _cycle(grids, rest)
        now = _dot(rest, better)
        direction = better.add_(direction.mul_(now / before))
        image = grid.apply(direction)
        step = now / _dot(direction, image).clamp(min=torch.finfo(rest.dtype).tiny)
        solved = torch.addcmul(solved, step, direction)
        rest = torch.addcmul(rest, -step, image)
        before = now.clamp(min=torch.finfo(rest.dtype).tiny)
    return solved


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).sum(dim=(2, 3), keepdim=True)
