"""Classes that go together: how well each is found in generated scenes, and whether its heat lies on its own flowers.

`python benchmarks/multilabel.py` writes results/multilabel.md and .json; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, save
from PIL import Image

import whycam
from whycam.config import make_train_options
from whycam.data.folder import PhotoFolder
from whycam.data.garden import FLOWERS, write_mixed_garden
from whycam.data.listed import read_listed
from whycam.explainer.model import Model
from whycam.jobs.train import train
from whycam.maps.render import make_heatmap

SIDE_PX = 256
_KEPT = ("classes", "identity_error", "threshold")


def measure_heat(model: Model, photos: PhotoFolder, masks: Path) -> dict[str, dict[str, Any]]:
    """Of each flower: its heat a pixel on its own heads and on those of others, in the scenes that have both."""
    found: dict[str, list[tuple[float, float, float]]] = {flower: [] for flower in FLOWERS}
    for sample in photos.val:
        names = [photos.class_names[k] for k in sample.classes]
        if len(names) < 2:
            continue
        why = model.explain(sample.path, "all").reading()
        shown = {name: _read_mask(masks / name / f"{sample.path.stem}.png") for name in names}
        for k, name in enumerate(photos.class_names):
            if name in names:
                heat = make_heatmap(why.maps[list(why.targets).index(k)], (SIDE_PX, SIDE_PX), is_signed=False)
                others = np.any([mask for other, mask in shown.items() if other != name], axis=0) & ~shown[name]
                if shown[name].any() and others.any():
                    found[name].append(
                        (float(heat[shown[name]].mean()), float(heat[others].mean()), float(heat.mean()))
                    )
    rows = {}
    for flower, each in found.items():
        own, others, everywhere = np.mean(each, axis=0)
        rows[flower] = {
            "scenes": len(each),
            "own": float(own),
            "others": float(others),
            "everywhere": float(everywhere),
            "ratio": float(own / others),
            "twice": float(np.mean([a >= 2 * b for a, b, _ in each])),
        }
    return rows


def _read_mask(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture) > 0


def make_lines(found: dict[str, Any]) -> list[str]:
    """The tables."""
    summary, heat = found["summary"], found["heat"]
    lines = [
        "# Classes that go together",
        f"Generated scenes of one to three kinds of flowers, one in twelve of none: {found['train']} to train on, "
        f"{found['val']} held out, seed {found['seed']}; the default training (a linear head on the installed network, "
        f"frozen). Mean AP {summary['val_mean_ap']:.3f} (95 % interval {summary['val_mean_ap_low']:.3f} to "
        f"{summary['val_mean_ap_high']:.3f}), mean AUROC {summary['val_mean_auroc']:.3f}; mean F1 "
        f"{summary['val_f1']:.3f} at thresholds chosen on the same photos, {summary['val_f1_of_unseen']:.3f} at "
        f"thresholds chosen on others; mean(map) + bias misses the logit by {summary['identity_error']:.1g} of the "
        "logits' range at the most.",
        "",
        "| class | held-out photos | AP | AUROC | threshold | recall | precision | F1 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {name} | {one['photos']} | {one['ap']:.3f} | {one['auroc']:.3f} | {one['threshold']:.2f} | "
        f"{one['recall']:.2f} | {one['precision'] or 0:.2f} | {one['f1']:.2f} |"
        for name, one in summary["classes"].items()
    ]
    lines += [
        "",
        "The heat of a class's exact map (its positive part, scaled to 1 at its largest), a pixel: on its own flowers, "
        "on the others' in the same scenes, and everywhere; means over held-out scenes that have both.",
        "",
        "| class | scenes | on its own | on others | everywhere | own / others | scenes with twice as much |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {name} | {one['scenes']} | {one['own']:.3f} | {one['others']:.3f} | {one['everywhere']:.3f} | "
        f"{one['ratio']:.1f} | {one['twice']:.0%} |"
        for name, one in heat.items()
    ]
    return lines


def main() -> None:
    """Makes the scenes, trains, measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=int, default=240)
    parser.add_argument("--val", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        write_mixed_garden(root / "garden", train=given.train, val=given.val, seed=given.seed, size_px=SIDE_PX)
        options = make_train_options(seed=given.seed, cache_dir=root / "cache")
        summary = train(root / "garden" / "labels.csv", root / "run", options)
        photos = read_listed(root / "garden" / "labels.csv")
        heat = measure_heat(whycam.load(root / "run"), photos, root / "garden" / "masks")
    about = {"train": given.train, "val": given.val, "seed": given.seed}
    kept = {name: value for name, value in summary.items() if name.startswith("val_") or name in _KEPT}
    found = {**about, "summary": kept, "heat": heat}

    save("multilabel", make_lines(found), found, given.out)


if __name__ == "__main__":
    main()
