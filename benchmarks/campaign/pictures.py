"""The corpus through `explain`, `train` and the app: every file told of once, whole ones read rightly, one reading."""

from __future__ import annotations

import csv
import http.client
import json
import os
import re
import shutil
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from campaign.corpus import File, make_groups
from campaign.findings import Fault, Part, check_end
from campaign.process import Room, Started, run, spread
from campaign.scene import Scene

_READABLE = 4
Rows = dict[str, list[dict[str, str]]]


def push(scene: Scene, root: Path, *, share: float, seed: int, workers: int) -> Part:
    """All groups, one after the other in a worker."""
    part = Part("damaged and odd files through explain, train and the app")
    groups = make_groups(seed, share)
    if share < 1:
        # All in one: a command's start costs more than a few files.
        files = [replace(file, name=f"{name.split()[0]}-{file.name}") for name in groups for file in groups[name]]
        groups = {"a sample": files}
    for faults in spread(partial(_check_group, scene, root), groups.items(), workers):
        part.faults += faults
    part.cases = 3 * sum(map(len, groups.values()))
    part.told = f"{part.cases // 3} files in {len(groups)} groups, each through all three"
    return part


def _check_group(scene: Scene, root: Path, group: tuple[str, Sequence[File]]) -> list[Fault]:
    name, files = group
    room = Room(root / f"group-{name.replace(' ', '-')}").make()
    photos = room.root / "photos"
    (photos / "odd").mkdir(parents=True)
    for file in files:
        (photos / "odd" / file.name).write_bytes(file.data)
    add_good(scene, photos)
    end, rows, faults = explain(scene, room, photos, name)
    if end == 0:
        own = {file.name: rows.get(str(photos / "odd" / file.name), []) for file in files}
        faults += check_rows(files, own, name) + check_files(room.work / "out", rows, read_bias(scene), name)
        faults += _check_pixels(photos / "odd", files, own, name)
        faults += train(scene, room, photos, rows, name)
        faults += _ask_app(scene, room, files, own, name)
    shutil.rmtree(room.root, ignore_errors=True)
    return faults


def add_good(scene: Scene, photos: Path) -> None:
    """Whole photos in two class folders, so that there is something to read and to train on."""
    (photos / "odd").mkdir(parents=True, exist_ok=True)
    shutil.copytree(scene.photos / "square", photos / "plain")
    for path in sorted((scene.photos / "circle").iterdir())[:_READABLE]:
        shutil.copyfile(path, photos / "odd" / f"good-{path.name}")


def explain(scene: Scene, room: Room, photos: Path, case: str) -> tuple[int, Rows, list[Fault]]:
    """The exit code, and the rows of the table by path."""
    words = ["explain", scene.run, photos, "-o", "out", "--format", "png", "--engine", "torch", "--batch-size", 16]
    end = run(words, room)
    return end.code, read_rows(room.work / "out"), check_end(end, f"explain: {case}", codes=[0])


def read_rows(out: Path) -> Rows:
    rows: Rows = {}
    table = out / "explanations.csv"
    if table.is_file():
        csv.field_size_limit(sys.maxsize)
        with table.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            for row in csv.DictReader(file):
                rows.setdefault(row["path"], []).append(row)
    return rows


def check_rows(files: Sequence[File], rows: Mapping[str, list[dict[str, str]]], case: str) -> list[Fault]:
    """Each file has one row; an error or a result as the file deserves; the size is the upright photo's."""
    faults = []
    for file in files:
        where, found = f"explain: {case}: {file.name}", rows[file.name]
        if len(found) != 1:
            faults.append(Fault("lost", where, f"{len(found)} rows of the table"))
            continue
        row = found[0]
        if row["error"] and file.expect == "same":
            faults.append(Fault("wrong", where, f"a whole photo is refused: {row['error'][:160]}"))
        elif row["error"] and file.expect == "told" and "damaged" in row["error"]:
            faults.append(Fault("wrong", where, f"a whole file is called damaged: {row['error'][-160:]}"))
        elif not row["error"] and file.expect == "error":
            faults.append(Fault("wrong", where, "read, though it holds no picture"))
        elif not row["error"] and file.pixels is not None:
            wanted = (str(file.pixels.shape[1]), str(file.pixels.shape[0]))
            if (row["width_px"], row["height_px"]) != wanted:
                told = f"the table says {row['width_px']} x {row['height_px']}, it has {' x '.join(wanted)}"
                faults.append(Fault("wrong", where, told))
    return faults


def check_files(out: Path, rows: Rows, bias: np.ndarray, case: str) -> list[Fault]:
    """Every result has files of its own, and its map is its own: mean + bias is the logit of its row."""
    faults = []
    good = [row for found in rows.values() for row in found if not row["error"]]
    for kind in ("map", "overlay", "heatmap"):
        for name, count in Counter(row[kind] for row in good).items():
            if count > 1:
                faults.append(Fault("lost", f"explain: {case}", f"{count} photos have one {kind}, {name!r}"))
            elif not (out / name).is_file():
                faults.append(Fault("lost", f"explain: {case}", f"the {kind} {name!r} is not there"))
    foreign = []
    for row in good:
        path = out / row["map"]
        if path.is_file():
            found = float(np.load(path).mean() + bias[int(row["target_index"])])
            if not abs(found - float(row["logit"])) < 2e-5 + 1e-4 * abs(found):
                foreign.append(
                    f"{row['path'][-60:]!r}: mean(map) + bias = {found:.4f}, the row's logit is {row['logit']}"
                )
    if foreign:
        told = f"{len(foreign)} of {len(good)} maps are not their photo's, such as {foreign[0]}"
        faults.append(Fault("wrong", f"explain: {case}", told))
    return faults


