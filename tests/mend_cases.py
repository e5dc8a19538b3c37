"""A small run of generated flowers with an audit beside it, for the tests of what people correct."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from whycam.config import make_train_options
from whycam.data.garden import write_garden
from whycam.jobs.train import train
from whycam.model.backbone import create_backbone


def make_run(place: Path) -> Path:
    """`place`/run, trained on `place`/garden/photos."""
    photos, weights = place / "garden" / "photos", place / "weights.safetensors"
    write_garden(place / "garden", train_per_class=6, val_per_class=4, size_px=64)
    torch.manual_seed(0)
    save_file(create_backbone("test_resnet", image_size=64).module.state_dict(), weights)
    options = make_train_options(backbone="test_resnet", weights=weights, image_size=64, epochs=3, batch_size=8)
    train(photos, place / "run", options)
    samples = sorted((photos / "val").glob("*/*.*"))[:3]
    finding = {
        "id": "shortcut-1", "kind": "shortcut", "class": samples[0].parent.name, "other": None,
        "title": "A mark speaks for it.", "detail": "Without it the class is lost.", "severity": 0.5,
        "certainty": 0.99, "cost": 0.2, "remedy": "Cover it.",
        "region": {"name": "corner", "boxes": [[0, 0, 0.3, 0.3]]},
        "numbers": {"found_by": "place"},
        "photos": [{"path": str(path), "boxes": [[0, 0, 0.3, 0.3]], "note": ""} for path in samples],
    }  # fmt: skip
    audit: dict[str, Any] = {"findings": [finding], "record": {"kinds": ["shortcut"]}}
    (place / "run" / "audit.json").write_text(json.dumps(audit))
    return place / "run"


def copy_run(run: Path, place: Path) -> Path:
    """A copy of the run on the same photos."""
    shutil.copytree(run, place)
    summary = json.loads((place / "summary.json").read_text())
    summary["data"].update(folder=str(run.parent / "garden" / "photos"))
    (place / "summary.json").write_text(json.dumps(summary))
    return place
