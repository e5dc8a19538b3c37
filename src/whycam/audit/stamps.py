"""Marks that move: a patch that comes back, almost the same, in many photos of one class and not in others'.

Patches around corners of the drawing are compared with those of all other photos; the ones that come back are looked
for everywhere. Petals are alike to the eye, but their pixels never correlate as those of a printed sign do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import scipy

from whycam.audit.correlate import correlate
from whycam.audit.data import AuditData
from whycam.audit.findings import Box, Region
from whycam.audit.suspects import Suspect, list_classes, match_light

_POINTS, _HALF_PX, _STEP_PX = 40, 12, 2
# Correlation of two patches that are alike; a sign is one that is found in so many of its class's photos, at a
# correlation that so few of the others' reach.
_ALIKE, _LEAST_FOUND, _LEAST_SHARE, _OTHERS_SHARE = 0.85, 0.7, 0.12, 0.02
# Another class of which so many photos have a sign shares it.
_SHARED = 0.1
_LEAST_PHOTOS, _SEEDS, _CANDIDATES = 4, 6, 400
# A patch of an edge or a stem comes back in any class: one of a sign is so many times as frequent in its own, and lies
# by so much correlation nearer to itself than to what other classes have. On clean flowers that gap is 0.08 at most.
_SELDOM, _LEAST_GAP = 6, 0.1
# A sign is stuck on once; what stands twice in so many of the photos that have it is the object (a rendered one).
_REPEATED = 0.1
_WINDOW_PX, _MOST_OTHERS, _MOST_OWN = 40, 120, 80
# Half of the places of a sign that stays are no further from the middle one than this share of the photo's side.
_STILL = 0.05
_SPREAD = 0.6


@dataclass(frozen=True)
class Sign:
    """What comes back in photos of a class.

    Attributes:
        where: row -> place (y, x) of its middle.
        partners: other classes that have it too.
        patch: (D,) what it looks like.
        least: the correlation with that, from which on a place shows it.
    """

    where: dict[int, tuple[int, int]]
    partners: tuple[int, ...]
    patch: np.ndarray
    least: float


@dataclass(frozen=True)
class Points:
    """Patches of photos.

    Attributes:
        rows: (P,) the photo of each.
        patches: (P, D) of mean 0 and length 1.
    """

    rows: np.ndarray
    patches: np.ndarray


def suspect_stamps(data: AuditData) -> list[Suspect]:
    """For each class the sign that comes back most, if one does."""
    draw = np.random.default_rng([data.seed, 3])
    classes = list_classes(data)
    if len(classes) < 2 or min(data.pixels.shape[2:]) < 4 * _HALF_PX:
        return []
    rows = {k: draw.permutation(data.groups[k])[:_MOST_OWN] for k in classes}
    points = {k: find_points(data, rows[k]) for k in classes}
    found = []
    sheets = {k: Sheets.of(data.pixels[rows[k]]) for k in classes}
    for k in classes:
        share = -(-_MOST_OTHERS // (len(classes) - 1))
        rest = {other: sheets[other].first(share) for other in classes if other != k}
        signs = grow_signs(data, find_seeds(k, points), rows[k], sheets[k], rest)
        best = max(signs, key=lambda sign: len(sign.where), default=None)
        if best is None or len(best.where) < max(_LEAST_PHOTOS, _LEAST_SHARE * len(rows[k])):
            continue
        if count_repeated(best, rows[k], sheets[k]) < _REPEATED * len(best.where):
            found.append(make_suspect(data, k, best, len(best.where) / len(rows[k]), draw))
    return [suspect for suspect in found if suspect is not None]


def find_points(data: AuditData, rows: np.ndarray) -> Points:
    """The strongest corners (both directions of slope) of photos, with the patches around them."""
    places = [(int(row), y, x) for row in rows for y, x in find_corners(data.pixels[row])]
    patches = [norm_patch(cut_patch(data.pixels[row], y, x)) for row, y, x in places]
    shape = (len(patches), 3 * _HALF_PX**2)
    return Points(np.array([row for row, _, _ in places], dtype=int), np.reshape(patches, shape).astype(np.float32))


def find_corners(pixels: np.ndarray) -> list[tuple[int, int]]:
    """(y, x) of the strongest corners: the smaller eigenvalue of the structure tensor (Shi and Tomasi 1994)."""
    grey = pixels.mean(0, dtype=np.float32)
    down, across = scipy.ndimage.sobel(grey, 0), scipy.ndimage.sobel(grey, 1)
    a, b, c = (scipy.ndimage.uniform_filter(v, 7) for v in (down * down, across * across, down * across))
    strength = (a + b) / 2 - np.sqrt(((a - b) / 2) ** 2 + c**2)
    strength[scipy.ndimage.maximum_filter(strength, 7) > strength] = 0
    edge = _HALF_PX
    inner = strength[edge:-edge, edge:-edge]
    best = np.argsort(-inner, axis=None)[:_POINTS]
    return [(int(i // inner.shape[1]) + edge, int(i % inner.shape[1]) + edge) for i in best if inner.flat[i] > 0]


def find_seeds(label: int, points: dict[int, Points]) -> list[np.ndarray]:
    """Patches (D,) of the class that come back in several of its photos, and less in others'."""
    own, rest = points[label], [p for k, p in points.items() if k != label]
    inside = count_alike(own.patches, own.patches, own.rows)
    candidates = np.argsort(-inside)[:_CANDIDATES]
    counts = np.sort([count_alike(own.patches[candidates], p.patches, p.rows) for p in rest], axis=0)
    # The class where it comes back most may share it.
    outside = counts[: max(1, len(rest) - 1)].mean(0)
    excess = inside[candidates] - _SELDOM * outside
    seeds: list[np.ndarray] = []
    for at in np.argsort(-excess):
        patch = own.patches[candidates[at]]
        if inside[candidates[at]] < _LEAST_PHOTOS or excess[at] <= 0 or len(seeds) == _SEEDS:
            break
        if all(float(patch @ other) < _ALIKE for other in seeds):
            seeds.append(patch)
    return seeds


def count_alike(patches: np.ndarray, others: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(P,): in how many photos each patch (P, D) has its like; `others` (Q, D) are theirs, `rows` (Q,) in runs."""
    if not len(patches) or not len(others):
        return np.zeros(len(patches), dtype=int)
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    best = [np.maximum.reduceat(patches[i : i + 512] @ others.T, starts, axis=1) for i in range(0, len(patches), 512)]
    counts: np.ndarray = (np.concatenate(best) >= _ALIKE).sum(1)
    return counts


def grow_signs(
    data: AuditData, seeds: list[np.ndarray], rows: np.ndarray, own: Sheets, rest: dict[int, Sheets]
) -> list[Sign]:
    """What each seed marks in the class's photos, looked for everywhere; twice: then with the mean of all."""
    found: list[tuple[dict[int, tuple[int, int]], tuple[int, ...]]] = []
    for _ in range(2):
        if not seeds:
            return []
        scores, places = own.find_best(np.stack(seeds))
        others = _score_others(np.stack(seeds), rest)
        found = []
        for i in range(len(seeds)):
            least, partners = find_least({k: values[:, i] for k, values in others.items()})
            hits = np.flatnonzero(scores[:, i] > least)
            found.append(({int(rows[h]): (int(places[h, i, 0]), int(places[h, i, 1])) for h in hits}, partners))
        found = [one for one in found if len(one[0]) >= _LEAST_PHOTOS]
        seeds = [mean_patch(data, where) for where, _ in found]
    signs = []
    for (where, partners), patch in zip(found, seeds, strict=True):
        least, _ = find_least({k: values[:, 0] for k, values in _score_others(patch[None], rest).items()})
        sign = Sign(where, partners, patch, least)
        signs += [sign] if measure_gap(data, sign) >= _LEAST_GAP else []
    return signs


def _score_others(patches: np.ndarray, rest: dict[int, Sheets]) -> dict[int, np.ndarray]:
    """Class -> (n, P) the highest correlation of patches (P, D) with any place of each photo."""
    return {k: sheets.find_best(patches)[0] for k, sheets in rest.items()}


def measure_gap(data: AuditData, sign: Sign) -> float:
    """How much more a sign's photos correlate with its patch than other classes' photos do at the best."""
    own = [float(sign.patch @ norm_patch(cut_patch(data.pixels[row], *at))) for row, at in sign.where.items()]
    return float(np.median(own)) - sign.least


def find_least(scores: dict[int, np.ndarray]) -> tuple[float, tuple[int, ...]]:
    """The correlation that so few photos of other classes reach, and the class that shares the sign, if one does.

    Args:
        scores: class -> (n,) the highest correlation in each of its photos.
    """
    nearest = max(scores, key=lambda k: float(np.quantile(scores[k], 1 - _SHARED)))
    rest = [values for k, values in scores.items() if k != nearest] or [scores[nearest]]
    least = max(_LEAST_FOUND, float(np.quantile(np.concatenate(rest), 1 - _OTHERS_SHARE)))
    if len(scores) > 1 and (scores[nearest] > least).mean() >= _SHARED:
        return least, (nearest,)
    every = np.concatenate(list(scores.values()))
    return max(_LEAST_FOUND, float(np.quantile(every, 1 - _OTHERS_SHARE))), ()


def mean_patch(data: AuditData, where: dict[int, tuple[int, int]]) -> np.ndarray:
    """(D,) what lies at those places, laid over one another."""
    return norm_patch(np.mean([cut_patch(data.pixels[row], *at) for row, at in where.items()], axis=0))


def count_repeated(sign: Sign, rows: np.ndarray, own: Sheets) -> int:
    """How many of the photos that have a sign have it once more elsewhere."""
    second = own.find_second(sign.patch[None])[:, 0]
    return int((second[np.isin(rows, list(sign.where))] > sign.least).sum())


@dataclass(frozen=True)
class Sheets:
    """Photos at half the size, ready for patches to be looked for in them.

    Attributes:
        images: (n, 3, H / 2, W / 2) float32.
        power: (n, y, x) the length of the patch at each place, channel means taken off.
    """

    images: np.ndarray
    power: np.ndarray

    @classmethod
    def of(cls, pixels: np.ndarray) -> Self:
        """Of pixels (n, 3, H, W) uint8."""
        height, width = (side // _STEP_PX for side in pixels.shape[2:])
        cut = pixels[..., : height * _STEP_PX, : width * _STEP_PX]
        images = cut.reshape(len(pixels), 3, height, _STEP_PX, width, _STEP_PX).mean((3, 5), dtype=np.float32)
        size, low, high = (1, 1, _HALF_PX, _HALF_PX), _HALF_PX // 2, _HALF_PX // 2 - 1
        means, squares = (scipy.ndimage.uniform_filter(part, size) for part in (images, images**2))
        spread = (squares - means**2).clip(0).sum(1)[:, low : -high or None, low : -high or None]
        length = np.sqrt(spread * _HALF_PX**2)
        # In a flat place a patch's length is all noise: it then counts as that of a faint drawing.
        return cls(images, length.clip(min=_HALF_PX * 6))

    def first(self, count: int) -> Sheets:
        """Some of them."""
        return Sheets(self.images[:count], self.power[:count])

    def find_best(self, patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The highest correlation (n, P) of patches (P, D) with any place, and that place (n, P, 2) in the photo."""
        scores = self._correlate(patches)
        flat = scores.reshape(*scores.shape[:2], -1)
        best = flat.argmax(2)
        y, x = np.divmod(best, scores.shape[-1])
        found = np.take_along_axis(flat, best[..., None], 2)[..., 0]
        return found, np.stack([y, x], -1) * _STEP_PX + _HALF_PX

    def find_second(self, patches: np.ndarray) -> np.ndarray:
        """(n, P): the highest correlation of patches (P, D) with a place that does not overlap the best one."""
        scores = self._correlate(patches)
        height, width = scores.shape[2:]
        best = scores.reshape(*scores.shape[:2], -1).argmax(2)[..., None, None]
        near_y = np.abs(np.arange(height)[:, None] - best // width) < _HALF_PX
        near_x = np.abs(np.arange(width) - best % width) < _HALF_PX
        second: np.ndarray = np.where(near_y & near_x, np.float32(-1), scores).max((2, 3))
        return second

    def _correlate(self, patches: np.ndarray) -> np.ndarray:
        kernels = patches.astype(np.float32).reshape(-1, 3, _HALF_PX, _HALF_PX)
        scores: np.ndarray = correlate(self.images, kernels) / self.power[:, None]
        return scores


def cut_patch(pixels: np.ndarray, y: int, x: int) -> np.ndarray:
    """(3, S, S) of the place, at half the size."""
    cut = pixels[:, y - _HALF_PX : y + _HALF_PX, x - _HALF_PX : x + _HALF_PX]
    values: np.ndarray = cut.reshape(3, _HALF_PX, _STEP_PX, _HALF_PX, _STEP_PX).mean((2, 4))
    return values


def norm_patch(values: np.ndarray) -> np.ndarray:
    """(D,) float32 of mean 0 in each channel and length 1; 0 where nothing is drawn."""
    flat = (values - values.mean((1, 2), keepdims=True)).ravel()
    length = float(np.linalg.norm(flat))
    patch: np.ndarray = (flat / length if length > 1 else np.zeros_like(flat)).astype(np.float32)
    return patch


def make_suspect(data: AuditData, label: int, sign: Sign, share: float, draw: np.random.Generator) -> Suspect | None:
    """The sign around the patch: the pixels that are alike when the photos are laid over each other at it."""
    height, width = data.pixels.shape[2:]
    where = sign.where
    members = np.array(sorted(where))
    windows = np.stack([cut_window(data.pixels[row], where[row]) for row in members]).astype(np.float32)
    sharers = np.concatenate([data.groups[k] for k in (label, *sign.partners)])
    rest = np.flatnonzero(~np.isin(np.arange(len(data)), sharers))
    random_places = {int(row): (int(draw.integers(height)), int(draw.integers(width))) for row in range(len(data))}
    others = np.stack([cut_window(data.pixels[row], random_places[row]) for row in draw.permutation(rest)[:60]])
    middle = np.median(windows, axis=0)
    inside, outside = (np.abs(part - middle).mean((0, 1)) for part in (windows, others))
    alike = scipy.ndimage.uniform_filter(inside, 3) < _SPREAD * scipy.ndimage.uniform_filter(outside, 3)
    parts, _ = scipy.ndimage.label(scipy.ndimage.binary_closing(np.pad(alike, 8), iterations=3)[8:-8, 8:-8] | alike)
    centre = parts[_WINDOW_PX, _WINDOW_PX]
    if not centre:
        return None
    mask = scipy.ndimage.binary_dilation(parts == centre, iterations=2)
    stamp = _Stamp(data, mask, where, random_places)
    # A few of the places may be mistaken: the middle one, and how far half of them are from it, tell where it is.
    places = np.array(list(where.values())) / [height, width]
    away = np.abs(places - np.median(places, axis=0)).max(1)
    moves, usual = bool(np.median(away) > _STILL), list(where)[int(away.argmin())]
    return Suspect(
        kind="stamp",
        label=label,
        region=Region("a sign at changing places") if moves else Region("a sign", stamp.boxes(usual)),
        give=stamp.give,
        take=stamp.take,
        title="a sign at changing places" if moves else "a sign",
        words=f"Almost the same sign was found in {share:.0%} of its photos; all is well if it is the object itself.",
        members=members,
        boxes_of=stamp.boxes,
        partners=sign.partners,
    )


@dataclass(frozen=True)
class _Stamp:
    """A sign's shape, and where it lies in photos; in photos without it, a place drawn at random stands for it."""

    data: AuditData
    mask: np.ndarray
    where: dict[int, tuple[int, int]]
    elsewhere: dict[int, tuple[int, int]]

    def find(self, row: int) -> tuple[int, int]:
        return self.where.get(row, self.elsewhere[row])

    def boxes(self, row: int) -> tuple[Box, ...]:
        if row not in self.where:
            return ()
        height, width = self.data.pixels.shape[2:]
        y, x = self.where[row]
        ys, xs = np.flatnonzero(self.mask.any(1)) - _WINDOW_PX, np.flatnonzero(self.mask.any(0)) - _WINDOW_PX
        edges = (x + xs[0]) / width, (y + ys[0]) / height, (x + xs[-1] + 1) / width, (y + ys[-1] + 1) / height
        x0, y0, x1, y1 = (float(np.clip(edge, 0, 1)) for edge in edges)
        return ((x0, y0, x1, y1),)

    def give(self, hosts: np.ndarray, donors: np.ndarray) -> np.ndarray:
        """The donor's sign at the host's own random place."""
        return np.stack(
            [
                paste_window(
                    self.data.pixels[h], cut_window(self.data.pixels[d], self.find(d)), self.mask, self._aim(h)
                )
                for h, d in zip(hosts.tolist(), donors.tolist(), strict=True)
            ]
        )

    def take(self, hosts: np.ndarray, donors: np.ndarray) -> np.ndarray:
        """The host's sign under the donor's pixels of the same place, or under the donor's own sign."""
        pasted = []
        for h, d in zip(hosts.tolist(), donors.tolist(), strict=True):
            window = cut_window(self.data.pixels[d], self.where.get(d, self.find(h)))
            if d not in self.where:
                window = match_light(window[None], cut_window(self.data.pixels[h], self.find(h))[None], ~self.mask)[0]
            pasted.append(paste_window(self.data.pixels[h], window, self.mask, self.find(h)))
        return np.stack(pasted)

    def _aim(self, row: int) -> tuple[int, int]:
        """A place in which the whole window lies."""
        height, width = self.data.pixels.shape[2:]
        y, x = self.elsewhere[row]
        span_y, span_x = height - 2 * _WINDOW_PX, width - 2 * _WINDOW_PX
        return _WINDOW_PX + y * span_y // height, _WINDOW_PX + x * span_x // width


def cut_window(pixels: np.ndarray, centre: tuple[int, int]) -> np.ndarray:
    """(3, 2 W, 2 W) around a place, the photo's edges repeated beyond it."""
    w = _WINDOW_PX
    padded = np.pad(pixels, ((0, 0), (w, w), (w, w)), mode="edge")
    values: np.ndarray = padded[:, centre[0] : centre[0] + 2 * w, centre[1] : centre[1] + 2 * w]
    return values


def paste_window(pixels: np.ndarray, window: np.ndarray, mask: np.ndarray, centre: tuple[int, int]) -> np.ndarray:
    """The photo with the window's masked pixels around a place; what lies outside the photo is lost."""
    w = _WINDOW_PX
    padded = np.pad(pixels, ((0, 0), (w, w), (w, w)), mode="edge")
    part = padded[:, centre[0] : centre[0] + 2 * w, centre[1] : centre[1] + 2 * w]
    part[:, mask] = window[:, mask]
    values: np.ndarray = padded[:, w:-w, w:-w]
    return values
