"""The versions of a run: models trained anew by people's edits, each in a folder that is whole or not there.

They are in `RUN/versions/NNN`, laid out as a run is; 000 is the run as it was first trained. `versions/kept.json` names
the one that stands for the run, which `whycam load RUN` opens. It is one file, replaced at once: a kill leaves the
version that was kept, or the new one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import Timeout

from whycam.errors import UserError, make_busy_error
from whycam.runs import KEPT, ORIGINAL, VERSIONS, find_run, hold_lock, open_run, tell_disk_errors, write_json

# What a version is compared by, beside its summary.
COMPARISON = "comparison.json"


@dataclass(frozen=True)
class Version:
    """One version of a run.

    Attributes:
        number: three digits or more; "000" is the run as it was first trained.
        folder: laid out as a run's.
        is_kept: it stands for the run.
        summary: its `summary.json`.
        comparison: it beside the version that was kept when it was made; None of the first.
    """

    number: str
    folder: Path
    is_kept: bool
    summary: Mapping[str, Any]
    comparison: Mapping[str, Any] | None


def list_versions(run: Path) -> list[Version]:
    """All versions that are whole, the first training first.

    Raises:
        UserError: the run or a version can't be read.
    """
    kept = find_kept(run)
    places = {ORIGINAL: run} | {place.name: place for place in _iter_places(run)}
    return [
        Version(number, place, number == kept, _read(place / "summary.json"), _read_if_there(place / COMPARISON))
        for number, place in places.items()
    ]


def find_version(run: Path, number: str) -> Version:
    """The version of that number.

    Raises:
        UserError: there is none.
    """
    found = list_versions(run)
    version = next((one for one in found if one.number == number), None)
    if version is None:
        raise UserError(
            f"The run '{run.absolute()}' has no version {number!r}; expected one of "
            f"{', '.join(one.number for one in found)}. List them anew."
        )
    return version


def find_kept(run: Path) -> str:
    """The number of the version that stands for the run.

    Raises:
        UserError: its note can't be read, or it is not there.
    """
    place = find_run(run)
    return ORIGINAL if place == run else place.name


def keep(run: Path, number: str, who: str = "") -> Version:
    """The version stands for the run from now on; "000" goes back to the first training.

    Raises:
        UserError: there is no such version, or the run can't be written to.
    """
    version = find_version(run, number)
    if not (version.folder / "model" / "config.json").is_file():
        raise UserError(f"'{version.folder.absolute()}' has no model; expected a whole version. Train it again.")
    with _work_on(run):
        _note(run, version=number, who=who, time=datetime.now(UTC).isoformat(timespec="seconds"))
    return find_version(run, number)


def throw_away(run: Path, number: str) -> None:
    """Removes a version; its number is not given again.

    Raises:
        UserError: there is no such version, it stands for the run, or it is the first training.
    """
    version = find_version(run, number)
    why = (
        "is the run as it was first trained" if number == ORIGINAL else "stands for the run" if version.is_kept else ""
    )
    if why:
        raise UserError(f"The version {number} {why}; it cannot be thrown away. Name or keep another one.")
    with _work_on(run):
        # Under a name that is no version's first: a kill in between leaves none that is half there.
        gone = version.folder.with_name(f"{number}.partial")
        shutil.rmtree(gone, ignore_errors=True)
        version.folder.replace(gone)
        shutil.rmtree(gone, ignore_errors=True)


@contextmanager
def open_version(run: Path) -> Iterator[Path]:
    """The folder to make a new version in; it gets its number when the block ends without an error, else it is gone.

    Raises:
        UserError: another process trains or keeps a version of the run, or the disk is full.
    """
    with _work_on(run):
        numbers = [int(place.name) for place in _iter_places(run)]
        number = 1 + max([*numbers, int(_read_note(run).get("last", 0))])
        _note(run, last=number)
        _remove_left(run)
        with open_run(run / VERSIONS / f"{number:03}") as place:
            yield place


def sweep(run: Path) -> None:
    """Removes what a killed training left; nothing where another process works on the run, or it can't be written."""
    if _list_left(run):
        with suppress(UserError), _work_on(run):
            _remove_left(run)


def _list_left(run: Path) -> list[Path]:
    """What the making of a version leaves where it is killed."""
    return [*(run / VERSIONS).glob("*.partial"), *(run / VERSIONS).glob(".*.lock")]


def _remove_left(run: Path) -> None:
    for place in _list_left(run):
        if place.is_dir():
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink(missing_ok=True)


@contextmanager
def _work_on(run: Path) -> Iterator[None]:
    """Keeps other processes from changing the run's versions."""
    place = run / VERSIONS
    with tell_disk_errors(run):
        place.mkdir(exist_ok=True)
        try:
            with hold_lock(place):
                yield
        except Timeout:
            raise make_busy_error(place) from None


def _iter_places(run: Path) -> Iterator[Path]:
    places = (run / VERSIONS).glob("*") if (run / VERSIONS).is_dir() else ()
    yield from sorted((p for p in places if p.name.isdecimal() and p.is_dir()), key=lambda place: int(place.name))


def _read_note(run: Path) -> dict[str, Any]:
    """What the note says; nothing where there is none, or it can't be read: `find_run` tells that."""
    with suppress(OSError, ValueError):
        content = json.loads((run / VERSIONS / KEPT).read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    return {}


def _note(run: Path, **words: Any) -> None:
    write_json(run / VERSIONS / KEPT, {"version": ORIGINAL, **_read_note(run), **words})


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"'{path.absolute()}' can't be read ({type(error).__name__}); expected what whycam train writes. "
            "Train the run again."
        ) from None


def _read_if_there(path: Path) -> dict[str, Any] | None:
    return _read(path) if path.is_file() else None
