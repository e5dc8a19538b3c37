"""Processes that are killed while they write what people said, or train by it; the tests kill ten, the benchmark more.

Each is a program of its own, so that it can fork without this process's threads: PLACE, how many, a seed.
"""

from __future__ import annotations

# Forks processes that append, one after the other, kills each at some moment, and tells what they said was written.
KILL_APPENDING = """
import json, os, random, signal, sys, time
from pathlib import Path
from whycam.mend.edits import make_edit
from whycam.mend.journal import Journal
journal, draw, promised = Journal(Path(sys.argv[1])), random.Random(int(sys.argv[3])), []
for name in range(int(sys.argv[2])):
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        for number in range(1_000_000):
            label = "x" * (number % 200 + 1)
            edits = [make_edit("label", id=f"{name}-{number}-{k}", photo="a" * 32, label=label) for k in range(3)]
            journal.append(edits)
            os.write(into, (" ".join(edit.id for edit in edits) + chr(10)).encode())
    os.close(into)
    first = os.read(out, 1)
    time.sleep(draw.random() * 0.03)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(out, "rb") as pipe:
        promised += (first + pipe.read()).decode().rpartition(chr(10))[0].split()
print(json.dumps(promised))
"""

# Forks processes that train versions and keep or remove them, kills each at some step, and tells what the run then is.
KILL_TRAINING = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from whycam.mend.edited_run import EditedRun
from whycam.mend.versions import list_versions
from whycam.model.gap import load_classifier
from whycam.runs import find_model
torch.set_num_threads(1)
root, draw = Path(sys.argv[1]), random.Random(int(sys.argv[3]))
for number in range(int(sys.argv[2])):
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        run = EditedRun.open(root / "run", root / "photos", cache_dir=root / "cache")
        step = lambda *_: os.write(into, b"x")
        while True:
            kept = run.keep(run.retrain(progress=step).number)
            step()
            others = [one for one in run.list_versions() if one.number not in ("000", kept.number)]
            for one in others[:1]:
                run.throw_away(one.number)
            step()
    os.close(into)
    for _ in range(draw.randrange(1, 16)):
        os.read(out, 1)
    time.sleep(draw.random() ** 3 * 0.5)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(out)
    for version in list_versions(root / "run"):
        load_classifier(version.folder / "model")
        assert version.number == "000" or version.comparison, version
    load_classifier(find_model(root / "run"))
    print(json.dumps([(one.number, one.is_kept) for one in list_versions(root / "run")]), flush=True)
"""
