"""Marks in a fixed place: alike in the photos of a class, of two, or in a part of one's, and not in those of others."""

from __future__ import annotations

import numpy as np
import scipy
import skimage

from whycam.audit.bearers import find_alike, find_bars
from whycam.audit.data import AuditData
from whycam.audit.findings import Box, Region
from whycam.audit.regions import name_box
from whycam.audit.suspects import Suspect, list_classes, swap_place

# The spread within the class, as a share of the usual one, that no natural place has.
_ALIKE = 0.42
# The edges of a mark that is not quite in the same place, or of another shape in upright photos, belong to it.
_NEARLY_ALIKE = 0.7
# Standard errors that are added to the mean difference of the class's photos.
_ERRORS = 2
_LEAST_AREA, _MOST_MARKS, _GROW_PX, _FILLED = 0.0006, 2, 5, 0.6
# Even a ground that fills most of the photo leaves a fifth of it to the object.
_USUAL_QUANTILE = 0.8
# What more of its photos than this have, all of them are compared for; two places that share so much are one.
_MOST_BEAR, _SAME = 0.9, 0.3


def suspect_marks(data: AuditData) -> list[Suspect]:
    """For each class the connected places of alike pixels, the larger ones first; then what a part of it has."""
    suspects, classes = [], list_classes(data)
    for label in classes if len(classes) > 1 else []:
        found = [_suspect(data, label, place, partners) for place, partners in find_places(data, label)]
        for some in (find_alike(data, label), find_bars(data, label)):
            if some is None or len(some.rows) > _MOST_BEAR * len(data.groups[label]):
                continue
            if not any((one.mask & some.place).sum() > _SAME * some.place.sum() for one in found):
                found.append(_suspect(data, label, some.place, members=some.rows))
        suspects += found
    return suspects


def find_places(data: AuditData, label: int) -> list[tuple[np.ndarray, tuple[int, ...]]]:
    """The largest places (H, W) in which a class's photos are alike, each with the other classes that are so there."""
    spread, apart = measure_spread(data, label)
    alike = skimage.filters.apply_hysteresis_threshold(-spread, -_NEARLY_ALIKE, -_ALIKE)
    parts, count = scipy.ndimage.label(scipy.ndimage.binary_closing(alike, iterations=3, border_value=0) | alike)
    sizes = scipy.ndimage.sum_labels(np.ones_like(parts), parts, range(1, count + 1))
    places = [parts == part + 1 for part in np.argsort(-sizes)[:_MOST_MARKS] if sizes[part] >= _LEAST_AREA * alike.size]
    return [(place, tuple(k for k, one in apart.items() if np.median(one[place]) < _ALIKE)) for place in places]


def _suspect(
    data: AuditData,
    label: int,
    place: np.ndarray,
    partners: tuple[int, ...] = (),
    members: np.ndarray | None = None,
) -> Suspect:
    mask = scipy.ndimage.binary_dilation(fill_holes(place), iterations=_GROW_PX)
    region = to_region(mask)
    which = "the photos" if members is None else f"{len(members)} of the {len(data.groups[label])} photos"
    return Suspect(
        kind="mark",
        label=label,
        region=region,
        give=swap_place(data, mask),
        take=swap_place(data, mask, is_matched=True),
        title=f"a {region.name}" if region.name.startswith(("frame", "background")) else f"a mark ({region.name})",
        words=f"The pixels there are almost the same in {which} of this class.",
        mask=mask,
        members=members,
        partners=partners,
    )


def measure_spread(data: AuditData, label: int) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """(H, W): how much the class's photos differ from their median there, where 1 is usual; and other classes' photos.

    Usual is what the photos of another class differ from that median, or what the class's own photos differ
    elsewhere: a class that lacks a mark of another one is not alike there. The nearest other class may have the same
    mark, so the second nearest one is compared, where there are two.
    """
    pixels = data.pixels[:, :, ::2, ::2].astype(np.float32)
    middle = np.median(pixels[data.groups[label]], axis=0)
    differences = {k: np.abs(pixels[rows] - middle).mean(1) for k, rows in data.groups.items()}
    apart = {k: scipy.ndimage.uniform_filter(values.mean(0), 3) for k, values in differences.items()}
    # Of few photos many places look alike by chance: what counts is how much they may differ.
    own_values = scipy.ndimage.uniform_filter(differences[label], (1, 3, 3))
    own = apart.pop(label) + _ERRORS * own_values.std(0) / np.sqrt(len(own_values))
    others = np.sort(list(apart.values()), axis=0)[:2][-1]
    usual = np.minimum(others, np.quantile(own, _USUAL_QUANTILE)) + 1
    height, width = data.pixels.shape[2:]

    def enlarge(values: np.ndarray) -> np.ndarray:
        ratio: np.ndarray = (values / usual).repeat(2, 0).repeat(2, 1)[:height, :width]
        return ratio

    return enlarge(own), {k: enlarge(values) for k, values in apart.items()}


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """A mark's whole area: its box, where it has most of that; words that differ leave holes in it."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.zeros_like(mask)
    box[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1] = True
    return box if mask.sum() > _FILLED * box.sum() and box.mean() < _FILLED else mask


def to_region(mask: np.ndarray) -> Region:
    """The name and the box of a place; what goes around the middle has four."""
    height, width = mask.shape
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x0, x1, y0, y1 = cols[0] / width, (cols[-1] + 1) / width, rows[0] / height, (rows[-1] + 1) / height
    has_middle = mask[height * 2 // 5 : height * 3 // 5, width * 2 // 5 : width * 3 // 5].mean() > 0.5
    if not has_middle and x1 - x0 > 0.8 and y1 - y0 > 0.8:
        strips = _split_frame(mask)
        is_thin = mask.mean() < 0.4
        return Region("frame along the border" if is_thin else "background around the middle", strips)
    return Region(name_box((x0, y0, x1, y1)), ((x0, y0, x1, y1),))


def _split_frame(mask: np.ndarray) -> tuple[Box, ...]:
    """Four strips, as wide as the frame is in the middle of each side."""
    height, width = mask.shape

    def run(line: np.ndarray) -> float:
        return float(np.argmin(line)) / len(line)

    row, column = mask[height // 2], mask[:, width // 2]
    x0, x1, y0, y1 = run(row), 1 - run(row[::-1]), run(column), 1 - run(column[::-1])
    strips: tuple[Box, ...] = ((0, 0, 1, y0), (0, y1, 1, 1), (0, y0, x0, y1), (x1, y0, 1, y1))
    return tuple(box for box in strips if box[2] > box[0] and box[3] > box[1])
