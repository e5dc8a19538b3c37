"""`whycam report --live`: a page from the disk that answers readers' own photos; and what it refuses."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

import whycam
from conftest import SHAPES, Run, open_tab
from report_cases import make_run, report
from whycam.data.walk import find_images
from whycam.errors import UserError
from whycam.model.backbone import make_backbone
from whycam.model.gap import GapClassifier, save_classifier
from whycam.show.web.runtime import find_runtime

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NEAR = 1e-4


@pytest.fixture(scope="module")
def _runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """onnxruntime-web: one download a session where the machine has a connection; WHYCAM_ORT_WEB does without."""
    with patch.dict("os.environ", WHYCAM_CACHE=str(tmp_path_factory.getbasetemp() / "web-cache")):
        try:
            find_runtime(None)
        except UserError as error:
            pytest.skip(f"there is no onnxruntime-web: {error}")
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, shapes_folder: Path) -> Path:
    return make_run(tmp_path_factory.mktemp("live") / "run", tiny_folder, shapes_folder)


@pytest.fixture(scope="module")
def live(run: Path, _runtime: None) -> Path:
    """The page; to be read only."""
    report(run, None, run.parent / "live.html", live=True)
    return run.parent / "live.html"


@pytest.fixture(scope="module")
def plain(run: Path) -> Path:
    report(run, None, run.parent / "plain.html")
    return run.parent / "plain.html"


def strip(page: str) -> str:
    """Without what differs from one making to the next."""
    return re.sub(r"<dt>Made on</dt>.*|Content-Security-Policy.*|<dt>Command</dt>.*", "", page)


def test_without_it_the_page_holds_nothing_of_it(plain: Path, live: Path) -> None:
    page, more = plain.read_text(), live.read_text()
    for word in ("wasm", "onnxruntime-web", "live-data", "whycam/app", "app-columns", 'id="own"', "blob:"):
        assert word not in page.replace('"onnxruntime"', ""), word
        assert word in more, word
    # Line by line the plain page is a part of the other one: style, map of imports and policy alone are others.
    lines = set(strip(more).splitlines())
    others = [line for line in strip(page).splitlines() if line not in lines]
    assert [line[:24] for line in others if not line.startswith(("<style>", '<script type="importmap'))] == []


def test_its_policy_lets_it_ask_for_nothing(live: Path) -> None:
    found = re.search(r'Content-Security-Policy" content="([^"]*)"', live.read_text())
    assert found
    rules = dict(rule.split(" ", 1) for rule in found[1].replace("&#39;", "'").split("; "))
    assert rules["default-src"] == "'none'"
    assert "connect-src" not in rules
    assert "'unsafe-eval'" not in rules["script-src"]
    assert "'unsafe-inline'" not in rules["script-src"] + rules["style-src"]
    assert not [source for rule in rules.values() for source in rule.split() if "http" in source or source == "*"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--runtime", "."), "--runtime goes with --live, which is not asked for"),
        (("--live", "--runtime", "missing"), "missing'; expected onnxruntime-web"),
    ],
)
def test_words_that_do_not_go_together(
    call_whycam: Run, run: Path, tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    done = call_whycam("report", run, "-o", tmp_path / "page.html", "--no-audit", *words)
    assert done.returncode == 2
    assert told in " ".join(done.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_a_recording_has_no_network(call_whycam: Run, tmp_path: Path) -> None:
    (tmp_path / "watched").mkdir()
    (tmp_path / "watched" / "recording.json").write_text("{}")
    with patch("whycam.jobs.report.is_recording", return_value=True):
        done = call_whycam("report", tmp_path / "watched", "-o", tmp_path / "page.html", "--live")
    assert done.returncode == 2
    assert "is a recording of a training, which holds maps and no network" in " ".join(done.stderr.split())
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("of_weights", [True, False])
def test_a_page_that_is_too_large(call_whycam: Run, live: Path, tmp_path: Path, *, of_weights: bool) -> None:
    """By the weights alone, before a photo is read; or by what the page has become."""
    run = live.parent / "run"
    limit_mb = 0.001 if of_weights else round(live.stat().st_size / 1e6 - 0.01, 3)
    with patch("whycam.jobs.report_live.LIMIT_MB", limit_mb):
        done = call_whycam("report", run, "-o", tmp_path / "page.html", "--no-audit", "--live")
    assert done.returncode == 2
    told = " ".join(done.stderr.split())
    assert re.search(r"the page would have (over )?\d+(\.\d)? MB", told)
    assert f"expected {limit_mb:g} MB at the most" in told
    assert f"whycam export {run} -o site --format web" in told
    assert ("--limit" in told) != of_weights
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_exact_maps(call_whycam: Run, shapes_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\nnet = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))\n"
        "import torch\nnet(torch.zeros(1, 3, 32, 32))\n"
    )
    words = (
        "report",
        f"{tmp_path / 'net.py'}:net",
        shapes_folder,
        "-o",
        tmp_path / "page.html",
        "--no-audit",
        "--live",
    )
    done = call_whycam(*words, "--image-size", "32", "--preprocess", "half")
    assert done.returncode == 2
    assert "exact" in done.stderr
    assert not (tmp_path / "page.html").exists()


@pytest.fixture
def offline(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens a file from the disk without a network; it fails on any error in the console, and on any request."""
    tabs = []

    def open_file(file: Path, **how: Any) -> Page:
        tab = open_tab(browser, offline=True, **how)
        page = tab.__enter__()
        tabs.append((tab, asked := []))
        page.context.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        return page

    yield open_file
    for tab, asked in tabs:
        tab.__exit__(None, None, None)
        assert [url for url in asked if not url.startswith(("data:", "blob:"))] == asked[:1]


