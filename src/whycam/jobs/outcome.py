"""What `whycam report` counts, and how its page is written: whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from whycam.runs import open_atomic, tell_disk_errors


@dataclass(frozen=True)
class Outcome:
    """What a finished `whycam report` counts."""

    photos: int
    unreadable: int
    size_mb: float


def write_page(page: str, out: Path) -> float:
    """Writes a page; gives its size in MB.

    Raises:
        UserError: a full disk, or a place that can't be written to.
    """
    with tell_disk_errors(out.absolute().parent), open_atomic(out) as part:
        part.write_text(page, encoding="utf-8", errors="backslashreplace")
    return out.stat().st_size / 1e6
