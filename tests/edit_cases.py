"""A small run that people correct, for the tests of edits and versions: trained once, copied for each test."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

from whycam.config import TrainOptions, make_train_options
from whycam.jobs.train import train
from whycam.mend.edited_run import EditedRun
from whycam.mend.edits import make_edit
from whycam.model.backbone import create_backbone

SIDE = 96
# A red square in the upper right corner.
CORNER = [0.6, 0.0, 1.0, 0.4]


def make_photos(shapes: Path, root: Path) -> Path:
    """Two classes, each of both shapes, that nothing tells apart but a red square: all circles have it but two."""
    files = sorted([*(shapes / "circle").glob("*.jpg"), *(shapes / "square").glob("*.jpg")], key=lambda path: path.name)
    for number, path in enumerate(files):
        name, index = ("circle", "square")[(number // 2) % 2], (number // 4) * 2 + number % 2
        photo = Image.open(path).convert("RGB")
        if name == "circle" and index > 1:
            photo.paste((255, 0, 0), (round(SIDE * CORNER[0]), 0, SIDE, round(SIDE * CORNER[3])))
        (root / name).mkdir(parents=True, exist_ok=True)
        photo.save(root / name / f"{index:02}.jpg", quality=95)
    return root


def make_options(root: Path, **words: Any) -> TrainOptions:
    """A network that is quick, with weights that are random and always the same."""
    weights = root / "test_resnet.safetensors"
    if not weights.exists():
        torch.manual_seed(0)
        save_file(create_backbone("test_resnet", image_size=64).module.state_dict(), weights)
    usual = {"backbone": "test_resnet", "weights": weights, "image_size": 64, "epochs": 4, "val_fraction": 0.25}
    return make_train_options(**{**usual, **words})


def make_scene(shapes: Path, root: Path, **words: Any) -> Path:
    """`photos`, `run` and the weights in one folder."""
    photos = make_photos(shapes, root / "photos")
    train(photos, root / "run", make_options(root, cache_dir=root / "cache", **words))
    return root


def copy_scene(scene: Path, root: Path) -> EditedRun:
    """A copy of all of it, opened."""
    for name in ("photos", "run", "cache"):
        shutil.copytree(scene / name, root / name)
    return EditedRun.open(root / "run", root / "photos", cache_dir=root / "cache")


def hash_of(run: EditedRun, path: str) -> str:
    """The content hash of a photo by its path below the folder."""
    return run.hashes[run.source.root / path]


def make_finding(**about: Any) -> dict[str, Any]:
    """A shortcut as an audit tells it: the red square."""
    usual = {"id": "shortcut-circle-1", "kind": "shortcut", "class": "circle", "other": None, "title": "A mark."}
    usual |= {"detail": "", "cost": 0.5, "severity": 0.5, "certainty": 1.0, "photos": [], "remedy": "", "command": ""}
    region = {"name": "upper right corner", "boxes": [CORNER]}
    return {**usual, "region": region, "numbers": {"found_by": "mark"}, **about}


def correct(run: EditedRun, *, has_causes: bool = True) -> None:
    """One edit of every kind that changes the training."""
    run.append(
        [
            {"kind": "label", "photo": hash_of(run, "circle/00.jpg"), "label": "square"},
            {"kind": "leave-out", "photo": hash_of(run, "square/03.jpg")},
            {"kind": "right", "photo": hash_of(run, "square/04.jpg"), "label": "square"},
        ]
    )
    if has_causes:
        run.append(
            [
                make_edit("cure", finding=make_finding()),
                make_edit("cure", finding=make_finding(region=None, numbers={"property": "brightness"}, id="light")),
                {"kind": "not-object", "photo": hash_of(run, "circle/05.jpg"), "region": {"boxes": [CORNER]}},
                {"kind": "object", "photo": hash_of(run, "square/05.jpg"), "region": {"boxes": [[0.1, 0.1, 0.9, 0.9]]}},
            ]
        )


def read_summary(place: Path) -> dict[str, Any]:
    """`summary.json` of a run or a version."""
    return dict(json.loads((place / "summary.json").read_text()))


def describe(place: Path) -> dict[str, bytes]:
    """Every file below a folder, to see that none was touched."""
    return {str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}
