"""The page Mend in a browser: the whole circle by mouse, by keys and by touch; two tabs, a reload, a killed server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn

import whycam
from conftest import change
from mend_cases import copy_run, make_run
from whycam.config import ServeOptions
from whycam.data.drawn import read_mask
from whycam.jobs.serve import configure, describe_address, listen
from whycam.mend.edited_run import EditedRun
from whycam.show.app.served import CurrentModel, ServedModel
from whycam.show.app.site import make_app

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("mend"))


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return copy_run(trained, tmp_path / "run")


@contextmanager
def serve(model: whycam.Model, run: object) -> Iterator[str]:
    """The app of a run, served from a thread: its address."""
    with pytest.MonkeyPatch.context() as patch, listen("127.0.0.1", 0) as door:
        patch.setattr("whycam.model.classifier.Classifier._find_graph", lambda *_: None)
        with ServedModel(change(model, name=str(run))) as served:
            current = CurrentModel(served, lambda: whycam.load(str(run), engine="torch"))
            server = uvicorn.Server(configure(make_app(current, ServeOptions())))
            thread = threading.Thread(target=server.run, args=([door],))
            door.listen()
            thread.start()
            yield describe_address(door)
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> whycam.Model:
    return whycam.load(tiny_folder, engine="torch")


@pytest.fixture
def address(model: whycam.Model, run: Path) -> Iterator[str]:
    with serve(model, run) as found:
        yield found


def open_page(page: Page, address: str) -> Page:
    page.goto(f"{address}/mend")
    page.locator("#work").wait_for()
    wait_for_photo(page)
    return page


def wait_for_photo(page: Page) -> None:
    """The shown item's photo has its heat."""
    page.locator("#viewer:not(.mend-loading) .viewer-heat[aria-label]").wait_for()


def read_lines(run: Path) -> list[dict[str, Any]]:
    path = run / "edits.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_said(page: Page, count: int) -> None:
    """Nothing waits in the browser, and so many edits count."""
    wait_for(lambda: page.evaluate("() => Object.keys(localStorage).length") == 0, page)
    wait_for(lambda: page.evaluate("async () => (await (await fetch('/api/mend')).json()).said") == count, page)


def wait_for(is_so: Callable[[], bool], page: Page) -> None:
    for _ in range(300):
        if is_so():
            return
        page.wait_for_timeout(100)
    raise AssertionError("It does not come to be so.")


def read_kinds(run: Path) -> list[tuple[str, str]]:
    """(kind, path) of the edits that count."""
    edits = EditedRun.open(run).state.edits
    return [(edit.kind, edit.path or "") for edit in edits if edit.kind != "undo"]


def test_an_undone_photo_is_back_at_once_and_the_next_answers_go_on_from_it(
    address: str, page: Page, run: Path
) -> None:
    open_page(page, address)
    page.get_by_role("button", name="This is no fault.").click()
    wait_said(page, 1)
    titles = []
    # No wait between the keys: what the server knows is older than what was pressed.
    for key in ("r", "u", "r", "r"):
        titles.append(page.locator("#title").text_content())
        page.keyboard.press(key)
    assert titles[0] == titles[2] != titles[1]
    wait_said(page, 3)
    said = read_kinds(run)
    assert [kind for kind, _ in said] == ["dismiss", "right", "right"]
    assert len({path for _, path in said}) == 3
    before = page.locator("#title").text_content()
    page.wait_for_timeout(4000)
    assert page.locator("#title").text_content() == before
    assert page.locator("#said-count").text_content() == "3"
    page.locator("summary", has_text="Said so far").click()
    undo = page.locator("#said button").first
    assert (undo.bounding_box() or {"height": 99})["height"] < 40


def test_a_class_of_one_photo_is_left_out_where_that_is_asked_for(address: str, page: Page, run: Path) -> None:
    open_page(page, address)
    page.keyboard.press("f")
    page.keyboard.press("w")
    page.keyboard.type("peony")
    page.keyboard.press("Enter")
    wait_said(page, 2)
    page.keyboard.press("t")
    page.get_by_role("button", name="Train without it").click()
    page.get_by_text(re.compile(r"Version 00\d is made")).wait_for()
    assert page.locator("#faults").text_content() == ""
    page.get_by_role("button", name=re.compile("^Keep")).click()
    page.locator("#about", has_text=re.compile("version 00[12]")).wait_for()


def test_a_first_page_that_is_open_asks_anew_after_a_version_is_kept(address: str, page: Page, run: Path) -> None:
    page.goto(address)
    page.get_by_role("button", name="cat", exact=True).click()
    page.locator("#first .viewer-heat[aria-label]").wait_for()
    assert "3 classes" in (page.locator("#about").text_content() or "")
    other = open_page(page.context.new_page(), address)
    other.locator("#retrain").click()
    other.get_by_role("button", name="Keep 001").click()
    page.locator("#about", has_text="5 classes").wait_for()
    names = whycam.load(str(run), engine="torch").class_names
    page.locator("#first .viewer-chip", has_text=names[0]).wait_for()
    assert page.locator("#first .viewer-chip").count() == len(names)
    assert page.locator(".app-answer").count() == 1
    page.keyboard.press("2")
    assert page.locator('#first .viewer-chip[aria-pressed="true"]').count() == 1


