"""What `whycam evaluate` costs and gives: all points of every curve, those where it bends, baselines on a sample.

`python benchmarks/evaluation.py` writes results/evaluation.md and .json; WHYCAM_DATA/imagenet_val25_fullres has the
photos, if no others are named. In each round all ways measure the same photos, one after the other, in reversed order
every second time; a number's change is told as a share of half of its 95 % interval over the photos of all rounds.
`--every-step --baseline-photos N` is how it was before. `--profile N` tells instead, on N photos, how many processor
seconds each metric takes, and of them the model's scores and the maps that it asks for; what metrics share counts for
the first of them.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, save, write_table
from torch import Tensor

import whycam
from whycam.data.annotations import Annotation, read_photos
from whycam.explainer.model import Model
from whycam.metrics import measurer
from whycam.metrics.evaluation import BASELINES, Evaluation, evaluate
from whycam.metrics.pooling import estimate

# Of 350 photos, the usual 100.
SHARE = 100 / 350
BEFORE, BENDS, NOW = "every step", "where curves bend", "baselines on a sample, too"


def make_ways(photos: int) -> dict[str, dict[str, Any]]:
    return {
        BEFORE: {"every_step": True},
        BENDS: {},
        NOW: {"baseline_photos": max(2, round(SHARE * photos))},
    }


def count_calls(calls: Counter[str], way: list[str]) -> None:
    """From now on each photo that the model scores is counted for the way that is measured."""
    plain = measurer.make_scores

    def make_scores(classifier: Any) -> Callable[[Tensor], Tensor]:
        run = plain(classifier)

        def scored(images: Tensor) -> Tensor:
            calls[way[0]] += len(images)
            return run(images)

        return scored

    measurer.make_scores = make_scores


def compare_numbers(found: dict[str, list[Evaluation]]) -> list[list[Any]]:
    """For each metric that changes: the largest change of any method's number, and as a share of half its interval."""
    rows = []
    first = found[BEFORE][0]
    for one in first.metrics:
        changes = []
        for method in first.methods:
            before, now = (np.concatenate([e.rows[method][one.name] for e in found[way]]) for way in (BEFORE, BENDS))
            held, moved = estimate(before, one.pool), estimate(now, one.pool)
            if held.photos and (before != now).any() and not np.array_equal(before, now, equal_nan=True):
                change = abs(moved.value - held.value)
                changes.append((change, change / ((held.high - held.low) / 2)))
        if changes:
            rows.append([one.name, max(c for c, _ in changes), max(s for _, s in changes)])
    return rows


def measure(
    model: Model, samples: list[Annotation], words: str, rounds: int, photos: int
) -> tuple[dict[str, list[float]], dict[str, list[Evaluation]], Counter[str]]:
    """Seconds a photo of each round and way, what was found, and how many photos the model scored."""
    ways, calls, current = make_ways(photos), Counter[str](), [""]
    count_calls(calls, current)
    evaluate(model, samples[:2], metrics=words.split(","))  # makes the graph
    calls.clear()
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    found: dict[str, list[Evaluation]] = {way: [] for way in ways}
    for k in range(rounds):
        part = samples[k * photos : (k + 1) * photos]
        for way in reversed(ways) if k % 2 else ways:
            current[0], start = way, time.perf_counter()
            found[way].append(evaluate(model, part, metrics=words.split(","), **ways[way]))
            seconds[way].append((time.perf_counter() - start) / len(part))
    return seconds, found, calls


