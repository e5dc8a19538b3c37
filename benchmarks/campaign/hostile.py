"""Damaged and hostile model folders: told in a line, or explained with numbers that are numbers; no code is run."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import random
import shutil
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from campaign.findings import Fault, Part, check_end
from campaign.pictures import read_rows
from campaign.process import Room, run, spread
from campaign.scene import CLASSES, Scene

Change = Callable[[Path], object]
_MARK = "code-ran"
# CPU time that a folder of a megabyte may take, to be explained or refused.
_LONGEST_S = 20


def push(scene: Scene, root: Path, *, share: float, seed: int, workers: int) -> Part:
    """Each folder through `explain`: exit code 2, or 0 and numbers that are numbers."""
    part = Part("hostile model folders")
    changes = list_changes(scene)
    names = sorted(random.Random(seed).sample(sorted(changes), max(4, round(share * len(changes)))))
    for faults in spread(partial(_check_model, scene, root), names, workers):
        part.cases += 1
        part.faults += faults
    return part


def _edit(where: str, value: Any) -> Change:
    """Sets an entry of config.json, `a.b` within `a`."""

    def change(folder: Path) -> None:
        path = folder / "config.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        *outer, last = where.split(".")
        place = content
        for name in outer:
            place = place[name]
        if value is KeyError:
            del place[last]
        else:
            place[last] = value
        path.write_text(json.dumps(content), encoding="utf-8")

    return change


def _sign(folder: Path) -> None:
    """As an attacker would: the hash fits again."""
    _edit("whycam.sha256", hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest())(folder)


def _write(name: str, data: bytes) -> Change:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(data)
        if name == "model.safetensors":
            _sign(folder)

    return change


def _change_head(edit: Callable[[dict[str, Any]], object]) -> Change:
    """Another header of the weights, the same numbers behind it."""

    def change(folder: Path) -> None:
        data = (folder / "model.safetensors").read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        head = json.loads(data[8 : 8 + size])
        edit(head)
        text = json.dumps(head).encode()
        _write("model.safetensors", struct.pack("<Q", len(text)) + text + data[8 + size :])(folder)

    return change


def _change_weights(edit: Callable[[dict[str, np.ndarray]], object]) -> Change:
    def change(folder: Path) -> None:
        from safetensors.numpy import load_file, save_file  # noqa: PLC0415 - here alone

        tensors = {name: value.copy() for name, value in load_file(folder / "model.safetensors").items()}
        edit(tensors)
        save_file(tensors, folder / "model.safetensors")
        _sign(folder)

    return change


def _fill(word: str, value: float) -> Change:
    def edit(tensors: dict[str, np.ndarray]) -> None:
        for name, tensor in tensors.items():
            if word in name and tensor.dtype.kind == "f":
                tensor[...] = value

    return _change_weights(edit)


def _replace(name: str, make: Callable[[Path], object]) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


class _Bomb:
    """A pickle that leaves a file behind where it is run."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


# What the entries of config.json are set to, one at a time.
_CONFIG: dict[str, list[Any]] = {
    "architecture": [
        3,
        None,
        [],
        "",
        "no_such_net",
        "../../etc/passwd",
        "x" * 5000,
        "vit_giant_patch14_dinov2",
        "hf-hub:nobody/nothing",
        "local-dir:/etc",
        "resnet18",
        KeyError,
    ],
    "whycam": [None, 3, [], {}, KeyError],
    "whycam.format": [0, 99, "1", None, -1],
    "whycam.class_names": [
        [],
        ["one"],
        [*CLASSES, "more"],
        ["circle"] * 3,
        [1, 2, 3],
        "abc",
        None,
        [""] * 3,
        ["<script>alert(1)</script>", "../../x", "a\nb"],
        ["x" * 100_000, "y", "z"],
    ],
    "whycam.head": ["conv", "none", None, 7],
    "whycam.sha256": ["", "0" * 64, None, 12],
    "whycam.map_stride": [0, -1, 3, 10**9, "x"],
    "whycam.preprocess": [None, {}, 3],
    "whycam.preprocess.std": [[0, 0, 0], [1, 1], [-1, -1, -1], [1e-320] * 3, ["a"] * 3, [1e400] * 3, None],
    "whycam.preprocess.mean": [[math.nan] * 3, [1e308] * 3, [], None],
    "whycam.preprocess.height_px": [0, -64, 1, 10**9, "64", 64.5, None],
}


def list_changes(scene: Scene) -> dict[str, Change]:
    """What is done to a model folder."""
    config = {
        f"config {where} = {str(value)[:24]!r}": _edit(where, value) for where in _CONFIG for value in _CONFIG[where]
    }
    return config | _list_file_changes(scene) | _list_weight_changes(scene)