def test_the_circle_by_mouse(address: str, page: Page, run: Path) -> None:
    open_page(page, address)
    page.get_by_role("button", name="This is no fault.").click()
    page.locator("#photo-actions").get_by_role("button", name="Leave it out.").click()
    page.get_by_role("button", name="It is another class.").click()
    page.locator("#chooser-classes button").first.click()
    wait_said(page, 3)
    assert page.locator("#said-count").text_content() == "3"
    assert [line["kind"] for line in read_lines(run)] == ["dismiss", "leave-out", "label"]
    page.get_by_role("button", name="Undo", exact=False).first.click()
    wait_said(page, 2)
    page.locator("#retrain").click()
    page.get_by_text("Version 001 is made.").wait_for()
    page.get_by_role("button", name="Keep 001").click()
    page.locator("li", has_text="001").get_by_text("kept", exact=True).wait_for()
    assert json.loads((run / "versions" / "kept.json").read_text())["version"] == "001"
    page.locator("summary", has_text="000").click()
    page.get_by_role("button", name="Go back to 000").click()
    page.locator("li", has_text="000, as first").get_by_text("kept", exact=True).wait_for()
    page.locator("summary", has_text="001").click()
    page.get_by_role("button", name="Throw 001 away").click()
    page.get_by_role("button", name="Throw 001 away").wait_for(state="detached")
    assert not (run / "versions" / "001").exists()


def test_the_circle_by_keys_alone(address: str, page: Page, run: Path) -> None:
    open_page(page, address)
    page.keyboard.press("f")
    page.keyboard.press("r")
    page.keyboard.press("n")
    page.keyboard.press("x")
    page.keyboard.press("w")
    page.locator("#chooser[open]").wait_for()
    page.keyboard.type("2")
    page.keyboard.press("Enter")
    wait_said(page, 4)
    wait_for_photo(page)
    page.keyboard.press("d")
    page.locator("#drawing").wait_for()
    for key in ("ArrowRight", "ArrowDown", "Shift+ArrowRight", " ", "Enter"):
        page.keyboard.press(key)
    wait_said(page, 5)
    lines = read_lines(run)
    assert [line["kind"] for line in lines] == ["dismiss", "right", "leave-out", "label", "not-object"]
    assert lines[4]["region"]["boxes"] == [pytest.approx([0.42, 0.42, 0.64, 0.62])]
    page.keyboard.press("u")
    page.keyboard.press("u")
    wait_said(page, 3)
    assert [line["of"] for line in read_lines(run)[5:]] == [lines[4]["id"], lines[3]["id"]]
    page.keyboard.press("t")
    page.get_by_text("Version 001 is made.").wait_for()
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent").startswith("Keep 001"):
            break
    page.keyboard.press("Enter")
    page.locator("li", has_text="001").get_by_text("kept", exact=True).wait_for()


def test_a_brush_by_touch_on_a_phone(browser: Browser, address: str, run: Path) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = open_page(context.new_page(), address)
    page.get_by_role("button", name="A part is not the object.").tap()
    page.get_by_label("Brush").tap()
    page.get_by_label("on all 3 photos").tap()
    place = page.locator(".mend-draw").bounding_box()
    assert place
    touch = context.new_cdp_session(page)

    def stroke(height: float) -> None:
        y = place["y"] + height * place["height"]
        for kind, way in (("touchStart", 0.25), ("touchMove", 0.45), ("touchMove", 0.65), ("touchEnd", None)):
            points = [] if way is None else [{"x": place["x"] + way * place["width"], "y": y}]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
            page.wait_for_timeout(8)

    # A quick stroke is a fling to a browser, which may swallow the tap behind it.
    for height in (0.2, 0.25, 0.3, 0.7, 0.75, 0.8):
        stroke(height)
        page.get_by_role("button", name="Take back the last").tap()
    stroke(0.5)
    page.get_by_role("button", name="Done").tap()
    wait_said(page, 3)
    lines = read_lines(run)
    assert len({line["photo"] for line in lines}) == 3
    mask = read_mask(lines[0]["region"]["mask"])
    rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
    assert 0.4 < rows.min() / len(mask) < rows.max() / len(mask) < 0.6
    assert columns.min() / mask.shape[1] == pytest.approx(0.21, abs=0.03)
    assert columns.max() / mask.shape[1] == pytest.approx(0.69, abs=0.03)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    # One click is taken back as one.
    page.locator("#undo").tap()
    wait_said(page, 0)
    context.close()


