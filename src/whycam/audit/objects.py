"""Where the objects are in the audited photos: by the user's masks, or by a general network; never by the audited one.

A model that looks at the ground would draw the ground as its object. What the general network says of a photo is kept
in the cache, by the photo's pixels: the next audit reads it.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import scipy

from whycam.audit.data import AuditData
from whycam.audit.suspects import list_classes
from whycam.data.annotations import Annotation, AnnotationError
from whycam.data.images import read_size
from whycam.errors import UserError
from whycam.maps.objects import Finder, Seen, cut_out, find_place, open_finder
from whycam.model.cache import find_cache
from whycam.runs import open_atomic

# Pixels as sure as the first are cut out as the object, those as sure as the second are no ground. Chosen on generated
# scenes of seed 1002, whose masks are exact, and looked at on 50 flower photos.
SURE, POSSIBLE = 0.5, 0.03
# An object that covers less, or a hole that covers more of the photo, leaves nothing to swap.
LEAST_SHARE, MOST_SHARE = 0.005, 0.65
# How far around an object its shadow and blur are taken for the object, of the photo's side.
_MARGIN = 0.012
# So many photos of a class, and of all classes, are enough for the swaps.
_MOST_OF_CLASS, _MOST = 32, 400
_CELL_CLASSES = 5


@dataclass(frozen=True)
class Look:
    """What the general network sees in one photo.

    Attributes:
        heat: (g, g) float16 in [0, 1]: how surely a cell is on the object.
        logits: (1000,) float16.
        cell_classes: (h, w, 5) uint16: the best classes of each cell.
        cell_scores: (h, w, 5) float16: their logits there.
    """

    heat: np.ndarray
    logits: np.ndarray
    cell_classes: np.ndarray
    cell_scores: np.ndarray


@dataclass(frozen=True)
class Objects:
    """The photos whose object is known, and where it is.

    Attributes:
        masks: row of the data -> (H, W) bool: what is sure to be the object.
        holes: row -> (H, W) bool: all that may be.
        left_out: why photos have none -> how many.
        is_given: the masks are the user's.
    """

    masks: Mapping[int, np.ndarray]
    holes: Mapping[int, np.ndarray]
    left_out: Mapping[str, int]
    is_given: bool

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The rows among these whose object is known."""
        return np.array([row for row in rows.tolist() if row in self.masks], dtype=int)

    def tell_left_out(self) -> str:
        """A sentence; empty where none is left out."""
        if not self.left_out:
            return ""
        reasons = ", ".join(f"{count} ({why})" for why, count in self.left_out.items())
        return f"Photos left out of the swaps of grounds: {reasons}."


def read_objects(data: AuditData) -> Objects:
    """The objects of so many photos of each class as the swaps need; found once an audit.

    Raises:
        UserError: masks were given, and not one is of use.
    """
    return data.remember("objects", lambda: _find(data, choose_rows(data)))


