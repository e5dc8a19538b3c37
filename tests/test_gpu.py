"""On a GPU: the identity, the CPU's answers, and the commands. Without one nothing here can be asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision

import whycam
from conftest import SIDE_PX, Run
from whycam.__main__ import main
from whycam.cam.registry import iter_methods
from whycam.data.garden import write_garden
from whycam.data.samples import load_samples
from whycam.model.backbone import make_backbone
from whycam.model.gap import GapClassifier, measure_identity, probe_images

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that PyTorch can use"),
]
METHODS = [method.name for method in iter_methods()]
FINETUNED = ("--unfreeze", "last", "--finetune-epochs", "2")
# Convolutions of a GPU round their factors to 10 bits (TF32).
LOGITS_WITHIN, MAPS_CORRELATE = 5e-3, 0.995


@pytest.fixture(scope="module")
def garden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("garden")
    write_garden(root, train_per_class=16, val_per_class=12, size_px=160)
    return root


@pytest.fixture(scope="module")
def runs(garden: Path, run_whycam: Run, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A training on the garden, on the GPU or the CPU, made once."""
    root = tmp_path_factory.mktemp("runs")

    def make(device: str, *words: str) -> Path:
        out = root / "-".join([device, *words]).replace("--", "").replace(" ", "-")
        if not out.exists():
            how = ("--image-size", 128, "--cache-dir", root / "cache" / out.name, "--device", device)
            done = run_whycam("train", garden / "photos", "-o", out, *how, *words, timeout_s=300)
            assert done.returncode == 0, done.stderr
        return out

    return make


@pytest.fixture
def precision() -> Iterator[Callable[[str], None]]:
    before = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("architecture", ["resnet50", "tf_efficientnet_lite0"])
def test_maps_are_the_scores_though_convolutions_are_rounded(architecture: str) -> None:
    torch.manual_seed(0)
    model = GapClassifier(make_backbone(architecture, is_random=True), [f"class {k}" for k in range(1000)])
    model = model.eval().cuda()
    with torch.no_grad():
        features = model.features(probe_images(model.preprocess, 8).cuda())
        logits, maps = model.classify(features), model.compute_maps(features)
    assert float(measure_identity(logits, maps, model.classifier.bias.detach()).max()) < 1e-5


@pytest.mark.parametrize("wanted", ["highest", "high", "medium"])
def test_a_program_that_rounds_matrix_products_too_can_load_and_explain(
    wanted: str, precision: Callable[[str], None]
) -> None:
    precision(wanted)
    model = whycam.load("imagenet", device="cuda")
    why = model.explain(load_samples(2), "top:3")
    means = why.maps.mean((2, 3)) + torch.tensor(model.classifier.bias)[why.targets]
    logits = why.logits.gather(1, why.targets)
    assert (means - logits).abs().max() < LOGITS_WITHIN * (why.logits.max() - why.logits.min())


@pytest.mark.parametrize("name", ["imagenet", "resnet", "vit"])
def test_methods_give_the_maps_that_they_give_on_a_cpu(name: str) -> None:
    cpu, gpu = (_open(name, device) for device in ("cpu", "cuda"))
    compared = []
    for method in METHODS:
        fault = cpu.find_fault(method)
        assert gpu.find_fault(method) == fault, method  # what can't be explained on a CPU can't be on a GPU either
        if fault:
            continue
        # Which rivals are the nearest is decided by less than the rounding: all of them, then.
        how = {"references": 1000} if method == "finer-cam" else {}
        here, there = (model.explain(load_samples(2), [0, 1], method=method, **how) for model in (cpu, gpu))
        gap = (there.logits.cpu() - here.logits).abs().max()
        assert gap < LOGITS_WITHIN * (here.logits.max() - here.logits.min()), method
        for ours, theirs in zip(there.maps.cpu().flatten(0, 1), here.maps.flatten(0, 1), strict=True):
            if theirs.max() > theirs.min():
                together = np.corrcoef(ours.numpy().ravel(), theirs.numpy().ravel())[0, 1]
                assert together > MAPS_CORRELATE, (method, together)
        compared.append(method)
    assert "grad-cam" in compared


@cache
def _open(name: str, device: str) -> whycam.Model:
    """Small: methods that ask thousands of times do so on the CPU as well."""
    if name == "imagenet":
        return whycam.load("imagenet", image_size=SIDE_PX, device=device)
    torch.manual_seed(0)
    if name == "resnet":
        module = torchvision.models.resnet18(num_classes=10).eval()
    else:
        module = timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=SIDE_PX).eval()
    return whycam.load(module, device=device, preprocess="imagenet", image_size=SIDE_PX)


