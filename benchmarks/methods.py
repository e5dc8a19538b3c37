"""Time of each map method over the bare forward pass, and of pytorch-grad-cam and torchcam over ours, in one process.

`python benchmarks/methods.py` writes methods.md and methods.json. A new method is a row of `PEERS`.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from common import describe_machine
from PIL import Image
from timm.models import VisionTransformer
from torch import Tensor, nn

import whycam
from whycam.data.images import load_image
from whycam.data.preprocess import Preprocess
from whycam.data.samples import write_samples
from whycam.data.walk import find_images
from whycam.model.gap import load_network

MODELS = {"lite0": "imagenet", "resnet50": "resnet50", "vit_small": "vit_small_patch16_224"}
SIDE_PX, SMALL_PX, BATCH, CHUNK, SLOW_PAIRS = 224, 96, 4, 32, 2
# Ours -> the class in pytorch_grad_cam, the class in torchcam.methods.
PEERS: dict[str, tuple[str | None, str | None]] = {
    "cam": (None, "CAM"),
    "grad-cam": ("GradCAM", "GradCAM"),
    "grad-cam++": ("GradCAMPlusPlus", "GradCAMpp"),
    "xgrad-cam": ("XGradCAM", "XGradCAM"),
    "layer-cam": ("LayerCAM", "LayerCAM"),
    "hires-cam": ("HiResCAM", None),
    "element-wise": ("GradCAMElementWise", None),
    "eigen-cam": ("EigenCAM", None),
    "ablation-cam": ("AblationCAM", None),
    "score-cam": ("ScoreCAM", "ScoreCAM"),
}
GRADIENT = ("grad-cam", "grad-cam++", "xgrad-cam", "layer-cam", "hires-cam", "element-wise")
# What is expected: the sentence, the methods, which ratio, and its limit in the worst row.
EXPECTED: list[tuple[str, tuple[str, ...], str, Callable[[Sequence[float]], float], float]] = [
    ("gradient methods take at most 1.15 x the forward pass", GRADIENT, "ours", max, 1.15),
    ("grad-cam's Grad-CAM takes at least 2 x ours", ("grad-cam",), "grad_cam", min, 2),
    ("grad-cam's Ablation-CAM takes at least 100 x ours on a linear tail", ("ablation-cam",), "grad_cam", min, 100),
    ("grad-cam's Eigen-CAM takes at least 2 x ours", ("eigen-cam",), "grad_cam", min, 2),
    ("score-cam takes at most 1.1 x the forward passes that it needs", ("score-cam",), "ours", max, 1.1),
]
NOTES = f"""
Medians of the ratios within a pair, in which the bare forward pass (`no_grad`), ours and the peers run one after the
other, in reversed order every second time. Ours is `whycam.explain(module, images, target, method=..., layer=cut)`,
the cut found before (`whycam.cut_model`). The peers run in every second pair, at the layer that ours found, for the
same classes; they are made outside the clock and called as their READMEs show: pytorch-grad-cam's time has its resize
to the image in it, ours and torchcam's have none. score-cam is held against a forward pass for each live channel and
one more, in batches of {CHUNK}. It and Ablation-CAM of pytorch-grad-cam are measured on one image of {SMALL_PX} px,
so that they end. ResNet-50 and ViT have random weights.
"""


@dataclass
class Row:
    """What was measured of one method on one model: seconds and ratios, one for each pair."""

    model: str
    method: str
    size: str
    layer: str
    forwards: int
    forward_s: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    grad_cam: list[float] = field(default_factory=list)
    torchcam: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Subject:
    """A model with the layer that ours found, and the ratio of the very first explanation to the bare forward pass."""

    name: str
    module: nn.Module
    layer: str
    first: float


def find_photos(folder: Path | None, count: int) -> list[Image.Image]:
    """Upright photos: of the folder, else of WHYCAM_DATA, else those that scikit-image brings."""
    if folder is None and "WHYCAM_DATA" in os.environ:
        folder = Path(os.environ["WHYCAM_DATA"]) / "imagenet_val25_fullres" / "images"
    with tempfile.TemporaryDirectory() as samples:
        files = find_images([folder]) if folder else write_samples(Path(samples))
        return [load_image(file) for file in files[:count]]


def make_model(name: str) -> tuple[nn.Module, Preprocess]:
    """A plain timm module in eval mode: installed weights for `lite0`, else seeded random ones."""
    if MODELS.get(name) == "imagenet":
        module, origin = load_network("imagenet")
        return module, origin.preprocess
    torch.manual_seed(0)
    return timm.create_model(MODELS.get(name, name)).eval(), Preprocess()


def make_inputs(photos: Sequence[Image.Image], preprocess: Preprocess, side_px: int = SIDE_PX) -> Tensor:
    sized = preprocess.model_copy(update={"height_px": side_px, "width_px": side_px})
    return torch.stack([torch.from_numpy(sized.normalise(sized.to_pixels(photo))) for photo in photos])


def time_call(run: Callable[[], object]) -> float:
    gc.collect()  # of the graph that pytorch-grad-cam keeps
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def to_grid(tokens: Tensor) -> Tensor:
    """The reshape_transform of pytorch-grad-cam's README, for a class token and 14 x 14 cells."""
    return tokens[:, 1:].reshape(len(tokens), 14, 14, -1).permute(0, 3, 1, 2)


