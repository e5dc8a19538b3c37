"""Anybody's ONNX file: exact maps where they are, measured; clear words where they are not; and no torch."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from whycam.data.preprocess import Preprocess
from whycam.errors import UserError
from whycam.model.onnx.export import quiet
from whycam.model.onnx.file import OnnxFile

RNG = np.random.default_rng(3)
SIDE, CHANNELS, CLASSES = 24, 6, 5
CONV = RNG.standard_normal((CHANNELS, 3, 3, 3)).astype(np.float32)
WEIGHT = RNG.standard_normal((CLASSES, CHANNELS)).astype(np.float32)
BIAS = RNG.standard_normal(CLASSES).astype(np.float32)
IMAGES = RNG.standard_normal((4, 3, SIDE, SIDE)).astype(np.float32)


def node(op: str, inputs: str, output: str, **how: Any) -> NodeProto:
    return helper.make_node(op, inputs.split(), [output], name=output, **how)


def write(
    path: Path,
    head: list[NodeProto],
    *,
    constants: dict[str, np.ndarray] | None = None,
    batch: int | str = "N",
    sides: tuple[int | str, int | str] = (SIDE, SIDE),
    dtype: int = TensorProto.FLOAT,
    is_last: bool = False,
    opset: int = 18,
    body: list[NodeProto] | None = None,
    outputs: dict[str, list[int | str]] | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """A net of one convolution and a ReLU, "features", and that head of it, whose output is "scores"."""
    shape = [batch, *sides, 3] if is_last else [batch, 3, *sides]
    held = {"conv": CONV, "w": WEIGHT, "wt": WEIGHT.T.copy(), "b": BIAS} | (constants or {})
    nodes = [*(body if body is not None else make_body()), *head]
    used = {name for one in nodes for name in one.input}
    kept = {name: value for name, value in held.items() if name in used}
    if dtype == TensorProto.FLOAT16:
        kept = {name: value.astype(np.float16) if value.dtype == np.float32 else value for name, value in kept.items()}
    out = dtype if dtype == TensorProto.FLOAT16 else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("images", dtype, shape)],
        [helper.make_tensor_value_info(k, out, v) for k, v in (outputs or {"scores": [batch, CLASSES]}).items()],
        [numpy_helper.from_array(value, name) for name, value in kept.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return path


def make_body() -> list[NodeProto]:
    return [node("Conv", "images conv", "c", strides=[2, 2]), node("Relu", "c", "features")]


def make_last_body() -> list[NodeProto]:
    """The same of images (N, H, W, C), whose features are (N, h, w, C)."""
    turned = node("Transpose", "images", "nchw", perm=[0, 3, 1, 2])
    conv = node("Conv", "nchw conv", "c", strides=[2, 2])
    return [turned, conv, node("Relu", "c", "r"), node("Transpose", "r", "features", perm=[0, 2, 3, 1])]


def compute(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits and maps of that net, from the formula."""
    features = nn.functional.conv2d(torch.from_numpy(images), torch.from_numpy(CONV), stride=2).relu().numpy()
    maps = np.einsum("kc,nchw->nkhw", WEIGHT, features)
    return maps.mean((2, 3)) + BIAS, maps


def check(file: OnnxFile, images: np.ndarray = IMAGES, tolerance: float = 1e-5) -> None:
    """Its logits and maps are the formula's, and their identity holds."""
    given = images * 255 if file.takes.dtype == np.uint8 else images
    logits, maps = compute(images)
    answer = file.read(given)
    assert answer.pooled is not None
    assert file.weight is not None
    weighed = answer.pooled @ file.weight.T + np.array(file.bias)
    assert np.abs(weighed - answer.logits).max() < 1e-4 * np.ptp(answer.logits)
    assert file.no_exact_map == ""
    assert file.is_exact
    assert file.class_count == CLASSES
    assert answer.logits.dtype == answer.maps.dtype == np.float32
    assert np.abs(answer.maps - maps).max() < tolerance * np.ptp(maps)
    assert np.abs(answer.logits - logits).max() < tolerance * np.ptp(logits)
    assert np.abs(file.scores(given) - answer.logits).max() < 1e-6
    assert np.abs(answer.maps.mean((2, 3)) + np.array(file.bias) - answer.logits).max() < 1e-5 * np.ptp(logits)


