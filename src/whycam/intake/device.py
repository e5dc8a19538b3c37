"""Which device a model computes on; a machine without a GPU is known without torch."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from whycam.errors import UserError


def choose_device(name: str, engine: str = "auto") -> str:
    """The device of that name; auto takes a GPU where there is one, unless ONNX Runtime was asked for.

    Raises:
        UserError: this machine has no such device, or ONNX Runtime was asked for with a GPU.
    """
    if name == "cpu" or (name == "auto" and (engine == "onnx" or not _may_have_gpu())):
        return "cpu"
    import torch  # noqa: PLC0415 - slow, and not needed to know that there is no GPU

    has = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return next((kind for kind in ("cuda", "mps") if has[kind]), "cpu")
    kind = name.split(":", maxsplit=1)[0]
    if not has.get(kind, False):
        there = ", ".join(kind for kind, is_there in has.items() if is_there)
        raise UserError(
            f"Device {name!r} is not on this machine; it has {there}. "
            f"Give --device {there.split(', ', maxsplit=1)[0]}, or leave it out."
        )
    if engine == "onnx" and kind != "cpu":
        raise UserError(
            f"--engine onnx computes on the CPU; found --device {name} beside it. Leave one of the two out."
        )
    return name


def _may_have_gpu() -> bool:
    """Whether torch may find one: a guess that costs nothing and misses none."""
    nodes = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # of Nvidia's driver, AMD's, and Windows' beneath Linux
    is_there = any(Path(node).exists() for node in nodes) or shutil.which("nvidia-smi") is not None
    return is_there or sys.platform != "linux"
