"""Guards on small models of every kind: what they measure, by hand; the photos that they name; what they refuse."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import whycam
from kind_cases import COLOURS, NAMES, NET, OBJECTS, SIDE_PX, import_net, make_onnx, set_weights
from whycam.audit.findings import Audit, EvidencePhoto, Finding
from whycam.data.annotations import Annotation
from whycam.errors import UserError
from whycam.testing import (
    BrokenGuardError,
    InconclusiveWarning,
    State,
    assert_accuracy,
    assert_evidence_kept,
    assert_exact,
    assert_looks_at,
    assert_no_shortcut,
    check_accuracy,
    check_evidence_kept,
    check_exact,
    check_looks_at,
    check_no_shortcut,
)
from whycam.testing.kept import measure_overlap
from whycam.testing.session import Session, begin, end

PER_CLASS = 20


@pytest.fixture(autouse=True)
def session(tmp_path: Path) -> Iterator[Session]:
    """Each test begins with no answers kept; pictures go to its own folder."""
    own = Session(lambda: tmp_path / "report", is_told=True)
    begin(own)
    yield own
    end(own)


def draw(colour: str, seed: int, *, mark: str | None = None) -> tuple[Image.Image, Image.Image]:
    """A square of the colour somewhere on noise, with its mask; a mark is a bright one in the corner."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    mask = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    y, x = rng.integers(18, 40, 2)
    pixels[y : y + 20, x : x + 20] = COLOURS[colour] * rng.uniform(0.5, 0.8, (20, 20, 1))
    mask[y : y + 20, x : x + 20] = 255
    if mark:
        pixels[:20, :20] = COLOURS[mark]
        pixels[6:12, 6:12] = 255
    return Image.fromarray(pixels), Image.fromarray(mask)


def write(root: Path, per_class: int = PER_CLASS, marks: dict[str, str] | None = None) -> Path:
    """root/photos/CLASS/0.png, and root/masks."""
    for k, name in enumerate(NAMES):
        for folder in ("photos", "masks"):
            (root / folder / name).mkdir(parents=True)
        for index in range(per_class):
            photo, mask = draw(name, 1000 * k + index, mark=(marks or {}).get(name))
            photo.save(root / "photos" / name / f"{index}.png")
            mask.save(root / "masks" / name / f"{index}.png")
    return root / "photos"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("guards")
    (root / "net.py").write_text(NET, encoding="utf-8")
    write(root)
    return root


@pytest.fixture(scope="module")
def load(root: Path) -> Callable[[str], Any]:
    """Models that tell the colours: of a module, a function, an ONNX file with exact maps, and one without."""

    @cache
    def make(name: str) -> Any:
        if name.startswith("onnx"):
            case = make_onnx(root, "Colours" if name == "onnx" else "Places")
            return whycam.load(case.words[0], preprocess="unit", class_names=root / "classes.txt")
        case = OBJECTS[name](root)
        return whycam.load(case.thing, **(case.how or {}))

    return make


def make_net(root: Path, name: str = "Colours") -> nn.Module:
    net: nn.Module = set_weights(getattr(import_net(root), name)())
    return net


def open_net(net: nn.Module, names: tuple[str, ...] = NAMES) -> whycam.Model:
    return whycam.load(net, class_names=names, preprocess="unit", image_size=SIDE_PX)


# --- accuracy


@pytest.mark.parametrize("kind", ["module", "function", "onnx", "onnx inexact"])
def test_accuracy_of_every_kind_of_model(load: Callable[[str], Any], root: Path, kind: str) -> None:
    verdict = assert_accuracy(load(kind), root / "photos", at_least=0.9)
    assert (verdict.state, verdict.value, verdict.photos) == (State.HOLDS, 1.0, 60)
    assert verdict.worst == ()


