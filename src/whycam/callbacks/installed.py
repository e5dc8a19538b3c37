"""What is told where a library that a callback or a logger is for is not installed."""

from __future__ import annotations

from whycam.errors import UserError


def make_missing_error(library: str, extra: str, what: str) -> UserError:
    """A UserError that names the extra which brings the library."""
    return UserError(
        f"{library} is not installed, which {what} is for; expected it beside whycam. "
        f"Install it: pip install 'whycam[{extra}]'."
    )
