"""Ctrl+C that is never lost: an interrupt that falls into logging, which holds a lock then, is raised behind it."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType

# Long enough for a handler to be taken off, too short to be felt.
_LATER_S = 0.01


def hold_interrupts_in_logging() -> None:
    """Raises KeyboardInterrupt as ever, but not inside logging.

    Python drops what is raised in a weak reference's callback. Logging has such a callback, which takes logging's lock:
    an interrupt there was lost and left the lock held, for which the next thread that logs then waited for ever.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and hasattr(signal, "setitimer") and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGALRM, _interrupt)
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _is_logging(frame):
        signal.setitimer(signal.ITIMER_REAL, _LATER_S)
        return
    signal.default_int_handler(signal.SIGINT if number == signal.SIGALRM else number, frame)


def _is_logging(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == logging.__file__:
            return True
        frame = frame.f_back
    return False
