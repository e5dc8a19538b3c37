"""A graph in the cache gives that of another linear layer on the same network, or leaves it to the exporter."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from whycam.model.backbone import make_backbone
from whycam.model.gap import GapClassifier
from whycam.model.onnx import export as exporting
from whycam.model.onnx.engine import OnnxEngine
from whycam.model.onnx.export import export_onnx, open_cached
from whycam.model.onnx.parity import GraphOptions

PIXELS = GraphOptions(takes_uint8=True)


def make_model(
    names: tuple[str, ...], head_seed: int, *, backbone_seed: int = 0, head: Any = "linear"
) -> GapClassifier:
    torch.manual_seed(backbone_seed)
    made = make_backbone("test_resnet", is_random=True, image_size=64)
    torch.manual_seed(head_seed)
    return GapClassifier(made, names, head).eval()


def keep(model: GapClassifier, name: str, options: GraphOptions = PIXELS) -> OnnxEngine:
    path = Path(os.environ["WHYCAM_CACHE"], "engines", f"{name}.onnx")
    return open_cached(path, model, options, origin={}, records={})


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The exporter's own work, a word each time."""
    done: list[str] = []

    def counting(inner: Callable[..., Any]) -> Callable[..., Any]:
        def convert(*words: Any, **more: Any) -> Any:
            done.append("converted")
            return inner(*words, **more)

        return convert

    monkeypatch.setattr(exporting, "_convert", counting(exporting._convert))
    return done


@torch.no_grad()
def check_numbers(engine: OnnxEngine, model: GapClassifier) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (3, 3, 64, 64), dtype=np.uint8)
    answer = engine(pixels)
    features = model.features(torch.from_numpy(model.preprocess.normalise(pixels)))
    logits, maps = model.classify(features).numpy(), model.compute_maps(features).numpy()
    assert np.abs(answer.logits - logits).max() < 1e-4 * np.ptp(logits)
    if answer.classes is not None:
        maps = np.take_along_axis(maps, answer.classes[:, :, None, None], 1)
    assert np.abs(answer.maps - maps).max() < 1e-4 * np.ptp(maps)


@pytest.mark.parametrize("options", [PIXELS, GraphOptions(topk=1), GraphOptions(True, 2, True)], ids=repr)
@pytest.mark.parametrize("names", [("a", "b", "c"), ("a", "b"), tuple("abcdefgh")], ids=len)
def test_another_layer_is_put_into_the_graph(
    conversions: list[str], names: tuple[str, ...], options: GraphOptions
) -> None:
    keep(make_model(("x", "y", "z"), 1), "first", options)
    model = make_model(names, 2)
    engine = keep(model, "second", options)
    assert conversions == ["converted"]
    assert engine.metadata.class_names == names
    check_numbers(engine, model)
    # What came of an exchange serves for the next one too.
    third = make_model(("p", "q", "r"), 3)
    Path(os.environ["WHYCAM_CACHE"], "engines", "first.onnx").unlink()
    check_numbers(keep(third, "third", options), third)
    assert conversions == ["converted"]


def test_a_file_for_the_user_needs_no_exporter_either(conversions: list[str], tmp_path: Path) -> None:
    keep(make_model(("x", "y", "z"), 1), "first")
    model = make_model(("a", "b"), 2)
    export_onnx(model, tmp_path / "model.onnx", PIXELS, origin={}, records={})
    assert conversions == ["converted"]
    onnx.checker.check_model(onnx.load(tmp_path / "model.onnx"), full_check=True)
    assert [dim.dim_value for dim in onnx.load(tmp_path / "model.onnx").graph.output[1].type.tensor_type.shape.dim][
        1
    ] == 2
    check_numbers(OnnxEngine(tmp_path / "model.onnx"), model)


def other_network(model: GapClassifier) -> GapClassifier:
    return make_model(model.class_names, 2, backbone_seed=5)


def other_neck(model: GapClassifier) -> GapClassifier:
    return make_model(model.class_names, 2, head="conv")


def other_input(model: GapClassifier) -> GapClassifier:
    preprocess = model.preprocess.model_copy(update={"std": (0.9, 0.8, 0.7)})
    model.origin = replace(model.origin, preprocess=preprocess)
    return model


@pytest.mark.parametrize("vary", [other_network, other_neck, other_input])
def test_what_differs_in_more_is_converted(
    conversions: list[str], vary: Callable[[GapClassifier], GapClassifier]
) -> None:
    keep(make_model(("x", "y"), 1), "first")
    model = vary(make_model(("x", "y"), 2))
    check_numbers(keep(model, "second"), model)
    assert conversions == ["converted"] * 2


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def forget(path: Path) -> None:
    """What its description names is not what holds the weights."""
    described = path.with_suffix(".json")
    about = json.loads(described.read_text())
    about["relative"]["weights"] = []
    described.write_text(json.dumps(about))


def spoil(path: Path) -> None:
    path.with_suffix(".json").write_text('{"relative": {"family": 3}}')


@pytest.mark.parametrize("harm", [tear, forget, spoil])
def test_a_graph_that_can_not_be_used_is_passed_over(conversions: list[str], harm: Callable[[Path], None]) -> None:
    keep(make_model(("x", "y"), 1), "first")
    harm(Path(os.environ["WHYCAM_CACHE"], "engines", "first.onnx"))
    model = make_model(("x", "y"), 2)
    check_numbers(keep(model, "second"), model)
    assert conversions == ["converted"] * 2
