"""What all pages are made from: the folder of templates, and that of styles and scripts."""

from __future__ import annotations

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
    return pages


def read_static(names: Sequence[str]) -> str:
    """The text of files of CSS or JavaScript, one after the other."""
    return "".join((resources.files("whycam.show") / "static" / name).read_text(encoding="utf-8") for name in names)
