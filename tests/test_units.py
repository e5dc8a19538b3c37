"""`whycam units`: ranks, photos and sums against a slow count."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from whycam.config import UnitsOptions
from whycam.data.images import load_image
from whycam.data.walk import find_images
from whycam.errors import UserError
from whycam.jobs.units import show_units
from whycam.model.gap import GapClassifier


def read_rows(out: Path) -> list[dict[str, str]]:
    with (out / "units.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def count_slowly(model: GapClassifier, folder: Path) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """(N, C) mean activations, (N,) predicted classes, and the files."""
    paths = find_images([folder])
    rows, predicted = [], []
    for path in paths:
        pixels = model.preprocess.normalise(model.preprocess.to_pixels(load_image(path))[None])
        with torch.no_grad():
            features = model.features(torch.from_numpy(pixels))
            predicted.append(int(model.classify(features).argmax()))
        rows.append(features.mean((2, 3))[0])
    return torch.stack(rows), torch.tensor(predicted), [str(path) for path in paths]


@pytest.mark.parametrize("by", ["contribution", "weight"])
def test_the_channels_and_photos_are_those_of_a_slow_count(
    by: str, tiny_model: GapClassifier, tiny_folder: Path, shapes_folder: Path, tmp_path: Path
) -> None:
    activations, predicted, files = count_slowly(tiny_model, shapes_folder)
    index = int(predicted[0])
    options = UnitsOptions(units=3, photos=2, by=by, batch_size=5)
    done = show_units(str(tiny_folder), str(index), shapes_folder, tmp_path / "out", options)
    assert (done.units, done.photos) == (3, len(files))
    weights = tiny_model.classifier.weight[index].detach()
    mean = activations[predicted == index].mean(0)
    worth = weights * mean if by == "contribution" else weights
    rows = read_rows(tmp_path / "out")
    assert [int(row["unit"]) for row in rows[::2]] == worth.topk(3).indices.tolist()
    for row in rows:
        unit = int(row["unit"])
        best = activations[:, unit].topk(2)
        rank = int(row["photo_rank"]) - 1
        # Of photos that excite a channel alike, any may stand first.
        assert float(activations[files.index(row["path"]), unit]) == pytest.approx(float(best.values[rank]), abs=1e-4)
        assert float(row["activation"]) == pytest.approx(float(best.values[rank]), abs=1e-4)
        assert float(row["contribution"]) == pytest.approx(float(weights[unit] * mean[unit]), abs=1e-4)
        assert float(row["peak"]) >= float(row["activation"]) - 1e-4
    with Image.open(tmp_path / "out/sheet.png") as sheet:
        assert sheet.width > 2 * 144
        assert sheet.height >= 3 * 144


def test_fewer_photos_than_columns_and_an_unreadable_one(
    tiny_folder: Path, shapes_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "bad.jpg").write_bytes(b"no picture")
    for path in list((shapes_folder / "circle").iterdir())[:2]:
        (folder / path.name).write_bytes(path.read_bytes())
    done = show_units(str(tiny_folder), "circle", folder, tmp_path / "out", UnitsOptions(units=2, photos=6))
    assert (done.photos, done.unreadable) == (2, 1)
    assert [row["photo_rank"] for row in read_rows(tmp_path / "out")] == ["1", "2", "1", "2"]


def test_without_a_folder_the_installed_photos_are_shown(tiny_folder: Path, tmp_path: Path) -> None:
    done = show_units(str(tiny_folder), "square", None, tmp_path / "out", UnitsOptions(units=1, photos=1))
    assert (done.name, done.photos) == ("square", 8)


def test_an_unknown_class_and_no_photo_are_told(tiny_folder: Path, shapes_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'square'"):
        show_units(str(tiny_folder), "sqare", shapes_folder, tmp_path / "out", UnitsOptions())
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match="Not one of the 1 photos"):
        show_units(str(tiny_folder), "square", tmp_path / "bad.jpg", tmp_path / "out", UnitsOptions())
    assert not (tmp_path / "out").exists()


def test_no_temporary_folder_is_needed(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    show_units(str(tiny_folder), "square", None, tmp_path / "out", UnitsOptions(units=1, photos=1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert not [path for path in (tmp_path / "out").iterdir() if path.is_dir()]
