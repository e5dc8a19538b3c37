"""Marks that a part of a class's photos has alone: a frame on a third of them, a bar with words on a fifth.

All photos of the class together are not alike there. So each photo is compared with each other one, cell by cell; and
of bars that let the photo shine through, the edge is looked for: straight, from side to side, in one place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy

from whycam.audit.data import AuditData

_CELL_PX = 4
# Two photos agree in a cell where each channel differs by less than this share of what is usual there, and by no more
# than so many levels.
_AGREE, _LEAST_LEVELS, _MOST_LEVELS = 0.25, 3, 12
# So many of the class's photos have it, at the least, as no trial with fewer donors proves anything; and so few of the
# others'.
_LEAST_PHOTOS, _LEAST_SHARE, _OTHERS_SHARE = 8, 0.12, 0.02
# A cell counts where the class agrees by so much more than others do. A place has so many cells; a photo that has it
# agrees in so many of them, and by so much more than those that have it not: natural likeness comes in all degrees.
_EXCESS, _LEAST_CELLS, _SHOWN, _LEAST_GAP = 0.1, 40, 0.6, 0.75
# Where nearly all that have it agree with each other, and by so much more than others do with them, there is more,
# if that is next to the place: of a black frame only one side stands out from photos that are dark at the others.
_ALL, _MORE = 0.9, 0.2
_MOST_OWN, _MOST_OTHERS = 80, 120
# An edge is a line across the photo over which the light changes by so many levels more than so many lines away, nearly
# everywhere in one direction.
_LEAST_STEP, _ONE_WAY, _SHARP = 4, 0.75, 4
# A bar's edge lies within so much of the photo's border; sides that share so many of their photos are one frame.
_WIDEST, _SAME_PHOTOS, _NEARLY = 0.3, 0.6, 0.9


@dataclass(frozen=True)
class Bearers:
    """Photos of a class that have the same in one place.

    Attributes:
        rows: of the photos.
        place: (H, W) bool: where.
    """

    rows: np.ndarray
    place: np.ndarray


@dataclass(frozen=True)
class Drawn:
    """Rows that are compared: of the class, and of the others."""

    own: np.ndarray
    others: np.ndarray

    @property
    def least(self) -> float:
        """How many of the class's photos must have it."""
        return max(_LEAST_PHOTOS, _LEAST_SHARE * len(self.own))


