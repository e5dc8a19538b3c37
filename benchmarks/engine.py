"""The exported graph against the peers' best fitting calls, what the maps cost, and how near to the machine's limit.

`python benchmarks/engine.py` writes results/engine.md and .json. All run the same network, a GAP classifier of 1,000
classes: EfficientNet-Lite0 with ImageNet's weights, ResNet-50 and VGG-16 with random ones.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from common import RESULTS, alternate, ratio, save, write_table
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torchcam.methods import CAM

import whycam
from whycam.model.backbone import make_backbone
from whycam.model.gap import GapClassifier
from whycam.model.onnx.engine import OnnxEngine, open_session
from whycam.model.onnx.export import export_onnx
from whycam.model.onnx.parity import ExplainingNet, GraphOptions

MODELS = ("lite0", "resnet50", "vgg16")
# At batch 8: over pytorch-grad-cam's Grad-CAM, over TorchCAM's CAM.
WANTED = {"lite0": (9, 2.5), "resnet50": (4, 1.25), "vgg16": (6, 2)}
SIDE_PX, COST_LIMIT, COST_ROUNDS, PEAK_SIDE, REST_S = 224, 1.05, 3, 2048, 0.2


def make_model(name: str) -> GapClassifier:
    if name == "lite0":
        network = whycam.load("imagenet", engine="torch").network
        assert isinstance(network, GapClassifier)
        return network.requires_grad_(requires_grad=True)  # without it pytorch-grad-cam fails
    torch.manual_seed(0)
    made = make_backbone(name, is_random=True, image_size=SIDE_PX)
    return GapClassifier(made, [f"class {k}" for k in range(1000)]).eval()


def find_layer(model: GapClassifier) -> torch.nn.Module:
    """The module whose output the classifier averages."""
    names = {"EfficientNet": "bn2", "ResNet": "layer4", "VGG": "features"}
    return model.backbone.get_submodule(names[type(model.backbone).__name__])


def make_calls(model: GapClassifier, engine: OnnxEngine, images: Tensor) -> dict[str, Callable[[], object]]:
    layer = find_layer(model)
    pixels, target = images.numpy(), [3] * len(images)

    def run_torch() -> None:
        with torch.no_grad():
            model(images)

    def run_grad_cam() -> None:
        with GradCAM(model=model, target_layers=[layer]) as cam, redirect_stderr(io.StringIO()):
            cam(input_tensor=images, targets=[ClassifierOutputTarget(k) for k in target])

    def run_torchcam() -> None:
        with CAM(model, layer, fc_layer=model.classifier) as cam, torch.no_grad():
            cam(target, model(images))

    return {
        "engine": lambda: engine(pixels),
        "torch forward": run_torch,
        "grad-cam": run_grad_cam,
        "torchcam": run_torchcam,
    }


def count_flops(model: GapClassifier, images: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ExplainingNet(model, GraphOptions())(images)
    return counter.get_total_flops()


def measure_peak(rounds: int = 9) -> float:
    """FLOP/s of a large float32 matrix product: the best of PyTorch's, NumPy's and ONNX Runtime's."""
    a, b = torch.rand(PEAK_SIDE, PEAK_SIDE), torch.rand(PEAK_SIDE, PEAK_SIDE)
    x, y = a.numpy(), b.numpy()
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, x.shape) for name in "xyz"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "y"], ["z"])], "product", values[:2], values[2:]
    )
    opset = onnx.helper.make_opsetid("", 18)
    session = onnxruntime.InferenceSession(onnx.helper.make_model(graph, opset_imports=[opset]).SerializeToString())
    calls = {"torch": lambda: a @ b, "numpy": lambda: x @ y, "onnxruntime": lambda: session.run(None, {"x": x, "y": y})}
    times = alternate(calls, rounds, REST_S)
    return 2 * PEAK_SIDE**3 / min(map(min, times.values()))