def read_bias(scene: Scene) -> np.ndarray:
    from safetensors.numpy import load_file  # noqa: PLC0415 - fits with the other imports of whycam's own

    tensors = load_file(scene.run / "model" / "model.safetensors")
    return next(value for name, value in tensors.items() if name.endswith("bias") and value.shape == (3,))


def _check_pixels(
    folder: Path, files: Sequence[File], rows: Mapping[str, list[dict[str, str]]], case: str
) -> list[Fault]:
    """What was read is what the file holds, within what its format costs."""
    from whycam.data.images import ImageError, load_image  # noqa: PLC0415 - imported already, by `ready`

    faults = []
    for file in files:
        if file.pixels is None or len(rows[file.name]) != 1 or rows[file.name][0]["error"]:
            continue
        try:
            with warnings.catch_warnings(action="ignore"):
                found = np.asarray(load_image(folder / file.name)).astype(float)
        except ImageError as error:
            faults.append(Fault("wrong", f"load_image: {case}: {file.name}", f"explain reads it, and here: {error}"))
            continue
        if found.shape == file.pixels.shape and np.abs(found - file.pixels).mean() <= file.most:
            continue
        told = f"{found.shape} for {file.pixels.shape}"
        if found.shape == file.pixels.shape:
            told = f"pixels differ by {np.abs(found - file.pixels).mean():.1f} levels on average"
        faults.append(Fault("wrong", f"load_image: {case}: {file.name}", told))
    return faults


def train(scene: Scene, room: Room, photos: Path, rows: Rows, case: str) -> list[Fault]:
    """A training reads and refuses the same photos as `explain`."""
    end = run(scene.train_words(photos, "trained"), room)
    faults = check_end(end, f"train: {case}", codes=[0])
    if end.code:
        return faults
    data = json.loads((room.work / "trained" / "summary.json").read_text(encoding="utf-8"))["data"]
    refused = {path for path, found in rows.items() if any(row["error"] for row in found)}
    if data["train"] + data["val"] != len(rows) - len(refused) or set(data["unreadable"]) != refused:
        other = sorted(set(data["unreadable"]) ^ refused)
        told = (
            f"explain read {len(rows) - len(refused)} and refused {len(refused)}; train read "
            f"{data['train'] + data['val']} and refused {len(data['unreadable'])}; not agreed on: "
            f"{[path[-40:] for path in other[:3]]}"
        )
        faults.append(Fault("wrong", f"train: {case}", told))
    return faults


@dataclass(frozen=True)
class Answer:
    """What the app answered."""

    status: int
    body: bytes


def start_app(scene: Scene, room: Room, *more: object) -> tuple[Started, int]:
    """The app as a process, and its port.

    Raises:
        RuntimeError: it does not come up.
    """
    app = Started(["serve", scene.run, "--port", 0, "--rate", 0, *more], room)
    for _ in range(1200):
        if found := re.search(r"http://127\.0\.0\.1:(\d+)", app.read()[0]):
            return app, int(found[1])
        time.sleep(0.05)
    os.kill(app.pid, signal.SIGKILL)
    raise RuntimeError(f"The app did not come up: {app.wait(5).err}")


def post(port: int, path: str, field: str, name: str, data: bytes) -> Answer:
    """One file in a form."""
    edge = "soundness-7f3a"
    head = f'--{edge}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
    body = head.encode() + b"Content-Type: application/octet-stream\r\n\r\n" + data + f"\r\n--{edge}--\r\n".encode()
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        line.request("POST", path, body, {"Content-Type": f"multipart/form-data; boundary={edge}"})
        answer = line.getresponse()
        return Answer(answer.status, answer.read())
    finally:
        line.close()


def stop_app(app: Started, case: str) -> list[Fault]:
    """SIGTERM ends it quietly, with 0."""
    app.signal(signal.SIGTERM)
    return check_end(app.wait(30), case, codes=[0])


def _ask_app(
    scene: Scene, room: Room, files: Sequence[File], rows: Mapping[str, list[dict[str, str]]], case: str
) -> list[Fault]:
    """The app says of each file what `explain` says: the same class and size, or that it can't be read."""
    shutil.copytree(scene.cache, room.cache, dirs_exist_ok=True)
    app, port = start_app(scene, room)
    faults = []
    for file in files:
        answer = post(port, "/api/explain", "files", file.name, file.data)
        where, row = f"app: {case}: {file.name}", (rows[file.name] or [None])[0]
        if answer.status not in {200, 422}:
            faults.append(Fault("exit code", where, f"status {answer.status}: {answer.body[:120]!r}"))
        elif row is not None and (answer.status == 422) != bool(row["error"]):
            faults.append(
                Fault("wrong", where, f"status {answer.status}, explain said {row['error'][:90] or 'a class'!r}")
            )
        elif answer.status == 200 and row is not None:
            entry = json.loads(answer.body)["results"][0]
            found = (entry["prediction"]["name"], str(entry["entry"]["width"]), str(entry["entry"]["height"]))
            if found != (wanted := (row["predicted"], row["width_px"], row["height_px"])):
                faults.append(Fault("wrong", where, f"the app says {found}, explain {wanted}"))
    return faults + stop_app(app, f"app: {case}, SIGTERM")
