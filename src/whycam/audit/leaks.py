"""Grounds that still show the class's object: a field of sunflowers behind the one that was cut out.

Such a ground speaks for its class as the object does, so it says nothing of grounds and is left out of the trial.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from whycam.audit.cutouts import Cutouts
from whycam.audit.data import AuditData
from whycam.audit.objects import get_finder, read_looks

# The general classes that the removal of a class's objects lowers most are what these are called.
_NAMES = 5
# Of what the objects add to the logits of these, a ground that is bare of them has less than this share left.
_MOST_LEFT = 0.2
# Photos of each other class that say what those logits are where there is no such object.
_OTHERS = 8
# A colour is the object's where it is so many times as frequent on the class's objects as on its grounds; a ground of
# which more than this share has such colours shows petals that were not cut out. Levels of each channel.
_TIMES, _MOST_COLOURED, _LEVELS = 3, 0.12, 8


def find_bare(data: AuditData, cutouts: Cutouts, rows: Mapping[int, np.ndarray], label: int) -> np.ndarray:
    """Of a class's photos (rows) those of whose object a general network sees little on their ground.

    Args:
        data: the photos.
        cutouts: the photos taken apart.
        rows: class -> rows whose object is known.
        label: the class.
    """
    own = rows[label]
    before = np.stack([look.logits for look in read_looks(data, own).values()]).astype(np.float32)
    after = _see(data, cutouts, own)
    names = np.argsort(after.mean(0) - before.mean(0))[:_NAMES]
    others = np.concatenate([part[:_OTHERS] for k, part in rows.items() if k != label])
    usual = _see(data, cutouts, others)[:, names].mean()
    added = before[:, names].mean() - usual
    left: np.ndarray = (after[:, names].mean(1) - usual) / max(float(added), 1e-6)
    return own[(left < _MOST_LEFT) & (measure_coloured(cutouts, own) <= _MOST_COLOURED)]


def measure_coloured(cutouts: Cutouts, rows: np.ndarray) -> np.ndarray:
    """(n,): the share of each photo's ground that has the colours of the objects of all these photos (n,)."""
    step = 256 // _LEVELS
    weights = np.array([_LEVELS**2, _LEVELS, 1])
    bins = {row: np.tensordot(weights, cutouts.pixels[row] // step, 1) for row in rows.tolist()}

    def count(parts: list[np.ndarray]) -> np.ndarray:
        counts = sum(np.bincount(part, minlength=_LEVELS**3) / max(1, len(part)) for part in parts)
        return np.asarray(counts) / max(1, len(parts))

    objects = count([bins[row][cutouts.masks[row]] for row in bins])
    grounds = count([bins[row][~cutouts.holes[row]] for row in bins])
    is_object = objects > _TIMES * grounds + 1e-4
    return np.array([is_object[bins[row][~cutouts.holes[row]]].mean() for row in bins])


def _see(data: AuditData, cutouts: Cutouts, rows: np.ndarray) -> np.ndarray:
    """(n, 1000) the general network's logits of the grounds of photos (n,)."""
    grounds = np.stack([cutouts.ground(row) for row in rows.tolist()])
    return np.concatenate([seen.logits for seen in get_finder(data, len(rows)).see(grounds)])
