"""What the options of `whycam train` give: accuracy on photos that nothing was chosen on, seconds, heat on the flower.

`python benchmarks/training.py` writes results/training.md and .json; `--only NAME ...` measures those rows and keeps
the others as they were. Photos are flowers/train and flowers/val of `--photos`; 50 of each class of val are the test.
The same options train on generated flowers, whose place is known: what share of the heat lies on them.
Add a row as one entry of `ROWS`.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch
from common import RESULTS, save, write_table

from whycam.config import make_train_options
from whycam.data.folder import PhotoFolder
from whycam.data.garden import write_garden
from whycam.mend.scores import score_model
from whycam.mend.training import prepare, read_source
from whycam.train.phases import train_head
from whycam.train.stores import compute_stores

TESTED, TTA = 50, "--tta"
RECIPE = (
    "--unfreeze all --choose-on last --finetune-epochs 12 --finetune-lr 1e-4 --finetune-decay 0.9 "
    "--label-smoothing 0.1 --ema 0.98 --randaugment 5"
)
ROWS = {
    "linear": "",
    "linear-tta": TTA,
    "conv": "--head conv",
    "augment": "--augment 4",
    "stride": "--map-stride 16",
    "lite1": "--backbone imagenet-lite1",
    "lite2": "--backbone imagenet-lite2",
    "lite2-tta": f"--backbone imagenet-lite2 {TTA}",
    "finetuned": "--unfreeze all --finetune-epochs 3 --finetune-lr 5e-5",
    "recipe": RECIPE,
}
CHOOSING, EDITING = "choosing", "editing"


def lay_out(photos: Path, work: Path) -> tuple[Path, Path]:
    """train/ and val/ to train on, and the test: the first of each class of val by their content's hash."""
    root, test = work / "flowers", work / "test"
    if not (work / "laid-out").exists():
        shutil.copytree(photos / "train", root / "train")
        for folder in sorted((photos / "val").iterdir()):
            files = sorted(folder.iterdir(), key=lambda path: hashlib.blake2b(path.read_bytes()).digest())
            for number, path in enumerate(files):
                to = (test if number < TESTED else root / "val") / folder.name / path.name
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, to)
        (work / "laid-out").touch()
    return root, test


def call(*words: object) -> float:
    """Seconds of a command of whycam."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "whycam", *map(str, words)], check=True)
    return time.perf_counter() - start


def measure(name: str, photos: Path, work: Path) -> dict[str, Any]:
    """A row: nothing cached of these options, then the same again."""
    root, test = lay_out(photos, work)
    flags, out = shlex.split(ROWS[name]), work / "run"
    shutil.rmtree(work / "cache", ignore_errors=True)
    again = ("--cache-dir", work / "cache", "--overwrite", "-o", out)
    load = os.getloadavg()[0]
    # A fine-tuning is not begun a second time for its test, whose seconds are in its own then.
    is_frozen = "--unfreeze" not in flags
    seconds = call("train", root, *flags, *again, *(() if is_frozen else ("--test", test)))
    cached = call("train", root, *flags, *again) if is_frozen else None
    if is_frozen:
        call("train", root, *flags, *again, "--test", test)
    summary = json.loads((out / "summary.json").read_text())
    found = summary["tta"]["test"] if TTA in flags else summary["test"]
    return {
        "flags": ROWS[name],
        "test": {key: found[key] for key in ("photos", "right", "accuracy", "low", "high")},
        "val_accuracy": summary["val_accuracy"],
        "chosen": summary["chosen"],
        "seconds": seconds,
        "cached_seconds": cached,
        "load": load,
        "heat": measure_heat(flags, work),
    }


def measure_heat(flags: Sequence[str], work: Path) -> dict[str, float]:
    """The share of the heat on generated flowers of a model that is trained with these options."""
    garden, out = work / "garden", work / "garden-run"
    if not garden.exists():
        write_garden(garden)
    call("train", garden / "photos", *flags, "--cache-dir", work / "cache", "--overwrite", "-o", out)
    words = ("--masks", garden / "masks" / "val", "--metrics", "mass-in-mask", "--overwrite", "-o", work / "evaluated")
    call("evaluate", out, garden / "photos" / "val", *words)
    table = json.loads((work / "evaluated" / "overall.json").read_text())
    row = next(row for row in table["overall"] if row["metric"] == "mass-in-mask" and row["method"] == "cam")
    return {key: row[key] for key in ("value", "low", "high", "photos")}


def compare_choices(photos: Path, work: Path, seeds: int) -> dict[str, Any]:
    """The default on all held-out photos, by what chose its epoch. Where held-out photos did, the other half tests."""
    run, found = work / "choosing", {}
    run.mkdir(parents=True, exist_ok=True)

    def go(seed: int, choose_on: str, half: int | None = None) -> tuple[torch.Tensor, dict[str, Any], Any]:
        options = make_train_options(seed=seed, choose_on=choose_on, cache_dir=work / "choosing-cache")
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
        job = prepare(read_source(photos, options), options, run, lambda *_: nullcontext(lambda _: None)).work
        job.stores = compute_stores(job)
        whole: PhotoFolder = job.photos
        if half is not None:
            job.photos = replace(whole, val=whole.val[half::2])
        train_head(job, job.stores)
        job.photos = whole
        return is_right(job), job.chosen, job

    def is_right(job: Any) -> torch.Tensor:
        labels = torch.tensor([one.label for one in job.photos.val])
        return (score_model(job, job.model, is_stored=True).logits.argmax(1) == labels).float()

    for seed in range(seeds):
        halves = [float(go(seed, "val", half)[0][1 - half :: 2].mean()) for half in (0, 1)]
        right, chosen, job = go(seed, "slice")
        head = torch.nn.ModuleDict({"neck": job.model.neck, "classifier": job.model.classifier})
        head.load_state_dict(torch.load(run / "checkpoints" / f"head-{chosen['epochs'] - 1}.pt", weights_only=True))
        unrefitted = is_right(job)
        figures = {
            "held-out photos choose; told on the same photos": float(go(seed, "val")[0].mean()),
            "held-out photos choose; told on the other half of them": mean(halves),
            "a slice chooses, then all are trained on (the default)": float(right.mean()),
        }
        figures["a slice chooses, and the model that never saw it is kept"] = float(unrefitted.mean())
        figures["nothing chooses: the last of 40 epochs (--choose-on last)"] = float(go(seed, "last")[0].mean())
        for name, value in figures.items():
            found.setdefault(name, []).append(value)
    return found


def compare_edits(photos: Path, work: Path, seeds: int) -> dict[str, Any]:
    """How many of the held-out photos' answers change by a training photo that is left out, and by five."""
    run, found = work / "editing", {"1": [], "5": []}
    run.mkdir(parents=True, exist_ok=True)
    options = make_train_options(cache_dir=work / "choosing-cache")
    for seed in range(seeds):
        options = options.model_copy(update={"seed": seed})
        job = prepare(read_source(photos, options), options, run, lambda *_: nullcontext(lambda _: None)).work
        job.stores, whole, first = compute_stores(job), job.photos, copy.deepcopy(job.model.state_dict())
        draw = random.Random(seed)

        def answer(gone: Sequence[int], job: Any = job, whole: PhotoFolder = whole, first: Any = first) -> torch.Tensor:
            shutil.rmtree(run / "checkpoints", ignore_errors=True)
            job.photos = replace(whole, train=tuple(one for row, one in enumerate(whole.train) if row not in gone))
            job.model.load_state_dict(first)
            train_head(job, job.stores)
            return score_model(job, job.model, is_stored=True).logits.argmax(1)

        before = answer(())
        for count, times in (("1", 4), ("5", 2)):
            for _ in range(times):
                after = answer(draw.sample(range(len(whole.train)), int(count)))
                found[count].append(int((after != before).sum()))
    return {"seeds": seeds, "photos": len(whole.val), "changed": found}