GEMM = node("Gemm", "v w b", "scores", transB=1)
FLAT = node("Flatten", "p", "v")
POOL = node("GlobalAveragePool", "features", "p")
AXES = {"axes": np.array([2, 3])}
HEADS: dict[str, tuple[list[NodeProto], dict[str, Any]]] = {
    "gap flatten gemm": ([POOL, FLAT, GEMM], {}),
    "mean keeps": ([node("ReduceMean", "features axes", "p", keepdims=1), FLAT, GEMM], {"constants": AXES}),
    "mean drops": ([node("ReduceMean", "features axes", "v", keepdims=0), GEMM], {"constants": AXES}),
    "axes as attribute": ([node("ReduceMean", "features", "v", axes=[-1, -2], keepdims=0), GEMM], {"opset": 13}),
    "one axis, then the other": (
        [
            node("ReduceMean", "features", "x", axes=[3], keepdims=0),
            node("ReduceMean", "x", "v", axes=[2], keepdims=0),
            GEMM,
        ],
        {"opset": 13},
    ),
    "a window": ([node("AveragePool", "features", "p", kernel_shape=[11, 11]), FLAT, GEMM], {}),
    "flattened cells": (
        [node("Reshape", "features cells", "x"), node("ReduceMean", "x axes", "v", keepdims=0), GEMM],
        {"constants": {"cells": np.array([0, CHANNELS, -1]), "axes": np.array([2])}},
    ),
    "matmul and add": (
        [POOL, node("Squeeze", "p axes", "v"), node("MatMul", "v wt", "m"), node("Add", "b m", "scores")],
        {"constants": AXES},
    ),
    "scaled gemm": (
        [POOL, FLAT, node("Gemm", "v w b", "s", transB=1, alpha=0.5, beta=0.5), node("Mul", "s two", "scores")],
        {"constants": {"two": np.array(2, np.float32)}},
    ),
    "turned gemm": (
        [
            POOL,
            FLAT,
            node("Gemm", "wt v", "t", transA=1, transB=1),
            node("Transpose", "t", "n", perm=[1, 0]),
            node("Add", "n b", "scores"),
        ],
        {},
    ),
    "convolution": (
        [POOL, node("Conv", "p w4 b", "x"), node("Reshape", "x flat", "scores")],
        {"constants": {"w4": WEIGHT[:, :, None, None], "flat": np.array([0, -1])}},
    ),
    "scores of four axes": (
        [POOL, node("Conv", "p w4 b", "scores")],
        {"constants": {"w4": WEIGHT[:, :, None, None]}, "outputs": {"scores": ["N", CLASSES, 1, 1]}},
    ),
    "convolution, then pooling": (
        [node("Conv", "features w4 b", "k"), node("GlobalAveragePool", "k", "p"), node("Flatten", "p", "scores")],
        {"constants": {"w4": WEIGHT[:, :, None, None]}},
    ),
    "weights behind a cast": (
        [
            node("Cast", "w16", "x", to=TensorProto.FLOAT),
            node("Transpose", "x", "y", perm=[1, 0]),
            POOL,
            FLAT,
            node("Identity", "v", "v2"),
            node("Dropout", "v2", "v3"),
            node("Gemm", "v3 y b", "scores"),
        ],
        {"constants": {"w16": WEIGHT.astype(np.float64)}},
    ),
    "batch norm, two layers": (
        [
            POOL,
            node("BatchNormalization", "p s b0 m0 v0", "n"),
            node("Flatten", "n", "f"),
            node("MatMul", "f e", "v"),
            GEMM,
        ],
        {
            "constants": {
                "s": np.full(CHANNELS, 2, np.float32),
                "b0": np.zeros(CHANNELS, np.float32),
                "m0": np.zeros(CHANNELS, np.float32),
                "v0": np.full(CHANNELS, 4 - 1e-5, np.float32),
                "e": np.eye(CHANNELS, dtype=np.float32),
            }
        },
    ),
    "softmax": ([POOL, FLAT, node("Gemm", "v w b", "z", transB=1), node("Softmax", "z", "scores")], {}),
    "sigmoid": ([POOL, FLAT, node("Gemm", "v w b", "z", transB=1), node("Sigmoid", "z", "scores")], {}),
    "batch of 1": ([POOL, FLAT, GEMM], {"batch": 1}),
    "batch of 3": ([POOL, FLAT, GEMM], {"batch": 3}),
    "batch of 1 inside": (
        [POOL, node("Reshape", "p one", "v"), GEMM],
        {"constants": {"one": np.array([1, CHANNELS])}},
    ),
    "channels last": (
        [
            node("ReduceMean", "features", "v", axes=[1, 2], keepdims=0),
            node("MatMul", "v wt", "m"),
            node("Add", "m b", "scores"),
        ],
        {"opset": 13, "is_last": True, "body": make_last_body()},
    ),
    "uint8": (
        [POOL, FLAT, GEMM],
        {
            "dtype": TensorProto.UINT8,
            "constants": {"s": np.float32(255)},
            "body": [
                node("Cast", "images", "f", to=1),
                node("Div", "f s", "u"),
                node("Conv", "u conv", "c", strides=[2, 2]),
                node("Relu", "c", "features"),
            ],
        },
    ),
    "any size": ([POOL, FLAT, GEMM], {"sides": ("H", "W"), "metadata": {"imgsz": f"[{SIDE}, {SIDE}]"}}),
}


