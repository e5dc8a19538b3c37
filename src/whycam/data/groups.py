"""Which group each photo belongs to, by a CSV: with or without a logo, which hospital, which camera."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from whycam.data.csv_file import open_csv
from whycam.errors import UserError
from whycam.runs import to_text

# What the columns of the CSV are called.
_PHOTO = ("file", "image", "path", "photo", "filename")
_GROUP = "group"
_EXPECTED = "expected a CSV with the columns file,group: a photo (below FOLDER, or its whole path) and any word"


def read_groups(path: Path, photos: Sequence[Path], root: Path) -> dict[Path, str]:
    """Photo -> group, for those of `photos` that the CSV names; the others' group is not known.

    Args:
        path: the CSV; `file` is a whole path, or one below `root` or below the CSV's own folder.
        photos: the photos that are meant; a row may name others that exist, such as those of another split.
        root: the folder of photos.

    Raises:
        UserError: no such file, other columns, no rows, a row without a group, a photo that is not there or that has
            two groups, none of `photos` in it, or one group alone.
    """
    wanted, found = {os.path.normpath(photo.absolute()): photo for photo in photos}, dict[Path, str]()
    missing: list[tuple[int, str]] = []
    for line, name, group in _read_rows(path):
        places = [os.path.normpath((base / name).absolute()) for base in (root, path.parent)]
        place = next((place for place in places if place in wanted), None)
        if place is None:
            if not any(Path(place).exists() for place in places):
                missing.append((line, name))
            continue
        if found.setdefault(wanted[place], group) != group:
            raise UserError(
                f"Line {line} of '{path.absolute()}' puts '{name}' into the group {group!r}, and a line before into "
                f"{found[wanted[place]]!r}; expected one group a photo. Keep one of the lines."
            )
    if missing:
        raise UserError(
            f"'{path.absolute()}' names {len(missing):,} photos that are not there (line {missing[0][0]}: "
            f"'{missing[0][1]}'); expected paths below '{root.absolute()}', or whole ones. Correct or remove them."
        )
    if not found:
        raise UserError(
            f"'{path.absolute()}' names none of the {len(photos):,} photos of '{root.absolute()}' that are read (the "
            f"first: '{to_text(photos[0]) if photos else ''}'). Check the folder, or add their rows."
        )
    if len(words := set(found.values())) < 2:
        raise UserError(
            f"'{path.absolute()}' has one group, {next(iter(words))!r}, for all {len(found):,} photos; expected two or "
            "more. Give the photos with the suspected cause and those without it different words."
        )
    return found


def _read_rows(path: Path) -> list[tuple[int, str, str]]:
    """(line, photo, group) of each row."""
    with open_csv(path, _EXPECTED) as table:
        columns = [name for name in table.fieldnames or () if name]
        rows = [(table.line_num, row) for row in table]
    photo = next((name for name in _PHOTO if name in columns), None)
    if photo is None or _GROUP not in columns:
        raise UserError(
            f"'{path.absolute()}' has the columns {', '.join(columns) or 'none'}; {_EXPECTED}. Rename them."
        )
    if not rows:
        raise UserError(f"'{path.absolute()}' has no rows; {_EXPECTED}. Add a line for each photo.")
    listed = [(line, (row[photo] or "").strip(), (row[_GROUP] or "").strip()) for line, row in rows]
    if line := next((line for line, name, group in listed if not name or not group), None):
        raise UserError(f"Line {line} of '{path.absolute()}' lacks its photo or its group; {_EXPECTED}. Fill it in.")
    return listed
