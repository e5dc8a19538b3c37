"""keras.applications with random weights, for `intake.py`: built small, and their logits by Keras itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from intake_cases import CLASSES, LARGEST, TOO_LARGE, SkippedError

from whycam.model.keras.library import import_keras

_SIDE = 96
# At 96 px these end in one cell, of which there is no map.
_WIDER = {"InceptionV3": 160, "InceptionResNetV2": 160}


def list_applications() -> list[str]:
    keras = import_keras()
    return [name for name in dir(keras.applications) if name[0].isupper()]


def build(name: str) -> tuple[Any, int]:
    keras = import_keras()
    if name.endswith(("XLarge", "NASNetLarge")):
        raise SkippedError(f"{TOO_LARGE}: over {LARGEST / 1e6:.0f} M parameters")
    keras.utils.set_random_seed(0)
    side = _WIDER.get(name, _SIDE)
    how = {"weights": None, "input_shape": (side, side, 3), "classes": CLASSES}
    model = getattr(keras.applications, name)(**how)
    if model.count_params() > LARGEST:
        raise SkippedError(f"{TOO_LARGE}: {model.count_params() / 1e6:.0f} M parameters")
    wake(model)
    return model, side


def wake(model: Any) -> None:
    """Batch norms that have seen something, and no gain near zero."""
    for layer in model.layers:
        if type(layer).__name__ == "LayerScale":
            layer.gamma.assign(np.full(layer.gamma.shape, 0.3, dtype=np.float32))


def read_logits(model: Any, images: np.ndarray) -> np.ndarray:
    """(N, K) of images (N, H, W, 3): the scores before the last activation."""
    keras = import_keras()
    last = model.layers[-1]
    kept, last.activation = last.activation, keras.activations.linear
    try:
        return np.asarray(keras.ops.convert_to_numpy(model(images, training=False))).reshape(len(images), -1)
    finally:
        last.activation = kept


def find_head(model: Any, images: np.ndarray) -> str:
    """The pooling whose input, averaged and weighed once by hand, gives the logits; empty if there is none."""
    keras = import_keras()
    pools = [at for at, layer in enumerate(model.layers) if "GlobalAveragePooling" in type(layer).__name__]
    if not pools:
        return ""
    pool = model.layers[pools[-1]]
    weights = [layer for layer in model.layers[pools[-1] + 1 :] if layer.weights]
    if len(weights) != 1:
        return ""
    values = keras.Model(model.inputs, pool.input)(images, training=False)
    features = np.asarray(keras.ops.convert_to_numpy(values))
    if features.shape[1] * features.shape[2] == 1:
        return ""
    matrix, bias = (np.asarray(keras.ops.convert_to_numpy(each)) for each in weights[0].weights)
    if matrix.size != features.shape[-1] * CLASSES:
        return ""
    found = features.mean((1, 2)) @ matrix.reshape(-1, CLASSES) + bias
    logits = read_logits(model, images)
    return pool.name if np.abs(found - logits).max() <= 1e-4 * np.abs(logits).max() else ""
