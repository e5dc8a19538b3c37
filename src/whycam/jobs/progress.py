"""Progress bars and log lines of a long command, on the error stream and in the run's own log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

console = Console(stderr=True, soft_wrap=True)


class _RateColumn(ProgressColumn):
    """How many a second; asked for as often as the bar is drawn, not at every step."""

    def render(self, task: Task) -> Text:
        """Nothing where it is not known yet."""
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


@contextmanager
def show_progress(words: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar with rate and remaining time; the block gets a function that is told how many more are done.

    Of a total of 0 nobody knows how many there are: the bar only moves.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=not console.is_terminal, disable=not console.is_terminal) as bar:
        task = bar.add_task(words, total=total or None)
        yield lambda count: bar.advance(task, count)


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
