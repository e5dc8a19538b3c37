"""A frozen backbone's features, computed once and kept on disk: 100 epochs then cost about one pass.

float16, memory-mapped, keyed by weights, preprocessing and the content of the photos. Whole maps, or their means: all
that a linear head asks for, a 49th of the room at 7 x 7 cells.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap

from whycam.data.loader import Photo, in_batches, stream_photos
from whycam.data.preprocess import Preprocess
from whycam.errors import UserError, make_disk_error
from whycam.model.cache import find_cache, open_cached, open_or_make, prune_cached
from whycam.model.input import normalise_on
from whycam.runs import write_json

log = logging.getLogger("whycam.features")
Progress = Callable[[int], None]
# The cache keeps what was used last, up to this.
_CACHE_LIMIT_BYTES = 20 * 2**30
_BATCH = 32


@dataclass(frozen=True)
class FeatureStore:
    """Features of a set of photos.

    Attributes:
        values: (rows, C, h, w) float16, memory-mapped, (rows, C, 1, 1) of means; a row of zeros stands where a photo
            could not be read.
        row_of: content hash -> row.
        unreadable: content hash -> why it has no features.
        was_cached: nothing had to be computed.
    """

    values: np.ndarray
    row_of: Mapping[str, int]
    unreadable: Mapping[str, str]
    was_cached: bool


@dataclass(frozen=True)
class Changed:
    """Features of a view in which a cause is exchanged.

    Attributes:
        number: of the exchange among those of the training.
        words: photo -> what decides its view.
        stores: that have the words' rows between them.
    """

    number: int
    words: Mapping[Path, str]
    stores: tuple[FeatureStore, ...]


@dataclass(frozen=True)
class Stores:
    """Stored features of a training's photos.

    Attributes:
        plain: of all photos of the folder, also of those that are left out of the training.
        views: of the training photos, one for each random or swapped view.
        changed: views of the training photos with a cause exchanged, and of the held-out ones.
    """

    plain: FeatureStore
    views: tuple[FeatureStore, ...] = ()
    changed: tuple[Changed, ...] = ()


@dataclass(frozen=True)
class FeatureKey:
    """All that decides a set of features.

    Attributes:
        content: a word a row, that changes with what is in the photo.
        view: what is done to all of them.
        is_shared: other sets of the same weights and view may have some of the rows: see `open_relatives`.
        is_pooled: the means over the cells are kept, not the maps.
    """

    weights: str
    preprocess: Preprocess
    map_stride: int
    content: Sequence[str]
    view: str = "plain"
    is_shared: bool = False
    is_pooled: bool = False

    @property
    def digest(self) -> str:
        """One word for it, a file name."""
        words = _hash([*self._words, list(self.content), self.view])
        return f"{self.family}-{words}" if self.is_shared else words

    @property
    def family(self) -> str:
        """One word for it, whatever its rows."""
        return _hash([*self._words, self.view])

    @property
    def _words(self) -> list[Any]:
        pooled = ["pooled"] if self.is_pooled else []
        return [self.weights, self.preprocess.model_dump(), self.map_stride, *pooled]


def _hash(words: Sequence[Any]) -> str:
    return hashlib.blake2b(json.dumps(words).encode(), digest_size=16).hexdigest()


def default_cache_dir() -> Path:
    """Where features are kept, if no other place is named."""
    return find_cache() / "features"


def compute_features(
    run: Callable[[torch.Tensor], torch.Tensor],
    photos: Mapping[str, Path],
    key: FeatureKey,
    *,
    device: torch.device,
    cache_dir: Path,
    progress: Progress,
    read: Callable[[Iterable[Path]], Iterator[Photo]] | None = None,
) -> FeatureStore:
    """The store of that key: opened where it is on the disk, else computed, going on where an earlier run stopped.

    Args:
        run: images (N, 3, H, W) -> features (N, C, h, w).
        photos: content hash -> a file with that content, in the order of `key.content`.
        key: what decides the numbers.
        device: where `run` computes.
        cache_dir: where stores are kept.
        progress: told how many photos are done since the last call.
        read: paths -> photos; None reads the plain photo.

    Raises:
        UserError: the disk has no room for the store, or the cache can't be written to.
    """
    path = cache_dir / f"{key.digest}.npy"
    read = read or (lambda paths: stream_photos(paths, key.preprocess))

    def make() -> dict[str, Any]:
        # Where maps of the same photos lie, their means need no network.
        whole = _open_whole(key, cache_dir) if key.is_pooled else None
        if whole is not None:
            unreadable = whole.unreadable
            _pool_store(whole.values, path)
            progress(len(photos))
        else:
            unreadable = _fill(run, photos, key, path, device=device, progress=progress, read=read)
        prune_cached(path, _CACHE_LIMIT_BYTES)
        about: dict[str, Any] = {
            "weights": key.weights,
            "preprocess": key.preprocess.model_dump(mode="json"),
            "view": key.view,
        }
        about |= {"map_stride": key.map_stride, "photos": len(photos), "unreadable": unreadable}
        return about | ({"rows": list(key.content)} if key.is_shared else {})

    (values, unreadable), was_cached = open_or_make(path, make, _open_values)
    if was_cached:
        progress(len(photos))
    rows = {content: row for row, content in enumerate(key.content)}
    return FeatureStore(values, rows, unreadable, was_cached)


def open_relatives(key: FeatureKey, cache_dir: Path) -> list[FeatureStore]:
    """What is kept of the same weights and view, whichever rows it has."""

    def open_rows(path: Path, about: Mapping[str, Any]) -> FeatureStore:
        rows = {word: row for row, word in enumerate(about["rows"])}
        return FeatureStore(np.load(path, mmap_mode="r"), rows, about["unreadable"], was_cached=True)

    found = (open_cached(path, open_rows) for path in sorted(cache_dir.glob(f"{key.family}-*.npy")))
    return [store for store in found if store is not None]


def _open_values(path: Path, about: Mapping[str, Any]) -> tuple[np.ndarray, Mapping[str, str]]:
    return np.load(path, mmap_mode="r"), about["unreadable"]


def _open_whole(key: FeatureKey, cache_dir: Path) -> FeatureStore | None:
    """The maps of the photos of a pooled key, where they are kept."""

    def open_maps(path: Path, about: Mapping[str, Any]) -> FeatureStore:
        return FeatureStore(np.load(path, mmap_mode="r"), {}, about["unreadable"], was_cached=True)

    return open_cached(cache_dir / f"{replace(key, is_pooled=False).digest}.npy", open_maps)


def _pool_store(values: np.ndarray, path: Path) -> None:
    part = path.with_suffix(".part")
    store = _allocate(part, (*values.shape[:2], 1, 1))
    for start in range(0, len(values), _BATCH):
        store[start : start + _BATCH] = _pool(values[start : start + _BATCH])
    store.flush()
    part.replace(path)


def _pool(values: np.ndarray) -> np.ndarray:
    """(N, C, 1, 1) float16 means of float16 features, the same numbers whether the maps were kept or not."""
    means: np.ndarray = values.astype(np.float32).mean(axis=(2, 3), keepdims=True).astype(np.float16)
    return means


@torch.no_grad()
def _fill(
    run: Callable[[torch.Tensor], torch.Tensor],
    photos: Mapping[str, Path],
    key: FeatureKey,
    path: Path,
    *,
    device: torch.device,
    progress: Progress,
    read: Callable[[Iterable[Path]], Iterator[Photo]],
) -> dict[str, str]:
    """Writes `path`; a `.part` file and a note of the rows done are left by an interrupted run and taken up here."""
    part, note = path.with_suffix(".part"), path.with_suffix(".note")
    hashes = list(key.content)
    store, start, seal, unreadable = _take_up(part, note, len(hashes))
    progress(start)
    for batch in in_batches(zip(hashes[start:], read(photos[h] for h in hashes[start:]), strict=True), _BATCH):
        good = [(row, photo.pixels) for row, (_, photo) in enumerate(batch) if photo.pixels is not None]
        unreadable |= {content: photo.error for content, photo in batch if photo.error}
        if good:
            pixels = torch.from_numpy(np.stack([pixels for _, pixels in good])).to(device)
            values = run(normalise_on(pixels, key.preprocess)).half().cpu().numpy()
            values = _pool(values) if key.is_pooled else values
            if store is None:
                store = _allocate(part, (len(hashes), *values.shape[1:]))
                seal = _seal_rows(store[:start], "")
            store[[start + row for row, _ in good]] = values
        if store is not None:
            seal = _seal_rows(store[start : start + len(batch)], seal)
            write_json(note, {"rows": start + len(batch), "unreadable": unreadable, "seal": seal})
        start += len(batch)
        progress(len(batch))
    if store is None:
        store = _allocate(part, (len(hashes), 1, 1, 1))
    store.flush()
    del store
    part.replace(path)
    note.unlink(missing_ok=True)
    return unreadable


def _take_up(part: Path, note: Path, rows: int) -> tuple[np.memmap | None, int, str, dict[str, str]]:
    """What an interrupted run left, with the rows done, their seal and the reasons; nothing where it is not whole."""
    try:
        left = json.loads(note.read_text(encoding="utf-8"))
        start, seal, unreadable = int(left["rows"]), left["seal"], dict(left["unreadable"])
        store = open_memmap(part, mode="r+")
        is_whole = store.dtype == np.float16 and store.ndim == 4 and len(store) == rows and 0 < start <= rows
        if is_whole and _seal_rows(store[:start], "") == seal:
            return store, start, seal, unreadable
        found = "its rows are not those that were written"
    except FileNotFoundError:
        return None, 0, "", {}
    except (OSError, ValueError, LookupError, TypeError, SyntaxError) as error:
        found = f"it can't be read ({type(error).__name__})"
    log.warning("The features in '%s' are computed anew, not gone on with: %s", part, found)
    return None, 0, "", {}


def _seal_rows(rows: np.ndarray, seal: str) -> str:
    """One word for the rows so far, from the one for those before."""
    for row in rows:
        seal = hashlib.sha256(seal.encode() + row.tobytes()).hexdigest()
    return seal


def _allocate(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A memory-mapped file whose room is taken on the disk at once: running out later would kill the process."""
    size = int(np.prod(shape)) * 2
    free = shutil.disk_usage(path.parent).free
    is_pooled = shape[2:] == (1, 1)
    less = "fewer --augment views" if is_pooled else "a smaller --image-size, or a larger --map-stride"
    message = (
        f"The features of {shape[0]:,} photos need {size / 1e9:.1f} GB in '{path.parent}', which has "
        f"{free / 1e9:.1f} GB free. "
        f"Give --cache-dir on a larger disk, or {less}."
    )
    if size > free:
        raise UserError(message)
    try:
        store = open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
        if hasattr(os, "posix_fallocate"):
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        if make_disk_error(error, path.parent):
            raise UserError(message) from error
        raise
    return store
