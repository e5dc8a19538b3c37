"""Which tensors of a graph are maps of cells, and the order of their axes: followed forwards from the image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto

from whycam.errors import UserError, make_unknown_name
from whycam.model.onnx.graph import Graph, name_node, read_attributes
from whycam.model.onnx.takes import Takes

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}
# Operators that ONNX defines on (N, C, h, w).
_FIRST = {
    "AveragePool",
    "BatchNormalization",
    "Conv",
    "ConvTranspose",
    "GroupNormalization",
    "InstanceNormalization",
    "LRN",
    "LpPool",
    "MaxPool",
    "QLinearConv",
    "FusedConv",
}
# Operators that may mix the axes, so that after them nothing is known.
_MIXES = {"Reshape", "Flatten", "Einsum", "Gather", "Squeeze", "Unsqueeze", "Expand", "Tile", "ReduceMean", "ReduceSum"}
_PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "QLinearConv", "FusedConv", "QLinearMatMul", "ConvInteger"}


@dataclass(frozen=True)
class Cells:
    """A tensor that holds a map.

    Attributes:
        name: of the tensor.
        is_channels_last: (N, h, w, C), or tokens (N, h w, C); else (N, C, h, w).
        where: the node that gives it, in words.
        grid: (h, w) of tokens; None for a tensor of 4 axes.
    """

    name: str
    is_channels_last: bool
    where: str
    grid: tuple[int, int] | None = None

    def read(self, raw: np.ndarray) -> np.ndarray:
        """(N, C, h, w) float32 of the tensor's values."""
        if self.grid is not None:
            raw = raw.reshape(len(raw), *self.grid, -1)
        features = raw.transpose(0, 3, 1, 2) if self.is_channels_last else raw
        return np.ascontiguousarray(features, dtype=np.float32)

    def write(self, features: np.ndarray) -> np.ndarray:
        """The tensor's values of features (N, C, h, w)."""
        raw = features.transpose(0, 2, 3, 1) if self.is_channels_last else features
        return raw.reshape(len(raw), -1, raw.shape[-1]) if self.grid is not None else raw


def find_cells(graph: Graph, takes: Takes) -> list[Cells]:
    """The tensors (N, C, h, w) or (N, h, w, C) of more than one cell, in the order in which they are computed."""
    orders = {takes.name: takes.is_channels_last}
    found = []
    for node in graph.nodes:
        order = _follow(graph, node, orders)
        if order is None:
            continue
        for name in node.output:
            orders[name] = order
            if _is_map(graph, name, is_last=order):
                found.append(Cells(name, order, name_node(node)))
    return found


def _follow(graph: Graph, node: NodeProto, orders: dict[str, bool]) -> bool | None:
    """Whether what the node gives has its channels last; None where that is not known."""
    if node.op_type in _FIRST:
        return False if graph.find_rank(node.output[0]) in {4, None} else None
    known = [orders[name] for name in node.input if name in orders and graph.find_rank(name) in {4, None}]
    if node.op_type == "LayerNormalization":
        is_last = read_attributes(node).get("axis", -1) in {-1, 3} and graph.find_rank(node.output[0]) == 4
        return True if is_last else None
    if not known or node.op_type in _MIXES or graph.find_rank(node.output[0]) not in {4, None}:
        return None
    if node.op_type == "Transpose":
        turns = {(0, 2, 3, 1): True, (0, 3, 1, 2): False, (0, 1, 2, 3): known[0]}
        return turns.get(tuple(read_attributes(node).get("perm", ())))
    if node.op_type == "MatMul":
        return True if known[0] and not graph.is_computed(node.input[1]) else None
    return known[0]


def _is_map(graph: Graph, name: str, *, is_last: bool) -> bool:
    shape = graph.shapes.get(name)
    if shape is None or len(shape) != 4 or graph.types.get(name) not in _FLOATS:
        return False
    cells = shape[1:3] if is_last else shape[2:]
    return all(isinstance(side, int) for side in cells) and int(np.prod([int(side or 0) for side in cells])) > 1


def choose_cells(graph: Graph, takes: Takes, scores: str) -> Cells:
    """The last map that the scores are computed of.

    Raises:
        UserError: there is none, or only before most of the network.
    """
    steps = graph.collect([scores])
    names = {name for node in steps for name in node.output}
    maps = [cells for cells in find_cells(graph, takes) if cells.name in names]
    if not maps:
        raise UserError(
            "Found no map of cells (N, C, h, w) that the scores are computed of, so that there is nothing to cut at. "
            "Take rise or occlusion, which need scores alone; or name a tensor of the graph: --layer NAME."
        )
    last = maps[-1]
    before = graph.collect([last.name])
    products = [sum(node.op_type in _PRODUCTS for node in part) for part in (before, steps)]
    if products[1] - products[0] > products[0]:
        raise UserError(
            f"The last map of cells is that of {last.where}, behind which {products[1] - products[0]} of the network's "
            f"{products[1]} matrix products come, as in a transformer: what it holds is hardly what the network sees. "
            f"Take rise or occlusion, which need scores alone; or name it all the same: --layer {last.name}."
        )
    return last


def find_named(graph: Graph, takes: Takes, scores: str, name: str) -> Cells:
    """The map of that name: a tensor's, or a node's, whose first output it is.

    Raises:
        UserError: no such tensor, or one that holds no map.
    """
    maps = find_cells(graph, takes)
    nodes = {node.name: node.output[0] for node in graph.nodes if node.name}
    tensor = name if graph.find_maker(name) is not None else nodes.get(name, "")
    if not tensor:
        raise make_unknown_name("layer", name, [cells.name for cells in maps])
    found = next((cells for cells in maps if cells.name == tensor), None)
    if found is None:
        shape = graph.shapes.get(tensor)
        sides = "of unknown shape" if shape is None else f"({', '.join(str(side or '?') for side in shape)})"
        near = f" Take {maps[-1].name!r}." if maps else ""
        raise UserError(f"Layer {name!r} is {sides}; expected a map (N, C, h, w) with more than one cell.{near}")
    if tensor not in {each for node in graph.collect([scores]) for each in node.output}:
        raise UserError(f"The scores don't depend on layer {name!r}. Take one before them, such as {maps[-1].name!r}.")
    return found
