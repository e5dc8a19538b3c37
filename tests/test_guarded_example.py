"""examples/guarded: its own script's commands, in this process; red with the seal, green after the mend."""

from __future__ import annotations

import json
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

EXAMPLE = Path(__file__).parents[1] / "examples" / "guarded"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def read_script(*given: str) -> list[list[str]]:
    """The commands of ci.sh, with what is given to it."""
    lines = (EXAMPLE / "ci.sh").read_text(encoding="utf-8").splitlines()
    commands = [line for line in lines if line.startswith(("python ", "whycam "))]
    return [shlex.split(line.replace('"$@"', shlex.join(given))) for line in commands]


@pytest.mark.slow
def test_red_with_the_seal_and_green_after_the_mend(
    pytester: pytest.Pytester, call_whycam: Run, guard_plugin: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(EXAMPLE, pytester.path, dirs_exist_ok=True)
    mend = next(line.split("ci.sh ")[1].split("  ")[0] for line in read_comments() if "--ignore" in line)
    photos, training, test = read_script()
    assert (photos[:2], training[0], test) == (["python", "make_photos.py"], "whycam", ["python", "-m", "pytest"])
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", photos[1:])
        runpy.run_path("make_photos.py", run_name="__main__")

    assert call_whycam(*training[1:]).returncode == 0
    done = pytester.runpytest_inprocess()
    done.assert_outcomes(failed=1, passed=3)
    done.stdout.fnmatch_lines(
        ["E * no-shortcut is broken: The model knows 'sunflower' by a mark (upper right corner)*"]
    )
    guards = json.loads((pytester.path / "report" / "guards.json").read_text(encoding="utf-8"))["guards"]
    assert {one["guard"]: one["state"] for one in guards}["accuracy"] == "holds"  # which tells nothing of it
    page = (pytester.path / "report" / "index.html").read_text(encoding="utf-8")
    assert "photos/val/sunflower/" in page

    mended = read_script(*shlex.split(mend))[1]
    assert "--ignore" in mended
    assert call_whycam(*mended[1:]).returncode == 0
    pytester.runpytest_inprocess().assert_outcomes(passed=4)


def read_comments() -> list[str]:
    return [line for line in (EXAMPLE / "ci.sh").read_text(encoding="utf-8").splitlines() if line.startswith("#  ")]


def test_a_forge_runs_the_script() -> None:
    done = subprocess.run(["sh", "-n", str(EXAMPLE / "ci.sh")], check=False)
    assert done.returncode == 0
    assert "      - run: sh ci.sh\n" in (EXAMPLE / "ci.yml").read_text(encoding="utf-8")
