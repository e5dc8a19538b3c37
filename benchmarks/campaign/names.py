"""Odd file names, links and folders through the commands that read folders: every photo once, with files of its own."""

from __future__ import annotations

import csv
import ctypes
import os
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from campaign.corpus import encode
from campaign.findings import Fault, Part, check_end
from campaign.pictures import Rows, add_good, check_files, explain, read_bias, read_rows, train
from campaign.process import End, Room, run, spread
from campaign.scene import CLASSES, Scene, draw_photo

# A photo that must be read; one that may be, or be told of as unreadable; one that must be left out.
Wanted = Literal["photo", "may", "out"]
CAP_DAC_READ_SEARCH = 2
_LONG = "x" * 53

GROUPS: dict[str, dict[bytes, Wanted]] = {
    "not UTF-8": {name: "photo" for name in (b"caf\xe9.jpg", b"\xff\xfe.jpg", b"cut-\xf0\x9f.jpg", b"caf\xe8.jpg")},
    "letters": {
        name.encode(): "photo"
        for name in ("🌼.jpg", "蒲" * 80 + ".jpg", "זר.jpg", "caf\u00e9.jpg", "cafe\u0301.jpg", "a\u200bb.jpg", "ß.JPG")
    },
    "signs": {
        name: "photo"
        for name in (
            *(
                b"line\nbreak.jpg",
                b"tab\there.jpg",
                b'quo"te.jpg',
                b"quo'te.jpg",
                b"-v.jpg",
                b" lead.jpg",
                b"trail .jpg",
            ),
            *(
                b"100%s.jpg",
                b"{x}.jpg",
                b"[ab]*?.jpg",
                b"; rm x.jpg",
                b"<script>.jpg",
                b"back\\slash.jpg",
                b"\x01\x7f.jpg",
            ),
            *(b"a,b.jpg", b"=1+1.jpg", b"two..jpg", b"CON.jpg", b"x.jpg.jpg", b"#a.jpg", b"a&b;c.jpg", b"$HOME.jpg"),
        )
    },
    "long": {
        **{b"x" * 246 + suffix: "photo" for suffix in (b".jpg", b".png")},
        "/".join([_LONG] * 5 + ["x" * 246 + ".jpg"]).encode(): "photo",
        "/".join([_LONG] * 5 + ["x" * 245 + "y.jpg"]).encode(): "photo",
        ("y" * 200 + "/" + "z" * 200 + ".jpg").encode(): "photo",
    },
    "twins": {
        name: "photo"
        for name in (
            *(
                b"a/b.jpg",
                b"a__b.jpg",
                b"a/b.jpeg",
                b"a__b_jpg.jpg",
                b"p.jpg",
                b"p.jpeg",
                b"p_jpg.jpg",
                b"P.jpg",
                b"p.JPG",
            ),
            *(b"q/r/s.jpg", b"q__r/s.jpg", b"q/r__s.jpg", b"q__r__s.jpg", b"p.0000.jpg", b"p.0001.jpg"),
        )
    },
    "system folders": {
        **{
            name + b"/x.jpg": "out" for name in (b"@eaDir", b"__MACOSX", b".ipynb_checkpoints", b".git", b"deep/@eaDir")
        },
        **{b"deep/__MACOSX/y.jpg": "out", b".hidden.jpg": "out", b"._x.jpg": "out", b"deep/photo.jpg": "photo"},
    },
    "links": {},
    "unreadable": {},
}


def push(scene: Scene, root: Path, *, names: list[str], workers: int) -> Part:
    part = Part("odd names, links and folders through five commands")
    for cases, faults in spread(partial(_check_group, scene, root), names or [*GROUPS, "locale C"], workers):
        part.cases += cases
        part.faults += faults
    part.told = "explain, train, localize, evaluate and report; the cases are names times commands"
    return part


