"""Files that name photos and their classes, row by row: CSV, Parquet, COCO JSON, WebDataset's tar shards.

A kind of list is one function here, from a file to rows; `READERS` has it by suffix.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from whycam.data.coco import check_names, find_photo_folder, load_coco
from whycam.data.csv_file import open_csv
from whycam.data.folder import VAL_NAMES
from whycam.data.images import IMAGE_SUFFIXES
from whycam.data.several import split_words
from whycam.data.shards import list_members, name_member, read_member
from whycam.data.walk import is_photo_name
from whycam.errors import UserError, as_clause

_PATHS, _LABELS, _SPLIT = ("path", "file", "image", "photo", "filename"), ("label", "class"), "split"
# Columns that name several classes.
_SETS = ("labels", "classes", "tags")
EXPECTED = (
    "expected the columns path,label (and split, train or val, if you like): a photo below the list's own folder, or "
    "its whole path, and the name of its class; of photos with several classes path,labels (cat;dog), or a column of 0 "
    "and 1 for each class"
)
EXPECTED_OF_SHARDS = (
    "expected KEY.cls or KEY.json (with label) beside KEY.jpg in each shard, or a folder for each class in it"
)
SPLITS = {"": "", "train": "train", **dict.fromkeys(VAL_NAMES, "val")}
# What stands in the column of a class.
_FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
# Other words for these: a column of them is meant to be a class's.
_MEANT = {"yes", "no", "y", "n", "t", "f", "on", "off", "x", "present", "absent", "positive", "negative", "-1"}


@dataclass(frozen=True)
class Row:
    """One line of a list.

    Attributes:
        path: the photo, or empty.
        label: the name of its class, or empty; of several, all of them.
        split: train, val, or empty where that is not said.
        where: which line, for people.
        labels: its classes where these go together, none to all; else None.
    """

    path: str
    label: str
    split: str
    where: str
    labels: tuple[str, ...] | None = None


@dataclass
class Told:
    """What a reader says beside its rows, once they are read.

    Attributes:
        folder: that paths are below.
        known: the classes that columns or categories name, on photos or not.
        notes: sentences on what does not count.
    """

    folder: Path
    known: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Columns:
    """The names of a table's columns; those for label and split may be empty.

    Attributes:
        has_several: the label names several classes.
        others: where no column names classes: those that may be classes themselves.
    """

    path: str
    label: str
    split: str
    has_several: bool = False
    others: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Those that are read."""
        return (self.path, self.label, self.split, *self.others)


# Which row, for people, and its cells in the order of `_Columns.names`.
_Cells = Iterable[tuple[str, Sequence[Any]]]


def _read_csv(place: Path, told: Told) -> Iterator[Row]:
    with open_csv(place, EXPECTED) as table:
        columns = _find_columns(place, [name for name in table.fieldnames or () if name])
        names = columns.names
        rows = ((f"line {table.line_num}", [cells.get(name) for name in names]) for cells in table)
        yield from _make_rows(place, columns, rows, told)


def _read_parquet(place: Path, told: Told) -> Iterator[Row]:
    import pyarrow as pa  # noqa: PLC0415 - slow to import
    import pyarrow.parquet as pq  # noqa: PLC0415 - as above

    def list_cells(table: pq.ParquetFile, names: Sequence[str]) -> _Cells:
        number = 0
        for batch in table.iter_batches(columns=[name for name in names if name]):
            columns = [batch.column(name).to_pylist() if name else [None] * batch.num_rows for name in names]
            for cells in zip(*columns, strict=True):
                number += 1
                yield f"row {number}", cells

    try:
        with pq.ParquetFile(place) as table:
            columns = _find_columns(place, table.schema_arrow.names)
            yield from _make_rows(place, columns, list_cells(table, columns.names), told)
    except (OSError, pa.ArrowException) as error:
        raise _make_error(place, error) from None


def _make_error(place: Path, error: Exception) -> UserError:
    return UserError(f"'{place}' can't be read as a list ({as_clause(error)}); {EXPECTED}.")


def _find_columns(place: Path, columns: Sequence[str]) -> _Columns:
    path, label, several = (next((name for name in known if name in columns), "") for known in (_PATHS, _LABELS, _SETS))
    split = _SPLIT if _SPLIT in columns else ""
    others = () if label or several else tuple(name for name in columns if name not in {*_PATHS, split})
    if not path or not (label or several or others):
        raise _make_columns_error(place, columns)
    return _Columns(path, label or several, split, has_several=not label and bool(several), others=others)


def _make_columns_error(
    place: Path, columns: Sequence[str], others: Mapping[str, tuple[str, str]] | None = None
) -> UserError:
    found = "".join(f" ({text!r} in {name}, {where})" for name, (where, text) in list((others or {}).items())[:1])
    return UserError(f"'{place}' has the columns {', '.join(columns) or 'none'}{found}; {EXPECTED}. Rename them.")


def _make_rows(place: Path, columns: _Columns, cells: _Cells, told: Told) -> Iterator[Row]:
    if columns.others:
        yield from _read_flags(place, columns, list(cells), told)
        return
    for where, row in cells:
        path, label, split = row
        if columns.has_several:
            names = _read_several(label)
            yield Row(_to_text(path), ";".join(names), _read_split(place, split, where), where, names)
        else:
            yield Row(_to_text(path), _to_text(label), _read_split(place, split, where), where)


def _read_several(cell: Any) -> tuple[str, ...]:
    """The classes in a cell: a text, or Parquet's list."""
    if isinstance(cell, list | tuple):
        return tuple(dict.fromkeys(word for one in cell if (word := _to_text(one))))
    return split_words(_to_text(cell))