@pytest.mark.parametrize("name", HEADS)
def test_maps_are_the_scores_own(name: str, tmp_path: Path) -> None:
    head, how = HEADS[name]
    file = OnnxFile(write(tmp_path / "m.onnx", head, **how), threads=1)
    images = IMAGES if name != "uint8" else np.round(np.abs(IMAGES) * 60).clip(0, 255).astype(np.float32) / 255
    if name == "convolution, then pooling":  # its bias is in the map
        _, maps = compute(IMAGES)
        assert np.abs(file.read(IMAGES).maps - maps - BIAS[:, None, None]).max() < 1e-5 * np.ptp(maps)
        assert file.tail == "GlobalAveragePool"
        assert file.bias == [0.0] * CLASSES
    else:
        check(file, images)
    assert "pool" in file.layer.lower() or "ReduceMean" in file.layer


def test_half_precision_gives_scores_in_float32(tmp_path: Path) -> None:
    file = OnnxFile(write(tmp_path / "m.onnx", [POOL, FLAT, GEMM], dtype=TensorProto.FLOAT16), threads=1)
    assert file.takes.dtype == np.float16
    answer = file.read(IMAGES)
    check(file, tolerance=1e-2)
    assert np.abs(answer.maps.mean((2, 3)) + np.array(file.bias) - answer.logits).max() < 1e-5 * np.ptp(answer.logits)


@pytest.mark.parametrize(("name", "output"), [("gap flatten gemm", "logits"), ("softmax", "softmax")])
def test_the_output_is_measured(name: str, output: str, tmp_path: Path) -> None:
    file = OnnxFile(write(tmp_path / "m.onnx", HEADS[name][0]), threads=1)
    logits, _ = compute(IMAGES)
    shares = torch.from_numpy(logits).softmax(1).numpy()
    assert (file.output, file.explains) == (output, "logits")
    assert np.abs(file.probabilities(file.scores(IMAGES)) - shares).max() < 1e-5


def test_sigmoid_is_its_own(tmp_path: Path) -> None:
    file = OnnxFile(write(tmp_path / "m.onnx", HEADS["sigmoid"][0]), threads=1)
    shares = torch.from_numpy(compute(IMAGES)[0]).sigmoid().numpy()
    assert file.output == "sigmoid"
    assert np.abs(file.probabilities(file.scores(IMAGES)) - shares).max() < 1e-5


def test_a_softmax_that_cannot_be_taken_off_is_noted(tmp_path: Path) -> None:
    head = [POOL, FLAT, node("Gemm", "v w b", "z", transB=1), node("Softmax", "z", "s"), node("Mul", "s one", "scores")]
    file = OnnxFile(write(tmp_path / "m.onnx", head, constants={"one": np.float32(1)}), threads=1)
    scores = file.scores(IMAGES)
    assert (file.output, file.explains) == ("softmax", "probabilities")
    assert np.abs(scores.sum(1) - 1).max() < 1e-5
    assert (file.probabilities(scores) == scores).all()
    assert "Softmax" in file.no_exact_map
    with pytest.raises(UserError, match="Softmax"):
        file.read(IMAGES)


def test_what_is_not_exact_is_refused_with_the_reason(tmp_path: Path) -> None:
    head = [POOL, FLAT, node("Relu", "v", "t"), node("Gemm", "t w b", "z", transB=1), node("Tanh", "z", "y")]
    path = write(tmp_path / "m.onnx", [*head, node("MatMul", "y e", "scores")], constants={"e": np.eye(5, dtype="f4")})
    file = OnnxFile(path, threads=1)
    assert "Tanh 'y'" in file.no_exact_map
    assert "rise" in file.no_exact_map
    assert file.bias is None
    assert file.scores(IMAGES).shape == (4, CLASSES)


