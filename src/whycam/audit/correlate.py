"""Patches looked for in images: a plain convolution by ONNX Runtime, as fast as torch's and without its start."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnxruntime


def correlate(images: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """(n, P, y, x): the product of patches (P, C, S, S) with each place of images (n, C, H, W), all float32."""
    found: np.ndarray = _open().run(None, {"images": images, "patches": patches})[0]
    return found


@cache
def _open() -> onnxruntime.InferenceSession:
    import onnx  # noqa: PLC0415 - slow to import, and few kinds of findings need it

    float32 = onnx.TensorProto.FLOAT
    inputs = [
        onnx.helper.make_tensor_value_info("images", float32, ["n", "C", "H", "W"]),
        onnx.helper.make_tensor_value_info("patches", float32, ["P", "C", "S", "S"]),
    ]
    output = onnx.helper.make_tensor_value_info("found", float32, ["n", "P", "y", "x"])
    node = onnx.helper.make_node("Conv", ["images", "patches"], ["found"])
    graph = onnx.helper.make_graph([node], "correlate", inputs, [output])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
