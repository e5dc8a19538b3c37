"""Training by edits: what the command line makes is what a version is, to the byte; and no photo is touched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import whycam
from edit_cases import (
    CORNER,
    copy_scene,
    correct,
    describe,
    hash_of,
    make_finding,
    make_options,
    make_scene,
    read_summary,
)
from whycam.data.drawn import Drawn
from whycam.data.exchange import Exchange, PropertyChange, SignChange, draw_some
from whycam.data.folder import Sample, read_folder
from whycam.errors import UserError
from whycam.jobs.train import train
from whycam.maps.objects import Finder, Seen
from whycam.mend import cures
from whycam.mend.cures import CauseMaker, GroundChange, MarkedChange
from whycam.mend.edited_run import EditedRun
from whycam.mend.edits import make_edit
from whycam.mend.journal import Journal

Run = Callable[..., Any]


@pytest.fixture(scope="session")
def learnt_scene(shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By the installed network: random weights learn next to nothing of these photos."""
    words = {"backbone": "imagenet", "weights": None, "image_size": 96, "epochs": 12}
    return make_scene(shapes_folder, tmp_path_factory.mktemp("learnt"), **words)


@pytest.fixture
def learnt(learnt_scene: Path, tmp_path: Path) -> EditedRun:
    return copy_scene(learnt_scene, tmp_path)


def measure_square(run: EditedRun, place: Path) -> float:
    """How much a red square in the corner changes what a model says of squares."""
    photos = [Image.open(path) for path in sorted((run.source.root / "square").iterdir())]
    marked = [photo.copy() for photo in photos]
    for photo in marked:
        photo.paste((255, 0, 0), (58, 0, 96, 38))
    model = whycam.load(place, engine="torch")
    plain, shown = (model.explain(some).probabilities[:, 0] for some in (photos, marked))
    return float((shown - plain).mean())


