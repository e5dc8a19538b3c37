"""On a GPU, in one call of under five minutes: every class's map beside the peers, files to files, a training step.

`python benchmarks/gpu.py` writes results/gpu.md and .json. Networks have random weights, which don't change the time.
`--device cpu --tiny` tries all of it on a CPU, at sizes whose figures say nothing.
"""

from __future__ import annotations

import argparse
import copy
import io
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import timm
import torch
from common import RESULTS, ratio, save, write_table
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torch.nn import functional
from torchcam.methods import CAM

import whycam
from whycam.data.garden import write_garden
from whycam.model.backbone import make_backbone
from whycam.model.gap import GapClassifier
from whycam.model.onnx.parity import ExplainingNet, GraphOptions

# Architecture, and the module that the peers look at.
NETWORKS = {"resnet50": ("resnet50", "layer4"), "vit_small": ("vit_small_patch16_224", "blocks.11.norm1")}
TINY = {"test_resnet": ("test_resnet", "layer4"), "test_vit": ("test_vit", "blocks.5.norm1")}
OURS = "WhyCAM"


def make_model(architecture: str, side_px: int, classes: int, device: str) -> nn.Module:
    """A GAP classifier where the architecture can be one, else timm's own network."""
    torch.manual_seed(0)
    if "vit" in architecture:
        return timm.create_model(architecture, num_classes=classes, img_size=side_px).eval().to(device)
    made = make_backbone(architecture, is_random=True, image_size=side_px)
    model = GapClassifier(made, [f"class {k}" for k in range(classes)]).eval().to(device)
    return model.requires_grad_(requires_grad=True)  # without it pytorch-grad-cam fails


