"""Descriptions in .h5 files that Keras 3 doesn't read: input layers that are missing, operators."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def mended(path: Path, config: dict[str, Any]) -> Iterator[Path]:
    """The .h5 file itself, or a copy whose description Keras 3 reads.

    Sequential models had no input layer before Keras 2.3: the first layer had its size. And for `x + 3`
    and `x + y` Keras writes a layer Add, which it then takes for the one that adds a list of tensors.
    """
    better = copy.deepcopy(config)
    _mend(better)
    if better == config:
        yield path
        return
    import h5py  # noqa: PLC0415 - of the extra `keras`

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "model.h5"
        shutil.copyfile(path, place)
        with h5py.File(place, "r+") as file:
            file.attrs["model_config"] = json.dumps(better).encode()
        yield place


def _mend(entry: Any) -> None:
    if not isinstance(entry, dict):
        return
    if entry.get("class_name") == "Sequential" and isinstance(entry.get("config"), list):
        entry["config"] = {"name": "sequential", "layers": entry["config"]}
    config = entry.get("config")
    layers = config.get("layers") if isinstance(config, dict) else None
    if not isinstance(layers, list) or not layers:
        return
    for layer in layers:
        _mend(layer)
        _mend_operator(layer)
    first = layers[0]
    inner = first.get("config") if isinstance(first, dict) else None
    if entry["class_name"] == "Sequential" and isinstance(inner, dict) and first.get("class_name") != "InputLayer":
        shape = inner.pop("batch_input_shape", None)
        if shape is not None:
            layers.insert(0, {"class_name": "InputLayer", "config": {"batch_input_shape": shape, "name": "images"}})


def _mend_operator(layer: Any) -> None:
    """Makes `x + 3` and `x * 3` a Rescaling, and `x + y` the layer that takes both in a list."""
    if not isinstance(layer, dict) or layer.get("class_name") not in {"Add", "Multiply", "Subtract"}:
        return
    nodes = layer.get("inbound_nodes")
    node = nodes[0] if isinstance(nodes, list) and len(nodes) == 1 else None
    values = node.get("args") if isinstance(node, dict) else None
    if not isinstance(node, dict) or not isinstance(values, list) or len(values) != 2:
        return
    number = values[1]
    if isinstance(number, dict):
        node["args"] = [values]
    elif isinstance(number, float | int) and layer["class_name"] != "Subtract":
        scale = {"scale": 1.0, "offset": number} if layer["class_name"] == "Add" else {"scale": number, "offset": 0.0}
        layer["class_name"], layer["config"] = "Rescaling", {**layer["config"], **scale}
        node["args"] = values[:1]
