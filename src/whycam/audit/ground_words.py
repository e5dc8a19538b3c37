"""Words for the ground behind a class's objects: its colour, and what a general network takes it for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import skimage

from whycam.audit.data import AuditData
from whycam.audit.objects import Look, name_generic, read_looks, read_objects

# CIELAB of plain colours.
_COLOURS = {
    "black": (8, 0, 0),
    "dark grey": (32, 0, 0),
    "grey": (55, 0, 0),
    "light grey": (78, 0, 0),
    "white": (97, 0, 0),
    "red": (45, 55, 35),
    "orange": (65, 35, 55),
    "brown": (38, 16, 24),
    "reddish brown": (50, 22, 22),
    "tan": (68, 8, 22),
    "yellow": (85, 0, 65),
    "dark green": (28, -18, 18),
    "green": (50, -32, 32),
    "light green": (75, -28, 35),
    "turquoise": (65, -30, -8),
    "light blue": (75, -6, -20),
    "blue": (42, 8, -45),
    "purple": (35, 35, -35),
    "pink": (72, 32, 2),
}
_PHOTOS = 24
# How much more of a class's ground than of the others' a general class must be seen on, and how many are named.
_LEAST_MORE, _MOST_NAMES = 0.04, 2


def describe_grounds(data: AuditData, rows: Mapping[int, np.ndarray], label: int) -> str:
    """Such as "green; a general network sees 'lakeside' there"; empty where nothing stands out.

    Args:
        data: the photos.
        rows: class -> rows whose object is known.
        label: the class whose ground is described.
    """
    own = {k: part[:_PHOTOS] for k, part in rows.items()}
    colours = {k: Counter(name_colour(_mean_ground(data, row)) for row in part.tolist()) for k, part in own.items()}
    (colour, count), *_ = colours[label].most_common(1)
    words = [colour] if count >= len(own[label]) / 2 else []
    looks = read_looks(data, np.concatenate(list(own.values())))
    seen = {k: _see(data, looks, part) for k, part in own.items()}
    rest = sum(seen[k] for k in own if k != label) / max(1, len(own) - 1)
    more = seen[label] - rest
    names = [name_generic(data, int(i)) for i in np.argsort(-more)[:_MOST_NAMES] if more[i] >= _LEAST_MORE]
    if names:
        words.append("a general network sees " + " and ".join(repr(name) for name in names) + " there")
    return "; ".join(words)


def name_colour(rgb: np.ndarray) -> str:
    """The plain name nearest to a colour, RGB in 0 to 255."""
    lab = skimage.color.rgb2lab(np.asarray(rgb, dtype=float).reshape(1, 1, 3) / 255)[0, 0]
    return min(_COLOURS, key=lambda name: float(((lab - _COLOURS[name]) ** 2).sum()))


def _mean_ground(data: AuditData, row: int) -> np.ndarray:
    ground = ~read_objects(data).holes[row]
    colour: np.ndarray = np.median(data.pixels[row][:, ground], axis=1)
    return colour


def _see(data: AuditData, looks: Mapping[int, Look], rows: np.ndarray) -> np.ndarray:
    """(1000,): on what share of the ground's cells each general class is the best one."""
    counts, total = np.zeros(1000), 0
    holes = read_objects(data).holes
    for row in rows.tolist():
        best = looks[row].cell_classes[..., 0]
        height, width = best.shape
        ys = (np.arange(height) + 0.5) * holes[row].shape[0] / height
        xs = (np.arange(width) + 0.5) * holes[row].shape[1] / width
        is_ground = ~holes[row][np.ix_(ys.astype(int), xs.astype(int))]
        counts += np.bincount(best[is_ground], minlength=1000)[:1000]
        total += int(is_ground.sum())
    return counts / max(1, total)
