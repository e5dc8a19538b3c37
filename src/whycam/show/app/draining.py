"""The time between the word to stop and the stop: requests are still answered, and readiness says no."""

from __future__ import annotations

import time


class Drain:
    """Begins once. Those who send requests need a moment to hear that they should send them elsewhere.

    Attributes:
        wait_s: how long the server goes on once it has begun.
    """

    def __init__(self, wait_s: float = 0) -> None:
        self.wait_s = wait_s
        self._end: float | None = None

    def begin(self) -> bool:
        """Whether the server goes on for a while: not a second time, and not where there is nothing to wait for."""
        is_new = self._end is None
        if is_new:
            self._end = time.monotonic() + self.wait_s
        return is_new and self.wait_s > 0

    @property
    def has_begun(self) -> bool:
        """Whether the server was told to stop."""
        return self._end is not None

    @property
    def is_over(self) -> bool:
        """Whether it has waited long enough."""
        return self._end is not None and time.monotonic() >= self._end