def try_photo(page: Page, photo: Path) -> None:
    page.locator("#choose-first" if page.locator("#welcome").is_visible() else "#choose").set_input_files(photo)
    page.locator(".app-photo", has_text=photo.name).locator("img").click()
    page.locator("#first .viewer-name", has_text=photo.name).wait_for()


def read_map(page: Page) -> np.ndarray:
    with page.expect_download() as waiting:
        page.locator("[data-save=map]").click()
    return np.load(waiting.value.path())


def read_score(page: Page) -> dict[str, Any]:
    with page.expect_download() as waiting:
        page.locator("[data-save=boxes]").click()
    return json.loads(Path(waiting.value.path()).read_text())["target"]


@pytest.mark.browser
def test_numbers_are_pythons_from_the_disk(
    offline: Callable[..., Page], live: Path, tiny_folder: Path, shapes_folder: Path, tmp_path: Path
) -> None:
    model = whycam.load(tiny_folder, engine="torch")
    page = offline(live)
    assert page.locator("#state").text_content() == "it is opened with the first photo"
    noise = np.random.default_rng(0).integers(0, 256, (90, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    for photo in (find_images([shapes_folder])[0], tmp_path / "noise.png"):
        try_photo(page, photo)
        why = model.explain(photo, "all")
        for chip in range(len(SHAPES)):
            page.locator("#first .viewer-chip").nth(chip).click()
            found = read_score(page)
            k = model.class_names.index(found["name"])
            assert found["logit"] == pytest.approx(float(why.logits[0, k]), abs=NEAR)
            expected = why.map(0, k).numpy()
            assert np.abs(read_map(page) - expected).max() < NEAR * max(1, np.ptp(expected))
    page.locator("#proof:not(:empty)").wait_for()
    assert page.locator("#faults p").count() == 0


@pytest.mark.browser
def test_the_report_and_its_own_photos_keep_apart(
    offline: Callable[..., Page], live: Path, shapes_folder: Path
) -> None:
    page = offline(live)
    photos = find_images([shapes_folder])[:2]
    for photo in photos:
        try_photo(page, photo)
    # Arrows go through one's own photos only where these are, and through the report's in its dialog.
    page.locator("#theme").press("ArrowLeft")
    assert photos[1].name in (page.locator("#first .viewer-name").text_content() or "")
    page.locator("#first .viewer-chip").first.press("ArrowLeft")
    assert photos[0].name in (page.locator("#first .viewer-name").text_content() or "")
    page.locator("#gallery .card").first.click()
    page.keyboard.press("ArrowRight")
    assert page.locator("#viewer-title").text_content() == "Photo 2 of 36"
    page.keyboard.press("Escape")
    assert photos[0].name in (page.locator("#first .viewer-name").text_content() or "")
    # The button of the theme is pressed once, not by both.
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before


@pytest.mark.browser
@pytest.mark.parametrize("size", [(1280, 700), (390, 844)])
def test_a_chosen_photo_is_in_sight_and_arrows_go_on_from_it(
    offline: Callable[..., Page], live: Path, shapes_folder: Path, size: tuple[int, int]
) -> None:
    page = offline(live, viewport={"width": size[0], "height": size[1]})
    photos = find_images([shapes_folder])[:2]
    # As a reader comes to the button: at the lower edge.
    page.locator("#choose-first").evaluate("one => one.closest('label').scrollIntoView({ block: 'end' })")
    page.locator("#choose-first").set_input_files(photos)
    name = page.locator("#first .viewer-name", has_text=photos[0].name)
    name.wait_for()
    assert name.evaluate("one => one.getBoundingClientRect().bottom <= innerHeight")
    page.keyboard.press("ArrowRight")
    page.locator("#first .viewer-name", has_text=photos[1].name).wait_for()


@pytest.mark.browser
def test_a_dropped_photo_is_shown_and_one_that_is_none_is_told(
    offline: Callable[..., Page], live: Path, shapes_folder: Path
) -> None:
    page = offline(live)
    drop = """([text, name]) => { const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
      const data = new DataTransfer(); data.items.add(new File([bytes], name));
      document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })); }"""
    photo = find_images([shapes_folder])[0]
    page.evaluate(drop, [base64.b64encode(photo.read_bytes()).decode(), "dropped.jpg"])
    page.locator("#first .viewer-name", has_text="dropped.jpg").wait_for()
    assert page.locator("#own").evaluate("one => Math.abs(one.getBoundingClientRect().top) < innerHeight / 2")
    page.evaluate(drop, [base64.b64encode(b"no photo").decode(), "notes.jpg"])
    page.locator("#faults", has_text="'notes.jpg' can't be read by this browser").wait_for()


@pytest.mark.browser
@pytest.mark.parametrize(("scheme", "width_px"), [("light", 390), ("dark", 1280)])
def test_axe_finds_nothing_serious(
    offline: Callable[..., Page], live: Path, shapes_folder: Path, scheme: Any, width_px: int
) -> None:
    from axe_core_python.sync_playwright import Axe

    page = offline(live, viewport={"width": width_px, "height": 844}, color_scheme=scheme)
    page.get_by_label("Search").fill("square/00")  # one card is as good as all, and quicker
    found = Axe().run(page)["violations"]
    try_photo(page, find_images([shapes_folder])[0])
    found += Axe().run(page)["violations"]
    assert [(fault["id"], fault["help"]) for fault in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width_px


@pytest.mark.browser
def test_a_browser_without_simd_is_told(browser: Browser, live: Path) -> None:
    with open_tab(browser) as page:
        page.add_init_script("WebAssembly.validate = () => false")
        page.goto(live.as_uri())
        page.locator("#faults", has_text="no WebAssembly with SIMD").wait_for()
        assert page.locator("#choose-first").is_disabled()


@pytest.mark.browser
@pytest.mark.usefixtures("_runtime")
def test_labels_that_go_together_are_told_as_given(
    offline: Callable[..., Page], shapes_folder: Path, tmp_path: Path
) -> None:
    """Each has a threshold of its own; the page's words are those of the report."""
    photo = find_images([shapes_folder])[0]
    network = GapClassifier(
        make_backbone("test_resnet", is_random=True, image_size=64), SHAPES, thresholds=(0.5,) * 3
    ).eval()
    save_classifier(network, tmp_path / "first", 0.0)
    shares = 1 / (1 + np.exp(-whycam.load(tmp_path / "first", engine="torch").explain(photo).logits[0].numpy()))
    order = np.argsort(-shares)
    thresholds = np.empty(3)
    thresholds[order] = [shares[order[0]] + 0.01, shares[order[1]] - 0.01, shares[order[2]] - 0.01]
    network.thresholds = tuple(float(value) for value in thresholds)
    save_classifier(network, tmp_path / "model", 0.0)
    report(tmp_path / "model", shapes_folder, tmp_path / "page.html", live=True)
    page = offline(tmp_path / "page.html")
    try_photo(page, photo)
    told = page.locator("#first .viewer-chip").evaluate_all(
        """all => all.map((one) => [one.querySelector(".viewer-chip-name").textContent,
        one.querySelector(".viewer-tag")?.textContent ?? ""])"""
    )
    assert told == [[SHAPES[order[0]], ""], [SHAPES[order[1]], "given"], [SHAPES[order[2]], "given"]]
