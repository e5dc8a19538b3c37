"""Full, read-only and limited disks: each writing command says so with exit code 2, and leaves no half result."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from campaign.findings import Fault, Part, check_end
from campaign.kills import Command, list_commands
from campaign.process import End, Room, run, spread
from campaign.scene import Scene

# What is full, read-only or limited, by how much is left.
OUT, CACHE, TMP, HOME = "out", "cache", "tmp", "home"


@dataclass(frozen=True)
class Case:
    """A command with little room.

    Attributes:
        place: whose disk it is; empty: no file may grow beyond the limit, wherever.
        left_kb: room, or the limit; -1: the disk is read-only.
    """

    command: Command
    place: str
    left_kb: int

    @property
    def name(self) -> str:
        """In words."""
        if not self.place:
            return f"{self.command.name}, files of {self.left_kb} KB at the most"
        return f"{self.command.name}, {self.place} " + ("read-only" if self.left_kb < 0 else f"with {self.left_kb} KB")


def fill(scene: Scene, root: Path, *, is_quick: bool, workers: int) -> Part:
    part = Part("full, read-only and limited disks")
    can_mount = _can_mount(root)
    cases = _list_cases(scene, can_mount=can_mount, is_quick=is_quick)
    for faults in spread(partial(_check, scene, root), cases, workers):
        part.cases += 1
        part.faults += faults
    part.told = "a small disk of memory, and limits on file sizes" if can_mount else "limits on file sizes alone"
    return part


def _list_cases(scene: Scene, *, can_mount: bool, is_quick: bool) -> list[Case]:
    commands = [command for command in list_commands(scene) if command.name not in {"audit", "train --unfreeze last"}]
    if is_quick:
        commands = [c for c in commands if c.name in {"train", "explain", "export torchscript"}]
    cases = [Case(command, "", kb) for command in commands for kb in ((4,) if is_quick else (0, 4, 60))]
    if can_mount:
        cases += [Case(command, OUT, kb) for command in commands for kb in ((-1, 40) if is_quick else (-1, 0, 40, 400))]
        cold = [command for command in commands if command.is_cold]
        cases += [Case(command, CACHE, kb) for command in cold for kb in (-1, 0, 16)]
        cases += [Case(command, place, -1) for command in cold[:1] + commands[:1] for place in (TMP, HOME)]
    return cases


def _can_mount(root: Path) -> bool:
    probe = root / "probe"
    probe.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", probe], capture_output=True, check=False)
    if done.returncode == 0:
        subprocess.run(["umount", probe], check=True)
    return done.returncode == 0


@contextmanager
def mount_small(place: Path, left_kb: int) -> Iterator[None]:
    """A disk of memory with so much room at `place`, with what lay there before; read-only for -1."""
    kept = place.with_name(f"{place.name}-before")
    place.rename(kept)
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place], check=True)
    try:
        shutil.copytree(kept, place, dirs_exist_ok=True)
        if left_kb < 0:
            subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        else:
            about = os.statvfs(place)
            free = about.f_bavail * about.f_frsize - left_kb * 1024
            with (place / "filler").open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, free)
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)
        place.rmdir()
        kept.rename(place)


def limit_files(limit_kb: int) -> None:
    """No file of this process grows beyond that; like `ulimit -f`."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_kb * 1024, limit_kb * 1024))


def _check(scene: Scene, root: Path, case: Case) -> list[Fault]:
    command = case.command
    room = Room(Path(tempfile.mkdtemp(prefix="disk-", dir=root))).make()
    if not command.is_cold:
        shutil.copytree(scene.cache, room.cache, dirs_exist_ok=True)
    if not case.place:
        faults = _judge(case, room, run(command.words, room, first=partial(limit_files, case.left_kb)))
    else:
        small = {OUT: room.work, CACHE: room.cache, TMP: room.tmp, HOME: room.root / "home"}[case.place]
        own = {} if case.place != HOME else {"WHYCAM_CACHE": "", "XDG_CACHE_HOME": ""}
        with mount_small(small, case.left_kb):
            faults = _judge(case, room, run(command.words, room, variables=own))
    shutil.rmtree(room.root, ignore_errors=True)
    return faults


def _judge(case: Case, room: Room, end: End) -> list[Fault]:
    faults = check_end(end, case.name, codes=[0, 2])
    names = {path.name for path in room.work.iterdir()}
    out = case.command.out
    is_done = end.code == 0
    if is_done != (out in names):
        kind = "lost" if is_done else "left behind"
        faults.append(
            Fault(kind, case.name, f"exit code {end.code}, and {out} is {'' if out in names else 'not '}there")
        )
    kept = {f"{out}.partial"} if case.command.has_resume else set()
    if left := names - {out, "filler"} - kept:
        faults.append(Fault("left behind", case.name, ", ".join(sorted(left))))
    if end.code == 2 and case.place in {CACHE, OUT} and not _names_place(case, room, end.err):
        faults.append(Fault("wrong", case.name, f"the message names another place: {end.err[-250:]!r}"))
    return faults


def _names_place(case: Case, room: Room, err: str) -> bool:
    """Whether the message names what is full."""
    place = room.cache if case.place == CACHE else room.work
    return str(place) in err or (case.place == OUT and "'out" in err)
