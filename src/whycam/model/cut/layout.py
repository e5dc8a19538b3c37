"""Where a layer's output keeps its channels, its cells and its prefix tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from whycam.errors import UserError

Kind = Literal["channels first", "channels last", "tokens"]
_MOST_PREFIX_TOKENS = 16  # class, distillation and register tokens together
_USUAL_PREFIXES = (0, 1, 2, 5)


@dataclass(frozen=True)
class Layout:
    """How to read features (N, C, h, w) off a layer's raw output, and how to write them back.

    Attributes:
        kind: the axis order of the raw output.
        prefix: tokens before the first patch (class, distillation, registers).
        grid: (h, w) of the patch tokens; empty unless `kind` is "tokens".
    """

    kind: Kind
    prefix: int = 0
    grid: tuple[int, ...] = ()

    def read(self, raw: Tensor) -> Tensor:
        """Features (N, C, h, w) of a raw output: a view, or a float32 copy where it is half precision."""
        if self.kind == "tokens":
            if raw.shape[1] != self.prefix + math.prod(self.grid):
                raise UserError(
                    f"The layer gave {raw.shape[1]} tokens; expected {self.prefix} + "
                    f"{' x '.join(map(str, self.grid))}. Cut the model again for images of this size."
                )
            raw = raw[:, self.prefix :].reshape(len(raw), *self.grid, -1)
        features = raw if self.kind == "channels first" else raw.movedim(-1, 1)
        return features.float() if features.dtype in {torch.float16, torch.bfloat16} else features

    def write(self, features: Tensor, prefix: Tensor, dtype: torch.dtype) -> Tensor:
        """A new raw output of that dtype with these features, behind the prefix tokens (N, prefix, C)."""
        features = features.to(dtype)
        if self.kind == "channels first":
            return features.clone()  # the model may write into it
        raw = features.movedim(1, -1)
        if self.kind == "channels last":
            return raw.clone(memory_format=torch.contiguous_format)
        return torch.cat([prefix.to(dtype), raw.flatten(1, -2)], dim=1)

    def read_prefix(self, raw: Tensor) -> Tensor:
        """The prefix tokens (N, prefix, C); no tokens where there are none."""
        return raw[:, : self.prefix] if self.kind == "tokens" else raw[:, :0]

    def __str__(self) -> str:
        if self.kind != "tokens":
            return self.kind
        prefix = f" after {self.prefix} prefix token{'s'[: self.prefix > 1]}" if self.prefix else ""
        return f"tokens, grid {'x'.join(map(str, self.grid))}{prefix}"


@dataclass(frozen=True)
class Hints:
    """What a model says about its layouts.

    Attributes:
        prefix: the number of prefix tokens, where the model states it.
        norm_widths: sizes of the last axis that its LayerNorms expect.
        grids: cell grids of the convolutions that have run so far, first to last.
        tokens: how many tokens the latest row of them had; 0 where there was none.
    """

    prefix: int | None = None
    norm_widths: frozenset[int] = frozenset()
    grids: Sequence[tuple[int, ...]] = ()
    tokens: int = 0


def find_layout(raw_shape: tuple[int, ...], image_shape: tuple[int, ...], hints: Hints) -> Layout | None:
    """The layout of an output of that shape for images (N, channels, ...) of that shape; None if it isn't spatial."""
    size, dims = image_shape[2:], len(image_shape)
    if len(raw_shape) < 3 or raw_shape[0] != image_shape[0] or 0 in raw_shape:
        return None
    if len(raw_shape) == dims:
        layout = _find_axis_order(raw_shape, size, hints)
        cells = raw_shape[2:] if layout.kind == "channels first" else raw_shape[1:-1]
        is_attention = hints.tokens and (_distortion(cells, size) > 1.5 or raw_shape[2] == hints.tokens)
        return layout if math.prod(cells) > 1 and not is_attention else None  # (N, heads, L, width) has no cells
    if len(raw_shape) == 3:
        return _find_grid(raw_shape[1], size, hints)
    return None


def read_cells(layout: Layout, raw_shape: tuple[int, ...]) -> tuple[int, ...]:
    """(h, w) of an output of that shape."""
    if layout.kind == "tokens":
        return layout.grid
    return raw_shape[2:] if layout.kind == "channels first" else raw_shape[1:-1]


def is_odd(layout: Layout, raw_shape: tuple[int, ...], hints: Hints) -> bool:
    """Whether no convolution's grid, as it is or halved again and again, has that many cells, or a prefix is unusual.

    A window padded to a fixed size is odd; so are attention matrices.
    """
    if not hints.grids:
        return False
    cells = read_cells(layout, raw_shape)
    halved = {
        tuple(round_up(length / stride) for length in grid)
        for grid in hints.grids
        for stride in (1, 2, 4, 8)
        for round_up in (math.floor, math.ceil)
    }
    return cells not in halved or layout.prefix not in {hints.prefix, *_USUAL_PREFIXES}


def _find_axis_order(raw_shape: tuple[int, ...], size: tuple[int, ...], hints: Hints) -> Layout:
    first, last = _distortion(raw_shape[2:], size), _distortion(raw_shape[1:-1], size)
    if (raw_shape[-1] in hints.norm_widths and last <= first) or 4 * last < first:
        return Layout("channels last")
    return Layout("channels first")


def _find_grid(tokens: int, size: tuple[int, ...], hints: Hints) -> Layout | None:
    known = [] if hints.prefix is None else [hints.prefix]
    for usual in (known, _USUAL_PREFIXES):
        for grid in reversed(hints.grids):
            if tokens - math.prod(grid) in usual and math.prod(grid) > 1:
                return Layout("tokens", tokens - math.prod(grid), grid)
    for grid in reversed(hints.grids):
        if math.prod(grid) > 1 and 0 <= tokens - math.prod(grid) <= _MOST_PREFIX_TOKENS:
            return Layout("tokens", tokens - math.prod(grid), grid)
    for prefix in (*known, *_USUAL_PREFIXES):
        if found := _grid_of_ratio(tokens - prefix, size):
            return Layout("tokens", prefix, found)
    return None


def _grid_of_ratio(cells: int, size: tuple[int, ...]) -> tuple[int, ...] | None:
    """The grid of that many cells with square-like cells; None if there is no such grid."""
    if cells < 2:
        return None
    stride = (math.prod(size) / cells) ** (1 / len(size))
    grid = tuple(max(1, round(length / stride)) for length in size)
    return grid if math.prod(grid) == cells else None


def _distortion(cells: Sequence[int], size: Sequence[int]) -> float:
    """Largest over smallest stride: 1 where cells are as square as pixels."""
    strides = [length / count for length, count in zip(size, cells, strict=True)]
    return max(strides) / min(strides)
