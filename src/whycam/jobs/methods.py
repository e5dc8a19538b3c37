"""`whycam methods`: the table of map methods."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from whycam.cam.registry import iter_methods


def print_methods() -> None:
    """Prints one row for each method that is registered."""
    table = Table("method", "needs", "paper", "differs from cam", "cost", box=None, pad_edge=False)
    for method in iter_methods():
        table.add_row(method.name, method.needs, method.paper, method.differs, method.cost)
    console = Console()
    console.print(table) if console.is_terminal else Console(width=240).print(table)
