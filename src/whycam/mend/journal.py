"""`edits.jsonl`: what people said, one edit a line; lines are added under a lock, and none is ever changed.

A line counts once it is whole. What a kill cut off in the middle is ignored and told, and the next line starts anew
behind it; an append that returned is on the disk.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock
from pydantic import ValidationError

from whycam.errors import UserError
from whycam.mend.edits import FORMAT, KINDS, Edit, tell_fault
from whycam.runs import tell_disk_errors, to_json

NAME = "edits.jsonl"
# So many lines that can't be read are told one by one.
_TOLD = 5


@dataclass(frozen=True)
class Reading:
    """What a journal says.

    Attributes:
        edits: in the order in which they were said, each once.
        notes: sentences on lines that don't count.
        content: the file's bytes that were read.
        unread: how many lines no edit could be read from, beside one that was cut off.
    """

    edits: tuple[Edit, ...] = ()
    notes: tuple[str, ...] = ()
    content: bytes = b""
    unread: int = 0


@dataclass(frozen=True)
class Journal:
    """The journal in a file, which need not be there yet."""

    path: Path

    @classmethod
    def of(cls, place: Path) -> Journal:
        """That of a run's folder, or the file itself."""
        return cls(place / NAME if place.is_dir() else place)

    def append(self, edits: Sequence[Edit]) -> None:
        """Adds a line for each edit; all of them are on the disk when this returns.

        After an error none of them is in the file; a kill may leave the first ones.

        Raises:
            UserError: the folder can't be written to, or the disk is full.
        """
        lines = b"".join(to_json(edit.to_json(), allow_nan=False) for edit in edits)
        with tell_disk_errors(self.path.parent):
            is_new = not self.path.exists()
            # Before the lock, which would wait for ever in a place that takes no files.
            self.path.open("ab").close()
        with tell_disk_errors(self.path.parent), self.hold():
            with self.path.open("ab+", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                try:
                    _write(file, (b"\n" if _is_torn(file, end) else b"") + lines)
                    os.fsync(file.fileno())
                except OSError:
                    with suppress(OSError):
                        file.truncate(end)
                    raise
            if is_new:
                _sync_folder(self.path.parent)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keeps other processes from adding lines."""
        with FileLock(self.path.with_name(f".{self.path.name}.lock")):
            yield

    def read(self) -> Reading:
        """The edits; needs no lock, and no right to write. Of no file there are none.

        Raises:
            UserError: a file that can't be read.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return Reading()
        except OSError as error:
            raise UserError(
                f"'{self.path.absolute()}' can't be read: {error.strerror}. Expected a journal. Check the path."
            ) from None
        return read_lines(content)


def read_lines(content: bytes) -> Reading:
    """The edits of a journal's bytes."""
    edits: dict[str, Edit] = {}
    notes: list[str] = []
    unread = 0
    lines = content.split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        edit, fault = _read_line(line)
        if edit is not None:
            first = edits.setdefault(edit.id, edit)
            fault = "" if first == edit else f"has the id of another edit ({edit.id}), which was there first"
        elif number == len(lines):
            fault = "was cut off while it was written"
        else:
            unread += 1
        if fault:
            notes.append(f"Line {number} of the journal {fault}; it does not count.")
    left = len(notes) - _TOLD
    told = (*notes[:_TOLD], *([f"Nor do {left} lines more."] if left > 0 else []))
    return Reading(tuple(edits.values()), told, content, unread)


def _read_line(line: bytes) -> tuple[Edit | None, str]:
    """The edit of a line; or why it is none."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None, "is no JSON: it was cut off, or changed by hand"
    if not isinstance(content, dict):
        return None, "is no edit"
    kind, version = content.get("kind"), content.get("format", FORMAT)
    if version != FORMAT or (isinstance(kind, str) and kind not in KINDS):
        what = f"the kind {kind!r}" if version == FORMAT else f"format {version!r}"
        return None, f"is an edit of {what}, which a later version of whycam wrote (this one knows {', '.join(KINDS)})"
    try:
        return Edit.model_validate(content), ""
    except ValidationError as error:
        return None, f"is no edit that can be followed ({tell_fault(error)})"


def _is_torn(file: BinaryIO, end: int) -> bool:
    """Whether the last line has no end."""
    if end == 0:
        return False
    file.seek(end - 1)
    return file.read(1) != b"\n"


def _write(file: BinaryIO, content: bytes) -> None:
    """All of it: an unbuffered file may take a part at a time."""
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]


def _sync_folder(folder: Path) -> None:
    """The new name is on the disk too, where the system can say so."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
