"""Photos to learn from that no class folders name: a CSV or Parquet of path and label, WebDataset's tar shards.

A kind of list is one function here, from a file to rows.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from whycam.data.csv_file import open_csv
from whycam.data.folder import VAL_NAMES, PhotoFolder, check_order, drop_few, list_missing, make_folder, sort_names
from whycam.data.images import IMAGE_SUFFIXES
from whycam.data.shards import PACKED_TARS, list_members, make_packed_error, name_member, read_member
from whycam.data.sources import is_address
from whycam.data.walk import is_photo_name, list_folders
from whycam.errors import UserError, as_clause

_PATHS, _LABELS, _SPLIT = ("path", "file", "image", "photo", "filename"), ("label", "class"), "split"
_EXPECTED = (
    "expected the columns path,label (and split, train or val, if you like): a photo below the list's own folder, or "
    "its whole path, and the name of its class"
)
_EXPECTED_OF_SHARDS = (
    "expected KEY.cls or KEY.json (with label) beside KEY.jpg in each shard, or a folder for each class in it"
)
_SPLITS = {"": "", "train": "train", **dict.fromkeys(VAL_NAMES, "val")}


@dataclass(frozen=True)
class Row:
    """One line of a list.

    Attributes:
        path: the photo, or empty.
        label: the name of its class, or empty.
        split: train, val, or empty where that is not said.
        where: which line, for people.
    """

    path: str
    label: str
    split: str
    where: str


@dataclass(frozen=True)
class Listed:
    """What a list or shards name.

    Attributes:
        root: the folder that all photos lie below.
        labels: photo -> the name of its class.
        splits: photo -> train or val; empty where nothing says it.
        notes: sentences on what was left out.
    """

    root: Path
    labels: dict[Path, str]
    splits: dict[Path, str]
    notes: tuple[str, ...]


def is_listed(place: Path) -> bool:
    """Whether a place to learn from is a list or shards; a folder is if it has .tar files and no class folders."""
    if not place.is_dir():
        return place.suffix.lower() in _READERS or place.name.lower().endswith(PACKED_TARS)
    return bool(_find_shards(place)) and all(folder.name in _SPLITS for folder in list_folders(place))


def refuse_listed(place: Path) -> None:
    """For what takes photos alone.

    Raises:
        UserError: it is a list, or shards.
    """
    if is_listed(place):
        raise UserError(
            f"'{place}' is a list or holds shards, which training, audits and checks take; expected photos here: "
            "CLASS/photo.jpg, or photos in one folder. Give the folder that they are in."
        )


def read_listed(
    place: Path,
    *,
    val_fraction: float = 0.2,
    seed: int = 0,
    allow_empty: bool = False,
    order: Sequence[str] = (),
) -> PhotoFolder:
    """The samples of a list or of shards; split as they say, or as `read_folder` splits a folder.

    Labels that are numbers are places in `order`, where that is given and no class of it is called so.

    Raises:
        UserError: no such file, other columns, a photo with two labels or in both splits, labels that `order` does not
            name, fewer than two classes, a class with fewer than 2 photos, or without held-out ones where rows say so.
    """
    place = place.absolute()
    found = read_labels(place)
    labels = _name_numbers(found.labels, order)
    classes: dict[str, list[Path]] = defaultdict(list)
    held: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(labels):
        (held if found.splits.get(path) == "val" else classes)[labels[path]].append(path)
    _check_splits(classes, held, place)
    kept = drop_few(classes, place, allow_empty=allow_empty, thing="label")
    check_order(order, kept, where=place, thing="label")
    about = PhotoFolder(
        *(found.root, (), (), (), not held, val_fraction, seed),
        left_out=list_missing(classes, kept),
        order=tuple(order),
        listed=place,
        notes=found.notes,
    )
    return make_folder(about, kept, held if held else None)


def read_labels(place: Path) -> Listed:
    """The photos that a list or shards name, with their labels, each once.

    Raises:
        UserError: see `read_listed`.
    """
    place = place.absolute()
    if place.name.lower().endswith(PACKED_TARS):
        raise make_packed_error(str(place))
    if place.is_dir():
        return _collect(place, place, (row for shard in _find_shards(place) for row in _read_shard(shard)))
    if not place.is_file():
        raise UserError(f"No file '{place}'; expected a list of photos or a tar shard. Check the path.")
    return _collect(place, place.parent, _READERS[place.suffix.lower()](place))


def _collect(place: Path, folder: Path, rows: Iterable[Row]) -> Listed:
    labels: dict[Path, str] = {}
    splits: dict[Path, str] = {}
    left_out: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if not row.path or not row.label:
            left_out["have no label" if row.path else "have a label and no photo"].append(row.where)
            continue
        if is_address(row.path):
            raise UserError(
                f"The {row.where} of '{place}' names an address, '{row.path}'; expected files: training reads "
                "each photo more than once. Copy the photos here, and list them."
            )
        path = Path(os.path.normpath(folder / row.path))
        if path in labels:
            left_out["name a photo a second time"].append(row.where)
            _check_same(place, row, path, (labels[path], splits[path]))
        labels[path], splits[path] = row.label, row.split
    if not labels:
        told = _tell_left_out(left_out)
        expected = _EXPECTED_OF_SHARDS if place.is_dir() or place.suffix.lower() == ".tar" else _EXPECTED
        raise UserError(f"'{place}' names no photo with a label; {expected}. {' '.join(told)}".rstrip())
    return Listed(_find_root(folder, labels), labels, splits, _tell_left_out(left_out))


def _check_same(place: Path, row: Row, path: Path, before: tuple[str, str]) -> None:
    if before != (row.label, row.split):
        then, now = (f"{label!r}{' in ' + split if split else ''}" for label, split in (before, (row.label, row.split)))
        raise UserError(
            f"The {row.where} of '{place}' has '{path}' as {now}, and a line before as {then}; expected one label and "
            "one split a photo. Keep one of the lines."
        )


def _tell_left_out(left_out: dict[str, list[str]]) -> tuple[str, ...]:
    return tuple(
        f"{len(found):,} of its lines {why} and were left out, such as the {found[0]}."
        for why, found in left_out.items()
    )


def _find_root(folder: Path, paths: Iterable[Path]) -> Path:
    """The list's own folder; where photos lie elsewhere, the folder that all lie below."""
    if all(path.is_relative_to(folder) for path in paths):
        return folder
    return Path(os.path.commonpath([path.parent for path in paths]))


