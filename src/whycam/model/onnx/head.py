"""The head of an ONNX graph: pooling over the cells and what follows it, found by walking back from the scores.

What stands between the pooled features and the scores is composed to one affine map, operator by operator; a further
operator is one more entry in `_AFFINE`. Whether mean(map) + bias is the logit is measured afterwards, by `file.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from whycam.model.onnx.graph import Graph, name_node, read_attributes

ACTIVATIONS = ("Softmax", "LogSoftmax", "Sigmoid")
# What changes the shape, the type or the name of a vector (N, C), and none of its numbers.
_CARRIES = {"Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}


@dataclass(frozen=True)
class Pool:
    """Pooling of a map over its cells.

    Attributes:
        features: the tensor that is pooled, of 4 axes.
        is_channels_last: (N, h, w, C); else (N, C, h, w).
        node: the first operator of it.
    """

    features: str
    is_channels_last: bool
    node: NodeProto


@dataclass(frozen=True)
class Head:
    """Pooling and one affine map.

    Attributes:
        pool: what is pooled.
        weight: (K, C) float32; None where the pooled features are the scores themselves.
        bias: (K,) float32, or (1,) where it is 0 for all.
        tail: the operators, from the pooling on: "GlobalAveragePool + Gemm".
    """

    pool: Pool
    weight: np.ndarray | None
    bias: np.ndarray
    tail: str

    @property
    def layer(self) -> str:
        """Whose output the maps weigh, in words."""
        return f"input of {name_node(self.pool.node)}"


class NotAffineError(Exception):
    """Why the scores are not found to be one affine map of pooled features; a sentence."""


@dataclass(frozen=True)
class _Affine:
    """y = scale x + shift, where scale is (K, C), or (C,) for each number alone, or one number."""

    scale: np.ndarray
    shift: np.ndarray


def find_head(graph: Graph, scores: str) -> Head:
    """The pooling and the affine map behind it that give these scores.

    Raises:
        NotAffineError: what was found instead.
    """
    weight, bias, tail, name = np.ones(1), np.zeros(1), list[str](), scores
    while True:
        node = graph.find_maker(name)
        if node is None:
            raise NotAffineError(f"The scores are computed of '{name}' without any pooling over cells.")
        pool = find_pool(graph, node)
        if pool is not None:
            tail.append(pool.node.op_type)
            wide = _widen(weight, graph, pool)
            return Head(pool, wide, bias.astype(np.float32), " + ".join(reversed(tail)))
        if node.op_type in _CARRIES:
            name = node.input[0]
            continue
        step, name = _read_step(graph, node)
        bias = bias + _spread(weight, step.shift)
        weight = _compose(weight, step.scale)
        if node.op_type not in {"Add", "Sub"}:
            tail.append(node.op_type)


def _widen(weight: np.ndarray, graph: Graph, pool: Pool) -> np.ndarray | None:
    """(K, C) float32; None for the identity."""
    if weight.ndim == 1:
        if (weight == 1).all():
            return None
        channels = (graph.shapes.get(pool.features) or (None,) * 4)[3 if pool.is_channels_last else 1]
        if weight.size == 1:
            if not isinstance(channels, int):
                raise NotAffineError(f"How many channels '{pool.features}' has is not known.")
            weight = np.repeat(weight, channels)
        weight = np.diag(weight)
    return np.ascontiguousarray(weight, dtype=np.float32)


def _spread(weight: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """What a shift of the inputs, the same for all or for each its own, adds to the outputs."""
    if weight.ndim < 2:
        return np.asarray(weight * shift)
    return np.asarray(weight @ shift if shift.size > 1 else weight.sum(1) * shift)


def _compose(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """The scale of an affine map behind another."""
    if outer.ndim == 2 and inner.ndim == 2:
        return np.asarray(outer @ inner)
    return np.asarray(outer[:, None] * inner if inner.ndim == 2 else outer * inner)


def find_pool(graph: Graph, node: NodeProto) -> Pool | None:
    """The mean over all cells of a map, of which this is the last operator; None where it is none."""
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
        return _find_flattened(graph, node, axes[0] % 3)
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


def _read_step(graph: Graph, node: NodeProto) -> tuple[_Affine, str]:
    """What an operator does to a vector, and the name of that.

    Raises:
        NotAffineError: it does something else.
    """
    read = _AFFINE.get(node.op_type)
    if read is None:
        raise NotAffineError(f"Found {name_node(node)} between the pooling over cells and the scores, or no pooling.")
    constants = [graph.read_constant(name) if name else None for name in node.input]
    free = [at for at, value in enumerate(constants) if value is None and node.input[at]]
    if len(free) != 1:
        raise NotAffineError(f"Found {name_node(node)}, which combines {len(free)} computed tensors.")
    step = read(node, [None if value is None else value.astype(np.float64) for value in constants], free[0])
    if step is None:
        raise NotAffineError(f"Found {name_node(node)} in a form that is not one weight for each class and channel.")
    return step, node.input[free[0]]


_Constants = list["np.ndarray | None"]


def _read_gemm(node: NodeProto, constants: _Constants, free: int) -> _Affine | None:
    how = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0} | read_attributes(node)
    if free > 1:
        return None
    matrix = constants[1 - free]
    bias = constants[2] if len(constants) > 2 else None
    assert matrix is not None  # noqa: S101 - one tensor alone is computed
    # Of y = x B the weights are B transposed; of y = A x, the other way round, A.
    is_turned = bool(how["transB"]) if free == 0 else not how["transA"]
    weight = float(how["alpha"]) * (matrix if is_turned else matrix.T)
    shift = np.zeros(1) if bias is None else float(how["beta"]) * bias.reshape(-1)
    return _Affine(weight, shift) if shift.size in {1, len(weight)} else None


def _read_matmul(_node: NodeProto, constants: _Constants, free: int) -> _Affine | None:
    matrix = constants[1 - free]
    if matrix is None or matrix.ndim != 2:
        return None
    return _Affine(matrix.T if free == 0 else matrix, np.zeros(1))


def _read_conv(node: NodeProto, constants: _Constants, free: int) -> _Affine | None:
    weight, bias = constants[1], constants[2] if len(constants) > 2 else None
    how = read_attributes(node)
    if free != 0 or weight is None or np.prod(weight.shape[2:]) != 1 or how.get("group", 1) != 1:
        return None
    if any(how.get("pads") or []):
        return None
    return _Affine(weight.reshape(weight.shape[:2]), np.zeros(1) if bias is None else bias)


def _read_add(_node: NodeProto, constants: _Constants, free: int) -> _Affine | None:
    return _Affine(np.ones(1), _flatten(constants[1 - free]))


def _read_sub(_node: NodeProto, constants: _Constants, free: int) -> _Affine | None:
    sign = 1.0 if free == 0 else -1.0
    return _Affine(np.full(1, sign), -sign * _flatten(constants[1 - free]))


def _read_mul(_node: NodeProto, constants: _Constants, free: int) -> _Affine | None:
    return _Affine(_flatten(constants[1 - free]), np.zeros(1))


def _read_div(_node: NodeProto, constants: _Constants, free: int) -> _Affine | None:
    return _Affine(1 / _flatten(constants[1]), np.zeros(1)) if free == 0 else None


def _read_norm(node: NodeProto, constants: _Constants, free: int) -> _Affine | None:
    scale, shift, mean, variance = (np.zeros(1) if value is None else value for value in constants[1:5])
    slope = scale / np.sqrt(variance + float(read_attributes(node).get("epsilon", 1e-5)))
    return _Affine(slope, shift - mean * slope) if free == 0 else None


def _flatten(value: np.ndarray | None) -> np.ndarray:
    assert value is not None  # noqa: S101 - one tensor alone is computed
    return value.reshape(-1)


_AFFINE: dict[str, Callable[[NodeProto, _Constants, int], _Affine | None]] = {
    "Add": _read_add,
    "BatchNormalization": _read_norm,
    "Conv": _read_conv,
    "Div": _read_div,
    "Gemm": _read_gemm,
    "MatMul": _read_matmul,
    "Mul": _read_mul,
    "Sub": _read_sub,
}


def find_activation(graph: Graph, output: str) -> NodeProto | None:
    """The softmax or sigmoid whose result, under other names and in other shapes, is that output; None without one."""
    node = graph.find_maker(output)
    while node is not None and node.op_type in _CARRIES:
        node = graph.find_maker(node.input[0])
    return node if node is not None and node.op_type in ACTIVATIONS else None
