"""An ONNX file cut at a map: the methods that need no gradient give what they give of the torch module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import whycam
from test_onnx_file import BIAS, CLASSES, CONV, FLAT, GEMM, IMAGES, POOL, WEIGHT, node, write
from whycam.cam.registry import iter_methods
from whycam.errors import UserError
from whycam.model.cut.onnx_cut import OnnxModule
from whycam.model.onnx.export import quiet
from whycam.model.onnx.file import OnnxFile

PIXELS = torch.from_numpy(IMAGES)
WITHOUT_GRADIENTS = ["eigen-cam", "score-cam", "ablation-cam", "recipro-cam", "occlusion", "rise", "dff", "random"]
# What keeps the slow ones fast.
OPTIONS: dict[str, dict[str, Any]] = {"rise": {"masks": 20}, "ss-cam": {"samples": 2}, "is-cam": {"samples": 2}}


class Curved(nn.Module):
    """A residual block before the last map, and an activation between pooling and head: nothing is exact."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU())
        self.side = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.SiLU())
        self.join = nn.Identity()
        self.last = nn.Sequential(nn.Conv2d(8, 6, 3), nn.ReLU())
        self.mix = nn.Sequential(nn.Linear(6, 6), nn.Hardswish())
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        stem = self.stem(images)
        features = self.last(self.join(stem + self.side(stem)))
        return self.fc(self.mix(features.mean((2, 3))))


def export(net: nn.Module, path: Path) -> Path:
    with quiet():
        torch.onnx.export(
            net,
            (PIXELS,),
            path,
            dynamo=True,
            dynamic_shapes={"images": {0: torch.export.Dim.DYNAMIC}},
            external_data=False,
            verbose=False,
        )
    return path


@pytest.fixture(scope="module")
def curved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Curved, OnnxModule]:
    net = Curved().eval()
    path = export(net, tmp_path_factory.mktemp("curved") / "net.onnx")
    return net, OnnxModule(OnnxFile(path, threads=1))


@pytest.mark.parametrize("method", WITHOUT_GRADIENTS)
def test_maps_are_those_of_the_module(method: str, curved: tuple[Curved, OnnxModule]) -> None:
    net, module = curved
    options = OPTIONS.get(method, {})
    expected = whycam.explain(net, PIXELS, 2, method=method, layer="last", **options)
    why = whycam.explain(module, PIXELS, 2, method=method, **options)
    assert (why.logits - expected.logits).abs().max() < 1e-5
    assert (why.maps - expected.maps).abs().max() < 1e-4 * expected.maps.abs().max()
    assert "Relu" in why.record["cut"]


@pytest.mark.parametrize("method", ["ablation-cam", "recipro-cam"])
def test_what_goes_past_the_layer_is_each_images_own(method: str, curved: tuple[Curved, OnnxModule]) -> None:
    net, module = curved
    names = [cells.name for cells in module.file.list_cells()]
    silu = names[next(i for i, name in enumerate(names) if "add" in name) - 1]
    expected = whycam.explain(net, PIXELS, 1, method=method, layer="side")
    why = whycam.explain(module, PIXELS, 1, method=method, layer=silu, chunk=7)
    assert (why.maps - expected.maps).abs().max() < 1e-3 * expected.maps.abs().max()
    assert why.record["layer"] == silu


def test_every_method_works_or_is_refused_with_those_that_do(curved: tuple[Curved, OnnxModule]) -> None:
    worked, refused = [], {}
    for method in iter_methods():
        try:
            versus = {"versus": 1} if method.name == "contrast" else {}
            whycam.explain(curved[1], PIXELS[:1], 2, method=method.name, **versus, **OPTIONS.get(method.name, {}))
            worked.append(method)
        except UserError as error:
            refused[method.name] = str(error)
    kinds = {method.needs for method in worked}
    assert kinds == {"features", "tail scores", "scores", "features and scores", "image"}
    assert "HardSwish" in refused["cam"]
    listed = refused["grad-cam"].split("What works on it: ")[1].rstrip(".").split(", ")
    assert listed == [method.name for method in worked if method.needs != "image"]
    assert {"attention-rollout", "full-grad", "refine-cam"} <= refused.keys()


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> OnnxModule:
    path = write(tmp_path_factory.mktemp("exact") / "net.onnx", [POOL, FLAT, GEMM])
    return OnnxModule(OnnxFile(path, threads=1))


