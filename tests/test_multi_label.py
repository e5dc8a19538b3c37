"""Photos with several classes: what lists say, what is learnt, and that no room takes one class for the answer."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torchmetrics.functional import classification

import whycam
from conftest import Run
from whycam.audit import audit
from whycam.config import ReportOptions, make_train_options
from whycam.data.folder import PhotoFolder, Sample
from whycam.data.listed import read_listed
from whycam.data.several import hold_out
from whycam.errors import UserError
from whycam.intake.door import open_classifier
from whycam.jobs.audit import read_samples
from whycam.jobs.report import make_report
from whycam.jobs.train import train
from whycam.metrics.multi_label import choose_fold_thresholds, choose_thresholds, rank_scores, score_labels
from whycam.runs import read_columns
from whycam.train.epochs import Epoch, find_best
from whycam.train.loop import measure
from whycam.train.multi_label import EACH_BY_ITSELF, compute_mean_ap

COLOURS = {"blue": (40, 70, 250), "green": (30, 220, 60), "red": (240, 40, 30)}
NAMES = tuple(COLOURS)
PHOTOS = 72
SIDE_PX = 64
WORDS: dict[str, Any] = {"image_size": 64, "epochs": 40, "lr": 0.02}


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photos with none to three coloured squares, and lists that name them in each of the forms."""
    root = tmp_path_factory.mktemp("several")
    (root / "photos").mkdir()
    draw = np.random.default_rng(0)
    sets = {}
    for index in range(PHOTOS):
        has = tuple(name for k, name in enumerate(NAMES) if index >> k & 1)
        pixels = draw.integers(90, 130, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
        corners = draw.permutation(4)[: len(has)]
        for name, corner in zip(has, corners, strict=True):
            y, x = (32 * int(v) + int(draw.integers(0, 8)) for v in divmod(int(corner), 2))
            pixels[y : y + 22, x : x + 22] = COLOURS[name]
        path = f"photos/{index:02}.png"
        Image.fromarray(pixels).save(root / path)
        sets[path] = has
    write_lists(root, sets)
    return root


def write_lists(root: Path, sets: Mapping[str, Sequence[str]]) -> None:
    write_csv(root / "labels.csv", ["path", "labels"], [(path, ";".join(has)) for path, has in sets.items()])
    write_csv(root / "label.csv", ["file", "label"], [(path, " | ".join(has)) for path, has in sets.items()])
    lines = [(path, name) for path, has in sets.items() for name in has or [""]]
    write_csv(root / "lines.csv", ["image", "class"], lines)
    flags = [(path, *(int(name in has) for name in NAMES), "a note") for path, has in sets.items()]
    write_csv(root / "flags.csv", ["path", *NAMES, "remark"], flags)
    pq.write_table(pa.table({"path": list(sets), "tags": [list(has) for has in sets.values()]}), root / "tags.parquet")
    flags = {"path": list(sets), **{name: [name in has for has in sets.values()] for name in NAMES}}
    pq.write_table(pa.table(flags), root / "flags.parquet")
    numbers = {name: k for k, name in enumerate((*NAMES, "unused"))}
    images = [{"id": k, "file_name": Path(path).name} for k, path in enumerate(sets)]
    objects = [(k, numbers[name]) for k, has in enumerate(sets.values()) for name in has]
    content = {
        "images": images,
        "categories": [{"id": k, "name": name} for name, k in numbers.items()],
        "annotations": [{"image_id": i, "category_id": k, "bbox": [1, 1, 9, 9]} for i, k in [*objects, objects[0]]],
    }
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / "coco.json").write_text(json.dumps(content), encoding="utf-8")


