"""The notebooks: the pair of files says the same, keeps no outputs, and runs from top to bottom."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

import whycam

# Drawn photos, which a notebook makes and another one makes alike.
GARDEN = "garden"
NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def test_there_are_four() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["original_experiment", "own_model", "shortcut", "which_method"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_its_script_and_keeps_no_outputs(path: Path) -> None:
    script, notebook = jupytext.read(path.with_suffix(".py")), nbformat.read(path, 4)
    cells = [[(cell.cell_type, cell.source) for cell in one.cells] for one in (script, notebook)]
    assert cells[0] == cells[1], "one was changed without the other: jupytext --sync notebooks/*.ipynb"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the notebooks before have made: a reader runs them in one folder, too, and with one cache."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(
    path: Path, shared: Path, tmp_path: Path, warm: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (shared / GARDEN).is_dir():
        shutil.copytree(shared / GARDEN, tmp_path / GARDEN)
    commands = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(whycam.__file__).parents[1]))
    notebook = nbformat.read(path, 4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    if (tmp_path / GARDEN).is_dir() and not (shared / GARDEN).is_dir():
        shutil.copytree(tmp_path / GARDEN, shared / GARDEN)
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    frames = [output.data["text/html"] for output in shown if "text/html" in output.get("data", {})]
    assert frames
    assert all("<iframe" in frame for frame in frames)
    told = "".join(output.text for output in shown if output.output_type == "stream")
    assert "Traceback" not in told
    assert "Error: " not in told
