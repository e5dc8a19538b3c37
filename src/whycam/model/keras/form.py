"""What goes into a Keras model, and which of its outputs is a classifier's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from whycam.errors import UserError
from whycam.model.keras.build import is_graph

_MOST_PX = 4096  # as in Preprocess
_CHANNELS = (1, 3, 4)
_Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Form:
    """Input and output.

    Attributes:
        channels: of the input.
        height_px, width_px: None where any size is taken.
        is_channels_last: how the model holds images.
        output: the number of the output that has the scores.
        class_count: K.
    """

    channels: int
    height_px: int | None
    width_px: int | None
    is_channels_last: bool
    output: int
    class_count: int


def read_form(model: Any, name: str) -> Form:
    """The form of an image classifier.

    Raises:
        UserError: no graph, several inputs, no images, no scores (N, K), or several.
    """
    if not is_graph(model):
        raise UserError(
            f"{name} ({type(model).__name__}) has no graph of layers: it is a class with a call of its own, or "
            "was never built. Expected a functional or sequential model with keras.Input(shape=(height, width, 3)). In "
            "Python, build one around it: keras.Model(images, model(images))."
        )
    if len(model.inputs) != 1:
        raise UserError(
            f"{name} has {len(model.inputs)} inputs, {_list(model.inputs)}; expected one, for images. In Python, "
            "fix the others: a keras.Model of the image input alone that passes constants for them."
        )
    shape = tuple(model.inputs[0].shape)
    if len(shape) != 4:
        raise UserError(
            f"{name} takes input of shape {shape}; expected images, (None, height, width, channels). "
            "Only image classifiers have class maps."
        )
    is_last = _is_channels_last(model, shape)
    channels, height, width = (shape[3], shape[1], shape[2]) if is_last else shape[1:]
    if channels is None or max(height or 0, width or 0) > _MOST_PX:
        raise UserError(
            f"{name} takes input of shape {shape}; expected a known number of channels and at most {_MOST_PX} pixels a "
            "side. Build it with keras.Input(shape=(height, width, 3))."
        )
    output = _find_output(model, name)
    return Form(channels, height, width, is_last, output, int(model.outputs[output].shape[-1 if is_last else 1]))


def _is_channels_last(model: Any, shape: _Shape) -> bool:
    said = set(_iter_formats(model))
    if len(said) == 1:
        return said == {"channels_last"}
    return shape[3] in _CHANNELS or shape[1] not in _CHANNELS


def _iter_formats(model: Any) -> Iterator[str]:
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _iter_formats(layer)
        elif getattr(layer, "data_format", None) in {"channels_last", "channels_first"}:
            yield layer.data_format


def _find_output(model: Any, name: str) -> int:
    """The output shaped like scores: (N, K), or (N, 1, 1, K) as some networks of convolutions alone have it."""
    shapes: list[_Shape] = [tuple(tensor.shape) for tensor in model.outputs]
    fitting = [index for index, shape in enumerate(shapes) if len(shape) == 2 and shape[1]] or [
        index for index, shape in enumerate(shapes) if len(shape) == 4 and sorted(map(str, shape))[:2] == ["1", "1"]
    ]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UserError(
            f"{name} has {len(fitting)} outputs that could be the scores: {_list(model.outputs)}. In Python, make "
            f"a model of one: keras.Model(model.input, model.outputs[{fitting[0]}]), and save it."
        )
    raise UserError(
        f"{name} gives {_list(model.outputs)}; expected scores (None, classes). A network without its top "
        "(include_top=False), a detector or a segmenter is no classifier: add pooling and a Dense layer and train "
        "them, or: whycam train FOLDER."
    )


def _list(tensors: Any) -> str:
    return ", ".join(f"{tensor.name} {tuple(tensor.shape)}" for tensor in tensors)
