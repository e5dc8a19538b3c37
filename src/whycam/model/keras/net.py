"""A Keras model as an nn.Module: its graph, walked operation by operation, so that hooks see what each layer gives.

Between operations images and maps are (N, C, h, w), whatever Keras calls the last axis; inside they are as Keras has
them. Weights are the modules' own, and a Keras layer serves as code alone: a copy of the network is a copy, and moving
it to a device moves it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from whycam.model.keras.library import import_keras

_IMAGE_AXES = 4


@dataclass(frozen=True)
class Slot:
    """A tensor in the graph, by its number."""

    number: int


@dataclass(frozen=True)
class Step:
    """One call of one operation.

    Attributes:
        name: the module's.
        args, kwargs: of the call, with a Slot in the place of each tensor.
        gives: the numbers of the tensors that come back.
        drops: those that no later step reads.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    gives: tuple[int, ...]
    drops: tuple[int, ...] = ()

    @property
    def reads(self) -> list[int]:
        """The numbers of the tensors that go in."""
        return [leaf.number for leaf in iter_leaves((self.args, self.kwargs)) if isinstance(leaf, Slot)]


class KerasGraph(nn.Module):
    """A functional or sequential model, or one inside another.

    Attributes:
        steps: in the order in which they run.
        takes: the numbers of its inputs.
        gives: the numbers of its outputs.
    """

    def __init__(self, steps: list[Step], parts: dict[str, nn.Module], takes: list[int], gives: list[int]) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.steps, self.takes, self.gives = _drop_early(steps, gives), takes, gives

    def forward(self, inputs: Any) -> Any:
        """Outputs as tensors, in a list where there are several."""
        values = dict(zip(self.takes, iter_leaves(inputs), strict=True))
        for step in self.steps:
            output = self.get_submodule(step.name)(*fill(step.args, values), **fill(step.kwargs, values))
            values.update(zip(step.gives, iter_leaves(output), strict=True))
            for number in step.drops:
                values.pop(number, None)
        outputs = [values[number] for number in self.gives]
        return outputs[0] if len(outputs) == 1 else outputs


class KerasClassifier(KerasGraph):
    """A whole model with one input and, of its outputs, the one that is a classifier's."""

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) float32 in the range that the file expects -> (N, K)."""
        output: Tensor = super().forward(images)
        return output.flatten(1).float()


class KerasOperation(nn.Module):
    """A Keras layer or operation of a graph, in inference mode."""

    def __init__(self, operation: Any, *, is_channels_last: bool) -> None:
        super().__init__()
        self.code = _Code(operation)
        self.is_channels_last = is_channels_last
        trainable = _find_trainable(operation)
        for index, variable in enumerate(getattr(operation, "weights", ())):
            name = variable.path.removeprefix(f"{operation.name}/").replace("/", "_").replace(".", "_")
            name = f"{name}_{index}" if hasattr(self, name) else name
            value = own_tensor(variable)
            if id(variable) in trainable and value.is_floating_point():
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)
            self.code.names.append(name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the operation gives."""
        if not self.is_channels_last:
            return self.code(self, args, kwargs)
        return _map(self.code(self, _map(args, _to_last), _map(kwargs, _to_last)), to_first)

    def extra_repr(self) -> str:
        """The Keras class."""
        return type(self.code.operation).__name__


class _Code:
    """What a Keras layer does, without its weights; copies of a network share it."""

    def __init__(self, operation: Any) -> None:
        self.operation = operation
        self.names: list[str] = []
        self.keras = import_keras()
        # Layers that draw at random are by default in training mode.
        self.has_mode = "training" in inspect.signature(operation.call).parameters

    def __deepcopy__(self, _memo: object) -> _Code:
        return self

    def __call__(self, owner: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.has_mode:
            kwargs = {**kwargs, "training": False}
        devices = {leaf.device for leaf in iter_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        with ExitStack() as scopes:
            # Keras takes any tensor to the device of its scope, constants of the graph too, and by default to a GPU.
            device = max(devices, key=lambda device: device.type != "cpu")
            scopes.enter_context(self.keras.device(str(device)))
            if self.names:
                own = [getattr(owner, name) for name in self.names]
                scopes.enter_context(self.keras.StatelessScope(list(zip(self.operation.weights, own, strict=True))))
            return self.operation(*args, **kwargs)


class Handed(nn.Module):
    """What hands its first argument on, in the place of a layer that was taken off."""

    def forward(self, values: Tensor, *_args: object, **_kwargs: object) -> Tensor:
        """The values."""
        return values


def own_tensor(variable: Any) -> Tensor:
    """A Keras variable's tensor, usable in a graph even where it was made in inference mode."""
    value: Tensor = getattr(variable, "value", variable)  # a kernel with LoRA is a sum
    return value.clone() if value.is_inference() else value.detach()


def to_first(leaf: Any) -> Any:
    """An image or map (N, h, w, C) as (N, C, h, w); anything else as it is."""
    return leaf.permute(0, 3, 1, 2) if isinstance(leaf, Tensor) and leaf.ndim == _IMAGE_AXES else leaf


def iter_leaves(tree: Any) -> Iterator[Any]:
    """What is in nested lists, tuples and dicts, in Keras's order."""
    if isinstance(tree, dict):
        for key in sorted(tree):
            yield from iter_leaves(tree[key])
    elif isinstance(tree, list | tuple):
        for entry in tree:
            yield from iter_leaves(entry)
    else:
        yield tree


def _map(tree: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(tree, dict):
        return {key: _map(entry, change) for key, entry in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_map(entry, change) for entry in tree)
    return change(tree)


def fill(tree: Any, values: dict[int, Any]) -> Any:
    """The same arguments with tensors in the place of slots."""
    return _map(tree, lambda leaf: values[leaf.number] if isinstance(leaf, Slot) else leaf)


def _to_last(leaf: Any) -> Any:
    return leaf.permute(0, 2, 3, 1) if isinstance(leaf, Tensor) and leaf.ndim == _IMAGE_AXES else leaf


def _drop_early(steps: list[Step], gives: list[int]) -> list[Step]:
    """The same steps, each of which lets go what nothing after it reads: else all maps would stay in memory."""
    needed, kept = set(gives), []
    for step in reversed(steps):
        last = {*step.reads, *step.gives} - needed
        kept.append(replace(step, drops=tuple(sorted(last))))
        needed.update(step.reads)
    return kept[::-1]


def _find_trainable(operation: Any) -> set[int]:
    """The ids of the variables that training would change, in a frozen layer too."""
    if not hasattr(operation, "trainable"):
        return set()
    was = operation.trainable
    if not was:
        operation.trainable = True
    found = {id(variable) for variable in operation.trainable_weights}
    if not was:
        operation.trainable = False
    return found