def test_a_wrong_identity_is_refused_by_its_measure(tmp_path: Path) -> None:
    """A transpose of the features behind the pooling's back: the shapes fit, the numbers don't."""
    roll = [POOL, FLAT, node("Reshape", "v shape", "x"), node("Transpose", "x", "y", perm=[0, 2, 1])]
    head = [*roll, node("Flatten", "y", "u"), node("Gemm", "u w b", "scores", transB=1)]
    path = write(tmp_path / "m.onnx", head, constants={"shape": np.array([-1, 2, 3])})
    reason = OnnxFile(path, threads=1).no_exact_map
    assert "misses the score by" in reason
    assert "the limit is 0.0001" in reason


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 6, 3), nn.ReLU())
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(nn.functional.adaptive_avg_pool2d(self.body(images), 1).flatten(1))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Net, Path]:
    net, path = Net().eval(), tmp_path_factory.mktemp("torch") / "net.onnx"
    with quiet():
        torch.onnx.export(
            net,
            (torch.from_numpy(IMAGES),),
            path,
            dynamo=True,
            dynamic_shapes={"images": {0: torch.export.Dim.DYNAMIC}},
            external_data=True,
            verbose=False,
        )
    return net, path


@torch.no_grad()
def test_parity_with_the_module_that_it_was_exported_from(exported: tuple[Net, Path]) -> None:
    net, path = exported
    images = torch.from_numpy(IMAGES)
    maps = torch.einsum("kc,nchw->nkhw", net.fc.weight, net.body(images)).numpy()
    file = OnnxFile(path, threads=1)
    answer = file.read(IMAGES)
    assert np.abs(answer.maps - maps).max() < 1e-5 * np.ptp(maps)
    assert np.abs(answer.logits - net(images).numpy()).max() < 1e-5
    assert file.identity_error is not None
    assert file.identity_error < 1e-5


def test_torch_is_never_imported(exported: tuple[Net, Path]) -> None:
    program = (
        "import sys, numpy as np\nfrom whycam.model.onnx.file import OnnxFile\n"
        f"file = OnnxFile({str(exported[1])!r}, threads=1)\n"
        f"images = np.zeros((2, 3, {SIDE}, {SIDE}), np.float32)\n"
        "file.scores(images), file.read(images), file.describe()\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_threads_and_pickles_give_the_same(exported: tuple[Net, Path]) -> None:
    file = OnnxFile(exported[1], threads=1)
    expected = file.read(IMAGES)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(file.read, [IMAGES] * 8))
    answers.append(pickle.loads(pickle.dumps(file)).read(IMAGES))
    assert all((answer.maps == expected.maps).all() for answer in answers)


def test_what_the_metadata_say(tmp_path: Path) -> None:
    names = {k: f"kind {k}" for k in range(CLASSES)}
    preprocess = Preprocess(height_px=SIDE, width_px=SIDE, mean=(0.1, 0.2, 0.3))
    told = {"names": str(names), "whycam.preprocess": preprocess.model_dump_json()}
    file = OnnxFile(write(tmp_path / "a.onnx", [POOL, FLAT, GEMM], metadata=told), threads=1)
    assert file.class_names == tuple(names.values())
    assert file.names_from == "metadata 'names'"
    assert file.preprocess == preprocess
    assert "whycam.preprocess" in file.preprocess_from
    wrong = write(tmp_path / "b.onnx", [POOL, FLAT, GEMM], metadata={"classes": json.dumps(["a", "b"])})
    file = OnnxFile(wrong, threads=1)
    assert file.class_names is None
    assert "2 names for 5 scores" in file.names_from
    assert file.preprocess is None


def test_one_of_several_outputs(tmp_path: Path) -> None:
    head = [POOL, FLAT, GEMM, node("Identity", "scores", "logits")]
    both: dict[str, list[int | str]] = {"v": ["N", CHANNELS], "logits": ["N", CLASSES]}
    check(OnnxFile(write(tmp_path / "a.onnx", head, outputs=both), threads=1))
    path = write(tmp_path / "b.onnx", head, outputs={"v": ["N", CHANNELS], "scores": ["N", CLASSES]})
    with pytest.raises(UserError, match="2 outputs that could be the scores"):
        OnnxFile(path)
    check(OnnxFile(path, threads=1, output="scores"))
    with pytest.raises(UserError, match="no output 'nothing'"):
        OnnxFile(path, output="nothing")
