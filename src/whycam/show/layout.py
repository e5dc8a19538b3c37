"""What all pages are made from: the folder of templates, that of styles and scripts, and how numbers are written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined

from whycam import __version__


def open_templates() -> Environment:
    """The templates: what they are given is escaped, and a word that is not given is an error."""
    pages = Environment(
        loader=PackageLoader("whycam.show", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # By this a page is known as one that may be replaced: whycam.made.
    pages.globals["generator"] = f"WhyCAM {__version__}"
    pages.filters |= {"percent": tell_percent, "number": tell_number, "spaced": space_percents}
    return pages


def read_static(names: Sequence[str]) -> str:
    """The text of files of CSS or JavaScript, one after the other."""
    return "".join((resources.files("whycam.show") / "static" / name).read_text(encoding="utf-8") for name in names)


def tell_percent(share: float | None) -> str:
    """A share in words of a hundred; small and large ones with one more digit, so that 100 means all."""
    if share is None:
        return "–"
    text = f"{100 * share:.0f}"
    digits = 1 if text in {"0", "100"} and share not in {0, 1} else 0
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def space_percents(text: str) -> str:
    """A sentence with its shares as `tell_percent` writes them: 3.6% as 3.6 %."""
    return re.sub(r"(?<=\d)%", "\N{NO-BREAK SPACE}%", text)


def tell_number(value: float | None, digits: int = 3) -> str:
    """A number with a real minus sign; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")
