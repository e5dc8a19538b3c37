"""Photos to learn from that no class folders name: a list of paths and classes, COCO JSON, WebDataset's tar shards.

A kind of list is one function in `rows.py`, from a file to rows.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from whycam.data.folder import PhotoFolder, check_order, drop_few, list_missing, make_folder, sort_names
from whycam.data.rows import EXPECTED, EXPECTED_OF_SHARDS, READERS, SPLITS, Row, Told, find_shards, read_shard
from whycam.data.several import make_several, split_words
from whycam.data.shards import PACKED_TARS, make_packed_error
from whycam.data.sources import is_address
from whycam.data.walk import list_folders
from whycam.errors import UserError


@dataclass(frozen=True)
class Listed:
    """What a list or shards name.

    Attributes:
        root: the folder that all photos lie below.
        labels: photo -> the name of its class.
        splits: photo -> train or val; empty where nothing says it.
        notes: sentences on what was left out.
        sets: photo -> its classes where these go together, none to all; else None.
        known: the classes that columns or categories name, on photos or not.
    """

    root: Path
    labels: dict[Path, str]
    splits: dict[Path, str]
    notes: tuple[str, ...]
    sets: dict[Path, tuple[str, ...]] | None = None
    known: tuple[str, ...] = ()


def is_listed(place: Path) -> bool:
    """Whether a place to learn from is a list or shards; a folder is if it has .tar files and no class folders."""
    if not place.is_dir():
        return place.suffix.lower() in READERS or place.name.lower().endswith(PACKED_TARS)
    return bool(find_shards(place)) and all(folder.name in SPLITS for folder in list_folders(place))


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
    is_multi_label: bool = False,
) -> PhotoFolder:
    """The samples of a list or of shards; split as they say, or as `read_folder` splits a folder.

    Labels that are numbers are places in `order`, where that is given and no class of it is called so. Where classes
    go together, because the list says so or because of `is_multi_label`, see `make_several`.

    Raises:
        UserError: no such file, other columns, a photo with two labels or in both splits, labels that `order` does not
            name, fewer than two classes, a class with fewer than 2 photos, or without held-out ones where rows say so.
    """
    place = place.absolute()
    found = read_labels(place, is_multi_label=is_multi_label)
    if found.sets is not None:
        return _make_several(place, found, val_fraction, seed, allow_empty=allow_empty, order=order)
    labels = _name_numbers(found.labels, order)
    classes: dict[str, list[Path]] = defaultdict(list)
    held: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(labels):
        (held if found.splits.get(path) == "val" else classes)[labels[path]].append(path)
    _check_splits(classes, held, place)
    try:
        kept = drop_few(classes, place, allow_empty=allow_empty, thing="label")
    except UserError as error:
        raise UserError(" ".join([str(error), *_tell_joined(labels, ())])) from None
    check_order(order, kept, where=place, thing="label")
    about = PhotoFolder(
        *(found.root, (), (), (), not held, val_fraction, seed),
        left_out=list_missing(classes, kept),
        order=tuple(order),
        listed=place,
        notes=found.notes,
    )
    return make_folder(about, kept, held if held else None)


def _make_several(
    place: Path, found: Listed, val_fraction: float, seed: int, *, allow_empty: bool, order: Sequence[str]
) -> PhotoFolder:
    sets = found.sets or {}
    named = {word: word for names in sets.values() for word in names}
    words = _name_numbers({Path(word): word for word in named}, order)
    named |= {str(word): name for word, name in words.items()}
    sets = {path: tuple(named[word] for word in names) for path, names in sets.items()}
    held = {path for path, split in found.splits.items() if split == "val"}
    about = PhotoFolder(
        *(found.root, (), (), (), not held, val_fraction, seed), order=tuple(order), listed=place, notes=found.notes
    )
    return make_several(about, sets, found.known, held or None, allow_empty=allow_empty)


def read_labels(place: Path, *, is_multi_label: bool = False) -> Listed:
    """The photos that a list or shards name, with their labels, each once.

    Args:
        place: the list, or shards.
        is_multi_label: a column `label` names several classes, between ; or |.

    Raises:
        UserError: see `read_listed`.
    """
    place = place.absolute()
    if place.name.lower().endswith(PACKED_TARS):
        raise make_packed_error(str(place))
    told = Told(place if place.is_dir() else place.parent)
    if place.is_dir():
        rows: Iterable[Row] = (row for shard in find_shards(place) for row in read_shard(shard, told))
    elif place.is_file():
        rows = READERS[place.suffix.lower()](place, told)
    else:
        raise UserError(f"No file '{place}'; expected a list of photos or a tar shard. Check the path.")
    # A shard's photo without a file for its label has none that could be empty.
    has_blanks = not place.is_dir() and place.suffix.lower() != ".tar"
    return _collect(place, told, _split_rows(rows, has_blanks=has_blanks) if is_multi_label else rows)


def _split_rows(rows: Iterable[Row], *, has_blanks: bool) -> Iterator[Row]:
    for row in rows:
        is_split = row.labels is not None or not (row.label or has_blanks)
        yield row if is_split else replace(row, labels=split_words(row.label))


def _collect(place: Path, about: Told, rows: Iterable[Row]) -> Listed:
    labels: dict[Path, str] = {}
    splits: dict[Path, str] = {}
    sets: dict[Path, tuple[str, ...]] = {}
    left_out: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if not row.path or not (row.label or row.labels is not None):
            left_out["have no label" if row.path else "have a label and no photo"].append(row.where)
            continue
        if is_address(row.path):
            raise UserError(
                f"The {row.where} of '{place}' names an address, '{row.path}'; expected files: training reads "
                "each photo more than once. Copy the photos here, and list them."
            )
        path = Path(os.path.normpath(about.folder / row.path))
        if path in sets and row.labels is not None and not about.known:
            # Of names, a photo may have a line for each.
            row = replace(row, labels=tuple(dict.fromkeys((*sets[path], *row.labels))))  # noqa: PLW2901 - joined
            _check_same(place, row, path, (row.label, splits[path]))
        elif path in labels:
            left_out["name a photo a second time"].append(row.where)
            _check_same(place, row, path, (labels[path], splits[path]))
        labels[path], splits[path] = row.label, row.split
        if row.labels is not None:
            sets[path] = row.labels
    if not labels:
        told = _tell_left_out(left_out)
        expected = EXPECTED_OF_SHARDS if place.is_dir() or place.suffix.lower() == ".tar" else EXPECTED
        raise UserError(f"'{place}' names no photo with a label; {expected}. {' '.join(told)}".rstrip())
    notes = (*about.notes, *_tell_left_out(left_out), *_tell_joined(labels, sets))
    _check_there(place, labels, about)
    if sets and (empty := sum(not names for names in sets.values())):
        notes = (*notes, f"{empty:,} of its {len(sets):,} photos have no class, and count as photos of none.")
    folder = _find_root(about.folder, labels)
    return Listed(folder, labels, splits, notes, sets or None, tuple(about.known))


def _tell_joined(labels: Mapping[Path, str], sets: Collection[Path]) -> Iterator[str]:
    """That labels look like several classes, and are taken for one."""
    if found := [label for path, label in labels.items() if path not in sets and len(split_words(label)) > 1]:
        yield (
            f"{len(found):,} of its {len(labels):,} photos have a label that may name several classes, such as "
            f"{found[0]!r}, and it counts as one class of that name; --multi-label parts it."
        )


def _check_there(place: Path, paths: Collection[Path], about: Told) -> None:
    """Refuses a list of which no photo is there: its paths are of another place. What some lack is told of them."""
    if place.is_dir() or place.suffix.lower() == ".tar" or any(path.exists() for path in paths):
        return
    raise UserError(
        f"None of the {len(paths):,} photos of '{place}' is there, such as '{next(iter(paths))}'; expected paths "
        f"below '{about.folder}', or whole paths. Put the list where its paths begin, or correct them."
    )


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
