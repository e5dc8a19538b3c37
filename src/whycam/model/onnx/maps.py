"""The user's own graph with two more outputs: the pooled features, and every class's map by a 1x1 convolution."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from whycam.model.onnx.graph import Graph, Part
from whycam.model.onnx.head import Head

MAPS, LOGITS, MEANS, WANTED = "whycam_maps", "whycam_logits", "whycam_means", "whycam_wanted"
_FEATURES, _WEIGHT = "whycam_features", "whycam_weight"


def add_maps(graph: Graph, part: Part, head: Head | None) -> Part:
    """That part with further outputs, float32: every class's map (N, K, h, w) and the means of what they weigh (N, C).

    Without a head it stays as it is.

    Whether the maps are wanted is a further input: of many classes they cost a tenth of a small network's time.

    In half precision the scores would be rounded more coarsely than the maps: they are then given a second time, of
    the pooled features in float32.
    """
    if head is None:
        return part
    is_half = graph.types.get(head.pool.features, TensorProto.FLOAT) != TensorProto.FLOAT
    nodes = [helper.make_node("Cast", [head.pool.features], [_FEATURES], to=TensorProto.FLOAT)]
    outputs, constants = [*part.outputs, MAPS, MEANS], {}
    nodes.append(_choose(_weigh(head)))
    first = _FEATURES
    if head.pool.is_channels_last:
        first = "whycam_first"
        nodes.append(
            helper.make_node("Transpose", [_FEATURES], [first], perm=[0, 2, 1] if head.pool.grid else [0, 3, 1, 2])
        )
    nodes += make_means(first)
    if is_half:
        constants["whycam_bias"] = head.bias
        weighed = MEANS
        if head.weight is not None:
            constants["whycam_matrix"] = np.ascontiguousarray(head.weight.T)
            weighed = "whycam_scores"
            nodes.append(helper.make_node("MatMul", [MEANS, "whycam_matrix"], [weighed]))
        nodes.append(helper.make_node("Add", [weighed, "whycam_bias"], [LOGITS]))
        outputs.append(LOGITS)
    wanted = helper.make_tensor_value_info(WANTED, TensorProto.BOOL, [])
    return Part(outputs, part.inputs, nodes, constants, added=[wanted])


def make_means(features: str) -> list[NodeProto]:
    """From features (N, C, h, w) of that name to their means (N, C), `MEANS`."""
    pooled = "whycam_mean"
    return [
        helper.make_node("GlobalAveragePool", [features], [pooled]),
        helper.make_node("Flatten", [pooled], [MEANS]),
    ]


def _weigh(head: Head) -> tuple[list[NodeProto], list[TensorProto]]:
    """From the features to MAPS: nodes and weights."""
    if head.pool.grid is not None:
        return _weigh_tokens(head, head.pool.grid)
    if not head.pool.is_channels_last:
        if head.weight is None:
            return [helper.make_node("Identity", [_FEATURES], [MAPS])], []
        weight = numpy_helper.from_array(head.weight[:, :, None, None], _WEIGHT)
        return [helper.make_node("Conv", [_FEATURES, _WEIGHT], [MAPS], kernel_shape=[1, 1])], [weight]
    turn = helper.make_node("Transpose", [_FEATURES if head.weight is None else "whycam_weighed"], [MAPS])
    turn.attribute.append(helper.make_attribute("perm", [0, 3, 1, 2]))
    if head.weight is None:
        return [turn], []
    weight = numpy_helper.from_array(np.ascontiguousarray(head.weight.T), _WEIGHT)
    return [helper.make_node("MatMul", [_FEATURES, _WEIGHT], ["whycam_weighed"]), turn], [weight]


def _weigh_tokens(head: Head, grid: tuple[int, int]) -> tuple[list[NodeProto], list[TensorProto]]:
    """The same of tokens (N, h w, C)."""
    weights = [numpy_helper.from_array(np.array([0, 0, *grid]), "whycam_grid")]
    nodes, name = [], _FEATURES
    if head.weight is not None:
        weights.append(numpy_helper.from_array(np.ascontiguousarray(head.weight.T), _WEIGHT))
        nodes.append(helper.make_node("MatMul", [name, _WEIGHT], ["whycam_weighed"]))
        name = "whycam_weighed"
    nodes.append(helper.make_node("Transpose", [name], ["whycam_rows"], perm=[0, 2, 1]))
    nodes.append(helper.make_node("Reshape", ["whycam_rows", "whycam_grid"], [MAPS]))
    return nodes, weights


def _choose(made: tuple[list[NodeProto], list[TensorProto]]) -> NodeProto:
    """MAPS where they are wanted, else an empty tensor."""
    nodes, weights = made
    output = helper.make_tensor_value_info(MAPS, TensorProto.FLOAT, [None] * 4)
    yes = helper.make_graph(nodes, "maps", [], [output], weights)
    empty = numpy_helper.from_array(np.zeros((0, 0, 0, 0), np.float32), "whycam_none")
    none = ValueInfoProto()
    none.CopyFrom(output)
    none.name = "whycam_no_maps"
    no = helper.make_graph([helper.make_node("Constant", [], [none.name], value=empty)], "none", [], [none])
    return helper.make_node("If", [WANTED], [MAPS], then_branch=yes, else_branch=no)
