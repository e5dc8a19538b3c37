"""The number that a map explains: a class's logit, a difference of two, or a function of the output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from whycam.errors import UserError
from whycam.model.cut.output import read_logits


def make_score(
    target: Tensor,
    function: Callable[[Any], Tensor] | None,
    versus: int | None,
    logits: Tensor,
    output: str | int | None,
) -> Callable[[object, Tensor], Tensor]:
    """(model output, rows (B,)) -> (B,) float32: the number that is explained.

    Of a class its logit; with `versus` the difference of two logits; of a single logit the side that it predicts:
    the logit where it is positive, else its negative, so that the map shows the evidence for the answer given.

    Args:
        target: (N,) class of each image.
        function: of the output, instead of a class.
        versus: a second class.
        logits: (N, K) of the images.
        output: the entry of a structured output.
    """
    side = torch.ones(len(target), device=logits.device)
    if logits.shape[1] == 1:
        side = torch.where(logits[:, 0] < 0, -side, side)

    def score(result: object, rows: Tensor) -> Tensor:
        if function is not None:
            return check_scores(function(result), rows)
        chosen = read_logits(result, output).float()
        value = chosen.gather(1, target[rows, None])[:, 0] * side[rows].to(chosen.dtype)
        return value if versus is None else value - chosen[:, versus]

    return score


def check_scores(value: object, rows: Tensor) -> Tensor:
    """The values of a target function, (B,) float32.

    Raises:
        UserError: not one number for each image.
    """
    if not isinstance(value, Tensor) or value.shape != rows.shape:
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise UserError(
            f"A target function must give one number for each image, ({len(rows)},); got {found}. "
            "Sum or average over the other axes."
        )
    return value.float()
