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
from whycam.model.onnx.pool import Pool, find_pool

ACTIVATIONS = ("Softmax", "LogSoftmax", "Sigmoid")
# What changes the shape, the type or the name of a vector (N, C), and none of its numbers.
_CARRIES = {"Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}


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

    def behind(self, inner: _Affine) -> _Affine:
        """This of the other's result."""
        shift = inner.shift
        if self.scale.ndim < 2:
            moved = self.scale * shift
        else:
            moved = self.scale @ shift if shift.size > 1 else self.scale.sum(1) * shift
        return _Affine(_compose(self.scale, inner.scale), self.shift + moved)


@dataclass(frozen=True)
class _Found:
    """An affine map of what is pooled, and the operators from the pooling on."""

    pool: Pool
    affine: _Affine
    tail: tuple[str, ...]


def find_head(graph: Graph, scores: str, size_px: tuple[int, int]) -> Head:
    """The pooling and the affine map behind it that give these scores.

    Args:
        graph: whose shapes are known at that size.
        scores: a tensor.
        size_px: (height, width) of the input.

    Raises:
        NotAffineError: what was found instead.
    """
    found = _solve(graph, scores, size_px)
    weight = _widen(found.affine.scale, graph, found.pool)
    return Head(found.pool, weight, found.affine.shift.astype(np.float32), " + ".join(found.tail))


def _solve(graph: Graph, name: str, size_px: tuple[int, int]) -> _Found:
    node = graph.find_maker(name)
    if node is None:
        raise NotAffineError(f"The scores are computed of '{name}' without any pooling over cells.")
    pool = find_pool(graph, node, size_px)
    if pool is not None:
        return _Found(pool, _Affine(np.ones(1), np.zeros(1)), (pool.node.op_type,))
    if node.op_type in _CARRIES:
        return _solve(graph, node.input[0], size_px)
    if node.op_type in {"Add", "Sub"} and all(map(graph.is_computed, node.input)):
        return _join(node, [_solve(graph, each, size_px) for each in node.input])
    step, before = _read_step(graph, node)
    found = _solve(graph, before, size_px)
    word = () if node.op_type in {"Add", "Sub"} else (node.op_type,)
    return _Found(found.pool, step.behind(found.affine), found.tail + word)


def _join(node: NodeProto, sides: list[_Found]) -> _Found:
    """The sum of two heads on one pooled map, as those of a distilled network."""
    one, other = sides
    if (one.pool.features, one.pool.is_channels_last) != (other.pool.features, other.pool.is_channels_last):
        raise NotAffineError(f"Found {name_node(node)} of what is pooled from two maps.")
    sign = 1 if node.op_type == "Add" else -1
    scales = [side.affine.scale for side in sides]
    if scales[0].ndim != scales[1].ndim:
        channels = next(scale.shape[1] for scale in scales if scale.ndim == 2)
        scales = [scale if scale.ndim == 2 else np.diag(np.broadcast_to(scale, channels)) for scale in scales]
    affine = _Affine(scales[0] + sign * scales[1], one.affine.shift + sign * other.affine.shift)
    return _Found(one.pool, affine, (*one.tail, *other.tail[1:]))


def _widen(weight: np.ndarray, graph: Graph, pool: Pool) -> np.ndarray | None:
    """(K, C) float32; None for the identity."""
    if weight.ndim == 1:
        if (weight == 1).all():
            return None
        channels = (graph.shapes.get(pool.features) or (None,) * 4)[-1 if pool.is_channels_last else 1]
        if weight.size == 1:
            if not isinstance(channels, int):
                raise NotAffineError(f"How many channels '{pool.features}' has is not known.")
            weight = np.repeat(weight, channels)
        weight = np.diag(weight)
    return np.ascontiguousarray(weight, dtype=np.float32)


def _compose(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """The scale of an affine map behind another."""
    if outer.ndim == 2 and inner.ndim == 2:
        return np.asarray(outer @ inner)
    return np.asarray(outer[:, None] * inner if inner.ndim == 2 else outer * inner)


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
