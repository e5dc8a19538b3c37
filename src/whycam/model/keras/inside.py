"""The preprocessing that a Keras model does itself: what its first layers make of a photo's values is measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from whycam.model.keras.net import KerasGraph, KerasOperation

# What may stand between a photo and the first layer that learns: of one value, or of several of the same place.
_SCALES = {"Rescaling", "Normalization", "Add", "Subtract", "Multiply", "TrueDivide", "Divide"}
_NEUTRAL = {"Resizing", "CenterCrop", "Identity", "Cast", "GetItem", "Flip", "Stack", "Concatenate"}
_AT_RANDOM = "Random"  # how layers begin that augment, in training alone


@dataclass(frozen=True)
class Inside:
    """What the first layers tell of the input.

    Attributes:
        highest: the value of white: 255 or 1; None where they don't tell.
        reason: a clause on where that is known from, or why it isn't.
    """

    highest: float | None
    reason: str


@dataclass(frozen=True)
class _First:
    """The beginning of a graph, up to the one tensor that all the rest reads.

    Attributes:
        names: of the layers that scale.
        run: the layers.
        is_whole: nothing else is in the graph.
    """

    names: list[str]
    run: nn.Module
    is_whole: bool


def read_inside(graph: KerasGraph, channels: int, height_px: int, width_px: int) -> Inside:
    """What a model's first layers tell of the range of its input."""
    first = _find_first(graph)
    if first is None or not first.names:
        return Inside(None, "nothing inside the Keras model scales its input, so the file doesn't say its range")
    names = [repr(name) for name in first.names]
    told = f"layers {names[0]} to {names[-1]}" if names[1:] else f"layer {names[0]}"
    found = _measure(first.run, torch.zeros(1, channels, height_px, width_px))
    if found is None:
        return Inside(None, f"the input isn't just scaled and shifted by {told} inside the Keras model")
    does = f"{told} inside the Keras model {'take' if names[1:] else 'takes'} x to {_tell(*found)}"
    highest = _find_highest(*found)
    if highest is None:
        return Inside(None, f"{does}, which doesn't tell whether the input is 0 to 255 or 0 to 1")
    return Inside(highest, f"{does}, so its input is 0 to {highest:g}")


def _find_first(graph: KerasGraph, prefix: str = "") -> _First | None:
    """The beginning of a graph; goes on into a graph inside that is all that reads it."""
    known, steps, behind, names = set(graph.takes), [], [], []
    for step in graph.steps:
        part = graph.get_submodule(step.name)
        found = _read_part(part, f"{prefix}{step.name}") if known.issuperset(step.reads) else None
        if found is None:
            behind.append(step)
        else:
            names += found
            steps.append(step)
            known.update(step.gives)
    ends = known.intersection([number for step in behind for number in step.reads] + graph.gives)
    if len(ends) != 1:
        return None
    parts = {step.name: graph.get_submodule(step.name) for step in steps}
    run: nn.Module = KerasGraph(steps, parts, graph.takes, list(ends))
    readers = [step for step in behind if ends.intersection(step.reads)]
    if len(readers) == 1 and isinstance(part := graph.get_submodule(readers[0].name), KerasGraph):
        inner = _find_first(part, f"{prefix}{readers[0].name}.")
        if inner is not None:
            return _First(names + inner.names, nn.Sequential(run, inner.run), is_whole=False)
    return _First(names, run, not behind)


def _read_part(part: nn.Module, name: str) -> list[str] | None:
    """The names of the layers in it that scale; None where it is no preprocessing."""
    if isinstance(part, KerasGraph):
        inner = _find_first(part, f"{name}.")
        return inner.names if inner is not None and inner.is_whole else None
    kind = type(part.code.operation).__name__ if isinstance(part, KerasOperation) else ""
    if kind in _SCALES:
        return [name]
    return [] if kind in _NEUTRAL or kind.startswith(_AT_RANDOM) else None


@torch.no_grad()
def _measure(run: nn.Module, black: Tensor) -> tuple[Tensor, Tensor] | None:
    """(C,) scale and (C,) offset, by channel of the output; None if it is not that, or mixes channels."""
    channels = black.shape[1]
    # Black, white, grey, and each channel alone.
    alone = [black + torch.eye(channels)[i].view(1, -1, 1, 1) * 255 for i in range(channels)]
    values = run(torch.cat([black, black + 255, black + 100, *alone]))
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
    is_unit = width.max() <= 1 and (width.max() < 0.1 or (centre.min() > 0.2 and centre.max() < 0.8))
    return 1.0 if is_unit else None


def _tell(scale: Tensor, offset: Tensor) -> str:
    """The formula, in the channels' own order."""
    pairs = [f"{a:.4g} x {b:+.4g}" if b else f"{a:.4g} x" for a, b in zip(scale.tolist(), offset.tolist(), strict=True)]
    return " | ".join(dict.fromkeys(pairs))
