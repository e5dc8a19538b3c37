"""Large photos: no more of their pixels in memory than the budget has, whatever reads them, and the same results."""

from __future__ import annotations

import shutil
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import whycam
from whycam.config import ExplainOptions, LocalizeOptions
from whycam.data.budget import BUDGET
from whycam.data.images import Picture
from whycam.jobs.explain import explain_files
from whycam.jobs.localize import localize_files

SIDE_PX = 96
PHOTO_PX = SIDE_PX * SIDE_PX


class Watch:
    """The full-size photos that are alive, and the most pixels that they had together."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most = self.now = self.decoded = 0
        self._lock = threading.Lock()
        decode = Picture.decode

        def watched(picture: Picture) -> Image.Image:
            pixels = picture.pixels
            self._count(pixels)
            image = decode(picture)
            weakref.finalize(image, self._count, -pixels)
            return image

        monkeypatch.setattr(Picture, "decode", watched)

    def _count(self, pixels: int) -> None:
        with self._lock:
            self.now += pixels
            self.most = max(self.most, self.now)
            self.decoded += pixels > 0


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


@pytest.fixture
def mixed(shapes_folder: Path, tmp_path: Path) -> Path:
    """Small photos with two large ones among them, each larger than three small ones together."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for index, path in enumerate(sorted(shapes_folder.rglob("*.jpg"))[:14]):
        shutil.copy(path, folder / f"{index:02}.jpg")
    for index in (3, 8):
        Image.effect_noise((4 * SIDE_PX, SIDE_PX), 50).convert("RGB").save(folder / f"{index:02}x.png")
    return folder


def explain(model: Path, photos: Path, out: Path, **options: Any) -> dict[str, bytes]:
    """What is written, by name."""
    explain_files(str(model), [str(photos)], str(out), ExplainOptions.model_validate({"engine": "torch", **options}))
    return {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != "record.json"}


def test_explain_keeps_to_the_budget_and_writes_the_same(
    tiny_folder: Path, mixed: Path, watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = explain(tiny_folder, mixed, tmp_path / "plain", batch_size=8)
    assert watch.most >= 8 * PHOTO_PX
    watch.most = 0
    monkeypatch.setattr(BUDGET, "pixels", 3 * PHOTO_PX)
    tight = explain(tiny_folder, mixed, tmp_path / "tight", batch_size=8)
    assert watch.most == 4 * PHOTO_PX  # a large one, alone
    assert BUDGET.in_use == 0
    assert plain.keys() == tight.keys()
    for name in plain:
        if name.endswith(".npy"):
            # Batches of another size add up in another order.
            assert np.allclose(*(np.load(tmp_path / run / "maps" / name) for run in ("plain", "tight")), atol=1e-5)
    rows = [pq.read_table(tmp_path / run / "explanations.parquet").to_pylist() for run in ("plain", "tight")]
    for column in ("path", "target", "width_px", "height_px"):
        assert [row[column] for row in rows[0]] == [row[column] for row in rows[1]]


def test_photos_too_large_for_the_budget_are_explained_one_by_one(
    tiny_folder: Path, mixed: Path, watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BUDGET, "pixels", PHOTO_PX // 2)
    for name, options in (("overlays", {}), ("heatmaps", {"overlays": False}), ("refined", {"refine": True})):
        watch.most = 0
        written = explain(tiny_folder, mixed, tmp_path / name, **options)
        assert len(written) > 2 * 16
        assert watch.most == 4 * PHOTO_PX


def test_a_stream_keeps_to_the_budget(
    tiny_folder: Path, mixed: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BUDGET, "pixels", 6 * PHOTO_PX)
    model = whycam.load(tiny_folder, engine="torch")
    for photo, why in model.stream(sorted(mixed.iterdir()), batch_size=8):
        assert why is not None
        assert why.photos[0].size == photo.size_px
        del photo, why
    assert watch.decoded == 16
    assert watch.most <= 6 * PHOTO_PX


def test_localize_goes_on_where_no_photo_fits_the_budget(
    tiny_folder: Path, mixed: Path, watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BUDGET, "pixels", 1)
    outcome = localize_files(str(tiny_folder), [mixed], tmp_path / "out", LocalizeOptions())
    assert (outcome.photos, outcome.unreadable) == (16, 0)
    # The one that is written, and the next.
    assert watch.most <= 5 * PHOTO_PX


def test_one_source_of_photos_stopping_early_gives_all_back(
    tiny_folder: Path, mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BUDGET, "pixels", 2 * PHOTO_PX)
    model = whycam.load(tiny_folder, engine="torch")
    stream = model.stream(sorted(mixed.iterdir()), batch_size=4)
    next(stream)
    stream.close()
    with BUDGET.hold(10 * PHOTO_PX):
        assert BUDGET.in_use == 10 * PHOTO_PX