def time_grad_cam(name: str, module: nn.Module, images: Tensor, layer: nn.Module, target: Tensor) -> float:
    wanted = importlib.import_module("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget
    reshape = to_grid if isinstance(module, VisionTransformer) else None
    made = getattr(importlib.import_module("pytorch_grad_cam"), name)
    with made(model=module, target_layers=[layer], reshape_transform=reshape) as cam, redirect_stderr(io.StringIO()):
        cam.batch_size = CHUNK
        return time_call(lambda: cam(input_tensor=images, targets=[wanted(index) for index in target.tolist()]))


def time_torchcam(name: str, module: nn.Module, images: Tensor, layer: nn.Module, target: Tensor) -> float:
    how: dict[str, Any] = {"fc_layer": module.get_classifier()} if name == "CAM" else {}
    if isinstance(module, VisionTransformer):
        how["reshape_transform"] = to_grid
    with getattr(importlib.import_module("torchcam.methods"), name)(module, layer, **how) as cam:
        return time_call(lambda: cam(target.tolist(), module(images)))


def count_live(module: nn.Module, images: Tensor, layer: nn.Module) -> int:
    """Channels of the layer that are not constant: score-cam needs a forward pass for each."""
    found: list[Tensor] = []
    hook = layer.register_forward_hook(lambda _, __, output: found.append(output.flatten(2)))
    with torch.no_grad():
        module(images)
    hook.remove()
    return int((found[0].amax(2) > found[0].amin(2)).sum())


@torch.no_grad()
def run_bare(module: nn.Module, images: Tensor, count: int) -> None:
    for start in range(0, count, CHUNK):
        module(images[:1].expand(min(CHUNK, count - start), -1, -1, -1) if count > 1 else images)


def make_subject(name: str, images: Tensor, module: nn.Module) -> Subject:
    run_bare(module, images, 1)
    target = torch.zeros(len(images), dtype=torch.long)
    found: list[Any] = []
    first = time_call(lambda: found.append(whycam.explain(module, images, target, method="grad-cam")))
    bare = statistics.median(time_call(lambda: run_bare(module, images, 1)) for _ in range(3))
    return Subject(name, module, str(found[0].record["layer"]).removeprefix("relu of "), first / bare)


def measure(subject: Subject, images: Tensor, method: str, pairs: int, *, with_peers: bool = True) -> Row:
    """Alternates the bare forward pass, ours and the peers."""
    module, layer = subject.module, subject.module.get_submodule(subject.layer)
    with torch.no_grad():
        target = module(images).argmax(1)
    forwards = count_live(module, images, layer) + 1 if method == "score-cam" else 1
    row = Row(subject.name, method, f"{len(images)} x {images.shape[-1]} px", subject.layer, forwards)
    # Made outside the clock, as the peers are: they are told the layer.
    cut = whycam.cut_model(module, images)
    calls: dict[str, Callable[[], float]] = {
        "bare": lambda: time_call(lambda: run_bare(module, images, forwards)),
        "ours": lambda: time_call(lambda: whycam.explain(module, images, target, method=method, layer=cut)),
    }
    peers: dict[str, Callable[[], float]] = {}
    grad_cam, torchcam = PEERS[method] if with_peers else (None, None)
    if grad_cam:
        peers["grad_cam"] = lambda: time_grad_cam(grad_cam, module, images, layer, target)
    if torchcam:
        peers["torchcam"] = lambda: time_torchcam(torchcam, module, images, layer, target)
    if method != "score-cam":
        calls["ours"]()
    for pair in range(pairs):
        chosen = list((calls | peers if pairs <= SLOW_PAIRS or pair % 2 == 0 else calls).items())
        times = {key: call() for key, call in (reversed(chosen) if pair % 4 in {1, 2} else chosen)}
        row.forward_s.append(times["bare"])
        row.ours.append(times["ours"] / times["bare"])
        for key in peers.keys() & times.keys():
            getattr(row, key).append(times[key] / times["ours"])
    return row


def measure_model(
    name: str, photos: Sequence[Image.Image], methods: Sequence[str], pairs: int
) -> tuple[Subject, list[Row]]:
    """All rows of a model; what needs a pass for each channel on one image, and against the peers on lite0 alone."""
    module, preprocess = make_model(name)
    images, small = make_inputs(photos, preprocess), make_inputs(photos[:1], preprocess, SMALL_PX)
    subject, rows, few = make_subject(name, images, module), [], min(pairs, SLOW_PAIRS)
    is_cnn = not isinstance(module, VisionTransformer)
    for method in methods:
        if method == "ablation-cam":
            # The tail is linear in both CNNs, where this is closed form; in ViT it runs once for each channel.
            rows.append(measure(subject, images if is_cnn else images[:1], method, few, with_peers=False))
        if method in {"ablation-cam", "score-cam"}:
            rows += [measure(subject, small, method, few)] if name == "lite0" else []
        elif is_cnn or method != "cam":
            rows.append(measure(subject, images, method, pairs))
    return subject, rows


def show(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3g}" if values else "-"


def make_report(machine: dict[str, str], subjects: Sequence[Subject], rows: Sequence[Row]) -> str:
    lines = ["# Time of the map methods", "", *(f"- {key}: {value}" for key, value in machine.items())]
    lines += [
        f"- {s.name}: cut at {s.layer}; the first explanation took {s.first:.3g} forward passes" for s in subjects
    ]
    lines += [
        "",
        "| model | method | images | forward, ms | ours / forward | grad-cam / ours | torchcam / ours | pairs |",
    ]
    lines += ["| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for r in rows:
        passes = f" ({r.forwards} passes)" if r.forwards > 1 else ""
        bare = f"{1000 * statistics.median(r.forward_s):.1f}{passes}"
        ratios = " | ".join(show(values) for values in (r.ours, r.grad_cam, r.torchcam))
        lines.append(f"| {r.model} | {r.method} | {r.size} | {bare} | {ratios} | {len(r.ours)} |")
    lines += ["", "| expected | worst measured | holds |", "| --- | --- | --- |"]
    for text, methods, ratio, worst, limit in EXPECTED:
        values = [statistics.median(getattr(r, ratio)) for r in rows if r.method in methods and getattr(r, ratio)]
        if values:
            holds = worst((worst(values), limit)) == limit
            lines.append(f"| {text} | {worst(values):.3g} | {'yes' if holds else 'no'} |")
    return "\n".join(lines) + "\n" + NOTES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--methods", default=",".join(PEERS))
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    start, photos = time.perf_counter(), find_photos(None, BATCH)
    subjects, rows = [], []
    for name in args.models.split(","):
        subject, measured = measure_model(name, photos, args.methods.split(","), args.pairs)
        subjects.append(subject)
        rows += measured
    machine = describe_machine() | {"time of the whole run": f"{time.perf_counter() - start:.0f} s"}
    report = make_report(machine, subjects, rows)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "methods.md").write_text(report)
    about = {s.name: {"layer": s.layer, "first_explanation_over_forward": s.first} for s in subjects}
    (args.out / "methods.json").write_text(
        json.dumps({**machine, "models": about, "rows": [asdict(row) for row in rows]}, indent=1) + "\n"
    )
    print(report)


if __name__ == "__main__":
    main()
