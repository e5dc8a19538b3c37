"""The exported graph: PyTorch's numbers, refused where they are not, the same from every thread and process."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import whycam
from conftest import find_graph
from whycam.data.walk import find_images
from whycam.errors import UserError
from whycam.model import cache
from whycam.model.backbone import make_backbone
from whycam.model.gap import GapClassifier, save_classifier
from whycam.model.onnx import export as exporting
from whycam.model.onnx.engine import GraphMetadata, OnnxEngine, find_engine, measure_identity
from whycam.model.onnx.export import export_onnx
from whycam.model.onnx.parity import ExplainingNet, GraphOptions

NAMES = ("circle", "square", "triangle")
EXAMPLE = Path(__file__).parents[1] / "examples" / "explain_onnx.py"


def make_model(backbone: str = "test_resnet", size: int = 64, head: str = "linear") -> GapClassifier:
    torch.manual_seed(0)
    made = make_backbone(backbone, is_random=True, image_size=size)
    return GapClassifier(made, NAMES, head).eval()  # type: ignore[arg-type]


def write(model: GapClassifier, path: Path, options: GraphOptions = GraphOptions()) -> GraphMetadata:  # noqa: B008
    records: dict[str, dict[str, Any]] = {"cam": {"method": "cam", "draws_both_signs": False}}
    return export_onnx(model, path, options, origin={"backbone": "test"}, records=records)


def draw_pixels(count: int, height: int = 64, width: int = 64) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 3, height, width), dtype=np.uint8)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> OnnxEngine:
    path = tmp_path_factory.mktemp("engine") / "model.onnx"
    write(make_model(), path, GraphOptions(takes_uint8=True))
    return OnnxEngine(path, threads=1)


@torch.no_grad()
def check_parity(model: GapClassifier, path: Path, pixels: np.ndarray) -> None:
    answer = OnnxEngine(path)(pixels)
    features = model.features(torch.from_numpy(model.preprocess.normalise(pixels)))
    logits, maps = model.classify(features).numpy(), model.compute_maps(features).numpy()
    assert np.abs(answer.logits - logits).max() < 1e-4 * np.ptp(logits)
    if answer.classes is None:
        assert np.abs(answer.maps - maps).max() < 1e-4 * np.ptp(maps)
        bias = model.classifier.bias.numpy()
        assert np.abs(answer.maps.mean((2, 3)) + bias - answer.logits).max() < 1e-4 * np.ptp(logits)
    else:
        assert (answer.classes == np.argsort(-logits, 1)[:, : answer.classes.shape[1]]).all()
        picked = np.take_along_axis(maps, answer.classes[:, :, None, None], 1)
        assert np.abs(answer.maps - picked).max() < 1e-4 * np.ptp(maps)


@pytest.mark.parametrize(
    ("backbone", "size", "head"),
    [
        ("test_resnet", 64, "conv"),
        ("resnet10t", 96, "linear"),
        ("test_convnext", 64, "linear"),
        ("vgg11", 64, "linear"),
    ],
)
def test_onnx_gives_pytorchs_numbers(tmp_path: Path, backbone: str, size: int, head: str) -> None:
    model = make_model(backbone, size, head)
    write(model, tmp_path / "m.onnx")
    for count in (1, 5):
        check_parity(model, tmp_path / "m.onnx", draw_pixels(count, size, size))


@pytest.mark.parametrize("options", [GraphOptions(True), GraphOptions(topk=2), GraphOptions(True, 1, True)], ids=repr)
def test_uint8_topk_and_free_sizes(tmp_path: Path, options: GraphOptions) -> None:
    model = make_model()
    write(model, tmp_path / "m.onnx", options)
    check_parity(model, tmp_path / "m.onnx", draw_pixels(3))
    if options.is_dynamic:
        check_parity(model, tmp_path / "m.onnx", draw_pixels(2, 96, 160))


def test_the_file_tells_what_it_is(tmp_path: Path) -> None:
    metadata = write(make_model(), tmp_path / "m.onnx", GraphOptions(topk=2))
    graph = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(graph)
    entries = {entry.key: json.loads(entry.value) for entry in graph.metadata_props}
    assert entries["whycam.class_names"] == list(NAMES)
    assert entries["whycam.preprocess"]["height_px"] == 64
    assert 0 < entries["whycam.identity_error"] < 1e-5
    assert 0 < entries["whycam.parity_error"] < 1e-4
    assert [value.name for value in graph.graph.output] == ["logits", "maps", "classes"]
    assert all(value.doc_string for value in (*graph.graph.input, *graph.graph.output))
    assert OnnxEngine(tmp_path / "m.onnx").metadata == metadata


def test_a_forced_mismatch_is_refused_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = OnnxEngine.run

    def disturb(self: OnnxEngine, images: np.ndarray) -> list[np.ndarray]:
        logits, maps = run(self, images)
        return [logits, maps + 0.01 * np.ptp(maps)]

    monkeypatch.setattr(OnnxEngine, "run", disturb)
    with pytest.raises(
        UserError, match=r"does not give PyTorch's numbers: they differ by logits .*, maps 0\.0.*Nothing"
    ):
        write(make_model(), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_the_model_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torchs_export: Callable[..., Any]
) -> None:
    monkeypatch.setattr(torch.onnx, "export", torchs_export)
    model = make_model()
    before = [(p.requires_grad, p.clone()) for p in model.parameters()]
    write(model, tmp_path / "m.onnx")
    for parameter, (needs_grad, values) in zip(model.parameters(), before, strict=True):
        assert parameter.requires_grad is needs_grad
        assert torch.equal(parameter, values)


def test_an_export_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_words: object, **_named: object) -> None:
        raise RuntimeError("an operator is missing")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(UserError, match=r"The network can't be exported: an operator is missing"):
        write(make_model(), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_eight_threads_get_the_same_answers(engine: OnnxEngine) -> None:
    batches = [draw_pixels(2) + np.uint8(i) for i in range(8)]
    expected = [engine(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(engine, batches * 4))
    for i, answer in enumerate(found):
        assert np.array_equal(answer.logits, expected[i % 8].logits)
        assert np.array_equal(answer.maps, expected[i % 8].maps)


def test_an_engine_can_be_pickled(engine: OnnxEngine) -> None:
    again = pickle.loads(pickle.dumps(engine))
    assert again.metadata == engine.metadata
    assert np.array_equal(again(draw_pixels(2)).maps, engine(draw_pixels(2)).maps)


def test_foreign_files_are_refused(tmp_path: Path, engine: OnnxEngine) -> None:
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(UserError, match="can't be opened by ONNX Runtime"):
        OnnxEngine(tmp_path / "text.onnx")
    graph = onnx.load(engine.path)
    del graph.metadata_props[:]
    onnx.save(graph, tmp_path / "bare.onnx")
    with pytest.raises(UserError, match="has no metadata of whycam"):
        OnnxEngine(tmp_path / "bare.onnx")
    onnx.helper.set_model_props(graph, engine.metadata.model_copy(update={"format": 9}).to_metadata())
    onnx.save(graph, tmp_path / "later.onnx")
    with pytest.raises(UserError, match="has format 9; this version reads 2"):
        OnnxEngine(tmp_path / "later.onnx")


def test_explain_by_engine_is_explain_by_network(tiny_folder: Path, shapes_folder: Path) -> None:
    photos = find_images([shapes_folder])[:5]
    assert find_graph(whycam.load(tiny_folder).classifier) is None
    ours, theirs = whycam.load(tiny_folder, engine="onnx"), whycam.load(tiny_folder, engine="torch")
    assert find_graph(whycam.load(tiny_folder).classifier) is not None
    for how in ({}, {"target": "top:2"}, {"target": [2, 0]}, {"target": "square", "versus": "circle"}):
        a, b = ours.explain(photos, **how), theirs.explain(photos, **how)
        assert a.record["engine"].startswith("onnxruntime")
        assert a.maps.shape == b.maps.shape
        assert torch.equal(a.target, b.target)
        assert torch.allclose(a.maps, b.maps, atol=1e-4 * float(b.maps.max() - b.maps.min()))
        assert torch.allclose(a.probabilities, b.probabilities, atol=1e-4)
        assert a.notes == b.notes
        same = {"method", "paper", "versus", "relu", "scale", "resize", "layer", "target", "backbone", "head", "seed"}
        assert {key: a.record[key] for key in same} == {key: b.record[key] for key in same}
    for how in ({"method": "grad-cam"}, {"smooth": "flips"}):
        assert "engine" not in ours.explain(photos, **how).record


def test_a_changed_model_has_another_engine(tiny_folder: Path, tmp_path: Path) -> None:
    before = find_engine(str(tiny_folder))
    assert before is not None
    assert before == find_engine(str(tiny_folder))
    other = make_model()
    with torch.no_grad():
        other.classifier.bias.add_(1)
    save_classifier(other, tmp_path / "model", 1e-7)
    assert find_engine(str(tmp_path)) not in (None, before)
    assert find_engine("resnet18") is None


def test_another_size_or_other_weights_never_get_the_names_own_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[Path] = []

    def keep(path: Path, *_: object, **__: object) -> None:
        places.append(path)

    monkeypatch.setattr(exporting, "open_cached", keep)
    whycam.load("imagenet", engine="onnx")
    whycam.load("imagenet", image_size=64, engine="onnx")
    assert places[0] == find_engine("imagenet")
    assert places[1] != places[0]


def test_engines_that_cant_be_are_refused(tiny_folder: Path) -> None:
    with pytest.raises(UserError, match=r"Unknown engine 'onxx'.*Did you mean 'onnx'"):
        whycam.load(tiny_folder, engine="onxx")
    model = whycam.load(tiny_folder, engine="torch")
    with pytest.raises(UserError, match="it has no exact maps"):
        model.classifier.having(engine="onnx", no_exact_map="it has no exact maps").ready()


def test_the_example_needs_no_torch(tmp_path: Path, shapes_folder: Path) -> None:
    write(make_model(), tmp_path / "m.onnx")
    photo = find_images([shapes_folder])[0]
    code = f"import runpy, sys; runpy.run_path({str(EXAMPLE)!r}); print('torch' in sys.modules)"
    words = [tmp_path / "m.onnx", photo, tmp_path / "over.png"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=True)
    name, is_slow = done.stdout.split()[0], done.stdout.split()[-1]
    assert is_slow == "False"
    save_classifier(make_model(), tmp_path / "model", 1e-7)
    why = whycam.load(tmp_path).explain(photo)
    assert name == why.name(int(why.predicted[0]))
    assert Image.open(tmp_path / "over.png").size == Image.open(photo).size


def test_explaining_net_is_the_classifier() -> None:
    model, images = make_model(), torch.rand(2, 3, 64, 64)
    logits, maps = ExplainingNet(model, GraphOptions())(images)
    assert torch.equal(logits, model(images))
    assert torch.equal(maps, model.compute_maps(model.features(images)))


def test_features_by_a_graph_are_the_networks(tmp_path: Path) -> None:
    model, images = make_model(), torch.rand(3, 3, 64, 64)
    run = exporting.open_features(tmp_path / "f.onnx", model)
    expected = model.backbone_features(images)
    assert torch.allclose(run(images), expected, atol=1e-4 * float(expected.max()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.json", "f.onnx"]


def test_features_that_differ_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        exporting, "run_graph", lambda session, images: [make_model().backbone_features(images).numpy() * 1.01]
    )
    with pytest.raises(UserError, match="differ by features"):
        exporting.open_features(tmp_path / "f.onnx", make_model())
    assert not list(tmp_path.iterdir())


def swap_maps(path: Path) -> None:
    """The maps of the first two classes change places, the scores do not."""
    graph = onnx.load(path)
    maker = next(node for node in graph.graph.node if "maps" in node.output)
    maker.output[0] = "own_maps"
    order = onnx.numpy_helper.from_array(np.array([1, 0, *range(2, len(NAMES))]), "order")
    graph.graph.initializer.append(order)
    graph.graph.node.append(onnx.helper.make_node("Gather", ["own_maps", "order"], ["maps"], axis=1))
    onnx.save(graph, path)


def test_the_identity_is_measured_when_a_graph_is_opened(engine: OnnxEngine, tmp_path: Path) -> None:
    assert engine.metadata.bias == pytest.approx(make_model().classifier.bias.tolist())
    shutil.copy(engine.path, tmp_path / "m.onnx")
    swap_maps(tmp_path / "m.onnx")
    with pytest.raises(UserError, match=r"m\.onnx' breaks mean\(map\) \+ bias = logit by .*Export the model again"):
        OnnxEngine(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    "changes", [{"bias": (0.0,) * 3}, {"bias": (0.0,)}, {"class_names": ("a", "b")}, {"topk": 1, "bias": (0.5,) * 4}]
)
def test_metadata_that_are_not_the_graphs_are_found(
    engine: OnnxEngine, tmp_path: Path, changes: dict[str, Any]
) -> None:
    graph = onnx.load(engine.path)
    onnx.helper.set_model_props(graph, engine.metadata.model_copy(update=changes).to_metadata())
    onnx.save(graph, tmp_path / "m.onnx")
    with pytest.raises(UserError, match=r"breaks mean\(map\)|does not give what its metadata promise"):
        OnnxEngine(tmp_path / "m.onnx")


def test_the_best_classes_maps_are_measured_too(engine: OnnxEngine) -> None:
    logits, maps = engine.run(draw_pixels(2))
    classes = np.argsort(-logits, axis=1)[:, :2]
    best = np.take_along_axis(maps, classes[:, :, None, None], axis=1)
    assert measure_identity([logits, best, classes], engine.metadata) < 1e-5
    assert measure_identity([logits, best[:, ::-1], classes], engine.metadata) > 1e-3
    with pytest.raises(ValueError, match="of 3 classes"):
        measure_identity([logits, best[:, :1], classes], engine.metadata)


def turn_scores(path: Path) -> None:
    """A sound graph of another model: its classifier is the opposite."""
    graph = onnx.load(path)
    metadata = OnnxEngine(path).metadata
    for value in ("logits", "maps"):
        maker = next(node for node in graph.graph.node if value in node.output)
        maker.output[0] = f"own_{value}"
        graph.graph.node.append(onnx.helper.make_node("Neg", [f"own_{value}"], [value]))
    other = metadata.model_copy(update={"bias": tuple(-value for value in metadata.bias)})
    onnx.helper.set_model_props(graph, other.to_metadata())
    onnx.save(graph, path)
    OnnxEngine(path)


def swap_and_describe(path: Path) -> None:
    """A graph whose maps are not its scores, with a description that fits it."""
    swap_maps(path)
    about = json.loads(path.with_suffix(".json").read_text())
    del about["sha256"]
    path.with_suffix(".json").write_text(json.dumps({"sha256": cache._hash(path, about), **about}))


DAMAGE = {
    "another model's": turn_scores,
    "swapped maps": swap_maps,
    "swapped maps, described": swap_and_describe,
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "damaged description": lambda path: path.with_suffix(".json").write_text("{"),
}


@pytest.fixture(scope="module")
def kept(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's graph and its description, as the cache keeps them; to be copied."""
    made = find_graph(whycam.load(tiny_folder, engine="onnx").classifier)
    assert made is not None
    return Path(shutil.copytree(made.path.parent, tmp_path_factory.mktemp("kept") / "engines"))


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_cached_graph_is_not_believed(
    tiny_folder: Path,
    kept: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], object],
) -> None:
    path = find_engine(str(tiny_folder))
    assert path is not None
    shutil.copytree(kept, path.parent)
    # Another export would give the same file, and takes seconds.
    monkeypatch.setattr(exporting, "export_onnx", lambda _model, to, *_, **__: shutil.copy(kept / to.name, to))
    pixels = draw_pixels(2)
    expected = OnnxEngine(path)(pixels)
    damage(path)
    for name in ("auto", "onnx"):
        found = find_graph(whycam.load(tiny_folder, engine=name).classifier)
        assert found is not None
        assert np.array_equal(found(pixels).logits, expected.logits)
        assert np.array_equal(found(pixels).maps, expected.maps)
        assert ["thrown away and made anew" in record.message for record in caplog.records] == [True]


def test_features_by_a_graph_that_is_anothers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, images = make_model(), torch.rand(3, 3, 64, 64)
    exporting.open_features(tmp_path / "f.onnx", model)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.mul_(1.01)
        run = exporting.open_features(tmp_path / "f.onnx", model)
        expected = model.backbone_features(images)
    assert torch.allclose(run(images), expected, atol=1e-4 * float(expected.max()))
    assert "made anew: ONNX Runtime does not give PyTorch's numbers" in caplog.text


def test_without_a_cache_torch_explains(
    tiny_folder: Path, shapes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WHYCAM_CACHE", str(tmp_path / "file" / "cache"))
    assert find_graph(whycam.load(tiny_folder).classifier) is None
    with pytest.raises(UserError, match=r"The cache '.*file/cache/engines' can't be written to"):
        whycam.load(tiny_folder, engine="onnx")
