"""A result's folder: appears whole under its final name or not at all; files, manifest, versions, tables.

Nothing is written under the final name: work goes on in `NAME.partial`, which is renamed at the end, and which an
interrupted run leaves behind for `--resume`.
"""

from __future__ import annotations

import csv
import errno
import json
import logging
import os
import platform
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock, Timeout

from whycam.aside import clear_away, name_beside, replace_folder, take_up
from whycam.errors import UserError, as_clause, make_busy_error, make_disk_error
from whycam.made import beat, begin_list, check_free, check_name, check_partial, write_list
from whycam.rounding import shorten_floats

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("whycam")
# A run's versions, and the note of the one that stands for the run.
VERSIONS, KEPT, ORIGINAL = "versions", "kept.json", "000"
# So long another process's work is waited for without a word.
_PATIENCE_S = 1
# The libraries whose versions can change a number.
_VERSIONED = ("whycam", "torch", "torchvision", "timm", "numpy", "pillow", "onnxruntime")


@contextmanager
def hold_lock(path: Path, waits_for: str = "") -> Iterator[None]:
    """Keeps other processes from the same path; the lock lies beside it and goes with its owner, never with another.

    Args:
        path: what is worked on; its folder is there.
        waits_for: what is told after a second of waiting; without it nobody waits.

    Raises:
        Timeout: another process has the lock, and this one does not wait.
        OSError: its folder takes no files.
    """
    lock = FileLock(name_beside(path, ".", ".lock"))
    try:
        lock.acquire(timeout=_PATIENCE_S if waits_for else 0)
    except Timeout:
        try:
            Path(lock.lock_file).touch()
        except FileNotFoundError:  # such as /proc: filelock takes it for a folder that will soon be there
            raise OSError(errno.EACCES, "nothing can be made there", str(path.parent)) from None
        if not waits_for:
            raise
        log.warning("Waiting for %s", waits_for)
        lock.acquire()
    try:
        yield
    finally:
        with suppress(OSError):
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


@contextmanager
def tell_disk_errors(folder: Path) -> Iterator[None]:
    """A full disk and the like become a UserError that names the place."""
    try:
        yield
    except OSError as error:
        if told := make_disk_error(error, folder):
            raise told from error
        raise


@contextmanager
def open_run(
    folder: Path, *, overwrite: bool = False, resume: bool = False, keep: str | None = None, keeps: str = ""
) -> Iterator[Path]:
    """The folder to work in; it becomes `folder` when the block ends without an error.

    With `resume` an interrupted run's files are still there; otherwise the block starts with an empty folder. After an
    error the work is removed, unless it holds something of the name `keep`: what a later `resume` goes on with.

    Args:
        folder: what to make.
        overwrite: whether a result of WhyCAM's, or an empty folder, of that name may be replaced; nothing else ever is.
        resume: see above.
        keep: see above.
        keeps: a file of people's in the old folder that the caller carries over into the new one.

    Raises:
        UserError: `folder` exists and `overwrite` is False, or it is not WhyCAM's alone; it has a file's name; another
            process works on it; the disk is full.
    """
    folder = folder.absolute()
    with suppress(OSError):  # a name that is too long
        if folder.is_symlink():  # what it points to is the result, the link stays
            folder = folder.resolve()
    check_name(folder)
    partial = name_beside(folder, "", ".partial")
    try:
        with tell_disk_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with hold_lock(folder):
                # Under the lock: a process that was at work until now may just have given the folder its name.
                check_free(folder, overwrite=overwrite, keeps=keeps)
                check_partial(partial)
                added = take_up(partial, resume=resume)
                try:
                    begin_list(partial)
                    with beat(partial):
                        yield partial
                    write_list(partial, added)
                except BaseException:
                    if keep is None or not (partial / keep).exists():
                        clear_away(partial, added)
                    else:
                        with suppress(OSError):  # the disk may be full
                            write_list(partial, added)
                    raise
                replace_folder(partial, folder, keeps)
    except Timeout:
        raise make_busy_error(folder) from None
    except KeyboardInterrupt:
        left = (
            f"What was done lies in '{partial}': the same command with --resume goes on."
            if partial.exists()
            else "Nothing is left of it."
        )
        raise UserError(f"Interrupted. {left}") from None


def find_run(folder: Path) -> Path:
    """The folder whose model and scores a run stands for: that of its version that was kept, else its own.

    Raises:
        UserError: the note of that version can't be read, or it is not there.
    """
    note = folder / VERSIONS / KEPT
    try:
        kept = json.loads(note.read_text(encoding="utf-8"))["version"]
    except (FileNotFoundError, NotADirectoryError):  # a model may be one file
        return folder
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = f"'{note.absolute()}' can't be read ({type(error).__name__}: {as_clause(error)})"
    else:
        if kept == ORIGINAL:
            return folder
        if re.fullmatch(r"\d{3,9}", str(kept)) and (place := folder / VERSIONS / str(kept)).is_dir():
            return place
        found = f"'{note.absolute()}' names the version {kept!r}, which is not there"
    raise UserError(
        f"{found}; expected the note of a version of the run. Remove the note, and the run is as it was first trained."
    )


def find_model(folder: Path) -> Path:
    """The model folder that a name means: the one in a run, of its kept version; else the folder itself."""
    own = find_run(folder) / "model"
    return own if own.is_dir() else folder


@contextmanager
def open_atomic(path: Path) -> Iterator[Path]:
    """A path to write to; the file gets its name when the block ends without an error, and is removed otherwise."""
    part = name_beside(path, ".", ".part")
    try:
        yield part
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def find_way(start: Path, end: Path) -> str | None:
    """The relative path from one folder to another, which holds where both move; None between two drives."""
    try:
        return Path(os.path.relpath(end.absolute(), start.absolute())).as_posix()
    except ValueError:
        return None


