"""A file of torch.export (.pt2), or TorchScript, whose scores alone are had."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whycam.errors import UserError, as_clause
from whycam.intake.function import open_function
from whycam.intake.request import Found, Kind, Request, as_path

if TYPE_CHECKING:
    from torch import Tensor, nn

_WEIGHTS = {".pt", ".pth", ".pkl", ".bin", ".safetensors", ".ckpt", ".ts", ".torchscript"}


def _is_it(request: Request) -> bool:
    path = as_path(request)
    return path is not None and path.is_file() and (path.suffix == ".pt2" or path.suffix in _WEIGHTS)


def _open(request: Request) -> Found:
    path = Path(request.name)
    request.refuse("program", "weights")
    if path.suffix == ".pt2":
        return _open_program(request, path)
    if path.suffix != ".safetensors" and _is_script(path):
        return _open_script(request, path)
    if not _holds_tensors(path):
        raise UserError(
            f"'{path}' is neither TorchScript nor a file of weights, or it is damaged; expected a model. Check the "
            "file; docs/models.md says what comes in."
        )
    raise UserError(
        f"'{path}' holds weights alone (or a pickled object, which is not opened: that would run its code), and they "
        "say nothing of the network that they belong to. Give its name or code: whycam explain resnet50 PHOTOS "
        f"--weights {path.name}, or net.py:make_model with --weights {path.name}."
    )


def _is_script(path: Path) -> bool:
    """Whether it is TorchScript, by the names of what it holds; nothing is run."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as file:
        return any("/code/" in name for name in file.namelist())


def _holds_tensors(path: Path) -> bool:
    """Whether it begins as a pickle, a zip of torch.save or a safetensors file does."""
    with path.open("rb") as file:
        head = file.read(9)
    return head[:1] == b"\x80" or head[8:] == b"{" or zipfile.is_zipfile(path)


def _open_program(request: Request, path: Path) -> Found:
    import torch  # noqa: PLC0415 - slow, and other kinds do without

    from whycam.intake.module import Known, open_module  # noqa: PLC0415 - torch
    from whycam.model.onnx.export import quiet  # noqa: PLC0415 - torch

    try:
        with quiet():  # it logs a traceback of its own
            program = torch.export.load(path)
            network: nn.Module = torch.export.unflatten(program)
        shape = _read_shape(program)
    except Exception as error:  # noqa: BLE001 - a damaged file raises whatever its reader stumbles over
        raise UserError(
            f"'{path}' can't be opened as a program of torch.export ({type(error).__name__}: {as_clause(error)}). "
            "Expected a .pt2 file that torch.export.save() wrote, by this version of torch or an older one."
        ) from None
    count, channels, height, width = shape
    size = (height, width) if height is not None and width is not None else None
    side = request.image_size
    if size is not None and side is not None and size != (side, side):
        raise UserError(
            f"'{path}' takes {height} x {width} px; found a size of {side} x {side} px. Leave the size out."
        )
    if count is not None:
        # A fixed batch: its layers can't be asked about more images at once.
        run = _in_pieces(program.module(), count)
        return open_function(request, run, "torch.export program of a fixed batch", size, channels or 3)
    return open_module(network, request, "torch.export program", Known(size=size, origin={"network": path.name}))


def _read_shape(program: Any) -> list[int | None]:
    """Of the images; None where it is free.

    Raises:
        ValueError: the program takes something else than one batch of images.
    """
    names = program.graph_signature.user_inputs
    nodes = {node.name: node for node in program.graph.nodes}
    shapes = [tuple(nodes[name].meta["val"].shape) for name in names]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise ValueError(f"it takes {', '.join(map(str, shapes))}; expected one input, images (N, C, H, W)")
    return [side if isinstance(side, int) else None for side in shapes[0]]


def _in_pieces(network: Callable[[Tensor], Any], count: int) -> Callable[[np.ndarray], np.ndarray]:
    """The network as a function of any number of images; the last piece is filled up."""
    import torch  # noqa: PLC0415 - slow, and other kinds do without

    from whycam.model.cut.output import select_output  # noqa: PLC0415 - torch

    def run(images: np.ndarray) -> np.ndarray:
        parts = []
        with torch.no_grad():
            for start in range(0, len(images), count):
                part = images[start : start + count]
                whole = np.concatenate([part, np.repeat(part[:1], count - len(part), axis=0)])
                parts.append(select_output(network(torch.from_numpy(whole)))[: len(part)].float().numpy())
        return np.concatenate(parts)

    return run


def _open_script(request: Request, path: Path) -> Found:
    import torch  # noqa: PLC0415 - slow, and other kinds do without

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # its advice to whoever wrote the file
            script = torch.jit.load(str(path), map_location="cpu").eval()
    except Exception as error:  # noqa: BLE001 - a damaged file raises whatever its reader stumbles over
        raise UserError(
            f"'{path}' can't be opened as TorchScript ({as_clause(error)}). Expected a whole file."
        ) from None
    return open_function(request, _in_pieces(script, 16), "TorchScript file", None, 3)


KIND = Kind("a .pt2 or TorchScript file", _is_it, _open)