def profile(model: Model, samples: list[Annotation], where: str, out: Path) -> None:
    """Processor seconds a photo, by metric: the way before, and now."""
    spent: Counter[tuple[str, str]] = Counter()
    current = [""]

    def timed(kind: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **how: Any) -> Any:
            start = time.process_time()
            try:
                return run(*words, **how)
            finally:
                spent[current[0], kind] += time.process_time() - start

        return call

    def run_metric(one: Any, case: Any) -> np.ndarray:
        current[0] = one.family
        values = timed("all", one.run)(case).detach().numpy()
        current[0] = ""
        return values

    plain = measurer.make_scores
    measurer.make_scores = lambda classifier: timed("scores", plain(classifier))
    measurer.Measurer._explain = timed("maps", measurer.Measurer._explain)
    measurer._run_metric = run_metric
    evaluate(model, samples[:2], metrics=["deletion-auc"])  # makes the graph
    columns, totals = [], []
    for how in (make_ways(len(samples))[BEFORE], make_ways(len(samples))[NOW]):
        spent.clear()
        start = time.process_time()
        evaluate(model, samples, metrics=["all"], **how)
        totals.append((time.process_time() - start) / len(samples))
        columns.append({key: seconds / len(samples) for key, seconds in spent.items()})
    names = sorted({name for name, _ in columns[1] if name}, key=lambda name: -columns[1][name, "all"])
    kinds = ("all", "scores", "maps")
    now = [[columns[1].get((name, kind), 0) for kind in kinds] for name in names]
    rows = [[name, columns[0].get((name, "all"), 0), *own] for name, own in zip(names, now, strict=True)]
    lines = [
        "# Where an evaluation's time goes",
        f"`python benchmarks/evaluation.py --photos {where} --profile {len(samples)}`: `--metrics all`, `cam` and the",
        f"baselines, {torch.get_num_threads()} thread(s), processor seconds a photo. Before: every step, baselines on",
        f"all photos; now: where curves bend, baselines on {SHARE:.0%} of the photos.",
        "",
    ]
    lines += write_table(["metric", "before", "now", "of it scores", "of it maps"], [*rows, ["all", *totals, "", ""]])
    save("evaluation_profile", lines, {"rows": rows, "totals": totals}, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="imagenet")
    parser.add_argument(
        "--photos", type=Path, default=Path(os.environ.get("WHYCAM_DATA", ".")) / "imagenet_val25_fullres"
    )
    parser.add_argument("--metrics", nargs="+", default=["quick", "all"])
    parser.add_argument("--rounds", type=int, nargs="+", default=[3, 1])
    parser.add_argument("--photos-each", type=int, nargs="+", default=[8, 4])
    parser.add_argument("--profile", type=int)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = whycam.load(args.model, device="cpu")
    boxes = args.photos / "boxes.csv"
    samples = read_photos(args.photos, boxes=boxes if boxes.is_file() else None)
    random.Random(0).shuffle(samples)
    if args.profile:
        profile(model, samples[: args.profile], args.photos.name, args.out)
        return
    lines = [
        "# What an evaluation costs",
        f"`python benchmarks/evaluation.py --model {Path(args.model).name} --photos {args.photos.name}`.",
        f"`cam` and {len(BASELINES)} baselines; a round: the same photos by every way, one after the other. In the",
        f"last way the baselines are measured on {SHARE:.0%} of the photos, as 100 of 350 are.",
    ]
    content = {}
    for words, rounds, photos in zip(args.metrics, args.rounds, args.photos_each, strict=True):
        seconds, found, calls = measure(model, samples, words, rounds, photos)
        rows = []
        for way, own in seconds.items():
            ratios = [a / b for a, b in zip(seconds[BEFORE], own, strict=True)]
            rows.append([way, statistics.median(own), calls[way] / (rounds * photos), statistics.median(ratios)])
        changes = compare_numbers(found)
        lines += ["", f"## --metrics {words}, {rounds} rounds of {photos} photos", ""]
        lines += write_table(["way", "seconds a photo", "scored photos a photo", "times faster"], rows)
        lines += ["", f"What '{BENDS}' changes, the largest over the methods:", ""]
        lines += write_table(["metric", "change", "of half the interval"], changes)
        content[words] = {"seconds": seconds, "calls": calls, "changes": changes}
    save("evaluation", lines, content, args.out)


if __name__ == "__main__":
    main()
