"""What a map explains: class names and indices, several of them, or any number made of the output."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from whycam.errors import UserError, make_unknown_name
from whycam.runs import to_text

if TYPE_CHECKING:
    from torch import Tensor

Target: TypeAlias = "int | str | Sequence[int | str] | np.ndarray | Tensor | Callable[[Any], Tensor] | None"


def find_class(word: int | str, class_names: Sequence[str]) -> int:
    """The index of a class.

    A whole number is an index. A word is the first of these that fits: the name of a class; `class:NAME`, for a name
    that has another meaning too, such as all; `index:N`; where no class is named by a number, an index; the one name
    that differs in case only. So a number in a word never means a place among classes that numbers name.

    Raises:
        UserError: no such class; the nearest names are in the message.
    """
    word = _to_plain(word)
    if isinstance(word, bool) or not isinstance(word, int | str):
        raise UserError(f"A class must be an index or a name; got {word!r} ({type(word).__name__}).")
    if isinstance(word, int):
        return _check_index(word, len(class_names))
    word = to_text(word)  # as class folders are named, whatever the terminal's encoding
    if word in class_names:
        return class_names.index(word)
    kind, _, rest = word.partition(":")
    if kind == "index" and _is_number(rest):
        return _check_index(int(rest), len(class_names))
    if kind == "class":
        return _find_name(rest, class_names)
    if _is_number(word) and not any(map(_is_number, class_names)):
        return _check_index(int(word), len(class_names))
    return _find_name(word, class_names)


def seek_class(word: int | str, class_names: Sequence[str]) -> int | None:
    """As `find_class`; None where there is no such class."""
    try:
        return find_class(word, class_names)
    except UserError:
        return None


def _find_name(word: str, class_names: Sequence[str]) -> int:
    if word in class_names:
        return class_names.index(word)
    folded = [k for k, name in enumerate(class_names) if name.casefold() == word.casefold()]
    if len(folded) == 1:
        return folded[0]
    error = make_unknown_name("class", word, class_names)
    if _is_number(word) and any(map(_is_number, class_names)):
        raise UserError(f"{error} Since numbers are names of classes here, the class at a place is 'index:{word}'.")
    raise error


def _is_number(word: str) -> bool:
    return word.removeprefix("-").isdecimal()


def _check_index(number: int, count: int) -> int:
    if not 0 <= number < count:
        raise UserError(f"Class index {number} is outside 0..{count - 1}. Give one of the {count} classes.")
    return number


def _to_plain(word: Any) -> Any:
    """A whole number of numpy as Python's; anything else as it is."""
    is_number = not isinstance(word, bool) and getattr(word, "shape", ()) == () and hasattr(word, "__index__")
    return operator.index(word) if is_number else word


