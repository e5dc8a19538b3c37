"""The exported site as a visitor has it: numbers as Python's, the camera, no network, a phone, a sub-folder, faults."""

from __future__ import annotations

import base64
import functools
import io
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

import whycam
from conftest import SHAPES, open_tab
from whycam.config import ExportOptions
from whycam.data.preprocess import _FILTERS
from whycam.data.walk import find_images
from whycam.errors import UserError
from whycam.jobs.export import export
from whycam.model.backbone import make_backbone
from whycam.model.gap import GapClassifier, save_classifier
from whycam.show.web.runtime import find_runtime

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
NEAR = 1e-4
WAIT_FOR_NEW = """async () => {
  while (!(await navigator.serviceWorker.getRegistration()).waiting) await new Promise((go) => setTimeout(go, 50));
}"""
FAKE_CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


class _Host(SimpleHTTPRequestHandler):
    """A static host as it comes."""

    def log_message(self, *_: object) -> None:
        """Not on the terminal."""


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """The folder from a host of its own: its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Host, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def host(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A host's folder with the tiny model's site in a folder below it; to be read only."""
    folder = tmp_path_factory.mktemp("host")
    # One download a session where the machine has a connection; WHYCAM_ORT_WEB does without.
    with patch.dict("os.environ", WHYCAM_CACHE=str(tmp_path_factory.getbasetemp() / "web-cache")):
        try:
            find_runtime(None)
        except UserError as error:
            pytest.skip(f"there is no onnxruntime-web: {error}")
        export(str(tiny_folder), folder / "models" / "tiny", ExportOptions(format="web"))
    return folder


@pytest.fixture(scope="module")
def address(host: Path) -> Iterator[str]:
    with serve(host) as found:
        yield f"{found}models/tiny/"


@pytest.fixture(scope="module")
def camera(browser: Browser) -> Iterator[Browser]:
    """Chromium with a camera that shows a turning disc, and that nobody is asked about."""
    found = browser.browser_type.launch(
        executable_path=shutil.which("chromium"),
        args=["--no-sandbox", "--disable-background-networking", *FAKE_CAMERA],
    )
    yield found
    found.close()


def open_site(page: Page, address: str) -> None:
    page.goto(address)
    page.locator("#proof:not(:empty)").wait_for()


def explain(page: Page, file: Path) -> dict[str, Any]:
    """What the page's own model answers: logits, and all maps."""
    return page.evaluate(
        """async ([base, text, name]) => {
          const { LocalModel } = await import(`${base}app/site_model.js`);
          const { SiteFiles } = await import(`${base}app/site_files.js`);
          window.ownModel ??= new LocalModel(new SiteFiles(base));
          await window.ownModel.ready();
          const file = new File([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], name);
          const photo = { file, name };
          await window.ownModel.explain(photo);
          const { logits, maps, cells, width, height } = photo.answer;
          return { logits: [...logits], maps: [...maps], cells, width, height };
        }""",
        [page.url, base64.b64encode(file.read_bytes()).decode(), file.name],
    )


