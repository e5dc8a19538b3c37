"""What is said of an option's wrong value, in one voice: what was given, what it may be, what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from whycam.errors import join_words, tell_wrong_value


def tell_wrong_option(name: str, given: object, field: FieldInfo, fault: Mapping[str, Any] | None = None) -> str:
    """The sentence on an option's value.

    Args:
        name: of the field.
        given: the value, as words of the command line or as Python has it.
        field: what the option may be.
        fault: what pydantic says of it, where it is asked.
    """
    choices = _find_choices(field)
    # What a model's own check says is more than the type does.
    is_own = fault is not None and not choices and fault["type"] == "value_error"
    expected = "" if is_own else _tell_expected(field, choices)
    if not expected and fault is not None:
        expected = tell_wrong_value(fault)
    left = "" if field.default is None or field.default in ("", []) else f": the default is {field.default}"
    option = name_option(name)
    return f"{option} is {_tell_given(given)}; {expected}. Change it, or leave {option} out{left}."


def name_option(name: str) -> str:
    """A field's name as people type it."""
    return f"--{name.replace('_', '-')}"


def _tell_given(given: object) -> str:
    """Numbers bare and as they were typed, other words in quotes."""
    try:
        float(str(given))
    except ValueError:
        return repr(str(given))
    return f"{given:.15g}" if isinstance(given, float) else str(given)


def _find_types(field: FieldInfo) -> list[Any]:
    kinds = [field.annotation] if get_origin(field.annotation) in {None, Literal} else get_args(field.annotation)
    return [kind for kind in kinds if kind is not NoneType]


def _find_choices(field: FieldInfo) -> list[str]:
    return [str(word) for kind in _find_types(field) if get_origin(kind) is Literal for word in get_args(kind)]


def _tell_expected(field: FieldInfo, choices: Sequence[str]) -> str:
    """Such as "expected a whole number from 0 to 64"; nothing of what is neither a number nor a choice."""
    if choices:
        return f"expected one of {', '.join(choices)}"
    kinds = set(_find_types(field)) & {int, float}
    if not kinds:
        return ""
    words = {"ge": "of at least {}", "gt": "above {}", "le": "of at most {}", "lt": "below {}"}
    limits = {key: getattr(one, key) for one in field.metadata for key in words if hasattr(one, key)}
    if {"ge", "le"} <= limits.keys():
        told = f"from {limits['ge']} to {limits['le']}"
    else:
        told = join_words([words[key].format(limit) for key, limit in limits.items()])
    return f"expected a {'number' if float in kinds else 'whole number'} {told}".rstrip()
