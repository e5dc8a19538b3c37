"""What a part of the campaign found wrong, and how results are compared."""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from campaign.process import End

KINDS = ("lost", "wrong", "traceback", "exit code", "left behind", "hang", "memory", "noise")
GOOD_CODES = (0, 2, 130)
# What belongs to one run and not to its result: the way it was started, and how long it took.
_OWN = {"command", "times_s", "time_s", "seconds", "resume", "overwrite", "folder", "folder_from_run"}
_NOISE = re.compile(r"\w*Warning: |TIFF\w*: |libtiff|libpng|^Exception ignored", re.MULTILINE)


@dataclass(frozen=True)
class Fault:
    """One thing that did not hold: its kind (see KINDS), the case that shows it, and what was seen."""

    kind: str
    case: str
    told: str


@dataclass
class Part:
    """One row of the table."""

    name: str
    cases: int = 0
    faults: list[Fault] = field(default_factory=list)
    seconds: float = 0
    cpu_s: float = 0
    told: str = ""

    def count(self, kind: str) -> int:
        """Faults of that kind."""
        return sum(fault.kind == kind for fault in self.faults)


def check_end(end: End, case: str, *, codes: Iterable[int] = GOOD_CODES) -> list[Fault]:
    """What every end must fulfil: one of the codes, no traceback, no lines of libraries, in time."""
    faults = []
    last = " / ".join(end.err.strip().splitlines()[-2:])[-300:]
    if end.is_overdue:
        return [Fault("hang", case, f"killed after {end.seconds:.0f} s; the last lines: {last!r}")]
    if "Traceback (most recent call last)" in end.err or "Aborted!" in end.err:
        faults.append(Fault("traceback", case, last))
    elif end.code not in set(codes):
        faults.append(Fault("exit code", case, f"{end.code}: {last}"))
    if noise := _NOISE.search(end.err):
        line = end.err[max(0, end.err.rfind("\n", 0, noise.start())) :].strip().splitlines()[0]
        faults.append(Fault("noise", case, line[:200]))
    return faults


def describe(place: Path) -> dict[str, str]:
    """Each file of a result and a hash of what it says; the same for two runs of one command."""
    if not place.is_dir():
        return {"": _hash(place)} if place.exists() else {}
    files = sorted(path for path in place.rglob("*") if not path.is_dir())
    return {os.fsdecode(os.fsencode(path.relative_to(place))): _hash(path) for path in files}


def compare(found: dict[str, str], wanted: dict[str, str]) -> str:
    """In words what differs; empty where nothing does."""
    words = []
    for told, names in (
        ("missing", sorted(wanted.keys() - found.keys())),
        ("more", sorted(found.keys() - wanted.keys())),
        ("other", sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])),
    ):
        if names:
            words.append(f"{told}: {', '.join(names[:4])}" + (f" and {len(names) - 4} more" if len(names) > 4 else ""))
    return "; ".join(words)


def _hash(path: Path) -> str:
    if path.suffix == ".log":
        return "log"
    data = path.read_bytes()
    if path.suffix in {".json", ".jsonl"}:
        try:
            lines = [data.decode()] if path.suffix == ".json" else data.decode().splitlines()
            data = json.dumps([_strip(json.loads(line)) for line in lines]).encode()
        except ValueError:
            return "damaged"
    elif path.suffix == ".html":
        data = re.sub(rb"<dt>(Command|Made on)</dt><dd>.*?</dd>", b"", data)
    elif path.suffix == ".pt" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as parts:
            # Left out: the lines of source, which change with who called, and a hash over those too.
            names = sorted(name for name in parts.namelist() if not name.endswith((".debug_pkl", "serialization_id")))
            data = b"".join(name.encode() + parts.read(name) for name in names)
    return hashlib.blake2b(data, digest_size=12).hexdigest()


def _strip(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _strip(inner) for name, inner in value.items() if name not in _OWN}
    return [_strip(inner) for inner in value] if isinstance(value, list) else value


def list_state(*roots: Path) -> dict[str, tuple[int, ...]]:
    """Every entry below the folders, with what changes when somebody touches it."""
    state = {}
    for root in roots:
        for parent, folders, files in os.walk(root):
            for name in (*folders, *files):
                path = os.path.join(parent, name)  # noqa: PTH118 - names that are no text
                about = os.lstat(path)
                size = 0 if name in folders else about.st_size
                state[path] = (about.st_ino, size, about.st_mode, 0 if name in folders else about.st_mtime_ns)
    return state
