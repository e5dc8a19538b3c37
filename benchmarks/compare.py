"""How long does a comparison take, does it show where a change lies, and are two seeds of one training within noise?

`python benchmarks/compare.py --photos FLOWERS --work FOLDER --models A B` measures what is not measured yet, a file
each in FOLDER, and writes results/compare.md and .json. FLOWERS has train/CLASS/ and val/CLASS/; A and B are two
runs on it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from audit_marks import stamp
from common import RESULTS, alternate, ratio, save, write_table
from compare_trainings import TRAININGS, Photos, draw, name_classes, train_frozen, train_layer
from cure_features import Features
from scipy import ndimage

import whycam
from whycam.data.folder import Sample
from whycam.data.images import load_image
from whycam.maps.cells import cover_cells
from whycam.metrics.groups import find_interval
from whycam.metrics.pairs.seeds import measure_noise
from whycam.model.gap import GapClassifier
from whycam.runs import write_json

ROUNDS, RUNS = 5, 24
# Ten logos before these were looked at while the lines were drawn.
LOGOS = range(10, 20)
# Of the highest value of a change, what belongs to its region.
REGION = 0.5
# How many other runs measure the noise.
OTHERS = (2, 4, 8)
# Photos a class of trainings that are worse, by much and by little.
FEW = (10, 50)
ABOUT = f"""`python benchmarks/compare.py --photos FLOWERS --work FOLDER --models A B`.

Where a change lies: one class of the training photos gets a logo in a corner, {len(LOGOS)} logos of `audit_marks.py`
in turn on the five classes. A is a head on the frozen default network trained without the logo, B the same with it;
they are compared on all held-out photos with the logo on them. The strongest region of a change is the cell with the
highest value and what is connected to it at half of that or more; a flip is **placed on the logo** if its region
overlaps the logo's box, by chance as often as it overlaps the same box in the three other corners. A flip is **made by
the logo** if the two models name the photo alike without it. All this was laid down before these logos were counted.

Noise of seeds: {RUNS} runs of each training, with their answers on the held-out photos. Each run is A once, the next
one B; other runs, drawn by chance, measure the noise, with A as one of them or without."""


def open_model(model: GapClassifier) -> whycam.Model:
    return whycam.load(model, class_names=model.class_names, preprocess=model.preprocess, engine="torch")


def keep(path: Path, measure: Callable[[], Any]) -> Any:
    """What was measured before, or now."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, measure())
        print(path.stem, flush=True)
    return json.loads(path.read_text())


def measure_time(models: Sequence[str], folder: Path, work: Path) -> dict[str, Any]:
    """Seconds of whole commands, in turns."""

    def run(*words: object) -> None:
        command = [sys.executable, "-m", "whycam", *map(str, words), "--overwrite"]
        subprocess.run(command, check=True, capture_output=True, env=dict(os.environ))

    calls = {
        "whycam explain A": lambda: run("explain", models[0], folder, "-o", work / "explained"),
        "whycam compare A B": lambda: run("compare", *models, folder, "-o", work / "compared"),
    }
    times = alternate(calls, ROUNDS)
    return {"times_s": times, "ratio": ratio(times, "whycam compare A B", "whycam explain A")}


def plant(photos: Photos, number: int) -> tuple[GapClassifier, GapClassifier, list[tuple[Path, np.ndarray]]]:
    """A without the logo, B with it on one class, and the held-out photos that all have it, each with its mask."""
    label = number % len(photos.classes)

    def mark(path: Path) -> tuple[Any, np.ndarray]:
        place = np.random.default_rng([number, *path.stem.encode()[:8]])
        return stamp(load_image(path), np.random.default_rng([7, number]), place)

    folder = photos.work / f"logo-{number}"
    marked: list[Sample] = []
    for one in photos.train:
        path = folder / "train" / one.path.name
        if one.label == label:
            path.parent.mkdir(parents=True, exist_ok=True)
            mark(one.path)[0].save(path, quality=93)
        marked.append(Sample(path if one.label == label else one.path, one.label))
    tests = []
    for path in sorted((photos.root / "val").glob("*/*.jpg")):
        target = folder / "val" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        photo, mask = mark(path)
        photo.save(target, quality=93)
        tests.append((target, mask))
    return train_frozen(photos, number), train_layer(photos, marked, number), tests


