"""Does `whycam check` tell a class that was made otherwise, and leave clean photos alone?

`python benchmarks/check.py --photos FLOWERS --work FOLDER [--also COLLECTION]` writes results/check.md and .json.
FLOWERS has val/CLASS/; FOLDER takes the planted photos; COLLECTION is CLASS/photo, told of as it is.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from common import RESULTS, save, write_table
from PIL import Image

from whycam.audit.findings import Finding
from whycam.audit.properties import Labelled, find_telling
from whycam.data.images import load_image
from whycam.data.properties import PropertyTable, read_table

SHARES = (1.0, 0.6, 0.3)
DRAWS, SIZES = 200, (8, 12, 20, 30, 50, 70)
ABOUT = """`python benchmarks/check.py --photos FLOWERS --work FOLDER`: all photos of one class of the held-out flowers
(70 a class) are made otherwise, or a share of them, and saved as JPEG of quality 93. Found: the class, and the property
that was planted among those told. The clean draws are 2 to 5 classes of 8 to 70 of the same photos. The lines were
chosen on draws of the training photos."""


def encode(quality: int) -> Callable[[Image.Image], Image.Image]:
    def edit(photo: Image.Image) -> Image.Image:
        file = io.BytesIO()
        photo.save(file, "JPEG", quality=quality)
        return load_image(file.getvalue())

    return edit


def enlarge(photo: Image.Image) -> Image.Image:
    small = photo.resize((photo.width // 3, photo.height // 3))
    return small.resize(photo.size, Image.Resampling.BICUBIC)


def roughen(photo: Image.Image) -> Image.Image:
    values = np.asarray(photo, float)
    noise = np.random.default_rng(int(values.sum())).normal(0, 18, (*values.shape[:2], 1))
    return Image.fromarray((values + noise).clip(0, 255).astype(np.uint8))


def shade(photo: Image.Image) -> Image.Image:
    y, x = (np.linspace(-1, 1, side) for side in (photo.height, photo.width))
    falling = 1 - 0.35 * np.add.outer(y**2, x**2)
    return Image.fromarray((np.asarray(photo) * falling[..., None]).clip(0, 255).astype(np.uint8))


# Kind -> the edit, and the properties that are a right name for it.
CASES: dict[str, tuple[Callable[[Image.Image], Image.Image], set[str]]] = {
    "JPEG of quality 8": (encode(8), {"jpeg-quality"}),
    "JPEG of quality 30": (encode(30), {"jpeg-quality"}),
    "a third of the size, enlarged": (enlarge, {"sharpness"}),
    "noise of 18 levels": (roughen, {"noise"}),
    "darkened to a quarter": (lambda photo: photo.point(lambda v: v * 0.25), {"brightness", "lightest"}),
    "contrast halved, lifted": (lambda photo: photo.point(lambda v: 60 + v * 0.5), {"contrast", "darkest"}),
    "colours at 0.3": (lambda photo: Image.blend(photo.convert("L").convert("RGB"), photo, 0.3), {"saturation"}),
    "grey": (lambda photo: photo.convert("L").convert("RGB"), {"grey", "saturation"}),
    "vignette of 0.7": (shade, {"vignette"}),
    "half the pixels": (lambda photo: photo.resize((photo.width * 7 // 10, photo.height * 7 // 10)), {"resolution"}),
}


def check_photos(paths: Sequence[Path], table: PropertyTable, seed: int) -> list[Finding]:
    names = sorted({path.parent.name for path in paths})
    labels = np.array([names.index(path.parent.name) for path in paths])
    return find_telling(Labelled(paths, labels, dict(enumerate(names)), table), seed)


def take(table: PropertyTable, rows: np.ndarray) -> PropertyTable:
    return PropertyTable({name: values[rows] for name, values in table.columns.items()})


def join(table: PropertyTable, other: PropertyTable) -> PropertyTable:
    return PropertyTable({name: np.concatenate([table.columns[name], other.columns[name]]) for name in table.columns})


def plant(paths: Sequence[Path], kind: str, out: Path) -> list[Path]:
    made = []
    for path in paths:
        target = out / kind.replace(" ", "-") / path.parent.name / f"{path.stem}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        CASES[kind][0](load_image(path)).save(target, quality=93)
        made.append(target)
    return made


def run_case(kind: str, paths: Sequence[Path], table: PropertyTable, work: Path) -> list[object]:
    """The case's name, and of each share: in how many of the five classes it is found, and how many others are told."""
    names = sorted({path.parent.name for path in paths})
    cells: list[object] = [kind]
    found_by_share = {share: [0, 0] for share in SHARES}
    for name in names:
        own = np.array([path.parent.name == name for path in paths])
        marked = plant([path for path, is_own in zip(paths, own, strict=True) if is_own], kind, work)
        planted = read_table(marked)
        rest = [path for path, is_own in zip(paths, own, strict=True) if not is_own]
        plain = [path for path, is_own in zip(paths, own, strict=True) if is_own]
        for share in SHARES:
            count = round(share * len(marked))
            both = join(take(planted, np.arange(count)), take(table, np.flatnonzero(own)[count:]))
            photos = [*marked[:count], *plain[count:], *rest]
            told = check_photos(photos, join(both, take(table, np.flatnonzero(~own))), 0)
            right = [one for one in told if one.class_name == name and CASES[kind][1] & set(one.numbers["properties"])]
            found_by_share[share][0] += bool(right)
            found_by_share[share][1] += len([one for one in told if one.class_name != name])
    cells += [f"{found} of {len(names)}" for found, _ in found_by_share.values()]
    return [*cells, sum(others for _, others in found_by_share.values())]


def run_clean(paths: Sequence[Path], table: PropertyTable) -> int:
    """In how many clean draws anything is told."""
    classes = np.array([path.parent.name for path in paths])
    names, accused = np.unique(classes), 0
    for seed in range(DRAWS):
        draw = np.random.default_rng([7, seed])
        drawn = draw.choice(names, draw.integers(2, len(names) + 1), replace=False)
        count = int(draw.choice(SIZES))
        rows = np.concatenate([draw.permutation(np.flatnonzero(classes == name))[:count] for name in drawn])
        accused += bool(check_photos([paths[row] for row in rows], take(table, rows), seed))
    return accused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--also", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    paths = sorted(path for path in (args.photos / "val").glob("*/*") if path.is_file())
    start = time.process_time()
    table = read_table(paths)
    seconds = time.process_time() - start
    rows = [run_case(kind, paths, table, args.work) for kind in CASES]
    accused = run_clean(paths, table)
    head = ["planted in a class", *(f"in {share:.0%} of its photos" for share in SHARES), "other classes told"]
    lines = ["# Faults of the photos, without a model", ABOUT, "", *write_table(head, rows), ""]
    lines += [
        f"Clean draws in which anything is told: **{accused} of {DRAWS}**. Reading {len(paths)} photos took "
        f"{seconds:.1f} s of one core."
    ]
    content = {"cases": rows, "clean": {"draws": DRAWS, "accused": accused}, "seconds": seconds}
    if args.also:
        also = sorted(path for path in args.also.glob("*/*") if path.is_file())
        found = check_photos(also, read_table(also), 0)
        lines += ["", f"## {args.also.name}", "", *(f"- {one.title} {one.detail}" for one in found)]
        content["also"] = [one.numbers["figures"] for one in found]
    save("check", lines, content, args.out)


if __name__ == "__main__":
    main()
