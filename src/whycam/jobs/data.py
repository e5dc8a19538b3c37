"""`whycam data`: a known set of photos, fetched with a progress bar."""

from __future__ import annotations

from pathlib import Path

from whycam.data.fetch import fetch
from whycam.jobs.progress import show_progress


def fetch_with_progress(name: str, out: Path, *, source: Path | None, overwrite: bool) -> Path:
    """Fetches the set into `out` and returns its folder of photos."""
    with show_progress(f"fetching {name}", 0) as advance:
        done = 0

        def tell(bytes_done: int, _bytes_total: int) -> None:
            nonlocal done
            advance((bytes_done - done) // 1000)
            done = bytes_done

        return fetch(name, out, source=source, progress=tell, overwrite=overwrite)