def test_numbers_are_pythons(page: Page, address: str, tiny_folder: Path, shapes_folder: Path, tmp_path: Path) -> None:
    draw_from = np.random.default_rng(0)

    def save(name: str, array: np.ndarray, **how: Any) -> Path:
        Image.fromarray(array).save(tmp_path / name, **how)
        return tmp_path / name

    noise = functools.partial(draw_from.integers, 0, 256, dtype=np.uint8)
    exif = Image.Exif()
    exif[0x112] = 6
    photos = [
        save("wide.png", noise((90, 200, 3))),
        save("tall.png", noise((240, 70, 3))),  # Pillow 13 begins with its columns
        save("small.png", noise((20, 31, 3))),
        save("own-size.png", noise((64, 64, 3))),
        save("grey.png", noise((90, 120))),
        save("clear.png", noise((120, 90, 4))),
        save("lossless.webp", noise((80, 90, 3)), lossless=True),
        save("few.gif", np.kron(noise((9, 11)), np.ones((8, 8), np.uint8))),
        save("turned.jpg", noise((96, 140, 3)), exif=exif, quality=95),
        *find_images([shapes_folder])[:2],
    ]
    model = whycam.load(tiny_folder, engine="torch")
    open_site(page, address)
    for photo in photos:
        why, found = model.explain(photo, "all"), explain(page, photo)
        logits, maps = why.logits[0].numpy(), why.maps[0].numpy()
        assert np.abs(np.array(found["logits"]) - logits).max() < NEAR, photo.name
        assert np.abs(np.array(found["maps"]).reshape(maps.shape) - maps).max() < NEAR * max(1, np.ptp(maps)), (
            photo.name
        )
        assert (found["width"], found["height"]) == why.photos[0].size


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_resizing_is_pillows_to_the_last_bit(page: Page, address: str, host: Path, interpolation: str) -> None:
    draw_from = np.random.default_rng(1)
    is_tall_first = json.loads((host / "models" / "tiny" / "model.json").read_text())["input"]["isTallFirst"]
    open_site(page, address)
    for (width, height), target in [
        ((130, 57), (64, 64)),
        ((57, 230), (64, 64)),
        ((64, 150), (64, 64)),
        ((150, 64), (64, 64)),
        ((3, 2), (33, 40)),
        ((300, 290), (33, 40)),
        ((1, 90), (5, 5)),
    ]:
        # Extremes too: there a filter overshoots 0 and 255.
        photo = draw_from.choice(np.array([0, 255, 77, 128], dtype=np.uint8), (height, width, 3))
        rgba = np.dstack([photo, np.full((height, width), 255, np.uint8)])
        found = page.evaluate(
            """async ([base, text, size, target, how]) => {
              const { resize } = await import(`${base}app/site_pillow.js`);
              const rgba = Uint8ClampedArray.from(atob(text), (letter) => letter.charCodeAt(0));
              return [...resize(rgba, size, target, how)];
            }""",
            [
                address,
                base64.b64encode(rgba.tobytes()).decode(),
                [width, height],
                target,
                {"interpolation": interpolation, "isTallFirst": is_tall_first},
            ],
        )
        expected = np.asarray(Image.fromarray(photo).resize(target, _FILTERS[interpolation])).transpose(2, 0, 1)
        assert np.array_equal(np.array(found).reshape(expected.shape), expected), (width, height, target)


def test_a_photo_from_choosing_to_saving(page: Page, address: str, tiny_folder: Path, shapes_folder: Path) -> None:
    photo = find_images([shapes_folder])[0]
    model = whycam.load(tiny_folder, engine="torch")
    why = model.explain(photo, "all")
    best = int(why.predicted[0])
    open_site(page, address)
    page.locator("#choose-first").set_input_files(photo)
    page.locator(".viewer-chip").first.wait_for()
    assert page.locator(".viewer-chip").count() == 3
    assert page.locator(".viewer-chip-name").first.text_content() == model.class_names[best]

    def save(kind: str) -> bytes:
        with page.expect_download() as waiting:
            page.locator(f"[data-save={kind}]").click()
        assert waiting.value.suggested_filename.startswith(f"{photo.stem}.{model.class_names[best]}.")
        return Path(waiting.value.path()).read_bytes()

    assert np.allclose(np.load(io.BytesIO(save("map"))), why.map(0, best).numpy(), atol=NEAR)
    assert Image.open(io.BytesIO(save("overlay"))).size == Image.open(photo).size
    boxes = json.loads(save("boxes"))
    assert boxes["target"]["index"] == best
    assert boxes["target"]["logit"] == pytest.approx(float(why.logits[0, best]), abs=NEAR)
    assert len(boxes["target"]["boxes"]) == len(why.boxes())
    other = (best + 1) % 3
    page.get_by_label("Why not").select_option(str(other))
    difference = (why.map(0, best) - why.map(0, other)).numpy()
    assert np.allclose(np.load(io.BytesIO(save("map"))), difference, atol=NEAR)


def test_the_camera(camera: Browser, address: str) -> None:
    with open_tab(camera) as page:
        open_site(page, address)
        page.locator("#camera-first").click()
        page.get_by_text(re.compile(r"\d frames a second")).wait_for()
        frame = page.locator(".viewer-photo[role=img]")
        read = "canvas => canvas.toDataURL()"
        before = frame.evaluate(read)
        page.wait_for_function(
            "([canvas, before]) => canvas.toDataURL() !== before", arg=[frame.element_handle(), before]
        )
        # A class that is pressed is held, whatever is predicted then.
        chips = page.locator(".viewer-chip")
        name = chips.nth(2).locator(".viewer-chip-name").text_content()
        chips.nth(2).click()
        assert page.locator("#camera-hold").is_checked()
        page.wait_for_timeout(300)
        assert page.locator(".viewer-chip[aria-pressed=true] .viewer-chip-name").text_content() == name
        # The score under the picture is that of the frame that is shown.
        assert "= score" in (page.locator(".viewer-sum").text_content() or "")
        page.get_by_label("Why not").select_option(index=1)
        page.wait_for_timeout(300)
        assert "difference of the scores" in (page.locator(".viewer-sum").text_content() or "")
        page.locator("#camera-keep").click()
        page.locator(".app-photo", has_text="camera").wait_for()
        page.locator("#camera-tools").wait_for(state="hidden")
        page.locator("img.viewer-photo").wait_for()
        page.locator("#camera").click()
        page.locator("#camera-tools").wait_for()
        page.locator(".app-photo").click()  # a photo of the list ends it
        page.locator("#camera-tools").wait_for(state="hidden")
        assert page.locator("img.viewer-photo").is_visible()


