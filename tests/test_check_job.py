"""`whycam check` as a user runs it: photos without a model, and folders of all shapes."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whycam.audit.suspects import MIN_PHOTOS
from whycam.config import CheckOptions
from whycam.errors import UserError
from whycam.jobs.check import check_folder

Run = Callable[..., subprocess.CompletedProcess[str]]


def write(path: Path, seed: int, **how: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = np.random.default_rng(seed).integers(0, 255, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(cells).resize((64, 64), Image.Resampling.BICUBIC).save(path, **how)


def test_the_command_tells_faults_and_fails_where_it_is_told_to(call_whycam: Run, tmp_path: Path) -> None:
    for seed in range(40):
        name = "ab"[seed % 2]
        write(tmp_path / "photos" / name / f"{seed}.jpg", seed, quality=15 if name == "a" else 90)
    write(tmp_path / "photos" / "a" / "again.jpg", 0, quality=15)
    done = call_whycam("check", tmp_path / "photos", "-o", tmp_path / "out", "--fail-on", "duplicate,data")
    content = json.loads((tmp_path / "out" / "audit.json").read_text(encoding="utf-8"))
    assert done.returncode == 1, done.stderr
    assert [finding["kind"] for finding in content["findings"]] == ["data", "duplicate"]
    assert "jpeg-quality" in content["findings"][0]["numbers"]["properties"]
    assert content["photos"] == 41
    assert content["record"]["classes"] == {"a": 21, "b": 20}
    assert str(tmp_path / "photos") in content["findings"][0]["command"]
    assert done.stdout.splitlines()[-1] == f"2 findings on 41 photos; audit.json is in {tmp_path / 'out'}"


def test_it_needs_neither_torch_nor_a_model(call_whycam: Run, tmp_path: Path) -> None:
    done = call_whycam("check", tmp_path / "none", "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "No file or folder" in done.stderr
    with pytest.raises(UserError, match="Did you mean 'data'"):
        check_folder(tmp_path, tmp_path / "out", CheckOptions(fail_on="dat"))


def test_training_and_held_out_photos_are_checked_together(tmp_path: Path) -> None:
    for seed in range(40):
        write(tmp_path / "photos" / ("train" if seed < 30 else "val") / "ab"[seed % 2] / f"{seed}.png", seed)
    write(tmp_path / "photos" / "val" / "a" / "copy.png", 0)
    found = check_folder(tmp_path / "photos", tmp_path / "out", CheckOptions())
    assert found.photos == 41
    assert ["in training and in validation" in one.title for one in found.findings] == [True]


def test_odd_folders_are_told_of_and_nothing_is_accused(tmp_path: Path) -> None:
    for seed in range(30):
        write(tmp_path / "heap" / f"{seed}.png", seed)
        write(tmp_path / "single" / f"class {seed}" / "one.png", seed)
        write(tmp_path / "mixed" / ("many" if seed < 20 else f"few {seed % 2}") / f"{seed}.png", seed)
    (tmp_path / "mixed" / "many" / "bad.png").write_bytes(b"no photo")
    notes = {}
    for name in ("heap", "single", "mixed"):
        found = check_folder(tmp_path / name, tmp_path / f"{name} out", CheckOptions())
        assert found.findings == ()
        notes[name] = " ".join(found.notes)
    assert "it needs photos in two class folders" in notes["heap"]
    assert f"Not one of the 30 classes has {MIN_PHOTOS} photos" in notes["single"]
    assert "few 0, few 1" in notes["mixed"]
    assert "1 photos could not be read" in notes["mixed"]


def test_photos_all_alike_are_copies_and_no_more(tmp_path: Path) -> None:
    for seed in range(24):
        write(tmp_path / "photos" / "abc"[seed % 3] / f"{seed}.png", 0)
    found = check_folder(tmp_path / "photos", tmp_path / "out", CheckOptions())
    assert {one.kind for one in found.findings} == {"duplicate"}


def test_many_classes_of_one_photo_are_no_matter(tmp_path: Path) -> None:
    for seed in range(300):
        write(tmp_path / "photos" / f"{seed:04}" / "one.png", seed)
    start = time.process_time()
    found = check_folder(tmp_path / "photos", tmp_path / "out", CheckOptions())
    assert found.photos == 300
    assert time.process_time() - start < 10
