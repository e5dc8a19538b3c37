"""`whycam guard` as a user runs it: exit codes, guards.json, the page, and what is refused before anything is done."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import whycam
from kind_cases import NET, make_onnx, write_photos
from whycam.config import GuardOptions
from whycam.errors import UserError
from whycam.jobs.guard import _open_old
from whycam.made import LIST

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/CLASS, masks/CLASS of the colours, and an ONNX file that tells them."""
    root = tmp_path_factory.mktemp("guard")
    (root / "net.py").write_text(NET, encoding="utf-8")
    make_onnx(root)
    write_photos(root / "photos", 12)
    for path in (root / "photos").rglob("*.png"):
        pixels = np.asarray(Image.open(path))
        mask = root / "masks" / path.relative_to(root / "photos")
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels.max(2) > 100).astype(np.uint8) * 255).save(mask)
    return root


def words(world: Path) -> tuple[object, ...]:
    model = ("--preprocess", "unit", "--classes", world / "classes.txt")
    return ("guard", world / "Colours.onnx", world / "photos", *model)


def test_guards_that_hold_end_with_0(call_whycam: Run, world: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = call_whycam(
        *words(world),
        *("--at-least", 0.8, "--looks-at", world / "masks", "--share", 0.3, "--no-shortcut", "property, place"),
        *("--kept", world / "Colours.onnx", "--kept-share", 0.5, "--exact", "-o", out),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"5 guards: 5 hold; guards.json and index.html are in {out}"
    content = json.loads((out / "guards.json").read_text(encoding="utf-8"))
    assert [one["guard"] for one in content["guards"]] == [
        *("exact", "accuracy", "looks-at", "no-shortcut", "evidence-kept")
    ]
    assert {one["state"] for one in content["guards"]} == {"holds"}
    assert content["guards"][3]["numbers"]["kinds"] == ["property", "place"]
    assert content["options"]["at_least"] == 0.8
    assert sorted(path.name for path in out.iterdir()) == [LIST, "guards.json", "index.html"]
    assert "Nothing is broken, 5 hold" in (out / "index.html").read_text(encoding="utf-8")


def test_a_broken_guard_ends_with_1_and_shows_the_photos(call_whycam: Run, world: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = call_whycam(*(*words(world), "--at-least", 0.8, "--looks-at", world / "masks", "--share", 0.99, "-o", out))
    assert done.returncode == 1
    assert "looks-at is broken: of the evidence in 36 photos, this share lies on the objects: 0." in done.stdout
    assert done.stdout.splitlines()[-1].startswith("2 guards: 1 hold, 1 broken; ")
    guards: list[dict[str, Any]] = json.loads((out / "guards.json").read_text(encoding="utf-8"))["guards"]
    assert [one["fails"] for one in guards] == [False, True]
    assert len(guards[1]["worst"]) == 36
    drawn = [picture["file"] for row in guards[1]["worst"] for picture in row.get("pictures", ())]
    assert len(drawn) == 20
    assert all((out / guards[1]["folder"] / file).is_file() for file in drawn)
    assert f'src="{guards[1]["folder"]}/{drawn[0]}"' in (out / "index.html").read_text(encoding="utf-8")


def test_few_photos_end_with_1_where_proof_is_asked_for(call_whycam: Run, world: Path, tmp_path: Path) -> None:
    for name, option, code in (("a", (), 0), ("b", ("--strict",), 1), ("c", ("--each-class",), 0)):
        done = call_whycam(*words(world), "--at-least", 0.95, "-o", tmp_path / name, *option)
        assert done.returncode == code
        assert "accuracy is inconclusive: " in done.stdout
        assert done.stdout.splitlines()[-1].startswith("1 guards: 1 inconclusive; ")


def test_what_is_said_of_the_model_is_said_of_the_old_one_where_it_fits(world: Path, tiny_folder: Path) -> None:
    options = GuardOptions(preprocess="half", classes=world / "classes.txt")
    assert _open_old(str(world / "Colours.onnx"), options).card.preprocess.mean == (0.5, 0.5, 0.5)
    # A run folder says by itself how its photos are prepared.
    assert _open_old(str(tiny_folder), options).card.preprocess == whycam.load(tiny_folder).preprocess
    with pytest.raises(UserError, match="does not say how its photos were prepared"):
        _open_old(str(world / "Colours.onnx"), GuardOptions())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "Found no guard; expected one or more of --at-least"),
        (("--looks-at", "masks"), "Found one of --looks-at and --share without the other"),
        (("--share", "0.5"), "Found one of --looks-at and --share without the other"),
        (("--no-shortcut", "marks"), "Unknown kind of shortcut 'marks'.*Did you mean 'mark'"),
        (("--no-shortcut", ","), "--no-shortcut names nothing"),
        (("--at-least", "0"), "--at-least is 0; expected a number above 0 and of at most 1"),
        (("--at-least", "90"), "--at-least is 90; expected a number above 0 and of at most 1"),
        (("--looks-at", "gone", "--share", "0.5"), "Found no folder '.*gone'"),
        (("--kept", "gone.onnx"), "Found no file or folder at '.*gone.onnx'"),
        (("--kept", "imagenet"), "The old model has 1000 classes, the new one 3"),
    ],
)
def test_what_can_not_be_asked_is_refused(
    call_whycam: Run, world: Path, tmp_path: Path, options: tuple[str, ...], told: str
) -> None:
    done = call_whycam(*words(world), "-o", tmp_path / "out", *options)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert re.search(told, " ".join(done.stderr.split())), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_wrong_names_and_a_finished_result_are_refused(
    call_whycam: Run, world: Path, tmp_path: Path
) -> None:
    for name in ("rot", "green"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (64, 64)).save(tmp_path / "photos" / name / "a.png")
    model = words(world)
    done = call_whycam("guard", model[1], tmp_path / "photos", *model[3:], "--at-least", 0.5, "-o", tmp_path / "out")
    assert (done.returncode, "no class of the model" in done.stderr) == (2, True)
    (tmp_path / "out").mkdir()
    done = call_whycam(*model, "--at-least", 0.5, "-o", tmp_path / "out")
    assert (done.returncode, "--overwrite" in done.stderr) == (2, True)
    assert call_whycam(*model, "--at-least", 0.5, "-o", tmp_path / "out", "--overwrite").returncode == 0
