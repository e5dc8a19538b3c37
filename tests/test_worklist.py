"""The work list: its order, what fits each item, and that doubted labels are the wrong ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from edit_cases import copy_scene, hash_of, make_finding
from whycam.errors import UserError
from whycam.mend.doubts import doubt_labels
from whycam.mend.edited_run import EditedRun
from whycam.mend.edits import make_edit
from whycam.mend.state import replay
from whycam.mend.worklist import Item, Known, Photo, make_list
from whycam.runs import write_json

HASHES = {name: letter * 32 for name, letter in zip("abcdef", "abcdef", strict=True)}
PHOTOS = {
    content: Photo(content, f"x/{name}.jpg", "x", "val" if name in "ef" else "train")
    for name, content in HASHES.items()
}
PLACES = {Path(f"/photos/x/{name}.jpg"): content for name, content in HASHES.items()}


def show(*names: str, **words: Any) -> list[dict[str, Any]]:
    return [{"path": f"/photos/x/{name}.jpg", "boxes": [], "note": "", **words} for name in names]


FINDINGS = [
    make_finding(photos=show("a", boxes=[[0, 0, 0.5, 1]]), title="A mark."),
    make_finding(id="data-x-1", kind="data", numbers={"properties": ["file-size", "jpeg-quality"]}, region=None),
    make_finding(id="data-y-1", kind="data", numbers={"properties": ["camera"]}, region=None, **{"class": "y"}),
    make_finding(id="duplicate-1", kind="duplicate", region=None, numbers={}, photos=show("a", "b")),
    make_finding(
        id="fragile-x-1", kind="fragile", region=None, numbers={}, photos=show("b", "c", note="mirrored: 'y'")
    ),
    make_finding(id="label-x-1", kind="label", region=None, numbers={}, photos=show("d")),
]
DOUBTS = [(HASHES["c"], "y", 0.01), (HASHES["d"], "z", 0.2)]
ANSWERS = {HASHES["d"]: ("z", 0.3), HASHES["e"]: ("y", 0.1), HASHES["f"]: ("x", 0.9)}


def list_all(*edits: dict[str, Any]) -> list[Item]:
    state = replay([make_edit(**words, id=str(k)) for k, words in enumerate(edits)])
    photos = {
        content: photo for content, photo in PHOTOS.items() if not state.photos.get(content, _NOTHING).is_left_out
    }
    return make_list(Known(state, photos, PLACES, FINDINGS, DOUBTS, ANSWERS))


_NOTHING = replay([]).photos.get("", None) or type("Nothing", (), {"is_left_out": False})()


def test_findings_come_first_then_doubts_mistakes_and_fragile_photos_each_photo_once() -> None:
    items = list_all()
    assert [item.id for item in items] == [
        "finding:shortcut-circle-1",
        "finding:data-x-1",
        "finding:data-y-1",
        "finding:duplicate-1",
        f"label:{HASHES['c']}",
        f"label:{HASHES['d']}",
        f"mistake:{HASHES['e']}",
        f"fragile:{HASHES['b']}",
    ]
    assert json.dumps([item.to_json() for item in items])
    actions = {item.id.split(":")[1]: [action.name for action in item.actions] for item in items}
    assert actions["shortcut-circle-1"] == ["cure", "not-object", "dismiss"]
    assert actions["data-x-1"] == ["cure", "dismiss"]
    assert actions["data-y-1"] == ["dismiss"]
    assert actions["duplicate-1"] == ["leave-out", "leave-out", "dismiss"]
    assert actions[HASHES["c"]] == ["label", "right", "leave-out", "relabel", "not-object", "object"]
    assert actions[HASHES["e"]] == ["right", "leave-out", "relabel", "not-object", "object"]


def test_a_question_is_answered_by_either_action() -> None:
    finding = make_finding(id="question-x-1", kind="question", photos=show("a", boxes=[[0, 0, 0.5, 1]]))
    (item,) = make_list(Known(replay([]), PHOTOS, PLACES, [finding], [], {}))
    assert [(action.name, action.title) for action in item.actions] == [
        ("cure", "It is not the object: train against it."),
        ("not-object", "What is marked on these photos is not the object."),
        ("dismiss", "It is the object."),
    ]
    for action in (item.actions[0], item.actions[-1]):
        said = replay(action.make())
        assert make_list(Known(said, PHOTOS, PLACES, [finding], [], {})) == []


def test_one_action_answers_an_item() -> None:
    items = {item.id: item for item in list_all()}
    doubt = items[f"label:{HASHES['c']}"]
    for name, given, left in (
        ("label", {}, 7),
        ("right", {}, 7),
        ("leave-out", {}, 7),
        ("relabel", {"label": "w"}, 7),
        ("not-object", {"region": {"boxes": [[0, 0, 1, 1]]}}, 8),
    ):
        made = doubt.find_action(name).make(**given)
        after = list_all(
            *[edit.model_dump(exclude={"format", "id", "time", "who"}, exclude_none=True) for edit in made]
        )
        assert len(after) == left, name
    made = items["finding:data-x-1"].find_action("cure").make(who="Ann")
    assert [(edit.kind, edit.who, (edit.finding or {})["id"]) for edit in made] == [("cure", "Ann", "data-x-1")]
    # The same cause, found in another way, is answered with it.
    proven = make_finding(numbers={"property": "jpeg-quality"}, region=None, id="s")
    assert "finding:data-x-1" not in [item.id for item in list_all({"kind": "dismiss", "finding": proven})]
    with pytest.raises(UserError, match="needs 'label'"):
        doubt.find_action("relabel").make()
    with pytest.raises(KeyError):
        doubt.find_action("cure")


def test_a_finding_marks_its_own_region_on_its_photos() -> None:
    (made,) = list_all()[0].find_action("not-object").make()
    assert made.photo == HASHES["a"]
    assert made.region is not None
    assert made.region.boxes == ((0, 0, 0.5, 1),)


def test_heads_that_never_saw_a_photo_doubt_the_wrong_labels_first() -> None:
    draw = torch.Generator().manual_seed(0)
    truth = torch.arange(300) % 3
    pooled = torch.randn(300, 8, generator=draw)
    pooled[torch.arange(300), truth] += 3.5
    wrong = torch.randperm(300, generator=draw)[:24]
    labels = truth.clone()
    labels[wrong] = (labels[wrong] + 1) % 3
    doubts = doubt_labels(pooled, labels, 3, 0)
    first = doubts.own.argsort()[:24]
    assert len(set(first.tolist()) & set(wrong.tolist())) >= 21
    said = doubts.probabilities.argmax(dim=1)
    assert float((said[wrong] == truth[wrong]).float().mean()) > 0.85
    # Of wrong labels that are half of a class nothing is lost: a class is learnt all the same.
    assert doubt_labels(pooled[:6], labels[:6], 3, 0).probabilities.shape == (6, 3)


def test_the_list_of_a_run_is_walked_to_its_end(scene: Path, tmp_path: Path) -> None:
    """A person who answers every item has an empty list; the audit is that beside the run."""
    run = copy_scene(scene, tmp_path)
    photo = str(run.source.train[0].path)
    write_json(run.run / "audit.json", {"findings": [make_finding(photos=[{"path": photo, "boxes": []}])]})
    items = run.list_work()
    assert items[0].id == "finding:shortcut-circle-1"
    assert [shown.path for shown in items[0].photos] == ["circle/00.jpg"]
    for _ in range(60):
        if not (items := run.list_work()):
            break
        run.append(items[0].find_action("cure" if items[0].finding else "right").make())
    assert items == []
    assert len(run.state.cures) == 1
    # What changed since is doubted anew.
    run.append([{"kind": "undo", "of": run.state.edits[-1].id}])
    assert len(run.list_work()) == 1
    assert run.find_photo(hash_of(run, "circle/00.jpg")) == run.source.root / "circle" / "00.jpg"
    assert EditedRun.open(run.run).state == run.state


def test_photos_have_their_labels_of_now(scene: Path, tmp_path: Path) -> None:
    run = copy_scene(scene, tmp_path)
    gone, moved = hash_of(run, "circle/00.jpg"), hash_of(run, "circle/01.jpg")
    run.append([{"kind": "leave-out", "photo": gone}, {"kind": "label", "photo": moved, "label": "square"}])
    photos = run.list_photos()
    assert gone not in photos
    assert replace(photos[moved], split="") == Photo(moved, "circle/01.jpg", "square", "")
