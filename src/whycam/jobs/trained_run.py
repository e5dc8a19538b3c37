"""A training run's folder as the jobs read it: what it says, and the photos that it held out and learnt from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whycam.data.annotations import Annotation, name_class
from whycam.data.listed import read_labels
from whycam.data.walk import find_images
from whycam.errors import UserError, as_clause
from whycam.runs import find_data, find_run, find_source, from_text, read_columns


@dataclass(frozen=True)
class Run:
    """What a training run's folder says.

    Attributes:
        place: where it is said: the folder itself, or that of the version of the run that was kept.
        summary: summary.json.
        epochs: the lines of metrics.jsonl.
        photos: (path below the data's folder, true class) of each held-out photo; of classes that go together all of
            them, with ; between.
    """

    folder: Path
    place: Path
    summary: dict[str, Any]
    epochs: tuple[dict[str, Any], ...]
    photos: tuple[tuple[str, str], ...]

    @property
    def is_multi_label(self) -> bool:
        """Whether its photos have several classes, all of which are known."""
        return bool(self.summary.get("multi_label"))


def read_run(folder: Path) -> Run | None:
    """The run in that folder; None where there is none.

    Raises:
        UserError: a file of the run is damaged.
    """
    if not (folder / "summary.json").is_file():
        return None
    place = find_run(folder)
    try:
        summary = json.loads((place / "summary.json").read_text(encoding="utf-8"))
        lines = (place / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        table = read_columns(place / "predictions.parquet", ["path", "truth"])
        epochs = tuple(json.loads(line) for line in lines)
    except (OSError, ValueError) as error:
        raise UserError(
            f"The run '{place.absolute()}' can't be read whole ({as_clause(error)}); expected summary.json, "
            "metrics.jsonl and predictions.parquet as whycam train writes them. Train again, or name its model/ and a "
            "FOLDER of photos."
        ) from None
    return Run(folder, place, summary, epochs, tuple(zip(table["path"], table["truth"], strict=True)))


def list_trained(run: Run, root: Path) -> list[Annotation]:
    """The photos that a run learnt from, with the words for their class; none where they are no longer there.

    Args:
        run: what its folder says.
        root: where its photos are now.
    """
    held = {find_photo(root.absolute(), path) for path, _ in run.photos}
    place = find_source(run.place, run.summary["data"])
    if "listed" not in run.summary["data"]:
        below = (root / "train" if (root / "train").is_dir() else root).absolute()
        found = [Annotation(path.absolute(), name_class(path, below)) for path in find_images([below])]
    elif place.exists():
        labels = read_labels(place, is_multi_label=run.is_multi_label).labels
        found = [Annotation(path, (label,)) for path, label in labels.items()]
    else:
        found = []
    return [one for one in found if one.photo not in held]


def find_trained(model: str) -> list[Annotation]:
    """What `list_trained` gives of the run of that name, its photos where they were; none of what is no run.

    Raises:
        UserError: a file of the run is damaged.
    """
    run = read_run(Path(model))
    if run is None:
        return []
    root = find_data(run.place, run.summary["data"])
    return list_trained(run, root) if root.is_dir() else []


def find_photo(root: Path, told: str) -> Path:
    """The photo that a table tells: a name that is no UTF-8 stands there as text."""
    path = root / told
    return path if path.exists() else root / from_text(told)
