"""Things that go with a class: what a general network calls something else, and yet part of the evidence lies there.

Suspected are things that are seen on the photos of one class and seldom on others', on which a part of the evidence
lies, while a part lies elsewhere. The object itself is such a thing too, as a general network may call it anything: so
a thing must look like nothing else that is common in these photos, as the objects of a collection do like each other;
and where others' photos have it too, the class's must be told without it. Things are tried by putting them into photos
of other classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy
from PIL import Image

from whycam.audit.chance import to_certainty
from whycam.audit.cutouts import lay
from whycam.audit.data import AuditData
from whycam.audit.findings import LEAST_CERTAINTY, Box, Region
from whycam.audit.objects import Look, choose_rows, get_finder, name_generic, read_looks, read_objects
from whycam.audit.suspects import MIN_PHOTOS, Suspect, list_classes
from whycam.maps.render import resize_map

# A general class is seen in a cell where it is the best one and its logit there is at least this.
_SEEN = 8.0
# The share of a class's photos that have a thing, and that show one of its names. What a general network calls the
# objects of one class differs from view to view: what it sees on fewer is often the object (seeds 1000 to 1025).
_LEAST_SHARE, _LEAST_OF_NAME = 0.5, 0.08
# The share of the evidence that lies on it.
_EVIDENCE = (0.05, 0.75)
# The share of the others' photos that may have it; the second one where the class's photos do without it.
_OTHERS_ALONE, _OTHERS_SPARED = 0.03, 0.06
# What is seen on so many photos of a class is common.
_COMMON = 0.15
# Classes that share so many cells are names of one thing.
_SAME_CELLS, _MOST_NAMES = 0.3, 3
# So many photos are tried without it, of which at most this share may lose their class.
_TRIED, _MOST_LOST = 24, 0.15
_LEAST_PHOTOS, _MOST_GROUPS, _MOST = 8, 3, 4


@dataclass(frozen=True)
class Thing:
    """A thing that goes with a class.

    Attributes:
        label: the class.
        names: indices of the general network's classes, the clearest first.
        cells: row -> (h, w) bool, of the photos that show it.
        share, others: of the class's photos and of the others' that do.
        p: the chance of that without a cause, of one test.
    """

    label: int
    names: tuple[int, ...]
    cells: Mapping[int, np.ndarray]
    share: float
    others: float
    p: float


def suspect_things(data: AuditData) -> list[Suspect]:
    """For each class the thing that goes with it most clearly, if one does."""
    classes = list_classes(data)
    if len(classes) < 2:
        return []
    looks = read_looks(data, choose_rows(data))
    found = [thing for k in classes if (thing := find_thing(data, looks, k)) is not None]
    return [_suspect(data, thing) for thing in sorted(found, key=lambda one: one.p)[:_MOST]]


def find_thing(data: AuditData, looks: Mapping[int, Look], label: int) -> Thing | None:
    """The thing that goes with a class on most of its photos, and is not its object."""
    own = [row for row in data.groups[label].tolist() if row in looks]
    rest = [row for row in looks if row not in set(own)]
    if len(own) < MIN_PHOTOS or not rest:
        return None
    seen = {row: _see(looks[row]) for row in (*own, *rest)}
    things = []
    for names, p in _group(data, seen, own, rest):
        cells = {row: shown for row in own if (shown := np.isin(seen[row], names)).any()}
        others = sum(np.isin(seen[row], names).any() for row in rest) / len(rest)
        things.append(Thing(label, names, cells, len(cells) / len(own), float(others), p))
    for thing in sorted(things, key=lambda one: -len(one.cells))[:_MOST_GROUPS]:
        is_rare = len(thing.cells) < _LEAST_PHOTOS or thing.share < _LEAST_SHARE
        if is_rare or thing.others > _OTHERS_SPARED:
            continue
        if not _is_beside_object(data, thing.cells) or not _is_foreign(data, seen, thing):
            continue
        if data.masks and not _is_off_masks(data, thing.cells):
            continue
        if thing.others <= _OTHERS_ALONE or is_spared(data, thing):
            return thing
    return None


def _group(
    data: AuditData, seen: Mapping[int, np.ndarray], own: list[int], rest: list[int]
) -> list[tuple[tuple[int, ...], float]]:
    """Names that are seen more on a class's photos than on others', those of one thing together, and their least p.

    Names are of one thing where they are seen next to each other, or look alike.
    """
    counts = [_count(seen, rows) for rows in (own, rest)]
    tests = int((counts[0] > 0).sum())
    often = np.flatnonzero(counts[0] >= max(3, _LEAST_OF_NAME * len(own)))
    ranked = sorted((_test(counts[0][g], len(own), counts[1][g], len(rest)), int(g)) for g in often)
    clear = [(p, g) for p, g in ranked if to_certainty(p, tests) >= LEAST_CERTAINTY]
    kin, groups, left = get_finder(data, 1).kin, [], clear
    while left:
        (p, first), *_ = left
        names = [first]
        for _, name in left[1:]:
            if name in kin[first] or _overlap(seen, own, first, name) >= _SAME_CELLS:
                names.append(name)
        groups.append((tuple(names), p))
        left = [(p, g) for p, g in left if g not in names]
    return groups


def _is_foreign(data: AuditData, seen: Mapping[int, np.ndarray], thing: Thing) -> bool:
    """Whether none of its names looks like what else is common on photos of any class."""
    kin = get_finder(data, 1).kin
    for rows in data.groups.values():
        known = [row for row in rows.tolist() if row in seen]
        common = np.flatnonzero(_count(seen, known) >= _COMMON * max(1, len(known)))
        around = {int(g) for g in common if g not in thing.names and not _is_part(seen, thing, int(g))}
        if any(around & set(kin[name]) for name in thing.names):
            return False
    return True


def _is_part(seen: Mapping[int, np.ndarray], thing: Thing, name: int) -> bool:
    """Whether another class is seen on the thing itself: next to it, and hardly without it."""
    rows = [row for row, cells in seen.items() if (cells == name).any()]
    near = [scipy.ndimage.binary_dilation(thing.cells[row]) for row in rows if row in thing.cells]
    own = [row for row in rows if row in thing.cells]
    hits = sum(bool((cells & (seen[row] == name)).any()) for cells, row in zip(near, own, strict=True))
    return hits >= 0.8 * len(rows)


def is_spared(data: AuditData, thing: Thing) -> bool:
    """Whether the class's photos keep it where other classes' pixels stand in the place of the thing."""
    draw = np.random.default_rng([data.seed, 31, thing.label])
    rows = np.array([row for row in thing.cells if data.predicted[row] == thing.label], dtype=int)
    rest = np.concatenate([rows for k, rows in data.groups.items() if k != thing.label])
    if len(rows) < _LEAST_PHOTOS:
        return False
    hosts = draw.permutation(rows)[:_TRIED]
    after = data.run(_Places(data, thing.cells).take(hosts, draw.choice(rest, len(hosts))))
    return bool((after.argmax(1) != thing.label).mean() <= _MOST_LOST)


def _see(look: Look) -> np.ndarray:
    """(h, w): the general class of each cell; -1 where none is clear."""
    best: np.ndarray = np.where(look.cell_scores[..., 0] >= _SEEN, look.cell_classes[..., 0].astype(int), -1)
    return best


def _count(seen: Mapping[int, np.ndarray], rows: list[int]) -> np.ndarray:
    """(1000,): on how many of the photos each general class is seen."""
    counts = np.zeros(1001, dtype=int)
    for row in rows:
        counts[np.unique(seen[row])] += 1  # that of no class, -1, is the last
    return counts[:1000]


def _test(hits: int, total: int, other_hits: int, other_total: int) -> float:
    """The chance of so many more photos among the class's (Fisher's exact test, one-sided)."""
    table = [[hits, total - hits], [other_hits, other_total - other_hits]]
    return float(scipy.stats.fisher_exact(table, alternative="greater").pvalue)


def _overlap(seen: Mapping[int, np.ndarray], rows: list[int], first: int, second: int) -> float:
    """How often the photos with a class have another one next to it."""
    near = [scipy.ndimage.binary_dilation(seen[row] == first) for row in rows if (seen[row] == second).any()]
    hits = [
        (cells & (seen[row] == second)).any()
        for cells, row in zip(near, [row for row in rows if (seen[row] == second).any()], strict=True)
    ]
    return float(np.mean(hits)) if hits else 0.0


def _is_beside_object(data: AuditData, cells: Mapping[int, np.ndarray]) -> bool:
    """Whether a part of the evidence lies on the thing, and the larger part elsewhere."""
    shares = []
    for row, shown in cells.items():
        positive = data.evidence[row].clip(0)
        weight = resize_map(shown.astype(np.float32), positive.shape)
        shares.append(float((positive * weight).sum() / max(float(positive.sum()), 1e-9)))
    low, high = _EVIDENCE
    return low <= float(np.median(shares)) <= high


def _is_off_masks(data: AuditData, cells: Mapping[int, np.ndarray]) -> bool:
    """Whether the larger part of it lies off the objects that the user drew, on most of the photos that have both."""
    masks, on = read_objects(data).masks, []
    for row, shown in cells.items():
        if row in masks:
            weight = resize_map(shown.astype(np.float32), masks[row].shape)
            on.append(float((weight * masks[row]).sum() / max(float(weight.sum()), 1e-9)))
    return bool(on) and float(np.median(on)) < 0.5


def _suspect(data: AuditData, thing: Thing) -> Suspect:
    names = " or ".join(repr(name_generic(data, g)) for g in thing.names[:_MOST_NAMES])
    places = _Places(data, thing.cells)
    return Suspect(
        kind="thing",
        label=thing.label,
        region=Region("things at changing places"),
        give=places.give,
        take=None,
        title=f"things that go with it ({names})",
        words=f"A general network sees {names} on {thing.share:.0%} of its photos and on {thing.others:.0%} of the "
        "others', and a part of the evidence lies there.",
        members=np.array(sorted(thing.cells), dtype=int),
        boxes_of=places.boxes,
        may_be_object=not data.masks,
    )


@dataclass(frozen=True)
class _Places:
    """Where a thing lies; in photos without it, the place of another photo's thing stands for it."""

    data: AuditData
    cells: Mapping[int, np.ndarray]

    def find(self, row: int) -> np.ndarray:
        """(h, w) bool, the largest piece alone."""
        shown = self.cells.get(row)
        if shown is None:
            shown = list(self.cells.values())[row % len(self.cells)]
        parts, count = scipy.ndimage.label(shown, np.ones((3, 3)))
        sizes = np.bincount(parts.ravel(), minlength=count + 1)
        sizes[0] = 0
        piece: np.ndarray = parts == sizes.argmax()
        return piece

    def window(self, row: int) -> tuple[slice, slice]:
        """The rows and columns of pixels around the thing, a third of a cell more on each side."""
        shown, found = self.find(row), []
        for axis, side in ((1, self.data.pixels.shape[2]), (0, self.data.pixels.shape[3])):
            at = np.flatnonzero(shown.any(axis))
            cell = side / shown.shape[1 - axis]
            start, stop = round((at[0] - 0.33) * cell), round((at[-1] + 1.33) * cell)
            found.append(slice(max(0, start), min(side, stop)))
        return found[0], found[1]

    def boxes(self, row: int) -> tuple[Box, ...]:
        if row not in self.cells:
            return ()
        rows, columns = self.window(row)
        height, width = self.data.pixels.shape[2:]
        return ((columns.start / width, rows.start / height, columns.stop / width, rows.stop / height),)

    def give(self, hosts: np.ndarray, donors: np.ndarray) -> np.ndarray:
        """What lies there on the donors, at the same place of the hosts."""
        pairs = zip(hosts.tolist(), donors.tolist(), strict=True)
        return np.stack([self._put(h, self.window(d), d) for h, d in pairs])

    def take(self, hosts: np.ndarray, donors: np.ndarray) -> np.ndarray:
        """In the place of the hosts' things what lies in its place on the donors, at the hosts' size."""
        pairs = zip(hosts.tolist(), donors.tolist(), strict=True)
        return np.stack([self._put(h, self.window(h), d) for h, d in pairs])

    def _put(self, host: int, target: tuple[slice, slice], donor: int) -> np.ndarray:
        patch = self.data.pixels[donor][:, *self.window(donor)]
        size = (target[1].stop - target[1].start, target[0].stop - target[0].start)
        resized = Image.fromarray(patch.transpose(1, 2, 0)).resize(size, Image.Resampling.BILINEAR)
        layer = self.data.pixels[host].copy()
        layer[:, *target] = np.asarray(resized).transpose(2, 0, 1)
        mask = np.zeros(layer.shape[1:], dtype=bool)
        mask[target] = True
        return lay(layer, mask, self.data.pixels[host])