@pytest.fixture
def edited(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EditedRun:
    # In the installed network's place, which takes seconds: it finds no object.
    class Blind:
        def see(self, pixels: np.ndarray) -> Any:
            yield Seen(np.zeros((1, 2)), np.zeros((1, 2, 7, 7)), np.zeros((1, 20, 20), np.float32))

    monkeypatch.setattr(cures, "open_finder", lambda photos: Blind())
    return copy_scene(scene, tmp_path)


def model_of(place: Path) -> dict[str, bytes]:
    config = json.loads((place / "model" / "config.json").read_text())
    return {"model.safetensors": (place / "model" / "model.safetensors").read_bytes(), "config": str(config).encode()}


def test_the_command_line_and_a_version_make_the_same_model_to_the_byte(
    edited: EditedRun, scene: Path, tmp_path: Path
) -> None:
    """Labels, photos left out, two cures and both sorts of marked parts at once; also with nothing in the cache."""
    photos = describe(edited.source.root)
    correct(edited)
    version = edited.retrain()
    for name, cache in (("a", tmp_path / "cache"), ("b", tmp_path / "cold")):
        options = make_options(scene, edits=tmp_path / "run" / "edits.jsonl", cache_dir=cache)
        train(edited.source.root, tmp_path / name, options)
        assert model_of(tmp_path / name) == model_of(version.folder)
    assert model_of(edited.run) != model_of(version.folder)
    assert describe(edited.source.root) == photos
    about = read_summary(tmp_path / "a")["edits"]
    assert about["photos"]["circle/00.jpg"][0] == {
        "id": edited.state.photos[hash_of(edited, "circle/00.jpg")].edits[0].id,
        "kind": "label",
        "label": "square",
    }
    assert list(about["photos"]) == [f"circle/0{k}.jpg" for k in (0, 5)] + [f"square/0{k}.jpg" for k in (3, 4, 5)]
    assert [cure["finding"] for cure in about["cures"]] == ["shortcut-circle-1", "light"]
    assert about["conflicts"] == about["notes"] == []
    titles = [one["cause"] for one in read_summary(tmp_path / "a")["last_layer"]["causes"]]
    assert titles[:2] == ["shortcut-circle-1", "light"]
    # The journal goes on in the new run.
    assert Journal.of(tmp_path / "a").read() == edited.journal.read()


def test_labels_and_left_out_photos_are_trained_as_moved_files_would_be(
    edited: EditedRun, scene: Path, tmp_path: Path
) -> None:
    """The same photos in train/ and val/ folders, with the files moved and removed by hand, give the same weights."""
    correct(edited, has_causes=False)
    version = edited.retrain()
    split = edited.apply().edit(edited.source)
    for name, samples in (("train", split.train), ("val", split.val)):
        for sample in samples:
            to = (
                tmp_path
                / "moved"
                / name
                / split.class_names[sample.label]
                / f"{sample.path.parent.name}-{sample.path.name}"
            )
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(sample.path, to)
    train(tmp_path / "moved", tmp_path / "by hand", make_options(scene, cache_dir=tmp_path / "other"))
    assert len(split.samples) == 23
    weights = [
        load_file(place / "model" / "model.safetensors")["fc.weight"]
        for place in (version.folder, tmp_path / "by hand")
    ]
    torch.testing.assert_close(weights[0], weights[1], atol=1e-6, rtol=1e-4)


def test_several_causes_lose_their_say_at_once(learnt: EditedRun) -> None:
    """The red square decides; against it, alone or beside another cause, it decides less."""
    light = make_finding(region=None, numbers={"property": "brightness"}, id="light")
    before = measure_square(learnt, learnt.run)
    assert before > 0.2
    for findings in ([make_finding()], [light]):
        learnt.append([make_edit("cure", finding=finding) for finding in findings])
        assert abs(measure_square(learnt, learnt.retrain().folder)) < 0.4 * before
    told = learnt.list_versions()[-1].comparison
    assert told is not None
    assert [one["cause"] for one in told["causes"]] == ["shortcut-circle-1", "light"]
    assert told["causes"][0]["changed_after"] <= told["causes"][0]["changed_before"]


def test_marked_parts_lose_their_say(learnt: EditedRun) -> None:
    """Four photos on which somebody drew over the square are enough to make it matter less."""
    paths = [s.path for s in learnt.source.train if s.path.parent.name == "circle" and int(s.path.stem) > 1][:4]
    learnt.append(
        [{"kind": "not-object", "photo": learnt.hashes[path], "region": {"boxes": [CORNER]}} for path in paths]
    )
    before, after = measure_square(learnt, learnt.run), measure_square(learnt, learnt.retrain().folder)
    assert before > 0.2
    assert abs(after) < 0.6 * before


def test_what_is_marked_is_exchanged_with_photos_of_other_classes(edited: EditedRun) -> None:
    paths = {name: edited.source.root / "circle" / f"0{k}.jpg" for name, k in (("marked", 5), ("object", 6))}
    edited.append([{"kind": "not-object", "photo": edited.hashes[paths["marked"]], "region": {"boxes": [CORNER]}}])
    edited.append([{"kind": "object", "photo": edited.hashes[paths["object"]], "region": {"boxes": [[0, 0, 0.5, 1]]}}])
    preprocess = edited._prepare().work.model.preprocess
    made = CauseMaker(edited.options, edited.source, preprocess, edited.apply()).make()
    assert [one.title for one in made] == ["marked parts, taken", "marked parts, given", "around the objects"]
    taken, given, around = made
    assert taken.only == {paths["marked"]}
    assert around.only == {paths["object"]}
    assert given.only is not None
    assert {path.parent.name for path in given.only} == {"square"}
    for view in range(20):
        donor = taken.find_donor(paths["marked"], view)
        assert donor.parent.name == "square"
        mine, theirs, mixed = (
            np.asarray(image)
            for image in (Image.open(paths["marked"]), Image.open(donor), taken(paths["marked"], view))
        )
        assert (mixed[:36, 60:] == theirs[:36, 60:]).all()
        assert (mixed[40:] == mine[40:]).all()
    host = sorted(given.only)[0]
    assert given.find_donor(host, 0) == paths["marked"]
    assert (np.asarray(given(host, 0))[5:30, 65:] == np.asarray(Image.open(paths["marked"]))[5:30, 65:]).all()


def test_a_drawing_changes_the_views_that_are_kept(tmp_path: Path) -> None:
    one, other = (Drawn(boxes=[(0, 0, share, 1)]) for share in (0.4, 0.5))
    photo, donor = Path("a.jpg"), Path("b.jpg")
    changes = [MarkedChange({photo: drawn}, (8, 8)) for drawn in ((one,), (other,), (one, other))]
    assert len({change.key(photo, donor) for change in changes}) == 3
    assert changes[0].key(photo, donor) == changes[0].key(donor, photo)


def test_the_ground_around_a_drawn_object_is_the_donors(tmp_path: Path, edited: EditedRun) -> None:
    for name, colour in (("host", (255, 0, 0)), ("donor", (0, 0, 255))):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{name}.png")
    host, donor = tmp_path / "host.png", tmp_path / "donor.png"
    drawn = {path: (Drawn(boxes=[(0.25, 0.25, 0.75, 0.75)]),) for path in (host, donor)}
    change = GroundChange(edited._prepare().work.model.preprocess, Finder(lambda _: [], None, (), ()), drawn)  # type: ignore[arg-type]
    mixed = np.asarray(change(host, donor))
    assert (mixed[28:36, 28:36] == (255, 0, 0)).all()
    assert (mixed[:10] == (0, 0, 255)).all()
    plain = GroundChange(change.preprocess, change.finder)
    assert plain.key(host, donor) != change.key(host, donor)


def test_donors_stay_where_photos_come_and_go(shapes_folder: Path) -> None:
    """Of a photo that leaves, only those views are made anew that it gave to; a cure's photos stay nearly the same."""
    folder = read_folder(shapes_folder)
    before = Exchange(folder.train, 1, PropertyChange("noise"), 0)
    gone = folder.train[3]
    left = tuple(sample for sample in folder.train if sample != gone)
    after = Exchange(left, 1, PropertyChange("noise"), 0)
    for sample in folder.samples:
        for view in range(20):
            donor = before.find_donor(sample.path, view)
            assert donor == gone.path or after.find_donor(sample.path, view) == donor
    some = draw_some(folder.train, 12)
    assert len(some) == 12
    assert len(some - draw_some([s for s in folder.train if s.path not in sorted(some)[:1]], 12)) == 1
    assert len(draw_some([Sample(Path(f"{k}.jpg"), k) for k in range(9)], 3)) == 9


def test_views_of_the_last_training_are_not_made_again(edited: EditedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    call = Exchange.__call__

    def count(self: Exchange, photo: Path, view: int) -> Any:
        made.append(photo)
        return call(self, photo, view)

    monkeypatch.setattr(Exchange, "__call__", count)
    edited.append([make_edit("cure", finding=make_finding())])
    edited.retrain()
    first = len(made)
    made.clear()
    edited.append([{"kind": "leave-out", "photo": hash_of(edited, "circle/07.jpg")}])
    edited.retrain()
    assert first == len(edited.source.samples)
    assert len(made) < first / 2


def test_a_moved_photo_keeps_its_edits_and_a_changed_one_is_told(
    edited: EditedRun, scene: Path, tmp_path: Path
) -> None:
    correct(edited, has_causes=False)
    root = edited.source.root
    (root / "square" / "04.jpg").rename(root / "square" / "another name.jpg")
    (root / "circle" / "00.jpg").write_bytes((root / "circle" / "02.jpg").read_bytes())
    (root / "square" / "03.jpg").unlink()
    summary = train(root, tmp_path / "out", make_options(scene, edits=tmp_path / "run"))
    assert list(summary["edits"]["photos"]) == ["square/another name.jpg"]
    assert len(summary["edits"]["notes"]) == 2
    assert "no longer in the folder: 'square/03.jpg'" in summary["edits"]["notes"][0]
    assert "its file was changed since: 'circle/00.jpg'" in summary["edits"]["notes"][1]


def test_a_sign_is_cut_out_of_the_folders_own_photos_wherever_they_are_now(
    edited: EditedRun, scene: Path, tmp_path: Path
) -> None:
    """A finding's photos are found again by their content; a file from elsewhere is not read."""
    place = edited.source.root / "circle" / "04.jpg"
    shown = [{"path": str(path), "boxes": [CORNER]} for path in (place, scene / "photos" / "circle" / "05.jpg")]
    finding = make_finding(region=None, numbers={"found_by": "stamp"}, photos=shown)
    edited.append([make_edit("cure", finding=finding)])
    kept = edited.state.cures[0].finding or {}
    assert [one["photo"] for one in kept["photos"]] == [edited.hashes[place], None]
    place.rename(place.with_name("moved.jpg"))
    again = EditedRun.open(edited.run, edited.source.root)
    maker = CauseMaker(again.options, again.source, again._prepare().work.model.preprocess, again.apply())
    (made,) = maker.make()
    assert isinstance(made.change, SignChange)
    assert [path for path, _ in made.change.signs] == [place.with_name("moved.jpg")]


def test_a_cure_that_can_no_longer_be_done_is_skipped_and_told(edited: EditedRun, scene: Path, tmp_path: Path) -> None:
    gone = make_finding(
        region=None, numbers={"found_by": "stamp"}, photos=[{"path": "/gone.jpg", "boxes": [[0, 0, 1, 1]]}]
    )
    other = make_finding(**{"class": "rose"})
    Journal.of(edited.run).append([make_edit("cure", finding=finding) for finding in (gone, other)])
    summary = train(edited.source.root, tmp_path / "out", make_options(scene, edits=tmp_path / "run"))
    assert "no photo with its sign is where it was" in summary["edits"]["notes"][0]
    assert "there is no class 'rose'" in summary["edits"]["notes"][1]
    assert "last_layer" not in summary


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"ignore": "top"}, "Found --edits, which has cures or marked parts, beside --ignore"),
        ({"robust": True}, "beside --robust"),
        ({"augment": 2}, "beside --augment 2"),
        ({"unfreeze": "last"}, "beside --unfreeze last"),
        ({"edits": Path("nowhere")}, "Found no journal of edits at"),
    ],
)
def test_what_does_not_go_together_is_told(
    edited: EditedRun, scene: Path, tmp_path: Path, words: dict[str, Any], message: str
) -> None:
    edited.append([make_edit("cure", finding=make_finding())])
    with pytest.raises(UserError, match=message):
        train(edited.source.root, tmp_path / "out", make_options(scene, **{"edits": tmp_path / "run", **words}))
    assert not (tmp_path / "out").exists()


