"""One copy of what a graph would hold twice: the scores' layer and the maps' convolution have the same weights."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper


def share_weights(graph: onnx.ModelProto) -> None:
    """Keeps one of those weights that are the same numbers; the others are made of it in the graph.

    Runtimes do that once, as they open the graph, and compute what they computed before. Vectors are left alone: they
    are small, and equal by chance, as biases of zero are.
    """
    body = graph.graph
    kept: dict[tuple[int, bytes], onnx.TensorProto] = {}
    # Those of few dimensions first: they are the layer's own, as `Relative` finds it and a user looks for it.
    for values in sorted(body.initializer, key=lambda values: len(values.dims)):
        if len(values.dims) < 2:
            continue
        own = kept.setdefault((values.data_type, numpy_helper.to_array(values).tobytes()), values)
        if own is values:
            continue
        # As many classes as there are: `Relative` exchanges the layer for one of another number.
        shape = numpy_helper.from_array(np.array([-1, *values.dims[1:]], np.int64), f"{values.name}.shape")
        reshape = onnx.helper.make_node("Reshape", [own.name, shape.name], [values.name], f"{values.name}.reshape")
        body.initializer.remove(values)
        body.initializer.append(shape)
        body.node.insert(0, reshape)


def spread_weights(graph: onnx.ModelProto) -> None:
    """The reverse: where ONNX Runtime's tools have such weights to make, they put a graph's nodes in another order."""
    body = graph.graph
    held = {values.name: values for values in body.initializer}
    for node in [node for node in body.node if node.name == f"{node.output[0]}.reshape"]:
        own, shape = (held[name] for name in node.input)
        numbers = numpy_helper.to_array(own).reshape(numpy_helper.to_array(shape))
        body.initializer.remove(shape)
        body.initializer.append(numpy_helper.from_array(numbers, node.output[0]))
        body.node.remove(node)
