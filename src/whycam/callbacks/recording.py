"""A recording on disk: `recording.json`, a line an epoch in `epochs.jsonl`, raw maps in `maps/`, small photos.

A line is written after the maps that it names, each whole or not at all: whenever training is killed, the epochs before
are there.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whycam.errors import UserError, as_clause
from whycam.made import add_to_list
from whycam.runs import open_atomic, read_result, tell_disk_errors, write_json, write_lines

FILE, LINES = "recording.json", "epochs.jsonl"
_MAKER = "a training with whycam.callbacks"


@dataclass(frozen=True)
class Snapshot:
    """The watched photos at one epoch.

    Attributes:
        epoch: how many were finished; 0 is before training.
        maps: (N, h, w) float32 raw maps of the photos' own classes.
        logits: (N, K) float32.
        on_masks: (N,) share of the heat on the mask; NaN without one.
        moved: (N,) how far the evidence moved since the snapshot before; NaN where that can't be told.
        told: the line in `epochs.jsonl`.
    """

    epoch: int
    maps: np.ndarray
    logits: np.ndarray
    on_masks: np.ndarray
    moved: np.ndarray
    told: Mapping[str, Any]


@dataclass(frozen=True)
class Recording:
    """What a recording's folder holds beside the maps.

    Attributes:
        folder: where it lies.
        about: `recording.json`: classes, photos, how maps are made, what the numbers mean.
        epochs: the lines, in order.
    """

    folder: Path
    about: Mapping[str, Any]
    epochs: Sequence[Mapping[str, Any]]

    def read(self, line: Mapping[str, Any]) -> Snapshot:
        """The snapshot of a line.

        Raises:
            UserError: its file of maps is missing or damaged.
        """
        path = self.folder / str(line["maps"])
        try:
            with np.load(path, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in ("maps", "logits", "on_masks", "moved")}
        # What NumPy, zipfile and zlib say of a damaged file is about their own insides.
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            why = (error.strerror or "it is cut off") if isinstance(error, OSError) else "it is damaged, or cut off"
            raise self._make_maps_error(path, line, why) from None
        photos, classes = len(self.about["photos"]), len(self.about["class_names"])
        shapes = {name: values.shape for name, values in found.items()}
        is_whole = shapes["logits"] == (photos, classes) and len(shapes["maps"]) == 3 and shapes["maps"][0] == photos
        if not is_whole or shapes["on_masks"] != (photos,) or shapes["moved"] != (photos,):
            raise self._make_maps_error(path, line, f"it is not of {photos} photos and {classes} classes")
        return Snapshot(int(line["epoch"]), told=line, **found)

    @staticmethod
    def _make_maps_error(path: Path, line: Mapping[str, Any], why: str) -> UserError:
        return UserError(
            f"'{path.absolute()}' can't be read as the maps of epoch {line['epoch']} ({why}); expected what {_MAKER} "
            f"writes. Take the epoch's line out of {LINES}, and the others can be shown."
        )


def is_recording(folder: Path) -> bool:
    """Whether a folder, or its recording.json, is one."""
    return (folder / FILE).is_file() or (folder.name == FILE and folder.is_file())


def read_recording(folder: Path) -> Recording:
    """A recording, finished or not.

    Raises:
        UserError: it is none, or a file of it can't be read.
    """
    folder = folder.parent if folder.name == FILE else folder
    about = read_result(folder, FILE, "photos", _MAKER)
    path = folder / LINES
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        epochs = [(line["epoch"], line["maps"]) for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"'{path.absolute()}' can't be read as a recording's epochs ({type(error).__name__}: {as_clause(error)}); "
            f"expected a line of JSON for each, as {_MAKER} writes them."
        ) from None
    if not epochs:
        raise UserError(f"'{path.absolute()}' has no epoch yet; expected at least one. Wait for the first.")
    return Recording(folder, about, lines)


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """What stays the same over the epochs; `photos/` and `maps/` are made beside it."""
    for name in ("photos", "maps"):
        (folder / name).mkdir(exist_ok=True)
    write_json(folder / FILE, about)


def add_snapshot(folder: Path, snapshot: Snapshot, before: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Writes a snapshot behind the lines `before`; gives all lines.

    Raises:
        UserError: the disk is full.
    """
    with tell_disk_errors(folder):
        # To an open file: a path without .npz at its end would get one.
        with open_atomic(folder / str(snapshot.told["maps"])) as part, part.open("wb") as file:
            np.savez_compressed(
                file,
                maps=snapshot.maps,
                logits=snapshot.logits,
                on_masks=snapshot.on_masks,
                moved=snapshot.moved,
            )
        add_to_list(folder, str(snapshot.told["maps"]))
        lines = [*before, snapshot.told]
        write_lines(folder / LINES, lines)
    return lines
