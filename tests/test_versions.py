"""Versions of a run: whole or not there, one of them stands for the run, and what a failure or a kill leaves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from safetensors.torch import load_file

import whycam
from edit_cases import copy_scene, correct, describe, hash_of, make_finding
from kill_cases import KILL_TRAINING
from whycam.audit import Audit, Finding
from whycam.errors import UserError
from whycam.intake.door import open_classifier
from whycam.made import tell_foreign
from whycam.mend import retraining
from whycam.mend.apply import EmptyClassError
from whycam.mend.compare import compare_findings
from whycam.mend.edited_run import EditedRun
from whycam.mend.steps import CancelledError
from whycam.mend.versions import list_versions
from whycam.model.onnx.engine import find_engine
from whycam.runs import find_run, hold_lock


@pytest.fixture
def edited(scene: Path, tmp_path: Path) -> EditedRun:
    run = copy_scene(scene, tmp_path)
    correct(run, has_causes=False)
    return run


def weights_of(place: Path) -> bytes:
    return load_file(find_run(place) / "model" / "model.safetensors")["fc.weight"].numpy().tobytes()


def test_a_version_is_made_kept_and_gone_back_from(edited: EditedRun) -> None:
    original = weights_of(edited.run)
    steps: list[tuple[str, int, int]] = []
    version = edited.retrain(progress=lambda *step: steps.append(step))
    assert {"features", "head"} <= {words for words, _, _ in steps}
    assert all(done <= total for _, done, total in steps)
    assert (version.number, version.is_kept) == ("001", False)
    assert weights_of(edited.run) == original
    kept = edited.keep("001", who="Ann")
    assert kept.is_kept
    assert weights_of(edited.run) == weights_of(version.folder) != original
    assert json.loads((edited.run / "versions" / "kept.json").read_text())["who"] == "Ann"
    # Every way to the run leads to the version that is kept.
    assert open_classifier(edited.run, engine="torch").card.name == str(edited.run)
    why = whycam.load(edited.run, engine="torch").explain(edited.source.train[0].path)
    own = whycam.load(version.folder, engine="torch").explain(edited.source.train[0].path)
    assert (why.logits == own.logits).all()
    assert find_engine(str(edited.run)) == find_engine(str(version.folder)) != find_engine(str(edited.run / "model"))
    assert [(one.number, one.is_kept) for one in edited.list_versions()] == [("000", False), ("001", True)]
    edited.keep("000")
    assert weights_of(edited.run) == original


def test_numbers_are_not_given_twice_and_what_is_kept_stays(edited: EditedRun) -> None:
    assert [edited.retrain().number for _ in range(2)] == ["001", "002"]
    edited.throw_away("002")
    assert edited.retrain().number == "003"
    edited.keep("001")
    with pytest.raises(UserError, match="001 stands for the run"):
        edited.throw_away("001")
    with pytest.raises(UserError, match="000 is the run as it was first trained"):
        edited.throw_away("000")
    with pytest.raises(UserError, match="has no version '002'; expected one of 000, 001, 003"):
        edited.keep("002")
    assert sorted(path.name for path in (edited.run / "versions").iterdir()) == ["001", "003", "kept.json"]
    assert tell_foreign(edited.run, keeps="edits.jsonl") == ""  # so that another training may take its name
    (edited.run / "versions" / "003" / "mine.txt").write_text("mine")
    assert "it holds versions/003/mine.txt, which" in tell_foreign(edited.run, keeps="edits.jsonl")


def test_a_comparison_is_of_the_same_photos_with_the_labels_of_now(edited: EditedRun) -> None:
    held = edited.source.val[0].path
    edited.append(
        [{"kind": "label", "photo": edited.hashes[held], "label": "square" if "circle" in str(held) else "circle"}]
    )
    version = edited.retrain()
    told = version.comparison
    assert told is not None
    assert told["before"] == "000"
    assert told["photos"] == version.summary["data"]["val"] == len(edited.source.val)
    assert told["accuracy"]["after"]["value"] == pytest.approx(version.summary["val_accuracy"])
    for when in ("before", "after"):
        share = told["accuracy"][when]
        assert share["low"] <= share["value"] <= share["high"]
        worst = min(one[when]["value"] for one in told["classes"])
        assert told["worst_class"][when][when]["value"] == worst
    difference = told["accuracy"]["difference"]
    assert difference["value"] == pytest.approx(
        told["accuracy"]["after"]["value"] - told["accuracy"]["before"]["value"]
    )
    assert difference["low"] <= difference["value"] <= difference["high"]
    assert difference["gained"] + difference["lost"] <= len(told["changed"])
    relabelled = whycam.load(edited.run, engine="torch").explain(held)
    said = relabelled.class_names[int(relabelled.predicted[0])]
    listed = {one["path"]: one for one in told["changed"]}
    name = held.relative_to(edited.source.root).as_posix()
    assert name not in listed or listed[name]["before"] == said


def test_a_training_that_fails_or_is_called_off_leaves_the_old_model_and_nothing_else(
    edited: EditedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    edited.keep(edited.retrain().number)
    before = describe(edited.run)
    asked = iter(range(1000))
    with pytest.raises(CancelledError, match="Called off while at: head"):
        edited.retrain(is_cancelled=lambda: next(asked) > 3)
    edited.append(
        [{"kind": "leave-out", "photo": content} for path, content in edited.hashes.items() if "circle" in str(path)]
    )
    with pytest.raises(UserError, match="'circle' has 0 photos"):
        edited.retrain()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(retraining, "compare_models", fail)
        edited.append([{"kind": "undo", "of": edit.id} for edit in edited.state.edits if edit.kind == "leave-out"])
        with pytest.raises(UserError, match="No room to write"):
            edited.retrain()
    left = describe(edited.run)
    for name in ("edits.jsonl", "versions/kept.json"):
        del left[name], before[name]
    assert left == before
    assert json.loads((edited.run / "versions" / "kept.json").read_text())["version"] == "001"
    # And the next one goes as ever.
    assert edited.retrain().number == "005"


def test_a_version_has_the_journal_that_it_was_trained_by(edited: EditedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = list(edited.hashes.values())[:2]
    edited.append([{"kind": "leave-out", "photo": first}])
    before = (edited.run / "edits.jsonl").read_bytes()
    compare = retraining.compare_models

    def say_more(*words: Any) -> Any:
        edited.append([{"kind": "leave-out", "photo": second}])
        return compare(*words)

    monkeypatch.setattr(retraining, "compare_models", say_more)
    version = edited.retrain()
    assert (version.folder / "edits.jsonl").read_bytes() == before
    assert (edited.run / "edits.jsonl").read_bytes() != before
    assert version.summary["edits"]["count"] == len(before.splitlines())


def test_a_class_without_photos_is_gone_on_without_where_that_is_said(edited: EditedRun) -> None:
    path, content = next(iter(edited.hashes.items()))
    edited.append([{"kind": "label", "photo": content, "label": "star", "is_new": True}])
    with pytest.raises(EmptyClassError, match="'star', which an edit says is new"):
        edited.retrain()
    version = edited.retrain(allow_empty=True)
    assert version.summary["data"]["classes_left_out"] == ["star"]
    options = json.loads((version.folder / "options.json").read_text())
    assert options["allow_empty"] is True
    assert path.is_file()


def test_what_a_killed_training_left_is_removed_when_the_run_is_opened(edited: EditedRun) -> None:
    versions = edited.run / "versions"
    (versions / "004.partial" / "model").mkdir(parents=True)
    (versions / ".004.lock").touch()
    (versions / "003").mkdir()
    # Another process's work is left alone.
    with hold_lock(versions):
        EditedRun.open(edited.run, edited.source.root)
    assert (versions / "004.partial").is_dir()
    EditedRun.open(edited.run, edited.source.root)
    assert [path.name for path in versions.iterdir()] == ["003"]


def test_one_training_at_a_time(edited: EditedRun) -> None:
    (edited.run / "versions").mkdir()
    with FileLock(edited.run / ".versions.lock"), pytest.raises(UserError, match="Another process is working on"):
        edited.retrain()


@pytest.mark.parametrize(
    ("note", "message"),
    [
        ('{"version": "007"}', "names the version '007', which is not there"),
        ('{"version": "../../elsewhere"}', "names the version '../../elsewhere'"),
        ("{", "can't be read"),
        ("[]", "can't be read"),
    ],
)
def test_a_note_that_names_no_version_is_told(edited: EditedRun, note: str, message: str) -> None:
    (edited.run / "versions").mkdir()
    (edited.run / "versions" / "kept.json").write_text(note)
    for ask in (lambda: whycam.load(edited.run), lambda: list_versions(edited.run)):
        with pytest.raises(UserError, match=message):
            ask()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("options.json", "Found no options.json in"),
        ("summary.json", "summary.json' can't be read"),
    ],
)
def test_a_run_of_an_older_version_is_told(edited: EditedRun, name: str, message: str) -> None:
    (edited.run / name).unlink()
    with pytest.raises(UserError, match=message):
        EditedRun.open(edited.run)


def test_what_an_older_or_a_later_version_wrote_is_told(edited: EditedRun, tmp_path: Path) -> None:
    options = json.loads((edited.run / "options.json").read_text())
    (edited.run / "options.json").write_text(json.dumps({**options, "unheard_of": 1}))
    with pytest.raises(UserError, match=r"options.json' can't be read \(extra inputs"):
        EditedRun.open(edited.run)
    (edited.run / "options.json").write_text(json.dumps(options))
    summary = json.loads((edited.run / "summary.json").read_text())
    del summary["data"]
    (edited.run / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(UserError, match="does not say which photos"):
        EditedRun.open(edited.run)
    assert EditedRun.open(edited.run, edited.source.root).source == edited.source
    with pytest.raises(UserError, match="Found no folder"):
        EditedRun.open(tmp_path / "nowhere")


def test_photos_that_are_gone_or_have_moved_are_told(edited: EditedRun, tmp_path: Path) -> None:
    shutil.move(edited.source.root, tmp_path / "moved")
    summary = json.loads((edited.run / "summary.json").read_text())
    summary["data"] |= {"folder": "/nowhere", "folder_from_run": "../nowhere"}
    (edited.run / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(UserError, match="no longer in '/nowhere'"):
        EditedRun.open(edited.run)
    again = EditedRun.open(edited.run, tmp_path / "moved")
    assert len(again.apply().list_photos(again.source.root)) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"kind": "leave-out", "photo": "0" * 32}, "has no photo of the content 0000"),
        ({"kind": "label", "photo": "{}", "label": "circl"}, "Unknown class 'circl'.*Did you mean 'circle'"),
        ({"kind": "undo", "of": "nothing"}, "No edit has the id 'nothing'"),
        ({"kind": "cure", "finding": make_finding(**{"class": "rose"})}, "there is no class 'rose'"),
        ({"kind": "cure", "finding": make_finding(region=None)}, "can't be exchanged"),
    ],
)
def test_what_can_not_be_meant_is_refused_at_once(edited: EditedRun, words: dict[str, Any], message: str) -> None:
    photo = hash_of(edited, "circle/01.jpg")
    before = edited.journal.path.read_bytes()
    words = {name: photo if value == "{}" else value for name, value in words.items()}
    with pytest.raises(UserError, match=message):
        edited.append([{"kind": "leave-out", "photo": photo}, words])
    assert edited.journal.path.read_bytes() == before


def test_a_new_class_is_known_from_then_on(edited: EditedRun) -> None:
    photos = [edited.hashes[sample.path] for sample in (edited.source.train[2], edited.source.val[0])]
    edited.append([{"kind": "label", "photo": photos[0], "label": "ring", "is_new": True}])
    edited.append([{"kind": "label", "photo": photos[1], "label": "ring"}])
    version = edited.retrain()
    assert whycam.load(version.folder, engine="torch").class_names == ("circle", "ring", "square")
    told = version.comparison
    assert told is not None
    ring = next(one for one in told["classes"] if one["class"] == "ring")
    assert ring["before"]["value"] == 0


def test_the_example_of_the_documentation_runs(
    edited: EditedRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[1] / "docs" / "mend.md").read_text(encoding="utf-8")
    (edited.run.parent / "runs").mkdir()
    edited.run.rename(edited.run.parent / "runs" / "flowers")
    monkeypatch.chdir(edited.run.parent)
    monkeypatch.setattr(retraining, "audit", lambda *_, **__: Audit((), 24, (), {"kinds": ["shortcut"]}))
    exec(page.split("```python\n")[1].split("```")[0], {})
    assert "'difference'" in capsys.readouterr().out
    assert find_run(Path("runs/flowers")) == Path("runs/flowers/versions/001")


def test_findings_that_are_gone_new_and_left(edited: EditedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """An audit of the new version beside that of the one that is kept."""
    found: list[list[Finding]] = []
    asked: list[int] = []

    def audit(model: Any, samples: Any, **_: Any) -> Audit:
        asked.append(len(samples))
        return Audit(tuple(found.pop(0)), len(samples), (), {"kinds": ["shortcut", "label"]})

    monkeypatch.setattr(retraining, "audit", audit)
    one, two, three = (
        Finding("shortcut", 0.5, 1.0, f"{name}.", "", class_name="circle", numbers={"found_by": name}) for name in "abc"
    )
    found += [[one, two], [two, three]]
    edited.audit(limit=10)
    assert asked == [10]
    version = edited.retrain(has_audit=True)
    told = version.comparison
    assert told is not None
    rows = told["findings"]
    assert [[row["title"] for row in rows[name]] for name in ("gone", "new")] == [["a."], ["c."]]
    assert [row["after"]["title"] for row in rows["left"]] == ["b."]
    assert (version.folder / "audit.json").is_file()
    assert asked[1] == 23
    with pytest.raises(UserError, match="can't be compared"):
        compare_findings({"findings": []}, {"findings": []})


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_a_kill_leaves_whole_versions_and_one_that_is_kept(edited: EditedRun) -> None:
    command = [sys.executable, "-c", KILL_TRAINING, str(edited.run.parent), "10", "0"]
    source = str(Path(whycam.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    states = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(states) == 10
    assert all(sum(is_kept for _, is_kept in state) == 1 for state in states)
    assert int(states[-1][-1][0]) >= 1
    left = edited.retrain()
    assert left.number > states[-1][-1][0]
    assert not list((edited.run / "versions").glob("*.partial"))
