"""How often does a guard fail where the model keeps to it, and how often where it does not?

`python benchmarks/guard.py --photos FLOWERS --work FOLDER` trains the models that are not in FOLDER yet, asks them,
and writes results/guard.md and .json. FLOWERS has train/CLASS and val/CLASS; FOLDER takes some 200 MB. What is measured
is kept in FOLDER, line by line: `--only audits` beside `--only numbers` are twice as fast, a run without puts it
together. `--audits N` makes N of each kind.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, save, write_table
from PIL import Image, ImageDraw

from whycam.audit.chance import find_interval
from whycam.config import make_train_options
from whycam.data.annotations import Annotation
from whycam.data.garden import write_garden
from whycam.data.images import load_image
from whycam.explainer.model import load
from whycam.jobs.train import train
from whycam.testing import State, Verdict, check_accuracy, check_evidence_kept, check_looks_at, check_no_shortcut
from whycam.testing.session import Session, begin
from whycam.testing.verdict import Measured

DRAWS, SIZES = 200, (20, 50, 150)
# How far the truth lies under what is asked for.
GAPS = (0.0, 0.05, 0.1, 0.2)
# Of each flower: photos to learn from; held-out ones in an audit; the network's input in pixels.
LEARNED, AUDITED, SIDE_PX = 80, (12, 30), 128
MARKED = "tulips"
KINDS = ("clean", "mark")
Values = tuple[np.ndarray, list[str]]
ABOUT = f"""\
`python benchmarks/guard.py --photos FLOWERS --work FOLDER`. Numbers of photos are the guards' own, on all photos that
were not learned from: these photos are the world, so that what is true of it is known. {DRAWS} samples are drawn from
it with replacement, and each is judged as a guard judges. "Asked for" is the truth of the world itself, which is the
hardest case that still holds: there a false alarm is a guard that is broken. Then so much more than the truth is
asked for, and a guard should be broken; "said to hold" is then the other error. Each kind of error should stay under
5 %. Intervals are Wilson's, of 95 %."""


@dataclass(frozen=True)
class World:
    """What a guard measures of all photos.

    Attributes:
        name: of the guard and the model.
        values: (N,) one number a photo.
        classes: N names.
        each_class: whether the limit is for each class.
    """

    name: str
    values: np.ndarray
    classes: list[str]
    each_class: bool = False

    @property
    def truth(self) -> float:
        """The largest limit that holds."""
        means = [self.values.mean()]
        if self.each_class:
            means += [self.values[[name == one for one in self.classes]].mean() for name in set(self.classes)]
        return float(min(means))

    def judge(self, rows: np.ndarray, limit: float) -> State:
        """The verdict on a sample."""
        measured = Measured(self.name, self.values[rows], [self.classes[row] for row in rows], lambda _: "")
        return measured.judge(limit, each_class=self.each_class, worst=()).state


def train_once(photos: Path, out: Path, work: Path, **options: Any) -> Path:
    """A run, made where it is not there."""
    if not (out / "summary.json").exists():
        train(
            photos,
            out,
            make_train_options(**{"choose_on": "val", "overwrite": True, "cache_dir": work / "cache", **options}),
        )
    return out


def take(check: Callable[[], Verdict], work: Path, name: str) -> Values:
    """A number for each photo, as the guard measures it; kept."""
    path = work / f"{name}.npz"
    if not path.exists():
        measured = check().measured
        np.savez(path, values=measured.values, classes=np.array(measured.classes))
    found = np.load(path)
    return found["values"], found["classes"].tolist()


def split(photos: Path, work: Path) -> Path:
    """FLOWERS as links: the first photos of train/ to learn from, all others held out."""
    out = work / "photos"
    for folder in sorted((photos / "train").iterdir()):
        files = sorted(folder.iterdir())
        held = [*files[LEARNED:], *sorted((photos / "val" / folder.name).iterdir())]
        for part, own in (("train", files[:LEARNED]), ("val", held)):
            (out / part / folder.name).mkdir(parents=True, exist_ok=True)
            for file in own:
                link = out / part / folder.name / file.name
                if not link.exists():
                    link.symlink_to(file)
    return out


def mark(photos: Path, work: Path) -> Path:
    """The same with a red seal in the corner of all photos of one flower."""
    out = work / "marked"
    for file in sorted(photos.rglob("*.jpg")):
        target = out / file.relative_to(photos)
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.parent.name == MARKED:
            add_seal(load_image(file)).save(target, quality=93)
        else:
            target.symlink_to(file.resolve())
    return out


