"""docs/models.md: each of its commands is run, and so is its Python."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torchvision import models

from kind_cases import KINDS, NET, write_photos

TEXT = (Path(__file__).parents[1] / "docs/models.md").read_text(encoding="utf-8")
COMMANDS = [line.strip() for line in re.findall(r"^    (whycam .*)$", TEXT, re.MULTILINE) if "MODEL" not in line]
# Kind of the test's own model -> what it is called on the page.
FILES = {
    "onnx": {"Colours.onnx": "classifier.onnx"},
    "onnx inexact": {"Places.onnx": "places.onnx"},
    "keras": {"net.keras": "flowers.keras"},
    "h5": {"net.h5": "flowers.h5"},
    "pt2": {"net.pt2": "program.pt2"},
    "torchscript": {"net.pt": "scripted.pt"},
    "hugging face": {"hf": "my-hf-model"},
    "file.py": {},
    "package": {},
}

Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("page")
    (root / "net.py").write_text(NET, encoding="utf-8")
    write_photos(root / "photos")
    for name, files in FILES.items():
        if name in {"keras", "h5"} and find_spec("keras") is None:
            continue
        KINDS[name](root)
        for own, called in files.items():
            (root / own).rename(root / called)
    torch.save(timm.create_model("resnet18", num_classes=3).state_dict(), root / "resnet18.pth")
    torch.save(models.shufflenet_v2_x0_5(num_classes=3).state_dict(), root / "shufflenet.pth")
    (root / "out").mkdir()
    return root


def test_every_section_has_a_command() -> None:
    sections = [part for part in TEXT.split("\n## ")[1:] if not part.startswith(("What the output", "In Python"))]
    assert len(sections) == 7
    assert all("\n    whycam " in part for part in sections)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_run(line: str, root: Path, call_whycam: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    if "flowers." in line and find_spec("keras") is None:
        pytest.skip("keras is not installed")
    monkeypatch.chdir(root)
    done = call_whycam(*shlex.split(line.removeprefix("whycam ")))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_python_runs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.delitem(sys.modules, "net", raising=False)
    block = TEXT.split("```python\n")[1].split("```")[0]
    known: dict[str, Any] = {}
    exec(block, known)
    for name in ("model", "black_box"):
        assert known[name].class_names == ("red", "green", "blue")
    assert known["why"].record["method"] == "contrast"
    assert known["again"].predicted.tolist() == [0]
    assert known["found"].classifier()["accuracy"] == 1
    monkeypatch.delitem(sys.modules, "net", raising=False)


def test_the_kinds_are_those_that_come_in() -> None:
    """A kind with no row in the table would be known to nobody."""
    from whycam.intake.door import iter_kinds

    table = TEXT.split("| --- | --- | --- |")[1].split("\n\n")[0]
    words = {"module": "nn.Module", "function": "function of images", "folder": "runs/flowers"}
    words |= {"Hugging Face": "Hugging Face folder", ".onnx": "`.onnx`", ".keras": "`.keras`", ".pt2": "`.pt2`"}
    words |= {"your code": "net.py:make_model", "timm": "timm name"}
    for kind in iter_kinds():
        assert any(word in kind.name and told in table for word, told in words.items()), kind.name
