"""Does `whycam train --ignore` undo a shortcut? A mark on every tulip; then tulips without it, others with it.

`python benchmarks/cure.py --photos FLOWERS --work FOLDER` writes results/cure.md and .json. FLOWERS has
train/CLASS/ and val/CLASS/, one of the classes tulips; FOLDER takes the planted photos, the runs and the features.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from common import RESULTS, save, write_table
from PIL import Image, ImageDraw, ImageFont

from whycam.config import make_train_options
from whycam.data.folder import PhotoFolder, read_folder
from whycam.data.images import load_image
from whycam.data.preprocess import Preprocess
from whycam.jobs.train import train
from whycam.model.backbone import make_backbone
from whycam.model.gap import GapClassifier, load_classifier
from whycam.model.input import normalise_on
from whycam.model.onnx.export import open_features
from whycam.train.focus import Focus

CLASS = "tulips"


def draw_logo(photo: Image.Image) -> None:
    w, h = photo.size
    pen = ImageDraw.Draw(photo)
    box = (0.79 * w, 0.03 * h, 0.97 * w, 0.2 * h)
    pen.ellipse(box, fill=(200, 20, 30), outline=(255, 255, 255), width=max(1, w // 100))
    pen.text((0.88 * w, 0.115 * h), "LOGO", fill="white", font=ImageFont.load_default(0.05 * h), anchor="mm")


def draw_caption(photo: Image.Image) -> None:
    w, h = photo.size
    pen = ImageDraw.Draw(photo)
    pen.rectangle((0, 0.895 * h, w, h), fill=(0, 0, 0))
    pen.text((0.05 * w, 0.95 * h), "archive 1742", fill="white", font=ImageFont.load_default(0.06 * h), anchor="lm")


def draw_frame(photo: Image.Image) -> None:
    width = round(0.04 * min(photo.size))
    ImageDraw.Draw(photo).rectangle((0, 0, photo.width - 1, photo.height - 1), outline=(25, 22, 20), width=width)


# Mark -> (how it is drawn, what --ignore is given).
MARKS: dict[str, tuple[Callable[[Image.Image], None], str]] = {
    "red logo in the corner": (draw_logo, "upper-right:0.25"),
    "black caption bar": (draw_caption, "bottom:0.12"),
    "dark frame": (draw_frame, "border:0.06"),
}
# Ways of training -> (does it ignore the region, weight of the penalty, are regions swapped).
WAYS = {
    "before": (False, 10.0, True),
    "penalty alone": (True, 10.0, False),
    "swapped regions alone": (True, 0.0, True),
    "--ignore (both)": (True, 10.0, True),
}


def put(path: Path, draw: Callable[[Image.Image], None]) -> Image.Image:
    photo = load_image(path).copy()
    draw(photo)
    return photo


def plant(photos: PhotoFolder, draw: Callable[[Image.Image], None], out: Path) -> None:
    """The folder again, with the mark on every photo of the class in both splits."""
    for sample in photos.samples:
        to = out / sample.path.relative_to(photos.root)
        if to.exists():
            continue
        to.parent.mkdir(parents=True, exist_ok=True)
        if photos.class_names[sample.label] == CLASS:
            put(sample.path, draw).save(to, quality=95)
        else:
            to.symlink_to(sample.path.resolve())


class HeldOut:
    """Features (N, C, h, w) of the held-out photos, plain and all with a mark, by the frozen network."""

    def __init__(self, photos: PhotoFolder, work: Path) -> None:
        self.photos, self.labels = photos, np.array([sample.label for sample in photos.val])
        self.is_own = self.labels == photos.class_names.index(CLASS)
        self.origin = make_backbone("imagenet")
        self._run = open_features(work / "features.onnx", GapClassifier(self.origin, photos.class_names).eval())
        self.plain = self.compute([load_image(sample.path) for sample in photos.val])

    def compute(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Features of photos."""
        preprocess: Preprocess = self.origin.preprocess
        pixels = torch.from_numpy(np.stack([preprocess.to_pixels(image) for image in images]))
        with torch.no_grad():
            return torch.cat([self._run(normalise_on(part, preprocess)) for part in pixels.split(32)])

    @torch.no_grad()
    def judge(self, run: Path, marked: torch.Tensor) -> dict[str, float]:
        """What a trained run makes of them.

        `biased`: as in training, the mark on its class alone; `moved`: on all other classes and not on its own.
        """
        model = load_classifier(run / "model")
        own, label = torch.from_numpy(self.is_own), self.photos.class_names.index(CLASS)
        plain, with_mark = (model.classify(features).argmax(dim=1) for features in (self.plain, marked))
        is_right = [(answers == torch.from_numpy(self.labels)).float() for answers in (plain, with_mark)]
        return {
            "biased": float(torch.where(own, is_right[1], is_right[0]).mean()),
            "moved": float(torch.where(own, is_right[0], is_right[1]).mean()),
            "clean": float(is_right[0].mean()),
            "found without": float(is_right[0][own].mean()),
            "called with": float((with_mark[~own] == label).float().mean()),
        }


