"""Heatmaps to boxes and outlines: the paper's rule, segments over 20 % of the maximum (arXiv:1512.04150, sec. 3)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

BOX_THRESHOLD = 0.2
# The shares of the maximum that find most objects on half of 650 ImageNet photos: docs/localization.md.
PLAIN_THRESHOLD = 0.28
REFINED_THRESHOLD = 0.3
# How far an outline may leave the pixels' edges, as a share of its length; under half a pixel's diagonal corners stay.
_OUTLINE_TOLERANCE, _LEAST_TOLERANCE_PX = 0.001, 0.2


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


@dataclass(frozen=True)
class Region:
    """An object that a heatmap shows.

    Attributes:
        box: around it.
        outline: (P, 2) x and y of its corners in photo pixels, to half a pixel; holes are filled.
        area_px: pixels within, holes not counted.
    """

    box: Box
    outline: np.ndarray
    area_px: int


def find_boxes(heatmap: np.ndarray, *, threshold: float = BOX_THRESHOLD) -> list[Box]:
    """A box around each connected region (8 neighbours) over `threshold` of the maximum, the largest area first.

    Args:
        heatmap: (H, W) in [0, 1], unsigned.
        threshold: share of the heatmap's maximum.
    """
    _, found = _segment(heatmap, threshold)
    return [box for _, box, _ in found]


def find_regions(heatmap: np.ndarray, *, threshold: float, most: int, least_share: float) -> list[Region]:
    """The regions of `find_boxes` with their outlines, leaving out what is small beside the largest.

    Args:
        heatmap: (H, W) in [0, 1], unsigned.
        threshold: share of the heatmap's maximum.
        most: so many of the largest at the most.
        least_share: a region has at least this share of the largest one's area.
    """
    labels, found = _segment(heatmap, threshold)
    kept = [item for item in found[:most] if item[2] >= least_share * found[0][2]]
    return [Region(box, _outline(labels, label, box), area) for label, box, area in kept]


def enlarge_box(box: Box, x: float, y: float) -> Box:
    """The box in a photo that is so many times as wide and as high."""
    return replace(box, x0=round(box.x0 * x), x1=round(box.x1 * x), y0=round(box.y0 * y), y1=round(box.y1 * y))


def enlarge_region(region: Region, x: float, y: float) -> Region:
    """The region in a photo that is so many times as wide and as high."""
    return Region(enlarge_box(region.box, x, y), region.outline * (x, y), round(region.area_px * x * y))


def _segment(heatmap: np.ndarray, threshold: float) -> tuple[np.ndarray, list[tuple[int, Box, int]]]:
    """(H, W) the number of each pixel's region, and of each region number, box and area, the largest first."""
    from scipy import ndimage  # noqa: PLC0415 - slow to import, and what shows maps without boxes does without

    peak = float(heatmap.max())
    if peak <= 0:
        return np.zeros(heatmap.shape, dtype=np.int32), []
    labels, count = ndimage.label(heatmap > threshold * peak, structure=np.ones((3, 3)))
    numbers = range(1, count + 1)
    areas = ndimage.sum_labels(np.ones_like(heatmap), labels, numbers)
    heats = ndimage.sum_labels(heatmap, labels, numbers) / heatmap.sum(dtype=np.float64)
    slices = ndimage.find_objects(labels)
    found = [
        (k + 1, Box(int(x.start), int(y.start), int(x.stop), int(y.stop), float(heats[k])), int(areas[k]))
        for k, (y, x) in enumerate(slices)
    ]
    return labels, [found[k] for k in np.argsort(-areas, kind="stable")]


def _outline(labels: np.ndarray, label: int, box: Box) -> np.ndarray:
    from skimage.measure import approximate_polygon, find_contours  # noqa: PLC0415 - slow to import; boxes need none

    inside = np.pad(labels[box.y0 : box.y1, box.x0 : box.x1] == label, 1).astype(np.float32)
    longest = max(find_contours(inside, 0.5, fully_connected="high"), key=len)
    corners = approximate_polygon(longest, max(_LEAST_TOLERANCE_PX, _OUTLINE_TOLERANCE * len(longest)))[:-1]
    # Contours count pixels from their centres, photos from the corner; and there is a pixel of padding.
    return np.asarray(corners[:, ::-1] - 0.5 + np.array([box.x0, box.y0]))
