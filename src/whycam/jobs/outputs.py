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
from whycam.model.cache import find_cache


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
        files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        for file in sorted(files, key=lambda file: file == "record.json"):
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
        UserError: a finished result is at the address already, or it may not even be looked for.
    """
    if not is_address(out):
        return Destination(Path(out))
    remote = RemoteDestination(out)
    try:
        is_finished = remote.system.exists(f"{remote.root}/record.json")
    except Exception as error:  # noqa: BLE001 - every file system has errors of its own
        raise UserError(
            f"'{out}' can't be looked into: {as_clause(error)}. Expected a folder that you may read and write. "
            "Check the address and your rights."
        ) from None
    if is_finished and not overwrite:
        raise UserError(
            f"'{out}' holds a finished result already; it is never replaced by itself. "
            "Choose another address, or give --overwrite."
        )
    return remote


def check_file(out: Path, what: str, *, overwrite: bool) -> None:
    """Refuses to write where a file can't or may not lie.

    Args:
        out: the file to make.
        what: it is, such as "a report"; in the message.
        overwrite: a file of that name may be replaced.

    Raises:
        UserError: something has that name, or its folder can't be made.
    """
    if out.is_dir() or (out.exists() and not overwrite):
        do = (
            f"Choose a file's name, such as {what.rsplit(maxsplit=1)[-1]}.html."
            if out.is_dir()
            else "Choose another name, or give --overwrite."
        )
        kind = "a folder" if out.is_dir() else "a file"
        raise UserError(f"'{out.absolute()}' is there already ({kind}); {what} is one new file. {do}")
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if told := make_disk_error(error, out.parent):
            raise told from None
        raise