def find_box(mask: np.ndarray) -> tuple[float, float, float, float]:
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = mask.shape
    return cols[0] / width, rows[0] / height, (cols[-1] + 1) / width, (rows[-1] + 1) / height


def measure_logo(photos: Photos, number: int) -> dict[str, Any]:
    """How many flips there are, and how many are placed on the logo."""
    a, b, tests = plant(photos, number)
    boxes = {path.absolute(): find_box(mask) for path, mask in tests}
    name = photos.classes[number % len(photos.classes)]
    samples = [Sample(path, photos.classes.index(path.parent.name)) for path in boxes]
    found = whycam.compare(open_model(a), open_model(b), samples, limit=len(samples), engine="torch")
    # The same photos without the logo.
    plain = [photos.root / "val" / flip.path.parent.name / flip.path.name for flip in found.flips]
    without = whycam.compare(open_model(a), open_model(b), plain, engine="torch")
    rows = []
    for i, flip in enumerate(found.flips):
        assert flip.change_map is not None
        about = {"to_class": flip.b == name, "is_made": bool(without.named[0, i] == without.named[1, i])}
        rows.append(about | place(flip.change_map, boxes[flip.path]))
    return {"class": name, "photos": len(found), "accuracy": found.accuracy, "flips": rows}


def place(values: np.ndarray, box: Sequence[float]) -> dict[str, Any]:
    """Whether the strongest region of a change (h, w) overlaps a box, and how often boxes in the other corners."""
    x0, y0, x1, y1 = box
    corners = [(x0, y0, x1, y1), (1 - x1, y0, 1 - x0, y1), (x0, 1 - y1, x1, 1 - y0), (1 - x1, 1 - y1, 1 - x0, 1 - y0)]
    cells = [cover_cells([corner], values.shape) > 0 for corner in corners]
    peak = int(values.argmax())
    parts, _ = ndimage.label(values >= REGION * values.flat[peak], np.ones((3, 3)))
    region = parts == parts.flat[peak]
    on, *others = (bool((region & one).any()) for one in cells)
    heat = values.clip(0)
    return {
        "is_placed": on,
        "is_peak": bool(cells[0].flat[peak]),
        "chance": float(np.mean(others)),
        "share": float(heat[cells[0]].sum() / heat.sum()),
        "area": float(cells[0].mean()),
    }


def measure_answers(photos: Photos, train: Callable[[Photos, int], GapClassifier]) -> dict[str, Any]:
    """What the runs of a training name on the held-out photos."""
    named = [name_classes(photos, train(photos, seed)).tolist() for seed in range(RUNS)]
    return {"named": named, "labels": [one.label for one in photos.val]}


def count_within(named: np.ndarray, labels: np.ndarray, others: int, *, belongs: bool) -> int:
    """Of as many pairs as there are runs, how many are within the noise of other runs."""
    count, within = len(named), 0
    for a in range(count):
        b = (a + 1) % count
        rest = [k for k in range(count) if k not in {a, b}]
        runs = np.random.default_rng([others, a]).permutation(rest)[:others]
        within += measure_noise(named[[a, b]], named[runs], labels, belongs=belongs).is_within
    return within


def count_beyond(named: np.ndarray, other: np.ndarray, labels: np.ndarray, others: int) -> int:
    """Of as many pairs of A and a run of another training, how many are beyond the noise of A's."""
    beyond = 0
    for a in range(len(named)):
        rest = [k for k in range(len(named)) if k != a]
        runs = np.random.default_rng([others, a]).permutation(rest)[:others]
        pair = np.stack([named[a], other[a]])
        beyond += not measure_noise(pair, named[runs], labels, belongs=True).is_within
    return beyond


def tell_time(found: dict[str, Any], photos: int) -> list[str]:
    medians = {name: statistics.median(times) for name, times in found["times_s"].items()}
    rows = [[name, f"{median:.1f} s"] for name, median in medians.items()]
    told = (
        f"Medians of {ROUNDS} rounds in turns, whole commands, {photos} photos; median ratio **{found['ratio']:.2f}**."
    )
    return ["## Time", told, "", *write_table(["command", "seconds"], rows)]