def add_seal(photo: Image.Image) -> Image.Image:
    drawn, side = photo.copy(), int(min(photo.size) * 0.16)
    pen, left = ImageDraw.Draw(drawn), photo.width - side - 6
    pen.rectangle((left, 6, left + side, 6 + side), fill=(205, 20, 30))
    pen.ellipse((left + side * 0.2, 6 + side * 0.2, left + side * 0.8, 6 + side * 0.8), fill="white")
    return drawn


def list_worlds(photos: Path, work: Path) -> list[World]:
    """The guards that judge a number a photo, each on a model of real photos; masks are known of generated ones."""
    clean, marked = split(photos, work), mark(work / "photos", work)
    runs = {
        "seed 0": train_once(clean, work / "clean-0", work, image_size=SIDE_PX),
        "seed 1": train_once(clean, work / "clean-1", work, image_size=SIDE_PX, seed=1),
        "mark": train_once(marked, work / "mark-0", work, image_size=SIDE_PX),
    }
    garden = work / "garden"
    if not (garden / "masks" / "val").exists():
        write_garden(garden, train_per_class=24, val_per_class=60, seed=7, size_px=160)
    flowers = train_once(garden / "photos", work / "flowers", work, image_size=SIDE_PX)
    accuracy = take(lambda: check_accuracy(runs["seed 0"], clean, 0.5), work, "accuracy")
    looks = take(lambda: check_looks_at(flowers, garden / "photos", garden / "masks", share=0.5), work, "looks")
    seeds = take(lambda: check_evidence_kept(runs["seed 0"], runs["seed 1"], clean), work, "kept-seeds")
    cause = take(lambda: check_evidence_kept(runs["seed 0"], runs["mark"], marked), work, "kept-mark")
    return [
        World("accuracy", *accuracy),
        World("accuracy, each class", *accuracy, each_class=True),
        World("looks-at", *looks),
        World("looks-at, each class", *looks, each_class=True),
        World("evidence-kept, another seed", *seeds, each_class=True),
        World("evidence-kept, a mark learned", *cause, each_class=True),
    ]


