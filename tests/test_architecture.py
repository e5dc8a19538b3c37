"""The house: what docs/architecture.md says of rooms and recipes is so."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

import whycam
from whycam.audit import run as audit_run
from whycam.cam import registry as methods
from whycam.cli import app
from whycam.intake import door
from whycam.metrics import registry as metrics

ROOT = Path(whycam.__file__).parent
PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"
FILES = sorted(ROOT.rglob("*.py"))
LOOSE = {"__init__.py", "__main__.py", "aside.py", "cli.py", "errors.py", "made.py", "rounding.py", "runs.py"}
# What makes a runtime, or chooses one.
OF_THE_MODEL = {
    "OnnxEngine",
    "open_kept",
    "open_cached",
    "find_engine",
    "GapClassifier",
    "no_exact_map",
    "is_exportable",
}
# Training makes a GapClassifier, writes it down and measures it beside an earlier one; export and refined maps take one
# apart; objects are found by a graph of the installed network that gives more than scores and maps.
MAKERS = {
    "train",
    "mend/training.py",
    "mend/scores.py",
    "mend/compare.py",
    "jobs/export.py",
    "maps/refine.py",
    "maps/object_graph.py",
    "maps/objects.py",
}


def list_names(path: Path) -> set[str]:
    """The names and attributes that a file's code uses or imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.name for alias in node.names}
    return names


def test_no_runtime_is_chosen_outside_of_the_model() -> None:
    above = [path for path in FILES if path.relative_to(ROOT).parts[0] not in {"model", "intake"}]
    allowed = [ROOT / maker for maker in MAKERS]
    for path in above:
        if not any(path == maker or maker in path.parents for maker in allowed):
            assert not list_names(path) & OF_THE_MODEL, path


def test_files_are_short_and_none_lies_loose() -> None:
    assert {path.name for path in ROOT.glob("*.py")} == LOOSE
    for path in FILES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path


def test_the_page_names_every_room() -> None:
    rooms = {path.parent.relative_to(ROOT).as_posix() for path in FILES} - {"."}
    told = set(re.findall(r"^\| `([\w/]+)/` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert told == rooms


def test_every_room_has_its_place_in_the_order_of_imports() -> None:
    project = tomllib.loads((PAGE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    rooms = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in FILES} - {"__init__"}
    assert set(layers) == {f"whycam.{room}" for room in rooms}


def read_recipe(title: str) -> str:
    """The Python block under a recipe's heading."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"^### {title}\n.*?^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found, title
    assert sum(bool(line.strip()) for line in found[1].splitlines()) <= 12
    return found[1]


@pytest.fixture
def carry_out(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Runs a recipe as a file of its own; the tables are as before afterwards."""
    # Filled first: what is taken back is the recipe's own entry alone.
    list(methods.iter_methods())
    metrics.get_metrics(["all"])
    tables = [(methods._methods, dict(methods._methods)), (metrics._metrics, dict(metrics._metrics))]
    tables.append((audit_run.KINDS, dict(audit_run.KINDS)))
    commands = list(app.registered_commands)

    def run(title: str) -> ModuleType:
        module = ModuleType(f"whycam.intake.{title.rsplit(' ', 1)[-1]}")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(read_recipe(title), vars(module))
        return module

    yield run
    for table, before in tables:
        table.clear()
        table.update(before)
    app.registered_commands[:] = commands


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(path)
    return path


def test_recipe_a_map_method(carry_out: Callable[[str], ModuleType], tiny_folder: Path, photo: Path) -> None:
    carry_out("A map method")
    why = whycam.load(tiny_folder).explain(photo, method="strength")
    assert why.record["method"] == "strength"
    assert (why.maps >= 0).all()
    assert why.maps.any()


def test_recipe_a_metric(carry_out: Callable[[str], ModuleType], tiny_folder: Path, shapes_folder: Path) -> None:
    carry_out("A metric")
    photos = sorted((shapes_folder / "circle").glob("*.jpg"))[:3]
    found = whycam.evaluate(tiny_folder, photos, metrics=["peak-share"], baselines=())
    assert 0 < found.estimate("cam", "peak-share").value <= 1


def test_recipe_a_kind_of_finding(
    carry_out: Callable[[str], ModuleType], tiny_folder: Path, shapes_folder: Path
) -> None:
    carry_out("A kind of finding")
    photos = [audit_run.Sample(path, k) for k in (0, 1) for path in sorted(shapes_folder.glob("*/*.jpg"))[:4]]
    found = audit_run.audit(whycam.load(tiny_folder), photos, kinds=["dark"])
    assert [finding.kind for finding in found.findings] == ["dark"]


def test_recipe_a_kind_of_model(
    carry_out: Callable[[str], ModuleType], photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "_FILES", ("model", *door._FILES))
    carry_out("A kind of model")
    weights = tmp_path / "net.linear"
    np.savez(weights.with_suffix(".npz"), weight=np.eye(3, 3, dtype=np.float32))
    weights.with_suffix(".npz").rename(weights)
    model = whycam.load(weights, preprocess="unit", image_size=32)
    assert model.class_names == ("class 0", "class 1", "class 2")
    why = model.explain(photo)
    assert torch.allclose(why.maps[0].mean(), why.logits[0, why.target[0]], atol=1e-5)


def test_recipe_a_command(carry_out: Callable[[str], ModuleType], photo: Path) -> None:
    carry_out("A command")
    done = CliRunner().invoke(app, ["size", str(photo)])
    assert done.stdout == "64 x 48\n"
    assert isinstance(app, typer.Typer)