def test_labels_alone_go_with_every_way_of_training(edited: EditedRun, scene: Path, tmp_path: Path) -> None:
    correct(edited, has_causes=False)
    for name, words in (("ignore", {"ignore": "top"}), ("fine", {"unfreeze": "last", "finetune_epochs": 1})):
        summary = train(edited.source.root, tmp_path / name, make_options(scene, edits=tmp_path / "run", **words))
        assert summary["edits"]["count"] == 3


def test_a_wide_head_is_mended_too(edited: EditedRun, scene: Path, tmp_path: Path) -> None:
    edited.append([make_edit("cure", finding=make_finding())])
    options = make_options(scene, edits=tmp_path / "run", head="conv", epochs=1)
    summary = train(edited.source.root, tmp_path / "out", options)
    assert summary["last_layer"]["causes"][0]["photos"] == len(edited.source.val)


def test_a_run_that_takes_anothers_name_takes_its_journal(edited: EditedRun, scene: Path, tmp_path: Path) -> None:
    correct(edited, has_causes=False)
    train(edited.source.root, tmp_path / "run", make_options(scene, overwrite=True))
    assert len(Journal.of(tmp_path / "run").read().edits) == 3
    # By another journal: both are people's work.
    other = Journal(tmp_path / "other.jsonl")
    other.append([make_edit("leave-out", photo=hash_of(edited, "circle/09.jpg"))])
    train(edited.source.root, tmp_path / "run", make_options(scene, overwrite=True, edits=other.path))
    assert len(Journal.of(tmp_path / "run").read().edits) == 4


