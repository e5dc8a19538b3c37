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
    """

    features: str
    is_channels_last: bool
    node: NodeProto
    grid: tuple[int, int] | None = None


def find_pool(graph: Graph, node: NodeProto, size_px: tuple[int, int]) -> Pool | None:
    """The mean over all cells of a map, of which this is the last operator; None where it is none.

    Args:
        graph: whose shapes are known at that size.
        node: any.
        size_px: (height, width) of the input: tokens are laid out on a grid of its shape.
    """
    if node.op_type == "GlobalAveragePool":
        return Pool(node.input[0], is_channels_last=False, node=node)
    if node.op_type == "AveragePool":
        return _find_whole_window(graph, node)
    if node.op_type != "ReduceMean":
        return None
    axes = _read_axes(graph, node)
    first = graph.find_maker(node.input[0])
    if len(axes) == 1 and first is not None and first.op_type == "ReduceMean":
        return _find_two_steps(graph, first, axes[0])
    if len(axes) == 1 and graph.find_rank(node.input[0]) == 3:
        return _find_flattened(graph, node, axes[0] % 3) or _find_tokens(graph, node, axes[0] % 3, size_px)
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


def _find_flattened(graph: Graph, node: NodeProto, axis: int) -> Pool | None:
    """The map (N, C, h, w) whose cells, flattened to (N, C, h w), are averaged; also behind a transpose of these."""
    maker = graph.find_maker(node.input[0])
    if axis == 1 and maker is not None and maker.op_type == "Transpose":
        if read_attributes(maker).get("perm") != [0, 2, 1]:
            return None
        maker, axis = graph.find_maker(maker.input[0]), 2
    if maker is None or maker.op_type not in {"Reshape", "Flatten"} or axis != 2:
        return None
    before, after = graph.shapes.get(maker.input[0]), graph.shapes.get(maker.output[0])
    is_flat = before and after and len(before) == 4 and len(after) == 3 and before[1] == after[1]
    return Pool(maker.input[0], is_channels_last=False, node=node) if is_flat else None


def _find_tokens(graph: Graph, node: NodeProto, axis: int, size_px: tuple[int, int]) -> Pool | None:
    """The mean over tokens (N, h w, C), row by row on a grid of the image's shape."""
    shape = graph.shapes.get(node.input[0])
    count = shape[1] if shape is not None and len(shape) == 3 else None
    grid = find_grid(count, size_px) if axis == 1 and isinstance(count, int) else None
    return Pool(node.input[0], is_channels_last=True, node=node, grid=grid) if grid else None


def find_grid(tokens: int, size_px: tuple[int, int]) -> tuple[int, int] | None:
    """The grid (h, w) of that many cells that are as square as can be; None where they are not."""
    side = (size_px[0] * size_px[1] / max(tokens, 1)) ** 0.5
    height, width = max(1, round(size_px[0] / side)), max(1, round(size_px[1] / side))
    return (height, width) if height * width == tokens > 1 else None
