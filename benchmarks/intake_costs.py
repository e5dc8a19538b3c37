"""What exact maps of an ONNX file cost over the bare file: time in one process, peak memory in one each."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import timm
import torch
from common import alternate, ratio
from intake_cases import export

from whycam.intake.door import open_classifier

MODELS = ("resnet50", "efficientnet_lite0", "mobilenetv2_100", "regnety_004")
SIDE_PX, ROUNDS, REST_S = 224, 11, 0.05
_PEAK = """
import resource, sys
import numpy as np
kind, path = sys.argv[1:]
pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 224, 224), dtype=np.uint8)
if kind == "bare":
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    run = lambda: session.run(None, {"images": pixels.astype(np.float32) / 255})
else:
    from whycam.intake.door import open_classifier
    model = open_classifier(path, device="cpu", preprocess="imagenet")
    run = (lambda: model.read(pixels)) if kind == "maps" else (lambda: model.scores(pixels))
for _ in range(3):
    run()
status = open("/proc/self/status").read()
print(int(status.split("VmHWM:")[1].split()[0]) / 1024)
"""


def measure_costs(folder: Path) -> list[dict[str, Any]]:
    """A row a model: medians of ratios within a round, and of peaks of five processes."""
    rows = []
    for name in MODELS:
        torch.manual_seed(0)
        path = folder / f"{name}.onnx"
        export(timm.create_model(name).eval(), SIDE_PX, path)
        model = open_classifier(path, device="cpu", preprocess="imagenet", threads=1)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        bare = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        pixels = np.random.default_rng(0).integers(0, 256, (1, 3, SIDE_PX, SIDE_PX), dtype=np.uint8)
        images = model.card.preprocess.normalise(pixels)
        runtime = model._parts.runtime
        calls = {
            "bare": lambda s=bare, x=images: s.run(None, {"images": x}),
            "maps": lambda r=runtime, x=images: r.read(x),
        }
        times = alternate(calls, ROUNDS, REST_S)
        peaks = {kind: [_measure_peak(kind, path) for _ in range(3)] for kind in ("bare", "scores", "maps")}
        row: dict[str, Any] = {"name": name, "file_mb": path.stat().st_size / 1e6, "exact": model.card.is_exact}
        row |= {"bare_ms": 1000 * statistics.median(times["bare"]), "time": ratio(times, "maps", "bare")}
        row |= {f"{kind}_mb": statistics.median(values) for kind, values in peaks.items()}
        print(row, flush=True)
        rows.append(row)
    return rows


def _measure_peak(kind: str, path: Path) -> float:
    """MB of a process that does nothing else."""
    done = subprocess.run([sys.executable, "-c", _PEAK, kind, str(path)], check=True, capture_output=True, text=True)
    return float(done.stdout)
