"""How much work is it to mend a data set? A simulated person walks the work list of a run and answers truthfully.

`python benchmarks/mend.py --photos FLOWERS --work FOLDER` measures what is not measured yet, a file a seed in FOLDER,
and writes results/mend.md and .json of all seeds there are. With `--cleanlab PYTHON`, an interpreter of an environment
in which cleanlab is installed, its order of the labels is measured beside (it is AGPL, and no part of whycam).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, save, write_table
from cure_features import Features
from mend_case import Case, Judge, make_case

from whycam.config import make_train_options
from whycam.jobs.train import train
from whycam.mend.edited_run import EditedRun
from whycam.mend.edits import Edit, make_edit
from whycam.mend.worklist import Action, Item
from whycam.model.gap import load_classifier
from whycam.runs import write_json
from whycam.train.stores import read_pooled

# After so many answers about single photos the model is trained again and measured.
EVERY = 10
# What share of the loss is to come back.
BACK = 0.9
# After so many photos in another order.
AT = (50, 100, 200, 500)
# Properties that one class saved badly is known by.
_SAVED = {"jpeg-quality", "sharpness", "noise", "bytes-per-pixel", "file-size", "resolution"}


@dataclass
class Clock:
    """Seconds of computing, by what they were for: of the wall, and of the processor."""

    wall_s: dict[str, float] = field(default_factory=dict)
    cpu_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        """Counts the block's seconds under that name."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall_s[name] = self.wall_s.get(name, 0.0) + time.perf_counter() - wall
        self.cpu_s[name] = self.cpu_s.get(name, 0.0) + time.process_time() - cpu


class Person:
    """Knows the truth of a case, and answers each item with one action."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def answer(self, item: Item) -> tuple[Action, dict[str, Any]]:
        """The action, and what the person adds to it."""
        if item.finding is not None:
            name = "cure" if self.is_true(item.finding) else "dismiss"
            return item.find_action(name), {}
        truth, photo = self.case.truth[item.photos[0].photo], item.photos[0]
        if photo.label == truth:
            return item.find_action("right"), {}
        return item.find_action("relabel"), {"label": truth}

    def is_true(self, finding: Mapping[str, Any]) -> bool:
        """Whether it is what was planted, and can be trained away."""
        numbers = finding.get("numbers") or {}
        names = {numbers.get("property"), *(numbers.get("properties") or ())}
        if finding["class"] == self.case.squeezed and names & _SAVED:
            return finding["kind"] in {"shortcut", "data"}
        boxes = (finding.get("region") or {}).get("boxes") or ()
        on_logo = any(x1 > 0.85 and y0 < 0.1 and x1 - x0 < 0.5 and y1 - y0 < 0.5 for x0, y0, x1, y1 in boxes)
        signs = numbers.get("found_by") in {"stamp", "thing"}
        return finding["kind"] == "shortcut" and finding["class"] == self.case.marked and (on_logo or signs)


@dataclass
class Walk:
    """What a walk along the list came to.

    Attributes:
        points: (actions so far, accuracy, worst class) after each training.
        found: after how many actions each wrong label was put right.
        causes: the action that mended each cause, by what it is.
        versions: the runs' folders, the last of them.
    """

    points: list[tuple[int, float, float]] = field(default_factory=list)
    found: list[int] = field(default_factory=list)
    causes: dict[str, int] = field(default_factory=dict)


def walk(run: EditedRun, case: Case, judge: Judge, clock: Clock, start: Mapping[str, float]) -> Walk:
    """Answers the list from the top, and trains again after each cause and every few photos, until it is at its end."""
    person, done = Person(case), Walk([(0, start["accuracy"], start["worst"])])
    actions = since = 0
    with clock.on("lists"):
        items = run.list_work()
    while items and items[0].sort in {"finding", "label"}:
        item = items.pop(0)
        action, given = person.answer(item)
        run.append(action.make(**given))
        actions, since = actions + 1, since + 1
        if action.name == "cure" and item.finding is not None:
            cause = "mark" if item.finding["class"] == case.marked else "property"
            done.causes.setdefault(cause, actions)
            # What says the same of the same class is answered with it.
            with clock.on("lists"):
                items = run.list_work()
        elif action.name == "relabel":
            done.found.append(actions)
        is_last_finding = item.sort == "finding" and (not items or items[0].sort != "finding")
        if (is_last_finding and done.causes) or (item.sort == "label" and since >= EVERY) or not items:
            since = 0
            done.points.append((actions, *measure(run, judge, clock)))
            with clock.on("lists"):
                items = run.list_work()
    return done


def measure(run: EditedRun, judge: Judge, clock: Clock) -> tuple[float, float]:
    """Accuracy and the worst class's after one more training, which is then kept."""
    with clock.on("trainings"):
        version = run.retrain()
        run.keep(version.number)
    for old in run.list_versions():
        if old.number != "000" and not old.is_kept:
            run.throw_away(old.number)
    found = judge.measure(version.folder / "model")
    return found["accuracy"], found["worst"]


