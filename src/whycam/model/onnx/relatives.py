"""Graphs that differ in their linear layer alone: one that is in the cache gives the next one within a second.

The exporter needs many seconds for a network, and heads are trained in few: of one backbone there are many.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from torch import nn

from whycam.model.backbone import hash_tensors
from whycam.model.gap import GapClassifier
from whycam.model.onnx.engine import name_engine

log = logging.getLogger("whycam.model.onnx")
# Under this name the cache's description of a graph has what `Relative.to_json` gives.
KEY = "relative"


@dataclass(frozen=True)
class Relative:
    """What a graph shares with others, and where it does not.

    Attributes:
        family: the same for all graphs that differ in the linear layer and its classes alone.
        weights: names of the initializers that hold its weights (K, C), in any shape of that order.
        turned: of those that hold them as (C, K).
        biases: of those that hold its bias (K,).
    """

    family: str
    weights: tuple[str, ...]
    turned: tuple[str, ...]
    biases: tuple[str, ...]

    @classmethod
    def of(cls, graph: onnx.ModelProto, model: GapClassifier, options: object) -> Relative:
        """What there is to exchange in the graph of that model."""
        weight, bias = _read_layer(model.classifier)
        found: dict[str, list[str]] = {"weights": [], "turned": [], "biases": []}
        for values in graph.graph.initializer:
            numbers = numpy_helper.to_array(values)
            for name, wanted in (("weights", weight), ("turned", weight.T), ("biases", bias)):
                if numbers.size == wanted.size and np.array_equal(numbers.ravel(), wanted.ravel()):
                    found[name].append(values.name)
                    break
        return cls(name_family(model, options), **{name: tuple(names) for name, names in found.items()})

    def to_json(self) -> dict[str, Any]:
        """For the cache's description of a graph."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Relative:
        """The reverse."""
        lists = {name: tuple(map(str, told[name])) for name in ("weights", "turned", "biases")}
        return cls(str(told["family"]), **lists)

    def exchange(self, graph: onnx.ModelProto, layer: nn.Linear) -> None:
        """Puts another linear layer into the graph; whether it is whole then has to be measured."""
        weight, bias = _read_layer(layer)
        for values in graph.graph.initializer:
            dims = list(values.dims)
            if values.name in self.weights:
                new = weight.reshape(-1, *dims[1:])
            elif values.name in self.turned:
                new = weight.T
            elif values.name in self.biases:
                new = bias
            else:
                continue
            values.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(new), values.name))
        # Shapes of the earlier number of classes; ONNX Runtime works them out by itself.
        del graph.graph.value_info[:]
        for output in graph.graph.output:
            if output.name in {"logits", "maps"}:
                output.type.tensor_type.shape.dim[1].Clear()
                output.type.tensor_type.shape.dim[1].dim_value = len(bias)


def name_family(model: GapClassifier, options: object) -> str:
    """A word for all graphs of these options that differ in the linear layer and its classes alone."""
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("classifier.")}
    origin = model.origin
    words = [origin.architecture, str(origin.map_stride), origin.preprocess.model_dump_json(), model.head]
    return name_engine([hash_tensors(state), *words, repr(options)])


def iter_exchanged(folder: Path, model: GapClassifier, options: object) -> Iterator[onnx.ModelProto]:
    """Graphs of that folder of the cache with the model's linear layer in place of theirs, the newest first."""
    family = name_family(model, options)
    described = [path for path in folder.glob("*.json") if path.with_suffix(".onnx").is_file()]
    for path in sorted(described, key=_find_age, reverse=True):
        try:
            told = json.loads(path.read_bytes())[KEY]
            if told["family"] != family:
                continue
            graph = onnx.load(path.with_suffix(".onnx"))
            Relative.from_json(told).exchange(graph, model.classifier)
        except Exception as error:  # noqa: BLE001 - a file in the cache may be gone, torn or of another version
            log.debug("'%s' is no relative: %s", path, error)
            continue
        yield graph


def _find_age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _read_layer(layer: nn.Linear) -> tuple[np.ndarray, np.ndarray]:
    return tuple(values.detach().cpu().numpy() for values in (layer.weight, layer.bias))  # type: ignore[return-value]