def _draw(data: AuditData, label: int) -> Drawn:
    draw = np.random.default_rng([data.seed, 5, label])
    share = -(-_MOST_OTHERS // max(1, len(data.groups) - 1))
    others = [draw.permutation(rows)[:share] for k, rows in data.groups.items() if k != label]
    return Drawn(draw.permutation(data.groups[label])[:_MOST_OWN], np.concatenate(others))


def find_alike(data: AuditData, label: int) -> Bearers | None:
    """The largest group of a class's photos whose pixels agree in one place, where hardly another class's do."""
    drawn = _draw(data, label)
    cells, rest = (_to_cells(data.pixels[rows]) for rows in (drawn.own, drawn.others))
    most = _find_tolerance(rest)
    best: tuple[float, Bearers] | None = None
    for one in cells:
        inside, outside = _agree(one, cells, most), _agree(one, rest, most)
        counted = (inside.sum(0) >= drawn.least) & (inside.mean(0) - outside.mean(0) >= _EXCESS)
        parts, _ = scipy.ndimage.label(counted)
        sizes = np.bincount(parts.ravel())
        for part in np.flatnonzero(sizes[1:] >= _LEAST_CELLS) + 1:
            place = parts == part
            shown, others_show = inside[:, place].mean(1), outside[:, place].mean(1)
            has = shown >= _SHOWN
            if has.sum() < drawn.least or (others_show >= _SHOWN).mean() > _OTHERS_SHARE:
                continue
            gap = np.quantile(shown[has], 0.25) - np.quantile(np.concatenate([shown[~has], others_show]), 0.95)
            score = float(has.sum() * sizes[part] * gap)
            if gap >= _LEAST_GAP and (best is None or score > best[0]):
                best = score, Bearers(np.sort(drawn.own[has]), _to_pixels(place, data.pixels.shape[2:]))
    return grow(data, drawn, best[1]) if best else None


def find_bars(data: AuditData, label: int) -> Bearers | None:
    """The photos of a class that have a straight edge along a border, or several, where hardly another class's have."""
    drawn = _draw(data, label)
    height, width = data.pixels.shape[2:]
    greys = [data.pixels[rows].mean(1, dtype=np.float32) for rows in (drawn.own, drawn.others)]
    sides: list[Bearers] = []
    for is_column in (False, True):
        has, others_have = (_find_edges(grey.swapaxes(1, 2) if is_column else grey) for grey in greys)
        length = width if is_column else height
        for is_far in (False, True):
            near = np.arange(has.shape[1]) < _WIDEST * length
            near = near[::-1] if is_far else near
            excess = has.sum(0) * near * (others_have.mean(0) <= _OTHERS_SHARE)
            # A bar's words have edges, too; its own is the inmost.
            edges = np.flatnonzero(excess >= max(drawn.least, _NEARLY * excess.max()))
            if len(edges):
                at = int(edges[0 if is_far else -1])
                place = np.zeros((height, width), dtype=bool)
                strip = slice(at + 1, None) if is_far else slice(None, at + 1)
                place[(slice(None), strip) if is_column else strip] = True
                sides.append(Bearers(np.sort(drawn.own[has[:, at]]), place))
    if not sides:
        return None
    first = max(sides, key=lambda side: len(side.rows))
    place = first.place.copy()
    for side in sides:
        if len(np.intersect1d(side.rows, first.rows)) >= _SAME_PHOTOS * len(first.rows):
            place |= side.place
    return grow(data, drawn, Bearers(first.rows, place))


def grow(data: AuditData, drawn: Drawn, found: Bearers) -> Bearers:
    """The same with what else those photos have in common next to the place, and others have not."""
    own, rest = (_to_cells(data.pixels[rows]) for rows in (found.rows, drawn.others))
    most, middle = _find_tolerance(rest), np.median(own, axis=0)
    inside, outside = (_agree(middle, cells, most).mean(0) for cells in (own, rest))
    shared = _to_pixels((inside >= _ALL) & (inside - outside >= _MORE), data.pixels.shape[2:])
    parts, _ = scipy.ndimage.label(shared | found.place)
    return Bearers(found.rows, np.isin(parts, np.unique(parts[found.place])))


def _find_edges(lines: np.ndarray) -> np.ndarray:
    """(n, lines - 1) bool: whether there is an edge of grey photos (n, lines, length) after that line."""
    # Over two lines: a photo that was made smaller has softer edges.
    steps = np.pad(lines, ((0, 0), (1, 1), (0, 0)), mode="edge")
    steps = steps[:, 3:] - steps[:, :-3]
    step, travel = np.abs(steps.mean(2)), np.abs(steps).mean(2)
    # A slope goes on beyond it.
    beyond = np.pad(step, ((0, 0), (_SHARP, _SHARP)))
    sharp = step - np.maximum(beyond[:, : -2 * _SHARP], beyond[:, 2 * _SHARP :])
    is_edge: np.ndarray = (sharp >= _LEAST_STEP) & (step >= _ONE_WAY * travel)
    return is_edge


def _find_tolerance(cells: np.ndarray) -> np.ndarray:
    """(rows, columns): by how many levels photos (n, 3, rows, columns) may differ there and yet agree."""
    usual = np.abs(cells - np.roll(cells, 1, axis=0)).mean((0, 1))
    most: np.ndarray = (_AGREE * usual).clip(_LEAST_LEVELS, _MOST_LEVELS)
    return most


def _to_cells(pixels: np.ndarray) -> np.ndarray:
    """(n, 3, H, W) -> (n, 3, rows, columns) means of the cells."""
    n, channels, height, width = pixels.shape
    rows, columns = height // _CELL_PX, width // _CELL_PX
    whole = pixels[:, :, : rows * _CELL_PX, : columns * _CELL_PX].reshape(
        n, channels, rows, _CELL_PX, columns, _CELL_PX
    )
    cells: np.ndarray = whole.mean((3, 5), dtype=np.float32)
    return cells


def _to_pixels(place: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    whole = np.zeros(shape, dtype=bool)
    cells = place.repeat(_CELL_PX, 0).repeat(_CELL_PX, 1)[: shape[0], : shape[1]]
    whole[: cells.shape[0], : cells.shape[1]] = cells
    return whole


def _agree(one: np.ndarray, cells: np.ndarray, most: np.ndarray) -> np.ndarray:
    """(n, rows, columns) bool: where photos (n, 3, rows, columns) agree with one (3, rows, columns)."""
    agreed: np.ndarray = (np.abs(cells - one) <= most).all(1)
    return agreed
