"""What int8 costs and gives, by what stays in float: maps, top classes and speed against the float graph.

`python benchmarks/int8.py MODEL PHOTOS` writes results/int8.md and .json. Ranges are taken of some photos, the rest is
measured; speed is the median of the ratios of the batches of 8 that both graphs answer one after the other.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common import RESULTS, save, write_table
from onnxruntime.quantization import CalibrationMethod
from onnxruntime.quantization.shape_inference import quant_pre_process

from whycam.data.loader import stream_photos
from whycam.data.walk import find_images
from whycam.explainer.model import Model
from whycam.intake.door import open_classifier
from whycam.model.onnx.export import export_onnx
from whycam.model.onnx.parity import GraphOptions
from whycam.model.onnx.quantise import find_heads, measure_drift, quantise

PERCENTILE = {"calibrate_method": CalibrationMethod.Percentile, "extra_options": {"CalibPercentile": 99.99}}


def make_ways(whole: Path) -> dict[str, tuple[int, dict[str, Any]]]:
    """Name -> how many of the first convolutions stay in float, and what ONNX Runtime is told beside."""
    heads, nodes = find_heads(whole), onnx.load(whole).graph.node
    convolutions = [node for node in nodes if node.op_type == "Conv" and node.name not in heads]
    groups = {n.name: next((a.i for a in n.attribute if a.name == "group"), 1) for n in convolutions}
    depthwise = [name for name, count in groups.items() if count > 1]
    ends = [convolutions[0].name, convolutions[-1].name]
    return {
        "7-bit weights": (0, {"reduce_range": True}),
        "8-bit weights": (0, {}),
        "8-bit weights, percentile 99.99": (0, PERCENTILE),
        "depthwise in float": (0, {"nodes_to_exclude": [*heads, *depthwise]}),
        "first, last and depthwise in float": (0, {"nodes_to_exclude": [*heads, *depthwise, *ends]}),
        "first and last in float": (0, {"nodes_to_exclude": [*heads, *ends]}),
        "first 6 in float": (6, {}),
        "first 9 in float": (9, {}),
        "first 12 in float": (12, {}),
        "first 12 in float, 7-bit weights": (12, {"reduce_range": True}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("photos", type=Path)
    parser.add_argument("--calibrate", type=int, default=64)
    parser.add_argument("--measure", type=int, default=400)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    model = Model(open_classifier(args.model, device="cpu", engine="torch"))
    paths = find_images([args.photos])
    order = np.random.default_rng(0).permutation(len(paths))[: args.calibrate + args.measure]
    photos = stream_photos((paths[i] for i in order), model.preprocess)
    pixels = np.stack([photo.pixels for photo in photos if photo.pixels is not None])
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        whole, made, prepared = (Path(folder) / name for name in ("float.onnx", "int8.onnx", "prepared.onnx"))
        export_onnx(model.classifier.exact_network, whole, GraphOptions(), origin={}, records={})
        quant_pre_process(str(whole), str(prepared), skip_symbolic_shape=True)
        for name, (float_first, how) in make_ways(prepared).items():
            start = time.perf_counter()
            quantise(whole, made, pixels[: args.calibrate], float_first, **how)
            drift = measure_drift(whole, made, pixels[args.calibrate :])
            rows.append([name, f"{drift.correlation:.4f}", f"{drift.changed:.2%}", drift.speed])
            print(*rows[-1], f"{time.perf_counter() - start:.0f} s", flush=True)
    lines = [
        "# int8",
        f"`python benchmarks/int8.py {args.model} {args.photos.name}`: ranges of {args.calibrate} photos, measured on "
        f"{len(pixels) - args.calibrate}. What is behind the last features is in float in every row.",
        "",
        *write_table(["what is otherwise", "maps correlate", "top classes that change", "times as fast"], rows),
    ]
    save("int8", lines, {"rows": rows}, args.out)


if __name__ == "__main__":
    main()