def write_csv(place: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    with place.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return place


def write_parquet(place: Path, columns: Mapping[str, Sequence[object]]) -> Path:
    pq.write_table(pa.table(dict(columns)), place)
    return place


@pytest.fixture(scope="session")
def run(scenes: Path, tmp_path_factory: pytest.TempPathFactory, _session_cache: None) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    train(scenes / "labels.csv", out, make_train_options(**WORDS))
    return out


def to_sets(photos: PhotoFolder) -> dict[str, tuple[str, ...]]:
    return {s.path.name: tuple(photos.class_names[k] for k in s.classes) for s in photos.samples}


# What lists say.


@pytest.mark.parametrize(
    ("name", "is_told"),
    [
        *(("label.csv", True), ("lines.csv", True), ("flags.csv", False), ("tags.parquet", False)),
        *(("flags.parquet", False), ("annotations/coco.json", False)),
    ],
)
def test_each_form_says_the_same(scenes: Path, name: str, is_told: bool) -> None:
    wanted, found = read_listed(scenes / "labels.csv"), read_listed(scenes / name, is_multi_label=is_told)
    assert found.is_multi_label
    assert found.class_names == wanted.class_names == NAMES
    assert to_sets(found) == to_sets(wanted)
    assert [s.path.name for s in found.val] == [s.path.name for s in wanted.val]
    assert to_sets(wanted)["00.png"] == ()
    assert to_sets(wanted)["07.png"] == NAMES


def test_a_column_label_names_one_class_unless_told(scenes: Path) -> None:
    found = read_listed(scenes / "label.csv", allow_empty=True)
    assert not found.is_multi_label
    assert "blue | green" in found.class_names
    (note,) = [note for note in found.notes if "--multi-label" in note]
    assert note.startswith("36 of its 63 photos have a label that may name several classes, such as 'blue | green'")
    assert not any("--multi-label" in note for note in read_listed(scenes / "labels.csv").notes)
    rows = [(f"photos/{k:02}.png", "a;b" if k == 3 else "ab"[k % 2]) for k in range(9)]
    with pytest.raises(UserError, match=r"'a;b': 1.*1 of its 9 photos.*such as 'a;b'.*--multi-label parts it"):
        read_listed(write_csv(scenes / "joined.csv", ["path", "label"], rows))


def test_what_does_not_count_is_told(scenes: Path) -> None:
    (note,) = [note for note in read_listed(scenes / "flags.csv").notes if "remark" in note]
    assert "do not count" in note
    assert "9 of its 72 photos have no class" in " ".join(read_listed(scenes / "labels.csv").notes)
    assert read_listed(scenes / "annotations" / "coco.json").left_out == ("unused",)


def test_the_split_has_each_class_on_both_sides_in_proportion() -> None:
    draw = np.random.default_rng(1)
    rates = {"often": 0.6, "half": 0.5, "some": 0.2, "rare": 0.015}
    sets = {Path(f"{i:03}"): {name for name, rate in rates.items() if draw.random() < rate} for i in range(400)}
    held = hold_out(sets, 0.2, 0)
    assert 75 <= len(held) <= 85
    for name in rates:
        whole, own = (sum(name in has for has in part) for part in (sets.values(), [sets[path] for path in held]))
        assert 1 <= own < whole
        assert abs(own - 0.2 * whole) <= 1
    assert hold_out(dict(reversed(sets.items())), 0.2, 0) == held
    assert hold_out(sets, 0.2, 1) != held


FAULTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "one class": (
        lambda root: write_csv(
            root / "x.csv", ["path", "labels"], [(f"photos/{i:02}.png", "a" * (i % 2)) for i in range(9)]
        ),
        "Found one class, 'a',",
    ),
    "one class that each photo has": (
        lambda root: write_csv(root / "x.csv", ["path", "labels"], [(f"photos/{i:02}.png", "a") for i in range(9)]),
        "'a' is on 9 of 9 photos*Give each photo one label",
    ),
    "one class that can be learnt": (
        lambda root: write_csv(
            root / "x.csv", ["path", "labels"], [(f"photos/{i:02}.png", "all;a" if i % 2 else "all") for i in range(9)]
        ),
        "'all' is on 9 of 9 photos*Give each photo one label",
    ),
    "no photo is there": (
        lambda root: write_csv(root / "x.csv", ["path", "labels"], [(f"gone/{i}.png", "ab"[i % 2]) for i in range(9)]),
        "None of the 9 photos of '*is there, such as '*gone/0.png'; expected*below*whole paths",
    ),
    "a class that each photo has": (
        lambda root: write_csv(
            root / "x.csv",
            ["path", "labels"],
            [(f"photos/{i:02}.png", "all;a" if i % 2 else "all;b") for i in range(9)],
        ),
        "'all' is on 9 of 9 photos*Add photos without it, or give --allow-empty to train",
    ),
    "a class of one photo": (
        lambda root: write_csv(
            root / "x.csv", ["path", "labels"], [(f"photos/{i:02}.png", "abc"[i // 4]) for i in range(9)]
        ),
        "'c' is on 1 of 9 photos*Add photos of it, or give --allow-empty to train without such classes.",
    ),
    "a flag that is none": (
        lambda root: write_csv(root / "x.csv", ["path", "a", "b"], [("p", 0, 1), ("q", 1, ""), ("r", 1, 0)]),
        "line 3 of '*' has '' in the column 'b'",
    ),
    "no column of classes": (
        lambda root: write_csv(root / "x.csv", ["path", "age"], [("p", 40), ("q", 30)]),
        "has the columns path, age ('40' in age, line 2); expected",
    ),
    "words for 0 and 1": (
        lambda root: write_csv(root / "x.csv", ["path", "a", "b"], [("p", "no", "yes"), ("q", "yes", "no")]),
        "line 2 of '*' has 'no' in the column 'a'; expected 0 or 1 in each line",
    ),
    "words for 0 and 1 beside a column that is right": (
        lambda root: write_csv(root / "x.csv", ["path", "a", "b"], [("p", 0, "Yes"), ("q", 1, "")]),
        "line 2 of '*' has 'Yes' in the column 'b'; expected 0 or 1",
    ),
    "a word among 0 and 1 in Parquet": (
        lambda root: write_parquet(root / "x.parquet", {"path": ["p", "q"], "a": ["true", "yes"], "b": [0, 1]}),
        "row 2 of '*' has 'yes' in the column 'a', which has 0 or 1 in other lines",
    ),
    "no column of paths": (
        lambda root: write_csv(root / "x.csv", ["a", "b"], [(0, 1), (1, 0)]),
        "has the columns a, b; expected",
    ),
    "a class held out only": (
        lambda root: write_csv(
            root / "x.csv",
            ["path", "labels", "split"],
            [(f"photos/{i:02}.png", "a;b" if i % 2 else "a" * (i < 5), "val" if i % 2 else "train") for i in range(9)],
        ),
        "'b' is on 0 photos to train on and 4 held-out ones*Add photos, or leave the splits out: one is made then.",
    ),
    "no COCO": (lambda root: write_text(root / "x.json", "{}"), "can't be read as COCO JSON"),
    "COCO without its photos": (
        lambda root: write_text(
            root / "x.json",
            json.dumps({"images": [{"id": 1, "file_name": "gone.jpg"}], "annotations": [], "categories": []}),
        ),
        "Found none of the first 1 photos",
    ),
    "COCO with a photo above its folder": (
        lambda root: write_coco(root / "x.json", ["../secret.png", "00.png"]),
        "names the photo '../secret.png'; expected*below",
    ),
    "COCO with a whole path": (
        lambda root: write_coco(root / "x.json", [str(root / "photos" / "00.png"), "01.png"]),
        "photos/00.png'; expected*below",
    ),
    "COCO with two categories of one id": (
        lambda root: write_coco(root / "x.json", ["00.png"], [(1, "a"), (1, "b")]),
        "two categories with the id 1, 'a' and 'b'",
    ),
    "COCO with two photos of one id": (
        lambda root: write_coco(root / "x.json", ["00.png", "01.png"], ids=[4, 4]),
        "two photos with the id 4, '00.png' and '01.png'",
    ),
    "a separator in a name": (
        lambda root: write_csv(
            root / "x.csv", ["path", "a;b", "c"], [(f"photos/{i:02}.png", i % 2, 1) for i in range(9)]
        ),
        "has a class 'a;b', with one of",
    ),
}


def write_coco(
    place: Path,
    files: Sequence[str],
    categories: Sequence[tuple[int, str]] = ((1, "a"), (2, "b")),
    ids: Sequence[int] = (),
) -> Path:
    """Photos of no class."""
    images = [{"id": k, "file_name": name} for k, name in zip(ids or range(len(files)), files, strict=True)]
    about = {"images": images, "annotations": [], "categories": [{"id": k, "name": name} for k, name in categories]}
    return write_text(place, json.dumps(about))


def write_text(place: Path, text: str) -> Path:
    place.write_text(text, encoding="utf-8")
    return place


@pytest.mark.parametrize("fault", FAULTS)
def test_a_list_with_a_fault_trains_nothing(scenes: Path, tmp_path: Path, call_whycam: Run, fault: str) -> None:
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "photos").symlink_to(scenes / "photos")
    make, told = FAULTS[fault]
    done = call_whycam("train", make(tmp_path / "list"), "-o", tmp_path / "run")
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    for part in told.split("*"):
        assert part in said
    assert "--allow-empty" not in said or "one class" not in fault
    assert not (tmp_path / "run").exists()


def test_unknown_ids_of_coco_are_counted(scenes: Path, tmp_path: Path) -> None:
    content = json.loads((scenes / "annotations" / "coco.json").read_text())
    content["annotations"] += [{"image_id": 999, "category_id": 0}, {"image_id": 3, "category_id": 77}] * 2
    place = write_text(tmp_path / "coco.json", json.dumps(content))
    (tmp_path / "photos").symlink_to(scenes / "photos")
    notes = " ".join(read_listed(place).notes)
    assert "2 of its annotations are of photos that its list of images lacks" in notes
    assert "2 of its annotations are of categories that its list of these lacks" in notes


def test_categories_of_one_name_are_one_class_and_told(scenes: Path, tmp_path: Path) -> None:
    content = json.loads((scenes / "annotations" / "coco.json").read_text())
    content["categories"] += [{"id": 70, "name": "red"}, {"id": 71, "name": "blue"}]
    place = write_text(tmp_path / "coco.json", json.dumps(content))
    (tmp_path / "photos").symlink_to(scenes / "photos")
    found = read_listed(place)
    assert found.class_names == NAMES
    assert "Several of its categories are called 'blue' (0, 71), 'red' (2, 70), and count" in " ".join(found.notes)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--robust"], "Found --robust for photos with several classes"),
        (["--ignore", "border"], "Found --ignore for photos with several classes"),
        (["--threshold", "most"], "--threshold is 'most'; expected f1"),
        (["--threshold", "1"], "--threshold is '1'; expected f1"),
    ],
)
def test_options_that_do_not_go_with_it_are_refused(
    scenes: Path, tmp_path: Path, call_whycam: Run, words: list[str], told: str
) -> None:
    done = call_whycam("train", scenes / "labels.csv", "-o", tmp_path / "run", *words)
    assert done.returncode == 2
    assert told in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("words", "told"),
    [(["--multi-label"], "each photo lies in one class's"), (["--threshold", "0.5"], "for photos of one class each")],
)
def test_class_folders_refuse_what_is_about_several(
    shapes_folder: Path, tmp_path: Path, call_whycam: Run, words: list[str], told: str
) -> None:
    done = call_whycam("train", shapes_folder, "-o", tmp_path / "run", *words)
    assert done.returncode == 2
    assert told in " ".join(done.stderr.split())


