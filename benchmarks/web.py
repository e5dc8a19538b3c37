"""The exported site in Chromium: frames a second of a camera, the first answer, the size, and how near to Python it is.

A report with the network in it, too, opened from the disk without a connection.

`python benchmarks/web.py` writes results/web.md and .json; further models are named behind it. The camera is Chromium's
own, a turning disc of 640 x 480. Photos are those that WHYCAM_DATA names. A first answer counts from the page's address
to the photo's class, in a browser that has seen nothing of the site; the photo is given as soon as the page takes it.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, save, write_table
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

import whycam
from whycam.config import ExportOptions, ReportOptions
from whycam.data.images import load_image
from whycam.data.walk import find_images
from whycam.jobs.export import export
from whycam.jobs.report import make_report

FIRSTS = 5
WATCHED_S, WINDOW_S = 20, 4
PHOTOS = 8
_FRAMES = """() => { window.frames_ = []; new MutationObserver(() => window.frames_.push(performance.now()))
  .observe(document.getElementById("camera-rate"), { childList: true }); }"""
_EXPLAIN = """async ([base, name]) => {
  const { LocalModel } = await import(`${base}app/site_model.js`);
  const { SiteFiles } = await import(`${base}app/site_files.js`);
  window.own ??= new LocalModel(new SiteFiles(base));
  await window.own.ready();
  const photo = { name, file: new File([await (await fetch(`${base}photos/${name}`)).blob()], name) };
  const start = performance.now();
  await window.own.explain(photo);
  return [[...photo.answer.logits], [...photo.answer.maps], performance.now() - start];
}"""


class Host(SimpleHTTPRequestHandler):
    """A static host as it comes."""

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Host, directory=folder)) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign] - a page that is closed while it loads
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def measure_first(browser: Browser, address: str, photo: Path) -> tuple[float, list[str]]:
    """Seconds to the first answer, and the addresses that were asked for."""
    context = browser.new_context()
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = context.new_page()
    start = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.locator("html.site-started").wait_for()
    page.locator("#choose-first").set_input_files(photo)
    page.locator(".viewer-chip").first.wait_for()
    took = time.perf_counter() - start
    context.close()
    return took, asked


def read_threads() -> dict[str, float]:
    """Thread -> seconds of the processor, of the workers of this process's browser."""
    parents, found = {}, {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[place.name] = (place / "stat").read_text().rpartition(")")[2].split()[1]
    for process in parents:
        above = process
        while above in parents and above != str(os.getpid()):
            above = parents[above]
        for task in Path(f"/proc/{process}/task").glob("*") if above == str(os.getpid()) else ():
            with suppress(OSError):
                name, _, rest = (task / "stat").read_text().rpartition(")")
                if "DedicatedWorker" in name:
                    used = rest.split()
                    found[task.name] = (int(used[11]) + int(used[12])) / os.sysconf("SC_CLK_TCK")
    return found


def measure_frames(browser: Browser, address: str) -> dict[str, Any]:
    """Frames a second of the camera, in each window; and what a frame takes of each of the two threads.

    The network's is the busier one; the other one makes frames ready for it.

    The first window is left out: in it the code gets warm.
    """
    context = browser.new_context(viewport={"width": 1280, "height": 850})
    page = context.new_page()
    page.goto(address)
    page.locator("#proof:not(:empty)").wait_for()
    page.evaluate(_FRAMES)
    page.locator("#camera-first").click()
    page.locator("#camera-tools").wait_for()
    page.wait_for_timeout(1000 * WINDOW_S)
    before, begun = read_threads(), page.evaluate("[window.frames_.length, performance.now()]")
    page.wait_for_timeout(1000 * WATCHED_S)
    after, times = read_threads(), np.array(page.evaluate("window.frames_")) / 1000
    context.close()
    used = sorted((after[thread] - before.get(thread, 0) for thread in after), reverse=True)
    network_ms, prepare_ms = (1000 * spent / (len(times) - begun[0]) for spent in used[:2])
    edges = np.arange(begun[1] / 1000, times[-1], WINDOW_S)
    windows = [float(((times >= a) & (times < b)).sum() / WINDOW_S) for a, b in itertools.pairwise(edges)]
    return {"a_second": windows, "thread_ms": network_ms, "prepare_ms": prepare_ms}


def measure_network(page: Page, address: str, site: Path) -> float:
    """Milliseconds that a photo of the network's own size takes in the page: the least of 20."""
    told = json.loads((site / "model.json").read_text())["input"]
    file = site / "photos" / "own.png"
    Image.fromarray(np.zeros((told["height"], told["width"], 3), np.uint8)).save(file)
    return min(ask(page, address, file)[2] for _ in range(20))


def ask(page: Page, address: str, file: Path) -> tuple[np.ndarray, np.ndarray, float]:
    """Logits, maps and milliseconds of a file that the host has in photos/."""
    logits, maps, took = page.evaluate(_EXPLAIN, [address, file.name])
    return np.array(logits), np.array(maps), took


def measure_gaps(page: Page, address: str, model: whycam.Model, files: list[Path]) -> dict[str, Any]:
    """How far the page's numbers are from Python's: the largest of logits, and of maps as a share of their range."""
    logits, maps, shares, changed = [], [], [], 0
    for file in files:
        theirs, their_maps = read(model, load_image(file))
        ours, own_maps, _ = ask(page, address, file)
        logits.append(float(np.abs(ours - theirs).max()))
        shares.append(logits[-1] / float(np.ptp(theirs)))
        maps.append(float(np.abs(own_maps.reshape(their_maps.shape) - their_maps).max() / np.ptp(their_maps)))
        changed += int(ours.argmax() != theirs.argmax())
    return {
        "photos": len(files),
        "logits": max(logits, default=float("nan")),
        "logits_share": max(shares, default=float("nan")),
        "logits_share_median": statistics.median(shares) if shares else float("nan"),
        "maps_share": max(maps, default=float("nan")),
        "changed": changed,
    }


def measure_reduced(page: Page, address: str, model: whycam.Model, files: list[Path]) -> dict[str, Any]:
    """The same of scores where Python decodes a large JPEG at a part of its size, as training and evaluation do."""
    gaps, shares, changed = [], [], 0
    for file in files:
        theirs = read(model, load_image(file, at_least=model.preprocess.at_least))[0]
        ours = ask(page, address, file)[0]
        gaps.append(float(np.abs(ours - theirs).max()))
        shares.append(gaps[-1] / float(np.ptp(theirs)))
        changed += int(ours.argmax() != theirs.argmax())
    return {
        "photos": len(files),
        "logits": max(gaps),
        "logits_share": max(shares),
        "logits_share_median": statistics.median(shares),
        "maps_share": "-",
        "changed": changed,
    }


def read(model: whycam.Model, photo: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Python's (K,) logits and (K, h, w) maps, by PyTorch."""
    answer = model.classifier.read(model.preprocess.to_pixels(photo)[None])
    return answer.logits[0], answer.maps[0]


def collect(folder: Path) -> dict[str, list[Path]]:
    """Kind -> files: photos as PNG, small JPEGs as they are, and JPEGs that Python decodes at a part of their size."""
    root = Path(os.environ["WHYCAM_DATA"])
    found = [path for path in find_images([root]) if path.suffix.lower() in {".jpg", ".jpeg"}]
    draw = np.random.default_rng(0).permutation(len(found))
    small: list[Path] = []
    large: list[Path] = []
    for index in draw:
        if len(small) >= PHOTOS and len(large) >= PHOTOS:
            break
        with Image.open(found[index]) as photo:
            if photo.mode == "RGB":
                (large if min(photo.size) >= 896 else small).append(found[index])
    small, large = small[:PHOTOS], large[:PHOTOS]
    whole = []
    for i, path in enumerate([*small[: PHOTOS // 2], *large[: PHOTOS // 2]]):
        whole.append(folder / f"{i}.png")
        with Image.open(path) as photo:
            photo.convert("RGB").save(whole[-1], compress_level=1)
    return {"PNG": whole, "JPEG": small, "JPEG of 896 pixels or more": large}


def measure_report(browser: Browser, name: str, folder: Path, photo: Path) -> dict[str, Any]:
    """Size of a report with the network and a photo in it and without, and how fast it opens and answers.

    An answer counts from the choice of the photo, in a page that is open: the network is opened by it.
    """
    photos, plain, live = folder / "photos", folder / "plain.html", folder / "live.html"
    photos.mkdir()
    shutil.copy(photo, photos)
    for file, is_live in ((plain, False), (live, True)):
        make_report(name, photos, file, ReportOptions(no_audit=True, live=is_live))
    context = browser.new_context(offline=True)
    opened, answered, loads = [], [], [os.getloadavg()[0]]
    for _ in range(FIRSTS):
        page = context.new_page()
        start = time.perf_counter()
        page.goto(live.as_uri())
        page.locator("#about:not(:empty)").wait_for()
        opened.append(time.perf_counter() - start)
        start = time.perf_counter()
        page.locator("#choose-first").set_input_files(photo)
        page.locator("#first .viewer-chip").first.wait_for()
        answered.append(time.perf_counter() - start)
        page.close()
    context.close()
    sizes = {"size_mb": live.stat().st_size / 1e6, "plain_mb": plain.stat().st_size / 1e6}
    shutil.rmtree(photos)
    loads.append(os.getloadavg()[0])
    return sizes | {"opened_s": opened, "answer_s": answered, "load": loads}


def measure(name: str, browser: Browser, files: dict[str, list[Path]], folder: Path) -> dict[str, Any]:
    site = folder / "site"
    export(name, site, ExportOptions(format="web"))
    # After the size is known: the photos to compare on are given from the same host.
    sizes = {path.relative_to(site).as_posix(): path.stat().st_size / 1e6 for path in site.rglob("*") if path.is_file()}
    found: dict[str, Any] = {
        "load": [os.getloadavg()[0]],
        "size_mb": sum(sizes.values()),
        "largest_mb": max(sizes.values()),
    }
    (site / "photos").mkdir()
    for file in {file for some in files.values() for file in some}:
        shutil.copy(file, site / "photos" / file.name)
    with serve(site) as address:
        firsts = [measure_first(browser, address, files["JPEG"][0]) for _ in range(FIRSTS)]
        found["first_s"] = [took for took, _ in firsts]
        found["outside"] = sum(not url.startswith((address, "blob:")) for _, asked in firsts for url in asked)
        found["load"].append(os.getloadavg()[0])
        found["frames"] = measure_frames(browser, address)
        found["load"].append(os.getloadavg()[0])
        page = browser.new_page()
        page.goto(address)
        found["network_ms"] = measure_network(page, address, site)
        model = whycam.load(name, engine="torch")
        found["gaps"] = {kind: measure_gaps(page, address, model, some) for kind, some in files.items()}
        found["gaps"]["the same, as `whycam evaluate` decodes them"] = measure_reduced(
            page, address, model, files["JPEG of 896 pixels or more"]
        )
        page.close()
    shutil.rmtree(site)
    found["report"] = measure_report(browser, name, folder, files["JPEG"][0])
    return found


def tell_reports(found: dict[str, dict[str, Any]], version: str) -> list[str]:
    """The lines on reports with the network in them."""
    loads = [load for one in found.values() for load in one["load"]]
    return [
        "# A report with the network in it",
        f"`python benchmarks/web.py`: `whycam report --live` of one photo, opened from the disk in Chromium {version} "
        "without a connection. An answer counts from the choice of the photo, which opens the network. Medians of "
        f"{FIRSTS}. The load was {min(loads):.1f} to {max(loads):.1f}.",
        "",
        *write_table(
            ["model", "report, MB", "without the network", "open, s", "first answer, s", "slowest"],
            [
                (
                    name,
                    one["size_mb"],
                    one["plain_mb"],
                    statistics.median(one["opened_s"]),
                    statistics.median(one["answer_s"]),
                    max(one["answer_s"]),
                )
                for name, one in found.items()
            ],
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["imagenet"])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    arguments = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    found = {}
    with tempfile.TemporaryDirectory() as place, sync_playwright() as play:
        folder = Path(place)
        files = collect(folder)
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        version = browser.version
        for name in options.models:
            found[Path(name).name] = measure(name, browser, files, folder)
        browser.close()
    loads = [load for one in found.values() for load in one["load"]]
    speed = write_table(
        [
            "model",
            "site, MB",
            "first answer, s",
            "slowest",
            "frames a second",
            "slowest",
            "a frame in the network, processor ms",
            "made ready, processor ms",
            "frames that a core has time for, a second",
            "a photo at best, ms",
            "outside requests",
        ],
        [
            (
                name,
                one["size_mb"],
                statistics.median(one["first_s"]),
                max(one["first_s"]),
                statistics.median(one["frames"]["a_second"]),
                min(one["frames"]["a_second"]),
                one["frames"]["thread_ms"],
                one["frames"]["prepare_ms"],
                1000 / one["frames"]["thread_ms"],
                one["network_ms"],
                one["outside"],
            )
            for name, one in found.items()
        ],
    )
    gaps = write_table(
        [
            "model",
            "files",
            "photos",
            "logits: largest",
            "of their range",
            "median",
            "maps, of their range",
            "other class",
        ],
        [
            (
                name,
                kind,
                gap["photos"],
                gap["logits"],
                gap["logits_share"],
                gap["logits_share_median"],
                gap["maps_share"],
                gap["changed"],
            )
            for name, one in found.items()
            for kind, gap in one["gaps"].items()
        ],
    )
    lines = [
        "# The exported site in a browser",
        f"`python benchmarks/web.py`: Chromium {version}, one thread of WebAssembly, a camera of 640 x 480. Medians of "
        f"{FIRSTS} openings and of windows of {WINDOW_S} s. The load was {min(loads):.1f} to {max(loads):.1f}. "
        "Two threads work on a frame at a time each: one reads and resizes it, one has the network. The network's time "
        "is what bounds the frames.",
        "",
        *speed,
        "",
        "What the page's numbers differ by from Python's (`whycam explain`), the largest of each kind:",
        "",
        *gaps,
    ]
    reports = {name: one.pop("report") for name, one in found.items()}
    save("web", lines, {"chromium": version, "models": found}, options.out)
    save("web-report", tell_reports(reports, version), {"chromium": version, "models": reports}, options.out)


if __name__ == "__main__":
    main()
