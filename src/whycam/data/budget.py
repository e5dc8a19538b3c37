"""How many pixels of photos may be in memory at once, over all threads: photos differ in size, so files don't count."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

# Decoding, drawing and writing a photo takes some 10 bytes a pixel: a gigabyte, 8 photos of a phone.
PIXELS_IN_FLIGHT = 100_000_000


class PixelBudget:
    """Threads hold pixels of it and wait for their turn where there are too few left, first come, first served."""

    def __init__(self, pixels: int = PIXELS_IN_FLIGHT) -> None:
        self.pixels = pixels
        self.in_use = 0
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._own = threading.local()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """The block runs once so many pixels are free, and gives them back at its end.

        More pixels than the whole budget has are let through when no other pixel is held. A thread that holds some
        already does not wait again, as it would then wait for itself: what it holds covers the inner block, and what
        goes beyond is counted.
        """
        held = getattr(self._own, "pixels", 0)
        more = max(0, pixels - held)
        self._take(more, is_let_through=held > 0)
        self._own.pixels = held + more
        try:
            yield
        finally:
            self._own.pixels = held
            with self._changed:
                self.in_use -= more
                self._changed.notify_all()

    def _take(self, pixels: int, *, is_let_through: bool) -> None:
        with self._changed:
            if not is_let_through:
                self._wait(pixels)
            self.in_use += pixels

    def _wait(self, pixels: int) -> None:
        """Until it is this thread's turn and the pixels are free; the lock is held."""
        turn = object()
        self._waiting.append(turn)
        try:
            self._changed.wait_for(lambda: self._waiting[0] is turn and self._has(pixels))
        finally:
            self._waiting.remove(turn)
            self._changed.notify_all()

    def _has(self, pixels: int) -> bool:
        return self.in_use == 0 or self.in_use + pixels <= self.pixels


# The one that whatever decodes and draws in this process shares.
BUDGET = PixelBudget()
