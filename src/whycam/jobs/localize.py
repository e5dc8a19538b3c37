"""`whycam localize`: photos and folders to boxes and outlines, as COCO JSON, YOLO labels and one table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from whycam.config import LocalizeOptions
from whycam.data.images import image_from_pil
from whycam.data.listed import refuse_listed
from whycam.data.loader import Photo
from whycam.data.sources import name_outputs
from whycam.data.walk import find_images
from whycam.errors import make_unreadable_error
from whycam.explainer.reading import Reading
from whycam.intake.door import open_classifier
from whycam.jobs.photo_files import describe_target
from whycam.jobs.progress import show_progress
from whycam.jobs.readers import choose_reader, stream_readings
from whycam.maps import render
from whycam.maps.boxes import PLAIN_THRESHOLD, REFINED_THRESHOLD, Box, Region, enlarge_region, find_regions
from whycam.model.classifier import Classifier
from whycam.runs import TableWriter, command_line, open_atomic, open_run, write_json

_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("path", "target", "predicted")),
        *(pa.field(name, pa.int32()) for name in ("target_index", "width_px", "height_px", "box")),
        *(pa.field(name, pa.int32()) for name in ("x0", "y0", "x1", "y1", "area_px")),
        *(pa.field(name, pa.float32()) for name in ("heat", "p_target", "p_predicted")),
        *(pa.field(name, pa.string()) for name in ("crop_predicted", "both_predicted")),
        *(pa.field(name, pa.float32()) for name in ("crop_p", "both_p")),
        *(pa.field(name, pa.string()) for name in ("picture", "note", "error")),
    ]
)
# Finding regions takes 40 bytes a pixel, more than all else.
_SIDE_PX = 4096
_COLORS = ("#ff3b30", "#34c759", "#0a84ff", "#ffd60a", "#bf5af2")


@dataclass(frozen=True)
class Outcome:
    """What a finished `whycam localize` counts."""

    photos: int
    unreadable: int
    boxes: int
    out: Path


@dataclass(frozen=True)
class Finding:
    """One photo's objects.

    Attributes:
        reading: its maps; None where it could not be read.
        regions: for each target, the largest first.
    """

    photo: Photo
    reading: Reading | None = None
    regions: tuple[list[Region], ...] = ()


def localize_files(model_name: str, inputs: Sequence[Path], out: Path, options: LocalizeOptions) -> Outcome:
    """Finds the objects of photos and folders of photos and writes them into the folder `out`.

    Raises:
        UserError: no photos, an unknown model, class or method, an output folder that exists, a full disk, a model
            that has no refined maps, or not one photo that can be read.
    """
    for place in inputs:
        refuse_listed(place)
    paths = find_images(inputs)
    with open_run(out, overwrite=options.overwrite) as folder:
        model = open_classifier(model_name, **options.describe_model())
        writer = _Writer(folder, model, options)
        with (
            TableWriter(folder, "boxes", _SCHEMA) as table,
            show_progress("localizing", len(paths)) as advance,
        ):
            for name, found in zip(
                name_outputs([str(path) for path in paths]), find_objects(model, paths, options), strict=True
            ):
                for row in writer.write(name, found):
                    table.write(row)
                advance(1)
        if writer.unreadable == len(paths):
            raise make_unreadable_error(len(paths), paths[0])
        writer.finish(len(paths))
    return Outcome(len(paths), writer.unreadable, len(writer.annotations), out)


def find_objects(model: Classifier, paths: Sequence[Path], options: LocalizeOptions) -> Iterator[Finding]:
    """Every photo's objects, in order; memory does not grow with their number.

    In photos of more than 4096 px a side they are found at that size: a map has no finer detail.
    """
    limits: Any = {"most": options.max_boxes, "least_share": options.least_share}
    reader = choose_reader(model, options.target, {"method": options.method, "refine": options.refine or None})
    for photo, reading in stream_readings(reader, paths, options.batch_size):
        if reading is None:
            yield Finding(photo)
            continue
        width, height = reading.find_size()
        shrink = min(1.0, _SIDE_PX / max(width, height))
        size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
        found = []
        for values in reading.maps:
            heat = render.make_heatmap(values, size, is_signed=False)
            regions = find_regions(heat, threshold=read_threshold(options), **limits)
            found.append([enlarge_region(region, width / size[1], height / size[0]) for region in regions])
        yield Finding(photo, reading, tuple(found))


def read_threshold(options: LocalizeOptions) -> float:
    """The given share of the maximum, or the default one of the kind of map."""
    if options.threshold is not None:
        return options.threshold
    return REFINED_THRESHOLD if options.refine else PLAIN_THRESHOLD


class _Writer:
    """Turns findings into rows, COCO's lists, YOLO's label files and pictures."""

    def __init__(self, folder: Path, model: Classifier, options: LocalizeOptions) -> None:
        self.folder, self.card, self.options = folder, model.card, options
        self._plain = choose_reader(model, "predicted", {"method": options.method})
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.unreadable = 0
        for sub in ("labels", "pictures"):
            (folder / sub).mkdir()

    def write(self, name: str, found: Finding) -> Iterator[dict[str, Any]]:
        """The files of one photo, and its rows of the table."""
        reading = found.reading
        if reading is None:
            self.unreadable += 1
            yield {"path": str(found.photo.path), "error": found.photo.error}
            return
        photo, classes = cast(Image.Image, reading.photo), reading.targets.tolist()
        self._add_image(found.photo.path, photo)
        lines = [
            to_yolo(region.box, photo, index)
            for index, regions in zip(classes, found.regions, strict=True)
            for region in regions
        ]
        (self.folder / "labels" / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
        with open_atomic(self.folder / "pictures" / f"{name}.jpg") as part:
            draw_boxes(photo, found.regions).save(part, "JPEG", quality=90)
        again = self._classify_again(reading, found.regions[0]) if self.options.crop_reclassify else {}
        for t, (index, regions) in enumerate(zip(classes, found.regions, strict=True)):
            columns = {"path": str(found.photo.path), **describe_target(reading, t)}
            for box, region in enumerate(regions):
                self._add_annotation(region, index, float(reading.probabilities[index]))
                yield {**columns, **describe_region(region, box), "picture": f"pictures/{name}.jpg", **again}
            if not regions:
                yield {**columns, "note": "; ".join(reading.notes) or "the map has no evidence for this class"}

    def _classify_again(self, reading: Reading, regions: Sequence[Region]) -> dict[str, Any]:
        """What the network says of the first target's largest box alone, and of photo and box together."""
        if not regions:
            return {}
        box = regions[0].box
        crop = image_from_pil(cast(Image.Image, reading.photo).crop((box.x0, box.y0, box.x1, box.y1)))
        alone = self._plain(self._plain.preprocess.to_pixels(crop)[None], [crop])[0].probabilities
        both = (reading.probabilities + alone) / 2
        return {
            **dict(zip(("crop_predicted", "crop_p"), _name_top(alone, reading), strict=True)),
            **dict(zip(("both_predicted", "both_p"), _name_top(both, reading), strict=True)),
        }

    def _add_image(self, path: Path, photo: Image.Image) -> None:
        self.images.append(
            {"id": len(self.images) + 1, "file_name": str(path), "width": photo.width, "height": photo.height}
        )

    def _add_annotation(self, region: Region, index: int, score: float) -> None:
        box = region.box
        self.annotations.append(
            {
                "id": len(self.annotations) + 1,
                "image_id": len(self.images),
                "category_id": index + 1,
                "bbox": [box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0],
                "segmentation": [region.outline.ravel().tolist()],
                "area": region.area_px,
                "iscrowd": 0,
                "score": round(score, 6),
            }
        )

    def finish(self, photos: int) -> None:
        """Writes what is known at the end alone: COCO's file, the names of YOLO's numbers, and the record."""
        names = self.card.class_names
        categories = [{"id": index + 1, "name": name} for index, name in enumerate(names)]
        write_json(
            self.folder / "coco.json",
            {"images": self.images, "annotations": self.annotations, "categories": categories},
        )
        (self.folder / "classes.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        record = {
            "command": command_line(),
            "model": self.card.name,
            **self.card.origin,
            "photos": photos,
            "unreadable": self.unreadable,
            "boxes": len(self.annotations),
            "threshold": read_threshold(self.options),
            "refine": _describe_refining() if self.options.refine else None,
            "options": self.options.model_dump(mode="json"),
        }
        write_json(self.folder / "record.json", record)


