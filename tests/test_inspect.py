"""`whycam inspect MODEL PHOTOS`: the way that the model was trained with comes first, by its accuracy."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kind_cases import NAMES, write_photos
from whycam.config import InspectOptions
from whycam.data.preprocess import NAMED
from whycam.errors import UserError
from whycam.jobs.inspect import inspect

Call = Callable[..., "subprocess.CompletedProcess[str]"]
CODE = '''
import torch
from torch import nn

STEPS, IS_BGR = {steps}, {is_bgr}


class Trained(nn.Module):
    """Says which colour there is most of, if the pixels come as in its training: else the first class.

    `valid` is the range of the means of images that were prepared so.
    """

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        self.conv.weight.data = torch.eye(3)[:, :, None, None]

    def forward(self, images):
        mean, deviation = (torch.tensor(v)[:, None, None] for v in STEPS)
        pixels = images * deviation + mean
        low, high = pixels.amin((1, 2, 3)), pixels.amax((1, 2, 3))
        is_odd = ((low < -0.01) | (high > 1.01) | (high < 0.3) | (low > 0.2)).float()
        scores = self.conv(pixels.flip(1) if IS_BGR else pixels).mean((2, 3))
        return scores + is_odd[:, None] * torch.tensor([1e6, 0.0, 0.0])


def make():
    return Trained()
'''


def write_net(path: Path, name: str, *, is_bgr: bool) -> str:
    """The code of a network that was trained on photos prepared as `name` says, in that order of channels."""
    way = NAMED[name]
    path.write_text(CODE.format(steps=(way["mean"], way["std"]), is_bgr=is_bgr), encoding="utf-8")
    return f"{path}:make"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", 4)


@pytest.fixture
def numbered(photos: Path, tmp_path: Path) -> Path:
    """The folders are the numbers of the outputs."""
    root = tmp_path / "numbered"
    root.mkdir()
    for number, name in enumerate(NAMES):
        (photos / name).rename(root / str(number))
    return root


def read_table(text: str) -> list[list[str]]:
    lines = text.splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("--preprocess"))
    stop = next(k for k, line in enumerate(lines) if line.startswith("Tried on"))
    return [line.rsplit(maxsplit=3) for line in lines[start + 1 : stop]]


@pytest.mark.parametrize("name", ["imagenet", "half", "unit", "bytes"])
@pytest.mark.parametrize("is_bgr", [False, True])
def test_the_right_way_comes_first(name: str, is_bgr: bool, photos: Path, tmp_path: Path, call_whycam: Call) -> None:
    model, channels = write_net(tmp_path / f"{name}_{is_bgr}.py", name, is_bgr=is_bgr), "bgr" if is_bgr else "rgb"
    (tmp_path / "names.txt").write_text("\n".join(NAMES), encoding="utf-8")
    words = ("--classes", tmp_path / "names.txt", "--image-size", 64)
    done = call_whycam("inspect", model, photos, *words)
    assert done.returncode == 0, done.stderr
    rows = read_table(done.stdout)
    assert rows[0] == [name, channels, "squash", "1.000"]
    assert all(float(row[3]) < 1 for row in rows if (row[0], row[1]) != (name, channels))
    assert "said by nobody" in done.stdout
    assert "as the model says" not in done.stdout
    best = done.stdout.splitlines()[-1]
    if not is_bgr:
        assert best == f"The best, 1.000: --preprocess {name}."
        return
    told = tmp_path / "told.json"
    told.write_text(best.partition("in the file: ")[2].rstrip("."), encoding="utf-8")
    words_of_map = ("-o", tmp_path / "out", "--method", "centre", "--preprocess", told)
    done = call_whycam("explain", model, photos, *words, *words_of_map)
    assert done.returncode == 0, done.stderr
    again = call_whycam("inspect", model, photos, *words, "--preprocess", told)
    assert read_table(again.stdout)[0] == ["as the model says", "bgr", "squash", "1.000"]
    assert "as the model says, which is what is done" in again.stdout


@pytest.mark.parametrize("folders", ["numbers", "names in another order"])
def test_classes_without_names(folders: str, numbered: Path, tmp_path: Path, call_whycam: Call) -> None:
    """Folders of numbers are the outputs; of names that the model does not know, the order is, and that is said."""
    model = write_net(tmp_path / "half.py", "half", is_bgr=False)
    if folders != "numbers":
        for number, name in enumerate("abc"):
            (numbered / str(number)).rename(numbered / name)
    done = call_whycam("inspect", model, numbered, "--image-size", 64)
    assert done.returncode == 0, done.stderr
    assert read_table(done.stdout)[0] == ["half", "rgb", "squash", "1.000"]
    assert ("taken in their order" in done.stdout) is (folders != "numbers")


def test_a_crop_that_would_be_better_is_told(tmp_path: Path) -> None:
    """The sign lies in the middle, and around it is what misleads."""
    root = tmp_path / "photos"
    for k, name in enumerate(NAMES):
        (root / name).mkdir(parents=True)
        pixels = np.zeros((64, 64, 3), np.uint8)
        pixels[..., (k + 1) % 3] = 255
        pixels[10:-10, 10:-10] = np.eye(3, dtype=np.uint8)[k] * 180
        for index in range(2):
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    (tmp_path / "names.txt").write_text("\n".join(NAMES), encoding="utf-8")
    model = write_net(tmp_path / "unit.py", "unit", is_bgr=False)
    options = InspectOptions(classes=tmp_path / "names.txt", image_size=64)
    found = inspect(model, root, options)
    assert found.trials[0].resize == "crop"
    assert found.trials[0].accuracy == 1
    assert found.notes[-1].startswith("The best, 0.333: --preprocess imagenet.")
    assert found.notes[-1].endswith("A crop gives 1.000; whycam keeps the whole photo under the map.")


def test_folders_that_fit_no_class_are_refused(photos: Path, tmp_path: Path) -> None:
    model = write_net(tmp_path / "unit.py", "unit", is_bgr=False)
    (photos / "red").rename(tmp_path / "away")
    with pytest.raises(UserError, match=r"no photos in folders of the model's 3 classes.*--classes FILE"):
        inspect(model, photos, InspectOptions(image_size=64))