def _name_numbers(labels: dict[Path, str], order: Sequence[str]) -> dict[Path, str]:
    words = set(labels.values())
    if not order or words & set(order) or not all(word.isdecimal() and int(word) < len(order) for word in words):
        return labels
    return {path: order[int(word)] for path, word in labels.items()}


def _check_splits(classes: dict[str, list[Path]], held: dict[str, list[Path]], place: Path) -> None:
    if not held:
        return
    unlike = {"to train on": held.keys() - classes.keys(), "held out": classes.keys() - held.keys()}
    if found := [f"{word!r} has no photo {what}" for what, words in unlike.items() for word in sort_names(words)]:
        raise UserError(
            f"'{place}' holds photos out, but not of each class: {', '.join(found[:5])} ({len(found)} such); expected "
            "every class in both splits. Add photos, or leave the splits out: one is made then."
        )


def _read_csv(place: Path) -> Iterator[Row]:
    with open_csv(place, _EXPECTED) as table:
        names = _find_columns(place, [name for name in table.fieldnames or () if name])
        for cells in table:
            yield _make_row(place, [cells.get(name) for name in names], f"line {table.line_num}")


def _read_parquet(place: Path) -> Iterator[Row]:
    import pyarrow as pa  # noqa: PLC0415 - slow to import
    import pyarrow.parquet as pq  # noqa: PLC0415 - as above

    try:
        with pq.ParquetFile(place) as table:
            names = _find_columns(place, table.schema_arrow.names)
            number = 0
            for batch in table.iter_batches(columns=[name for name in names if name]):
                columns = [batch.column(name).to_pylist() if name else [None] * batch.num_rows for name in names]
                for cells in zip(*columns, strict=True):
                    number += 1
                    yield _make_row(place, cells, f"row {number}")
    except (OSError, pa.ArrowException) as error:
        raise _make_error(place, error) from None


