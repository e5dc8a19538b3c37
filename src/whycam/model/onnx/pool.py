"""Pooling over the cells of a map in an ONNX graph, in the forms that exporters write it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from whycam.model.onnx.graph import Graph, read_attributes


@dataclass(frozen=True)
class Pool:
    """Pooling of a map over its cells.

    Attributes:
        features: the tensor that is pooled.
        is_channels_last: (N, h, w, C), or tokens (N, h w, C); else (N, C, h, w).
        node: the first operator of it.
        grid: (h, w) of tokens; None for a tensor of 4 axes.
        is_row: whether the cells stood in a row when they were pooled, so that their order says little.
    """

    features: str
    is_channels_last: bool
    node: NodeProto
    grid: tuple[int, int] | None = None
    is_row: bool = False


def find_pool(graph: Graph, node: NodeProto, size_px: tuple[int, int]) -> Pool | None:
    """The mean over all cells of a map, of which this is the last operator; None where it is none.

    Args:
        graph: whose shapes are known at that size.
        node: any.
        size_px: (height, width) of the input: tokens are laid out on a grid of its shape.
    """
    if node.op_type in {"GlobalAveragePool", "AveragePool"}:
        whole = Pool(node.input[0], is_channels_last=False, node=node)
        pool = whole if node.op_type == "GlobalAveragePool" else _find_whole_window(graph, node)
        is_row = pool is not None and graph.find_rank(node.input[0]) == 3
        return _find_row(graph, node, node.input[0], 2, size_px) if is_row else pool
    if node.op_type != "ReduceMean":
        return None
    axes = _read_axes(graph, node)
    first = graph.find_maker(node.input[0])
    if len(axes) == 1 and first is not None and first.op_type == "ReduceMean":
        return _find_two_steps(graph, first, axes[0])
    if len(axes) == 1 and graph.find_rank(node.input[0]) == 3:
        return _find_row(graph, node, node.input[0], axes[0] % 3, size_px)
    return _name_pool(node.input[0], {axis % 4 for axis in axes}, node)


def _find_two_steps(graph: Graph, first: NodeProto, axis: int) -> Pool | None:
    """The mean over one axis, and then over another one of what remains."""
    others = _read_axes(graph, first)
    if len(others) != 1:
        return None
    other = others[0] % 4
    if read_attributes(first).get("keepdims", 1):
        return _name_pool(first.input[0], {other, axis % 4}, first)
    rest = [each for each in range(4) if each != other]
    return _name_pool(first.input[0], {other, rest[axis]}, first)


def _name_pool(features: str, axes: set[int], node: NodeProto) -> Pool | None:
    is_last = axes == {1, 2}
    return Pool(features, is_last, node) if is_last or axes == {2, 3} else None


def _read_axes(graph: Graph, node: NodeProto) -> list[int]:
    """The axes that are reduced; an attribute up to opset 17, an input since."""
    axes = read_attributes(node).get("axes")
    if axes is None and len(node.input) > 1:
        axes = graph.read_constant(node.input[1])
    return [] if axes is None else [int(axis) for axis in np.atleast_1d(axes)]


def _find_whole_window(graph: Graph, node: NodeProto) -> Pool | None:
    """AveragePool whose window is the whole map; what is padded must not count."""
    how, shape = read_attributes(node), graph.shapes.get(node.input[0])
    kernel = how["kernel_shape"]
    pads = how.get("pads") or [0] * 2 * len(kernel)
    if shape is None or len(shape) != 2 + len(kernel) or (any(pads) and how.get("count_include_pad")):
        return None
    sides = zip(shape[2:], pads, kernel, strict=False)
    is_whole = all(isinstance(side, int) and begin + side <= window for side, begin, window in sides)
    return Pool(node.input[0], is_channels_last=False, node=node) if is_whole else None


def _find_row(graph: Graph, node: NodeProto, name: str, axis: int, size_px: tuple[int, int]) -> Pool | None:
    """The mean over cells in a row: of a flattened map, or of tokens (N, h w, C) on a grid of the image's shape.

    Args:
        graph: whose shapes are known.
        node: the operator that pools.
        name: of the tensor of 3 axes that it pools, under whatever turns.
        axis: of the cells, 1 or 2.
        size_px: (height, width) of the input.
    """
    maker, shape = graph.find_maker(name), graph.shapes.get(name)
    if maker is not None and maker.op_type == "Transpose" and read_attributes(maker).get("perm") == [0, 2, 1]:
        return _find_row(graph, node, maker.input[0], 3 - axis, size_px)
    if axis not in {1, 2} or shape is None or len(shape) != 3:
        return None
    before = graph.shapes.get(maker.input[0]) if maker is not None and maker.op_type in {"Reshape", "Flatten"} else None
    if maker is not None and before and len(before) == 4 and before[1 if axis == 2 else 3] == shape[3 - axis]:
        return Pool(maker.input[0], is_channels_last=axis == 1, node=node, is_row=True)
    count = shape[axis]
    grid = find_grid(count, size_px) if axis == 1 and isinstance(count, int) else None
    return Pool(name, is_channels_last=True, node=node, grid=grid, is_row=True) if grid else None


def find_grid(tokens: int, size_px: tuple[int, int]) -> tuple[int, int] | None:
    """The grid (h, w) of that many cells that are as square as can be; None where they are not."""
    side = (size_px[0] * size_px[1] / max(tokens, 1)) ** 0.5
    height, width = max(1, round(size_px[0] / side)), max(1, round(size_px[1] / side))
    return (height, width) if height * width == tokens > 1 else None
