"""What a map explains: class names and indices, several of them, or any number made of the output."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from whycam.errors import UserError, make_unknown_name
from whycam.model.output import select_output

Target = int | str | Sequence[int | str] | Tensor | Callable[[Any], Tensor] | None


def find_class(word: int | str, class_names: Sequence[str]) -> int:
    """The index of a class given by name (case is forgiven where one name fits) or by index.

    Raises:
        UserError: no such class; the nearest names are in the message.
    """
    word = _to_plain(word)
    if isinstance(word, bool) or not isinstance(word, int | str):
        raise UserError(f"A class must be an index or a name; got {word!r} ({type(word).__name__}).")
    if isinstance(word, str) and word in class_names:
        return class_names.index(word)
    if isinstance(word, int) or word.removeprefix("-").isdecimal():
        number = int(word)
        if not 0 <= number < len(class_names):
            raise UserError(
                f"Class index {number} is outside 0..{len(class_names) - 1}. "
                f"Give one of the {len(class_names)} classes."
            )
        return number
    folded = [k for k, name in enumerate(class_names) if name.casefold() == word.casefold()]
    if len(folded) == 1:
        return folded[0]
    raise make_unknown_name("class", word, class_names)


def _to_plain(word: Any) -> Any:
    """A whole number of numpy as Python's; anything else as it is."""
    is_number = not isinstance(word, bool | Tensor) and hasattr(word, "__index__")
    return operator.index(word) if is_number else word


def number_classes(class_names: Sequence[str] | None, logits: Tensor) -> tuple[str, ...]:
    """K names: the given ones, or numbers.

    Raises:
        UserError: as many names as there are logits were not given.
    """
    count = logits.shape[1]
    if class_names is None:
        return tuple(f"class {k}" for k in range(count))
    if len(class_names) != count:
        raise UserError(
            f"Found {len(class_names)} class names for {count} logits; expected as many. Give {count} names."
        )
    return tuple(class_names)


def describe_target(target: Target) -> str | int:
    """What is recorded of the target."""
    if target is None:
        return "predicted"
    return target if isinstance(target, str | int) else type(target).__name__


def resolve_target(target: Target, logits: Tensor, class_names: Sequence[str]) -> tuple[Tensor, bool]:
    """(N, T) class indices, and whether one target, not a list of them, was asked for.

    Args:
        target: see `whycam.explain`.
        logits: (N, K).
        class_names: K names.

    Raises:
        UserError: an unknown class, or a tensor that has not one index for each image.
    """
    target = _to_plain(target)
    count, classes = logits.shape
    if callable(target) and not isinstance(target, Tensor):
        return torch.full((count, 1), -1, device=logits.device), True
    if target is None or target == "predicted" if not isinstance(target, Tensor) else False:
        return logits.argmax(dim=1, keepdim=True), True
    if isinstance(target, Tensor):
        return _check_indices(target, count, classes).to(logits.device)[:, None], True
    if isinstance(target, str) and target.startswith("top:"):
        return logits.topk(_read_count(target, classes), dim=1).indices, False
    if isinstance(target, str) and target == "all":
        indices, is_single = list(range(classes)), False
    elif isinstance(target, int | str):
        indices, is_single = [find_class(target, class_names)], True
    elif isinstance(target, Sequence) and len(target):
        indices, is_single = [find_class(word, class_names) for word in target], False
    else:
        raise UserError(
            f"target must be a class, a list of classes, a tensor or a function; got {target!r}. "
            "Leave it out for the predicted class."
        )
    return torch.tensor(indices, device=logits.device).expand(count, -1), is_single


def _check_indices(target: Tensor, count: int, classes: int) -> Tensor:
    if target.shape != (count,) or target.is_floating_point():
        raise UserError(
            f"A target tensor must be ({count},) whole numbers, one class for each image; got {tuple(target.shape)} "
            f"of {target.dtype}. "
            "For several classes of every image pass a list."
        )
    if bool(((target < 0) | (target >= classes)).any()):
        raise UserError(
            f"Target indices {target.tolist()} are not all in 0..{classes - 1}. Give classes of this model."
        )
    return target.long()


def _read_count(target: str, classes: int) -> int:
    word = target.removeprefix("top:")
    if not word.isdecimal() or not 1 <= int(word) <= classes:
        raise UserError(f"Target {target!r} asks for {word!r} classes; expected top:N with N from 1 to {classes}.")
    return int(word)


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
        chosen = select_output(result, output).float()
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


def to_probabilities(logits: Tensor) -> Tensor:
    """(N, K): softmax; of a single logit its sigmoid."""
    return logits.float().sigmoid() if logits.shape[1] == 1 else logits.float().softmax(dim=1)


def describe_side(logits: Tensor, class_names: Sequence[str]) -> list[str]:
    """For each image of a single-logit model (N, 1), which side its map explains."""
    return [
        f"The model gives one logit, {value:.3g} here: the map shows the evidence for "
        + (
            f"'not {class_names[0]}' (probability {1 - share:.3g})."
            if value < 0
            else f"{class_names[0]!r} (probability {share:.3g})."
        )
        for value, share in zip(logits[:, 0].tolist(), logits[:, 0].sigmoid().tolist(), strict=True)
    ]


def describe_blank(
    maps: Tensor, target: Sequence[int], class_names: Sequence[str], why_zero: Sequence[str]
) -> list[str]:
    """Sentences on each map (T, h, w) that shows nothing: not finite, zero, flat, or without evidence for.

    Args:
        maps: raw maps of one image.
        target: T class indices.
        class_names: K names.
        why_zero: for each map, the reason if it is zero everywhere.
    """
    notes = []
    for values, index, reason in zip(maps, target, why_zero, strict=True):
        name = class_names[index] if 0 <= index < len(class_names) else "the score"
        bad = int((~values.isfinite()).sum())
        if bad:
            notes.append(
                f"{bad} of {values.numel()} cells of the map of {name!r} are not finite: look for NaN "
                "in the photo's features or the weights."
            )
        elif not bool(values.any()):
            notes.append(f"The map of {name!r} is zero everywhere: {reason}.")
        elif float(values.max()) == float(values.min()):
            notes.append(f"The map of {name!r} is flat: every place counts the same.")
        elif float(values.max()) <= 0:
            notes.append(
                f"The map of {name!r} has no positive value: every place speaks against it, and the heatmap is empty."
            )
    return notes
