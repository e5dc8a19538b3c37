"""Limits as a person gives them."""

from __future__ import annotations

from whycam.errors import UserError


def check_limit(name: str, value: float) -> float:
    """The limit, a share.

    Raises:
        UserError: it is none in (0, 1].
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value <= 1:
        raise UserError(f"{name} is {value!r}; expected a share over 0 and up to 1, such as 0.9 for 90 %.")
    return float(value)
