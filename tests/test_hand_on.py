"""Edits in other tools' formats: a table, tasks of Label Studio, a dataset of FiftyOne; as these tools read them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from edit_cases import copy_scene, hash_of
from whycam.data.drawn import write_mask
from whycam.mend.edited_run import EditedRun
from whycam.mend.hand_on import encode_brush

STROKE = np.zeros((24, 24), dtype=bool)
STROKE[3:9, 5:20] = True


@pytest.fixture
def edited(scene: Path, tmp_path: Path) -> EditedRun:
    run = copy_scene(scene, tmp_path)
    photos = [hash_of(run, f"circle/0{k}.jpg") for k in range(4)]
    run.append(
        [
            {"kind": "label", "photo": photos[0], "label": "square", "who": "Ann", "note": 'a, "b"\nc'},
            {"kind": "leave-out", "photo": photos[1]},
            {"kind": "not-object", "photo": photos[2], "region": {"boxes": [[0.5, 0, 1, 0.25]]}},
            {"kind": "object", "photo": photos[2], "region": {"polygons": [[[0, 0.5], [0.5, 0.5], [0.5, 1]]]}},
            {"kind": "not-object", "photo": photos[3], "region": {"mask": write_mask(STROKE)}},
        ]
    )
    return run


def hand_on(edited: EditedRun, call_whycam: Callable[..., Any], name: str) -> Path:
    out = edited.run.parent / name
    done = call_whycam("edits", edited.run, edited.source.root, "--format", name, "-o", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"Edits that count: 5, photos they are about: 4; they are in {out}\n")
    return out


def test_a_table(edited: EditedRun, call_whycam: Callable[..., Any]) -> None:
    with (hand_on(edited, call_whycam, "csv") / "edits.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["path"], row["folder_class"], row["class"], row["verdict"]) for row in rows] == [
        ("circle/00.jpg", "circle", "square", "label"),
        ("circle/01.jpg", "circle", "", "leave-out"),
        ("circle/02.jpg", "circle", "circle", ""),
        ("circle/03.jpg", "circle", "circle", ""),
    ]
    assert (rows[0]["who"], rows[0]["note"]) == ("Ann", 'a, "b"\nc')
    assert rows[0]["content"] == hash_of(edited, "circle/00.jpg")
    assert json.loads(rows[2]["not_object"]) == [{"boxes": [[0.5, 0, 1, 0.25]]}]
    assert json.loads(rows[2]["object"])[0]["polygons"] == [[[0, 0.5], [0.5, 0.5], [0.5, 1]]]


def test_tasks_of_label_studio(edited: EditedRun, call_whycam: Callable[..., Any]) -> None:
    out = hand_on(edited, call_whycam, "label-studio")
    tasks = json.loads((out / "tasks.json").read_text())
    assert tasks[0]["data"] == {"image": "/data/local-files/?d=circle/00.jpg"}
    config = ElementTree.fromstring((out / "labels.xml").read_text())
    tools = {one.get("name"): one for one in config if one.get("toName") == "image"}
    for task in tasks:
        for result in task["annotations"][0]["result"]:
            assert result["to_name"] == "image"
            values = result["value"][result["type"]]
            assert tools[result["from_name"]].tag.lower() == result["type"]
            assert set(values) <= {one.get("value") for one in tools[result["from_name"]]}
    results = [task["annotations"][0]["result"] for task in tasks]
    assert results[0][0]["value"] == {"choices": ["square"]}
    assert (results[1][0]["from_name"], results[1][0]["value"]) == ("use", {"choices": ["leave out"]})
    polygon, box = results[2][1:]
    box_value = {"x": 50, "y": 0, "width": 50, "height": 25, "rotation": 0, "rectanglelabels": ["not object"]}
    assert box["value"] == box_value
    assert (box["original_width"], box["original_height"]) == (96, 96)
    assert polygon["value"]["points"] == [[0, 50], [50, 50], [50, 100]]
    brush = results[3][1]["value"]
    assert brush["brushlabels"] == ["not object"]
    assert (decode_brush(brush["rle"]).reshape(96, 96, 4)[..., 3] > 0).tolist() == STROKE.repeat(4, 0).repeat(
        4, 1
    ).tolist()


def decode_brush(code: list[int]) -> np.ndarray:
    """What Label Studio's own reader does, bit by bit."""
    bits = "".join(f"{byte:08b}" for byte in code)
    at = 0

    def read(size: int) -> int:
        nonlocal at
        at += size
        return int(bits[at - size : at], 2)

    count, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < count:
        is_run = read(1)
        length = read(sizes[read(2)]) + 1
        values += [read(word)] * length if is_run else [read(word) for _ in range(length)]
    return np.array(values)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (200, 300)])
def test_a_brush_stroke_is_read_back(shape: tuple[int, int]) -> None:
    draw = np.random.default_rng(0)
    for mask in (draw.random(shape) > 0.5, np.ones(shape, dtype=bool), np.zeros(shape, dtype=bool)):
        values = decode_brush(encode_brush(mask)).reshape(*shape, 4)
        assert (values == mask[..., None] * 255).all()


def test_a_dataset_of_fiftyone(edited: EditedRun, call_whycam: Callable[..., Any]) -> None:
    out = hand_on(edited, call_whycam, "fiftyone")
    labels, data, regions = (json.loads((out / f"{name}.json").read_text()) for name in ("labels", "data", "regions"))
    first, gone, drawn, brushed = (hash_of(edited, f"circle/0{k}.jpg") for k in range(4))
    assert labels == {"classes": ["circle", "square"], "labels": {first: 1, drawn: 0, brushed: 0}}
    assert Path(data[first]) == edited.source.root / "circle" / "00.jpg"
    assert json.loads((out / "left_out.json").read_text()) == [gone]
    assert regions["classes"] == ["object", "not object"]
    assert regions["labels"][drawn][1] == {"label": 1, "bounding_box": [0.5, 0, 0.5, 0.25]}
    assert regions["labels"][brushed][0]["bounding_box"] == pytest.approx([5 / 24, 3 / 24, 15 / 24, 6 / 24], abs=0.01)


def test_nothing_to_hand_on_is_told(scene: Path, tmp_path: Path, call_whycam: Callable[..., Any]) -> None:
    run = copy_scene(scene, tmp_path)
    done = call_whycam("edits", run.run, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "Found no edits in" in done.stderr
    run.append([{"kind": "leave-out", "photo": hash_of(run, "circle/00.jpg")}])
    (run.source.root / "circle" / "00.jpg").unlink()
    done = call_whycam("edits", run.run, run.source.root, "-o", tmp_path / "out")
    assert "Edits of 1 photo were skipped, as it is no longer in the folder: 'circle/00.jpg'." in done.stdout
    assert done.returncode == 0