def _read_flags(
    place: Path, columns: _Columns, cells: Sequence[tuple[str, Sequence[Any]]], told: Told
) -> Iterator[Row]:
    """Rows of a table with a column of 0 and 1 for each class; a column of other things does not count."""
    classes, others = [], {}
    for k, name in enumerate(columns.others, start=3):
        found = [(where, _to_text(row[k])) for where, row in cells]
        words = {text.lower() for _, text in found}
        odd = next(((where, text) for where, text in found if text.lower() not in _FLAGS), None)
        if odd is None:
            classes.append((name, k))
        elif words & _FLAGS.keys() or (words & _MEANT and words <= {*_MEANT, ""}):
            has = ", which has 0 or 1 in other lines" if words & _FLAGS.keys() else ""
            raise UserError(
                f"The {odd[0]} of '{place}' has {odd[1]!r} in the column {name!r}{has}; expected 0 or 1 in each line "
                "of a class's column. Correct it; if the column is no class, take it out."
            )
        else:
            others[name] = odd
    if not classes:
        raise _make_columns_error(place, [name for name in columns.names if name], others)
    told.known += [name for name, _ in classes]
    if others:
        listed = ", ".join(f"{name} ({text!r} in {where})" for name, (where, text) in others.items())
        told.notes.append(f"Its columns {listed} have neither 0 nor 1, and do not count.")
    for where, row in cells:
        names = tuple(name for name, k in classes if _FLAGS[_to_text(row[k]).lower()])
        yield Row(_to_text(row[0]), ";".join(names), _read_split(place, row[2], where), where, names)


def _to_text(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()


def _read_split(place: Path, cell: Any, where: str) -> str:
    split = _to_text(cell)
    if split.lower() not in SPLITS:
        raise UserError(
            f"The {where} of '{place}' has the split {split!r}; expected train or val, or nothing. Correct it."
        )
    return SPLITS[split.lower()]


def _read_coco(place: Path, told: Told) -> Iterator[Row]:
    """A row for each photo: the categories of its objects; ids that the file does not explain are told of."""
    coco = load_coco(place)
    files = [str(image["file_name"]) for image in coco.images.values()]
    check_names(place, files)
    told.folder = find_photo_folder(place, files)
    told.known += dict.fromkeys(coco.names.values())
    sets: dict[Any, dict[str, None]] = {image: {} for image in coco.images}
    lost = {"photos that its list of images lacks": 0, "categories that its list of these lacks": 0}
    for (image, category), objects in coco.objects.items():
        if image not in coco.images:
            lost["photos that its list of images lacks"] += len(objects)
        elif category not in coco.names:
            lost["categories that its list of these lacks"] += len(objects)
        else:
            sets[image][coco.names[category]] = None
    told.notes += [
        f"{count:,} of its annotations are of {what}, and do not count." for what, count in lost.items() if count
    ]
    told.notes += _tell_shared(coco.names)
    for image, names in sets.items():
        yield Row(_to_text(coco.images[image]["file_name"]), ";".join(names), "", f"image {image!r}", tuple(names))


def _tell_shared(names: Mapping[Any, str]) -> Iterator[str]:
    """That categories bear one name, and so are one class."""
    ids = defaultdict(list)
    for number, name in names.items():
        ids[name].append(number)
    if shared := {name: numbers for name, numbers in ids.items() if len(numbers) > 1}:
        listed = ", ".join(f"{name!r} ({', '.join(map(str, numbers))})" for name, numbers in list(shared.items())[:5])
        yield f"Several of its categories are called {listed}, and count as one class ({len(shared)} such names)."


def find_shards(folder: Path) -> list[Path]:
    """The shards in a folder, and in its train/ and val/."""
    places = [folder, *(folder / name for name in SPLITS if name)]
    return [shard for place in places for shard in sorted(place.glob("*.tar"))]


def read_shard(shard: Path, about: Told) -> Iterator[Row]:
    """A row for each photo: what KEY.cls or KEY.json (`label`, `labels`) says, else the name of its folder."""
    del about  # all that a shard says is in its rows
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
        names = None if isinstance(label, str) else label
        text = label if isinstance(label, str) else ";".join(label)
        yield Row(str(name_member(shard, name)), text, split, f"file '{name}' of '{shard.name}'", names)
    for key in keys.keys() - seen:
        yield Row("", "?", split, f"file '{keys[key]}' of '{shard.name}'")


def _find_key(name: str) -> str:
    """What the files of one sample have in common: WebDataset's key, all before the name's first dot."""
    path = PurePosixPath(name)
    return str(path.with_name(path.name.partition(".")[0] or path.name))


def _read_label(shard: Path, member: str) -> str | tuple[str, ...]:
    text = read_member(shard, member).decode("utf-8", "replace").strip()
    if member.endswith(".cls"):
        return text
    try:
        about = json.loads(text)
    except ValueError:
        return ""
    if not isinstance(about, dict):
        return ""
    several = about.get("labels") if "label" not in about else None
    return _read_several(several) if isinstance(several, list) else str(about.get("label", "")).strip()


def _find_split(shard: Path) -> str:
    """By the name of the shard or of its folder: val-000.tar, or val/000.tar."""
    words = (shard.name.lower(), f"{shard.parent.name.lower()}.")
    is_val = any(word.startswith(name) and not word[len(name)].isalpha() for word in words for name in VAL_NAMES)
    return "val" if is_val else ""


READERS: dict[str, Callable[[Path, Told], Iterator[Row]]] = {
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".json": _read_coco,
    ".tar": read_shard,
}
