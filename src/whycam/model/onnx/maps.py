"""The user's own graph with one more output: every class's map, by a 1x1 convolution of the pooled features."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from whycam.model.onnx.graph import Graph, Part
from whycam.model.onnx.head import Head

MAPS, LOGITS = "whycam_maps", "whycam_logits"


def add_maps(graph: Graph, part: Part, head: Head | None) -> Part:
    """That part, with every class's map (N, K, h, w) float32 as a further output; as it is without a head.

    In half precision the scores would be rounded more coarsely than the maps: they are then given a second time, as
    mean(map) + bias in float32.
    """
    if head is None:
        return part
    kind = graph.types.get(head.pool.features, TensorProto.FLOAT)
    name, nodes = head.pool.features, []
    constants = {}
    if kind != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [name], ["whycam_features"], to=TensorProto.FLOAT))
        name = "whycam_features"
    turns = head.pool.is_channels_last
    weighed = "whycam_weighed" if turns else MAPS
    if head.weight is None:
        nodes.append(helper.make_node("Identity", [name], [weighed]))
    elif turns:
        constants["whycam_weight"] = np.ascontiguousarray(head.weight.T)
        nodes.append(helper.make_node("MatMul", [name, "whycam_weight"], [weighed]))
    else:
        constants["whycam_weight"] = head.weight[:, :, None, None]
        nodes.append(helper.make_node("Conv", [name, "whycam_weight"], [weighed], kernel_shape=[1, 1]))
    if turns:
        nodes.append(helper.make_node("Transpose", [weighed], [MAPS], perm=[0, 3, 1, 2]))
    outputs = [*part.outputs, MAPS]
    if kind != TensorProto.FLOAT:
        constants["whycam_bias"] = head.bias
        nodes += [
            helper.make_node("GlobalAveragePool", [MAPS], ["whycam_mean"]),
            helper.make_node("Flatten", ["whycam_mean"], ["whycam_means"]),
            helper.make_node("Add", ["whycam_means", "whycam_bias"], [LOGITS]),
        ]
        outputs.append(LOGITS)
    return Part(outputs, part.inputs, nodes, constants)
