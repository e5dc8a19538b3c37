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

from whycam.data.budget import BUDGET
from whycam.data.images import ImageError, open_picture
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


def map_ahead(
    run: Callable[[T], R],
    items: Iterable[T],
    *,
    workers: int = WORKERS,
    ahead: int = 32,
    weigh: Callable[[T], int] | None = None,
    most: int = 0,
) -> Iterator[R]:
    """`map` by threads, in order, never more than `ahead` results before the one that is used.

    With `weigh`, the results that are in use, waiting or in the making weigh `most` together at the most; one that is
    heavier is alone. A result is in use until the next one is asked for.
    """
    source = ((item, weigh(item) if weigh else 0) for item in items)
    following: tuple[T, int] | None = None
    in_use = 0
    waiting: deque[tuple[Future[R], int]] = deque()
    with ThreadPoolExecutor(workers) as pool:

        def submit() -> None:
            nonlocal following
            while len(waiting) < ahead and (following := following or next(source, None)):
                load = in_use + sum(weight for _, weight in waiting)
                if load and load + following[1] > most:
                    return
                waiting.append((pool.submit(run, following[0]), following[1]))
                following = None

        try:
            submit()
            while waiting:
                future, in_use = waiting.popleft()
                result = future.result()
                submit()
                yield result
                del result, future  # else it stays in memory while the next one is made
                in_use = 0
                submit()
        finally:
            for future, _ in waiting:
                future.cancel()


def load_photo(
    path: Path,
    preprocess: Preprocess,
    *,
    keep_image: bool = False,
    is_whole: bool = False,
    read: Callable[[], Path | bytes] | None = None,
) -> Photo:
    """One photo, with the reason where it can't be read.

    Args:
        path: the file, and what the photo is called.
        preprocess: how it becomes the network's input.
        keep_image: keeps the photo at full size.
        is_whole: decodes it at full size, though it is not kept; else a JPEG at a part of it, as the network needs it.
        read: gets the photo from elsewhere than its path.
    """
    at_least = None if keep_image or is_whole else preprocess.at_least
    try:
        with open_picture(read() if read else path, at_least=at_least) as picture, BUDGET.hold(picture.pixels):
            image = picture.decode()
            return Photo(path, preprocess.to_pixels(image), image if keep_image else None, size_px=picture.size)
    except ImageError as error:
        return Photo(path, error=str(error))


def count_pixels(source: Path | bytes) -> int:
    """The pixels of the whole photo, from its header; 0 where it can't be read."""
    try:
        with open_picture(source) as picture:
            return picture.pixels
    except ImageError:
        return 0


def stream_batches(paths: Iterable[Path], preprocess: Preprocess, size: int) -> Iterator[Sequence[Photo]]:
    """Batches of `size` photos at full size, in order, the next one decoded while one is used.

    Both together have no more pixels than the budget: of large photos fewer make a batch, and one that is too large
    for half of the budget is alone.
    """
    weighed = ((path, count_pixels(path)) for path in paths)
    return map_ahead(
        lambda batch: [load_photo(path, preprocess, keep_image=True) for path, _ in batch],
        in_weighed_batches(weighed, size, BUDGET.pixels // 2),
        ahead=1,
        weigh=lambda batch: sum(pixels for _, pixels in batch),
        most=BUDGET.pixels,
    )


def stream_photos(
    paths: Iterable[Path], preprocess: Preprocess, *, is_whole: bool = False, ahead: int = 32
) -> Iterator[Photo]:
    """Photos in order, unreadable ones with their reason, decoded ahead; see `load_photo`."""
    return map_ahead(lambda path: load_photo(path, preprocess, is_whole=is_whole), paths, ahead=ahead)


def in_batches(items: Iterable[T], size: int) -> Iterator[Sequence[T]]:
    """Lists of `size` items; the last may be shorter."""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch


def in_weighed_batches(items: Iterable[tuple[T, int]], size: int, most: int) -> Iterator[Sequence[tuple[T, int]]]:
    """Lists of (item, weight), at most `size` of them and together at most `most`; a heavier one is alone."""
    batch: list[tuple[T, int]] = []
    load = 0
    for item, weight in items:
        if batch and (len(batch) == size or load + weight > most):
            yield batch
            batch, load = [], 0
        batch.append((item, weight))
        load += weight
    if batch:
        yield batch