def choose_rows(data: AuditData) -> np.ndarray:
    """Photos of each class with enough of them, as many of each; drawn by the seed."""
    classes = list_classes(data)
    draw = np.random.default_rng([data.seed, 23])
    count = min(_MOST_OF_CLASS, _MOST // max(1, len(classes)))
    rows = [row for k in classes for row in draw.permutation(data.groups[k])[:count].tolist()]
    return np.array(sorted(rows), dtype=int)


def _find(data: AuditData, rows: np.ndarray) -> Objects:
    left_out: Counter[str] = Counter()
    masks, holes = {}, {}
    looks = {} if data.masks else read_looks(data, rows)
    for row in rows.tolist():
        found = _read_mask(data, row) if data.masks else draw_mask(data.pixels[row], looks[row].heat)
        if isinstance(found, str):
            left_out[found] += 1
        elif found[0].mean() < LEAST_SHARE:
            left_out["the object covers nothing of the photo"] += 1
        elif found[1].mean() > MOST_SHARE:
            left_out["the object covers most of the photo"] += 1
        else:
            masks[row], holes[row] = found
    if data.masks and len(rows) and not masks:
        raise UserError(
            f"Not one of the masks of {len(rows)} photos can be used ({', '.join(left_out)}); expected PHOTO.png of "
            "the photo's size, in which all but 0 is the object. Correct them, or leave --masks out."
        )
    return Objects(masks, holes, dict(left_out), bool(data.masks))


def draw_mask(pixels: np.ndarray, heat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) bool twice, of a photo (3, H, W) and its heat (g, g): what is sure to be the object, and the hole."""
    sure = cut_out(pixels, heat)
    return sure >= SURE, widen(sure >= POSSIBLE)


def widen(mask: np.ndarray) -> np.ndarray:
    """The mask with what its shadow and its blur reach."""
    wider: np.ndarray = scipy.ndimage.binary_dilation(mask, iterations=max(1, round(_MARGIN * min(mask.shape))))
    return wider


def _read_mask(data: AuditData, row: int) -> tuple[np.ndarray, np.ndarray] | str:
    """The user's mask of a photo (H, W), and the hole that it leaves; or why there is none."""
    path = data.paths[row]
    if path not in data.masks:
        return "no mask"
    height, width = data.pixels.shape[2:]
    try:
        mask = Annotation(path, mask=data.masks[path]).fit(read_size(path), (height, width)).region
    except AnnotationError as error:
        return str(error)
    except UserError:
        return "the photo can't be read a second time"
    return mask, widen(mask)


def read_looks(data: AuditData, rows: np.ndarray) -> dict[int, Look]:
    """Row -> what the general network sees there; read or made once an audit, and kept in the cache for the next."""
    known: dict[int, Look] = data.remember("looks", dict)
    folder, recipe = find_cache() / "objects", find_place().stem
    new = [row for row in rows.tolist() if row not in known]
    places = {row: folder / f"{_hash(recipe, data.pixels[row])}.look" for row in new}
    known |= {row: look for row, place in places.items() if (look := load_look(place)) is not None}
    missing = [row for row in new if row not in known]
    if missing:
        seen = chain.from_iterable(map(_part, get_finder(data, len(missing)).see(data.pixels[missing])))
        for row, look in zip(missing, seen, strict=True):
            known[row] = look
            save_look(look, places[row])
    return {row: known[row] for row in rows.tolist()}


def get_finder(data: AuditData, photos: int) -> Finder:
    """The general network, opened once an audit; `photos` are how many it is to see."""
    return data.remember("finder", lambda: open_finder(photos), holds_for="anything")


def name_generic(data: AuditData, index: int) -> str:
    """What the general network calls one of its classes."""
    return get_finder(data, 1).class_names[index]


def _part(seen: Seen) -> list[Look]:
    best = np.argsort(-seen.maps, axis=1)[:, :_CELL_CLASSES]
    scores = np.take_along_axis(seen.maps, best, axis=1)
    return [
        Look(
            heat.astype(np.float16),
            logits.astype(np.float16),
            np.moveaxis(classes, 0, 2).astype(np.uint16),
            np.moveaxis(values, 0, 2).astype(np.float16),
        )
        for heat, logits, classes, values in zip(seen.heat, seen.logits, best, scores, strict=True)
    ]


def _hash(recipe: str, pixels: np.ndarray) -> str:
    return hashlib.blake2b(recipe.encode() + repr(pixels.shape).encode() + pixels.tobytes(), digest_size=16).hexdigest()


def save_look(look: Look, place: Path) -> None:
    """Writes the file whole, its SHA-256 first; a cache that can't be written to is done without."""
    content = io.BytesIO()
    np.savez(content, **vars(look))
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        with open_atomic(place) as part:
            part.write_bytes(hashlib.sha256(content.getvalue()).digest() + content.getvalue())


def load_look(place: Path) -> Look | None:
    """What lies there; None where nothing does, or not what was written."""
    try:
        content = place.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        return None
    with np.load(io.BytesIO(content[32:])) as parts:
        return Look(**parts)
