"""Maps to boxes: the paper's rule, segments over 20 % of the map's maximum (Zhou et al., arXiv:1512.04150, sec. 3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

BOX_THRESHOLD = 0.2


@dataclass(frozen=True)
class Box:
    """A region of heat in photo pixels; x1 and y1 are one past the last pixel.

    Attributes:
        heat: the share of the map's heat that lies in the region, in [0, 1].
    """

    x0: int
    y0: int
    x1: int
    y1: int
    heat: float


def find_boxes(heatmap: np.ndarray, *, threshold: float = BOX_THRESHOLD) -> list[Box]:
    """A box around each connected region (8 neighbours) over `threshold` of the maximum, the largest area first.

    Args:
        heatmap: (H, W) in [0, 1], unsigned.
        threshold: share of the heatmap's maximum.
    """
    peak = float(heatmap.max())
    if peak <= 0:
        return []
    regions, count = ndimage.label(heatmap > threshold * peak, structure=np.ones((3, 3)))
    labels = range(1, count + 1)
    areas = ndimage.sum_labels(np.ones_like(heatmap), regions, labels)
    heats = ndimage.sum_labels(heatmap, regions, labels) / heatmap.sum(dtype=np.float64)
    slices = ndimage.find_objects(regions)
    boxes = [
        Box(int(x.start), int(y.start), int(x.stop), int(y.stop), float(heat))
        for (y, x), heat in zip(slices, heats, strict=True)
    ]
    return [boxes[i] for i in np.argsort(-areas, kind="stable")]