def describe_region(region: Region, number: int) -> dict[str, Any]:
    """The columns of a box; the largest of its class is number 0."""
    box = region.box
    return {
        "box": number,
        "x0": box.x0,
        "y0": box.y0,
        "x1": box.x1,
        "y1": box.y1,
        "heat": box.heat,
        "area_px": region.area_px,
    }


def to_yolo(box: Box, photo: Image.Image, index: int) -> str:
    """A line of a YOLO label file: class, then centre and size as shares of the photo."""
    middle = ((box.x0 + box.x1) / 2 / photo.width, (box.y0 + box.y1) / 2 / photo.height)
    size = ((box.x1 - box.x0) / photo.width, (box.y1 - box.y0) / photo.height)
    return f"{index} {middle[0]:.6f} {middle[1]:.6f} {size[0]:.6f} {size[1]:.6f}\n"


def draw_boxes(photo: Image.Image, regions: Sequence[Sequence[Region]]) -> Image.Image:
    """The photo with every box and outline; a colour for each target."""
    picture = photo.convert("RGB")  # a copy, whatever its mode is
    pen, width = ImageDraw.Draw(picture), max(2, round(min(picture.size) / 150))
    for t, found in enumerate(regions):
        color = _COLORS[t % len(_COLORS)]
        for region in found:
            box = region.box
            pen.rectangle((box.x0, box.y0, box.x1 - 1, box.y1 - 1), outline=color, width=width)
            pen.polygon([(float(x), float(y)) for x, y in region.outline], outline=color)
    return picture


def _describe_refining() -> dict[str, Any]:
    from whycam.maps.refine import RECIPE  # noqa: PLC0415 - torch, which plain maps do without

    return asdict(RECIPE)


def _name_top(shares: np.ndarray, reading: Reading) -> tuple[str, float]:
    top = int(shares.argmax())
    return reading.name(top), float(shares[top])