def _check_group(scene: Scene, root: Path, name: str) -> tuple[int, list[Fault]]:
    room = Room(root / f"names-{name.replace(' ', '-')}").make()
    photos = room.root / "photos"
    add_good(scene, photos)
    first = None
    if name == "links":
        wanted = _make_links(room, photos)
    elif name == "unreadable":
        wanted = _make_unreadable(photos)
        first = partial(drop_rights, None)
    else:
        wanted = {place: want for place, want in GROUPS.get(name, {"🌼.jpg".encode(): "photo"}).items()}
        _write(photos, wanted)
    if name == "locale C":
        return 1, _explain_in_c(scene, room, photos, wanted)
    code, rows, faults = _explain(scene, room, photos, name, first)
    if code == 0:
        faults += _check_listed(rows, photos, wanted, name)
        faults += check_files(room.work / "out", rows, read_bias(scene), name)
        # Any folder, readable or not, is the same to both.
        faults += train(scene, room, photos, rows, name) if first is None else []
    else:
        faults += check_end(run(scene.train_words(photos, "trained"), room, first=first), f"train: {name}", codes=[0])
    faults += _run_others(scene, room, photos, rows, name, first=first)
    for folder, folders, _ in os.walk(photos):
        for inner in folders:
            if not os.path.islink(os.path.join(folder, inner)):  # noqa: PTH114, PTH118 - names that are no text
                os.chmod(os.path.join(folder, inner), 0o755)  # noqa: PTH101, PTH118
    shutil.rmtree(os.fsencode(room.root), ignore_errors=True)
    return 5 * len(wanted), faults


def _explain(
    scene: Scene, room: Room, photos: Path, name: str, first: Callable[[], object] | None
) -> tuple[int, Rows, list[Fault]]:
    if first is None:
        return explain(scene, room, photos, name)
    end = run(["explain", scene.run, photos, "-o", "out", "--engine", "torch"], room, first=first)
    return end.code, read_rows(room.work / "out"), check_end(end, f"explain: {name}", codes=[0])


def _write(photos: Path, wanted: Mapping[bytes, object]) -> None:
    """A photo of its own under each name."""
    draw_from = np.random.default_rng(5)
    for number, name in enumerate(wanted):
        data = encode(draw_photo(CLASSES[number % 3], draw_from), "JPEG", quality=92)
        # Step by step: a path may be longer than the system takes at once.
        *folders, last = name.split(b"/")
        here = os.open(photos / "odd", os.O_DIRECTORY)
        for folder in folders:
            with suppress(FileExistsError):
                os.mkdir(folder, dir_fd=here)
            here = os.open(folder, os.O_DIRECTORY, dir_fd=here)
        with open(last, "wb", opener=lambda path, flags, at=here: os.open(path, flags, 0o644, dir_fd=at)) as file:
            file.write(data)


def _make_links(room: Room, photos: Path) -> dict[bytes, Wanted]:
    odd, other = photos / "odd", room.root / "elsewhere"
    _write_folder = {b"one.jpg": None, b"two.jpg": None}
    (other / "odd").mkdir(parents=True)
    _write(other, _write_folder)
    (odd / "more").symlink_to(other / "odd")
    (odd / "loop").symlink_to(odd)
    (odd / "up").symlink_to(photos)
    (odd / "file.jpg").symlink_to(other / "odd" / "one.jpg")
    (odd / "broken.jpg").symlink_to(other / "nowhere.jpg")
    (odd / "self.jpg").symlink_to(odd / "self.jpg")
    (odd / "device.jpg").symlink_to("/dev/zero")
    (odd / "folder.jpg").mkdir()
    os.mkfifo(odd / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as door:
        here = Path.cwd()
        os.chdir(odd)
        door.bind("door.jpg")
        os.chdir(here)
    may = ("broken", "self", "device", "pipe", "door", "file", "folder")
    return {b"more/one.jpg": "photo", b"more/two.jpg": "photo", **{f"{name}.jpg".encode(): "may" for name in may}}


def _make_unreadable(photos: Path) -> dict[bytes, Wanted]:
    _write(photos, {b"closed/inside.jpg": None, b"closed.jpg": None, b"open/inside.jpg": None})
    (photos / "odd" / "closed.jpg").chmod(0)
    (photos / "odd" / "closed").chmod(0)
    return {b"closed.jpg": "may", b"open/inside.jpg": "photo"}


def drop_rights(kept: int | None) -> None:
    """Takes root's power over other people's files from this process, but for the capability of that number."""
    bits = 0 if kept is None else 1 << kept
    head = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)(bits, bits, 0, 0, 0, 0)
    if os.geteuid() == 0 or kept is not None:
        ctypes.CDLL(None, use_errno=True).capset(head, sets)


