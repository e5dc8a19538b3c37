"""No weights stand twice in an exported graph, and it computes what it computed with both."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import whycam
from test_relatives import PIXELS, check_numbers, keep, make_model
from whycam.data.images import load_image
from whycam.data.walk import find_images
from whycam.model.gap import GapClassifier
from whycam.model.onnx import export as exporting
from whycam.model.onnx.engine import OnnxEngine
from whycam.model.onnx.export import export_onnx
from whycam.model.onnx.parity import GraphOptions
from whycam.model.onnx.quantise import quantise


def find_doubles(path: Path) -> list[str]:
    """Weights that another initializer holds too, in the same order or turned."""
    held: dict[bytes, str] = {}
    found = []
    for values in onnx.load(path).graph.initializer:
        numbers = numpy_helper.to_array(values)
        if numbers.ndim < 2:
            continue
        turned = np.ascontiguousarray(numbers.reshape(len(numbers), -1).T)
        found += [values.name for one in (numbers, turned) if one.tobytes() in held]
        held[numbers.tobytes()] = values.name
    return found


def export(model: GapClassifier, path: Path, options: GraphOptions = PIXELS) -> OnnxEngine:
    export_onnx(model, path, options, origin={}, records={})
    return OnnxEngine(path, threads=1)


def as_before() -> Any:
    """Graphs are written as the exporter makes them."""
    return patch.object(exporting, "share_weights", lambda _graph: None)


@pytest.mark.parametrize(
    ("head", "options"),
    [("linear", PIXELS), ("conv", PIXELS), ("linear", GraphOptions(takes_uint8=True, is_dynamic=True))],
    ids=repr,
)
def test_weights_stand_once_and_give_the_same_numbers(tmp_path: Path, head: str, options: GraphOptions) -> None:
    model = make_model(tuple("abc"), 1, head=head)
    with as_before():
        before = export(model, tmp_path / "before.onnx", options)
    assert len(find_doubles(tmp_path / "before.onnx")) == 1
    engine = export(model, tmp_path / "m.onnx", options)
    assert find_doubles(tmp_path / "m.onnx") == []
    onnx.checker.check_model(onnx.load(tmp_path / "m.onnx"), full_check=True)
    pixels = np.random.default_rng(1).integers(0, 256, (3, 3, 64, 64), dtype=np.uint8)
    ours, theirs = engine(pixels), before(pixels)
    assert np.array_equal(ours.logits, theirs.logits)
    assert np.array_equal(ours.maps, theirs.maps)


def test_a_graph_that_an_earlier_version_kept_gives_one_without_doubles(tmp_path: Path) -> None:
    with as_before():
        keep(make_model(tuple("xyz"), 1), "first")
    model = make_model(tuple("ab"), 2)
    with patch.object(exporting, "_convert", None):  # nothing is converted anew
        check_numbers(export(model, tmp_path / "m.onnx"), model)
    assert find_doubles(tmp_path / "m.onnx") == []


def test_int8(tiny_folder: Path, shapes_folder: Path, tmp_path: Path) -> None:
    model: Any = whycam.load(tiny_folder, engine="torch")
    export(model.classifier.exact_network, tmp_path / "m.onnx")
    photos = [load_image(path) for path in find_images([shapes_folder])[:8]]
    pixels = np.stack([model.preprocess.to_pixels(photo) for photo in photos])
    quantise(tmp_path / "m.onnx", tmp_path / "q.onnx", pixels)
    assert find_doubles(tmp_path / "q.onnx") == []
