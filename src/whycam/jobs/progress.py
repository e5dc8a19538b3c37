"""Progress bars and log lines of a long command, on the error stream and in the run's own log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True, soft_wrap=True)


@contextmanager
def show_progress(words: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar with rate and remaining time; the block gets a function that is told how many more are done.

    Of a total of 0 nobody knows how many there are: the bar only moves.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=not console.is_terminal, disable=not console.is_terminal) as bar:
        task = bar.add_task(words, total=total or None, rate="")

        def advance(count: int) -> None:
            bar.advance(task, count)
            speed = bar.tasks[0].speed
            bar.update(task, rate=f"{speed:.1f}/s" if speed else "")

        yield advance


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Log lines of whycam go to a file, with their time and every epoch; to the screen those that a person wants."""
    logger = logging.getLogger("whycam")
    level = logger.level
    file = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    screen = RichHandler(console=console, show_path=False, show_time=False, show_level=False, markup=False)
    screen.setLevel(logging.INFO)
    handlers: list[logging.Handler] = [file, screen]
    for handler in handlers:
        logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
        file.close()
        logger.setLevel(level)