def _list_file_changes(scene: Scene) -> dict[str, Change]:
    weights = (scene.run / "model" / "model.safetensors").read_bytes()
    return {
        "two million class names": _edit("whycam.class_names", [f"class {i}" for i in range(2_000_000)]),
        "config empty": _write("config.json", b""),
        "config no JSON": _write("config.json", b"{'a': 1}"),
        "config not UTF-8": _write("config.json", b'{"architecture": "\xff"}'),
        "config a list": _write("config.json", b"[]"),
        "config nested": _write("config.json", b"[" * 100_000),
        "config a number of digits": _write("config.json", b'{"architecture": ' + b"9" * 5000 + b"}"),
        "config a folder": _replace("config.json", Path.mkdir),
        "config a pipe": _replace("config.json", os.mkfifo),
        "config gone": _replace("config.json", lambda _: None),
        "config a loop": _replace("config.json", lambda path: path.symlink_to(path)),
        "weights gone": _replace("model.safetensors", lambda _: None),
        "weights a folder": _replace("model.safetensors", Path.mkdir),
        "weights a pipe": _replace("model.safetensors", os.mkfifo),
        "weights a device": _replace("model.safetensors", lambda path: path.symlink_to("/dev/zero")),
        "weights empty": _write("model.safetensors", b""),
        "weights of 8 bytes": _write("model.safetensors", bytes(8)),
        "weights cut": _write("model.safetensors", weights[: len(weights) // 2]),
        "weights cut by a byte": _write("model.safetensors", weights[:-1]),
        "weights longer": _write("model.safetensors", weights + bytes(100)),
        "weights of text": _write("model.safetensors", b"<html>404</html>" * 20),
        "weights that run code": _write("model.safetensors", pickle.dumps(_Bomb(Path(_MARK)))),
    }


def _list_weight_changes(scene: Scene) -> dict[str, Change]:
    """The header and the numbers of the weights, under a hash that fits."""
    weights = (scene.run / "model" / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", weights[:8])[0]
    first = next(name for name in json.loads(weights[8 : 8 + size]) if name != "__metadata__")
    return {
        "header of 2^63 bytes": _write("model.safetensors", struct.pack("<Q", 2**63) + weights[8:]),
        "header no JSON": _write("model.safetensors", weights[:8] + b"x" * size + weights[8 + size :]),
        "header empty": _change_head(dict.clear),
        "tensor gone": _change_head(lambda head: head.pop(first)),
        "tensor too many": _change_weights(lambda tensors: tensors.update(more=np.zeros(3, np.float32))),
        "offsets backwards": _change_head(lambda head: head[first].update(data_offsets=[100, 0])),
        "offsets beyond": _change_head(lambda head: head[first].update(data_offsets=[0, 2**60])),
        "offsets negative": _change_head(lambda head: head[first].update(data_offsets=[-8, 0])),
        "shape of other size": _change_head(lambda head: head[first].update(shape=[1])),
        "shape overflows": _change_head(lambda head: head[first].update(shape=[2**40, 2**40])),
        "dtype unknown": _change_head(lambda head: head[first].update(dtype="Q7")),
        "dtype of integers": _change_head(lambda head: head[first].update(dtype="I32")),
        "weights NaN": _fill("", math.nan),
        "weights infinite": _fill("", math.inf),
        "head NaN": _fill("fc.", math.nan),
        "head infinite": _fill("fc.bias", math.inf),
        "head zero": _fill("fc.", 0),
        "norm's variance negative": _fill("running_var", -1),
        "weights of 1e30": _fill("weight", 1e30),
        "head transposed": _change_weights(lambda t: t.update({"fc.weight": np.ascontiguousarray(t["fc.weight"].T)})),
        "summary of text": _write("../summary.json", b"no summary"),
    }


def _check_model(scene: Scene, root: Path, name: str) -> list[Fault]:
    room = Room(root / f"model-{hashlib.sha1(name.encode()).hexdigest()[:12]}").make()
    model = room.work / "run" / "model"
    shutil.copytree(scene.run, room.work / "run")
    list_changes(scene)[name](model)
    end = run(["explain", "run", scene.photos / "circle", "-o", "out", "--engine", "torch"], room)
    faults = check_end(end, name, codes=[0, 2])
    if end.cpu_s > _LONGEST_S:
        faults.append(Fault("hang", name, f"{end.cpu_s:.0f} s of CPU to say {end.err[-120:]!r}"))
    if end.code == 0:
        rows = read_rows(room.work / "out")
        for row in (row for found in rows.values() for row in found):
            values = [float(row[key] or "nan") for key in ("logit", "p_predicted", "map_min", "map_max")]
            if not np.isfinite(values).all() and not row["error"]:
                faults.append(Fault("wrong", name, f"exit code 0, and scores {values} without a word"))
                break
    elif (room.work / "out").exists():
        faults.append(Fault("left behind", name, "a result, though the command failed"))
    if (room.work / _MARK).exists():
        faults.append(Fault("lost", name, "code from a file was run"))
    shutil.rmtree(room.root, ignore_errors=True)
    return faults
