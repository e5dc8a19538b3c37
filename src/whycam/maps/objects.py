"""Where the object is in photos, whatever it is: refined maps of what a general network sees best in each of them.

The steps are those of `maps/refine.py` with a leaner recipe, one view at the network's own stride and a coarser walk,
without torch where the graph is in the cache: 2 cores take 15 ms a photo, and on scenes with exact masks the maps are
as good as those of the full recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import skimage
from PIL import Image

from whycam.data.preprocess import Preprocess
from whycam.errors import UserError
from whycam.maps.render import resize_map
from whycam.model.cache import is_cached, open_cached
from whycam.model.onnx.engine import find_engine, open_session

# Classes whose maps are added up, cells a side of the walk, and the walk of `maps/refine.py`'s recipe.
TOP, GRID = 5, 20
_POWER, _WALK, _POSITION, _COLOUR, _INNER = 0.5, 0.9, 0.15, 0.12, 0.3
# Heat in the middle between object and ground, and how fast it decides; levels of each colour channel, the share under
# which a colour is too rare to tell, how much colours weigh, how far they are blurred, of the side, and how often.
_MIDDLE, _STEEP, _BINS, _RARE, _COLOUR_WEIGHT, _BLUR, _ROUNDS = 0.5, 10, 16, 1e-4, 2, 0.009, 2
# The cosine of two classes' weights that one pair in a hundred has.
KIN = 0.12
OUTPUTS = ("logits", "maps", "heat", "guide")
RECIPE = f"objects-2-{TOP}-{GRID}-{_POWER}-{_WALK}-{_POSITION}-{_COLOUR}-{_INNER}"
# From so many photos on, the time for an export is won back, also by the next audit.
_MANY, _BATCH = 100, 16


@dataclass(frozen=True)
class Seen:
    """What the general network sees in N photos.

    Attributes:
        logits: (N, 1000) float32.
        maps: (N, 1000, h, w) float32, signed; mean(map) + bias = logit.
        heat: (N, g, g) float32 in [0, 1]: how surely a cell is on the object.
    """

    logits: np.ndarray
    maps: np.ndarray
    heat: np.ndarray


@dataclass(frozen=True)
class Finder:
    """The installed network, made ready to find objects: `open_finder` opens it.

    Attributes:
        run: normalised images -> `OUTPUTS`.
        preprocess: how it takes photos.
        class_names: of its logits.
        kin: for each class those that look like it: whose weights have a cosine of at least `KIN`.
    """

    run: Callable[[np.ndarray], list[np.ndarray]]
    preprocess: Preprocess
    class_names: tuple[str, ...]
    kin: tuple[tuple[int, ...], ...]

    def see(self, pixels: np.ndarray) -> Iterator[Seen]:
        """What it sees in photos (N, 3, H, W) uint8 of any size, some at a time."""
        for start in range(0, len(pixels), _BATCH):
            photos = [Image.fromarray(one.transpose(1, 2, 0)) for one in pixels[start : start + _BATCH]]
            images = self.preprocess.normalise(np.stack([self.preprocess.to_pixels(photo) for photo in photos]))
            logits, maps, heat, guide = self.run(images)
            yield Seen(logits, maps, walk(heat, guide, read_colours(photos)))


def open_finder(photos: int) -> Finder:
    """The installed network by the graph in the cache; where there is none it is made, or for few photos torch answers.

    Args:
        photos: how many are expected.
    """
    place = find_place()
    if is_cached(place):
        with suppress(UserError):
            found = open_cached(place, _open)
            if found is not None:
                return found
    from whycam.maps import object_graph  # noqa: PLC0415 - torch, which a graph in the cache does without

    return object_graph.open_finder(place, is_kept=photos >= _MANY)


def _open(path: Path, about: Mapping[str, Any]) -> Finder:
    session = open_session(path)
    try:
        preprocess, names = Preprocess.model_validate(about["preprocess"]), tuple(about["class_names"])
        kin = tuple(tuple(others) for others in about["kin"])
    except (KeyError, ValueError) as error:
        raise UserError(f"'{path}' does not say how it takes photos. Remove it.") from error
    return Finder(lambda images: session.run(None, {"images": images}), preprocess, names, kin)


def find_place() -> Path:
    """Where the graph is kept: named by all that decides its numbers."""
    place = find_engine("imagenet")
    if place is None:
        raise RuntimeError("the installed network has a graph of its own")
    return place.with_stem(f"{place.stem}-{RECIPE}")


def cut_out(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """(H, W) float32 in [0, 1]: how surely each pixel of a photo (3, H, W) is the object's, of its heat (g, g).

    The heat is the prior. The colours of warm pixels and of cold ones, each a smoothed histogram, tell how much more
    likely a pixel's colour is on the object; the histograms are made again of what comes out. That is GrabCut's idea
    (Rother et al. 2004) with histograms for its mixtures, and a blur for its cut.
    """
    lab = skimage.color.rgb2lab(pixels.transpose(1, 2, 0) / 255) + np.array([0, 90, 90])
    levels = (lab / np.array([100, 180, 180]) * _BINS).astype(int).clip(0, _BINS - 1)
    shape = (_BINS,) * 3
    colours = np.ravel_multi_index(tuple(np.moveaxis(levels, 2, 0)), shape)
    prior = _STEEP * (resize_map(heat, pixels.shape[1:]) - _MIDDLE)
    sure = scipy.special.expit(prior)
    for _ in range(_ROUNDS):
        counts = [np.bincount(colours.ravel(), part.ravel(), _BINS**3).reshape(shape) for part in (sure, 1 - sure)]
        shares = [scipy.ndimage.gaussian_filter(part / max(part.sum(), 1), 1) for part in counts]
        likelier = np.log(shares[0] + _RARE).ravel()[colours] - np.log(shares[1] + _RARE).ravel()[colours]
        blur = _BLUR * min(likelier.shape)
        sure = scipy.special.expit(
            prior + _COLOUR_WEIGHT * scipy.ndimage.gaussian_filter(likelier.astype(np.float32), blur)
        )
    values: np.ndarray = sure.astype(np.float32)
    return values


def read_colours(photos: list[Image.Image]) -> np.ndarray:
    """(N, g * g, 3) float32: the mean CIELAB colour of each cell of RGB photos, / 100."""
    cells = np.stack([np.asarray(photo.resize((GRID, GRID), Image.Resampling.BOX)) for photo in photos])
    return np.asarray(skimage.color.rgb2lab(cells / 255), dtype=np.float32).reshape(len(photos), -1, 3) / 100


def walk(heat: np.ndarray, guide: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """(N, g, g) in [0, 1]: heat (N, g, g) spread among cells of like colours (N, g * g, 3) and features (N, C, g, g).

    See `spread` and `compute_affinity` in `maps/refine.py`.
    """
    axis = np.arange(GRID, dtype=np.float32) / GRID
    places = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    near = _square_distances(places) / (2 * _POSITION**2)
    # Each of the inner layers gives unit vectors: their products are the sum of the cosines.
    layers = 2
    spread = []
    for seeds, features, colour in zip(
        heat**_POWER, guide.reshape(len(guide), guide.shape[1], -1), colours, strict=True
    ):
        like = (features.T @ features - layers) / _INNER
        affinity = np.exp(like - near - _square_distances(colour) / (2 * _COLOUR**2)).astype(np.float32)
        np.fill_diagonal(affinity, 0)
        degree = affinity.sum(1) + 1e-8
        system = np.diag(degree) - _WALK * affinity
        warm = (1 - _WALK) * degree * seeds.ravel()
        found = scipy.linalg.cho_solve(
            scipy.linalg.cho_factor(system, overwrite_a=True, check_finite=False), warm, check_finite=False
        )
        spread.append(found.reshape(GRID, GRID))
    values: np.ndarray = _scale(np.stack(spread)) ** (1 / _POWER)
    return values.astype(np.float32)


def _square_distances(points: np.ndarray) -> np.ndarray:
    length = (points**2).sum(1)
    distances: np.ndarray = (length[:, None] + length - 2 * points @ points.T).clip(0)
    return distances


def _scale(maps: np.ndarray) -> np.ndarray:
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    scaled: np.ndarray = (maps - low) / np.where(high > low, high - low, 1)
    return scaled
