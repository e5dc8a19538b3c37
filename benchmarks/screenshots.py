"""Screenshots of the report, the app and of its page Mend, as wide as a desk's screen and a phone's, light and dark.

python benchmarks/screenshots.py REPORT.html -o screenshots
python benchmarks/screenshots.py --app http://127.0.0.1:8000 --photos PHOTO ... -o screenshots    (whycam serve runs)
python benchmarks/screenshots.py --mend http://127.0.0.1:8000 -o screenshots    (whycam serve RUN runs)
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

WIDTHS_PX = {"desktop": 1280, "phone": 390}
SCHEMES = ("light", "dark")


def open_page(browser: Browser, address: str, width_px: int, scheme: str) -> Page:
    page = browser.new_page(viewport={"width": width_px, "height": 844}, color_scheme=scheme)
    page.goto(address)
    page.wait_for_timeout(500)  # what is in sight is drawn by then
    return page


def shoot_report(browser: Browser, report: Path, out: Path) -> None:
    """First screen, whole page, and the viewer."""
    for device, width_px in WIDTHS_PX.items():
        for scheme in SCHEMES:
            page = open_page(browser, report.resolve().as_uri(), width_px, scheme)
            page.screenshot(path=out / f"report-{device}-{scheme}.png")
            page.evaluate("dispatchEvent(new Event('beforeprint'))")  # draws what is out of sight, too
            page.screenshot(path=out / f"report-{device}-{scheme}-whole.png", full_page=True)
            page.locator("#gallery .card").first.click()
            page.screenshot(path=out / f"report-{device}-{scheme}-viewer.png")
            page.close()


def shoot_app(browser: Browser, address: str, photos: list[Path], out: Path) -> None:
    """The empty page, photos with the first one's map, two methods side by side, and the API's page."""
    for device, width_px in WIDTHS_PX.items():
        for scheme in SCHEMES:
            page = open_page(browser, address, width_px, scheme)
            page.screenshot(path=out / f"app-{device}-{scheme}.png")
            page.locator("#choose-first").set_input_files(photos)
            page.locator(".app-answer", has_text="%").nth(len(photos) - 1).wait_for()
            page.screenshot(path=out / f"app-{device}-{scheme}-photo.png", full_page=True)
            page.get_by_label("Compare with").select_option("layer-cam")
            page.locator("#second .viewer-heat").wait_for()
            page.screenshot(path=out / f"app-{device}-{scheme}-pair.png", full_page=True)
            page.goto(f"{address}/docs")
            page.screenshot(path=out / f"app-{device}-{scheme}-docs.png")
            page.close()


def shoot_mend(browser: Browser, address: str, out: Path) -> None:
    """The first item, a photo's own, the drawing, and the versions; nothing is said and nothing is trained."""
    for device, width_px in WIDTHS_PX.items():
        for scheme in SCHEMES:
            page = open_page(browser, f"{address}/mend", width_px, scheme)
            page.wait_for_function("() => document.querySelector('#viewer .viewer-heat')?.ariaLabel", timeout=120_000)
            page.wait_for_timeout(500)
            page.screenshot(path=out / f"mend-{device}-{scheme}.png")
            page.keyboard.press("n")
            page.wait_for_timeout(1000)
            page.screenshot(path=out / f"mend-{device}-{scheme}-photo.png", full_page=True)
            page.keyboard.press("d")
            page.keyboard.press(" ")
            page.keyboard.press("ArrowRight")
            page.screenshot(path=out / f"mend-{device}-{scheme}-draw.png")
            page.keyboard.press("Escape")
            page.locator("#show-versions").click()
            page.get_by_role("heading", name="Versions").wait_for()
            if has_changed := page.locator(".mend-change").count() > 0:
                page.locator(".mend-change").first.scroll_into_view_if_needed()
                page.locator(".mend-change .viewer-stage").first.wait_for()
                page.wait_for_timeout(5000)  # what is in sight of the changed photos is drawn by then
            page.screenshot(path=out / f"mend-{device}-{scheme}-versions.png", full_page=True)
            if has_changed:
                page.locator(".mend-change").first.click()
                page.wait_for_function("() => document.querySelector('#change-viewer .viewer-heat')?.ariaLabel")
                page.screenshot(path=out / f"mend-{device}-{scheme}-change.png")
            page.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, nargs="?")
    parser.add_argument("--app", help="address of a running app")
    parser.add_argument("--photos", type=Path, nargs="+", default=[], help="what the app is given")
    parser.add_argument("--mend", help="address of a running app of a run whose photos are at hand")
    parser.add_argument("-o", "--out", type=Path, default=Path("screenshots"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        if given.report:
            shoot_report(browser, given.report, given.out)
        if given.app:
            shoot_app(browser, given.app, given.photos, given.out)
        if given.mend:
            shoot_mend(browser, given.mend, given.out)
        browser.close()
    print(f"The pictures are in {given.out}")


if __name__ == "__main__":
    main()
