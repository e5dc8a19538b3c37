"""A contact sheet for each model: photos as rows, map methods as columns, to be looked at.

`python benchmarks/contact_sheet.py --out FOLDER` writes FOLDER/MODEL.png, and prints which maps are blank or refused.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from methods import MODELS, find_photos, make_inputs, make_model
from PIL import Image, ImageDraw
from torch import Tensor, nn

import whycam
from whycam.cam.registry import iter_methods
from whycam.errors import UserError
from whycam.maps import render
from whycam.model.gap import name_classes
from whycam.show.plots import make_sheet

COSTLY = {"score-cam", "ss-cam", "is-cam", "rise", "occlusion", "integrated-gradients"}
OPTIONS = {"smooth-grad-cam++": {"samples": 4}, "integrated-gradients": {"steps": 8}, "rise": {"masks": 200}}
SIDE_PX = 200

Column = list[tuple[Image.Image, tuple[str, bool]]]


def draw_method(module: nn.Module, images: Tensor, photos: Sequence[Image.Image], method: str) -> Column:
    """Overlays of one method, each captioned in green, or in red where the map carries a note or is refused."""
    try:
        why = whycam.explain(module, images, method=method, photos=tuple(photos), **OPTIONS.get(method, {}))
    except UserError as error:
        print(f"  {method}: refused: {error}")
        return [(draw_refusal(photo), (f"{method}: refused", False)) for photo in photos]
    notes = {note for of_photo in why.notes for note in of_photo}
    for note in sorted(notes):
        print(f"  {method}: {note}")
    overlays = [
        render.lay_over(photo, why.heatmap(i), why.colormap, alpha=render.ALPHA, is_signed=why.draws_both_signs)
        for i, photo in enumerate(photos)
    ]
    return [(picture, (method, not why.notes[i])) for i, picture in enumerate(overlays)]


def draw_refusal(photo: Image.Image) -> Image.Image:
    """A grey picture with a cross: no map."""
    picture = Image.new("RGB", photo.size, "gainsboro")
    draw = ImageDraw.Draw(picture)
    draw.line([(0, 0), photo.size], fill="grey", width=2)
    draw.line([(0, photo.height), (photo.width, 0)], fill="grey", width=2)
    return picture


def draw_photos(module: nn.Module, images: Tensor, photos: Sequence[Image.Image], *, is_trained: bool) -> Column:
    """The photos with the class that is explained and its probability."""
    why = whycam.explain(module, images, method="uniform")
    # Of random weights the class means nothing, and its name would mislead.
    names = name_classes(1000) if is_trained else [f"random weights, class {k}" for k in range(why.logits.shape[1])]
    return [
        (photo, (f"{names[k]} {p:.0%}", True))
        for photo, k, p in zip(photos, why.predicted.tolist(), why.probabilities.amax(1).tolist(), strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--photos", type=Path, help="a folder; else those of WHYCAM_DATA or of scikit-image")
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--models", default="lite0,resnet50,vit_small_patch16_224")
    parser.add_argument("--methods", default=",".join(m.name for m in iter_methods() if m.name not in COSTLY))
    args = parser.parse_args()
    photos = find_photos(args.photos, args.count)
    for photo in photos:
        photo.thumbnail((2 * SIDE_PX, 2 * SIDE_PX))
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.models.split(","):
        print(name)
        module, preprocess = make_model(name)
        images = make_inputs(photos, preprocess)
        columns = [draw_photos(module, images, photos, is_trained=MODELS.get(name) == "imagenet")]
        columns += [draw_method(module, images, photos, method) for method in args.methods.split(",")]
        rows = list(zip(*columns, strict=True))
        pictures, captions = ([[cell[part] for cell in row] for row in rows] for part in (0, 1))
        make_sheet(pictures, captions, args.out / f"{name}.png", width_px=SIDE_PX)


if __name__ == "__main__":
    main()
