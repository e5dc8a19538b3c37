"""How well maps find objects: refined maps, part by part, beside the plain class map, with boxes and with masks.

`python benchmarks/localization.py DATA` writes results/localization.md and .json; DATA holds imagenet_val650 and
coco_val. A new part is a row of `ROWS`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from whycam.data.images import load_image
from whycam.maps.refine import RECIPE, Look, Recipe, Refiner, compose, make_refiner, read_colors
from whycam.metrics.localization import compute_overlaps, is_near, make_scoremaps
from whycam.model.gap import GapClassifier, load_network, make_exact

SIDE_PX = 224
THRESHOLDS = np.arange(0, 1, 0.02)
OVERLAPS = (0.3, 0.5, 0.7)
DRAWS = 2000
BINS = 256
# From the plain map on, each row has all that the rows above it have.
_WHOLE = replace(RECIPE, mirror=("both", "both"))
_PART = replace(RECIPE, scales=(1.0,), mirror=("no",), energy=0, power=1, walk=0)
ROWS: dict[str, Recipe] = {
    "last stage dilated, stride 16": _PART,
    "+ mirror image": replace(_PART, mirror=("both",)),
    "+ a view of 320 px and its mirror image": replace(_WHOLE, energy=0, power=1, walk=0),
    "+ strength of the features": replace(_WHOLE, power=1, walk=0),
    "+ walk by place and colour": replace(_WHOLE, power=1, inner=0),
    "+ inner features in the walk": replace(_WHOLE, power=1),
    "+ square root during the walk": _WHOLE,
    "224 px as it is, 320 px in the mirror: --refine": RECIPE,
}
PLAIN, CENTRE = "plain class map, 7 x 7", "centre Gaussian"


@dataclass(frozen=True)
class Case:
    """A photo, the class looked for, and where it is in a square of SIDE_PX."""

    path: Path
    classes: tuple[int, ...]
    boxes: np.ndarray
    mask: np.ndarray


def read_imagenet(folder: Path, limit: int | None) -> Iterator[Case]:
    with (folder / "boxes.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:limit]
    for row in rows:
        share = SIDE_PX / np.array([float(row["file_w"]), float(row["file_h"])] * 2)
        boxes = np.array([[float(v) for v in box.split()] for box in row["boxes_file"].split(";")]) * share
        mask = np.zeros((SIDE_PX, SIDE_PX), dtype=bool)
        for x0, y0, x1, y1 in boxes.round().astype(int):
            mask[y0:y1, x0:x1] = True
        yield Case(folder / row["file"], (int(row["label"]),), boxes.astype(np.int64), mask)


def read_coco(folder: Path, limit: int | None) -> Iterator[Case]:
    with (folder / "objects.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["imagenet"] and row["mask"]][:limit]
    counterparts = json.loads((folder / "coco_to_imagenet1k.json").read_text(encoding="utf-8"))
    for row in rows:
        values = np.asarray(Image.open(folder / row["mask"]))
        mask = Image.fromarray(values == int(row["mask_value"])).resize((SIDE_PX, SIDE_PX), Image.Resampling.NEAREST)
        classes = tuple(counterparts[row["category"]])
        if np.asarray(mask).any():
            yield Case(folder / row["image"], classes, np.zeros((0, 4)), np.asarray(mask, dtype=bool))


def make_maps(model: GapClassifier, refiner: Refiner, case: Case) -> dict[str, np.ndarray]:
    """The score map (SIDE_PX, SIDE_PX) of each row; of several classes, that of the highest score."""
    logits, plain, looks, colors = see(model, refiner, case.path)
    target = max(case.classes, key=lambda index: float(logits[index]))
    maps = {PLAIN: plain[:, target]}
    weights = model.classifier.weight[target][None, None]
    for name, recipe in ROWS.items():
        seen = [take(look, mirror) for look, mirror in zip(looks, recipe.mirror, strict=False)]
        maps[name] = compose(seen, weights, colors, recipe)[:, 0]
    found = {name: make_scoremaps(values, (SIDE_PX, SIDE_PX))[0] for name, values in maps.items()}
    return found | {CENTRE: make_centre()}


def take(look: Look, mirror: str) -> Look:
    """Of a view in both ways, what a recipe asks for."""
    if mirror == "both":
        return look
    features = look.mirrored if mirror == "yes" and look.mirrored is not None else look.features
    return replace(look, features=features, mirrored=None)


@lru_cache(maxsize=1)
@torch.no_grad()
def see(
    model: GapClassifier, refiner: Refiner, path: Path
) -> tuple[torch.Tensor, torch.Tensor, list[Look], torch.Tensor]:
    """Logits (K,), plain maps (1, K, h, w), views and colours of a photo; a photo's objects follow each other."""
    photo = load_image(path)
    pixels = model.preprocess.normalise(model.preprocess.to_pixels(photo)[None])
    features = model.features(torch.from_numpy(pixels))
    looks = [refiner.look([photo], view, "both") for view in refiner.views]
    colors = read_colors([photo], refiner.views[0], RECIPE.grid)
    return model.classify(features)[0], model.compute_maps(features), looks, colors


