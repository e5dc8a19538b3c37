"""The documentation as a site: it is built without a warning, and nothing in it asks for anything outside itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page

import whycam

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow
SEARCH_MS = 180_000

# What a browser fetches by itself: attribute, by tag. An <a> is followed by a person.
_FETCHED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}


class _Fetched(HTMLParser):
    """The addresses that a page fetches."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        about = dict(attrs)
        if tag == "link" and about.get("rel") in {"canonical", "next", "prev"}:
            return
        if (address := about.get(_FETCHED.get(tag, ""))) is not None:
            self.found.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does."""
    out = tmp_path_factory.mktemp("site")
    words = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "-f",
        str(ROOT / "website/mkdocs.yml"),
        "-d",
        str(out),
    ]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    handler = partial(SimpleHTTPRequestHandler, directory=str(site))
    handler.log_message = lambda *_: None  # type: ignore[method-assign]
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_no_page_and_no_style_names_what_is_fetched_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for path in pages:
        parser = _Fetched()
        parser.feed(path.read_text(encoding="utf-8"))
        assert parser.found
        assert not [one for one in parser.found if urlsplit(one).netloc], path
    for path in site.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        assert "@import" not in text, path
        assert not [one for one in ("url(http", "url(//", 'url("http') if one in text], path


def test_every_page_of_the_repository_is_on_the_site(site: Path) -> None:
    for path in (ROOT / "docs").rglob("*.md"):
        assert (site / path.relative_to(ROOT / "docs").with_suffix(".html")).is_file(), path
    for name in ("commands.html", "gallery.html", "repository/CHANGELOG.html", "repository/CONTRIBUTING.html"):
        assert (site / name).is_file(), name


def test_commands_options_and_docstrings_are_told(site: Path) -> None:
    commands = (site / "commands.html").read_text(encoding="utf-8")
    for word in ("whycam train", "--recipe", "whycam card", "--evidence"):
        assert word in commands
    interface = (site / "api.html").read_text(encoding="utf-8")
    for public in (whycam.load, whycam.explain, whycam.evaluate, whycam.compare):
        assert str(public.__doc__).splitlines()[0] in interface, public


@pytest.mark.browser
def test_a_reader_asks_no_other_machine(page: Page, address: str) -> None:
    """The fixture `page` fails on such a request, and on an error of a script."""
    for name in ("index.html", "api.html", "ko/index.html"):
        page.goto(f"{address}/{name}")
        page.wait_for_load_state("networkidle")
        assert page.locator("h1").first.inner_text()
    # The page reads the field at a key, at a change of focus, and once when its index is made: text that is put there
    # without keys after that is never read. The index takes seconds where the machine is busy.
    page.get_by_role("searchbox").or_(page.locator("[name=query]")).first.press_sequentially("contrast")
    page.locator(".md-search-result__item").first.wait_for(timeout=SEARCH_MS)


@pytest.mark.browser
def test_a_phone_scrolls_no_page_sideways(page: Page, address: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    for name in ("index.html", "models.html", "commands.html", "api.html", "card.html", "ko/index.html"):
        page.goto(f"{address}/{name}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
