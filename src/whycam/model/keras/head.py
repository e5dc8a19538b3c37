"""The end of a Keras classifier: the activation behind its logits is taken off; what its output is, is measured."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from whycam.model.keras.build import find_graph
from whycam.model.keras.library import import_keras
from whycam.model.keras.net import Handed, KerasGraph, KerasOperation, Step

Output = Literal["logits", "softmax", "sigmoid"]
_TOLERANCE = 1e-4
# What hands its input on, in another shape at the most.
_CARRIERS = {"Flatten", "Reshape", "Dropout", "Identity"}


def take_off(graph: KerasGraph) -> tuple[str, Output] | None:
    """Takes the softmax or sigmoid off the end of a graph; gives the layer's dotted name and which it was.

    None, and nothing is changed, where there is none, or something else reads what it gives.
    """
    step = _find_last(graph)
    if step is None:
        return None
    part = graph.get_submodule(step.name)
    if isinstance(part, KerasGraph):
        found = take_off(part) if len(part.gives) == 1 else None
        return None if found is None else (f"{step.name}.{found[0]}", found[1])
    if isinstance(part, nn.Sequential):
        kind = _name_activation(part[-1])
        if kind is not None:
            setattr(graph, step.name, part[0])
    else:
        kind = _name_activation(part)
        if kind is not None:
            setattr(graph, step.name, Handed())
    return None if kind is None else (step.name, kind)


def _find_last(graph: KerasGraph) -> Step | None:
    """The step that makes the output, in front of all that only hand it on; None where others read or run it too."""
    wanted = graph.gives[0]
    while True:
        step = next((step for step in graph.steps if wanted in step.gives), None)
        readers = sum(wanted in other.reads for other in graph.steps) + (wanted in graph.gives)
        if step is None or readers != 1 or len(step.gives) != 1:
            return None
        part = graph.get_submodule(step.name)
        is_carrier = isinstance(part, KerasOperation) and (
            type(part.code.operation).__name__ in _CARRIERS or _is_linear_activation(part)
        )
        if not is_carrier or len(step.reads) != 1:
            return step if sum(other.name == step.name for other in graph.steps) == 1 else None
        wanted = step.reads[0]


def _is_linear_activation(part: KerasOperation) -> bool:
    keras = import_keras()
    operation = part.code.operation
    return type(operation) is keras.layers.Activation and operation.activation is keras.activations.linear


def _name_activation(part: nn.Module) -> Output | None:
    keras = import_keras()
    if not isinstance(part, KerasOperation):
        return None
    operation = part.code.operation
    function = getattr(operation, "activation", None) if type(operation) is keras.layers.Activation else None
    if function is keras.activations.softmax or (
        type(operation).__name__ == "Softmax" and getattr(operation, "axis", None) == -1
    ):
        return "softmax"
    return "sigmoid" if function is keras.activations.sigmoid or type(operation).__name__ == "Sigmoid" else None


def run_own(model: Any, images: Tensor, output: int, *, is_channels_last: bool) -> Tensor:
    """(N, K): what Keras itself gives for images (N, C, H, W), of that output."""
    keras = import_keras()
    with torch.no_grad(), keras.device(str(images.device)):
        inputs = images.permute(0, 2, 3, 1) if is_channels_last else images
        structure = find_graph(model)._inputs_struct  # Keras warns of a tensor where it has a list of one
        found: Any = model(keras.tree.pack_sequence_as(structure, [inputs]), training=False)
        flat: list[Tensor] = keras.tree.flatten(found)
    return flat[output].flatten(1).float()


def activate(logits: Tensor, kind: Output) -> Tensor:
    """The output of that kind, of logits (N, K)."""
    if kind == "softmax":
        return logits.softmax(dim=1)
    return logits.sigmoid() if kind == "sigmoid" else logits


def measure_gap(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a part of the largest number; NaN on both sides is none."""
    same = torch.isclose(found, expected, rtol=0, atol=0, equal_nan=True)
    gap = (found - expected).abs().masked_fill(same, 0).max()
    largest = expected.nan_to_num().abs().max()
    return float(gap / largest) if largest > 0 else float(gap)


def measure_output(scores: Tensor) -> Output:
    """What the outputs (N, K) of images of very different strength are: probabilities of one class, of several, logits.

    Logits grow with the image, so that strong ones leave 0..1.
    """
    if not scores.isfinite().all() or scores.min() < -1e-6 or scores.max() > 1 + 1e-6:
        return "logits"
    return "softmax" if scores.shape[1] > 1 and ((scores.sum(1) - 1).abs() < _TOLERANCE).all() else "sigmoid"
