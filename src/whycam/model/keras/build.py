"""From a Keras model's graph to modules: one for each operation, linear layers and 1x1 convolutions as torch's own."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from whycam.errors import UserError
from whycam.model.keras.library import import_keras
from whycam.model.keras.net import KerasClassifier, KerasGraph, KerasOperation, Slot, Step, own_tensor, to_first


def build(model: Any, output: int, *, is_channels_last: bool) -> KerasClassifier:
    """The module of a Keras model, in eval mode, with weights in float32 and in the storage that Keras loaded.

    Args:
        model: built, with one input.
        output: which of its outputs is the classifier's.
        is_channels_last: how it holds images.

    Raises:
        UserError: a layer that was never built.
    """
    with torch.inference_mode(mode=False), torch.no_grad():
        steps, parts, takes, gives = _Reader(is_channels_last).read(model)
        return KerasClassifier(steps, parts, takes, [gives[output]]).eval()


class _Reader:
    """Reads graphs of Keras's nodes."""

    def __init__(self, is_channels_last: bool) -> None:
        self.is_channels_last = is_channels_last
        self.keras = import_keras()

    def read(self, model: Any) -> tuple[list[Step], dict[str, nn.Module], list[int], list[int]]:
        """The steps, the modules by name, and the numbers of inputs and outputs."""
        graph = find_graph(model)
        if graph is None:
            raise UserError(
                f"The Keras model {model.name!r} has no graph: it was never called on an input of known size. Build it "
                "with keras.Input(shape=(height, width, 3)) as its first layer, and save it again."
            )
        numbers: dict[int, int] = {}
        for tensor in graph.inputs:
            numbers.setdefault(id(tensor), len(numbers))
        takes = [numbers[id(tensor)] for tensor in graph.inputs]
        parts: dict[str, nn.Module] = {}
        names: dict[int, str] = {}
        steps = []
        for node in _iter_nodes(graph):
            operation = node.operation
            if id(operation) not in names:
                names[id(operation)] = _free_name(operation.name, parts)
                parts[names[id(operation)]] = self._make_part(operation, node)
            steps.append(self._make_step(names[id(operation)], parts[names[id(operation)]], node, numbers))
        return steps, parts, takes, [numbers[id(tensor)] for tensor in graph.outputs]

    def _make_step(self, name: str, part: nn.Module, node: Any, numbers: dict[int, int]) -> Step:
        def convert(leaf: Any) -> Any:
            if isinstance(leaf, self.keras.KerasTensor):
                return Slot(numbers[id(leaf)])
            return to_first(leaf) if self.is_channels_last else leaf  # a constant, which goes the way of the maps

        args, kwargs = node.arguments.convert(convert)
        for tensor in node.outputs:
            numbers[id(tensor)] = len(numbers)
        if not isinstance(part, KerasOperation):
            kwargs = {}  # `training` and `mask`, which torch's own layers and graphs inside don't know
        return Step(name, tuple(args), dict(kwargs), tuple(numbers[id(tensor)] for tensor in node.outputs))

    def _make_part(self, operation: Any, node: Any) -> nn.Module:
        if is_graph(operation):
            return KerasGraph(*self.read(operation))
        _widen(operation)
        linear = self._make_linear(operation, node.input_tensors[0].ndim)
        if linear is None:
            return KerasOperation(operation, is_channels_last=self.is_channels_last)
        if operation.activation is self.keras.activations.linear:
            return linear
        activation = self.keras.layers.Activation(operation.activation, name=f"{operation.name}_activation")
        after = KerasOperation(activation, is_channels_last=self.is_channels_last)
        return nn.Sequential(OrderedDict(linear=linear, activation=after))

    def _make_linear(self, layer: Any, axes: int) -> nn.Module | None:
        """A Dense layer or a convolution of 1x1 as torch's, which a search for the classifier knows; else None."""
        layers = self.keras.layers
        is_point = type(layer) is layers.Conv2D and (
            layer.kernel_size == layer.strides == layer.dilation_rate == (1, 1) and layer.groups == 1
        )
        if type(layer) is not layers.Dense and not is_point:
            return None
        if getattr(layer, "quantization_mode", None) or (axes == 4 and not (is_point or self.is_channels_last)):
            return None
        weight = own_tensor(layer.kernel)
        weight = weight.reshape(weight.shape[-2:]).T
        bias = None if layer.bias is None else nn.Parameter(own_tensor(layer.bias))
        with torch.device("meta"):
            if axes == 4:
                module: nn.Conv2d | nn.Linear = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias is not None)
                weight = weight[:, :, None, None]
            else:
                module = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        module.weight = nn.Parameter(weight)
        module.bias = bias
        return module


def is_graph(operation: Any) -> bool:
    """Whether it is a functional or sequential model whose call is Keras's own."""
    keras = import_keras()
    has_own_call = not type(operation).call.__module__.startswith("keras.")
    return isinstance(operation, keras.Model) and not has_own_call and find_graph(operation) is not None


def find_graph(model: Any) -> Any:
    """What holds the nodes of a model; None where it was never built, or is a class with a call of its own."""
    if isinstance(model, import_keras().Sequential):
        model = getattr(model, "_functional", None)
    return model if hasattr(model, "_nodes_by_depth") else None


def _iter_nodes(graph: Any) -> list[Any]:
    """The calls of a graph, each behind those whose tensors it takes."""
    depths = sorted(graph._nodes_by_depth, reverse=True)
    nodes = [node for depth in depths for node in graph._nodes_by_depth[depth]]
    return [node for node in nodes if node.operation and not node.is_input]


def _free_name(name: str, taken: dict[str, nn.Module]) -> str:
    name = name.replace(".", "_").replace("/", "_")
    while name in taken or hasattr(KerasGraph, name) or name in {"steps", "takes", "gives", "training"}:
        name += "_"
    return name


def _widen(operation: Any) -> None:
    """Half precision, in which a file may say that its layers compute, would lose the maps in rounding."""
    if getattr(operation, "compute_dtype", "float32") in {"float16", "bfloat16"}:
        operation.dtype_policy = "float32"
