"""A frozen backbone's features: computed once, resumed, keyed by all that decides them."""

from __future__ import annotations

import copy
import json
import os
import resource
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from whycam.data.check import hash_photos
from whycam.data.images import load_image
from whycam.data.loader import Photo, stream_photos
from whycam.data.preprocess import Preprocess
from whycam.errors import UserError
from whycam.model.backbone import hash_tensors
from whycam.model.gap import GapClassifier
from whycam.model.input import normalise_on
from whycam.train import features
from whycam.train.features import FeatureKey, FeatureStore, compute_features, default_cache_dir

CPU = torch.device("cpu")


class Job:
    """The features of a folder's photos by one model, with counts of what was read."""

    def __init__(self, model: GapClassifier, root: Path, cache: Path) -> None:
        self.model, self.cache = model, cache
        hashes, _ = hash_photos(sorted(root.rglob("*.jpg")))
        self.photos = {content: path for path, content in hashes.items()}
        self.key = FeatureKey(hash_tensors(model.state_dict()), model.preprocess, 32, sorted(self.photos))
        self.read_count = 0
        self.progress: list[int] = []
        self.fail_at = -1

    def read(self, paths: Iterable[Path]) -> Iterator[Photo]:
        for photo in stream_photos(paths, self.key.preprocess):
            if self.read_count == self.fail_at:
                raise InterruptedError("the machine was switched off")
            self.read_count += 1
            yield photo

    def run(self) -> FeatureStore:
        return compute_features(
            self.model.backbone_features,
            self.photos,
            self.key,
            device=CPU,
            cache_dir=self.cache,
            progress=self.progress.append,
            read=self.read,
        )


@pytest.fixture
def job(tiny_model: GapClassifier, shapes_folder: Path, tmp_path: Path) -> Job:
    return Job(tiny_model, shapes_folder, tmp_path / "cache")


def test_values_are_those_of_the_backbone_in_float16(job: Job) -> None:
    store = job.run()
    assert not store.was_cached
    assert store.values.dtype == np.float16
    assert len(store.values) == len(job.photos) == 36
    preprocess = job.model.preprocess
    for content, path in list(job.photos.items())[::7]:
        pixels = torch.from_numpy(preprocess.to_pixels(load_image(path)))[None]
        with torch.no_grad():
            direct = job.model.backbone_features(normalise_on(pixels, preprocess))[0].half().numpy()
        stored = store.values[store.row_of[content]]
        # A batch of one and one of 32 sum in another order: at most the last bit of float16 differs.
        assert np.allclose(stored.astype(np.float32), direct.astype(np.float32), rtol=2e-3, atol=1e-4)


def test_second_time_nothing_is_read(job: Job) -> None:
    first = job.run()
    values = np.array(first.values)
    assert sum(job.progress) == job.read_count == 36
    second = job.run()
    assert second.was_cached
    assert job.read_count == 36
    assert sum(job.progress) == 72
    assert np.array_equal(values, second.values)
    assert isinstance(second.values, np.memmap)
    assert dict(second.row_of) == dict(first.row_of)


