"""Training photos in an audit: shortcuts of classes with few photos are looked for on them, and nothing else is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import whycam
from report_cases import make_run
from test_audit import PHOTOS, make_model, stamp, write_photos
from whycam.audit import KINDS, Audit, audit
from whycam.audit.asker import Asker
from whycam.audit.data import read_data
from whycam.audit.training import ENOUGH, choose_training
from whycam.data.folder import Sample
from whycam.jobs.audit import choose_training_photos
from whycam.runs import write_json

pytestmark = pytest.mark.usefixtures("see_saturation")
FEW = 6
Split = tuple[list[Sample], list[Sample]]


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """Six held-out photos of each class, red's with a mark, and eighteen that were trained on."""
    samples = write_photos(tmp_path, stamp)
    is_held = [int(one.path.stem) < FEW for one in samples]
    return tuple([one for one, own in zip(samples, is_held, strict=True) if own is side] for side in (True, False))


def search(split: Split, **how: Any) -> Audit:
    return audit(make_model(12.0), split[0], **{"kinds": ["shortcut"], "causes": ["mark"], "engine": "torch", **how})


def test_what_few_held_out_photos_can_not_prove_is_found_with_the_training_photos(split: Split) -> None:
    alone, filled = search(split), search(split, training=split[1])
    assert (alone.findings, alone.record["training_photos"]) == ((), {})
    assert any("no shortcut can be told" in note for note in alone.notes)
    (found,) = filled.findings
    assert (found.class_name, found.numbers["found_by"], found.region and found.region.name) == (
        *("red", "mark"),
        "upper right corner",
    )
    assert filled.photos == 3 * FEW
    assert filled.record["training_photos"] == dict.fromkeys(("red", "green", "blue"), PHOTOS - FEW)
    assert filled.record["classes"] == dict.fromkeys(("red", "green", "blue"), FEW)
    (told,) = (note for note in filled.notes if "training photos" in note)
    assert "18 of 'red' beside 6" in told
    assert str(split[1][0].path) in told


def test_a_finding_says_which_photos_it_was_tried_on_and_costs_what_it_costs_the_audited_ones(split: Split) -> None:
    (found,) = search(split, training=split[1]).findings
    numbers = found.numbers
    assert 0 < numbers["attack_audited_pairs"] < numbers["attack_pairs"]
    assert numbers["attack_audited"] > 0.5 > numbers["attack_audited_control"]
    assert "audited photos and" in found.detail
    assert "of the audited ones alone giving changes" in found.detail
    is_trained = {photo.path: photo.note.endswith("a training photo") for photo in found.photos}
    trained_on = {one.path for one in split[1]}
    assert all(says == (path in trained_on) for path, says in is_trained.items())
    given, taken = ((numbers[name] - numbers[f"{name}_control"]) for name in ("attack", "loss"))
    assert found.cost == pytest.approx(max(given * 2 * FEW, taken * FEW) / (3 * FEW))


def test_nothing_but_shortcuts_is_looked_for_on_training_photos(split: Split) -> None:
    kinds = [kind for kind in KINDS if kind != "shortcut"]
    # A wrong label, which only the audited photos are to be asked of.
    training = [replace(split[1][0], label=1), *split[1][1:]]
    alone, filled = (search(split, kinds=kinds, training=some).to_json() for some in ((), training))
    assert alone == filled


def test_classes_with_enough_photos_are_audited_as_they_are_without(tmp_path: Path) -> None:
    samples = write_photos(tmp_path, stamp)
    more = [replace(one, path=one.path.with_suffix(".jpg")) for one in samples]
    data = read_data(Asker(make_model(12.0).classifier), samples, seed=3)
    assert choose_training(data, samples, None) == []
    assert len(choose_training(data, more, None)) == len(more)
    plenty = replace(data, paths=data.paths * 3, labels=np.tile(data.labels, 3))
    assert len(plenty.labels) == 3 * 3 * PHOTOS > 3 * ENOUGH
    assert choose_training(plenty, more, None) == []