def test_behind_a_linear_head_there_are_gradients(exact: OnnxModule) -> None:
    answer = exact.file.read(IMAGES)
    cam = whycam.explain(exact, PIXELS, 3, method="cam")
    grad = whycam.explain(exact, PIXELS, 3, method="grad-cam")
    cells = answer.maps.shape[2] * answer.maps.shape[3]
    assert np.abs(cam.maps.numpy() - answer.maps[:, 3]).max() < 1e-5 * np.ptp(answer.maps)
    assert (grad.maps * cells - cam.maps.relu()).abs().max() < 1e-5 * cam.maps.abs().max()
    assert cam.record["layer"] == exact.file.layer
    assert cam.record["cut"] == "GlobalAveragePool + Gemm"
    with pytest.raises(UserError, match="refine-cam needs"):
        whycam.explain(exact, PIXELS, method="refine-cam")


def test_a_batch_that_is_fixed(tmp_path: Path) -> None:
    tail = [POOL, FLAT, node("Relu", "v", "t"), node("Tanh", "t", "u"), node("Gemm", "u w b", "scores", transB=1)]
    maps = []
    for batch in ("N", 1, 3):
        file = OnnxFile(write(tmp_path / f"{batch}.onnx", tail, batch=batch), threads=1)
        maps.append(whycam.explain(OnnxModule(file), PIXELS, 1, method="recipro-cam").maps)
    assert torch.allclose(maps[0], maps[1], atol=1e-5)
    assert torch.allclose(maps[0], maps[2], atol=1e-5)


def test_a_tail_that_reads_the_batch_off_the_image(tmp_path: Path) -> None:
    """Its number of rows is not the number of images."""
    sizes = [node("Shape", "images", "n", start=0, end=1), node("Concat", "n rest", "shape", axis=0)]
    flat = [node("Tanh", "features", "t"), node("Reshape", "t shape", "v"), node("MatMul", "v big", "scores")]
    big = np.random.default_rng(0).standard_normal((6 * 121, CLASSES)).astype(np.float32)
    path = write(tmp_path / "m.onnx", [*sizes, *flat], constants={"rest": np.array([-1]), "big": big})
    why = whycam.explain(OnnxModule(OnnxFile(path, threads=1)), PIXELS, 1, method="ablation-cam", chunk=5)
    assert why.maps.shape == (4, 11, 11)
    assert why.maps.any()


def test_channels_last_behind_a_layer_norm(tmp_path: Path) -> None:
    ones, zeros = np.ones(6, np.float32), np.zeros(6, np.float32)
    turned = [node("Transpose", "features", "x", perm=[0, 2, 3, 1]), node("LayerNormalization", "x one zero", "y")]
    head = [node("ReduceMean", "y axes", "m", keepdims=0), node("Tanh", "m", "v"), GEMM]
    path = write(
        tmp_path / "m.onnx", [*turned, *head], constants={"one": ones, "zero": zeros, "axes": np.array([1, 2])}
    )
    why = whycam.explain(OnnxModule(OnnxFile(path, threads=1)), PIXELS, 1, method="ablation-cam")
    features = np.maximum(nn.functional.conv2d(PIXELS, torch.from_numpy(CONV), stride=2).numpy(), 0)
    last = features.transpose(0, 2, 3, 1)
    last = (last - last.mean(-1, keepdims=True)) / np.sqrt(last.var(-1, keepdims=True) + 1e-5)
    score = lambda means: np.tanh(means) @ WEIGHT[1] + BIAS[1]  # noqa: E731 - one formula
    means = last.mean((1, 2))
    drops = np.stack([score(means) - score(np.where(np.arange(6) == c, 0, means)) for c in range(6)], 1)
    expected = np.maximum(np.einsum("nhwc,nc->nhw", last, drops), 0)
    assert np.abs(why.maps.numpy() - expected).max() < 1e-4 * expected.max()


def test_any_size_is_cut_too(tmp_path: Path) -> None:
    tail = [POOL, FLAT, node("Tanh", "v", "u"), node("Gemm", "u w b", "scores", transB=1)]
    file = OnnxFile(write(tmp_path / "m.onnx", tail, sides=("H", "W")), threads=1, size_px=(24, 24))
    why = whycam.explain(OnnxModule(file), PIXELS, 1, method="recipro-cam", smooth="scales")
    assert why.maps.shape == (4, 11, 11)