def test_a_run_folder_is_taken_by_its_name(tiny_folder: Path, shapes_folder: Path) -> None:
    model = whycam.load(tiny_folder)
    paths = sorted(shapes_folder.rglob("*.jpg"))
    said = [model.class_names[k] for k in model.explain(paths).predicted.tolist()]
    right = np.mean([word == path.parent.name for word, path in zip(said, paths, strict=True)])
    assert check_accuracy(tiny_folder, shapes_folder, 0.5).value == pytest.approx(right)
    assert check_accuracy(str(tiny_folder), shapes_folder, 0.5).value == pytest.approx(right)


def test_photos_are_named_worst_first_with_their_pictures(
    load: Callable[[str], Any], tmp_path: Path, session: Session
) -> None:
    photos = write(tmp_path, 10)
    for name, seed in (("red", 1), ("green", 2)):  # blue ones in other classes' folders
        draw("blue", seed)[0].save(photos / name / "wrong.png")
    draw("blue", 3)[0].resize((500, 900)).save(photos / "red" / "large.png")
    model = load("module")
    with pytest.raises(BrokenGuardError) as raised:
        assert_accuracy(model, photos, at_least=1.0)
    verdict = raised.value.verdict
    why = model.explain([one.path for one in verdict.worst])
    leads = [
        float(row.max() - row[NAMES.index(one.path.parent.name)])
        for row, one in zip(why.logits, verdict.worst, strict=True)
    ]
    assert {one.path.name for one in verdict.worst} == {"wrong.png", "large.png"}
    assert leads == sorted(leads, reverse=True)
    lines = str(raised.value).splitlines()
    assert lines[0].startswith("accuracy is broken: 30 of 33 photos are right: 0.909; at most 0.9")
    assert lines[1].endswith(f"taken for blue by {leads[0]:.2f} logits")
    assert str(verdict.worst[0].path) in lines[1]
    (record,) = session.take_records()
    assert [row["path"] for row in record["worst"]] == [str(one.path) for one in verdict.worst]
    assert [picture["caption"] for picture in record["worst"][0]["pictures"]][:2] == ["the photo", "for blue (cam)"]
    for row in record["worst"]:
        for picture in row["pictures"]:
            with Image.open(Path(record["folder"]) / picture["file"]) as drawn:
                assert drawn.size == tuple(picture["size_px"])
                assert max(drawn.size) <= 480


def test_several_labels_count_by_their_own_half(root: Path) -> None:
    net = set_several(root)
    model = open_net(net)
    assert model.classifier.card.is_multi_label
    verdict = check_accuracy(model, root / "photos", 0.9)
    shares = model.explain(sorted((root / "photos").rglob("*.png"))).probabilities.numpy()
    own = [NAMES.index(path.parent.name) for path in sorted((root / "photos").rglob("*.png"))]
    assert verdict.value == pytest.approx(np.mean([row[k] > 0.5 for row, k in zip(shares, own, strict=True)]))
    assert "label with over 50 %" in verdict.told


def set_several(root: Path) -> nn.Module:
    net: nn.Module = import_net(root).make_several()
    set_weights(net[0])
    return net


# --- where it looks


def test_the_share_is_that_of_evaluate(load: Callable[[str], Any], root: Path) -> None:
    from whycam.data.annotations import read_photos

    annotations = read_photos(root / "photos", masks=root / "masks")
    for kind, method in (("module", "cam"), ("onnx inexact", "ablation-cam")):
        verdict = check_looks_at(load(kind), root / "photos", root / "masks", share=0.1)
        found = whycam.evaluate(load(kind), annotations, methods=[method], metrics=["mass-in-mask"], baselines=())
        assert verdict.numbers["method"] == method
        assert verdict.value == pytest.approx(found.estimate(method, "mass-in-mask").value, abs=1e-4)
        assert verdict.numbers["area"] == pytest.approx(400 / SIDE_PX**2, abs=1e-5)