def tell(content: dict[str, Any]) -> list[str]:
    """results/training.md."""
    rows = [
        [
            f"`{row['flags'] or '(default)'}`",
            f"{row['test']['accuracy']:.3f} ({row['test']['low']:.3f} to {row['test']['high']:.3f})",
            f"{row['heat']['value']:.3f} ({row['heat']['low']:.3f} to {row['heat']['high']:.3f})",
            f"{row['seconds']:.0f}",
            "-" if row["cached_seconds"] is None else f"{row['cached_seconds']:.0f}",
            f"{row['load']:.0f}",
        ]
        for row in (content["rows"][name] for name in ROWS if name in content["rows"])
    ]
    head = ["options", "accuracy on the test", "heat on the flower", "seconds", "features cached", "load before"]
    lines = [
        "# What the options of training give",
        "`python benchmarks/training.py`. 1,000 flowers to train on; the test is 250 others, with the 95 % interval. "
        "Heat: of 80 generated flowers, whose network learnt from 200 by the same options. The load is that of other "
        "work on the machine's cores: seconds under one are no speed.",
        "",
        *write_table(head, rows),
    ]
    if missing := [name for name in ROWS if name not in content["rows"]]:
        listed = ", ".join(f"`{ROWS[name]}`" for name in missing)
        lines += ["", f"Not measured: {listed} (`--only {' '.join(missing)}`)."]
    if found := content.get(CHOOSING):
        count = len(next(iter(found.values())))
        figures = [[name, f"{mean(values):.4f}", f"{stdev(values) / count**0.5:.4f}"] for name, values in found.items()]
        lines += [
            "",
            f"What chooses the epoch of the default (`--only {CHOOSING}`): {count} seeds, all 350 held-out photos.",
            "",
            *write_table(["way", "mean accuracy", "standard error over seeds"], figures),
        ]
    if about := content.get(EDITING):
        rows = [
            [count, str(len(found)), f"{mean(found):.1f}", f"{median(found):g}", str(max(found))]
            for count, found in about["changed"].items()
        ]
        lines += [
            "",
            f"What photos that are left out of the default change (`--only {EDITING}`): of the answers on "
            f"{about['photos']} held-out photos, {about['seeds']} seeds.",
            "",
            *write_table(["photos left out", "trainings", "answers changed, mean", "median", "most"], rows),
        ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=[*ROWS, CHOOSING, EDITING], default=[*ROWS, CHOOSING, EDITING])
    parser.add_argument("--seeds", type=int, default=10, help=f"of {CHOOSING} and {EDITING}")
    parser.add_argument("--photos", type=Path, default=Path(os.environ.get("WHYCAM_DATA", ".")) / "flowers")
    parser.add_argument("--work", type=Path, default=Path("training"), help="where photos and runs lie meanwhile")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        kept = args.out / "training.json"
        content = json.loads(kept.read_text()) if kept.exists() else {"rows": {}}
        if name == CHOOSING:
            content[CHOOSING] = compare_choices(args.photos, args.work, args.seeds)
        elif name == EDITING:
            content[EDITING] = compare_edits(args.photos, args.work, args.seeds)
        else:
            content["rows"][name] = measure(name, args.photos, args.work)
        save("training", tell(content), content, args.out)


if __name__ == "__main__":
    main()
