"""The page of a test session's guards: what is broken first, each with the photos to look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from whycam.show.layout import open_templates, read_static

_ORDER = {"broken": 0, "inconclusive": 1, "holds": 2}
# On the scale a share of 1 is so long.
_SCALE_PX = 480


def render_guards(content: Mapping[str, Any]) -> str:
    """The page as HTML, of what guards.json holds; pictures are files beside it, and it runs no script."""
    pages = open_templates()
    rows = sorted(content["guards"], key=lambda row: (not row["fails"], _ORDER[row["state"]]))
    style = read_static(("viewer.css", "report.css", "guards.css"))
    counts = {state: sum(row["state"] == state for row in rows) for state in _ORDER}
    return pages.get_template("guards.html").render(
        style=style,
        rows=[_describe(row) for row in rows],
        counts=counts,
        command=content.get("command", ""),
        model=content.get("model", ""),
    )


def _describe(row: Mapping[str, Any]) -> dict[str, Any]:
    """A verdict with the addresses of its pictures, and its interval on a scale."""
    folder = row.get("folder", "")
    worst = [
        {
            **one,
            "pictures": [
                {**picture, "address": quote(f"{folder}/{picture['file']}")} for picture in one.get("pictures", ())
            ],
        }
        for one in row["worst"]
    ]
    scale = None
    if row["low"] is not None:
        scale = {name: round(row[name] * _SCALE_PX, 1) for name in ("low", "value", "high", "limit")}
    return {**row, "worst": worst, "scale": scale, "width": _SCALE_PX}