def test_labels_that_go_together_with_a_conv_head(
    camera: Browser, host: Path, shapes_folder: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Of a photo and of the camera's frames the page tells which are given, by their thresholds."""
    photo = find_images([shapes_folder])[0]
    backbone = make_backbone("test_resnet", is_random=True, image_size=64)
    network = GapClassifier(backbone, SHAPES, "conv", thresholds=(0.001, 0.999, 0.001)).eval()
    save_classifier(network, tmp_path / "model", 0.0)
    with patch.dict("os.environ", WHYCAM_CACHE=str(tmp_path_factory.getbasetemp() / "web-cache")):
        export(str(tmp_path / "model"), tmp_path / "site", ExportOptions(format="web"))
    read_told = """all => Object.fromEntries(all.map((one) => [one.querySelector(".viewer-chip-name").textContent,
      one.querySelector(".viewer-tag")?.textContent ?? ""]))"""
    told = {"circle": "given", "square": "", "triangle": "given"}
    with open_tab(camera) as page, serve(tmp_path / "site") as found:
        open_site(page, found)
        why, answer = whycam.load(tmp_path / "model", engine="torch").explain(photo, "all"), explain(page, photo)
        assert np.abs(np.array(answer["logits"]) - why.logits[0].numpy()).max() < NEAR
        maps = why.maps[0].numpy()
        assert np.abs(np.array(answer["maps"]).reshape(maps.shape) - maps).max() < NEAR * max(1, np.ptp(maps))
        page.locator("#choose-first").set_input_files(photo)
        page.locator(".viewer-chip").first.wait_for()
        assert page.locator(".viewer-chip").evaluate_all(read_told) == told
        answered = page.locator(".app-answer").text_content() or ""
        assert "circle" in answered
        assert "square" not in answered
        page.locator("#camera").click()
        page.get_by_text(re.compile(r"\d frames a second")).wait_for()
        assert page.locator(".viewer-chip").evaluate_all(read_told) == told


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("Promise.reject(new DOMException('no', 'NotAllowedError'))", "The camera was refused."),
        ("Promise.reject(new DOMException('no', 'NotFoundError'))", "This machine has no camera."),
        ("Promise.reject(new DOMException('no', 'NotReadableError'))", "in use by another program"),
        (None, "The camera needs a safe address: https://"),
    ],
)
def test_no_camera(page: Page, address: str, fault: str | None, told: str) -> None:
    devices = "undefined" if fault is None else f"{{ getUserMedia: () => {fault} }}"
    page.add_init_script(f"Object.defineProperty(navigator, 'mediaDevices', {{ value: {devices} }})")
    open_site(page, address)
    page.locator("#camera-first").click()
    page.locator("#faults", has_text=told).wait_for()
    assert page.locator("#welcome").is_visible()


def test_without_a_network(browser: Browser, host: Path, shapes_folder: Path) -> None:
    with open_tab(browser) as page, serve(host) as found:
        open_site(page, f"{found}models/tiny/")
        page.get_by_text("Kept in this browser").wait_for()
        before = page.locator("#proof").text_content()
        page.context.set_offline(True)
        page.reload()
        page.locator("#proof:not(:empty)").wait_for()
        assert page.locator("#proof").text_content() == before
        page.locator("#choose-first").set_input_files(find_images([shapes_folder])[0])
        page.locator(".viewer-chip").first.wait_for()
        # From the second opening on the page is isolated, so that it may use several threads.
        assert page.evaluate("crossOriginIsolated")
        page.goto(f"{found}models/tiny/index.html")
        page.locator("#proof:not(:empty)").wait_for()


