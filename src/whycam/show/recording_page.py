"""The page of a recording: the watched photos with their heat at each epoch, a slider over the epochs, and curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from whycam.callbacks.recording import Snapshot
from whycam.explainer.reading import Reading
from whycam.explainer.targets import to_probabilities
from whycam.show.entries import encode_colormaps, encode_photo, make_entry
from whycam.show.page import render_page

# Of more classes, the curves are of those that change most; the table has all.
CURVE_CLASSES = 8
_WIDTH, _HEIGHT = 420, 180
_CURVES = {
    "accuracy": ("Accuracy", "share of the watched photos"),
    "on_masks": ("Heat on the masks", "share of the heat"),
    "moved": ("How far the evidence moved", "share that lies elsewhere than at the record before"),
}


@dataclass(frozen=True)
class RecordedPhoto:
    """A watched photo: its name, the index of its class, (width, height) in pixels, and a small picture."""

    name: str
    truth: int
    size_px: tuple[int, int]
    picture: Image.Image


@dataclass(frozen=True)
class RecordingPage:
    """All that the page shows.

    Attributes:
        title: the recording's name.
        about: as `recording.json` holds it.
        photos: N of them.
        snapshots: in order of the epochs, with the maps of these photos.
    """

    title: str
    about: Mapping[str, Any]
    photos: Sequence[RecordedPhoto]
    snapshots: Sequence[Snapshot]


def render_recording(page: RecordingPage) -> str:
    """The page as HTML: one file, which asks for nothing outside itself."""
    lines = [dict(shot.told) for shot in page.snapshots]
    names = list(page.about["class_names"])
    return render_page(
        "recording.html",
        styles=("viewer.css", "report.css", "recording.css"),
        script="recording.js",
        data=_make_data(page),
        page=page,
        first=lines[0],
        last=lines[-1],
        names=names,
        is_exact=all(line["method"] == "cam" for line in lines),
        curves=[curve for name in _CURVES if (curve := make_curves(lines, name, names))],
        cells=page.snapshots[-1].maps.shape[1:],
        classes=_list_classes(page, lines),
        has_masks=any(line["on_masks"] is not None for line in lines),
        has_moved=any(line["moved"] is not None for line in lines),
    )


def make_curves(lines: Sequence[Mapping[str, Any]], name: str, class_names: Sequence[str]) -> dict[str, Any] | None:
    """A number by epoch, of all photos and of classes, as points of a picture; None where under two epochs have it.

    A class's curve has gaps where it has no number. Both axes: epochs from the first to the last, shares from 0 to 1.
    """
    epochs = [line["epoch"] for line in lines]
    if sum(line[name] is not None for line in lines) < 2:
        return None
    span = epochs[-1] - epochs[0]

    def place(values: Sequence[float | None]) -> list[str]:
        """Runs of points without a gap."""
        runs: list[list[str]] = [[]]
        for epoch, value in zip(epochs, values, strict=True):
            if value is None:
                runs.append([])
            else:
                runs[-1].append(f"{(epoch - epochs[0]) / span * _WIDTH:.1f},{(1 - value) * _HEIGHT:.1f}")
        return [" ".join(run) for run in runs if run]

    each = {label: [line[f"{name}_by_class"][label] for line in lines] for label in class_names}
    chosen = sorted(each, key=lambda label: -_measure_spread(each[label]))[:CURVE_CLASSES]
    title, unit = _CURVES[name]
    return {
        "name": name,
        "title": title,
        "unit": unit,
        "width": _WIDTH,
        "height": _HEIGHT,
        "first": epochs[0],
        "last": epochs[-1],
        "whole": place([line[name] for line in lines]),
        "classes": [
            {"name": label, "number": k, "runs": place(each[label])}
            for k, label in enumerate(label for label in class_names if label in chosen)
        ],
        "is_some": len(class_names) > CURVE_CLASSES,
    }


def _measure_spread(values: Sequence[float | None]) -> float:
    there = [value for value in values if value is not None]
    return max(there) - min(there) if there else -1.0


def _list_classes(page: RecordingPage, lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row a class: its photos, and its numbers at the first and the last epoch."""
    truths = [photo.truth for photo in page.photos]
    return [
        {
            "name": name,
            "photos": truths.count(k),
            **{
                f"{number}_{when}": line[f"{number}_by_class"][name]
                for number in ("accuracy", "on_masks")
                for when, line in (("first", lines[0]), ("last", lines[-1]))
            },
            "moved_last": lines[-1]["moved_by_class"][name],
        }
        for k, name in enumerate(page.about["class_names"])
    ]


def _make_data(page: RecordingPage) -> dict[str, Any]:
    """What the script reads."""
    return {
        "classNames": page.about["class_names"],
        "colormaps": encode_colormaps(),
        "photos": [
            {
                "id": f"{i:04}",
                "name": photo.name,
                "image": encode_photo(photo.picture),
                "truth": photo.truth,
                "at": [_make_entry(page, i, shot) for shot in page.snapshots],
            }
            for i, photo in enumerate(page.photos)
        ],
        "epochs": [
            {name: shot.told[name] for name in ("epoch", "accuracy", "on_masks", "moved", "without_heat")}
            for shot in page.snapshots
        ],
        "span": [page.snapshots[0].epoch, page.snapshots[-1].epoch],
        "width": _WIDTH,
    }


def _make_entry(page: RecordingPage, i: int, shot: Snapshot) -> dict[str, Any]:
    """A photo at an epoch: the viewer's entry of its own class's map, and what was said and measured of it then."""
    photo, logits = page.photos[i], shot.logits[i]
    record = {**page.about["record"], "method": shot.told["method"], "draws_both_signs": False}
    targets, names = np.array([photo.truth]), tuple(page.about["class_names"])
    probabilities = to_probabilities(logits[None])[0]
    reading = Reading(shot.maps[i][None], logits, probabilities, targets, names, record, size_px=photo.size_px)
    entry = make_entry(reading, f"{i:04}", photo.name, image="", truth=photo.truth)
    bias = float(logits[photo.truth] - shot.maps[i].mean()) if shot.told["method"] == "cam" else None
    return {
        **{name: entry[name] for name in ("width", "height", "maps", "logits", "probabilities", "classes", "method")},
        "predicted": int(logits.argmax()),
        "bias": bias,
        "onMask": _to_number(shot.on_masks[i]),
        "moved": _to_number(shot.moved[i]),
    }


def _to_number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