def test_without_maps_scores_alone_are_explained(tmp_path: Path) -> None:
    body = [node("Flatten", "images", "x"), node("MatMul", "x big", "y"), node("Tanh", "y", "v")]
    big = np.random.default_rng(0).standard_normal((3 * 24 * 24, 6)).astype(np.float32) / 40
    file = OnnxFile(write(tmp_path / "m.onnx", [GEMM], body=body, constants={"big": big}), threads=1)
    assert "rise and occlusion, which need scores alone" in file.no_exact_map
    module = OnnxModule(file)
    for method in ("rise", "occlusion", "uniform"):
        assert whycam.explain(module, PIXELS, 1, method=method, **OPTIONS.get(method, {})).maps.isfinite().all()
    with pytest.raises(UserError, match=r"no map of cells.*rise or occlusion"):
        whycam.explain(module, PIXELS, method="recipro-cam")


Refusal = tuple[Callable[[OnnxModule], Any], str]
REFUSED: dict[str, Refusal] = {
    "unknown": (lambda module: whycam.explain(module, PIXELS, method="eigen-cam", layer="feature"), "Did you mean"),
    "no map": (lambda module: whycam.explain(module, PIXELS, method="eigen-cam", layer="v"), "expected a map"),
    "wrong size": (lambda module: whycam.explain(module, PIXELS[..., :9], method="eigen-cam"), "takes images"),
    "a module": (
        lambda module: whycam.explain(module, PIXELS, method="eigen-cam", layer=nn.ReLU()),
        "name of a tensor",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, exact: OnnxModule) -> None:
    run, words = REFUSED[name]
    with pytest.raises(UserError, match=words):
        run(exact)


TOKENS = [
    node("Reshape", "features flat", "rows"),
    node("Transpose", "rows", "tokens", perm=[0, 2, 1]),
    node("LayerNormalization", "tokens one zero", "normed"),
]
MEAN = [node("ReduceMean", "normed axes", "v", keepdims=0), GEMM]
HELD = {
    "flat": np.array([0, 6, -1]),
    "one": np.ones(6, np.float32),
    "zero": np.zeros(6, np.float32),
    "axes": np.array([1]),
    "order": np.random.default_rng(0).permutation(121),
}


def test_tokens_are_a_map_where_they_stand_in_the_order_of_the_image(tmp_path: Path) -> None:
    file = OnnxFile(write(tmp_path / "m.onnx", [*TOKENS, *MEAN], constants=HELD), threads=1)
    features = torch.nn.functional.conv2d(PIXELS, torch.from_numpy(CONV), stride=2).relu()
    normed = torch.nn.functional.layer_norm(features.movedim(1, -1), (6,)).numpy()
    maps = np.einsum("kc,nhwc->nkhw", WEIGHT, normed)
    answer = file.read(IMAGES)
    assert np.abs(answer.maps - maps).max() < 1e-5 * np.ptp(maps)
    cam = whycam.explain(OnnxModule(file), PIXELS, 3, method="cam")
    assert np.abs(cam.maps.numpy() - maps[:, 3]).max() < 1e-5 * np.ptp(maps)


def test_tokens_in_another_order_are_refused(tmp_path: Path) -> None:
    mixed = [node("Gather", "tokens order", "mixed", axis=1), node("LayerNormalization", "mixed one zero", "normed")]
    file = OnnxFile(write(tmp_path / "m.onnx", [*TOKENS[:2], *mixed, *MEAN], constants=HELD), threads=1)
    assert "another order than the image's parts" in file.no_exact_map


def test_two_heads_on_one_pooled_map_are_one(tmp_path: Path) -> None:
    two = [POOL, FLAT, node("Gemm", "v w b", "a", transB=1), node("MatMul", "v wt", "z"), node("Add", "a z", "s")]
    file = OnnxFile(
        write(tmp_path / "m.onnx", [*two, node("Div", "s two", "scores")], constants={"two": np.float32(2)})
    )
    answer = file.read(IMAGES)
    features = torch.nn.functional.conv2d(PIXELS, torch.from_numpy(CONV), stride=2).relu().numpy()
    maps = np.einsum("kc,nchw->nkhw", WEIGHT, features)
    assert np.abs(answer.maps - maps).max() < 1e-5 * np.ptp(maps)
    assert np.abs(answer.logits - maps.mean((2, 3)) - BIAS / 2).max() < 1e-4


def test_scores_that_are_pooled_maps_have_a_linear_cut(tmp_path: Path) -> None:
    head = [node("Conv", "features w4 b", "k"), node("Relu", "k", "r"), node("GlobalAveragePool", "r", "p")]
    path = write(
        tmp_path / "m.onnx", [*head, node("Flatten", "p", "scores")], constants={"w4": WEIGHT[:, :, None, None]}
    )
    file = OnnxFile(path, threads=1)
    cam = whycam.explain(OnnxModule(file), PIXELS, 3, method="cam")
    assert np.abs(cam.maps.numpy() - file.read(IMAGES).maps[:, 3]).max() < 1e-5
