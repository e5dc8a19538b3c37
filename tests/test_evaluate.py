"""evaluate() and its command: methods, baselines, intervals, repeated maps, and what can be wrong with the input."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import whycam
from whycam.config import EvaluateOptions
from whycam.data.annotations import Annotation, read_photos
from whycam.data.folder import Sample
from whycam.errors import UserError
from whycam.explainer.model import Model
from whycam.jobs.evaluate import evaluate_folder
from whycam.made import tell_foreign
from whycam.metrics.evaluation import Evaluation, evaluate
from whycam.model.card import Card
from whycam.model.classifier import Classifier
from whycam.model.gap import GapClassifier, save_classifier

QUICK = ["deletion-auc", "average-drop", "gini"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def model(tiny_model: GapClassifier) -> Model:
    return make_model(tiny_model)


def make_model(network: GapClassifier) -> Model:
    return Model(Classifier(Card("tiny", network.class_names, network.preprocess, {}), network))


@pytest.fixture
def photos(shapes_folder: Path) -> list[Annotation]:
    found = read_photos(shapes_folder)
    return [*found[:4], *found[12:16]]


def measure(model: Model, photos: list[Annotation], **how: object) -> Evaluation:
    given = {"methods": ["cam", "grad-cam", "grad-cam++"], "metrics": QUICK, "engine": "torch"} | how
    return evaluate(model, photos, **given)  # type: ignore[arg-type]


def test_methods_beside_baselines(model: Model, photos: list[Annotation]) -> None:
    found = measure(model, photos)
    assert found.methods == ("cam", "grad-cam", "grad-cam++", "random", "centre", "edges")
    assert len(found) == 8
    assert found.classes == ("circle",) * 4 + ("square",) * 4
    one = found.estimate("cam", "deletion-auc")
    assert one.low <= one.value <= one.high
    assert one.value == pytest.approx(found.per_photo("cam", "deletion-auc").mean())
    assert found.best("gini") in {"cam", "grad-cam++"}
    assert found.is_noise("cam", "cam", "gini")
    # Cells at random are spread as evenly on each photo, and no map of a network is.
    assert not found.is_noise("random", "cam", "gini")
    assert found.difference("random", "cam", "gini").value < 0


def test_maps_that_repeat_are_measured_once(model: Model, photos: list[Annotation]) -> None:
    found = measure(model, photos)
    assert found.same == {"grad-cam": "cam"}
    assert found.distinct == ("cam", "grad-cam++", "random", "centre", "edges")
    assert np.array_equal(found.rows["cam"]["gini"], found.rows["grad-cam"]["gini"])


def test_batches_and_engines_do_not_change_a_number(model: Model, photos: list[Annotation]) -> None:
    first, second = measure(model, photos, batch_size=3), measure(model, photos, batch_size=8, engine="onnx")
    assert (first.record["engine"], second.record["engine"]) == ("torch", "onnx")
    for method in first.methods:
        for name in ("deletion-auc-mean", "average-drop-mean", "gini"):
            assert np.allclose(first.rows[method][name], second.rows[method][name], atol=1e-4)


def test_every_metric_runs_on_a_network(model: Model, photos: list[Annotation]) -> None:
    boxed = [Annotation(p.photo, p.classes, ((10.0, 10.0, 60.0, 70.0),)) for p in photos[3:5]]
    found = measure(model, boxed, methods=["cam"], metrics=["all"], baselines=["centre"])
    assert found.record["left_out"] == ["px-ap"]
    for metric in found.metrics:
        # These maps have 2 x 2 cells, and structural similarity needs 3 x 3.
        assert found.estimate("cam", metric.name).photos == (0 if metric.name == "random-logit" else 2), metric.name
    assert found.estimate("centre", "parameter-randomization").value == pytest.approx(1)


def test_a_seeded_sample(model: Model, photos: list[Annotation]) -> None:
    first, again, other = (measure(model, photos, metrics=["gini"], limit=4, seed=seed) for seed in (1, 1, 2))
    assert first.photos == again.photos
    assert len(first) == 4
    assert first.photos != other.photos


def test_the_class_that_is_explained(model: Model, photos: list[Annotation]) -> None:
    paths = [p.photo for p in photos]
    plain = measure(model, paths, metrics=["gini"])  # type: ignore[arg-type]
    top = [model.class_names[k] for k in plain.logits.argmax(1)]
    assert list(plain.classes) == top
    assert plain.classifier() == {}
    said = measure(model, photos, metrics=["gini"], target="predicted")
    assert list(said.classes) == top
    assert said.classifier()["photos"] == 8
    numbered = [Sample(path, 2) for path in paths]
    assert set(measure(model, numbered, metrics=["gini"]).classes) == {"triangle"}  # type: ignore[arg-type]


def test_the_classifier_by_hand(model: Model, photos: list[Annotation]) -> None:
    found = measure(model, photos, methods=["cam"], metrics=["gini"])
    right = found.logits.argmax(1) == found.labels
    scores = found.classifier()
    assert scores["accuracy"] == pytest.approx(right.mean())
    assert scores["classes"]["circle"] == pytest.approx(right[found.labels == 0].mean())
    assert set(scores["classes"]) == {"circle", "square"}
    assert 0 <= scores["calibration_error"] <= 1


def test_boxes_are_not_missed_where_no_metric_asks_for_them(model: Model, photos: list[Annotation]) -> None:
    assert measure(model, photos, metrics=["gini"]).counts == {}
    gone = [Annotation(p.photo, p.classes, mask=Path("/not/here.png")) for p in photos]
    assert measure(model, gone, metrics=["gini"]).counts == {}


def test_bad_photos_are_counted_not_averaged(model: Model, photos: list[Annotation], tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo")
    mask = tmp_path / "mask.png"
    Image.new("L", (5, 5), 1).save(mask)
    box = ((5.0, 5.0, 50.0, 50.0),)
    path = photos[0].photo
    given = [
        Annotation(path, ("circle",), box),
        Annotation(photos[1].photo, ("circle",), box),
        Annotation(path, ("circle",)),
        Annotation(path, ("circle",), ((200.0, 5.0, 300.0, 50.0),)),
        Annotation(path, ("circle",), mask=mask),
        Annotation(path, ("whale",), box),
        Annotation(broken, ("circle",), box),
    ]
    found = measure(model, given, metrics=["mass-in-mask", "gini"])
    assert found.counts == {
        "unreadable photos": 1,
        "photos whose class the model does not have": 1,
        "photos without boxes or masks": 1,
        "photos left out of localization: box outside the photo, or without area": 1,
        "photos left out of localization: mask of another size than the photo": 1,
    }
    one = found.estimate("cam", "mass-in-mask")
    assert (one.photos, one.undefined) == (2, 3)
    assert found.estimate("cam", "gini").photos == 5


def test_what_can_not_be_measured_is_told(model: Model, photos: list[Annotation]) -> None:
    with pytest.raises(UserError, match="expected 2 or more"):
        measure(model, photos[:1])
    with pytest.raises(UserError, match="mass-in-mask needs boxes or masks"):
        measure(model, photos, metrics=["mass-in-mask"])
    with pytest.raises(UserError, match="Found no boxes and no masks"):
        measure(model, photos, metrics=["localization"])
    with pytest.raises(UserError, match="--target predicted"):
        measure(model, [Annotation(p.photo, ("whale",)) for p in photos])
    with pytest.raises(UserError, match="deletion-auc"):
        measure(model, photos, metrics=["deletion"])
    with pytest.raises(UserError, match="grad-cam"):
        measure(model, photos, methods=["gradcam"])
    with pytest.raises(UserError, match="Unknown engine"):
        measure(model, photos, engine="fast")
    mixed = [Annotation(p.photo, ("whale",)) for p in photos[1:]]
    with pytest.raises(UserError, match="class the model does not have: 7"):
        measure(model, [photos[0], *mixed])


def test_a_single_logit_has_two_sides(tiny_model: GapClassifier, photos: list[Annotation]) -> None:
    single = GapClassifier(tiny_model.origin, ["shape"]).eval()
    found = measure(make_model(single), [p.photo for p in photos], methods=["cam"])  # type: ignore[arg-type]
    assert found.logits.shape == (8, 2)
    assert np.isfinite(found.estimate("cam", "deletion-auc").value)


def test_the_public_name() -> None:
    assert whycam.evaluate is evaluate
    assert whycam.Evaluation is Evaluation


def test_the_command(
    tiny_model: GapClassifier,
    shapes_folder: Path,
    tmp_path: Path,
    call_whycam: Callable[..., object],
) -> None:
    save_classifier(tiny_model, tmp_path / "model", 0.0)
    boxes = tmp_path / "boxes.csv"
    names = [p.relative_to(shapes_folder).as_posix() for p in sorted(shapes_folder.rglob("*.jpg"))]
    boxes.write_text("file,boxes\n" + "".join(f"{name},20 20 70 70\n" for name in names[:30]), encoding="utf-8")
    words = ["--methods", "cam,grad-cam", "--metrics", "deletion-auc,localization", "--engine", "torch", "--limit", 6]
    done = call_whycam("evaluate", tmp_path / "model", shapes_folder, "--boxes", boxes, *words, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr  # type: ignore[attr-defined]
    assert tell_foreign(tmp_path / "out") == ""
    shown = done.stdout  # type: ignore[attr-defined]
    assert re.search(r"deletion-auc-mean ↓ +0\.\d+ ±0\.\d+", shown)
    assert "grad-cam: the maps of cam up to scale" in shown
    assert "random" in shown
    assert shown.rstrip().splitlines()[-1].endswith(f"tables are in {tmp_path / 'out'}")
    told = json.loads((tmp_path / "out" / "overall.json").read_text(encoding="utf-8"))
    assert told["same_maps"] == {"grad-cam": "cam"}
    assert told["metrics"]["deletion-auc-mean"]["baseline"] == "mean"
    rows = [row for row in told["overall"] if row["metric"] == "deletion-auc-mean"]
    assert {row["method"] for row in rows} == {"cam", "grad-cam", "random", "centre", "edges"}
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    table = pq.read_table(tmp_path / "out" / "photos.parquet").to_pylist()
    assert len(table) == 6 * 5
    assert len((tmp_path / "out" / "photos.csv").read_text(encoding="utf-8").splitlines()) == 31
    mean = np.mean([row["deletion-auc-mean"] for row in table if row["method"] == "cam"])
    assert mean == pytest.approx(next(row["value"] for row in rows if row["method"] == "cam"))
    assert pq.read_table(tmp_path / "out" / "classes.parquet").num_rows >= 5


def test_one_source_of_boxes(shapes_folder: Path, tmp_path: Path) -> None:
    options = EvaluateOptions(boxes=tmp_path / "boxes.csv", masks=tmp_path)
    with pytest.raises(UserError, match="more than one of --boxes, --masks and --coco"):
        evaluate_folder("imagenet", shapes_folder, tmp_path / "out", options)


def test_what_the_model_does_not_give_is_left_out_or_told(model: Model, photos: list[Annotation]) -> None:
    foreign = Model(model.classifier.having(answers=frozenset({"scores", "image"}), kind="function"))
    found = measure(foreign, photos[:3], methods=["random"], baselines=(), metrics=["sanity"])
    assert "parameter-randomization" in found.record["left_out"]
    with pytest.raises(UserError, match="parameter-randomization draws the model's weights anew"):
        measure(foreign, photos[:3], methods=["random"], baselines=(), metrics=["parameter-randomization"])
    with pytest.raises(
        UserError, match=r"grad-cam needs gradients.*What works on it: cam, contrast, rise, occlusion, random"
    ):
        measure(foreign, photos[:3], methods=["grad-cam"])