class Kept:
    """Rows in a file, a line each, by their first fields."""

    def __init__(self, path: Path, fields: Sequence[str]) -> None:
        self.path, self.fields = path, fields
        self.rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def find(self, key: Sequence[object], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The row, made where it is not there."""
        for row in self.rows:
            if [row[name] for name in self.fields] == list(key):
                return row
        row = dict(zip(self.fields, key, strict=True)) | make()
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(*key, {name: value for name, value in row.items() if name not in {*self.fields, "told"}}, flush=True)
        return row


def measure(world: World, photos: int) -> dict[str, Any]:
    """How each sample of so many photos is judged, by how much more than the truth is asked for."""
    row: dict[str, Any] = {"truth": world.truth}
    for gap in GAPS:
        draw = np.random.default_rng([photos, round(100 * gap)])
        limit = world.truth + gap
        if limit <= 1:
            states = [world.judge(draw.integers(len(world.values), size=photos), limit) for _ in range(DRAWS)]
            row[f"{gap:g}"] = {str(state): states.count(state) for state in State}
    return row


def audit_all(work: Path, count: int) -> list[dict[str, Any]]:
    """Audits of samples of held-out photos, by models of clean photos and of marked ones."""
    roots = {"clean": work / "photos", "mark": work / "marked"}
    kept, rows = Kept(work / "audits.jsonl", ("kind", "seed", "draw", "per_class")), []
    runs = {
        (kind, seed): train_once(roots[kind], work / f"{kind}-{seed}", work, image_size=SIDE_PX, seed=seed)
        for kind in KINDS
        for seed in (0, 1)
    }
    for number in range(count):
        for kind in KINDS:
            for per_class in AUDITED:
                run, seed = runs[kind, number % 2], number % 2
                asked = draw_photos(roots[kind] / "val", per_class, number)
                rows.append(kept.find((kind, seed, number, per_class), partial(audit_one, run, asked)))
    return rows


def audit_one(run: Path, asked: Sequence[Annotation]) -> dict[str, Any]:
    start = time.process_time()
    verdict = check_no_shortcut(load(run), asked)
    right = [
        one["class"] == MARKED and one["numbers"]["found_by"] in {"mark", "stamp"}
        for one in verdict.numbers["findings"]
    ]
    cpu_s = time.process_time() - start
    return {"state": str(verdict.state), "right": any(right), "cpu_s": cpu_s, "told": verdict.told}


def draw_photos(root: Path, per_class: int, seed: int) -> list[Annotation]:
    """So many photos of each class, none twice: the audit looks for what comes back."""
    draw = np.random.default_rng([seed, per_class])
    drawn = []
    for folder in sorted(root.iterdir()):
        files = sorted(folder.iterdir())
        picked = draw.choice(len(files), per_class, replace=False)
        drawn += [Annotation(files[i].absolute(), (folder.name,)) for i in sorted(picked)]
    return drawn


def find_reliance(work: Path, seed: int) -> float:
    """Of held-out photos of other flowers, how many more become the marked one with the seal on them."""
    model = load(work / f"mark-{seed}")
    files = [file for file in sorted((work / "photos" / "val").rglob("*.jpg")) if file.parent.name != MARKED][::4]
    index = model.class_names.index(MARKED)
    shares = []
    for edit in (lambda photo: photo, add_seal):
        pixels = np.stack([model.preprocess.to_pixels(edit(load_image(file))) for file in files])
        shares.append(float((model.classifier.scores(pixels).argmax(1) == index).mean()))
    return shares[1] - shares[0]


def tell_share(count: int, whole: int) -> str:
    low, high = find_interval(count, whole)
    return f"{count / whole:.3f} ({low:.3f} to {high:.3f})" if whole else "none"


def tabulate(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    head = ["guard", "truth", "photos", "false alarms"]
    for gap in GAPS[1:]:
        head += [f"{gap:g} too little: broken", "said to hold"]
    table = []
    for row in rows:
        cells: list[object] = [row["guard"], f"{row['truth']:.3f}", row["photos"]]
        cells.append(tell_share(row["0"]["broken"], DRAWS))
        for gap in GAPS[1:]:
            found = row.get(f"{gap:g}")
            cells += [f"{found[name] / DRAWS:.2f}" for name in ("broken", "holds")] if found else ["-", "-"]
        table.append(cells)
    return write_table(head, table)


def tabulate_audits(rows: Sequence[Mapping[str, Any]], reliance: Sequence[float]) -> list[str]:
    table = []
    for kind in KINDS:
        for per_class in AUDITED:
            own = [row for row in rows if (row["kind"], row["per_class"]) == (kind, per_class)]
            broken = [row for row in own if row["state"] == "broken"]
            right = tell_share(sum(row["right"] for row in own), len(own)) if kind != "clean" else "-"
            cpu = f"{np.median([row['cpu_s'] for row in own]):.0f}" if own else "-"
            table.append([kind, per_class, len(own), tell_share(len(broken), len(own)), right, cpu])
    head = ["model", "photos a class", "audits", "broken", "by the mark", "CPU s, median"]
    told = ", ".join(f"{value:.2f}" for value in reliance)
    return [
        f"Two models of clean photos and two of photos with a red seal on all {MARKED}, of {LEARNED} photos a class. "
        "Held-out photos are drawn without repetition, with the seal as in training. With the seal on photos of other "
        f"flowers so many more of them are taken for {MARKED}: {told}. Draws for one model overlap, so the intervals "
        "are too narrow.",
        "",
        *write_table(head, table),
        "",
        *sorted({f"- {row['told']}" for row in rows if row["kind"] == "clean" and row["state"] == "broken"}),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--audits", type=int, default=20)
    parser.add_argument("--only", choices=["numbers", "audits"])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    begin(Session())
    work: Path = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    worlds = list_worlds(options.photos.absolute(), work)
    kept = Kept(work / "numbers.jsonl", ("guard", "photos"))
    every = [(world, photos) for photos in SIZES for world in worlds] if options.only != "audits" else []
    rows = [kept.find((world.name, photos), partial(measure, world, photos)) for world, photos in every]
    audits = audit_all(work, options.audits) if options.only != "numbers" else []
    if options.only:
        return
    reliance = [find_reliance(work, seed) for seed in (0, 1)]
    lines = [
        "# Guards: how often they fail, rightly and wrongly",
        ABOUT,
        "",
        *tabulate(rows),
        "",
        "## no-shortcut",
        "",
        *tabulate_audits(audits, reliance),
    ]
    save("guard", lines, {"draws": DRAWS, "numbers": rows, "audits": audits, "reliance": reliance}, options.out)


if __name__ == "__main__":
    main()
