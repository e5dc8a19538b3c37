"""One whycam command in a forked process: undisturbed, or ended by a signal at a file operation or a moment.

The process that forks has imported everything once and runs no threads of its own, so a case costs no imports. `ready`
is called in it first; cases are spread over workers that are forked from it too.
"""

from __future__ import annotations

import fcntl
import importlib
import multiprocessing
import os
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")
_JOBS = ("train", "explain", "evaluate", "audit", "localize", "units", "report", "export", "serve")
_LIBRARIES = ("pyarrow.parquet", "matplotlib.pyplot", "onnx", "onnxscript", "torchmetrics.classification", "timm")
# Audit events that change the disk, and where in their arguments the changed path stands.
_CHANGES = {"os.rename": 1, "os.remove": 0, "os.mkdir": 0, "os.rmdir": 0, "os.link": 1, "os.symlink": 1, "os.utime": 0}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Room:
    """A folder of a case's own: where it works, and what stands for cache, temporary folder and home."""

    root: Path

    @property
    def work(self) -> Path:
        """Where commands are run."""
        return self.root / "work"

    @property
    def cache(self) -> Path:
        """WHYCAM_CACHE."""
        return self.root / "cache"

    @property
    def tmp(self) -> Path:
        """TMPDIR."""
        return self.root / "tmp"

    def make(self) -> Room:
        """Makes the folders; the room itself comes back."""
        for folder in (self.work, self.cache, self.tmp, self.root / "home"):
            folder.mkdir(parents=True, exist_ok=True)
        return self

    def variables(self) -> dict[str, str]:
        """What a process in the room has in its environment."""
        places = {"WHYCAM_CACHE": self.cache, "TMPDIR": self.tmp, "HOME": self.root / "home"}
        return {name: str(place) for name, place in places.items()}


@dataclass(frozen=True)
class End:
    """How a process ended.

    Attributes:
        code: as a shell has it, or minus the signal's number.
        operations: those on files in the room, where it ended by itself.
        is_overdue: it had to be killed, because it took too long.
    """

    code: int
    out: str
    err: str
    seconds: float
    peak_mb: float
    operations: int = 0
    is_overdue: bool = False
    cpu_s: float = 0


@dataclass(frozen=True)
class Stop:
    """When the process is ended: before the file operation of that number, or so many seconds after its start."""

    operation: int | None = None
    after_s: float | None = None
    number: int = signal.SIGKILL


def ready() -> None:
    """Imports everything that a command needs; the process stays without threads that a fork would lose."""
    for name in (*_LIBRARIES, "whycam.__main__", *(f"whycam.jobs.{job}" for job in _JOBS)):
        importlib.import_module(name)
    import torch  # noqa: PLC0415 - slow to import, and this is where that is paid

    torch.set_num_threads(1)


def run(
    words: Sequence[object],
    room: Room,
    *,
    stop: Stop | None = None,
    first: Callable[[], object] | None = None,
    variables: Mapping[str, str] | None = None,
    limit_s: float = 180,
) -> End:
    """Runs `whycam WORDS` in the room; `first` is called in the new process before anything else."""
    return Started(words, room, stop=stop, first=first, variables=variables).wait(limit_s)