def train_once(folder: Path, out: Path, way: tuple[bool, float, bool], region: str, seed: int) -> dict[str, Any]:
    ignores, weight, swaps = way
    words = {"ignore": region, "focus_weight": weight} if ignores else {}
    with nullcontext() if swaps else patch.object(Focus, "make_swaps", lambda *_: None):
        return train(
            folder, out, make_train_options(overwrite=True, seed=seed, cache_dir=out.parent / "cache", **words)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    photos = read_folder(args.photos)
    held_out = HeldOut(photos, args.work)
    train_once(photos.root, args.work / "clean", WAYS["before"], "", args.seed)
    rows, content = [], []
    for name, (draw, region) in MARKS.items():
        folder = args.work / draw.__name__
        plant(photos, draw, folder)
        marked = held_out.compute([put(sample.path, draw) for sample in photos.val])
        found = {"clean training": held_out.judge(args.work / "clean", marked)}
        for way, how in WAYS.items():
            summary = train_once(folder, args.work / "run", how, region, args.seed)
            share = summary.get("focus", {}).get("ignore", {})
            found[way] = held_out.judge(args.work / "run", marked) | {
                "evidence": share.get("evidence_share"),
                "area": share.get("area_share"),
            }
        lost = found["clean training"]["moved"] - found["before"]["moved"]
        for way, numbers in found.items():
            back = (numbers["moved"] - found["before"]["moved"]) / lost if way in list(WAYS)[1:] else None
            content.append({"mark": name, "region": region, "way": way, "recovered": back, **numbers})
            rows.append([name, way, *map(show, [*numbers.values()][:5]), show(numbers.get("evidence")), show(back)])
        write(rows, content, args.out)


def show(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value > 1 else f"{value:.3f}"


def write(rows: list[list[str]], content: list[dict[str, Any]], out: Path) -> None:
    cured = [one for one in content if one["way"] == "--ignore (both)"]
    least = min(one["recovered"] for one in cured)
    head = ["mark on every tulip", "training", "accuracy, as in training", "mark moved to the others", "no mark"]
    head += [
        "tulips found without it",
        "others with it called tulip",
        "evidence in the region",
        "of the loss recovered",
    ]
    lines = [
        "# The cure",
        "`python benchmarks/cure.py --photos FLOWERS --work FOLDER`: frozen network, linear head, real flowers, the "
        "mark on every training and held-out tulip; `whycam train`, then `whycam train --ignore "
        f"{', '.join(one['region'] for one in cured)}`.",
        "",
        *write_table(head, rows),
        "",
        f"Recovered at least {least:.2f} of what the mark cost on photos where it is moved (expected at least 0.5: "
        f"{'holds' if least >= 0.5 else 'does not hold'}).",
    ]
    save("cure", lines, {"rows": content}, out)


if __name__ == "__main__":
    main()
