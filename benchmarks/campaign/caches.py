"""Caches that hold something else: thrown away and made anew, with the same result as without them, never believed."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from campaign.findings import Fault, Part, check_end, compare, describe
from campaign.pictures import check_files, read_bias, read_rows
from campaign.process import Room, run, spread
from campaign.scene import Scene


def push(scene: Scene, root: Path, *, share: float, seed: int, workers: int) -> Part:
    """Each cache under a command that uses it: the same result as with an empty one."""
    part = Part("caches that hold something else")
    changes = [f"{kind}: {name}" for kind in ("graph", "features") for name in list_cache_changes(kind)]
    names = random.Random(seed).sample(changes, max(4, round(share * len(changes))))
    wanted = {}
    for kind in ("graph", "features"):
        room = Room(root / f"cache-{kind}").make()
        shutil.copytree(scene.cache, room.cache, dirs_exist_ok=True)
        faults, wanted[kind] = _run_cached(scene, room, kind, f"{kind}: whole")
        part.faults += faults
    for faults in spread(partial(_check_cache, scene, root, wanted), names, workers):
        part.cases += 1
        part.faults += faults
    return part


def _run_cached(
    scene: Scene, room: Room, kind: str, case: str, codes: tuple[int, ...] = (0,)
) -> tuple[list[Fault], dict[str, str]]:
    if kind == "graph":
        words = ["explain", scene.run, scene.photos, "-o", "out", "--engine", "onnx"]
    else:
        words = scene.train_words(scene.photos, "out")
    end = run(words, room)
    return check_end(end, case, codes=codes), describe(room.work / "out")


def list_cache_changes(kind: str) -> dict[str, Callable[[Path], object]]:
    """What is done to each file of that kind in a cache."""
    general: dict[str, Callable[[Path], object]] = {
        "empty": lambda path: path.write_bytes(b""),
        "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        "cut by a byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
        "longer": lambda path: path.write_bytes(path.read_bytes() + b"more"),
        "text": lambda path: path.write_bytes(b"no such thing" * 9),
        "a folder": lambda path: (path.unlink(), path.mkdir()),
        "a link to nowhere": lambda path: (path.unlink(), path.symlink_to("/nowhere/at/all")),
        "a link to itself": lambda path: (path.unlink(), path.symlink_to(path)),
        "a byte changed in the middle": partial(_flip_byte, share=0.5),
        "a byte changed near the end": partial(_flip_byte, share=0.95),
    }
    if kind == "graph":
        return general | {
            "another model's graph": partial(_change_graph, change=_roll_classes),
            "class maps swapped": partial(_change_graph, change=_roll_maps),
            "another model's word": partial(_change_graph, change=_rename_classes),
        }
    # Of a store one file at a time is changed: the features, or what is noted beside them.
    each = {f"{name} ({suffix})": change for name, change in general.items() for suffix in ("npy", "json")}
    return each | {
        "no JSON (json)": lambda path: path.write_text("{'a'"),
        "a list (json)": lambda path: path.write_text("[]"),
        "all unreadable (json)": _refuse_all,
        "another shape (npy)": lambda path: np.save(path, np.load(path)[:3]),
        "another type (npy)": lambda path: np.save(path, np.load(path).astype(np.float64)),
        "objects (npy)": lambda path: np.save(path, np.array([{}], dtype=object), allow_pickle=True),
        "another set's features (npy)": lambda path: np.save(path, np.load(path)[::-1].copy()),
        "NaN (npy)": lambda path: np.save(path, np.full_like(np.load(path), np.nan)),
    }


def _flip_byte(path: Path, share: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * share)] ^= 0x40
    path.write_bytes(bytes(data))


def _refuse_all(path: Path) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "unreadable": {"0" * 32: "no reason"}, "photos": 1}))


def _change_graph(path: Path, change: Callable[[Any], object]) -> None:
    import onnx  # noqa: PLC0415 - imported already, by `ready`

    graph = onnx.load(path)
    change(graph)
    onnx.save(graph, path)


def _roll_classes(model: Any) -> None:
    """Another model: each class has the weights of its neighbour; scores and maps still fit each other."""
    from onnx import numpy_helper  # noqa: PLC0415

    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.shape[:1] == (3,):
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(np.roll(values, 1, axis=0)), tensor.name))


def _roll_maps(model: Any) -> None:
    """Each class has the map of its neighbour, and its own score."""
    from onnx import helper, numpy_helper  # noqa: PLC0415

    name = model.graph.output[1].name
    for node in model.graph.node:
        node.output[:] = [f"{name}_own" if one == name else one for one in node.output]
        node.input[:] = [f"{name}_own" if one == name else one for one in node.input]
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 0]), "order"))
    model.graph.node.append(helper.make_node("Gather", [f"{name}_own", "order"], [name], axis=1))


def _rename_classes(model: Any) -> None:
    """Other class names in the file's own words."""
    for entry in model.metadata_props:
        if entry.key == "whycam.class_names":
            entry.value = json.dumps(["one", "two", "three"])


def _check_cache(scene: Scene, root: Path, wanted: dict[str, dict[str, str]], case: str) -> list[Fault]:
    kind, name = case.split(": ", 1)
    room = Room(root / f"cache-{hashlib.sha1(case.encode()).hexdigest()[:12]}").make()
    shutil.copytree(scene.cache, room.cache, dirs_exist_ok=True)
    folder = room.cache / ("engines" if kind == "graph" else "features")
    suffix = ".onnx" if kind == "graph" else ".json" if "(json)" in name else ".npy"
    files = sorted(folder.rglob(f"*{suffix}"))
    if not files:
        return [Fault("wrong", case, f"the campaign found no file '*{suffix}' in the cache to change")]
    for path in files:
        list_cache_changes(kind)[name](path)
    # A folder is nobody's cached file: it is told, not thrown away.
    codes = (0, 2) if name.startswith("a folder") else (0,)
    faults, found = _run_cached(scene, room, kind, case, codes)
    if found and (told := _compare_cached(room, found, wanted[kind], kind)):
        faults.append(Fault("wrong", case, f"the result is another one than without a cache: {told}"))
    if found and kind == "graph":
        faults += check_files(room.work / "out", read_rows(room.work / "out"), read_bias(scene), case)
    # Once more: what is damaged was thrown away, and is not in the way of the next.
    shutil.rmtree(room.work / "out", ignore_errors=True)
    if not any(fault.kind == "wrong" for fault in faults):
        faults += _run_cached(scene, room, kind, f"{case}, and again", codes)[0]
    shutil.rmtree(room.root, ignore_errors=True)
    return faults


def _compare_cached(room: Room, found: dict[str, str], wanted: dict[str, str], kind: str) -> str:
    """A graph made anew, or torch in its place, may differ in the last digits: there the rows are compared."""
    if kind == "features":
        return compare(found, wanted)
    rows, other = (
        read_rows(folder) for folder in (room.work / "out", room.root.parent / "cache-graph" / "work" / "out")
    )
    for path, own in rows.items():
        mine, first = own[0], other[path][0]
        if mine["predicted"] != first["predicted"] or abs(float(mine["logit"]) - float(first["logit"])) > 1e-4:
            return (
                f"{Path(path).name} is {mine['predicted']} {mine['logit']}, was {first['predicted']} {first['logit']}"
            )
    return ""
