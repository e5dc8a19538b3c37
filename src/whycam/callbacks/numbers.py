"""Maps of the watched photos to an epoch's numbers: where the heat lies, and how far the evidence moved.

A number of each photo, NaN where it has none, is one function here; `mean_by_class` makes the rest of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from whycam.maps import render

WORDS = {
    "accuracy": "Share of the watched photos whose highest score is that of their own class.",
    "on_masks": "Share of the heat (positive part of the map of the photo's own class, resized bilinearly to the "
    "network's input) that lies on the photo's mask; mean over the photos with a mask and any heat.",
    "moved": "1 - sum over cells of min(p, q): p and q are the positive parts of the maps of the photo's own class "
    "now and at the epoch recorded before, each divided by its sum. 0: the evidence lies where it lay; 1: nowhere "
    "it lay before. Mean over the photos with heat at both epochs.",
}


def measure_on_masks(maps: np.ndarray, masks: Sequence[np.ndarray | None]) -> np.ndarray:
    """(N,): the share of the heat of maps (N, h, w) that lies on masks (H, W); NaN without a mask or without heat."""
    shares = np.full(len(maps), np.nan)
    for i, (values, mask) in enumerate(zip(maps, masks, strict=True)):
        if mask is None:
            continue
        heat = render.make_heatmap(values, mask.shape, is_signed=False).astype(np.float64)
        if heat.any():
            shares[i] = heat[mask].sum() / heat.sum()
    return shares


def measure_moved(maps: np.ndarray, before: np.ndarray | None) -> np.ndarray:
    """(N,) in [0, 1]: 1 - the overlap of the positive parts of maps (N, h, w), each divided by its sum.

    NaN where either map has no positive part, where there is no earlier map, and between maps of different sizes.
    """
    if before is None or before.shape != maps.shape:
        return np.full(len(maps), np.nan)
    now, then = (np.maximum(values, 0).reshape(len(values), -1).astype(np.float64) for values in (maps, before))
    with np.errstate(invalid="ignore", divide="ignore"):
        overlap = np.minimum(now / now.sum(1, keepdims=True), then / then.sum(1, keepdims=True)).sum(1)
    moved: np.ndarray = np.clip(1 - overlap, 0, 1)
    return moved


def mean_by_class(values: np.ndarray, truths: np.ndarray, class_names: Sequence[str]) -> dict[str, float | None]:
    """The mean of numbers (N,) over the photos of each class that have one; None where no photo has."""
    return {name: mean_of(values[truths == k]) for k, name in enumerate(class_names)}


def mean_of(values: np.ndarray) -> float | None:
    """The mean of the numbers that are there; None of none."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else None
