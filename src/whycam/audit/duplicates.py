"""Photos that are there twice: copies, other sizes, other qualities, mirrored; across splits and across classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import scipy
from PIL import Image

from whycam.audit.chance import to_certainty
from whycam.audit.findings import EvidencePhoto, Finding

# Correlation of the slopes of two thumbnails from which they show one photo.
LEAST_CORRELATION = 0.9
_SIDE, _BLOCK, _MOST_GROUPS, _DRAWN = 24, 1024, 24, 4096
# The split of the photos that the model is asked about.
AUDITED = "audited"


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """A photo as duplicates are looked for: its place, split and class, its signature and its mirror image's."""

    path: Path
    split: str
    label: str
    signature: np.ndarray
    mirrored: np.ndarray

    @classmethod
    def of(cls, path: Path, split: str, label: str, pixels: np.ndarray) -> Self:
        """Of a photo's pixels (3, H, W) uint8."""
        return cls(path, split, label, sign(pixels), sign(pixels[..., ::-1]))


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


def find_duplicates(photos: Sequence[Thumbnail]) -> list[Finding]:
    """A finding each for copies across splits, under different classes, and within a class."""
    signatures, mirrored = (np.stack(part) for part in zip(*((p.signature, p.mirrored) for p in photos), strict=True))
    across: list[Group] = []
    mixed: list[Group] = []
    within: list[Group] = []
    for group in group_same(signatures, mirrored):
        found = [photos[i] for i in group.rows]
        is_across, is_mixed = len({p.split for p in found}) > 1, len({p.label for p in found}) > 1
        (across if is_across else mixed if is_mixed else within).append(group)
    words = (
        ("in training and in validation: the score is too kind", across),
        ("under different classes: one label is wrong", mixed),
        ("twice in one class", within),
    )
    return [_tell(photos, found, text, find_certainty(signatures, found)) for text, found in words if found]


@dataclass(frozen=True)
class Group:
    """Photos that show one scene.

    Attributes:
        rows: of the photos.
        faintest: how much the one that is least alike correlates with the nearest other one.
    """

    rows: list[int]
    faintest: float


def group_same(signatures: np.ndarray, mirrored: np.ndarray) -> list[Group]:
    """Photos that show one scene, two and more each."""
    pairs: list[np.ndarray] = []
    nearest = np.zeros(len(signatures))
    for start in range(0, len(signatures), _BLOCK):
        block = signatures[start : start + _BLOCK]
        alike = np.maximum(block @ signatures.T, block @ mirrored.T)
        found = np.argwhere(alike >= LEAST_CORRELATION)
        found = found[found[:, 0] + start != found[:, 1]]
        np.maximum.at(nearest, found[:, 0] + start, alike[found[:, 0], found[:, 1]])
        pairs.append(found + np.array([start, 0]))
    rows = np.concatenate(pairs)
    graph = scipy.sparse.coo_array((np.ones(len(rows)), (rows[:, 0], rows[:, 1])), shape=(len(signatures),) * 2)
    _, parts = scipy.sparse.csgraph.connected_components(graph, directed=False)
    order = np.argsort(parts, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(parts[order])) + 1)
    return [Group(group.tolist(), float(nearest[group].min())) for group in groups if len(group) > 1]


def find_certainty(signatures: np.ndarray, groups: Sequence[Group]) -> float:
    """1 - the chance that so alike a pair is among so many photos of different scenes.

    How alike those are, a draw of pairs tells: Fisher's z of their correlations, taken for normal.
    """
    count = len(signatures)
    one, other = np.random.default_rng(0).choice(count, (2, _DRAWN))
    usual = np.einsum("ij,ij->i", signatures[one], signatures[other])[one != other]
    usual = np.arctanh(usual[usual < LEAST_CORRELATION])
    if len(usual) < 2:
        return 1.0
    faintest = np.arctanh(min(1 - 1e-6, *(group.faintest for group in groups)))
    p = float(scipy.stats.norm.sf((faintest - usual.mean()) / (usual.std() + 1e-3)))
    return to_certainty(p, count * (count - 1) // 2)


def _tell(photos: Sequence[Thumbnail], groups: Sequence[Group], text: str, certainty: float) -> Finding:
    sets, total = [[photos[i] for i in group.rows] for group in groups], len(photos)
    copies = sum(map(len, sets))
    audited = sum(photo.split == AUDITED for found in sets for photo in found)
    shown = [
        EvidencePhoto(photo.path, note=f"set {number}: {photo.split}, {photo.label}")
        for number, one in enumerate(sets[:_MOST_GROUPS], start=1)
        for photo in one
    ]
    return Finding(
        kind="duplicate",
        severity=copies / total,
        certainty=certainty,
        cost=audited / max(1, sum(photo.split == AUDITED for photo in photos)),
        title=f"{copies} photos show {len(sets)} scene{'s' if len(sets) > 1 else ''} {text}.",
        detail=(
            f"Of {total} photos, {copies} are copies or near-copies of one another (other sizes, qualities, mirrored), "
            f"in {len(sets)} sets."
        ),
        photos=tuple(shown),
        numbers={"sets": len(sets), "photos": copies},
        remedy="Keep one photo of each set, in one class and in one split, and measure again.",
        command="whycam audit $MODEL $FOLDER -o $RESULT --kinds duplicate",
    )