# The figures.


def test_ranks_are_those_of_torchmetrics() -> None:
    draw = np.random.default_rng(0)
    shares = draw.integers(0, 12, (200, 4)) / 11  # with ties
    truth = draw.random((200, 4)) < shares * 0.8
    scores, labels = torch.from_numpy(shares), torch.from_numpy(truth.astype(int))
    aps = classification.multilabel_average_precision(scores, labels, 4, average="none")
    areas = classification.multilabel_auroc(scores, labels, 4, average="none")
    for k in range(4):
        auroc, ap = rank_scores(shares[:, k], truth[:, k], np.ones((1, 200)))
        assert auroc[0] == pytest.approx(float(areas[k]), abs=1e-6)
        assert ap[0] == pytest.approx(float(aps[k]), abs=1e-6)
    # A weight is as many copies.
    times = draw.integers(0, 3, 200)
    auroc, ap = rank_scores(shares[:, 0], truth[:, 0], times[None])
    rows = np.repeat(np.arange(200), times)
    again = rank_scores(shares[rows, 0], truth[rows, 0], np.ones((1, len(rows))))
    assert (auroc[0], ap[0]) == (pytest.approx(again[0][0]), pytest.approx(again[1][0]))


def test_thresholds_have_the_best_f1_that_there_is() -> None:
    draw = np.random.default_rng(3)
    shares = draw.integers(1, 20, (60, 3)) / 20
    truth = draw.random((60, 3)) < shares

    def measure(k: int, threshold: float) -> float:
        given = shares[:, k] >= threshold
        return 2 * (given & truth[:, k]).sum() / (given.sum() + truth[:, k].sum())

    for k, threshold in enumerate(choose_thresholds(shares, truth)):
        assert measure(k, threshold) == max(measure(k, one) for one in np.unique(shares[:, k]))
    none = np.zeros((60, 3), dtype=bool)
    assert choose_thresholds(shares, none).tolist() == [0.5] * 3
    found = score_labels(shares, none, np.full(3, 0.99), NAMES)
    assert found["mean_ap"] is None
    assert found["classes"]["red"]["recall"] is None


