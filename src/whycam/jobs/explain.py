"""`whycam explain`: photos and folders to overlays, heatmaps, raw maps and one table."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from whycam import render
from whycam.config import ExplainOptions
from whycam.data.images import find_images
from whycam.data.loader import map_ahead
from whycam.errors import UserError
from whycam.explainer import Model, load
from whycam.explanation import Explanation
from whycam.jobs.progress import show_progress
from whycam.runs import TableWriter, command_line, open_atomic, open_run, write_json

_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("path", "target", "predicted")),
        *(pa.field(name, pa.int32()) for name in ("target_index", "predicted_index", "width_px", "height_px")),
        *(
            pa.field(name, pa.float32())
            for name in ("p_target", "p_predicted", "logit", "map_min", "map_max", "map_mean")
        ),
        pa.field("boxes", pa.string()),
        *(pa.field(name, pa.string()) for name in ("overlay", "heatmap", "map", "note", "error")),
    ]
)
_QUALITY = {"jpg": {"quality": 92}, "png": {}, "webp": {"quality": 90}}
_PIL_FORMAT = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


@dataclass(frozen=True)
class Outcome:
    """What a finished `whycam explain` counts."""

    photos: int
    unreadable: int
    out: Path


def explain_files(model_name: str, inputs: Sequence[Path], out: Path, options: ExplainOptions) -> Outcome:
    """Explains photos and folders of photos into the folder `out`; memory does not grow with their number.

    Raises:
        UserError: no photos, an unknown model, class or method, an output folder that exists, a full disk, or not one
            photo that can be read.
    """
    paths = find_images(inputs)
    render.check_colormap(options.colormap)
    with open_run(out, overwrite=options.overwrite) as folder:
        model = load(model_name, device=options.device)
        names = name_outputs(paths)
        unreadable = write_explanations(model, paths, names, folder, options)
        if unreadable == len(paths):
            raise UserError(
                f"Not one of the {len(paths)} photos could be read; nothing was written. The first: '{paths[0]}'. "
                "Check the files."
            )
        record = {
            "command": command_line(),
            "photos": len(paths),
            "unreadable": unreadable,
            "options": options.model_dump(mode="json"),
        }
        write_json(
            folder / "record.json",
            record
            | {
                "class_names": list(model.class_names),
                **json.loads((folder / "record.json").read_text(encoding="utf-8")),
            },
        )
    return Outcome(len(paths), unreadable, out)


def name_outputs(paths: Sequence[Path]) -> list[str]:
    """A short unique name for each photo's files: its path below the folder that all share, without the suffix."""
    absolute = [path.absolute() for path in paths]
    common = Path(os.path.commonpath([path.parent for path in absolute]))
    names = [path.relative_to(common).with_suffix("").as_posix().replace("/", "__") for path in absolute]
    times = Counter(names)
    return [
        f"{name}{path.suffix.replace('.', '_')}" if times[name] > 1 else name
        for name, path in zip(names, absolute, strict=True)
    ]


def write_explanations(
    model: Model, paths: Sequence[Path], names: Sequence[str], folder: Path, options: ExplainOptions
) -> int:
    """Writes every photo's files and the table; returns how many photos could not be read."""
    for sub in ("overlays", "heatmaps", "maps"):
        (folder / sub).mkdir(exist_ok=True)
    stream = model.stream(paths, options.target, batch_size=options.batch_size, **read_how(options))
    unreadable = 0

    def write(item: tuple[str, Any]) -> list[dict[str, Any]]:
        name, (photo, why) = item
        if why is None:
            return [{"path": str(photo.path), "error": photo.error}]
        return [write_one(why, t, name, folder, options) for t in range(why.targets.shape[1])]

    with TableWriter(folder, "explanations", _SCHEMA) as table, show_progress("explaining", len(paths)) as advance:
        for rows in map_ahead(write, _remember_record(zip(names, stream, strict=True), folder), workers=2, ahead=8):
            unreadable += any(row.get("error") for row in rows)
            for row in rows:
                table.write(row)
            advance(1)
    return unreadable


def _remember_record(items: Iterator[tuple[str, Any]], folder: Path) -> Iterator[tuple[str, Any]]:
    """Passes on, and writes what the first explanation says of how it was made."""
    is_written = False
    for item in items:
        why = item[1][1]
        if not is_written and why is not None:
            write_json(folder / "record.json", dict(why.record))
            is_written = True
        yield item


def read_how(options: ExplainOptions) -> dict[str, Any]:
    """What the options say of the maps, in the words of `whycam.explain`.

    Raises:
        UserError: an option of the method that is not name=value.
    """
    own = {}
    for text in options.option:
        name, sign, value = text.partition("=")
        if not sign:
            raise UserError(f"--option is {text!r}; expected name=value. For example: --option masks=500.")
        own[name] = value
    layers = options.layer.split(",") if options.layer else None
    return {
        "method": options.method,
        "versus": options.versus,
        "layer": layers[0] if layers and len(layers) == 1 else layers,
        "fuse": options.fuse if layers and len(layers) > 1 else None,
        "smooth": options.smooth,
        **own,
    }


def write_one(why: Explanation, t: int, name: str, folder: Path, options: ExplainOptions) -> dict[str, Any]:
    """The files of one photo and target, and its row of the table."""
    index, top = int(why.targets[0, t]), int(why.predicted[0])
    stem = name if why.targets.shape[1] == 1 else f"{name}.{index:04d}"
    colormap = options.colormap or why.colormap
    heatmap = why.heatmap(0, t)
    files = {
        "overlay": f"overlays/{stem}.{options.format}",
        "heatmap": f"heatmaps/{stem}.{options.format}",
        "map": f"maps/{stem}.npy",
    }
    overlay = render.lay_over(why.photos[0], heatmap, colormap, alpha=options.alpha, is_signed=why.draws_both_signs)
    save_picture(overlay, folder / files["overlay"], options.format)
    save_picture(render.to_picture(heatmap, colormap), folder / files["heatmap"], options.format)
    values = why.map(0, t).cpu().numpy()
    with open_atomic(folder / files["map"]) as part, part.open("wb") as file:
        np.save(file, values)
    return {
        "path": str(why.paths[0]),
        "target": why.name(index),
        "target_index": index,
        "predicted": why.name(top),
        "predicted_index": top,
        "width_px": why.photos[0].width,
        "height_px": why.photos[0].height,
        "p_target": float(why.probabilities[0, index]),
        "p_predicted": float(why.probabilities[0, top]),
        "logit": float(why.logits[0, index]),
        "map_min": float(values.min()),
        "map_max": float(values.max()),
        "map_mean": float(values.mean()),
        "boxes": json.dumps([asdict(box) for box in why.boxes(0, t)]),
        "note": " ".join(why.notes[0]),
        **files,
    }


def save_picture(picture: Image.Image, path: Path, kind: str) -> None:
    """Writes a picture, whole or not at all."""
    with open_atomic(path) as part:
        picture.save(part, _PIL_FORMAT[kind], **_QUALITY[kind])
