"""A model's output, whatever its shape, to logits (N, K)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from whycam.errors import UserError

Key = str | int
# What of an output is explained: the logits, which a key may name, or what a function of it gives.
Wanted = Key | Callable[[Any], Tensor] | None


def select_output(output: object, key: Key | None = None) -> Tensor:
    """The logits (N, K) in a model's output.

    Understands a tensor (N, K), (N,) or a scalar (one image, squeezed); a dict, tuple, named tuple, dataclass or
    Hugging Face output, of which `key` names the entry. Without a key, "logits" is taken, or the only entry that is
    shaped like logits.

    Raises:
        UserError: no such entry, several that it could be, or one that isn't (N, K).
    """
    if isinstance(output, Tensor):
        if key is not None:
            raise make_no_entry(key)
        return _as_logits(output, "The model's output")
    entries = dict(_iter_entries(output))
    if not entries:
        raise UserError(
            f"The model's output is a {type(output).__name__}; expected a tensor (N, K), or a dict, tuple or "
            "dataclass that holds one. Wrap the model so that its forward returns the logits."
        )
    if key is None:
        key = _find_key(entries)
    if key not in entries:
        raise UserError(f"The model's output has no entry {key!r}; it has {_describe(entries)}. Name one of these.")
    return _as_logits(entries[key], f"Output {key!r}")


def make_no_entry(key: Key) -> UserError:
    """The error for a key to an output that has no entries."""
    return UserError(f"The model's output is one tensor; it has no entry {key!r}. Leave the output key out.")


def read_logits(output: object, key: Key | None) -> Tensor:
    """As `select_output`, of a model's output or a tail's: behind a tail that is linear there are the logits alone."""
    return select_output(output, None if isinstance(output, Tensor) else key)


def read_wanted(output: object, wanted: Wanted) -> object:
    """What of a model's output is explained; all of it where that can't be told yet.

    Raises:
        UserError: no such entry.
    """
    if callable(wanted):
        found: object = wanted(output)
        return found if isinstance(found, Tensor) else output
    try:
        return select_output(output, wanted)
    except UserError:
        if wanted is not None:
            raise
        return output


def iter_tensors(output: object) -> Iterator[Tensor]:
    """Every tensor in an output, however nested."""
    if isinstance(output, Tensor):
        yield output
    else:
        for _, entry in _iter_entries(output):
            yield from iter_tensors(entry)


def _iter_entries(output: object) -> Iterator[tuple[Key, object]]:
    if isinstance(output, Mapping):
        yield from output.items()
    elif hasattr(output, "_fields"):  # a named tuple
        yield from zip(output._fields, output, strict=True)  # type: ignore[call-overload]
    elif isinstance(output, tuple | list):
        yield from enumerate(output)
    elif is_dataclass(output):
        yield from ((field.name, getattr(output, field.name)) for field in fields(output))
    elif isinstance(getattr(output, "logits", None), Tensor):
        yield "logits", output.logits  # type: ignore[attr-defined]


def _find_key(entries: dict[Key, object]) -> Key:
    if isinstance(entries.get("logits"), Tensor):
        return "logits"
    fitting = [
        key
        for key, entry in entries.items()
        if isinstance(entry, Tensor)
        and entry.ndim in (1, 2)
        and entry.is_floating_point()
        and (entry.ndim == 2 or len(entry) > 0)
    ]
    matrices = [key for key in fitting if entries[key].ndim == 2]  # type: ignore[attr-defined]
    fitting = matrices or fitting  # (N, K) beats a loss or an (N,) beside it
    if len(fitting) != 1:
        found = "several entries that could be the logits" if fitting else "no entry shaped like logits (N, K)"
        raise UserError(f"The model's output has {found}: {_describe(entries)}. Name the one to explain.")
    return fitting[0]


def _as_logits(entry: object, what: str) -> Tensor:
    if not isinstance(entry, Tensor) or entry.ndim > 2:
        found = tuple(entry.shape) if isinstance(entry, Tensor) else type(entry).__name__
        raise UserError(
            f"{what} is {found}; expected logits (N, K) or (N,). To explain a region, a box or another "
            "number, pass a function of the output as the target: target=lambda output: output[:, 3].mean((1, 2))."
        )
    if entry.ndim == 2:
        return entry
    return entry.reshape(-1, 1)


def _describe(entries: dict[Key, object]) -> str:
    def show(entry: object) -> str:
        return str(tuple(entry.shape)) if isinstance(entry, Tensor) else type(entry).__name__

    return ", ".join(f"{key!r}: {show(entry)}" for key, entry in entries.items())
