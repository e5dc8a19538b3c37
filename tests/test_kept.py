"""What commands write, beside what they wrote when it was last meant to change: JSON and tables, number by number.

After a change that is meant: `python -m pytest tests/test_kept.py --keep-results`, and say in the commit what changed.
"""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

KEPT = Path(__file__).parent / "kept"
# What changes with the machine, the day and the versions, and what only repeats the command.
_LEFT_OUT = {
    "command",
    "options",
    "versions",
    "engine",
    "parity_error",
    "times_s",
    "seconds",
    "cache",
    "sha256",
    "weights",
}
RUNS = {
    "explain": ("explain", "MODEL", "PHOTOS/circle", "--engine", "torch", "--target", "top:2"),
    "explain-contrast": ("explain", "MODEL", "PHOTOS/circle", "--target", "square", "--versus", "circle"),
    "explain-grad-cam": ("explain", "MODEL", "PHOTOS/square", "--method", "grad-cam"),
    "evaluate": ("evaluate", "MODEL", "PHOTOS", "--limit", "6", "--methods", "cam,layer-cam", "--engine", "torch"),
    "localize": ("localize", "MODEL", "PHOTOS/triangle"),
    "audit": ("audit", "MODEL", "PHOTOS", "--engine", "torch"),
    "train": ("train", "PHOTOS", "--epochs", "2", "--image-size", "64", "--seed", "1"),
}


def test_results_are_as_they_were(  # noqa: PLR0917 - fixtures
    call_whycam: Callable[..., object],
    tiny_folder: Path,
    shapes_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    shutil.copytree(tiny_folder, "MODEL")
    shutil.copytree(shapes_folder, "PHOTOS")
    call_whycam(*RUNS[name], "-o", "out")
    found = {path.relative_to("out").as_posix(): read(path) for path in sorted(Path("out").rglob("*"))}
    found = {path: content for path, content in found.items() if content is not None}
    found = json.loads(json.dumps(found).replace(f"{tmp_path}/", ""))
    place = KEPT / f"{name}.json"
    if request.config.getoption("--keep-results"):
        place.parent.mkdir(exist_ok=True)
        place.write_text(json.dumps(found, indent=1), encoding="utf-8")
    compare(found, json.loads(place.read_text(encoding="utf-8")), name)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("name", RUNS)


def read(path: Path) -> Any:
    """The content of a JSON file or table; None of others."""
    if path.suffix == ".json" and path.name not in {"config.json", "options.json"}:
        return clean(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return [{k: to_number(v) for k, v in row.items()} for row in csv.DictReader(file)]
    return None


def clean(content: Any) -> Any:
    if isinstance(content, dict):
        return {k: clean(v) for k, v in content.items() if k not in _LEFT_OUT}
    return [clean(one) for one in content] if isinstance(content, list) else content


def to_number(text: str) -> Any:
    """The number, or the list of boxes, that a cell holds; else its text."""
    try:
        return float(text)
    except ValueError:
        return clean(json.loads(text)) if text.startswith("[") else text


def compare(found: Any, kept: Any, where: str) -> None:
    """Texts and whole numbers are the same; other numbers to float32's error through a network."""
    if isinstance(kept, dict):
        assert list(found) == list(kept), where
        for key in kept:
            compare(found[key], kept[key], f"{where}/{key}")
    elif isinstance(kept, list):
        assert len(found) == len(kept), where
        for k, (one, other) in enumerate(zip(found, kept, strict=True)):
            compare(one, other, f"{where}/{k}")
    elif isinstance(kept, float):
        assert math.isclose(found, kept, rel_tol=2e-3, abs_tol=2e-3), (where, found, kept)
    else:
        assert found == kept, where