def clock(calls: Mapping[str, Callable[[], object]], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of each call, in turns, in reversed order every second time; the GPU has finished before and after."""

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    times: dict[str, list[float]] = {name: [] for name in calls}
    for k in range(-2, rounds):  # the first two warm up
        for name in reversed(calls) if k % 2 else calls:
            wait()
            start = time.perf_counter()
            calls[name]()
            wait()
            if k >= 0:
                times[name].append(time.perf_counter() - start)
    return times


def make_calls(model: nn.Module, place: str, images: Tensor) -> dict[str, Callable[[], object]]:
    """Ours, bare and as a user calls it, and the peers' calls that fit the network, a class each.

    Where maps are exact, ours are those of all classes, in three precisions.
    """
    is_exact = isinstance(model, GapClassifier)
    layer = (model.backbone if isinstance(model, GapClassifier) else model).get_submodule(place)
    target, device = [3] * len(images), images.device.type

    def explain(kind: torch.dtype | None = None) -> None:
        with torch.inference_mode(), torch.autocast(device, kind, enabled=kind is not None):
            explaining(images)

    def run_plain() -> None:
        with torch.inference_mode():
            model(images)

    def to_grid(tokens: Tensor) -> Tensor:
        side = int((tokens.shape[1] - 1) ** 0.5)
        return tokens[:, -(side**2) :].unflatten(1, (side, side)).movedim(3, 1)

    def run_grad_cam() -> None:
        how: dict[str, Any] = {} if is_exact else {"reshape_transform": to_grid}
        with GradCAM(model=model, target_layers=[layer], **how) as cam, redirect_stderr(io.StringIO()):
            cam(input_tensor=images, targets=[ClassifierOutputTarget(k) for k in target])

    def run_torchcam() -> None:
        with CAM(model, layer, fc_layer=model.classifier) as cam, torch.no_grad():
            cam(target, model(images))

    peers = {"logits alone": run_plain, "grad-cam": run_grad_cam}
    asked = whycam.load(copy.deepcopy(model), device=device, preprocess="imagenet")
    if not is_exact:
        classes = torch.tensor(target, device=images.device)
        # The same layer and formula; TorchCAM reads maps, and no tokens.
        return {OURS: lambda: asked.explain(images, classes, method="grad-cam", layer=place), **peers}
    explaining = ExplainingNet(model, GraphOptions())
    halves = {f"{OURS}, fp16": lambda: explain(torch.float16), f"{OURS}, bf16": lambda: explain(torch.bfloat16)}
    whole = {f"{OURS}, model.explain(images, 'all')": lambda: asked.explain(images, "all")}
    return {OURS: explain, **whole, **halves, **peers, "torchcam": run_torchcam}


@torch.inference_mode()
def measure_halves(model: GapClassifier, images: Tensor) -> list[list[Any]]:
    """How far logits and maps are from float32's, as a share of their range, the identity, and the top classes."""
    explaining, rows = ExplainingNet(model, GraphOptions()), []
    logits, maps = explaining(images)
    for kind in (torch.float32, torch.float16, torch.bfloat16):
        with torch.autocast(images.device.type, kind, enabled=kind != torch.float32):
            found = [value.float() for value in explaining(images)]
        errors = [float((a - b).abs().max() / (a.max() - a.min())) for a, b in zip((logits, maps), found, strict=True)]
        gap = found[1].mean((2, 3)) + model.classifier.bias - found[0]
        identity = float(gap.abs().max() / (logits.max() - logits.min()))
        same = float((found[0].argmax(1) == logits.argmax(1)).float().mean())
        rows.append([str(kind).removeprefix("torch."), *errors, identity, f"{same:.1%}"])
    return rows


def make_steps(model: nn.Module, images: Tensor) -> dict[str, Callable[[], object]]:
    """A step of fine-tuning all weights, in float32 and in bf16."""
    labels = torch.arange(len(images), device=images.device) % 10
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step(*, is_half: bool) -> None:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=is_half):
            loss = functional.cross_entropy(model(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return {"float32": lambda: step(is_half=False), "bf16": lambda: step(is_half=True)}


def run_files(photos_per_class: int, device: str) -> tuple[int, dict[str, float]]:
    """How many generated photos were explained and trained on, and the seconds of each command, a cold process."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_garden(root / "garden", train_per_class=photos_per_class, val_per_class=photos_per_class, size_px=256)
        photos = root / "garden" / "photos"
        explain, train = ("explain", "imagenet", photos / "val"), ("train", photos, "--cache-dir", root / "cache")
        commands = {
            "explain imagenet PHOTOS": explain,
            "explain imagenet PHOTOS --maps-only": (*explain, "--maps-only"),
            "train PHOTOS": train,
            "train PHOTOS --unfreeze all --finetune-epochs 3": (*train, "--unfreeze", "all", "--finetune-epochs", "3"),
        }
        for number, (name, words) in enumerate(commands.items()):
            command = [sys.executable, "-m", "whycam", *map(str, words), "-o", str(root / str(number))]
            start = time.perf_counter()
            subprocess.run([*command, "--device", device], check=True, stdout=subprocess.DEVNULL)
            found[name] = time.perf_counter() - start
        return len(list((photos / "val").rglob("*.jpg"))), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            "Found no GPU that PyTorch can use; nothing was measured. To try the script: --device cpu --tiny."
        )
    networks, batches, side_px, classes = (TINY, (1, 4), 96, 10) if args.tiny else (NETWORKS, (1, 64), 224, 1000)
    speed, halves, steps, seconds = [], [], [], {}
    for name, (architecture, place) in networks.items():
        model = make_model(architecture, side_px, classes, args.device)
        images = torch.randn(max(batches), 3, side_px, side_px, device=args.device)
        for batch in batches:
            times = clock(make_calls(model, place, images[:batch]), args.rounds, args.device)
            rows = [
                (call, 1e3 * statistics.median(own) / batch, ratio(times, call, OURS)) for call, own in times.items()
            ]
            speed += [[name, batch, *row] for row in rows]
            seconds[f"{name} {batch}"] = times
        if isinstance(model, GapClassifier):
            halves += [[name, *row] for row in measure_halves(model, images)]
        steps_of = make_steps(model.train().requires_grad_(requires_grad=True), images)
        times = clock(steps_of, args.rounds, args.device)
        seconds[f"{name} step"] = times
        ms = [1e3 * statistics.median(times[kind]) for kind in ("float32", "bf16")]
        steps.append([name, len(images), *ms, ratio(times, "float32", "bf16")])
    count, files = run_files(2 if args.tiny else 50, args.device)
    where = torch.cuda.get_device_name() if args.device == "cuda" else "a CPU: these figures say nothing of a GPU"
    lines = [
        "# On a GPU",
        f"`python benchmarks/gpu.py` on {where}; medians of {args.rounds} rounds, all calls in turns in one process.",
        f"On {next(iter(networks))} WhyCAM gives logits and the exact maps of all {classes} classes, the peers one "
        "class's by Grad-CAM and CAM; on the transformer all give one class's by Grad-CAM.",
        "",
        *write_table(["network", "batch", "call", "ms a photo", "its time over ours"], speed),
        "",
        *write_table(
            ["network", "precision", "logits off by", "maps off by", "mean(map) + b - logit", "same top class"], halves
        ),
        "",
        "Shares of float32's range, the largest.",
        "",
        *write_table(["network", "batch", "step, float32, ms", "bf16, ms", "times faster"], steps),
        "",
        *write_table(
            ["command, a cold process", "photos (of each split)", "seconds"],
            [[f"`whycam {name}`", count, own] for name, own in files.items()],
        ),
    ]
    save("gpu", lines, {"seconds": seconds, "halves": halves, "files": files}, args.out)


if __name__ == "__main__":
    main()