def make_centre() -> np.ndarray:
    """A Gaussian with a spread of a quarter of the photo."""
    away = np.arange(SIDE_PX) - (SIDE_PX - 1) / 2
    return np.exp(-(away[:, None] ** 2 + away[None] ** 2) / (2 * (SIDE_PX / 4) ** 2)).astype(np.float32)


def measure_boxes(cases: Iterator[Case], model: GapClassifier, refiner: Refiner) -> dict[str, dict[str, np.ndarray]]:
    """For each row: overlaps (N, 2, thresholds) and whether the maximum is within 15 px (N,)."""
    found: dict[str, dict[str, list[np.ndarray]]] = {}
    for number, case in enumerate(cases):
        for name, scoremap in make_maps(model, refiner, case).items():
            own = found.setdefault(name, {"overlaps": [], "points": []})
            own["overlaps"].append(compute_overlaps(scoremap, case.boxes, THRESHOLDS))
            top = np.unravel_index(scoremap.argmax(), scoremap.shape)
            own["points"].append(np.array(is_near(case.mask, (int(top[0]), int(top[1])))))
        if number % 50 == 0:
            print(number, flush=True)
    return {name: {key: np.stack(values) for key, values in own.items()} for name, own in found.items()}


def measure_masks(cases: Iterator[Case], model: GapClassifier, refiner: Refiner) -> dict[str, dict[str, np.ndarray]]:
    """For each row: histograms (N, 2, BINS) of scores on and off the object, and the share of heat on it (N,)."""
    found: dict[str, dict[str, list[np.ndarray]]] = {}
    for case in cases:
        for name, scoremap in make_maps(model, refiner, case).items():
            own = found.setdefault(name, {"counts": [], "mass": []})
            levels = (scoremap * (BINS - 1)).astype(np.int64)
            counts = [np.bincount(levels[case.mask == side], minlength=BINS) for side in (True, False)]
            own["counts"].append(np.stack(counts))
            own["mass"].append(np.array(scoremap[case.mask].sum() / scoremap.sum()))
    return {name: {key: np.stack(values) for key, values in own.items()} for name, own in found.items()}


def max_box_acc(rows: dict[str, np.ndarray]) -> float:
    return float((rows["overlaps"][:, 0] >= 0.5).mean(0).max()) * 100


def max_box_acc_v2(rows: dict[str, np.ndarray]) -> float:
    return float(np.mean([(rows["overlaps"][:, 1] >= least).mean(0).max() for least in OVERLAPS])) * 100


def pointing(rows: dict[str, np.ndarray]) -> float:
    return float(rows["points"].mean()) * 100


def px_ap(rows: dict[str, np.ndarray]) -> float:
    on, off = rows["counts"].sum(0)[:, ::-1].cumsum(1)
    recall = on / on[-1]
    return float((on / np.maximum(on + off, 1) * np.diff(recall, prepend=0)).sum()) * 100


def mass_in_mask(rows: dict[str, np.ndarray]) -> float:
    return float(rows["mass"].mean()) * 100


def fixed_box_acc(threshold_at: int) -> Callable[[dict[str, np.ndarray]], float]:
    return lambda rows: float((rows["overlaps"][:, 0, threshold_at] >= 0.5).mean()) * 100