class Started:
    """A command under way; what it writes comes by pipes, which no limit on files touches."""

    def __init__(
        self,
        words: Sequence[object],
        room: Room,
        *,
        stop: Stop | None = None,
        first: Callable[[], object] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.stop = stop or Stop()
        pipes = [_open_pipe() for _ in range(3)]
        self.streams = {door: b"" for door, _ in pipes}
        self.start = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            _become_command(
                [str(word) for word in words],
                room,
                [door for _, door in pipes],
                self.stop,
                first=first,
                variables=variables,
            )
        for _, door in pipes:
            os.close(door)

    def read(self) -> list[str]:
        """What came so far: output, errors, and the number of file operations."""
        for door in self.streams:
            with suppress(BlockingIOError):
                while data := os.read(door, 2**16):
                    self.streams[door] += data
        return [data.decode(errors="backslashreplace") for data in self.streams.values()]

    def wait(self, limit_s: float) -> End:
        """Its end, which is brought about after so many seconds, or when `stop` says."""
        after_s = self.stop.after_s
        is_overdue = False
        if not self._has_ended(limit_s if after_s is None else after_s):
            is_overdue = after_s is None
            os.kill(self.pid, signal.SIGKILL if is_overdue else self.stop.number)
            if not self._has_ended(limit_s):
                is_overdue = True
                os.kill(self.pid, signal.SIGKILL)
        _, status, usage = os.wait4(self.pid, 0)
        seconds = time.monotonic() - self.start
        out, err, operations = self.read()
        for door in self.streams:
            os.close(door)
        code = os.waitstatus_to_exitcode(status)
        cpu_s = usage.ru_utime + usage.ru_stime
        return End(code, out, err, seconds, usage.ru_maxrss / 1024, int(operations or 0), is_overdue, cpu_s)

    def signal(self, number: int) -> None:
        """Sends one."""
        os.kill(self.pid, number)

    def _has_ended(self, within_s: float) -> bool:
        watched = os.pidfd_open(self.pid)
        try:
            return bool(select.select([watched], [], [], within_s)[0])
        finally:
            os.close(watched)


def _open_pipe() -> tuple[int, int]:
    """Its two ends; it holds a megabyte, and reading never waits."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 2**20)
    os.set_blocking(reader, False)
    return reader, writer


def _become_command(
    words: list[str],
    room: Room,
    doors: Sequence[int],
    stop: Stop,
    *,
    first: Callable[[], object] | None,
    variables: Mapping[str, str] | None,
) -> None:
    """In the forked process: the command line, and no way back."""
    import torch  # noqa: PLC0415 - imported by `ready`

    code = 70
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # Multiprocessing's workers are of no concern to the command that is forked from one.
        multiprocessing.process._children.clear()  # type: ignore[attr-defined]
        multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
        for number, door in zip((1, 2), doors, strict=False):
            os.dup2(door, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        # Streams as a new interpreter makes them: those of the campaign may be of another kind.
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process lives
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1)  # noqa: SIM115
        os.environ.update({**room.variables(), **(variables or {})})
        os.chdir(room.work)
        tempfile.tempdir = None
        # PyTorch replaces the pool that a fork lost at the first use of it, and two threads that are first at once find
        # none: "Invalid thread pool". A command that was not forked has none to replace.
        torch.set_num_threads(1)
        sys.argv = ["whycam", *words]
        if first:
            first()
        counter = _Counter(os.fsencode(room.root), stop)
        sys.addaudithook(counter)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = _call_main()
        counter.is_on = False
        os.write(doors[2], str(counter.count).encode())
    except BaseException:  # noqa: BLE001 - nothing may return into the code that forked
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _call_main() -> int:
    from whycam.__main__ import main  # noqa: PLC0415 - imported by `ready`

    try:
        main()
    except SystemExit as left:
        if left.code is None or isinstance(left.code, int):
            return left.code or 0
        sys.stderr.write(f"{left.code}\n")
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        return 130
    except BaseException:  # noqa: BLE001 - as the interpreter does at the end
        traceback.print_exc()
        return 1
    return 0


class _Counter:
    """An audit hook that counts changes below a folder, and ends the process before one of them."""

    def __init__(self, root: bytes, stop: Stop) -> None:
        self.root, self.stop = root + b"/", stop
        self.count, self.is_on, self.pid = 0, True, os.getpid()

    def __call__(self, event: str, words: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = words
            is_change = bool(set(mode) & set("wax+")) if isinstance(mode, str) else bool((flags or 0) & _WRITING)
        elif event in _CHANGES:
            path, is_change = words[_CHANGES[event]], True
        else:
            return
        if not (is_change and self.is_on) or isinstance(path, int) or path is None:
            return
        # Names of entries, relative to an open folder, are those that shutil.rmtree removes one by one.
        place = os.fsencode(path)
        if place.startswith(b"/") and not place.startswith(self.root):
            return
        self.count += 1
        if self.count == self.stop.operation and os.getpid() == self.pid:
            os.kill(self.pid, self.stop.number)


def spread(check: Callable[[T], R], cases: Iterable[T], workers: int) -> Iterator[R]:
    """What `check` gives of each case, in workers forked from here; in no certain order."""
    sys.stdout.flush()
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        yield from pool.imap_unordered(check, list(cases))


def in_fork(call: Callable[[], R]) -> R:
    """The result of a call that would start threads, from a process of its own."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(partial(_call, call))


def _call(call: Callable[[], R]) -> R:
    return call()