@dataclass
class Found:
    """Rows of the tables, and the seconds behind them."""

    maps: list[list[Any]] = field(default_factory=list)
    costs: list[list[Any]] = field(default_factory=list)
    limits: list[list[Any]] = field(default_factory=list)
    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)


def open_engines(model: GapClassifier, folder: Path) -> tuple[OnnxEngine, onnxruntime.InferenceSession]:
    """The engine, and a session of the same graph that gives logits alone."""
    path, bare = folder / "model.onnx", folder / "logits.onnx"
    export_onnx(model, path, GraphOptions(), origin={}, records={})
    engine = OnnxEngine(path)
    onnx.utils.extract_model(path, bare, ["images"], ["logits"], check_model=False)
    return engine, open_session(bare)


def measure(name: str, batch: int, pairs: int, peak: float, found: Found) -> None:
    """Adds a model's rows at one batch size."""
    model = make_model(name)
    images = torch.randn(batch, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(0))
    pixels = images.numpy()
    with tempfile.TemporaryDirectory() as folder:
        engine, bare = open_engines(model, Path(folder))
        times = alternate(make_calls(model, engine, images), pairs, REST_S)
        cost = alternate(
            {"whole": lambda: engine(pixels), "logits": lambda: bare.run(None, {"images": pixels})}, COST_ROUNDS * pairs
        )
    own = statistics.median(times["engine"])
    ratios = [ratio(times, other, "engine") for other in ("torch forward", "grad-cam", "torchcam")]
    found.maps.append([name, batch, 1000 * own / batch, *ratios, pairs])
    found.costs.append([name, batch, ratio(cost, "whole", "logits"), COST_ROUNDS * pairs])
    rate = count_flops(model, images) / own
    found.limits.append([name, batch, rate / 1e9, rate / peak])
    found.seconds |= {f"{name} {batch}": times, f"{name} {batch} cost": cost}


def judge(rows: list[list[Any]]) -> list[list[Any]]:
    judged = []
    for name, batch, _, _, *ratios, _ in rows:
        for peer, value, wanted in (
            zip(("grad-cam", "torchcam"), ratios, WANTED[name], strict=True) if batch == 8 else ()
        ):
            is_held = "yes" if value >= wanted else "no"
            judged.append([f"{name}: {peer} takes at least {wanted} x the engine", value, is_held])
    return judged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    peak, found = measure_peak(), Found()
    for name in args.models.split(","):
        for batch in (1, 8):
            measure(name, batch, args.pairs, peak, found)
    head = ["model", "batch", "engine, ms a photo", "torch / ours", "grad-cam / ours", "torchcam / ours", "rounds"]
    lines = [
        "# The engine",
        "`python benchmarks/engine.py`: medians of ratios within a round, one call after the other, in one process.",
        "pytorch-grad-cam gives one class's map by Grad-CAM, TorchCAM by CAM; the engine those of all 1,000 classes.",
        "",
        "## Maps",
        "",
        *write_table(head, found.maps),
        "",
        *write_table(["expected at batch 8", "measured", "holds"], judge(found.maps)),
        "",
        "## The cost of explaining",
        "",
        f"Logits and the maps of all 1,000 classes over logits alone, same runtime; expected at most {COST_LIMIT}.",
        "",
        *write_table(
            ["model", "batch", "with maps / without", "rounds", "holds"],
            [[*row, "yes" if row[2] <= COST_LIMIT else "no"] for row in found.costs],
        ),
        "",
        "## The limit",
        "",
        f"A float32 product of {PEAK_SIDE} x {PEAK_SIDE} matrices reaches {peak / 1e9:.0f} GFLOP/s.",
        "",
        *write_table(["model", "batch", "GFLOP/s", "of the product's rate"], found.limits),
    ]
    save("engine", lines, {"seconds": found.seconds, "peak_flops": peak, "limits": found.limits}, args.out)


if __name__ == "__main__":
    main()
