"""What an ONNX classifier takes and which of its outputs holds the scores, or why it is no image classifier."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto

from whycam.errors import UserError
from whycam.model.onnx.graph import Graph, read_attributes

_DTYPES: dict[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.DOUBLE: np.dtype(np.float64),
    TensorProto.UINT8: np.dtype(np.uint8),
}
_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}
_SCORES = ("logits", "output")
_DETECTORS = ("box", "dets", "mask", "keypoint", "landmark")
# What leaves the axes of its first input where they are.
_KEEPS_AXES = {"Add", "Cast", "Clip", "Div", "Identity", "Mul", "Pad", "Pow", "Sub"}


@dataclass(frozen=True)
class Takes:
    """The input of a graph.

    Attributes:
        name: of the tensor.
        dtype: of its numbers; uint8 is pixels, 0 to 255.
        is_channels_last: (N, H, W, C); else (N, C, H, W).
        channels: 3 or 1.
        batch: how many images each run must have; None for any.
        height_px, width_px: None where any size is taken.
    """

    name: str
    dtype: np.dtype[Any]
    is_channels_last: bool
    channels: int
    batch: int | None
    height_px: int | None
    width_px: int | None

    def __str__(self) -> str:
        sides = [str(self.height_px or "H"), str(self.width_px or "W")]
        axes = [*sides, str(self.channels)] if self.is_channels_last else [str(self.channels), *sides]
        return f"{self.dtype} ({', '.join([str(self.batch or 'N'), *axes])})"


def find_takes(graph: Graph, path: Path) -> Takes:
    """The one image input.

    Raises:
        UserError: none, several, or one that takes no images.
    """
    where = f"'{path.absolute()}'"
    values = graph.inputs
    if len(values) != 1:
        listed = ", ".join(_describe(graph, value) for value in values) or "none"
        raise UserError(
            f"{where} has {len(values)} inputs ({listed}); expected one, of images. "
            "Export a model whose only input is the image: fix the others to constants first."
        )
    value = values[0]
    shape, kind = graph.shapes.get(value.name), graph.types.get(value.name, 0)
    if kind not in _DTYPES or shape is None or len(shape) != 4:
        raise UserError(
            f"{where} takes {_describe(graph, value)}; expected images, float32, float16 or uint8, of 4 axes: "
            "(N, 3, H, W) or (N, H, W, 3). It is no image classifier, or export it with a batch axis."
        )
    order = _find_order(graph, value.name, shape)
    if order is None:
        raise UserError(
            f"{where} takes {_describe(graph, value)}; expected images of 3 channels or 1: (N, 3, H, W) or "
            "(N, H, W, 3). Other numbers of channels have no photo that could be shown."
        )
    is_last, channels = order
    height, width = shape[1:3] if is_last else shape[2:]
    batch, height, width = (side if isinstance(side, int) else None for side in (shape[0], height, width))
    return Takes(value.name, _DTYPES[kind], is_last, channels, batch, height, width)


def _find_order(graph: Graph, name: str, shape: tuple[int | str | None, ...]) -> tuple[bool, int] | None:
    """Whether channels are last, and how many; None where there are neither 3 nor 1."""
    first, last = shape[1], shape[3]
    for is_last, count, other in ((False, first, last), (True, last, first)):
        if count in {1, 3} and other not in {1, 3}:
            return is_last, int(count)
    node = _find_first(graph, name)
    if node is not None and node.op_type == "Transpose":
        is_last = read_attributes(node).get("perm") == [0, 3, 1, 2]
        count = last if is_last else first
        return (is_last, count) if isinstance(count, int) and count in {1, 3} else None
    if node is not None and node.op_type == "Conv":
        weight = graph.shapes.get(node.input[1]) or (None, None)
        count = weight[1]
        return (False, count) if count in {1, 3} and first in {count, None} | _names(first) else None
    return (False, int(first)) if first in {1, 3} else None


def _names(dim: int | str | None) -> set[str]:
    return {dim} if isinstance(dim, str) else set()


def _find_first(graph: Graph, name: str) -> NodeProto | None:
    """The first node behind the input that needs to know the order of its axes."""
    for _ in graph.nodes:
        users = graph.find_users(name)
        node = next((user for user in users if user.op_type in {"Conv", "Transpose"}), users[0] if users else None)
        if node is None or node.op_type not in _KEEPS_AXES:
            return node
        name = node.output[0]
    return None


def find_scores(graph: Graph, path: Path, output: str | None = None) -> str:
    """The name of the output that holds the scores (N, K).

    Args:
        graph: of the file.
        path: of the file.
        output: the name that the user gives.

    Raises:
        UserError: none, several, an unknown name, or the outputs of a detector or a segmenter.
    """
    where = f"'{path.absolute()}'"
    names: list[str] = [value.name for value in graph.outputs]
    listed = ", ".join(_describe(graph, value) for value in graph.outputs)
    if output is not None:
        if output not in names:
            raise UserError(f"{where} has no output {output!r}; it has {listed}. Name one of these.")
        return output
    task = graph.metadata.get("task", "classify")
    fitting = [name for name in names if _may_hold_scores(graph, name)]
    is_other = task in {"detect", "segment", "pose", "obb"} or any(
        word in name.lower() for name in names for word in _DETECTORS
    )
    if is_other or not fitting:
        kind = _guess_kind(graph, names)
        raise UserError(
            f"{where} gives {listed}; expected the scores of an image classifier, (N, K). {kind}"
            "Take a classifier's file, or export the model with its scores as the output."
        )
    if len(fitting) == 1:
        return fitting[0]
    named = [name for word in _SCORES for name in fitting if name.lower() == word]
    if not named:
        raise UserError(
            f"{where} has {len(fitting)} outputs that could be the scores: {listed}. Name the one to explain, or "
            "export the model with one output."
        )
    return named[0]


def _may_hold_scores(graph: Graph, name: str) -> bool:
    shape = graph.shapes.get(name)
    if graph.types.get(name, TensorProto.FLOAT) not in _FLOATS:
        return False
    if shape is None or len(shape) == 2:
        return True
    # (N, K, 1, 1), or (N, 1, 1, K)
    return len(shape) == 4 and sum(side != 1 for side in shape[1:]) <= 1


def _guess_kind(graph: Graph, names: list[str]) -> str:
    ranks = [graph.find_rank(name) for name in names]
    if graph.metadata.get("task") in {"segment"} or (4 in ranks and len(names) == 1):
        return "It looks like a segmenter. "
    if graph.metadata.get("task") == "detect" or 3 in ranks or len(names) > 1:
        return "It looks like a detector. "
    return ""


def _describe(graph: Graph, value: ValueInfoProto) -> str:
    """An input or output in a sentence: "'images' float32 (N, 3, 224, 224)"."""
    kind = graph.types.get(value.name, 0)
    dtype = TensorProto.DataType.Name(kind).lower() if kind else "no tensor"
    dtype = {"float": "float32", "double": "float64"}.get(dtype, dtype)
    shape = graph.shapes.get(value.name)
    sides = "of unknown shape" if shape is None else f"({', '.join(str(side or '?') for side in shape)})"
    return f"'{value.name}' {dtype} {sides}"