def _find_row(rows: Rows, path: bytes) -> list[dict[str, str]]:
    """The rows of a path, however a name that is no text is written."""
    text = os.fsdecode(path)
    spelled = (text, path.decode("utf-8", "backslashreplace"), text.encode("utf-8", "backslashreplace").decode())
    return next((rows[one] for one in spelled if one in rows), [])


def _check_listed(rows: Rows, photos: Path, wanted: Mapping[bytes, Wanted], case: str) -> list[Fault]:
    faults = []
    for name, want in wanted.items():
        found = _find_row(rows, os.fsencode(photos / "odd") + b"/" + name)
        where = f"explain: {case}: {name[-40:]!r}"
        if want == "out" and found:
            faults.append(Fault("wrong", where, "read, though hidden or a system's own"))
        elif want == "photo" and (len(found) != 1 or found[0]["error"]):
            told = found[0]["error"][-150:] if found else "no row of the table"
            faults.append(Fault("lost", where, told))
    return faults


def _run_others(
    scene: Scene, room: Room, photos: Path, rows: Rows, case: str, *, first: Callable[[], object] | None
) -> list[Fault]:
    faults = check_end(
        end := run(["localize", scene.run, photos, "-o", "located"], room, first=first), f"localize: {case}", codes=[0]
    )
    faults += _check_located(room.work / "located", rows, case) if end.code == 0 and rows else []
    for words in (
        [
            "evaluate",
            scene.run,
            photos,
            "-o",
            "measured",
            "--engine",
            "torch",
            "--metrics",
            "entropy",
            "--target",
            "predicted",
        ],
        ["report", scene.run, photos, "-o", "page.html", "--no-audit"],
    ):
        faults += check_end(run(words, room, first=first), f"{words[0]}: {case}", codes=[0])
    return faults


def _check_located(out: Path, rows: Rows, case: str) -> list[Fault]:
    """A row and a label file for each photo that `explain` read."""
    with (out / "boxes.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        found = list(csv.DictReader(file))
    read = {path for path, own in rows.items() if not own[0]["error"]}
    located = {row["path"] for row in found if not row["error"]}
    faults = []
    if read != located:
        told = f"explain read {len(read)} photos, localize {len(located)}"
        faults.append(Fault("wrong", f"localize: {case}", told))
    labels = len(list((out / "labels").iterdir()))
    if labels != len(located):
        faults.append(Fault("lost", f"localize: {case}", f"{labels} label files for {len(located)} photos"))
    shared = Counter(row["picture"] for row in {row["path"]: row for row in found if row["picture"]}.values())
    if most := [name for name, count in shared.items() if count > 1]:
        faults.append(Fault("lost", f"localize: {case}", f"several photos have one picture, {most[0]!r}"))
    return faults


def _explain_in_c(scene: Scene, room: Room, photos: Path, wanted: Mapping[bytes, Wanted]) -> list[Fault]:
    """A whole process of its own: the locale counts when the interpreter starts."""
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = [sys.executable, "-m", "whycam", "explain", scene.run, photos, "-o", "out", "--engine", "torch"]
    done = subprocess.run(
        list(map(str, words)),
        env={**os.environ, **room.variables(), **plain},
        cwd=room.work,
        capture_output=True,
        timeout=120,
        check=False,
    )
    end = End(done.returncode, "", done.stderr.decode(errors="backslashreplace"), 0, 0)
    faults = check_end(end, "explain: locale C", codes=[0])
    return faults + ([] if end.code else _check_listed(read_rows(room.work / "out"), photos, wanted, "locale C"))