def test_a_model_without_exact_maps_says_by_which_method(load: Callable[[str], Any], root: Path) -> None:
    verdict = check_looks_at(load("function"), root / "photos", root / "masks", share=0.1)
    assert verdict.numbers["method"] == "occlusion"
    assert any(note.startswith("Measured with the maps of occlusion, which are not exact") for note in verdict.notes)
    plain = check_looks_at(load("module"), root / "photos", root / "masks", share=0.1)
    assert not any("not exact" in note for note in plain.notes)
    told = check_looks_at(load("module"), root / "photos", root / "masks", share=0.1, method="grad-cam")
    assert any("maps of grad-cam" in note for note in told.notes)


def test_evidence_beside_the_objects_breaks_it(load: Callable[[str], Any], tmp_path: Path, session: Session) -> None:
    write(tmp_path, 12, marks={name: name for name in NAMES})
    with pytest.raises(BrokenGuardError, match="looks-at is broken: of the evidence in 36 photos, this share"):
        assert_looks_at(load("module"), tmp_path / "photos", tmp_path / "masks", share=0.4)
    (record,) = session.take_records()
    shares = [float(row["note"].split()[0]) for row in record["worst"]]
    assert shares == sorted(shares)
    assert max(shares) < 0.4
    clean = write(tmp_path / "clean", 12)
    assert assert_looks_at(load("module"), clean, tmp_path / "clean" / "masks", share=0.4).state is State.HOLDS


def test_masks_of_another_size_or_missing_are_counted(load: Callable[[str], Any], tmp_path: Path) -> None:
    photos = write(tmp_path, 4)
    (tmp_path / "masks" / "red" / "0.png").unlink()
    Image.new("L", (9, 9), 255).save(tmp_path / "masks" / "red" / "1.png")
    verdict = check_looks_at(load("module"), photos, tmp_path / "masks", share=0.3)
    assert verdict.photos == 10
    assert "Left out: 1 photo without a mask." in verdict.notes
    assert "Left out: 1 photo (mask of another size than the photo)." in verdict.notes


def test_masks_lie_in_val_as_the_photos_do(load: Callable[[str], Any], tmp_path: Path) -> None:
    for split in ("train", "val"):
        write(tmp_path / split, 3)
        for tree in ("photos", "masks"):
            (tmp_path / tree).mkdir(exist_ok=True)
            (tmp_path / split / tree).rename(tmp_path / tree / split)
    verdict = check_looks_at(load("module"), tmp_path / "photos", tmp_path / "masks", share=0.3)
    assert verdict.photos == 9
    assert verdict.numbers["area"] == pytest.approx(400 / SIDE_PX**2, abs=1e-5)


# --- shortcuts


def test_a_mark_that_decides_a_class_is_found_and_a_clean_one_is_not(root: Path, tmp_path: Path) -> None:
    """The net counts coloured pixels: a mark says more than the square beside it."""
    net = make_net(root)
    marked = write(tmp_path / "marked", 20, marks={"red": "red"})
    with pytest.raises(BrokenGuardError, match="The model knows 'red' by a mark") as raised:
        assert_no_shortcut(open_net(net), marked, kinds=["mark"])
    verdict = raised.value.verdict
    assert verdict.numbers["findings"][0]["numbers"]["found_by"] == "mark"
    assert all(one.path.parent.name == "red" for one in verdict.worst)
    assert "whycam audit" in str(raised.value)
    clean = write(tmp_path / "clean", 20)
    assert check_no_shortcut(open_net(net), clean, kinds=["mark"]).state is State.HOLDS
    assert check_no_shortcut(open_net(net), marked, kinds=["place"]).numbers["kinds"] == ["place"]