def _make_error(place: Path, error: Exception) -> UserError:
    return UserError(f"'{place}' can't be read as a list ({as_clause(error)}); {_EXPECTED}.")


def _find_columns(place: Path, columns: Sequence[str]) -> tuple[str, str, str]:
    """The names of the columns for path, label and split; the last may be empty."""
    path, label = (next((name for name in known if name in columns), "") for known in (_PATHS, _LABELS))
    if not path or not label:
        raise UserError(f"'{place}' has the columns {', '.join(columns) or 'none'}; {_EXPECTED}. Rename them.")
    return path, label, _SPLIT if _SPLIT in columns else ""


def _make_row(place: Path, cells: Sequence[Any], where: str) -> Row:
    path, label, split = ("" if cell is None else str(cell).strip() for cell in cells)
    if split.lower() not in _SPLITS:
        raise UserError(
            f"The {where} of '{place}' has the split {split!r}; expected train or val, or nothing. Correct it."
        )
    return Row(path, label, _SPLITS[split.lower()], where)


def _find_shards(folder: Path) -> list[Path]:
    """The shards in a folder, and in its train/ and val/."""
    places = [folder, *(folder / name for name in _SPLITS if name)]
    return [shard for place in places for shard in sorted(place.glob("*.tar"))]


def _read_shard(shard: Path) -> Iterator[Row]:
    """A row for each photo: its label in KEY.cls or KEY.json (`label`) beside it, else the name of its folder."""
    members = list_members(shard)
    split = _find_split(shard)
    keys = {_find_key(name): name for name in members if PurePosixPath(name).suffix in {".cls", ".json"}}
    has_labels = any(name.endswith(".cls") for name in keys.values())
    seen = set()
    for name in members:
        parts = PurePosixPath(name).parts
        key, _, suffix = parts[-1].partition(".")
        # Beside a.jpg, a.seg.png is something else about it.
        if not is_photo_name(parts) or (has_labels and f".{suffix.lower()}" not in IMAGE_SUFFIXES):
            continue
        key = _find_key(name)
        seen.add(key)
        label = _read_label(shard, keys[key]) if key in keys else parts[-2] if len(parts) > 1 else ""
        yield Row(str(name_member(shard, name)), label, split, f"file '{name}' of '{shard.name}'")
    for key in keys.keys() - seen:
        yield Row("", "?", split, f"file '{keys[key]}' of '{shard.name}'")


def _find_key(name: str) -> str:
    """What the files of one sample have in common: WebDataset's key, all before the name's first dot."""
    path = PurePosixPath(name)
    return str(path.with_name(path.name.partition(".")[0] or path.name))


def _read_label(shard: Path, member: str) -> str:
    text = read_member(shard, member).decode("utf-8", "replace").strip()
    if member.endswith(".cls"):
        return text
    try:
        about = json.loads(text)
    except ValueError:
        return ""
    return str(about.get("label", "")).strip() if isinstance(about, dict) else ""


def _find_split(shard: Path) -> str:
    """By the name of the shard or of its folder: val-000.tar, or val/000.tar."""
    words = (shard.name.lower(), f"{shard.parent.name.lower()}.")
    is_val = any(word.startswith(name) and not word[len(name)].isalpha() for word in words for name in VAL_NAMES)
    return "val" if is_val else ""


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".tar": _read_shard,
}
