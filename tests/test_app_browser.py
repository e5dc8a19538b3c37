"""The app's page in a browser: photos in, classes chosen, methods compared, results saved; by keys and on a phone."""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import uvicorn
from PIL import Image

import whycam
from conftest import change
from whycam.config import ServeOptions
from whycam.data.walk import find_images
from whycam.jobs.serve import configure, describe_address, listen
from whycam.show.app.served import ServedModel
from whycam.show.app.site import make_app

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
LONG_NAMES = ("L" * 239 + "1", "תות שדה", "向日葵" * 80)
NAMES = ("circle", "<img src=x onerror=alert(1)>", "triangle")


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> whycam.Model:
    return change(whycam.load(tiny_folder, engine="torch"), class_names=NAMES)


@contextmanager
def serve(model: whycam.Model) -> Iterator[str]:
    """The app, served from a thread: its address."""
    with pytest.MonkeyPatch.context() as patch, listen("127.0.0.1", 0) as door:
        # Without a graph it starts at once.
        patch.setattr("whycam.model.classifier.Classifier._find_graph", lambda *_: None)
        with ServedModel(model) as served:
            server = uvicorn.Server(configure(make_app(served, ServeOptions(max_upload_mb=1))))
            thread = threading.Thread(target=server.run, args=([door],))
            door.listen()
            thread.start()
            yield describe_address(door)
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def address(model: whycam.Model) -> Iterator[str]:
    with serve(model) as found:
        yield found


@pytest.fixture(scope="module")
def photos(shapes_folder: Path) -> list[Path]:
    return find_images([shapes_folder])[:3]


@pytest.fixture
def shown(page: Page, address: str, photos: list[Path]) -> Page:
    """The page with three photos, the first one chosen."""
    page.goto(address)
    page.locator("#choose-first").set_input_files(photos)
    page.get_by_text("3 photos,").wait_for()  # the last one is done
    page.locator(".app-photo").first.click()
    return page


def test_photos_may_come_before_the_model(page: Page, address: str, photos: list[Path]) -> None:
    held = threading.Event()
    page.route("**/api/model", lambda route: (held.set(), page.wait_for_timeout(500), route.continue_()))
    page.goto(address)
    page.locator("#choose-first").set_input_files(photos)
    page.get_by_text("3 photos,").wait_for()
    assert held.is_set()


def read_heat(page: Page, root: str = "#first") -> np.ndarray:
    """(H, W, 4) of 0..255: what is drawn over the photo."""
    found = page.evaluate(
        """(root) => { const canvas = document.querySelector(root + " .viewer-heat");
        const { width, height } = canvas;
        return [height, width, [...canvas.getContext("2d").getImageData(0, 0, width, height).data]]; }""",
        root,
    )
    return np.array(found[2]).reshape(found[0], found[1], 4)


def save(page: Page, kind: str) -> bytes:
    with page.expect_download() as waiting:
        page.locator(f"[data-save={kind}]").click()
    return Path(waiting.value.path()).read_bytes()


def test_a_photo_and_its_classes(shown: Page, model: whycam.Model, photos: list[Path]) -> None:
    why = model.explain(photos[0], "all")
    best = int(why.predicted[0])
    chips = shown.locator("#first .viewer-chip")
    assert chips.count() == 3
    # A name is text, whatever it looks like; the page fixture would tell of a script that ran.
    assert sorted(shown.locator("#first .viewer-chip-name").all_text_contents()) == sorted(NAMES)
    assert NAMES[best] in shown.locator(".app-photo").first.text_content()
    for k in range(3):
        shown.locator("#first .viewer-chip", has_text=NAMES[k]).click()
        values = np.load(io.BytesIO(save(shown, "map")))
        assert np.allclose(values, why.map(0, k).numpy(), atol=1e-5)
        opacity = read_heat(shown)[..., 3]
        hottest = np.unravel_index(why.reading().heatmap(k).argmax(), opacity.shape)
        if values.max() > 0:
            assert opacity[hottest] == opacity.max() > 0


def test_sliders_change_pixels(shown: Page) -> None:
    before = read_heat(shown)
    slider = shown.get_by_label("Opacity")
    slider.fill("0.2")
    assert read_heat(shown)[..., 3].max() < before[..., 3].max() - 50
    shown.get_by_label("Hide below").fill("0.5")
    assert (read_heat(shown)[..., 3] == 0).sum() > (before[..., 3] == 0).sum()


def test_downloads(shown: Page, model: whycam.Model, photos: list[Path]) -> None:
    overlay = Image.open(io.BytesIO(save(shown, "overlay")))
    assert overlay.size == Image.open(photos[0]).size
    found = json.loads(save(shown, "boxes"))
    assert found["target"]["index"] == int(model.explain(photos[0]).predicted[0])
    assert len(found["target"]["boxes"]) == len(model.explain(photos[0]).boxes())


def test_why_not(shown: Page, model: whycam.Model, photos: list[Path]) -> None:
    why = model.explain(photos[0], "all")
    first, second = why.reading().logits.argsort()[::-1][:2].tolist()
    shown.get_by_label("Why not").select_option(str(second))
    values = np.load(io.BytesIO(save(shown, "map")))
    assert np.allclose(values, (why.map(0, first) - why.map(0, second)).numpy(), atol=1e-5)