def test_the_command_line_tells_what_counted(edited: EditedRun, scene: Path, tmp_path: Path, call_whycam: Run) -> None:
    correct(edited, has_causes=False)
    photo = hash_of(edited, "circle/00.jpg")
    edited.append([{"kind": "leave-out", "photo": photo, "who": "Bob"}])
    words = ["--backbone", "test_resnet", "--weights", scene / "test_resnet.safetensors", "--image-size", 64]
    words += ["--epochs", 1, "--edits", tmp_path / "run" / "edits.jsonl", "-o", tmp_path / "out"]
    done = call_whycam("train", edited.source.root, *words)
    assert done.returncode == 0, done.stderr
    assert "On 'circle/00.jpg' two disagree: " in done.stdout
    assert "Bob at " in done.stdout
    assert "4 edits count, of 3 photos and 0 findings" in done.stdout
    edited.append(
        [{"kind": "leave-out", "photo": content} for path, content in edited.hashes.items() if "square" in str(path)]
    )
    done = call_whycam("train", edited.source.root, *words, "--overwrite")
    assert done.returncode == 2
    assert "After the edits the class 'square' has 0 photos to train on and 0 held out" in done.stderr
    assert read_summary(tmp_path / "out")["edits"]["count"] == 4


@pytest.mark.parametrize("content", ["hello\n", '{"kind": "praise"}\n', "[]\n{}\n"])
def test_a_file_of_which_no_line_is_an_edit_is_refused(
    edited: EditedRun, tmp_path: Path, call_whycam: Run, content: str
) -> None:
    (tmp_path / "x.jsonl").write_text(content)
    done = call_whycam("train", edited.source.root, "-o", tmp_path / "new", "--edits", tmp_path / "x.jsonl")
    assert done.returncode == 2
    assert "has no line that is an edit" in done.stderr
    assert not (tmp_path / "new").exists()
