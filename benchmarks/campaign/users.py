"""Other people: files that colleagues can read, nobody who blocks another, two at one result, closed homes."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

from campaign.findings import Fault, Part, check_end
from campaign.kills import list_commands
from campaign.names import CAP_DAC_READ_SEARCH, drop_rights
from campaign.process import End, Room, Started, run, spread
from campaign.scene import Scene

_NOBODY = 65534


def share(scene: Scene, root: Path, *, is_quick: bool, workers: int) -> Part:
    """As root with another user, otherwise with the same user under another home."""
    part = Part("two users")
    names = ["train", "export safetensors"]
    if not is_quick:
        names = [command.name for command in list_commands(scene) if command.name not in {"audit", "evaluate"}]
    cases: list[Callable[[], list[Fault]]] = []
    for name in names:
        cases += [
            partial(_check_modes, scene, root, name, umask)
            for umask in ((0o022,) if is_quick else (0o022, 0o002, 0o077))
        ]
    cases += [partial(check, scene, root) for check in (_check_second_user, _check_held_lock, _check_two_at_once)]
    cases += [
        partial(_check_closed_home, scene, root, name) for name in (("explain",) if is_quick else ("train", "explain"))
    ]
    for faults in spread(_call, cases, workers):
        part.cases += 1
        part.faults += faults
    part.told = "another user's number" if os.geteuid() == 0 else "one user with two homes: run it as root for two"
    return part


def _call(check: Callable[[], list[Fault]]) -> list[Fault]:
    return check()


def _become_other() -> None:
    """Nobody, who may read everything, since the interpreter may lie in a closed home, and write to what is theirs."""
    if os.geteuid() != 0:
        return
    keep_capabilities = 8
    ctypes.CDLL(None).prctl(keep_capabilities, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    drop_rights(CAP_DAC_READ_SEARCH)


def _make_room(root: Path, name: str, *, of_other: bool = False) -> Room:
    room = Room(root / f"user-{name}").make()
    if of_other and os.geteuid() == 0:
        for folder in (room.root, *room.root.iterdir()):
            os.chown(folder, _NOBODY, _NOBODY)
    return room


def _check_modes(scene: Scene, root: Path, name: str, umask: int) -> list[Fault]:
    """Files and folders have what umask says, no less and no more; nothing is left in the temporary folder."""
    command = next(one for one in list_commands(scene) if one.name == name)
    room = _make_room(root, f"modes-{name}-{umask:o}".replace(" ", "-"))
    if name != "train, cold cache":
        shutil.copytree(scene.cache, room.cache, dirs_exist_ok=True)
    case = f"{name}, umask {umask:03o}"
    end = run(command.words, room, first=partial(os.umask, umask))
    faults = check_end(end, case, codes=[0])
    out = room.work / command.out
    for path in (out, *(out.rglob("*") if out.is_dir() else ())):
        wanted = (0o777 if path.is_dir() else 0o666) & ~umask
        found = stat.S_IMODE(path.stat().st_mode)
        if end.code == 0 and found != wanted:
            told = f"{path.relative_to(room.work)} has mode {found:03o}, umask says {wanted:03o}"
            faults.append(Fault("wrong", case, told))
    if left := sorted(path.name for path in room.tmp.iterdir()):
        faults.append(Fault("left behind", case, f"in the temporary folder: {', '.join(left[:3])}"))
    shutil.rmtree(room.root, ignore_errors=True)
    return faults


def _check_second_user(scene: Scene, root: Path) -> list[Fault]:
    """One user's locks in a shared temporary folder keep no other from the same photos; a run is of use to them."""
    mine, other = _make_room(root, "mine"), _make_room(root, "other", of_other=True)
    mine.tmp.chmod(0o1777)
    shared = {"TMPDIR": str(mine.tmp)}
    faults = check_end(run(scene.train_words(scene.photos, "out"), mine), "train by the first user", codes=[0])
    for words in (
        scene.train_words(scene.photos, "out"),
        ["explain", mine.work / "out", scene.photos, "-o", "seen", "--engine", "torch"],
        ["explain", scene.run, scene.photos, "-o", "drawn", "--engine", "onnx"],
    ):
        end = run(words, other, first=_become_other, variables=shared)
        faults += check_end(end, f"{words[0]} by a second user, after the first", codes=[0])
    return faults


def _check_held_lock(scene: Scene, root: Path) -> list[Fault]:
    """Whoever holds every lock in the temporary folder blocks nobody; a lock in one's own cache is waited for aloud."""
    room, first = _make_room(root, "held"), _make_room(root, "holder")
    words = scene.train_words(scene.photos, "out")
    faults = check_end(run(words, first), "train, to see its locks", codes=[0])
    held = []
    for path in (*first.tmp.rglob("*.lock"), *first.cache.rglob("*.lock")):
        is_shared = first.tmp in path.parents
        place = (room.tmp if is_shared else room.cache) / path.relative_to(first.tmp if is_shared else first.cache)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
        file = place.open("r+")
        fcntl.flock(file, fcntl.LOCK_EX)
        held.append((is_shared, place, file))
    end = run(words, room, limit_s=25)
    told = end.err + end.out
    if end.is_overdue and any(is_shared for is_shared, *_ in held):
        faults.append(
            Fault("hang", "train, while another holds a lock in the temporary folder", "waits without an end")
        )
    elif end.is_overdue and not any(word in told.lower() for word in ("wait", "another process", "lock")):
        faults.append(Fault("hang", "train, while another holds a lock in its cache", "waits without a line"))
    for *_, file in held:
        file.close()
    return faults


def _check_two_at_once(scene: Scene, root: Path) -> list[Fault]:
    """Of two processes at one result one makes it, the other says that somebody is at work, or that it is there."""
    faults = []
    for words, out in (
        (scene.train_words(scene.photos, "out"), "out"),
        (["explain", scene.run, scene.photos, "-o", "seen", "--engine", "torch"], "seen"),
        (["export", scene.run, "-o", "net", "--format", "safetensors"], "net"),
    ):
        room = _make_room(root, f"both-{out}")
        both = [Started(words, room), Started(words, room)]
        ends: list[End] = [one.wait(90) for one in both]
        case = f"{words[0]} twice at once"
        for end in ends:
            faults += check_end(end, case, codes=[0, 2])
        if sorted(end.code for end in ends) not in ([0, 2], [0, 0]):
            faults.append(Fault("exit code", case, str([end.code for end in ends])))
        left = {path.name for path in room.work.iterdir()}
        if left != {out}:
            faults.append(Fault("left behind", case, ", ".join(sorted(left))))
    return faults


def _check_closed_home(scene: Scene, root: Path, name: str) -> list[Fault]:
    """A home that can't be written to: done all the same, or told what to set."""
    room = _make_room(root, f"closed-{name}", of_other=True)
    own = {"HOME": "/nonexistent/home", "WHYCAM_CACHE": "", "XDG_CACHE_HOME": ""}
    words = list(next(one for one in list_commands(scene) if one.name == name).words)
    end = run(words, room, first=_become_other, variables=own)
    return check_end(end, f"{name}, a home that can't be written", codes=[0, 2])
