"""Photos that are there twice: copies, other sizes, other qualities, mirrored; across splits and across classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from whycam.audit.findings import EvidencePhoto, Finding

# Correlation of the slopes of two thumbnails from which they show one photo.
LEAST_CORRELATION = 0.9
_SIDE, _BLOCK, _MOST_GROUPS = 24, 1024, 24


@dataclass(frozen=True)
class Thumbnail:
    """A photo as duplicates are looked for: its place, split and class, and its signature."""

    path: Path
    split: str
    label: str
    signature: np.ndarray


def sign(pixels: np.ndarray) -> np.ndarray:
    """(S,) float32 of length 1: the slopes of a small grey copy of pixels (3, H, W) uint8; 0 for a flat photo.

    Slopes, as in a difference hash, do not change with brightness; a sky's smooth run weighs little in them.
    """
    grey = Image.fromarray(np.moveaxis(pixels, 0, -1)).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    values = np.asarray(grey, dtype=np.float32)
    slopes = np.concatenate([np.diff(values, axis=0).ravel(), np.diff(values, axis=1).ravel()])
    slopes -= slopes.mean()
    length = float(np.linalg.norm(slopes))
    return slopes / length if length > _SIDE else np.zeros_like(slopes)


def find_duplicates(photos: Sequence[Thumbnail], mirrored: np.ndarray) -> list[Finding]:
    """A finding each for copies across splits, under different classes, and within a class.

    Args:
        photos: all splits.
        mirrored: (N, S) signatures of the photos turned left to right.
    """
    groups = group_same(np.stack([photo.signature for photo in photos]), mirrored)
    sets = [[photos[i] for i in group] for group in groups]
    across = [s for s in sets if len({p.split for p in s}) > 1]
    mixed = [s for s in sets if len({p.label for p in s}) > 1]
    within = [s for s in sets if s not in across and s not in mixed]
    words = (
        ("in training and in validation: the score is too kind", across, 0.8),
        ("under different classes: one label is wrong", mixed, 0.9),
        ("twice in one class", within, 0.1),
    )
    return [_tell(found, text, weight, len(photos)) for text, found, weight in words if found]


def group_same(signatures: np.ndarray, mirrored: np.ndarray) -> list[list[int]]:
    """Rows that show one photo, in groups of two and more."""
    pairs: list[np.ndarray] = []
    for start in range(0, len(signatures), _BLOCK):
        block = signatures[start : start + _BLOCK]
        alike = np.maximum(block @ signatures.T, block @ mirrored.T)
        found = np.argwhere(alike >= LEAST_CORRELATION) + np.array([start, 0])
        pairs.append(found[found[:, 0] < found[:, 1]])
    rows = np.concatenate(pairs)
    graph = coo_array((np.ones(len(rows)), (rows[:, 0], rows[:, 1])), shape=(len(signatures),) * 2)
    _, parts = connected_components(graph, directed=False)
    order = np.argsort(parts, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(parts[order])) + 1)
    return [group.tolist() for group in groups if len(group) > 1]


def _tell(sets: Sequence[Sequence[Thumbnail]], text: str, weight: float, total: int) -> Finding:
    copies = sum(len(one) for one in sets)
    shown = [
        EvidencePhoto(photo.path, note=f"set {number}: {photo.split}, {photo.label}")
        for number, one in enumerate(sets[:_MOST_GROUPS], start=1)
        for photo in one
    ]
    return Finding(
        kind="duplicate",
        severity=weight * min(1.0, 0.2 + copies / total),
        certainty=0.99,
        title=f"{copies} photos show {len(sets)} scene{'s' if len(sets) > 1 else ''} {text}.",
        detail=(
            f"Of {total} photos, {copies} are copies or near-copies of one another (other sizes, qualities, mirrored), "
            f"in {len(sets)} sets."
        ),
        photos=tuple(shown),
        numbers={"sets": len(sets), "photos": copies},
    )