def test_two_methods_side_by_side(shown: Page) -> None:
    shown.get_by_label("Compare with").select_option("grad-cam++")
    second = shown.locator("#second .viewer-heat")
    second.wait_for()
    assert not np.array_equal(read_heat(shown), read_heat(shown, "#second"))
    title = second.get_attribute("aria-label")
    shown.locator("#first .viewer-chip").nth(1).click()
    shown.wait_for_function("(old) => document.querySelector('#second .viewer-heat').ariaLabel !== old", arg=title)
    assert second.get_attribute("aria-label") == shown.locator("#first .viewer-heat").get_attribute("aria-label")
    shown.get_by_label("Compare with").select_option("")
    assert second.is_hidden()


def test_keys(shown: Page, photos: list[Path]) -> None:
    shown.locator("body").press("ArrowRight")
    assert shown.locator(".app-photo[aria-current=true]").text_content().startswith(photos[1].name)
    shown.locator("body").press("2")
    assert shown.locator("#first .viewer-chip").nth(1).get_attribute("aria-pressed") == "true"
    shown.locator("body").press("b")
    assert shown.locator("#first").get_by_label("Boxes").is_checked()
    shown.locator("body").press("ArrowLeft")
    assert shown.locator(".app-photo[aria-current=true]").text_content().startswith(photos[0].name)


def test_dropped_and_pasted(page: Page, address: str, photos: list[Path]) -> None:
    page.goto(address)
    page.get_by_text("3 classes").wait_for()
    for kind, number in (("drop", 0), ("paste", 1)):
        page.evaluate(
            """([kind, bytes, name]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], name));
            const [Kind, field] = kind === "drop" ? [DragEvent, "dataTransfer"] : [ClipboardEvent, "clipboardData"];
            document.dispatchEvent(new Kind(kind, { [field]: data, bubbles: true, cancelable: true })); }""",
            [kind, list(photos[number].read_bytes()), photos[number].name],
        )
        page.locator(".app-photo", has_text=photos[number].name).wait_for()
    page.get_by_text("2 photos,").wait_for()


def test_samples(page: Page, address: str) -> None:
    page.goto(address)
    page.get_by_role("button", name="cat").click()
    page.locator("#work").wait_for()
    assert page.locator(".app-photo").count() == 1


def test_faults_are_told_in_words(browser: Browser, address: str, photos: list[Path], tmp_path: Path) -> None:
    # Not the fixture: the browser itself puts a refused request into the console.
    page = browser.new_page()
    page.goto(address)
    (tmp_path / "note.jpg").write_text("hello\n")
    (tmp_path / "large.jpg").write_bytes(bytes(2**20 + 1))
    page.locator("#choose-first").set_input_files([tmp_path / "note.jpg", tmp_path / "large.jpg", photos[0]])
    page.locator("#work").wait_for()
    alert = page.get_by_role("alert")
    alert.get_by_text("'note.jpg' holds text, not a picture").wait_for()
    alert.get_by_text("'large.jpg' has 1 MB; the limit is 1 MB").wait_for()
    assert page.locator(".app-bad").count() == 2
    alert.get_by_role("button").first.click()
    assert alert.get_by_role("button").count() == 1
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(shown: Page, address: str, scheme: Any) -> None:
    from axe_core_python.sync_playwright import Axe

    shown.emulate_media(color_scheme=scheme)
    shown.get_by_label("Compare with").select_option("layer-cam")
    shown.locator("#second .viewer-heat").wait_for()
    axe = Axe()
    found = axe.run(shown)["violations"]
    for path in ("/", "/docs"):
        shown.goto(address + path)
        found += axe.run(shown)["violations"]
    assert [(fault["id"], fault["help"]) for fault in found if fault["impact"] in {"serious", "critical"}] == []


def test_a_phone(shown: Page, address: str) -> None:
    shown.set_viewport_size({"width": 390, "height": 844})
    shown.get_by_label("Compare with").select_option("layer-cam")
    shown.locator("#second .viewer-heat").wait_for()
    for path in ("", "/", "/docs"):
        if path:
            shown.goto(address + path)
        assert shown.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.parametrize("width_px", [1280, 390])
def test_names_of_any_length_and_script_leave_the_page_as_wide_as_the_screen(
    page: Page, model: whycam.Model, photos: list[Path], width_px: int
) -> None:
    page.set_viewport_size({"width": width_px, "height": 900})
    with serve(change(model, class_names=LONG_NAMES)) as address:
        page.goto(address)
        page.locator("#choose-first").set_input_files(photos)
        page.get_by_text("3 photos").first.wait_for()
        page.get_by_label("Compare with").select_option("grad-cam")
        page.locator("#second .viewer-heat").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width_px
        names = page.locator("#first .viewer-chip-name")
        assert set(LONG_NAMES) == set(names.evaluate_all("all => all.map(one => one.title)"))
        assert max(names.evaluate_all("all => all.map(one => one.getBoundingClientRect().height)")) < 100
        # The share stands in front of the name, so that it is seen however long that is.
        assert re.match(r"\d+\s%", page.locator(".app-answer").first.text_content() or "")