def test_a_question_whether_it_is_the_object_breaks_nothing(
    load: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = write(tmp_path, 12)
    shown = EvidencePhoto(next((photos / "red").iterdir()), ((0.0, 0.0, 0.5, 0.5),))
    title = "The model knows 'red' by things that go with it ('mug'): are they the object?"
    found = Finding("question", 0.4, 0.99, title, "Some words.", "red", photos=(shown,), remedy="Look.")
    record = {"classes": {"red": 12, "green": 12, "blue": 12}}
    monkeypatch.setattr("whycam.testing.shortcuts.audit", lambda *_, **__: Audit((found,), 36, (), record))
    verdict = assert_no_shortcut(load("module"), photos, kinds=["thing"])
    assert verdict.state is State.INCONCLUSIVE
    assert title in verdict.told
    assert [one.path for one in verdict.worst] == [shown.path]


def test_few_photos_of_a_class_tell_nothing(load: Callable[[str], Any], tmp_path: Path) -> None:
    photos = write(tmp_path, 12)
    for path in sorted((photos / "blue").iterdir())[9:]:
        path.unlink()
    verdict = assert_no_shortcut(load("module"), photos, kinds=["mark"])
    assert verdict.state is State.INCONCLUSIVE
    assert "blue: 9" in verdict.told
    with pytest.raises(BrokenGuardError, match=r"(?s)no-shortcut is inconclusive.*proof is asked for"):
        assert_no_shortcut(load("module"), photos, kinds=["mark"], strict=True)


# --- the evidence of before


def test_the_overlap_of_two_maps_by_hand() -> None:
    left, right = np.zeros((4, 4), np.float32), np.zeros((4, 4), np.float32)
    left[:, :2], right[:, 2:] = 1, 3
    assert measure_overlap(left, 5 * left) == pytest.approx(1)
    assert measure_overlap(left, -left) == 0
    assert measure_overlap(-left, -right) == 1
    # Between the centres of the two middle columns, 1/4 of the photo, each map falls from its height to 0: the smaller
    # of both is a triangle of half of that height, 1/4 x 1/2 x 1/2, over the evidence of half of a photo.
    assert measure_overlap(left, right) == pytest.approx(1 / 8, abs=0.01)
    assert measure_overlap(left, np.ones((4, 4), np.float32)) == pytest.approx(0.5, abs=0.07)
    assert measure_overlap(left, right) == measure_overlap(right, left)


def test_the_same_model_keeps_all_of_it_in_another_form(load: Callable[[str], Any], root: Path) -> None:
    verdict = assert_evidence_kept(load("onnx"), open_net(make_net(root)), root / "photos", 0.9)
    assert verdict.value == pytest.approx(1, abs=1e-4)
    assert verdict.numbers["changed"] == 0


def test_classes_are_matched_by_their_names(load: Callable[[str], Any], root: Path) -> None:
    net = make_net(root)
    turned = net.head.weight.data[[2, 0, 1]], net.head.bias.data[[2, 0, 1]]
    net.head.weight.data, net.head.bias.data = turned
    names = ("blue", "red", "green")
    verdict = check_evidence_kept(load("module"), open_net(net, names), root / "photos", 0.9)
    assert verdict.value == pytest.approx(1, abs=1e-4)


def test_what_one_class_lost_is_told_of_that_class(load: Callable[[str], Any], root: Path, session: Session) -> None:
    net = make_net(root)
    # Red is known by what is not red: its evidence is elsewhere, its photos' answers are as they were.
    net.head.weight.data[0], net.head.bias.data[0] = torch.tensor([0.0, 0, 0, -1.0]), 20.0
    old, new = load("module"), open_net(net)
    with pytest.raises(BrokenGuardError, match="evidence-kept is broken: of 'red', of the evidence in 20 photos"):
        assert_evidence_kept(old, new, root / "photos", 0.5)
    (record,) = session.take_records()
    assert [picture["caption"] for picture in record["worst"][0]["pictures"]] == [
        "the photo",
        "old, for red",
        "new, for red",
    ]
    assert record["numbers"]["classes"]["green"]["value"] == pytest.approx(1, abs=1e-4)
    whole = check_evidence_kept(old, new, root / "photos", 0.5, each_class=False)
    assert whole.state is State.HOLDS


def test_models_without_exact_maps_are_compared_by_a_method_that_both_have(
    load: Callable[[str], Any], root: Path
) -> None:
    verdict = check_evidence_kept(load("onnx inexact"), load("module"), root / "photos", 0.3)
    assert verdict.numbers["method"] == "ablation-cam"
    assert any("not both models have exact ones" in note for note in verdict.notes)


# --- exactness


def test_exact_maps_are_measured_and_others_told(load: Callable[[str], Any], root: Path) -> None:
    for photos in (None, root / "photos"):
        verdict = assert_exact(load("module"), photos)
        assert verdict.value is not None
        assert verdict.value < 1e-5
    with pytest.raises(BrokenGuardError, match=r"exact is broken: are there exact maps\? no: Found Relu"):
        assert_exact(load("onnx inexact"))


def test_maps_that_miss_the_logits_break_it(load: Callable[[str], Any], root: Path, monkeypatch: Any) -> None:
    from whycam.testing.models import find_tested

    tested = find_tested(load("module"))
    for error, told in ((0.5, "misses the logit by 0.5"), (np.nan, "by nan")):
        tested._answers.clear()
        vars(tested).pop("_bias", None)
        monkeypatch.setattr(
            "whycam.testing.models.measure_identity", lambda logits, *_, wrong=error: np.full(len(logits), wrong)
        )
        verdict = check_exact(tested, root / "photos")
        assert verdict.state is State.BROKEN
        assert told in verdict.told
        assert len(verdict.worst) == 60


# --- what a session shares


def test_a_model_is_asked_once_about_each_photo(root: Path, session: Session) -> None:
    seen: list[int] = []
    net = make_net(root)

    def classify(images: np.ndarray) -> np.ndarray:
        seen.append(len(images))
        return np.asarray(net(torch.from_numpy(images)))

    model = whycam.load(classify, class_names=NAMES, preprocess="unit", image_size=SIDE_PX)
    seen.clear()
    first = check_accuracy(model, root / "photos", 0.9)
    assert sum(seen) == 60
    assert check_accuracy(model, root / "photos", 0.5).value == first.value
    assert check_accuracy(model, sorted_annotations(root)[:10], 0.5).photos == 10
    assert sum(seen) == 60
    end(session)
    begin(other := Session())
    try:
        check_accuracy(model, root / "photos", 0.9)
        assert sum(seen) == 120
    finally:
        end(other)
        begin(session)


def sorted_annotations(root: Path) -> list[Annotation]:
    return [Annotation(path, (path.parent.name,)) for path in sorted((root / "photos").rglob("*.png"))]


def test_other_weights_and_other_photos_are_asked_anew(root: Path, tmp_path: Path) -> None:
    net, photos = make_net(root), write(tmp_path, 6)
    model = open_net(net)
    assert check_accuracy(model, photos, 0.5).value == 1
    model.network.head.weight.data *= -1
    assert check_accuracy(model, photos, 0.5).value == 0
    model.network.head.weight.data *= -1
    path = photos / "red" / "0.png"
    draw("blue", 7)[0].save(path)
    os.utime(path, ns=(1, 1))
    assert check_accuracy(model, photos, 0.5).value == pytest.approx(17 / 18)


def test_an_inconclusive_guard_passes_and_warns_where_nobody_else_tells(
    load: Callable[[str], Any], tmp_path: Path, session: Session
) -> None:
    photos = write(tmp_path, 4)
    assert assert_accuracy(load("module"), photos, 0.9).state is State.INCONCLUSIVE  # told at the session's end
    session.is_told = False
    with pytest.warns(
        InconclusiveWarning, match=r"accuracy: 12 of 12 photos .* some \d+ with this value would"
    ) as told:
        assert_accuracy(load("module"), photos, 0.9)
    assert told[0].filename == __file__
    session.is_strict = True
    with pytest.raises(BrokenGuardError, match="inconclusive"):
        assert_accuracy(load("module"), photos, 0.9)
    with pytest.warns(InconclusiveWarning):
        assert assert_accuracy(load("module"), photos, 0.9, strict=False).state is State.INCONCLUSIVE


# --- what is refused


def refuse(load: Callable[[str], Any], root: Path, tmp: Path) -> dict[str, tuple[Callable[[], object], str]]:
    model, photos = load("module"), root / "photos"
    (tmp / "empty").mkdir()
    heap = tmp / "heap"
    heap.mkdir()
    draw("red", 1)[0].save(heap / "a.png")
    wrong = tmp / "wrong"
    for name in ("red", "grean"):
        (wrong / name).mkdir(parents=True)
        draw("red", 1)[0].save(wrong / name / "a.png")
    broken = tmp / "broken"
    for name in ("red", "green"):
        (broken / name).mkdir(parents=True)
        (broken / name / "a.png").write_text("no picture")
    others = open_net(make_net(root), ("red", "green", "violet"))
    one = whycam.load(
        lambda images: images.mean((1, 2, 3))[:, None], class_names=["red"], preprocess="unit", image_size=SIDE_PX
    )
    return {
        "no folder": (lambda: assert_accuracy(model, tmp / "gone", 0.9), "Found nothing at '.*gone'"),
        "a file": (lambda: assert_accuracy(model, heap / "a.png", 0.9), "Found a file at"),
        "no photos": (lambda: assert_accuracy(model, tmp / "empty", 0.9), "No pictures in"),
        "an empty list": (lambda: assert_looks_at(model, [], share=0.5), "Found no photos"),
        "a lost file": (lambda: assert_evidence_kept(model, model, [tmp / "b.png"]), "Found no file"),
        "no classes": (lambda: assert_accuracy(model, heap, 0.9), "1 photos whose class no folder names"),
        "a wrong class": (lambda: assert_accuracy(model, wrong, 0.9), "'grean', no class of the.*mean 'green'"),
        "unreadable": (lambda: assert_accuracy(model, broken, 0.9), "Not one of the 2 photos could be read"),
        "one class": (lambda: assert_accuracy(one, photos, 0.9), "a model of 1 class"),
        "a limit": (lambda: assert_accuracy(model, photos, 90), "at_least is 90; expected a share"),
        "no limit": (lambda: assert_looks_at(model, photos, root / "masks", share=0), "share is 0"),
        "no masks": (lambda: assert_looks_at(model, photos, tmp / "empty", share=0.5), "Found 0 masks"),
        "no mask folder": (lambda: assert_looks_at(model, photos, tmp / "gone", share=0.5), "Found no folder"),
        "masks left out": (lambda: assert_looks_at(model, photos, share=0.5), "Found no mask for any of the 60"),
        "masks of files": (lambda: assert_looks_at(model, [heap / "a.png"], heap, share=0.5), "beside a list"),
        "a kind": (lambda: assert_no_shortcut(model, photos, ["marks"]), "cause of a shortcut 'marks'.*'mark'"),
        "no kind": (lambda: assert_no_shortcut(model, photos, []), "Found no kind of shortcut"),
        "other classes": (lambda: assert_evidence_kept(model, others, photos), "not both have 'blue' and 'violet'"),
        "a method": (lambda: assert_looks_at(model, photos, root / "masks", share=0.5, method="cat"), "method 'cat'"),
        "no model": (lambda: assert_accuracy(tmp / "net", photos, 0.9), "Found no file or folder"),
    }


def test_bad_input_is_refused_with_what_to_do(load: Callable[[str], Any], root: Path, tmp_path: Path) -> None:
    for name, (call, told) in refuse(load, root, tmp_path).items():
        with pytest.raises(UserError, match=f"(?s){told}") as raised:
            call()
        assert len(raised.traceback) < 6, name  # a test's output has the user's own lines
