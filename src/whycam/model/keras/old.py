"""Sequential models as Keras wrote them before 2.3: without an input layer, whose size the first layer had."""

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
    """The .h5 file itself, or a copy whose description has the input layers that Keras 3 can't do without."""
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
    first = layers[0]
    inner = first.get("config") if isinstance(first, dict) else None
    if entry["class_name"] == "Sequential" and isinstance(inner, dict) and first.get("class_name") != "InputLayer":
        shape = inner.pop("batch_input_shape", None)
        if shape is not None:
            layers.insert(0, {"class_name": "InputLayer", "config": {"batch_input_shape": shape, "name": "images"}})
