"""Curves of a score as pixels change: all their points, or those where they bend, with straight lines between."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from whycam.metrics.case import Score

# What `whycam evaluate` takes: half of the points of insertion and deletion are left out at 0.01, two thirds at 0.03.
TOLERANCE = 0.03


def trace(
    score: Score, make: Callable[[Tensor, Tensor], Tensor], known: Tensor, lasts: Tensor, tolerance: float
) -> Tensor:
    """(N, points): probabilities at every point of each photo's curve.

    The point in the middle of a stretch is asked for; where it is off the line between the stretch's ends by an area
    over `tolerance`, a share of the whole curve's square, so are the two halves' middles. What is then still not known
    lies on the lines between the points that are.

    Args:
        score: asks the model.
        make: (rows (B,), points (B,)) -> images (B, ...).
        known: (N, points) probabilities that are known beforehand; NaN where not. Points behind a curve's last stay.
        lasts: (N,) each curve's last point.
        tolerance: 0: every point is asked for.
    """
    values, ends = known.double().cpu().numpy().copy(), lasts.tolist()
    if not tolerance:
        _ask(score, make, values, [(i, k) for i, end in enumerate(ends) for k in range(end + 1)])
        return torch.from_numpy(values).to(known)
    _ask(score, make, values, [(i, k) for i, end in enumerate(ends) for k in (0, end)])
    stretches = [(i, 0, end) for i, end in enumerate(ends) if end > 1]
    while stretches:
        _ask(score, make, values, [(i, (a + b) // 2) for i, a, b in stretches])
        halves = []
        for i, a, b in stretches:
            middle = (a + b) // 2
            line = values[i, a] + (values[i, b] - values[i, a]) * (middle - a) / (b - a)
            if abs(values[i, middle] - line) * (b - a) > tolerance * ends[i]:
                halves += [(i, a, middle), (i, middle, b)]
        stretches = [(i, a, b) for i, a, b in halves if b - a > 1]
    for i, end in enumerate(ends):
        at = np.flatnonzero(np.isfinite(values[i, : end + 1]))
        values[i, : end + 1] = np.interp(np.arange(end + 1), at, values[i, at])
    return torch.from_numpy(values).to(known)


def _ask(
    score: Score, make: Callable[[Tensor, Tensor], Tensor], values: np.ndarray, points: list[tuple[int, int]]
) -> None:
    """Fills in the points (row, point) that are not known yet."""
    open_points = [(i, k) for i, k in dict.fromkeys(points) if np.isnan(values[i, k])]
    if open_points:
        rows, at = torch.tensor(open_points, device=score.target.device).T
        found = score.walk(make, rows, at)[:, 0].cpu().numpy()
        values[tuple(np.array(open_points).T)] = found
