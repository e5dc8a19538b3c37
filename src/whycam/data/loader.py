"""Photos to batches: decoded and resized by threads ahead of the network, in order, with bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from whycam.data.images import ImageError, load_sized
from whycam.data.preprocess import Preprocess

T = TypeVar("T")
R = TypeVar("R")

# Decoding and resizing leave Python's lock, so threads are enough and no process has to be started.
WORKERS = max(2, min(8, os.cpu_count() or 2))


@dataclass(frozen=True)
class Photo:
    """One file, decoded or refused.

    Attributes:
        path: the file.
        pixels: (3, H, W) uint8, the network's input before normalisation; None where `error` says why.
        image: the photo at full size, upright, where it was asked for.
        error: why the file can't be read; empty where it could.
        size_px: (width, height) of the whole upright photo.
    """

    path: Path
    pixels: np.ndarray | None = None
    image: Image.Image | None = None
    error: str = ""
    size_px: tuple[int, int] | None = None


def map_ahead(run: Callable[[T], R], items: Iterable[T], *, workers: int = WORKERS, ahead: int = 32) -> Iterator[R]:
    """`map` by threads, in order, never more than `ahead` results before the one that is used."""
    source = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[R]] = deque(pool.submit(run, item) for item in islice(source, ahead))
        try:
            while waiting:
                result = waiting.popleft().result()
                for item in islice(source, 1):
                    waiting.append(pool.submit(run, item))
                yield result
        finally:
            for future in waiting:
                future.cancel()


def load_photo(
    path: Path, preprocess: Preprocess, *, keep_image: bool = False, read: Callable[[], Path | bytes] | None = None
) -> Photo:
    """One photo, with the reason where it can't be read; `read` gets it from elsewhere than its path."""
    try:
        # A scaled decode is enough for the network; the photo itself is wanted at full size.
        at_least = None if keep_image else (2 * preprocess.width_px, 2 * preprocess.height_px)
        image, size_px = load_sized(read() if read else path, at_least=at_least)
    except ImageError as error:
        return Photo(path, error=str(error))
    return Photo(path, preprocess.to_pixels(image), image if keep_image else None, size_px=size_px)


def stream_photos(
    paths: Iterable[Path], preprocess: Preprocess, *, keep_image: bool = False, ahead: int = 32
) -> Iterator[Photo]:
    """Photos in order, unreadable ones with their reason, decoded ahead."""
    return map_ahead(lambda path: load_photo(path, preprocess, keep_image=keep_image), paths, ahead=ahead)


def in_batches(items: Iterable[T], size: int) -> Iterator[Sequence[T]]:
    """Lists of `size` items; the last may be shorter."""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch
