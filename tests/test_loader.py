"""Photos by threads: in order, bounded, unreadable ones with their reason."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whycam.data.images import load_image
from whycam.data.loader import count_pixels, in_batches, in_weighed_batches, load_photo, map_ahead, stream_photos
from whycam.data.preprocess import Preprocess

SMALL = Preprocess(height_px=32, width_px=32)


def test_results_keep_their_order() -> None:
    def run(item: int) -> int:
        time.sleep(0.002 * (item % 3 == 0))
        return item * item

    assert list(map_ahead(run, range(40), workers=4, ahead=8)) == [i * i for i in range(40)]


def test_no_more_than_ahead_are_taken() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    results = map_ahead(lambda item: item, items(), workers=2, ahead=5)
    most = max(len(taken) - used for used, _ in enumerate(results))
    assert most <= 6
    assert len(taken) == 100


def test_an_error_reaches_the_caller_and_no_thread_is_left() -> None:
    def run(item: int) -> int:
        if item == 3:
            raise ZeroDivisionError("at 3")
        return item

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError, match="at 3"):
        list(map_ahead(run, range(50), workers=2, ahead=4))
    assert threading.active_count() == before


def test_leaving_early_stops_the_work() -> None:
    done: list[int] = []
    results = map_ahead(done.append, range(1000), workers=2, ahead=4)
    next(results)
    results.close()
    assert len(done) <= 6


def test_photos_stream_in_order_with_pixels_of_the_network(shapes_folder: Path) -> None:
    paths = sorted(shapes_folder.rglob("*.jpg"))
    photos = list(stream_photos(iter(paths), SMALL, ahead=4))
    assert [p.path for p in photos] == paths
    assert all(p.image is None and not p.error for p in photos)
    assert np.array_equal(photos[5].pixels, SMALL.to_pixels(load_image(paths[5])))


def test_the_photo_itself_is_kept_at_full_size(shapes_folder: Path) -> None:
    photo = load_photo(shapes_folder / "circle" / "00.jpg", SMALL, keep_image=True)
    assert photo.image is not None
    assert photo.image.size == (96, 96)


def test_unreadable_photos_are_told_and_the_stream_goes_on(shapes_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    whole = (shapes_folder / "circle" / "00.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "page.jpg").write_text("<html>not found</html>")
    (tmp_path / "good.jpg").write_bytes(whole)
    names = ["empty.jpg", "cut.jpg", "good.jpg", "page.jpg", "missing.jpg"]
    photos = list(stream_photos([tmp_path / name for name in names], SMALL))
    words = ["is empty (0 bytes)", "damaged or truncated", "", "holds text, not a picture", "No file"]
    for photo, word in zip(photos, words, strict=True):
        assert word in photo.error
        assert (photo.pixels is None) == bool(photo.error)


def test_a_large_photo_is_decoded_small_and_looks_the_same(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 640, dtype=np.uint8)
    Image.fromarray(np.stack([np.tile(ramp, (480, 1))] * 3, axis=-1)).save(tmp_path / "a.jpg", quality=95)
    photo = load_photo(tmp_path / "a.jpg", SMALL)
    whole = SMALL.to_pixels(load_image(tmp_path / "a.jpg"))
    assert np.abs(photo.pixels.astype(int) - whole).max() <= 4


def test_batches() -> None:
    assert list(in_batches(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(in_batches([], 3)) == []


def test_heavy_results_are_limited_by_weight_and_the_heaviest_is_alone() -> None:
    weights = [3, 3, 3, 9, 1, 1, 1, 1, 20, 2, 5, 5, 6]
    lock, alive, seen = threading.Lock(), [0], []

    def run(weight: int) -> int:
        with lock:
            alive[0] += weight
            seen.append((weight, alive[0]))
        return weight

    for weight in (results := map_ahead(run, weights, workers=4, ahead=4, weigh=lambda weight: weight, most=10)):
        time.sleep(0.005)
        with lock:
            alive[0] -= weight
    assert list(results) == []
    assert [weight for weight, _ in sorted(seen)] == sorted(weights)
    assert max(together for weight, together in seen if weight <= 10) <= 10
    assert max(together for _, together in seen if together <= 10) > 6
    assert (20, 20) in seen


def test_weighed_batches() -> None:
    items = [("a", 3), ("b", 3), ("c", 5), ("d", 20), ("e", 0), ("f", 0), ("g", 0)]
    batches = [[name for name, _ in batch] for batch in in_weighed_batches(items, 2, 8)]
    assert batches == [["a", "b"], ["c"], ["d"], ["e", "f"], ["g"]]


def test_pixels_are_counted_from_the_header(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[:45])
    assert [count_pixels(item) for item in (tmp_path / "a.png", data, tmp_path / "cut.png")] == [600] * 3
    assert count_pixels(tmp_path / "missing.png") == 0