def bootstrap(
    number: Callable[[dict[str, np.ndarray]], float], rows: dict[str, np.ndarray], base: dict[str, np.ndarray]
) -> dict[str, float]:
    """A number, its 95 % interval, its difference to the base and that one's interval, over the same drawn photos."""
    count = len(next(iter(rows.values())))
    draw_from = np.random.default_rng(0)
    own, gaps = [], []
    for _ in range(DRAWS if count < 200 else DRAWS // 4):
        drawn = draw_from.integers(0, count, count)
        pair = [number({key: values[drawn] for key, values in one.items()}) for one in (rows, base)]
        own.append(pair[0])
        gaps.append(pair[0] - pair[1])
    value = number(rows)
    low, high = np.percentile(own, [2.5, 97.5])
    gap_low, gap_high = np.percentile(gaps, [2.5, 97.5])
    return {
        "value": value,
        "low": float(low),
        "high": float(high),
        "gap": value - number(base),
        "gap_low": float(gap_low),
        "gap_high": float(gap_high),
    }


def time_rows(model: GapClassifier, photos: Sequence[Image.Image]) -> dict[str, float]:
    """Median milliseconds a photo of each row, one photo after the other, the rows in turn."""
    runs: dict[str, Callable[[Image.Image], object]] = {PLAIN: lambda photo: run_plain(model, photo)}
    for name, recipe in ROWS.items():
        refiner = make_refiner(model, recipe)
        runs[name] = lambda photo, refiner=refiner: refiner([photo], np.array([[0]]))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for photo in photos:
        for name, run in runs.items():
            start = time.perf_counter()
            run(photo)
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


@torch.no_grad()
def run_plain(model: GapClassifier, photo: Image.Image) -> torch.Tensor:
    pixels = model.preprocess.normalise(model.preprocess.to_pixels(photo)[None])
    return model.compute_maps(model.features(torch.from_numpy(pixels)))


def summarize(found: dict[str, dict[str, np.ndarray]], numbers: dict[str, Callable[..., float]]) -> dict[str, object]:
    """Each row's numbers on the photos of even and of odd places, and on all."""
    halves = {"even": slice(0, None, 2), "odd": slice(1, None, 2), "all": slice(None)}
    best = {
        name: int((own["overlaps"][::2, 0] >= 0.5).mean(0).argmax()) for name, own in found.items() if "overlaps" in own
    }
    summary: dict[str, object] = {}
    for name, own in found.items():
        for half, part in halves.items():
            rows, base = ({key: values[part] for key, values in one.items()} for one in (own, found[PLAIN]))
            chosen = {key: bootstrap(number, rows, base) for key, number in numbers.items()}
            if name in best:
                at = fixed_box_acc(best[name])
                chosen["fixed"] = {"value": at(rows), "threshold": float(THRESHOLDS[best[name]])}
            summary[f"{name}|{half}"] = chosen
    return summary


def write_table(summary: dict[str, dict[str, dict[str, float]]], half: str, times: dict[str, float]) -> Iterator[str]:
    names = [key.split("|")[0] for key in summary if key.endswith(f"|{half}")]
    columns = list(next(iter(summary.values())))
    heads = [name + (" (gain)" if name != "fixed" else " threshold") for name in columns]
    yield f"| map | {' | '.join(heads)} | ms a photo |"
    yield f"| --- |{' ---: |' * (len(heads) + 1)}"
    for name in names:
        cells = []
        for value in summary[f"{name}|{half}"].values():
            if "threshold" in value:
                cells.append(f"{value['threshold']:.2f}: {value['value']:.1f}")
            else:
                gap = f"{value['gap']:+.1f}, {value['gap_low']:+.1f} to {value['gap_high']:+.1f}"
                cells.append(f"{value['value']:.1f} [{value['low']:.1f}, {value['high']:.1f}] ({gap})")
        spent = f"{times[name]:.0f}" if name in times else ""
        yield f"| {name} | {' | '.join(cells)} | {spent} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?", default=Path(os.environ.get("WHYCAM_DATA", ".")))
    parser.add_argument("--part", choices=["time", "boxes", "masks", "all"], default="all")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    words = parser.parse_args()
    whole, origin = load_network("imagenet")
    model = make_exact(whole, origin)
    refiner = make_refiner(model)
    words.out.mkdir(exist_ok=True)
    if words.part in {"time", "all"}:
        photos = [load_image(case.path) for case in read_imagenet(words.data / "imagenet_val650", 9)]
        keep(words.out, {"ms": time_rows(model, photos), "threads": torch.get_num_threads()})
    if words.part in {"boxes", "all"}:
        boxes = measure_boxes(read_imagenet(words.data / "imagenet_val650", words.limit), model, refiner)
        numbers = {"MaxBoxAcc": max_box_acc, "MaxBoxAccV2": max_box_acc_v2, "pointing": pointing}
        keep(words.out, {"boxes": summarize(boxes, numbers), "photos": len(boxes[PLAIN]["points"])})
    if words.part in {"masks", "all"}:
        masks = measure_masks(read_coco(words.data / "coco_val", words.limit), model, refiner)
        numbers = {"PxAP": px_ap, "mass in mask": mass_in_mask}
        keep(words.out, {"masks": summarize(masks, numbers), "objects": len(masks[PLAIN]["mass"])})


def keep(out: Path, part: dict[str, object]) -> None:
    """Adds a part to what was measured before, and writes it all anew."""
    path = out / "localization.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    found |= part
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (out / "localization.md").write_text("\n".join(write_page(found)), encoding="utf-8")


def write_page(found: dict[str, Any]) -> Iterator[str]:
    yield from ("# Localisation, EfficientNet-Lite0, true class", "")
    yield "In brackets the 95 % interval over photos, in parentheses the gain over the plain map with its own interval;"
    yield "photos are drawn in pairs. Fixed threshold: the best one of the even photos, and how many of the largest"
    yield "part's boxes are right with it. Thresholds in steps of 0.02, else as `whycam evaluate` counts. Milliseconds:"
    yield f"one photo after the other, threads: {found.get('threads')}; the machine had other work: see the ratios."
    yield ""
    times = found.get("ms", {})
    if "boxes" in found:
        for half in ("odd", "even", "all"):
            yield from (f"## imagenet_val650, {half} photos", "", *write_table(found["boxes"], half, times), "")
    if "masks" in found:
        yield from (f"## coco_val, {found['objects']} masks", "", *write_table(found["masks"], "all", times), "")


if __name__ == "__main__":
    main()
