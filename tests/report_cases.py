"""A training run's folder as whycam train leaves it, of the tiny model and drawn photos, for the tests of reports."""

from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from whycam.config import ReportOptions
from whycam.explainer.targets import to_probabilities
from whycam.jobs.report import Outcome, make_report
from whycam.runs import find_way, write_json, write_lines


def make_run(run: Path, model: Path, photos: Path) -> Path:
    """A run of `model` that held out all of `photos`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shutil.copytree(model, run / "model")
    paths = sorted(photos.glob("*/*.jpg"))
    table = {
        "path": [path.relative_to(photos).as_posix() for path in paths],
        "truth": [path.parent.name for path in paths],
    }
    pq.write_table(pa.table(table), run / "predictions.parquet")
    epochs = [
        {
            "phase": "head",
            "epoch": i,
            "train_loss": 1 / (i + 1),
            "train_accuracy": 0.5 + i / 10,
            "val_loss": 1 / (i + 1) + 0.1,
            "val_accuracy": 0.5 + i / 20,
        }
        for i in range(4)
    ]
    write_lines(run / "metrics.jsonl", epochs)
    write_json(
        run / "summary.json",
        {
            "backbone": "test_resnet",
            "head": "linear",
            "command": "whycam train shapes",
            "val_note": "A note.",
            "data": {
                "folder": str(photos),
                "folder_from_run": find_way(run, photos),
                "train": 90,
                "val": len(paths),
            },
        },
    )
    return run


def make_finding(photos: list[Path], **about: Any) -> dict[str, Any]:
    """A finding as audit.json holds it."""
    return {
        "id": "shortcut-square-1",
        "kind": "shortcut",
        "severity": 0.6,
        "certainty": 0.99,
        "cost": 0.1,
        "class": "square",
        "other": None,
        "title": "Squares are told by a corner.",
        "detail": "Covering it changes 24 % of them.",
        "region": {"name": "upper right corner", "boxes": [[0.75, 0.0, 1.0, 0.25]]},
        "photos": [{"path": str(path), "boxes": [], "note": "covered: circle"} for path in photos],
        "numbers": {},
        "remedy": "Crop it away.",
        "command": "whycam train squares -o runs/mended --ignore audit.json#shortcut-square-1",
        **about,
    }


def write_audit(path: Path, *findings: dict[str, Any]) -> Path:
    write_json(path, {"findings": list(findings), "photos": 36, "notes": ["A note of the audit."], "record": {}})
    return path


def report(model: Path | str, folder: Path | None, out: Path, **options: Any) -> Outcome:
    given = ReportOptions(**{"no_audit": True, "engine": "torch", **options})
    return make_report(str(model), folder, out, given)


def read_data(page: Path) -> dict[str, Any]:
    """What the page's scripts read."""
    text = page.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def decode_maps(entry: dict[str, Any]) -> np.ndarray:
    """(T, h, w)."""
    maps = entry["maps"]
    levels = np.frombuffer(base64.b64decode(maps["data"]), "<i2").reshape(maps["shape"])
    return levels / 32767 * np.array(maps["scale"])[:, None, None]


def check_probabilities(entry: dict[str, Any], bias: list[float]) -> np.ndarray:
    """The probabilities that the stored maps and the bias give, best first: all classes must be stored."""
    scores = decode_maps(entry).mean(axis=(1, 2)) + np.array(bias)[entry["classes"]]
    return to_probabilities(scores[None].astype(np.float32))[0]
