"""The campaign of benchmarks/soundness.py: its quick part finds nothing, and its checks find what is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import whycam

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PARTS = ("kills", "pictures", "names", "models", "caches", "disk", "users", "large", "requests")


@pytest.fixture(autouse=True)
def _beside_benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "campaign"]:
        del sys.modules[name]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="its processes are watched as Linux does")
def test_the_quick_campaign_finds_nothing() -> None:
    source = str(Path(whycam.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "soundness.py", "--quick", "--all"],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    told = done.stdout[-6000:] + done.stderr[-2000:]
    assert done.returncode == 0, told
    cases = [int(number) for number in re.findall(r"^[^|\n]+: (\d+) cases, 0 faults", done.stdout, re.MULTILINE)]
    assert len(cases) == len(PARTS), told
    assert min(cases) > 0, told


def test_pages_are_the_same_but_for_when_and_how_they_were_made(tmp_path: Path) -> None:
    from campaign.findings import describe

    pages = []
    for number, text in enumerate(("<dt>Command</dt><dd>a</dd>1", "<dt>Command</dt><dd>b</dd>1", "2")):
        (tmp_path / f"{number}.html").write_text(text)
        pages.append(describe(tmp_path / f"{number}.html"))
    assert pages[0] == pages[1] != pages[2]


def test_results_are_the_same_but_for_times_and_commands(tmp_path: Path) -> None:
    from campaign.findings import compare, describe

    for name, text in (("a", '{"n": 1, "times_s": {"all": 1}}'), ("b", '{"n": 1, "times_s": {"all": 2}}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(text)
    first, second = describe(tmp_path / "a"), describe(tmp_path / "b")
    assert compare(first, second) == ""
    (tmp_path / "b" / "record.json").write_text('{"n": 2}')
    (tmp_path / "b" / "more.txt").touch()
    assert compare(describe(tmp_path / "b"), first) == "more: more.txt; other: record.json"


@pytest.mark.parametrize(
    ("code", "err", "kinds"),
    [
        (0, "", []),
        (2, "whycam: say what\n", []),
        (1, "Traceback (most recent call last):\nKeyError: 'x'\n", ["traceback"]),
        (-6, "", ["exit code"]),
        (0, "x.py:3: RuntimeWarning: divide by zero\n", ["noise"]),
    ],
)
def test_an_end_is_judged(code: int, err: str, kinds: list[str]) -> None:
    from campaign.findings import check_end
    from campaign.process import End

    assert [fault.kind for fault in check_end(End(code, "", err, 1.0, 1.0), "a case")] == kinds


def test_photos_that_share_a_map_are_lost(tmp_path: Path) -> None:
    import numpy as np
    from campaign.pictures import check_files

    np.save(tmp_path / "a.npy", np.full((2, 2), 0.5, np.float32))
    row = {"error": "", "map": "a.npy", "overlay": "a.npy", "heatmap": "a.npy", "target_index": "0", "path": "a.jpg"}
    rows = {"a.jpg": [{**row, "logit": "0.6"}], "b.jpg": [{**row, "logit": "0.7", "path": "b.jpg"}]}
    kinds = [fault.kind for fault in check_files(tmp_path, rows, np.array([0.1], np.float32), "a case")]
    assert kinds == ["lost", "lost", "lost", "wrong"]