def number_classes(class_names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """K names: the given ones, or numbers.

    Raises:
        UserError: as many names as there are logits were not given.
    """
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


def resolve_target(target: Target, logits: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """(N, T) class indices; T is 1 where `is_one`.

    Args:
        target: see `whycam.explain`; words as in `find_class`, but that predicted, all and top:N are no names here.
        logits: (N, K).
        class_names: K names.

    Raises:
        UserError: an unknown class, or an array that has not one index for each image.
    """
    target = _to_plain(_to_array(target))
    count, classes = logits.shape
    if isinstance(target, np.ndarray):
        return _check_indices(target, count, classes)[:, None]
    if callable(target):
        return np.full((count, 1), -1)
    if target is None or target == "predicted":
        return np.asarray(logits.argmax(1))[:, None]
    if isinstance(target, str) and target.startswith("top:"):
        return (-logits).argsort(1, kind="stable")[:, : _read_count(target, classes)]
    if isinstance(target, str) and target == "all":
        indices = list(range(classes))
    elif isinstance(target, int | str):
        indices = [find_class(target, class_names)]
    elif isinstance(target, Sequence) and len(target):
        indices = [find_class(word, class_names) for word in target]
    else:
        raise UserError(
            f"target must be a class, a list of classes, a tensor or a function; got {target!r}. "
            "Leave it out for the predicted class."
        )
    return np.tile(np.array(indices, dtype=np.int64), (count, 1))


def _to_array(target: Target) -> Target:
    """A tensor as an array, without torch."""
    if not hasattr(target, "detach"):
        return target
    tensor: Any = target
    return np.asarray((tensor.float() if tensor.is_floating_point() else tensor).detach().cpu().numpy())


def is_one(target: Target) -> bool:
    """Whether one target was asked for, not a list of them."""
    is_list = isinstance(target, Sequence) and not isinstance(target, str)
    return not (is_list or (isinstance(target, str) and (target == "all" or target.startswith("top:"))))


def _check_indices(target: np.ndarray, count: int, classes: int) -> np.ndarray:
    if target.shape != (count,) or target.dtype.kind not in "iu":
        raise UserError(
            f"A target tensor must be ({count},) whole numbers, one class for each image; got {target.shape} "
            f"of {target.dtype}. "
            "For several classes of every image pass a list."
        )
    if ((target < 0) | (target >= classes)).any():
        raise UserError(
            f"Target indices {target.tolist()} are not all in 0..{classes - 1}. Give classes of this model."
        )
    return target.astype(np.int64)


def _read_count(target: str, classes: int) -> int:
    word = target.removeprefix("top:")
    if not word.isdecimal() or not 1 <= int(word) <= classes:
        raise UserError(f"Target {target!r} asks for {word!r} classes; expected top:N with N from 1 to {classes}.")
    return int(word)


def to_probabilities(scores: np.ndarray, output: str = "logits") -> np.ndarray:
    """(N, K) float32: the softmax of logits, of a single one its sigmoid; of multi-label logits each one's sigmoid.

    Args:
        scores: (N, K).
        output: `Card.output`, or "probabilities", which are returned as they are.
    """
    if output == "probabilities":
        return np.asarray(scores, dtype=np.float32)
    values = scores.astype(np.float64)
    if output == "multi-label logits":
        return np.asarray(1 / (1 + np.exp(-values.clip(-700, 700))), dtype=np.float32)
    logits = scores
    if logits.shape[1] == 1:
        values = np.concatenate([np.zeros_like(values), values], axis=1)
    shares = np.exp(values - values.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    return np.asarray(shares[:, -logits.shape[1] :], dtype=np.float32)


def to_sides(logits: np.ndarray) -> np.ndarray:
    """Logits (B, K); a single one stands against 0, as a second class."""
    return np.concatenate([np.zeros_like(logits), logits], axis=1) if logits.shape[1] == 1 else logits


def describe_side(logits: np.ndarray, class_names: Sequence[str]) -> list[str]:
    """For each image of a single-logit model (N, 1), which side its map explains."""
    return [
        f"The model gives one logit, {value:.3g} here: the map shows the evidence for "
        + (
            f"'not {class_names[0]}' (probability {1 - share:.3g})."
            if value < 0
            else f"{class_names[0]!r} (probability {share:.3g})."
        )
        for value, share in zip(logits[:, 0].tolist(), to_probabilities(logits)[:, 0].tolist(), strict=True)
    ]


def describe_blank(
    maps: np.ndarray, target: Sequence[int], class_names: Sequence[str], why_zero: Sequence[str]
) -> list[str]:
    """Sentences on each map (T, h, w) that shows nothing: not finite, zero, flat, or without evidence for.

    Args:
        maps: raw maps of one image.
        target: T class indices.
        class_names: K names.
        why_zero: for each map, the reason if it is zero everywhere.
    """
    notes = []
    flat = maps.reshape(len(maps), -1)
    # All at once, as there may be a thousand: what is not finite is in one of the two.
    lows, highs = flat.min(1), flat.max(1)
    is_odd = ~(np.isfinite(lows) & np.isfinite(highs)) | (highs <= 0) | (highs == lows)
    for place in np.flatnonzero(is_odd).tolist():
        index, low, high = target[place], float(lows[place]), float(highs[place])
        name = class_names[index] if 0 <= index < len(class_names) else "the score"
        if not (math.isfinite(low) and math.isfinite(high)):
            notes.append(
                f"{int((~np.isfinite(flat[place])).sum())} of {flat.shape[1]} cells of the map of {name!r} are not "
                "finite: look for NaN in the photo's features or the weights."
            )
        elif low == high == 0:
            notes.append(f"The map of {name!r} is zero everywhere: {why_zero[place]}.")
        elif low == high:
            notes.append(f"The map of {name!r} is flat: every place counts the same.")
        else:
            notes.append(
                f"The map of {name!r} has no positive value: every place speaks against it, and the heatmap is empty."
            )
    return notes
