"""Ctrl+C is never lost, also where it falls into logging."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from whycam.jobs.interrupt import hold_interrupts_in_logging


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGALRM)]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    hold_interrupts_in_logging()
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in zip((signal.SIGINT, signal.SIGALRM), before, strict=True):
        signal.signal(number, handler)


def test_an_interrupt_in_logging_is_raised_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt_and_go_on(_: logging.LogRecord) -> bool:
        signal.raise_signal(signal.SIGINT)
        return True

    seen: list[str] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: seen.append(record.getMessage()))
    handler.addFilter(interrupt_and_go_on)
    log = logging.getLogger("whycam.test")
    log.addHandler(handler)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the moment is the point
        log.warning("written all the same")
        time.sleep(5)
    log.removeHandler(handler)
    assert seen == ["written all the same"]
    free = threading.Thread(target=logging.getLogger, args=["whycam.another"])
    free.start()
    free.join(5)
    assert not free.is_alive()


def test_elsewhere_it_is_raised_at_once() -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
