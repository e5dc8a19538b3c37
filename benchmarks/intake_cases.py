"""The models of `intake.py`: built with random weights, at a small input that they take, and kept awake.

A zero gain or a batch norm that was never fed makes a network blind, and every map of it right: neither is left so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torchvision import models

from whycam.model.onnx.export import quiet

CLASSES, SIDES = 10, [64, 96, 128, 160, 192, 224, 256]
LARGEST = 30e6
TOO_LARGE = "too large for this run"
_BIG = re.compile(
    r"huge|giant|gigantic|large|xl|_l\d?(_|$)|_[htg]$|base|_b(_|$)|so\d+m|_[1-9]b|[34]\d\d(_|$)|5\d\d|200|152"
    r"|101|269|_f[1-7]|b[5-8]|l2|_320|_160|_120|w48|w64|m48|m36|[1-9]\d\dm"
)
_SMALL = re.compile(r"test|atto|femto|pico|nano|tiny|small|_xs|_xxs|_s(_|$)|_b0|_m0|_s0|18|_050|_5m|lite")


class SkippedError(Exception):
    """Why a model is not run here; no fault of anybody."""


@dataclass(frozen=True)
class Case:
    """One model, in one or several forms.

    Attributes:
        kind: timm, torchvision, Hugging Face or Keras.
        name: in its library.
        build: what makes it: a module, or a Keras model.
        has_onnx: whether it is also exported to ONNX.
    """

    kind: str
    name: str
    build: Callable[[], Any]
    has_onnx: bool


def list_cases(kinds: Iterable[str], timm_count: int) -> list[Case]:
    """All cases, those of every kind spread over the whole run."""
    every = {
        "timm": [
            Case("timm", name, lambda name=name: build_timm(name), i % 2 == 0)
            for i, name in enumerate(list_timm()[:timm_count])
        ],
        "torchvision": [
            Case("torchvision", name, lambda name=name: build_torchvision(name), i % 2 == 0)
            for i, name in enumerate(list_torchvision())
        ],
    }
    if "Hugging Face" in kinds:
        from intake_hugging_face import list_networks  # noqa: PLC0415 - slow, and few runs ask for it

        every["Hugging Face"] = [Case("Hugging Face", name, make, True) for name, make in list_networks().items()]
    if "Keras" in kinds:
        from intake_keras import build, list_applications  # noqa: PLC0415 - slow, and few runs ask for it

        every["Keras"] = [
            Case("Keras", name, lambda name=name: build(name), has_onnx=False) for name in list_applications()
        ]
    places = [
        ((i + 0.5) / len(cases), case) for kind, cases in every.items() if kind in kinds for i, case in enumerate(cases)
    ]
    return [case for _, case in sorted(places, key=lambda place: place[0])]


def start_at(side: int) -> None:
    """Tries no smaller sides."""
    SIDES[:] = [each for each in SIDES if each >= side]


def list_timm() -> list[str]:
    """The names, one of each family first, then a second of each; in a family small ones first."""
    families = [sorted(timm.list_models(module=module), key=_rank) for module in timm.list_modules()]
    return [name for row in zip_longest(*families) for name in row if name]


def _rank(name: str) -> tuple[bool, bool, int]:
    return bool(_BIG.search(name)), not _SMALL.search(name), len(name)


def list_torchvision() -> list[str]:
    return sorted(models.list_models(module=models), key=_rank)


def build_timm(name: str) -> tuple[nn.Module, int]:
    _check_size(lambda: timm.create_model(name, num_classes=CLASSES))
    for how in ({"img_size": SIDES[0]}, {}):
        try:
            net = timm.create_model(name, num_classes=CLASSES, **how)
            own = net.pretrained_cfg.get("input_size", (3, 224, 224))[-1]
            return find_side(net, (SIDES[0],) if how else (*SIDES, own))
        except Exception as error:  # noqa: BLE001 - a size that it does not take raises anything
            last = error
    raise SkippedError(f"not built: {type(last).__name__}: {str(last)[:90]}")


def build_torchvision(name: str) -> tuple[nn.Module, int]:
    def make() -> nn.Module:
        if "inception" in name or "googlenet" in name:
            return models.get_model(name, weights=None, num_classes=CLASSES, init_weights=False)
        return models.get_model(name, weights=None, num_classes=CLASSES)

    _check_size(make)
    return find_side(make(), SIDES)


def _check_size(make: Callable[[], nn.Module]) -> None:
    try:
        with torch.device("meta"):
            count = sum(each.numel() for each in make().parameters())
    except Exception:  # noqa: BLE001 - some compute with their tensors as they are made
        return
    if count > LARGEST:
        raise SkippedError(f"{TOO_LARGE}: {count / 1e6:.0f} M parameters")


def find_side(net: nn.Module, sides: Iterable[int]) -> tuple[nn.Module, int]:
    """The network awake, and the first side that it takes with cells to see, if there is one."""
    error: Exception | None = None
    sides = list(sides)
    for side in sides:
        try:
            images = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(0))
            if has_lone_cell(net.eval(), images[:2]) and side < 128 and side != sides[-1]:
                continue
            wake(net, images)
            if is_blind(net, images):
                for part in net.modules():
                    if isinstance(part, nn.Conv2d | nn.Linear):
                        nn.init.kaiming_normal_(part.weight)
                wake(net, images)
        except Exception as found:  # noqa: BLE001 - a size that it does not take raises anything
            error = error or found
            continue
        net.train()  # some keep what they computed of their weights, and forget it here
        return net.eval(), side
    assert error is not None
    raise error


@torch.no_grad()
def has_lone_cell(net: nn.Module, images: Tensor) -> bool:
    """Whether a convolution with neighbours is left with one cell, of which there is no map."""
    found = []

    def look(part: nn.Module, _inputs: Any, output: Any) -> None:
        found.append(max(part.kernel_size) > 1 and output.shape[2:].numel() == 1)

    hooks = [part.register_forward_hook(look) for part in net.modules() if isinstance(part, nn.Conv2d)]
    try:
        net(images)
    finally:
        for hook in hooks:
            hook.remove()
    return any(found)


@torch.no_grad()
def is_blind(net: nn.Module, images: Tensor) -> bool:
    """Whether the scores hardly change with the images."""
    one, other = read_logits(net(images))[:2]
    return not bool((one - other).abs().max() > 1e-3 * one.abs().max())


@torch.no_grad()
def wake(net: nn.Module, images: Tensor) -> None:
    """No gain near zero, and batch norms that have seen something."""
    generator = torch.Generator().manual_seed(0)
    for each in net.parameters():
        if each.numel() > 1 and each.is_floating_point() and each.abs().max() < 1e-3:
            each.copy_(0.1 * torch.randn(each.shape, generator=generator) + (0.3 if each.any() else 0))
    norms = [part for part in net.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    before = [part.momentum for part in norms]
    for part in norms:
        part.train()
        part.momentum = 1.0
    try:
        if norms:
            net(images)
    except ValueError:  # a single number for each channel
        pass
    finally:
        for part, momentum in zip(norms, before, strict=True):
            part.eval()
            part.momentum = momentum
    for part in norms:
        if part.running_var is not None and not part.running_var.isfinite().all():
            part.reset_running_stats()


class Logits(nn.Module):
    """A network whose answer is a structure, as one that gives logits alone: what an exporter takes."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """(N, K)."""
        return read_logits(self.net(images))


def read_logits(output: Any) -> Tensor:
    output = getattr(output, "logits", output)
    return output[0] if isinstance(output, tuple) else output


def export(net: nn.Module, side: int, path: Path) -> None:
    """To ONNX with a free batch: by the older exporter, which is faster; by the newer one where that can't."""
    images, whole = torch.randn(2, 3, side, side), Logits(net).eval()
    old: dict[str, Any] = {
        "dynamo": False,
        "opset_version": 17,
        "dynamic_axes": {"images": {0: "batch"}, "logits": {0: "batch"}},
    }
    new: dict[str, Any] = {
        "dynamo": True,
        "external_data": False,
        "dynamic_shapes": ({0: torch.export.Dim("batch", min=1, max=64)},),
    }
    names = {"input_names": ["images"], "output_names": ["logits"]}
    with quiet():
        try:
            torch.onnx.export(whole, (images,), str(path), **old, **names)
        except Exception:  # noqa: BLE001 - an exporter raises anything
            torch.onnx.export(whole, (images,), str(path), **new, **names)


def count_millions(parameters: Iterator[Any]) -> float:
    return sum(int(each.numel()) for each in parameters) / 1e6