def test_what_was_not_sent_is_sent_after_a_reload_and_once(address: str, page: Page, run: Path) -> None:
    open_page(page, address)
    held = threading.Event()
    page.route("**/api/mend/edits", lambda _: held.set())
    page.keyboard.press("x")
    wait_for(held.is_set, page)
    assert read_lines(run) == []
    page.unroute("**/api/mend/edits")
    open_page(page, address)
    wait_said(page, 1)
    page.reload()
    wait_said(page, 1)
    assert [line["kind"] for line in read_lines(run)] == ["leave-out"]


def test_two_tabs_see_each_other(address: str, page: Page) -> None:
    open_page(page, address)
    other = open_page(page.context.new_page(), address)
    page.keyboard.press("f")
    page.keyboard.press("r")
    wait_said(page, 2)
    other.bring_to_front()
    other.evaluate("dispatchEvent(new Event('focus'))")
    other.locator("#said-count").get_by_text("2", exact=True).wait_for()
    other.keyboard.press("u")
    wait_said(other, 1)
    page.locator("#said-count").get_by_text("1", exact=True).wait_for()


_SERVER = """
import sys, time
from pathlib import Path
import uvicorn, whycam
from whycam.config import ServeOptions
from whycam.jobs.serve import configure, listen
from whycam.mend.training import Training
from whycam.model.classifier import Classifier
from whycam.show.app.served import ServedModel
from whycam.show.app.site import make_app
Classifier._find_graph = lambda *_: None
if sys.argv[3] == "slow":
    Training.run = lambda self: time.sleep(600)
with listen("127.0.0.1", int(sys.argv[2])) as door:
    with ServedModel(whycam.load(sys.argv[1], engine="torch")) as served:
        door.listen()
        print(door.getsockname()[1], flush=True)
        uvicorn.Server(configure(make_app(served, ServeOptions()))).run(sockets=[door])
"""


def start(run: Path, port: int, pace: str) -> tuple[subprocess.Popen[str], int]:
    """A server in a process of its own, and its port."""
    env = {**os.environ, "PYTHONPATH": str(Path(whycam.__file__).parents[1])}
    words = [sys.executable, "-c", _SERVER, str(run), str(port), pace]
    server = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    return server, int(server.stdout.readline())


@pytest.mark.slow
def test_a_server_killed_in_the_middle_of_a_training_loses_nothing(browser: Browser, run: Path) -> None:
    # Not the fixture: the browser itself puts a server that is gone into the console.
    page = browser.new_context().new_page()
    server, port = start(run, 0, "slow")
    try:
        open_page(page, f"http://127.0.0.1:{port}")
        page.keyboard.press("f")
        wait_said(page, 1)
        page.keyboard.press("t")
        page.locator("#training").wait_for()
        wait_for((run / "versions" / "001.partial").is_dir, page)
        page.keyboard.press("r")
        wait_said(page, 2)
        server.send_signal(signal.SIGKILL)
        server.wait()
        page.keyboard.press("x")
        page.get_by_text("kept in this browser and sent again").wait_for()
        server, _ = start(run, port, "usual")
        wait_said(page, 3)
        assert [line["kind"] for line in read_lines(run)] == ["dismiss", "right", "leave-out"]
        page.locator("#training").wait_for(state="hidden")
        page.locator("#retrain").click()
        page.get_by_text(re.compile("Version 00. is made.")).wait_for()
        assert [place.name for place in (run / "versions").glob("*.partial")] == []
    finally:
        server.kill()
        server.wait()
        page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(address: str, page: Page, scheme: Any) -> None:
    from axe_core_python.sync_playwright import Axe

    axe = Axe()
    page.emulate_media(color_scheme=scheme)
    open_page(page, address)
    found = axe.run(page)["violations"]
    page.keyboard.press("d")
    page.locator("#drawing").wait_for()
    found += axe.run(page)["violations"]
    page.keyboard.press("Escape")
    page.keyboard.press("w")
    page.locator("#chooser[open]").wait_for()
    found += axe.run(page)["violations"]
    page.locator("#chooser-close").click()
    page.locator("#show-versions").click()
    page.get_by_role("heading", name="Versions").wait_for()
    found += axe.run(page)["violations"]
    assert [(fault["id"], fault["help"]) for fault in found if fault["impact"] in {"serious", "critical"}] == []


def test_a_model_that_can_not_be_corrected(page: Page, model: whycam.Model, tiny_folder: Path) -> None:
    with serve(model, tiny_folder) as address:
        page.goto(f"{address}/mend")
        page.get_by_text("Found no options.json").wait_for()
        assert page.locator("#bar").is_hidden()
        page.get_by_role("link", name="explained").click()
        page.get_by_text("Why did it say that?").wait_for()