def count_order(run: EditedRun, case: Case, order: Sequence[str]) -> list[int]:
    """After how many photos each wrong label is come upon, in that order of the photos."""
    photos = run.list_photos()
    return [place for place, photo in enumerate(order, 1) if photos[photo].label != case.truth[photo]]


def list_orders(run: EditedRun, seed: int, work: Path, cleanlab: Path | None) -> dict[str, list[str]]:
    """Photos in other orders: at random, by the trained model's loss, and cleanlab's."""
    folder = run.source
    hashes = [run.hashes[sample.path] for sample in folder.samples]
    labels = torch.tensor([sample.label for sample in folder.samples])
    shuffled = list(hashes)
    random.Random(seed).shuffle(shuffled)
    training = run._prepare()
    pooled = read_pooled(training.work, run._kept["features"], folder.samples)
    layer = load_classifier(run.run / "model").classifier
    with torch.no_grad():
        own = layer(pooled).softmax(dim=1)[torch.arange(len(labels)), labels]
    orders = {"random": shuffled, "loss": [hashes[int(row)] for row in own.argsort()]}
    if cleanlab is not None:
        np.savez(work / "features.npz", values=pooled.numpy(), labels=labels.numpy())
        subprocess.run([cleanlab, Path(__file__).with_name("mend_cleanlab.py"), work], check=True)
        orders["cleanlab"] = [hashes[row] for row in json.loads((work / "cleanlab.json").read_text())]
    return orders


def follow(run: EditedRun, case: Case, judge: Judge, order: Sequence[str], at: Sequence[int]) -> list[list[float]]:
    """(photos looked at, accuracy, worst class) where a person looks at photos in another order, and at no finding."""
    run.journal.path.unlink(missing_ok=True)
    photos, points = run.list_photos(), []
    edits: list[Edit] = []
    done = 0
    for count in at:
        for photo in order[done:count]:
            if photos[photo].label != case.truth[photo]:
                edits.append(make_edit("label", photo=photo, label=case.truth[photo]))
        done = count
        run.journal.path.unlink(missing_ok=True)
        if edits:
            run.journal.append(edits)
        points.append([count, *measure(run, judge, Clock())])
    return points


def measure_seed(photos: Path, work: Path, seed: int, judge: Judge, cleanlab: Path | None) -> dict[str, Any]:
    """One case: clean, as it is, and along the list and in other orders."""
    case, clock = make_case(photos, work, seed), Clock()
    cache = work / "cache"
    figures = {}
    for name, folder in (("clean", case.clean), ("before", case.folder)):
        train(folder, work / name, make_train_options(seed=seed, choose_on="val", overwrite=True, cache_dir=cache))
        figures[name] = judge.measure(work / name / "model")
    shutil.rmtree(work / "run", ignore_errors=True)
    shutil.copytree(work / "before", work / "run")
    run = EditedRun.open(work / "run", cache_dir=cache)
    with clock.on("audit"):
        run.audit()
    done = walk(run, case, judge, clock, figures["before"])
    other = EditedRun.open(work / "before", cache_dir=cache)
    other.list_work()
    orders = list_orders(other, seed, work, cleanlab)
    found = {name: count_order(other, case, order) for name, order in orders.items()}
    at = [*AT, len(case.truth)]
    followed = {name: follow(other, case, judge, order, at) for name, order in orders.items()}
    last = run.find_kept().summary["last_layer"]
    return {
        "seed": seed,
        "marked": case.marked,
        "squeezed": case.squeezed,
        "figures": figures,
        "points": done.points,
        "found": {"the list": done.found, **found},
        "causes": done.causes,
        "followed": followed,
        "wall_s": clock.wall_s,
        "cpu_s": clock.cpu_s,
        "load": os.getloadavg()[0],
        "wrong": sum(len(rows) for rows in [found["random"]]),
        "last_layer": {"causes": last.get("causes")} if last else None,
    }


