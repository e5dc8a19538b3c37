"""A page that holds all it shows and opens from the disk: style, scripts and data in one file of HTML.

Add a script that pages share as one row of `_MODULES`; a page's own template extends `page.html`, or `document.html`
where it has neither a head line nor a dialog.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from whycam.maps import render
from whycam.runs import command_line
from whycam.show.layout import open_templates, read_static

# What pages' scripts import: a file NAME.js under the name whycam/NAME.
_MODULES = ("viewer.js", "pictures.js")
# How the files of a folder import each other where they have addresses.
_BESIDE = re.compile(r'from "\./([\w-]+)\.js"')
RENDER_RULE = f"{render.RESIZE}; {render.SCALE_POSITIVE}; signed: {render.SCALE_SIGNED}"


@dataclass(frozen=True)
class Program:
    """What a page runs beside its own script.

    Attributes:
        script: its file.
        modules: files that it imports beside those that every page has.
        allowed: what it needs of the page's policy: directive -> sources.
    """

    script: str
    modules: tuple[str, ...]
    allowed: Mapping[str, str]


def render_page(
    template: str,
    *,
    styles: Sequence[str],
    script: str,
    data: Mapping[str, Any],
    program: Program | None = None,
    **words: Any,
) -> str:
    """The page as HTML: one file, which asks for nothing outside itself.

    Args:
        template: its file; it extends `document.html`.
        styles: files of CSS, in their order.
        script: the file of its own behaviour.
        data: what the script reads.
        program: what else it runs; its text is the template's `program_script`.
        words: what the template reads.
    """
    pages = open_templates()
    pages.policies["json.dumps_kwargs"] = {"allow_nan": False, "ensure_ascii": False, "separators": (",", ":")}
    style, own = read_static(styles), read_static([script])
    more = read_static([program.script]) if program else None
    modules = (*_MODULES, *(program.modules if program else ()))
    imports = {
        "imports": {
            f"whycam/{Path(file).stem}": as_script_address(
                _BESIDE.sub(r'from "whycam/\1"', read_static([file])).encode()
            )
            for file in modules
        }
    }
    import_map = pages.from_string("{{ imports|tojson }}").render(imports=imports)
    scripts = [text for text in (import_map, own, more) if text is not None]
    return pages.get_template(template).render(
        style=style,
        script=own,
        program_script=more,
        import_map=import_map,
        policy=_make_policy(style, scripts, program.allowed if program else {}),
        data=data,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=command_line(),
        render_rule=RENDER_RULE,
        **words,
    )


def as_script_address(source: bytes) -> str:
    """The address of a module that stands in the address itself."""
    return f"data:text/javascript;base64,{_to_base64(source)}"


def _to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _make_policy(style: str, scripts: Sequence[str], allowed: Mapping[str, str]) -> str:
    """What the page may load: its own style and scripts, known by their hashes, and the pictures within it."""

    def sign(text: str) -> str:
        return f"'sha256-{_to_base64(hashlib.sha256(text.encode()).digest())}'"

    rules = {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": sign(style),
        "script-src": f"{' '.join(map(sign, scripts))} data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    for name, sources in allowed.items():
        rules[name] = f"{rules[name]} {sources}" if name in rules else sources
    return "; ".join(f"{name} {sources}" for name, sources in rules.items())
