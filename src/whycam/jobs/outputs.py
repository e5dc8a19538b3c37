"""Where results go: a folder here, or one at an address, to which each photo's files are sent when they are done."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from whycam.data.sources import find_filesystem, is_address
from whycam.errors import UserError, as_clause, make_disk_error
from whycam.made import LIST, check_replaceable, is_record, tell_foreign, tell_names
from whycam.model.cache import find_cache

_RECORD = "record.json"
# What an interrupted run leaves at an address, and what it begins with.
_BEGUN = {"overlays", "heatmaps", "maps", "plan.json", "plan.jsonl"}
_UNFINISHED = {*_BEGUN, "explanations", "explanations.csv", "explanations.parquet"}


class Destination:
    """A folder on this machine: nothing has to be sent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def send(self, folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        """Passes on the files that the rows of one photo name."""

    def finish(self, folder: Path) -> None:
        """Passes on what is left: the table and the record, the record last."""

    def clean(self) -> None:
        """Leaves nothing behind but the result."""


class RemoteDestination(Destination):
    """A folder at an address; the files lie in the cache until they are sent."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.system, self.root = find_filesystem(address.rstrip("/"))
        name = hashlib.blake2b(os.fsencode(address), digest_size=8).hexdigest()
        super().__init__(find_cache() / "outgoing" / name)

    def send(self, folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        """See Destination."""
        for row in rows:
            for kind in ("overlay", "heatmap", "map"):
                if row.get(kind):
                    self._move(folder, row[kind])

    def finish(self, folder: Path) -> None:
        """See Destination."""
        files = [
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.name != LIST
        ]
        for file in sorted(files, key=lambda file: file == _RECORD):
            self._move(folder, file)

    def _move(self, folder: Path, file: str) -> None:
        target = f"{self.root}/{file}"
        try:
            self.system.makedirs(target.rpartition("/")[0], exist_ok=True)
            self.system.put_file(str(folder / file), target)
        except Exception as error:
            raise UserError(
                f"'{self.address}/{file}' can't be written: {as_clause(error)}. Check your rights, "
                "then run the same command with --resume."
            ) from error
        (folder / file).unlink()

    def clean(self) -> None:
        """See Destination."""
        shutil.rmtree(self.folder, ignore_errors=True)


def choose_destination(out: str, *, overwrite: bool) -> Destination:
    """Where the results go.

    Raises:
        UserError: a finished result, or something else, is at the address already, or it may not even be looked for.
    """
    if not is_address(out):
        return Destination(Path(out))
    remote = RemoteDestination(out)
    try:
        found = _list_names(remote)
        record = remote.system.cat_file(f"{remote.root}/{_RECORD}") if _RECORD in found else b""
    except Exception as error:  # noqa: BLE001 - every file system has errors of its own
        raise UserError(
            f"'{out}' can't be looked into: {as_clause(error)}. Expected a folder that you may read and write. "
            "Check the address and your rights."
        ) from None
    is_finished = is_record(record)
    if not is_finished and found and not (found <= _UNFINISHED and found & _BEGUN):
        raise UserError(
            f"'{out}' holds what WhyCAM did not make ({tell_names(sorted(found), 'entries')}); expected an empty one. "
            "--overwrite replaces only what WhyCAM made. Choose another address."
        )
    if is_finished and not overwrite:
        raise UserError(
            f"'{out}' holds a finished result already; it is never replaced by itself. "
            "Choose another address, or give --overwrite."
        )
    return remote


def _list_names(remote: RemoteDestination) -> set[str]:
    if not remote.system.exists(remote.root):
        return set()
    entries = remote.system.ls(remote.root, detail=False, refresh=True)
    return {path.rstrip("/").rpartition("/")[2] for path in entries} - {remote.root.rpartition("/")[2], ""}


def check_file(out: Path, what: str, endings: Sequence[str], *, overwrite: bool) -> None:
    """Refuses to write where a file can't or may not lie.

    Args:
        out: the file to make.
        what: it is, such as "a report"; in the message.
        endings: of its name, with their dots; one of them is what other programs know it by.
        overwrite: a file of that name may be replaced where WhyCAM made it.

    Raises:
        UserError: another ending, something that has that name, or a folder for it that can't be made.
    """
    if out.is_dir():
        do = f"Choose a file's name, such as {what.rsplit(maxsplit=1)[-1]}{endings[0]}."
        raise UserError(f"'{out.absolute()}' is there already (a folder); {what} is one new file. {do}")
    if out.suffix.lower() not in endings:
        found = f"ends in {out.suffix}" if out.suffix else "has no ending"
        raise UserError(
            f"'{out}' {found}; {what} is a file that ends in {' or '.join(endings)}. Take '{out.stem}{endings[0]}'."
        )
    if out.exists():
        if overwrite:
            check_replaceable(out)
        else:
            do = "." if tell_foreign(out) else ", or give --overwrite."
            raise UserError(
                f"'{out.absolute()}' is there already (a file); {what} is one new file. Choose another name{do}"
            )
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if told := make_disk_error(error, out.parent):
            raise told from None
        raise
