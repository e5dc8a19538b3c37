"""Where a run on a cluster writes: a folder that every machine sees, or an address; each file whole or not there."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from whycam.config import ExplainOptions
from whycam.data.sources import find_filesystem, is_address
from whycam.errors import UserError, as_clause
from whycam.jobs.outputs import choose_destination
from whycam.runs import open_run

RECORD, PLAN, PLAN_LINES, TABLE = "record.json", "plan.json", "plan.jsonl", "explanations"


@dataclass(frozen=True)
class Place:
    """A folder, by its path or its address; can be sent to other machines."""

    root: str

    @cached_property
    def _system(self) -> tuple[Any, str]:
        system, path = find_filesystem(self.root.rstrip("/"))
        return system, path.rstrip("/")

    @property
    def folder(self) -> Path | None:
        """The folder where it is one of this machine's; None where it is an address."""
        return None if is_address(self.root) else Path(self.root)

    def write(self, name: str, content: bytes) -> None:
        """A file, which takes the place of one of that name.

        Raises:
            UserError: no right to, or no way there.
            OSError: a full disk and the like, of a folder here.
        """
        if self.folder is not None:
            path = self.folder / name
            path.parent.mkdir(exist_ok=True)
            # Of its own name: of two workers that were given the same work both may write.
            part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
            part.write_bytes(content)
            part.replace(path)
            return
        system, root = self._system
        with self._telling("written", name):
            system.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
            system.pipe_file(f"{root}/{name}", content)

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """A file, or the bytes from `start` to `end` of it.

        Raises:
            UserError: it is not there, or may not be read.
        """
        system, root = self._system
        with self._telling("read", name):
            return bytes(system.cat_file(f"{root}/{name}", start=start, end=end))

    def has(self, name: str) -> bool:
        """Whether there is such a file or folder."""
        system, root = self._system
        with self._telling("read", name):
            return bool(system.exists(f"{root}/{name}"))

    def list_names(self, folder: str) -> set[str]:
        """The files in a folder below it; none where there is no such folder."""
        system, root = self._system
        with self._telling("listed", folder):
            if not system.exists(f"{root}/{folder}"):
                return set()
            return {path.rpartition("/")[2] for path in system.ls(f"{root}/{folder}", detail=False, refresh=True)}

    def remove(self, name: str) -> None:
        """Removes a file, or a folder with all in it, where there is one."""
        system, root = self._system
        with self._telling("removed", name):
            if system.exists(f"{root}/{name}"):
                system.rm(f"{root}/{name}", recursive=True)

    @contextmanager
    def _telling(self, done: str, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise UserError(
                f"'{self.root}/{name}' can't be {done}: {as_clause(error)}. Expected a folder that every machine "
                "of the cluster sees, or an address that they may read and write. Check the address and your rights."
            ) from error


@contextmanager
def open_place(out: str, options: ExplainOptions) -> Iterator[Place]:
    """The place of a run's files: empty, or with `resume` what an interrupted one left.

    Raises:
        UserError: a finished result is there and `overwrite` is not given, or there is no right to write.
    """
    if not is_address(out):
        with open_run(Path(out), overwrite=options.overwrite, resume=options.resume, keep=PLAN) as folder:
            yield Place(str(folder))
        return
    choose_destination(out, overwrite=options.overwrite)
    place = Place(out)
    if not options.resume:
        # The record first: what is half removed is not finished.
        parts = (f"{TABLE}/{name}" for name in sorted(place.list_names(TABLE)) if name.startswith("part-"))
        for name in (RECORD, PLAN, PLAN_LINES, *parts):
            place.remove(name)
    yield place