def test_a_new_export_takes_the_old_ones_place(browser: Browser, host: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    shutil.copytree(host / "models" / "tiny", site)
    context = browser.new_context()
    with serve(site) as found:
        page = context.new_page()
        open_site(page, found)
        page.get_by_text("Kept in this browser").wait_for()
        page.close()
        for name, old, new in (("index.html", "<h1>WhyCAM", "<h1>Another"), ("sw.js", '"version":"', '"version":"new')):
            text = (site / name).read_text()
            assert old in text
            (site / name).write_text(text.replace(old, new, 1))
        page = context.new_page()
        open_site(page, found)
        assert page.locator("h1").text_content() == "WhyCAM"  # as it was kept; meanwhile the new one is fetched
        page.evaluate(WAIT_FOR_NEW)
        # The browser lets go of a closed page a moment later.
        end = time.monotonic() + 20
        while page.locator("h1").text_content() != "Another":
            assert time.monotonic() < end
            page.close()
            time.sleep(0.5)
            page = context.new_page()
            open_site(page, found)
        assert len(page.evaluate("caches.keys()")) == 1
    context.close()


def test_nothing_goes_elsewhere(browser: Browser, address: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    open_site(page, address)
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    for source in (
        "fetch('https://example.com/')",
        # The network's thread is under the same policy: it stands in a blob, which inherits the page's.
        """new Promise((resolve, reject) => {
          const source = "fetch('https://example.com/').then(() => postMessage(1), () => postMessage(0))";
          const worker = new Worker(URL.createObjectURL(new Blob([source])));
          worker.onmessage = ({ data }) => (data ? resolve() : reject(new Error("refused")));
        })""",
    ):
        assert page.evaluate(f"{source}.then(() => 'sent', () => 'refused')") == "refused"
    page.wait_for_timeout(200)
    assert any("Content Security Policy" in error for error in errors)
    context.close()


@pytest.mark.parametrize(("scheme", "width_px"), [("light", 390), ("dark", 1280)])
def test_axe_finds_nothing_serious(camera: Browser, address: str, scheme: Any, width_px: int) -> None:
    from axe_core_python.sync_playwright import Axe

    axe = Axe()
    with open_tab(camera, viewport={"width": width_px, "height": 844}, color_scheme=scheme) as page:
        open_site(page, address)
        found = axe.run(page)["violations"]
        page.locator("[data-sample]").first.click()
        page.locator(".viewer-chip").first.wait_for()
        found += axe.run(page)["violations"]
        page.locator("#camera").click()
        page.get_by_text(re.compile(r"\d frames a second")).wait_for()
        found += axe.run(page)["violations"]
        assert page.evaluate("document.documentElement.scrollWidth") <= width_px
    assert [(fault["id"], fault["help"]) for fault in found if fault["impact"] in {"serious", "critical"}] == []


def test_a_browser_without_simd(page: Page, address: str) -> None:
    page.add_init_script("WebAssembly.validate = () => false")
    page.goto(address)
    page.locator("#faults", has_text="no WebAssembly with SIMD").wait_for()
    assert page.locator("#camera-first").is_disabled()


def test_the_simd_that_is_looked_for_is_there(page: Page, address: str, host: Path) -> None:
    script = (host / "models" / "tiny" / "app" / "site_start.js").read_text()
    numbers = re.search(r"const SIMD = Uint8Array.of\(([\d, ]+)\)", script)
    assert numbers
    code = bytes(map(int, numbers[1].split(",")))
    assert b"\xfd" in code  # the prefix of each such instruction
    page.goto(address)
    assert page.evaluate("(bytes) => WebAssembly.validate(Uint8Array.from(bytes))", list(code))
    # The same without it is none: it is the instruction that decides.
    assert not page.evaluate(
        "(bytes) => WebAssembly.validate(Uint8Array.from(bytes))", list(code.replace(b"\xfd", b"\xff"))
    )


def test_files_that_are_no_photos(page: Page, address: str, tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("no photo")
    open_site(page, address)
    page.locator("#choose-first").set_input_files(tmp_path / "notes.jpg")
    page.locator("#faults", has_text="'notes.jpg' can't be read by this browser (8 bytes); expected a JPEG").wait_for()


def test_a_folder_that_was_not_uploaded_whole(browser: Browser, host: Path, tmp_path: Path) -> None:
    shutil.copytree(host / "models" / "tiny", tmp_path / "site")
    (tmp_path / "site" / "model.onnx").unlink()
    context = browser.new_context()
    with serve(tmp_path / "site") as found:
        page = context.new_page()
        page.goto(found)
        page.locator("#faults", has_text="the host answered 404. Upload the whole folder.").wait_for()
        assert page.locator("#state").text_content() == "can't answer"
    context.close()


def test_opened_from_the_disk_it_says_what_to_do(browser: Browser, host: Path) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto((host / "models" / "tiny" / "index.html").as_uri())
    page.get_by_text("python -m http.server").wait_for()
    context.close()
