"""The preprocessing that a Keras model does itself: what its first layers make of a photo's values is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from whycam.model.keras.net import KerasGraph, KerasOperation, Step, fill

# What may stand between a photo and the first layer that learns.
_SCALES = {"Rescaling", "Normalization", "Add", "Subtract", "Multiply", "TrueDivide", "Divide", "GetItem", "Cast", "Flip"}
_NEUTRAL = {"Resizing", "CenterCrop", "Identity"}
_AT_RANDOM = "Random"  # how layers begin that augment, in training alone


@dataclass(frozen=True)
class Inside:
    """What the first layers tell of the input.

    Attributes:
        highest: the value of white: 255 or 1; None where they don't tell.
        reason: a sentence on where that is known from, or why it isn't.
    """

    highest: float | None
    reason: str


@dataclass(frozen=True)
class _First:
    """A layer at the beginning of a chain."""

    name: str
    is_scale: bool
    run: Callable[[Tensor], Tensor]


def read_inside(graph: KerasGraph, channels: int, height_px: int, width_px: int) -> Inside:
    """What a model's first layers tell of the range of its input."""
    firsts, _ = _list_first(graph)
    while firsts and not firsts[-1].is_scale:
        firsts.pop()
    if not firsts:
        return Inside(None, "nothing inside the Keras model scales its input, so the file doesn't say its range")
    told = " and ".join(repr(first.name) for first in firsts if first.is_scale)
    found = _measure(firsts, torch.zeros(1, channels, height_px, width_px))
    if found is None:
        return Inside(None, f"what {told} inside the Keras model does to its input isn't a scale and shift a channel")
    does = f"{told} inside the Keras model takes x to {_tell(*found)}"
    highest = _find_highest(*found)
    if highest is None:
        return Inside(None, f"{does}, which doesn't tell whether the input is 0 to 255 or 0 to 1")
    return Inside(highest, f"{does}, so its input is 0 to {highest:g}")


def _list_first(graph: KerasGraph, prefix: str = "") -> tuple[list[_First], bool]:
    """The chain of layers from the input to the first that learns, and whether it goes on behind the graph's end."""
    found: list[_First] = []
    current = graph.takes[0]
    while True:
        readers = [step for step in graph.steps if current in step.reads]
        if not readers:
            return found, current in graph.gives
        step = readers[0]
        if len(readers) > 1 or step.reads != [current] or len(step.gives) != 1:
            return found, False
        part = graph.get_submodule(step.name)
        if isinstance(part, KerasGraph):
            inner, goes_on = _list_first(part, f"{prefix}{step.name}.")
            found += inner
            if not goes_on:
                return found, False
        elif isinstance(part, KerasOperation) and (kind := type(part.code.operation).__name__).startswith(
            (_AT_RANDOM, *_SCALES, *_NEUTRAL)
        ):
            found.append(_First(f"{prefix}{step.name}", kind in _SCALES, _bind(part, step, current)))
        else:
            return found, False
        current = step.gives[0]


def _bind(part: KerasOperation, step: Step, number: int) -> Callable[[Tensor], Tensor]:
    def run(images: Tensor) -> Tensor:
        output: Tensor = part(*fill(step.args, {number: images}), **fill(step.kwargs, {number: images}))
        return output

    return run


@torch.no_grad()
def _measure(firsts: list[_First], black: Tensor) -> tuple[Tensor, Tensor] | None:
    """(C,) scale and (C,) offset, by channel of the output; None if it is not that, or mixes channels."""
    channels = black.shape[1]
    # Black, white, grey, and each channel alone.
    alone = [black + torch.eye(channels)[i].view(1, -1, 1, 1) * 255 for i in range(channels)]
    values = torch.cat([black, black + 255, black + 100, *alone])
    for first in firsts:
        values = first.run(values)
    if values.ndim != black.ndim or values.shape[1] != channels:
        return None
    flat = values.double().flatten(2)
    dark, white, grey, rows = flat[0, :, 0], flat[1, :, 0], flat[2, :, 0], flat[3:, :, 0]
    scale = (white - dark) / 255
    is_even = torch.allclose(flat, flat[:, :, :1].expand_as(flat), rtol=1e-4, atol=1e-5)
    is_straight = torch.allclose(grey, dark + 100 * scale, rtol=1e-4, atol=1e-4)
    is_apart = all(int(((row - dark).abs() > 1e-6).sum()) == 1 for row in rows)
    return (scale, dark) if is_even and is_straight and is_apart and bool((scale != 0).all()) else None


def _find_highest(scale: Tensor, offset: Tensor) -> float | None:
    """White's value: layers that scale are there to bring photos near 0, in a range of a few units."""
    centre, width = -offset / scale, 1 / scale.abs()
    if torch.allclose(scale, torch.ones_like(scale)) and not offset.any():
        return None
    if centre.abs().max() > 2 or width.min() > 8:
        return 255.0
    # Values of -1 to 1 have their centre at 0.
    is_unit = width.max() <= 1 and (width.max() < 0.1 or (0.2 < centre.min() and centre.max() < 0.8))
    return 1.0 if is_unit else None


def _tell(scale: Tensor, offset: Tensor) -> str:
    """The formula, in the channels' own order."""
    pairs = [f"{a:.4g} x {b:+.4g}" if b else f"{a:.4g} x" for a, b in zip(scale.tolist(), offset.tolist(), strict=True)]
    return " | ".join(dict.fromkeys(pairs))