@pytest.mark.parametrize("make", [torchvision.models.resnet18, torchvision.models.squeezenet1_1])
def test_a_module_with_exact_maps_has_them(make: Callable[[], torch.nn.Module]) -> None:
    torch.manual_seed(0)
    module = make().eval().cuda()
    why = whycam.explain(module, torch.randn(4, 3, 224, 224, device="cuda"), method="cam")
    assert why.maps.shape[0] == 4


@pytest.mark.parametrize("words", [(), ("--head", "conv"), FINETUNED, ("--scratch", "--epochs", "2")])
def test_a_training_gives_what_it_gives_on_a_cpu(runs: Callable[..., Path], words: tuple[str, ...]) -> None:
    gpu, cpu = (json.loads((runs(device, *words) / "summary.json").read_text()) for device in ("cuda", "cpu"))
    assert gpu["identity_error"] < 1e-4
    if "--scratch" not in words:
        assert abs(gpu["val_accuracy"] - cpu["val_accuracy"]) < 0.1


@pytest.mark.parametrize(
    "command",
    [
        ("explain", "{run}", "{photos}", "-o", "{out}"),
        ("explain", "{run}", "{photos}", "-o", "{out}", "--method", "grad-cam", "--smooth", "flips"),
        ("explain", "{run}", "{photos}", "-o", "{out}", "--refine"),
        ("evaluate", "{run}", "{photos}", "-o", "{out}", "--masks", "{masks}", "--limit", "8"),
        ("localize", "{run}", "{photos}", "-o", "{out}"),
        ("audit", "{run}", "{photos}", "-o", "{out}"),
        ("report", "{run}", "-o", "{out}.html"),
        ("export", "{run}", "-o", "{out}.onnx"),
    ],
    ids=lambda words: "-".join(word for word in words if word[0] not in "{/"),
)  # fmt: skip
def test_a_command_does_its_work(
    command: tuple[str, ...], runs: Callable[..., Path], garden: Path, run_whycam: Run, tmp_path: Path
) -> None:
    places = {"run": runs("cuda"), "photos": garden / "photos" / "val", "masks": garden / "masks" / "val"}
    words = [word.format(**places, out=tmp_path / "out") for word in command]
    done = run_whycam(*words, *(() if command[0] in {"report", "export"} else ("--device", "cuda")), timeout_s=300)
    assert done.returncode == 0, done.stderr


def test_a_launched_training_computes_in_bfloat16_and_is_as_good(
    runs: Callable[..., Path], garden: Path, tmp_path: Path
) -> None:
    pytest.importorskip("accelerate", reason="needs accelerate")
    out = tmp_path / "launched"
    words = ("-o", out, "--image-size", 128, "--cache-dir", tmp_path / "cache", *FINETUNED)
    launched = (sys.executable, "-m", "accelerate.commands.launch", "--num_processes", 1, "-m", "whycam", "train")
    done = subprocess.run(
        [str(word) for word in (*launched, garden / "photos", *words)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    alone, half = (json.loads((run / "summary.json").read_text()) for run in (runs("cuda", *FINETUNED), out))
    assert half["identity_error"] < 1e-4
    assert half["val_accuracy"] > alone["val_accuracy"] - 0.1


def test_numbers_of_an_evaluation_are_the_cpus(
    runs: Callable[..., Path], garden: Path, run_whycam: Run, tmp_path: Path
) -> None:
    found = {}
    for device in ("cuda", "cpu"):
        words = ("evaluate", runs("cuda"), garden / "photos" / "val", "--masks", garden / "masks" / "val")
        done = run_whycam(*words, "--limit", 10, "--device", device, "-o", tmp_path / device, timeout_s=300)
        assert done.returncode == 0, done.stderr
        table = json.loads((tmp_path / device / "overall.json").read_text())["overall"]
        found[device] = {(row["method"], row["metric"]): row["value"] for row in table}
    assert found["cuda"].keys() == found["cpu"].keys()
    for key, value in found["cuda"].items():
        assert value == pytest.approx(found["cpu"][key], abs=0.03), key


def test_a_full_gpu_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-4)
    photos = tmp_path / "photos"
    write_garden(photos, train_per_class=1, val_per_class=16, size_px=256)
    monkeypatch.setattr(
        "sys.argv",
        [
            "whycam",
            "explain",
            "imagenet",
            str(photos / "photos" / "val"),
            "-o",
            str(tmp_path / "out"),
            "--device",
            "cuda",
            "--batch-size",
            "64",
        ],
    )
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert ended.value.code == 2
    assert "--batch-size" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