def count_to(points: Sequence[Sequence[float]], column: int, clean: float) -> float | None:
    """The actions after which so much of the loss is back; None: never."""
    line = points[0][column] + BACK * (clean - points[0][column])
    return next((point[0] for point in points if point[column] >= line), None)


def count_found(places: Sequence[int], total: int, share: float) -> int | None:
    """The photos to look at until that share of the wrong labels was seen."""
    wanted = int(np.ceil(share * total))
    return sorted(places)[wanted - 1] if len(places) >= wanted else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cleanlab", type=Path)
    parser.add_argument("--summary", action="store_true", help="measure nothing more")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    logging.disable(logging.WARNING)
    if not args.summary:
        judge = Judge(args.photos, Features(args.work))
        for seed in range(args.seeds):
            to = args.work / f"seed-{seed}.json"
            if not to.exists():
                work = args.work / f"case-{seed}"
                write_json(to, measure_seed(args.photos, work, seed, judge, args.cleanlab))
                shutil.rmtree(work / "cache", ignore_errors=True)
                print(to.name, flush=True)
    write([json.loads(path.read_text()) for path in sorted(args.work.glob("seed-*.json"))], args.out)


def write(rows: list[dict[str, Any]], out: Path) -> None:
    """The tables."""
    first = []
    for row in rows:
        clean, before, after = row["figures"]["clean"], row["figures"]["before"], row["points"][-1]
        for column, name in ((1, "accuracy"), (2, "worst")):
            title = "worst class" if name == "worst" else name
            to = count_to(row["points"], column, clean[name])
            first.append([row["seed"], title, clean[name], before[name], after[column], to if to else "not reached"])
    second = []
    for row in rows:
        for name, places in row["found"].items():
            half, most = (count_found(places, row["wrong"], share) for share in (0.5, 0.9))
            second.append([row["seed"], name, half or "-", most or "-", f"{len(places)} of {row['wrong']}"])
    third = [
        [row["seed"], name, *(f"{point[0]}: {point[1]:.3f} / {point[2]:.3f}" for point in points)]
        for row in rows
        for name, points in row["followed"].items()
    ]
    fourth = [
        [row["seed"], *(row["causes"].get(name, "not found") for name in ("mark", "property"))]
        + [f"{row['cpu_s'][name]:.0f}" for name in ("audit", "lists", "trainings")]
        + [f"{row['wall_s'][name]:.0f}" for name in ("audit", "lists", "trainings")]
        + [len(row["points"]) - 1, f"{row['load']:.0f}"]
        for row in rows
    ]
    lines = [
        *_TEXT,
        "",
        "## Along the list",
        "",
        *write_table(
            ["seed", "figure", "clean", "before", "at the end", "actions until 90 % of the loss is back"], first
        ),
        "",
        "## Wrong labels",
        "",
        *write_table(["seed", "order", "photos until half", "photos until 90 %", "seen"], second),
        "",
        "## Other orders: photos looked at: accuracy / worst class",
        "",
        *write_table(["seed", "order", *(f"at {count}" for count in (*AT, 1000))], third),
        "",
        "## Causes and seconds",
        "",
        *write_table(
            ["seed", "action that mended the mark", "the property", *_SECONDS, "trainings", "load"],
            fourth,
        ),
    ]
    save("mend", lines, {"rows": rows}, out)


_SECONDS = [f"{name}, {kind} s" for kind in ("CPU", "wall") for name in ("audit", "lists", "trainings")]
_TEXT = [
    "# Mending",
    "`python benchmarks/mend.py --photos FLOWERS --work FOLDER --cleanlab PYTHON`: 1,000 flowers of five classes; 5 % "
    "of the labels are wrong, one class has a logo, another is saved as JPEG of quality 12, in what is learnt and what "
    "is held out. Each figure is of 350 other photos in three forms, plain, all with the logo and all saved badly: "
    "accuracy over all, and of the worst class in any form. A simulated person answers the work list from the top, "
    "one action an item: trains against a finding that is true, dismisses another, corrects or confirms a label. "
    "`loss` orders photos by what the model that learnt them gives their label; in the other orders every photo looked "
    "at is an action, and no finding is seen.",
]


if __name__ == "__main__":
    main()
