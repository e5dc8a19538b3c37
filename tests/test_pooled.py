"""Stored means in place of maps: the same numbers, a part of the room, and maps where something asks for them."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import train_cases
from whycam.config import make_train_options
from whycam.data.check import hash_photos
from whycam.data.loader import stream_photos
from whycam.errors import UserError
from whycam.jobs.train import train
from whycam.mend.edited_run import EditedRun
from whycam.model.backbone import hash_tensors
from whycam.model.gap import GapClassifier
from whycam.train import features, stores
from whycam.train.features import FeatureKey, FeatureStore, compute_features, default_cache_dir


class Pass:
    """A pass over a folder's photos, that counts them."""

    def __init__(self, model: GapClassifier, root: Path, cache: Path) -> None:
        self.model, self.cache, self.read_count, self.fail_at = model, cache, 0, -1
        hashes, _ = hash_photos(sorted(root.rglob("*.jpg")))
        self.photos = {content: path for path, content in hashes.items()}
        self.maps = FeatureKey(hash_tensors(model.state_dict()), model.preprocess, 32, sorted(self.photos))
        self.means = replace(self.maps, is_pooled=True)

    def run(self, key: FeatureKey) -> FeatureStore:
        def read(paths):
            for photo in stream_photos(paths, key.preprocess):
                if self.read_count == self.fail_at:
                    raise InterruptedError("the machine was switched off")
                self.read_count += 1
                yield photo

        words = {"device": torch.device("cpu"), "cache_dir": self.cache, "progress": lambda _: None, "read": read}
        return compute_features(self.model.backbone_features, self.photos, key, **words)


@pytest.fixture
def job(tiny_model: GapClassifier, shapes_folder: Path, tmp_path: Path) -> Pass:
    return Pass(tiny_model, shapes_folder, tmp_path / "cache")


def test_means_are_those_of_the_maps_and_take_a_part_of_the_room(job: Pass) -> None:
    means, maps = job.run(job.means), Pass(job.model, _root(job), job.cache / "other").run(job.maps)
    assert maps.values.shape[2:] != (1, 1)
    assert means.values.shape == (*maps.values.shape[:2], 1, 1)
    assert means.values.dtype == np.float16
    slow = np.array([[cells.astype(np.float64).mean() for cells in row] for row in maps.values])
    assert np.allclose(means.values[:, :, 0, 0], slow, rtol=1e-3, atol=1e-6)
    assert (job.cache / f"{job.means.digest}.npy").stat().st_size == means.values.nbytes + 128


def test_means_come_from_kept_maps_to_the_bit_and_without_the_network(job: Pass) -> None:
    alone = np.array(job.run(job.means).values)
    other = Pass(job.model, _root(job), job.cache / "other")
    other.run(job.maps)
    other.fail_at = other.read_count
    assert np.array_equal(other.run(job.means).values, alone)
    assert other.run(job.means).was_cached


def test_an_interrupted_pass_over_means_goes_on(job: Pass, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "_BATCH", 8)
    job.fail_at = 20
    with pytest.raises(InterruptedError):
        job.run(job.means)
    job.fail_at, job.read_count = -1, 0
    store = job.run(job.means)
    assert job.read_count == 36 - 16
    assert np.array_equal(store.values, Pass(job.model, _root(job), job.cache / "other").run(job.means).values)


def test_a_photo_without_features_has_none_in_means_of_kept_maps(
    tiny_model: GapClassifier, shapes_folder: Path, tmp_path: Path
) -> None:
    for path in (shapes_folder / "circle").glob("0*.jpg"):
        (tmp_path / path.name).write_bytes(path.read_bytes()[: 300 if path.name == "03.jpg" else None])
    job = Pass(tiny_model, tmp_path, tmp_path / "cache")
    whole, means = job.run(job.maps), job.run(job.means)
    ((content, why),) = means.unreadable.items()
    assert job.photos[content].name == "03.jpg"
    assert whole.unreadable == {content: why}
    assert not means.values[means.row_of[content]].any()


def _root(job: Pass) -> Path:
    return next(iter(job.photos.values())).parents[1]


def _shapes(cache: Path) -> set[tuple[int, ...]]:
    return {np.load(path, mmap_mode="r").shape[2:] for path in (cache / "features").glob("*.npy")}


@pytest.mark.parametrize(
    ("words", "has_maps"),
    [({}, False), ({"augment": 1}, False), ({"ignore": "upper-right:0.25"}, True), ({"head": "conv"}, True)],
)
def test_maps_are_kept_where_something_asks_for_them(
    shapes_folder: Path, tmp_path: Path, words: dict[str, object], has_maps: bool
) -> None:
    summary = train(shapes_folder, tmp_path / "run", make_train_options(image_size=64, epochs=2, **words))
    assert _shapes(default_cache_dir().parent) == {(2, 2) if has_maps else (1, 1)}
    assert summary["identity_photos"] > 0
    assert summary["identity_error"] < 1e-4
    assert summary["stored_features_error"] < 1e-2


def test_maps_that_are_not_the_scores_are_found_by_means_too(
    shapes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GapClassifier, "compute_maps", lambda self, features: features[:, :3] + 1)
    with pytest.raises(UserError, match="The trained model"):
        train(shapes_folder, tmp_path / "run", make_train_options(image_size=64, epochs=1))
    assert not (tmp_path / "run").exists()


def test_doubts_of_a_run_that_keeps_maps_need_no_second_pass(
    shapes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(shapes_folder, tmp_path / "run", make_train_options(image_size=64, epochs=2, ignore="border"))
    monkeypatch.setattr(stores._FeatureRun, "__call__", lambda *_: pytest.fail("the network was asked again"))
    assert isinstance(EditedRun.open(tmp_path / "run").list_work(), list)
    (about,) = (
        json.loads(path.with_suffix(".json").read_text())
        for path in default_cache_dir().glob("*.npy")
        if np.load(path, mmap_mode="r").shape[2:] == (1, 1)
    )
    assert about["photos"] == 36


def test_where_features_are_kept_photos_pass_the_network_once(
    split_shapes: Path, random_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those on the sheet, whose maps also show whether they are the scores."""
    learn_again = partial(train_cases.run, split_shapes, weights=random_weights, cache_dir=tmp_path / "cache", epochs=2)
    learn_again(out=tmp_path / "first")
    seen, real = [], GapClassifier.backbone_features

    def count(self: GapClassifier, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return real(self, images)

    monkeypatch.setattr(GapClassifier, "backbone_features", count)
    summary = learn_again(out=tmp_path / "again")
    assert 6 <= sum(seen) == summary["identity_photos"] <= 12
    assert (tmp_path / "again" / "sheet.jpg").is_file()