def test_folds_choose_thresholds_without_the_photos_that_they_are_for() -> None:
    draw = np.random.default_rng(4)
    shares = draw.random((50, 1))
    truth = draw.random((50, 1)) < shares
    before = choose_fold_thresholds(shares, truth)
    truth[::5] = ~truth[::5]
    assert (choose_fold_thresholds(shares, truth)[::5] == before[::5]).all()


# The run.


def test_the_run_says_what_it_found(run: Path, scenes: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert summary["multi_label"] is True
    assert summary["data"]["multi_label"] is True
    assert summary["val_mean_ap"] > 0.9
    assert summary["val_mean_ap_low"] <= summary["val_mean_ap"] <= summary["val_mean_ap_high"]
    photos = read_listed(scenes / "labels.csv")
    table = read_columns(
        run / "predictions.parquet", ["path", "truth", "predicted", "is_right", *(f"p {n}" for n in NAMES)]
    )
    truth = np.array([[name in row.split(";") for name in NAMES] for row in table["truth"]])
    assert truth.tolist() == [[k in sample.classes for k in range(3)] for sample in photos.val]
    shares = np.array([table[f"p {name}"] for name in NAMES]).T
    thresholds = np.array([summary["classes"][name]["threshold"] for name in NAMES])
    given = [[name in row.split(";") for name in NAMES] for row in table["predicted"]]
    assert given == (shares >= thresholds).tolist()
    aps = classification.multilabel_average_precision(torch.from_numpy(shares), torch.from_numpy(truth.astype(int)), 3)
    assert summary["val_mean_ap"] == pytest.approx(float(aps), abs=1e-5)
    assert not (run / "confusion.png").exists()
    assert (run / "sheet.jpg").is_file()


def test_the_model_gives_each_class_its_own_probability(run: Path, scenes: Path) -> None:
    check_probabilities(run, scenes, "torch")


def check_probabilities(run: Path, scenes: Path, engine: str) -> None:
    model = whycam.load(run, engine=engine)
    photos = [scenes / "photos" / f"{index:02}.png" for index in range(8)]
    why = model.explain(photos, "all")
    assert torch.allclose(why.probabilities, why.logits.sigmoid(), atol=1e-6)
    bias = torch.tensor(model.classifier.bias)
    assert torch.allclose(why.maps.mean(dim=(2, 3)) + bias, why.logits, atol=1e-4)
    thresholds = json.loads((run / "model" / "config.json").read_text())["whycam"]["thresholds"]
    for i in range(8):
        over = {name for k, name in enumerate(NAMES) if float(why.probabilities[i, k]) >= thresholds[k]}
        assert set(why.given(i)) == over
    # Opened once more, where a graph of it is kept.
    again = open_classifier(str(run), engine=engine)
    assert again.card.is_multi_label
    assert list(again.card.thresholds) == thresholds


def test_explain_names_all_that_is_given(run: Path, scenes: Path, tmp_path: Path, call_whycam: Run) -> None:
    done = call_whycam(
        "explain", run, scenes / "photos" / "07.png", scenes / "photos" / "00.png", "-o", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr
    table = read_columns(tmp_path / "out" / "explanations.parquet", ["path", "given", "p_predicted"])
    given = {
        Path(path).name: set(filter(None, words.split(";")))
        for path, words in zip(table["path"], table["given"], strict=True)
    }
    assert given == {"07.png": set(NAMES), "00.png": set()}


@pytest.mark.slow
def test_its_graph_gives_each_class_its_own_probability_too(
    run: Path, scenes: Path, tmp_path: Path, call_whycam: Run
) -> None:
    """One export serves both: the graph in the cache, and the file that is made of it."""
    check_probabilities(run, scenes, "onnx")
    check_exported(run, scenes, tmp_path, call_whycam, ("m.onnx",))


def test_an_exported_folder_is_of_several_classes_too(
    run: Path, scenes: Path, tmp_path: Path, call_whycam: Run
) -> None:
    check_exported(run, scenes, tmp_path, call_whycam, ("folder", "--format", "safetensors"))


def check_exported(run: Path, scenes: Path, tmp_path: Path, call_whycam: Run, words: tuple[str, ...]) -> None:
    done = call_whycam("export", run, "-o", tmp_path / words[0], *words[1:])
    assert done.returncode == 0, done.stderr
    card = open_classifier(str(tmp_path / words[0])).card
    assert card.is_multi_label
    assert card.thresholds == pytest.approx(open_classifier(str(run), engine="torch").card.thresholds)
    shown = whycam.load(str(tmp_path / words[0])).explain(scenes / "photos" / "07.png")
    assert float(shown.probabilities.sum()) > 1
    assert set(shown.given()) == set(NAMES)


@pytest.mark.parametrize(
    "words",
    [
        {"head": "conv", "epochs": 5, "batch_size": 2, "steps_per_epoch": 1, "lr": 1e-3},
        {"unfreeze": "last", "finetune_epochs": 1, "epochs": 2},
        {"scratch": True, "backbone": "test_resnet", "epochs": 2, "batch_size": 8},
    ],
    ids=["conv", "network", "scratch"],
)
def test_other_ways_to_train(scenes: Path, tmp_path: Path, words: dict[str, Any]) -> None:
    summary = train(scenes / "labels.csv", tmp_path / "run", make_train_options(**{**WORDS, **words}))
    assert summary["multi_label"]
    assert summary["identity_error"] < 1e-4
    check_chosen(tmp_path / "run", summary)


def check_chosen(run: Path, summary: Mapping[str, Any]) -> None:
    """The kept epoch has the highest mean AP of those that were measured on all photos, and the model has it."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["is_val_whole"] and line["phase"] == lines[-1]["phase"]]
    assert summary["chosen"]["by"] == "mean AP"
    assert summary["chosen"]["mean_ap"] == max(line["val_mean_ap"] for line in lines)
    assert summary["val_mean_ap"] == pytest.approx(summary["chosen"]["mean_ap"], abs=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_ap_that_chooses_is_that_of_the_summary(seed: int) -> None:
    """Scores that are the same among it, and a class that all photos have."""
    draw = np.random.default_rng(seed)
    scores, truth = draw.integers(-6, 6, (50, 4)) / 2, draw.random((50, 4)) < 0.3
    truth[:, 3] = True
    found = [rank_scores(scores[:, k], truth[:, k], np.ones((1, 50)))[1][0] for k in range(3)]
    logits, labels = torch.from_numpy(scores), torch.from_numpy(truth).float()
    assert compute_mean_ap(logits, labels) == pytest.approx(np.mean(found))
    assert compute_mean_ap(logits[:, 3:], labels[:, 3:]) is None


def test_the_best_epoch_ranks_best_though_another_has_more_right_answers(tmp_path: Path) -> None:
    """A class that one photo in twenty has: to say no to all is right 19 times of 20, and ranks nothing."""
    labels = torch.zeros(20, 1)
    labels[0] = 1
    ranked = torch.where(labels > 0, 3.0, 2.0)
    answers = {0: -torch.ones(20, 1), 1: ranked, 2: -ranked}
    found = [measure(lambda epoch: answers[int(epoch)], [(torch.tensor(k), labels)], EACH_BY_ITSELF) for k in answers]
    lines = [
        Epoch("head", k, 1, 1, one.loss, one.accuracy, 1, 1, val_mean_ap=one.mean_ap) for k, one in enumerate(found)
    ]
    assert [one.accuracy for one in found] == pytest.approx([0.95, 0.05, 0.95])
    assert find_best(lines) == 1


def test_a_threshold_for_all_and_one_that_nothing_reaches(scenes: Path, tmp_path: Path) -> None:
    words = {**WORDS, "epochs": 1, "lr": 1e-5, "threshold": "0.999", "class_weights": True}
    summary = train(scenes / "labels.csv", tmp_path / "run", make_train_options(**words))
    assert {one["threshold"] for one in summary["classes"].values()} == {0.999}
    assert "No held-out photo reaches the threshold of 'blue', 'green', 'red'." in summary["notes"]
    assert summary["classes"]["blue"]["precision"] is None
    assert summary["classes"]["blue"]["recall"] == 0
    assert "val_f1_of_unseen" not in summary


def test_photos_that_are_not_there_are_left_out_and_counted(scenes: Path, tmp_path: Path) -> None:
    rows = list(csv.reader((scenes / "labels.csv").open()))[1:]
    (tmp_path / "photos").symlink_to(scenes / "photos")
    place = write_csv(tmp_path / "list.csv", ["path", "labels"], [*rows, ("photos/gone.png", "red"), ("", "red")])
    summary = train(place, tmp_path / "run", make_train_options(**{**WORDS, "epochs": 1}))
    assert [Path(path).name for path in summary["data"]["unreadable"]] == ["gone.png"]
    assert summary["data"]["train"] + summary["data"]["val"] == PHOTOS
    assert "1 of its lines have a label and no photo" in " ".join(summary["data"]["notes"])


def test_an_interrupted_training_goes_on(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from whycam.train import phases

    words = {**WORDS, "epochs": 4}
    whole = train(scenes / "labels.csv", tmp_path / "whole", make_train_options(**words))
    real = phases.fit

    def stop(*args: Any, on_epoch: Callable[[Any], None], **how: Any) -> Any:
        def tell(line: Any) -> None:
            on_epoch(line)
            if line.epoch == 1:
                raise KeyboardInterrupt

        return real(*args, on_epoch=tell, **how)

    monkeypatch.setattr(phases, "fit", stop)
    with pytest.raises(UserError, match="Interrupted"):
        train(scenes / "labels.csv", tmp_path / "cut", make_train_options(**words))
    monkeypatch.setattr(phases, "fit", real)
    again = train(scenes / "labels.csv", tmp_path / "cut", make_train_options(**words, resume=True))
    assert again["classes"] == whole["classes"]


def test_what_takes_one_class_a_photo_refuses_the_run(run: Path, tmp_path: Path, call_whycam: Run) -> None:
    for words in (("card", run, "-o", tmp_path / "card.md"), ("edits", run, "-o", tmp_path / "edits")):
        done = call_whycam(*words)
        assert done.returncode == 2
        assert "have several classes each" in " ".join(done.stderr.split())


# The report and the audit.


def read_page(page: str) -> dict[str, Any]:
    text = page.partition('<script type="application/json" id="data">')[2].partition("</script>")[0]
    found: dict[str, Any] = json.loads(text)
    return found


def test_the_report_counts_found_missed_and_not_there(run: Path, tmp_path: Path) -> None:
    make_report(str(run), None, tmp_path / "report.html", ReportOptions(no_audit=True))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    summary, data = json.loads((run / "summary.json").read_text()), read_page(page)
    assert data["isMultiLabel"]
    assert len(data["thresholds"]) == 3
    table = read_columns(run / "predictions.parquet", ["path", "truth", "is_right"])
    truths = {entry["id"]: [NAMES[k] for k in entry["truths"]] for entry in data["entries"]}
    assert truths == {
        path: [w for w in words.split(";") if w] for path, words in zip(table["path"], table["truth"], strict=True)
    }
    told = " ".join(page.partition('<script type="application/json"')[0].split())
    assert f"{summary['val_right']:,} classes are found" in told
    assert f"{summary['val_missed']} missed, and {summary['val_false']} given that are not there" in told
    for words in ("named rightly", "What is taken for what", "classes apart"):
        assert words not in told


def test_the_audit_finds_wrong_labels_class_by_class(run: Path, scenes: Path) -> None:
    classifier = open_classifier(str(run))
    samples, _ = read_samples(classifier, scenes / "labels.csv")
    red = NAMES.index("red")
    wrong = {next(sample.path for sample in samples if sample.path.name == "06.png")}
    samples = [Sample(s.path, -1, tuple(k for k in s.classes if k != red)) if s.path in wrong else s for s in samples]
    found = audit(classifier, samples, kinds=["label", "confusion", "data", "slice"])
    labels = [one for one in found.of_kind("label") if one.class_name == "red"]
    assert {photo.path for one in labels for photo in one.photos} >= wrong
    assert all("--target" in one.command and "--versus" not in one.command for one in labels)
    assert any("data, slice" in note for note in found.notes)
    assert found.record["classes"]["red"] == sum(red in s.classes for s in samples)


def test_a_photo_is_no_mistake_for_what_else_is_on_it(run: Path, scenes: Path) -> None:
    classifier = open_classifier(str(run))
    samples, _ = read_samples(classifier, scenes / "labels.csv")
    several = [sample for sample in samples if len(sample.classes) == 3] + [s for s in samples if not s.classes]
    found = audit(classifier, several, kinds=["label", "confusion"])
    assert not found.findings


def test_a_list_of_several_classes_needs_a_model_of_several(
    scenes: Path, shapes_folder: Path, tmp_path: Path, call_whycam: Run
) -> None:
    train(shapes_folder, tmp_path / "one", make_train_options(image_size=64, epochs=1))
    done = call_whycam("audit", tmp_path / "one", scenes / "labels.csv", "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "expected a model of classes that go together" in " ".join(done.stderr.split())


def test_check_compares_no_classes_of_such_a_list(scenes: Path, tmp_path: Path, call_whycam: Run) -> None:
    done = call_whycam("check", scenes / "labels.csv", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "Classes go together in this list" in " ".join(done.stdout.split())


@pytest.mark.parametrize("given", [[], [2.0], ["a"]])
def test_a_config_with_other_thresholds_is_refused(run: Path, tmp_path: Path, given: list[object]) -> None:
    shutil.copytree(run / "model", tmp_path / "model")
    place = tmp_path / "model" / "config.json"
    content = json.loads(place.read_text())
    content["whycam"]["thresholds"] = given
    place.write_text(json.dumps(content))
    with pytest.raises(UserError, match="is not a model description"):
        open_classifier(str(tmp_path / "model"))