def test_an_interrupted_pass_goes_on_where_it_stopped(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_BATCH", 8)
    job.fail_at = 20
    with pytest.raises(InterruptedError):
        job.run()
    assert not list(job.cache.glob("*.npy"))
    job.fail_at, job.read_count, job.progress = -1, 0, []
    store = job.run()
    assert job.read_count == 36 - 16
    assert sum(job.progress) == 36
    assert not store.was_cached
    assert sorted(path.suffix for path in job.cache.iterdir()) == [".json", ".npy"]
    other = Job(job.model, next(iter(job.photos.values())).parents[1], job.cache / "other")
    assert np.array_equal(other.run().values, store.values)


def test_the_key_changes_with_all_that_decides_the_numbers(job: Job) -> None:
    key = job.key
    with torch.no_grad():
        next(job.model.parameters()).view(-1)[0] += 1e-3
    others = [
        replace(key, weights=hash_tensors(job.model.state_dict())),
        replace(key, preprocess=key.preprocess.model_copy(update={"height_px": 96})),
        replace(key, preprocess=key.preprocess.model_copy(update={"interpolation": "nearest"})),
        replace(key, map_stride=16),
        replace(key, content=key.content[1:]),
        replace(key, content=[*key.content[:-1], "0" * 32]),
        replace(key, view="random-0-0"),
    ]
    assert len({key.digest, *(other.digest for other in others)}) == len(others) + 1
    assert replace(key, content=list(key.content)).digest == key.digest


def test_an_unreadable_photo_has_a_reason_and_the_rest_its_features(
    tiny_model: GapClassifier, shapes_folder: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(shapes_folder / "circle", tmp_path / "circle"))
    whole = (root / "03.jpg").read_bytes()
    (root / "03.jpg").write_bytes(whole[: len(whole) // 2])
    job = Job(tiny_model, root, tmp_path / "cache")
    for _ in range(2):
        store = job.run()
        ((content, why),) = store.unreadable.items()
        assert job.photos[content] == root / "03.jpg"
        assert "damaged or truncated" in why
        assert not store.values[store.row_of[content]].any()
        assert all(store.values[row].any() for other, row in store.row_of.items() if other != content)
    assert store.was_cached


def test_photos_that_are_all_unreadable(tiny_model: GapClassifier, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in "ab":
        (tmp_path / "photos" / f"{name}.jpg").write_text(f"no picture {name}")
    store = Job(tiny_model, tmp_path / "photos", tmp_path / "cache").run()
    assert len(store.unreadable) == 2


def test_not_enough_room_is_told_before_anything_is_written(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 99, 1))
    with pytest.raises(UserError, match=r"features of 36 photos need .* GB free\. Give --cache-dir on a larger disk"):
        job.run()
    assert list(job.cache.iterdir()) == []


def test_the_cache_drops_what_was_used_longest_ago(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job.run()
    first = job.key.digest
    monkeypatch.setattr(features, "_CACHE_LIMIT_BYTES", 1)
    job.key = replace(job.key, view="other")
    job.run()
    assert sorted(path.stem for path in job.cache.iterdir()) == [job.key.digest] * 2
    assert first != job.key.digest


def test_a_store_without_its_note_is_computed_again(job: Job) -> None:
    job.run()
    (job.cache / f"{job.key.digest}.json").unlink()
    assert not job.run().was_cached
    assert json.loads((job.cache / f"{job.key.digest}.json").read_text())["photos"] == 36


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WHYCAM_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path / "features"
    monkeypatch.delenv("WHYCAM_CACHE")
    assert default_cache_dir().parts[-2:] == ("whycam", "features")


def test_normalised_pixels() -> None:
    preprocess = Preprocess(height_px=1, width_px=1, mean=(0, 0.5, 1), std=(1, 0.5, 0.25))
    pixels = torch.tensor([0, 255, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    assert normalise_on(pixels, preprocess).flatten().tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: os.truncate(path, path.stat().st_size // 2),
        lambda path: os.truncate(path, 0),
        lambda path: path.write_bytes(bytes(len(path.read_bytes()))),
        lambda path: path.with_suffix(".json").write_text("{"),
        lambda path: path.with_suffix(".json").write_bytes(b""),
    ],
)
def test_a_damaged_store_is_computed_again(
    job: Job, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    values = np.array(job.run().values)
    damage(job.cache / f"{job.key.digest}.npy")
    again = job.run()
    assert not again.was_cached
    assert np.array_equal(again.values, values)
    assert len(caplog.records) == 1
    assert job.run().was_cached


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        (".part", lambda content: content[:1000]),
        (".part", lambda _: b""),
        (".part", lambda content: content[:40] + bytes(20) + content[60:]),
        (".part", lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]),
        (".note", lambda content: content[:20]),
        (".note", lambda _: b"[]"),
        (".note", lambda content: content.replace(b'"rows": 16', b'"rows": 32')),
    ],
)
def test_what_an_interrupted_pass_left_is_gone_on_with_only_where_it_is_whole(
    job: Job,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    suffix: str,
    damage: Callable[[bytes], bytes],
) -> None:
    monkeypatch.setattr(features, "_BATCH", 8)
    job.fail_at = 20
    with pytest.raises(InterruptedError):
        job.run()
    left = job.cache / f"{job.key.digest}{suffix}"
    left.write_bytes(damage(left.read_bytes()))
    job.fail_at, job.read_count = -1, 0
    store = job.run()
    assert job.read_count == 36
    assert "computed anew" in caplog.text
    other = Job(job.model, next(iter(job.photos.values())).parents[1], job.cache / "other")
    assert np.array_equal(other.run().values, store.values)


def test_two_at_once_compute_them_once(job: Job) -> None:
    jobs = [copy.copy(job) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        stores = list(pool.map(Job.run, jobs))
    assert sorted(one.read_count for one in jobs) == [0, 0, 36]
    assert all(np.array_equal(store.values, stores[0].values) for store in stores)


def test_a_file_size_limit_is_told_as_too_little_room(job: Job) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(UserError, match=r"features of 36 photos need .*Give --cache-dir"):
            job.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(job.cache.glob("*.npy"))
