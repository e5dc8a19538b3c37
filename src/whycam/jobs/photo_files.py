"""What `whycam explain` writes of one photo: overlay, heatmap and raw map, and its row of the table."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from whycam.config import ExplainOptions
from whycam.data.sources import Source
from whycam.explainer.reading import Reading
from whycam.maps import render
from whycam.runs import open_atomic

FOLDERS = ("overlays", "heatmaps", "maps")
TEXTS = ("path", "target", "predicted")
WHOLE_NUMBERS = ("target_index", "predicted_index", "width_px", "height_px")
NUMBERS = ("p_target", "p_predicted", "logit", "map_min", "map_max", "map_mean")
REMARKS = ("boxes", "overlay", "heatmap", "map", "note", "error")
_QUALITY: dict[str, dict[str, Any]] = {"jpg": {"quality": 92}, "png": {}, "webp": {"quality": 90}}
_PIL_FORMAT = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


def list_folders(options: ExplainOptions) -> list[str]:
    """Those that the options fill."""
    wanted = (options.overlays, options.heatmaps, True)
    return ["maps"] if options.maps_only else [name for name, is_on in zip(FOLDERS, wanted, strict=True) if is_on]


def needs_photo(options: ExplainOptions) -> bool:
    """Whether the photo itself is drawn on, or read once more."""
    return options.refine or (options.overlays and not options.maps_only)


def write_reading(reading: Reading, source: Source, folder: Path, options: ExplainOptions) -> list[dict[str, Any]]:
    """Writes the files of one photo; its rows, one for each target."""
    return [_write_target(reading, t, source, folder, options) for t in range(len(reading.targets))]


def _write_target(reading: Reading, t: int, source: Source, folder: Path, options: ExplainOptions) -> dict[str, Any]:
    index = int(reading.targets[t])
    stem = source.name if len(reading.targets) == 1 else f"{source.name}.{index:04d}"
    wanted = list_folders(options)
    suffix = {"overlays": options.format, "heatmaps": options.format, "maps": "npy"}
    files = {kind.removesuffix("s"): f"{kind}/{stem}.{suffix[kind]}" for kind in wanted}
    colormap = options.colormap or reading.colormap
    levels = reading.levels(t) if "overlay" in files or "heatmap" in files else None
    # Of a large photo each of the two pictures fills memory: there is one at a time.
    if levels is not None and "overlay" in files:
        path = folder / files["overlay"]
        _save_picture(reading.overlay(t, colormap=colormap, alpha=options.alpha, heatmap=levels), path, options.format)
    if levels is not None and "heatmap" in files:
        _save_picture(render.to_picture(levels, colormap), folder / files["heatmap"], options.format)
    values = reading.maps[t]
    with open_atomic(folder / files["map"]) as part, part.open("wb") as file:
        np.save(file, values)
    return {
        "path": source.path,
        **describe_target(reading, t),
        "logit": float(reading.logits[index]),
        "map_min": float(values.min()),
        "map_max": float(values.max()),
        "map_mean": float(values.mean()),
        "boxes": json.dumps([asdict(box) for box in reading.boxes(t)]),
        "note": " ".join(reading.notes),
        **files,
    }


def describe_target(reading: Reading, t: int) -> dict[str, Any]:
    """The columns of a photo's size, its prediction, and the target that is explained."""
    index, top = int(reading.targets[t]), reading.predicted
    width, height = reading.find_size()
    return {
        "target": reading.name(index),
        "target_index": index,
        "predicted": reading.name(top),
        "predicted_index": top,
        "width_px": width,
        "height_px": height,
        "p_target": float(reading.probabilities[index]),
        "p_predicted": float(reading.probabilities[top]),
        **({"given": ";".join(map(reading.name, reading.given))} if "output" in reading.record else {}),
    }


def _save_picture(picture: Image.Image, path: Path, kind: str) -> None:
    with open_atomic(path) as part:
        picture.save(part, _PIL_FORMAT[kind], **_QUALITY[kind])
