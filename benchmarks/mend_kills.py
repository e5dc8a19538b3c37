"""Kills of processes that write a journal of edits, or train versions by it: what was promised is there, or it fails.

`python benchmarks/mend_kills.py --work FOLDER --kills 100` writes results/mend_kills.md and .json; the programs that
are killed are those of the tests.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from common import RESULTS, save, write_table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from conftest import PHOTOS_A_CLASS, SHAPES, _draw_shape
from edit_cases import copy_scene, correct, make_scene
from kill_cases import KILL_APPENDING, KILL_TRAINING
from whycam.mend.journal import Journal


def run(program: str, *words: object) -> list[str]:
    """The lines that a program printed; an error where it failed."""
    command = [sys.executable, "-c", program, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout.splitlines()


def kill_appending(work: Path, kills: int, seed: int) -> dict[str, int]:
    """What was promised, what is there, and lines that were cut off."""
    path = work / "edits.jsonl"
    path.unlink(missing_ok=True)
    promised = set(json.loads(run(KILL_APPENDING, path, kills, seed)[-1]))
    found = Journal(path).read()
    missing = promised - {edit.id for edit in found.edits}
    cut = sum(not line.endswith("}") for line in path.read_text().splitlines())
    return {"promised": len(promised), "missing": len(missing), "there": len(found.edits), "cut off": cut}


def kill_training(work: Path, kills: int, seed: int) -> dict[str, int]:
    """Runs after a kill: all of them with whole versions, one of which is kept (the program sees to that)."""
    draw, shapes = np.random.default_rng(0), work / "shapes"
    for name in SHAPES:
        (shapes / name).mkdir(parents=True, exist_ok=True)
        for index in range(PHOTOS_A_CLASS):
            _draw_shape(name, draw).save(shapes / name / f"{index:02}.jpg", quality=90)
    correct(copy_scene(make_scene(shapes, work / "scene"), work / "copy"), has_causes=False)
    states = [json.loads(line) for line in run(KILL_TRAINING, work / "copy", kills, seed)]
    kept = [next(number for number, is_kept in state if is_kept) for state in states]
    return {"runs": len(states), "versions made": int(states[-1][-1][0]), "kept versions seen": len(set(kept))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    rows = []
    for name, kill in (("appending to a journal", kill_appending), ("training, keeping, removing", kill_training)):
        start = time.perf_counter()
        rows.append({"what": name, "kills": args.kills, **kill(args.work, args.kills, args.seed)})
        rows[-1]["s"] = round(time.perf_counter() - start)
    lines = [
        "# Kills",
        f"`python benchmarks/mend_kills.py --work FOLDER --kills {args.kills}`: SIGKILL at a random step.",
        "",
    ]
    told = [
        [row["what"], row["kills"], ", ".join(f"{k}: {v}" for k, v in row.items() if k not in {"what", "kills"})]
        for row in rows
    ]
    save("mend_kills", [*lines, *write_table(["while", "kills", "then"], told)], {"rows": rows}, args.out)


if __name__ == "__main__":
    main()
