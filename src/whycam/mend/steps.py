"""What a long piece of work tells of itself while it goes on, and how it is called off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from whycam.errors import UserError

# Told of each step in words, how much of it is done, and of how much.
Progress = Callable[[str, int, int], None]


class CancelledError(UserError):
    """What was under way was called off; nothing of it is left."""


def make_show(
    progress: Progress | None = None, is_cancelled: Callable[[], bool] | None = None
) -> Callable[[str, int], AbstractContextManager[Callable[[int], None]]]:
    """What `Work.show_progress` asks for: it tells `progress`, and raises where `is_cancelled` says so.

    Args:
        progress: see `Progress`.
        is_cancelled: asked at each step; True calls the work off, by a CancelledError.
    """

    @contextmanager
    def show(words: str, total: int) -> Iterator[Callable[[int], None]]:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if is_cancelled is not None and is_cancelled():
                raise CancelledError(f"Called off while at: {words}. Nothing of it is left; start it again.")
            if progress is not None:
                progress(words, done, total)

        advance(0)
        yield advance

    return show