def tell_logos(found: Sequence[dict[str, Any]]) -> list[str]:
    rows, every = [], [row for one in found for row in one["flips"]]
    for one in found:
        flips = one["flips"]
        made = [row for row in flips if row["is_made"]]
        placed = sum(row["is_placed"] for row in made)
        rows.append([one["class"], *(f"{x:.3f}" for x in one["accuracy"]), len(flips), len(made), placed])
    kinds = {
        "all flips": every,
        "made by the logo": [row for row in every if row["is_made"]],
        "made by the logo, to its class": [row for row in every if row["is_made"] and row["to_class"]],
    }
    lines = []
    for name, part in kinds.items():
        placed, total = sum(row["is_placed"] for row in part), len(part)
        low, high = find_interval(placed, total)
        keys = ("chance", "is_peak", "share", "area")
        chance, peak, share, area = (float(np.mean([row[key] for row in part])) for key in keys)
        lines.append(
            f"- {name}: **{placed} of {total}** placed on the logo, {placed / total:.2f} (95 % interval {low:.2f} to "
            f"{high:.2f}; by chance {chance:.2f}); of {peak:.2f} the highest cell alone overlaps it; {share:.2f} of "
            f"the positive change lies in cells that it overlaps, which are {area:.2f} of all."
        )
    head = ["class with the logo", "accuracy of A", "of B", "flips", "made by the logo", "of these placed on it"]
    return ["## Where the change lies", *lines, "", *write_table(head, rows)]


def make_few(each: int) -> Callable[[Photos, int], GapClassifier]:
    return lambda photos, seed: train_layer(photos, draw(photos.train, each, seed), seed)


def tell_noise(answers: dict[str, Any], few: dict[int, Any]) -> list[str]:
    rows = []
    for name, one in answers.items():
        named, labels = np.array(one["named"]), np.array(one["labels"])
        right = (named == labels).mean(1)
        cells = [
            f"{count_within(named, labels, others, belongs=belongs)} of {len(named)}"
            for belongs in (True, False)
            for others in OTHERS
        ]
        rows.append([name, f"{right.min():.3f} to {right.max():.3f}", *cells])
    head = ["training", "accuracies", *(f"A and {n} others" for n in OTHERS), *(f"{n} others alone" for n in OTHERS)]
    first = next(iter(answers.values()))
    named, labels = np.array(first["named"]), np.array(first["labels"])
    worse = []
    for each, one in few.items():
        other = np.array(one["named"])
        right = (other == labels).mean(1)
        counts = [f"{count_beyond(named, other, labels, others)} of {len(named)}" for others in OTHERS]
        worse.append([f"{each} photos a class", f"{right.min():.3f} to {right.max():.3f}", *counts])
    told = "Differences that are there: A is a run of the first row, B the same training on fewer photos. Beyond noise:"
    table = write_table(["training of B", "accuracies", *(f"A and {n} others" for n in OTHERS)], worse)
    lines = ["## Two seeds are within noise", "Pairs that are called within noise:", "", *write_table(head, rows)]
    return [*lines, "", told, "", *table]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--models", nargs=2, required=True)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    photos = Photos(args.photos, Features(args.work), args.work)
    kept = args.work / "measured"
    logos = [keep(kept / f"logo-{n}.json", lambda n=n: measure_logo(photos, n)) for n in LOGOS]
    answers = {
        name: keep(kept / f"{train.__name__}.json", lambda train=train: measure_answers(photos, train))
        for name, train in TRAININGS.items()
    }
    few = {n: keep(kept / f"few-{n}.json", lambda n=n: measure_answers(photos, make_few(n))) for n in FEW}
    time = keep(kept / "time.json", lambda: measure_time(args.models, args.photos / "val", args.work))
    count = len(list((args.photos / "val").glob("*/*.jpg")))
    parts = [tell_time(time, count), tell_logos(logos), tell_noise(answers, few)]
    lines = ["# Comparisons", *ABOUT.splitlines()]
    for part in parts:
        lines += ["", *part]
    save("compare", lines, {"time": time, "logos": logos, "runs": RUNS}, args.out)


if __name__ == "__main__":
    main()
