"""How long each command takes to start, and how much memory: cold processes on a small run with its graph at hand.

`python benchmarks/start.py` writes results/start.md and .json. It makes a garden, trains on it, and lets every command
run once, so that all they keep is in the cache. A start is the time until the first photo is opened; of `serve`, until
it tells its address. Seconds of the processor are told too: on a machine that does other work besides, they grow less.
With --before SRC the commands of another checkout's src/ take turns with these, which takes twice the time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import RESULTS, save, write_table

from whycam.data.garden import write_garden

HEAVY = ("torch", "timm", "torchvision", "torchmetrics", "transformers", "sklearn", "scipy.stats", "matplotlib")
# The command, and the most seconds that its start may take on a machine with nothing else to do.
COMMANDS = {
    "explain": ("explain {run} {photos} -o {out}", 1.5),
    "localize": ("localize {run} {photos} -o {out}", 1.5),
    "report": ("report {run} {photos} --no-audit -o {out}.html", 1.5),
    "audit": ("audit {run} {photos} --kinds label,duplicate,confusion -o {out}", 1.5),
    "serve": ("serve {run} --port 0", 1.5),
    "evaluate": ("evaluate {run} {photos} --metrics deletion-auc --limit 4 -o {out}", 3.5),
}
# Runs one command; its last line has the numbers.
_RUN = """
import json, os, resource, signal, sys, time
begun, photos, heavy, words = float(sys.argv[1]), sys.argv[2], sys.argv[3].split(","), sys.argv[4:]
start = {}
def mark():
    start.update(s=time.time() - begun, cpu_s=time.process_time(), imports=[n for n in heavy if n in sys.modules])
def watch(event, args):
    if event == "open" and not start and isinstance(args[0], str) and args[0].startswith(photos):
        if args[0].endswith(".jpg"):
            mark()
sys.addaudithook(watch)
import typer
from whycam.cli import app
plain = typer.echo
def echo(text="", **how):
    plain(text, **how)
    if words[0] == "serve" and not start:
        mark()
        signal.setitimer(signal.ITIMER_REAL, 0.2)
typer.echo = echo
signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
app(words, standalone_mode=False)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
whole = {"whole_s": time.time() - begun, "whole_cpu_s": time.process_time(), "peak_mb": peak}
print(json.dumps({**start, **whole, "imports_at_end": [name for name in heavy if name in sys.modules]}))
"""


@dataclass(frozen=True)
class Case:
    """A run with its photos, in class folders, and where results go."""

    run: Path
    photos: Path
    out: Path


def make_case(folder: Path, photos_per_class: int) -> Case:
    """A garden, and a run that was trained on it."""
    garden = folder / "garden"
    write_garden(garden, train_per_class=12, val_per_class=photos_per_class, size_px=256)
    command = [sys.executable, "-m", "whycam", "train", str(garden / "photos"), "-o", str(folder / "run")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # The graph of a run is made where many photos are expected; here there are few.
    made = ["explain", str(folder / "run"), str(garden / "photos" / "val"), "--engine", "onnx", "-o", str(folder / "m")]
    subprocess.run([sys.executable, "-m", "whycam", *made], check=True, stdout=subprocess.DEVNULL)
    return Case(folder / "run", garden / "photos" / "val", folder / "out")


def run_command(case: Case, words: str, src: Path | None) -> dict[str, Any]:
    """What one cold process took."""
    filled = words.format(run=case.run, photos=case.photos, out=case.out).split()
    own = [] if filled[0] == "serve" else ["--overwrite"]
    path = os.environ.get("PYTHONPATH", "") if src is None else str(src)
    environment = {**os.environ, "PYTHONPATH": path}
    begun = subprocess.run(["date", "+%s.%N"], capture_output=True, text=True, check=True).stdout.strip()
    command = [sys.executable, "-c", _RUN, begun, str(case.photos), ",".join(HEAVY), *filled, *own]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(case: Case, names: list[str], sources: dict[str, Path | None], rounds: int) -> dict[str, Any]:
    """Name -> source -> the rounds; the sources take turns, in reversed order every second time."""
    found: dict[str, Any] = {name: {source: [] for source in sources} for name in names}
    for k in range(rounds):
        for name in names:
            for source in reversed(sources) if k % 2 else sources:
                found[name][source].append(run_command(case, COMMANDS[name][0], sources[source]))
    return found


def list_rows(found: dict[str, Any]) -> list[list[Any]]:
    rows = []
    for name, of_source in found.items():
        for source, rounds in of_source.items():
            numbers = ("s", "cpu_s", "whole_s", "whole_cpu_s", "peak_mb")
            middle = [statistics.median(one[key] for one in rounds) for key in numbers]
            told = [", ".join(rounds[-1][key]) or "none" for key in ("imports", "imports_at_end")]
            rows.append([name, source, *middle[:-1], round(middle[-1]), *told])
    return rows


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--rounds", type=int, default=3)
    ask.add_argument("--commands", nargs="+", default=list(COMMANDS), choices=COMMANDS)
    ask.add_argument("--before", type=Path, help="the src/ of another checkout, which takes turns with this one")
    ask.add_argument("--case", type=Path, help="a folder for the garden and the run, used again if they are there")
    ask.add_argument("--out", type=Path, default=RESULTS)
    given = ask.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.case or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        known = Case(folder / "run", folder / "garden" / "photos" / "val", folder / "out")
        case = known if known.run.is_dir() else make_case(folder, 4)
        if case is not known:
            for name in given.commands:  # once, so that what a command keeps is there
                run_command(case, COMMANDS[name][0], None)
        sources = ({"before": given.before.absolute()} if given.before else {}) | {"now": None}
        load = os.getloadavg()[0]
        found = measure(case, given.commands, sources, given.rounds)
    head = ["command", "sources", "start, s", "start, processor s", "whole, s", "whole, processor s", "peak memory, MB"]
    rows = list_rows(found)
    judged = [
        [f"{name} starts within {COMMANDS[name][1]} s", start, "yes" if start <= COMMANDS[name][1] else "no"]
        for name, source, start, *_ in rows
        if source == "now"
    ]
    lines = [
        "# The start of commands",
        f"`python benchmarks/start.py`: cold processes on 20 photos by a run whose graph is in the cache; medians of "
        f"{given.rounds} rounds. The machine's load was {load:.1f} before, {os.getloadavg()[0]:.1f} after.",
        "",
        *write_table([*head, "imported by then", "and at the end"], rows),
        "",
        *write_table(["expected", "measured, s", "holds"], judged),
    ]
    content = {"load": [load, os.getloadavg()[0]], "rounds": found}
    save("start", lines, content, given.out)


if __name__ == "__main__":
    main()