def find_data(run: Path, about: Mapping[str, Any]) -> Path:
    """The folder that a run was trained on: where it was, or as it then lay from the run, if both have moved.

    Args:
        run: its folder.
        about: `data` of its `summary.json`.
    """
    folder, way = Path(about["folder"]), about.get("folder_from_run")
    moved = None if way is None else Path(os.path.normpath(run.absolute() / way))
    return moved if moved is not None and moved.is_dir() and not folder.is_dir() else folder


def find_source(run: Path, about: Mapping[str, Any]) -> Path:
    """What a run was trained on, as `whycam train` takes it: the list or the shards, else `find_data`'s folder."""
    if "listed" not in about:
        return find_data(run, about)
    return Path(os.path.normpath(find_data(run, about) / about["listed"]))


def read_columns(path: Path, columns: Sequence[str]) -> dict[str, list[Any]]:
    """Columns of a Parquet table.

    Raises:
        OSError, ValueError: it can't be read.
    """
    import pyarrow.parquet as pq  # noqa: PLC0415 - slow to import

    with pq.ParquetFile(path) as table:  # read_table imports pandas
        found: dict[str, list[Any]] = table.read(columns=list(columns)).to_pydict()
    return found


def to_text(path: str | Path) -> str:
    r"""The path as text that any table or page takes: bytes that are no UTF-8 stand as escapes, such as \udce9."""
    text = str(path)
    with suppress(UnicodeEncodeError):  # half a pair, which no path has
        # Where the system's own encoding is ASCII, Python reads all others' letters as bytes.
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    return text.encode("utf-8", "backslashreplace").decode()


def is_utf8(path: str | Path) -> bool:
    """Whether libraries that take a path as UTF-8 take this one."""
    return to_text(path) == str(path)


def from_text(text: str) -> str:
    """The path that `to_text` was given."""
    told = re.sub(r"\\u(dc[89a-f][0-9a-f])", lambda found: chr(int(found[1], 16)), text)
    return os.fsdecode(told.encode("utf-8", "surrogateescape"))


def to_json(content: object, **how: Any) -> bytes:
    """JSON in UTF-8 that people can read, one line; `to_text`'s escapes are JSON's own, so nothing is lost in them."""
    return (json.dumps(content, ensure_ascii=False, **how) + "\n").encode("utf-8", "backslashreplace")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON that people can read, whole or not at all."""
    with open_atomic(path) as part:
        part.write_bytes(to_json(shorten_floats(content), indent=2, allow_nan=False))


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a .jsonl file, one object a line, whole or not at all."""
    with open_atomic(path) as part:
        part.write_bytes(b"".join(to_json(shorten_floats(row)) for row in rows))


def read_versions() -> dict[str, str]:
    """Versions of Python, the system and every library that can change a number."""
    found = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    for name in _VERSIONED:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


class TableWriter:
    """Rows to `NAME.parquet` in row groups and, the same rows, to `NAME.csv`; memory stays flat.

    Used as a context manager; both files get their names at the end of the block, or are removed on an error.
    """

    def __init__(self, folder: Path, name: str, schema: pa.Schema, group_rows: int = 2048) -> None:
        self.folder, self.name, self.schema, self.group_rows = folder, name, schema, group_rows
        self._rows: list[Mapping[str, Any]] = []

    def __enter__(self) -> Self:
        import pyarrow.parquet as pq  # noqa: PLC0415 - slow to import, and only tables need it

        self._part = {suffix: self.folder / f".{self.name}.{suffix}.part" for suffix in ("parquet", "csv")}
        # Opened here: pyarrow takes no path that isn't UTF-8.
        self._table_file = self._part["parquet"].open("wb")
        self._parquet = pq.ParquetWriter(self._table_file, self.schema)
        self._file = self._part["csv"].open("w", encoding="utf-8", newline="")
        self._csv = csv.writer(self._file)
        self._csv.writerow(self.schema.names)
        return self

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds one row; values that the row lacks are empty."""
        row = {name: to_text(value) if isinstance(value, str) else value for name, value in row.items()}
        self._rows.append(row)
        self._csv.writerow([_to_cell(row.get(name)) for name in self.schema.names])
        if len(self._rows) >= self.group_rows:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa  # noqa: PLC0415 - as above

        if self._rows:
            self._parquet.write_table(pa.Table.from_pylist(list(self._rows), schema=self.schema))
            self._rows.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._file, self._table_file, self._parquet:
                if kind is None:
                    self._flush()
            if kind is None:
                for suffix, part in self._part.items():
                    part.replace(self.folder / f"{self.name}.{suffix}")
        finally:
            for part in self._part.values():
                part.unlink(missing_ok=True)


def _to_cell(value: object) -> object:
    return json.dumps(value) if isinstance(value, (Sequence, Mapping)) and not isinstance(value, str) else value


def command_line() -> str:
    """The command that made a result, so that it can be pasted; of a program of the user's own its name and words."""
    program = Path(sys.argv[0])
    is_ours = program.name == "__main__.py" and program.parent.name == "whycam"
    return shlex.join(["whycam" if is_ours else program.name, *sys.argv[1:]])


def read_result(path: Path, name: str, key: str, maker: str) -> dict[str, Any]:
    """A JSON file that a command wrote, by itself or by its folder.

    Args:
        path: the file, or the folder that it is in.
        name: of the file.
        key: what must be in it.
        maker: the command that writes it, as a person types it.

    Raises:
        UserError: no such file, or not what that command writes.
    """
    path = path / name if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {as_clause(error)}"
        raise UserError(
            f"'{path.absolute()}' can't be read as {name} ({why}); expected what "
            f"{maker} writes. Run {maker}, and name its folder."
        ) from None
    return dict(content)