def test_the_fewest_come_first_and_the_limit_holds_for_all(split: Split) -> None:
    held = [one for one in split[0] if one.label or int(one.path.stem) < 2]
    data = read_data(Asker(make_model(12.0).classifier), held, seed=3)
    unknown = [replace(one, label=-1, path=one.path.with_name("u.png")) for one in split[1][:2]]
    chosen = choose_training(data, [*split[1], *unknown, *held], len(held) + 10)
    assert sorted(one.label for one in chosen) == [0] * 6 + [1] * 2 + [2] * 2
    assert chosen == choose_training(data, [*reversed(split[1]), *held], len(held) + 10)
    assert {one.path for one in chosen} <= {one.path for one in split[1]}
    assert choose_training(data, split[1], len(held)) == []


def test_training_photos_that_can_not_be_read_are_told_and_end_nothing(split: Split) -> None:
    split[1][0].path.write_bytes(b"no photo")
    found = search(split, training=split[1])
    assert [one.class_name for one in found.findings] == ["red"]
    assert any(note.startswith("1 training photos could not be read") for note in found.notes)
    for one in split[1]:
        one.path.write_bytes(b"no photo")
    found = search(split, training=split[1])
    assert (found.findings, found.photos) == ((), 3 * FEW)
    assert any(note.startswith("54 training photos could not be read") for note in found.notes)


def test_photos_of_unknown_class_are_not_filled_up(split: Split) -> None:
    unlabelled = [replace(one, label=-1) for one in split[0]]
    assert search((unlabelled, []), training=split[1]).record["training_photos"] == {}


@pytest.fixture
def shapes(shapes_folder: Path, tmp_path: Path) -> Path:
    """Four photos of each shape in val/, the others in train/."""
    for path in sorted(shapes_folder.rglob("*.*")):
        own = sorted(path.parent.iterdir()).index(path)
        place = tmp_path / "photos" / ("val" if own < 4 else "train") / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    return tmp_path / "photos"


def test_the_command_takes_the_photos_in_train_where_it_is_told_to(
    call_whycam: Callable[..., Any], tiny_folder: Path, shapes: Path, tmp_path: Path
) -> None:
    told = {}
    for word, how in {"with": ("--with-training",), "alone": ()}.items():
        done = call_whycam(
            *("audit", tiny_folder, shapes, "-o", tmp_path / word, "--kinds", "shortcut", "--engine", "torch"),
            *how,
        )
        assert done.returncode == 0, done.stderr
        told[word] = json.loads((tmp_path / word / "audit.json").read_text(encoding="utf-8"))
    count = len(list((shapes / "train" / "circle").iterdir()))
    assert told["with"]["record"]["training_photos"] == dict.fromkeys(("circle", "square", "triangle"), count)
    assert told["alone"]["record"]["training_photos"] == {}
    assert told["with"]["photos"] == told["alone"]["photos"] == 12
    assert any("training photos" in note for note in told["with"]["notes"])
    assert not any("training photos" in note for note in told["alone"]["notes"])


def test_a_run_names_the_photos_that_it_learnt_from_where_none_lie_beside(
    shapes: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    run, names = make_run(tmp_path / "run", tiny_folder, shapes / "val"), ["circle", "square", "triangle"]
    model = whycam.load(run).classifier
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    summary["data"] |= {"folder": str(shapes)}
    write_json(run / "summary.json", summary)
    trained = {path: names.index(path.parent.name) for path in (shapes / "train").rglob("*.*")}
    found = choose_training_photos(str(run), model, [])
    assert {one.path: one.label for one in found} == trained
    # What lies beside the audited photos comes first, and a model that is no run names none.
    assert choose_training_photos(str(run), model, found[:2]) == found[:2]
    assert choose_training_photos(str(run / "model"), model, []) == []
    shutil.rmtree(shapes)
    assert choose_training_photos(str(run), model, []) == []


def test_what_a_run_split_off_itself_is_not_what_it_learnt_from(
    shapes: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", tiny_folder, shapes / "val")
    held = {path.relative_to(shapes / "val") for path in (shapes / "val").rglob("*.*")}
    for path in (shapes / "train").rglob("*.*"):
        path.rename(shapes / "val" / path.relative_to(shapes / "train"))
    found = choose_training_photos(str(run), whycam.load(run).classifier, [])
    everything = {path.relative_to(shapes / "val") for path in (shapes / "val").rglob("*.*")}
    assert {one.path.relative_to(shapes / "val") for one in found} == everything - held
    assert held
    assert len(everything) > len(held)
