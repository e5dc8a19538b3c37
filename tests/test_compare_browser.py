"""The page of a comparison in a browser, opened from the disk: three maps in one scale, the dialog, the filters."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from compare_cases import make_model, save_model
from report_cases import decode_maps, read_data
from whycam.config import CompareOptions
from whycam.jobs.compare import compare_models

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, shapes_folder: Path) -> Path:
    """A comparison of models with grids of two sizes."""
    root = tmp_path_factory.mktemp("compared")
    models = [
        save_model(make_model(shapes_folder, k, side_px=side), root / str(k)) for k, side in enumerate((64, 96, 64, 64))
    ]
    a, b, *noise = map(str, models)
    compare_models(a, b, shapes_folder, root / "out", CompareOptions(engine="torch", noise=noise))
    return root / "out" / "compare.html"


@pytest.fixture
def opened(page: Page, made: Path) -> Page:
    page.goto(made.as_uri())
    return page


def list_leads(flip: dict[str, Any]) -> dict[str, np.ndarray]:
    """What each of the three pictures of a flip shows: the map of B's answer less that of A's."""
    leads = {}
    for side, entry in flip["entries"].items():
        maps = decode_maps(entry)
        leads[side] = maps[entry["classes"].index(flip["b"])] - maps[entry["classes"].index(flip["a"])]
    return leads


def test_the_pictures_of_a_flip_share_one_scale(opened: Page, made: Path) -> None:
    flips = {flip["id"]: flip for flip in read_data(made)["flips"]}
    article = opened.locator("#flip-list article").first
    canvases = article.locator("canvas")
    canvases.last.scroll_into_view_if_needed()
    opened.wait_for_function(
        "[...document.querySelectorAll('#flip-list article:first-child canvas')].every((c) => c.width !== 300)"
    )
    drawn = canvases.evaluate_all(
        "(all) => all.map((c) => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data])"
    )
    leads = list_leads(flips[str(article.get_attribute("data-photo"))])
    peak = max(np.abs(values).max() for values in leads.values())
    assert len(drawn) == 3
    for pixels, side in zip(drawn, ("a", "b", "change"), strict=True):
        opacity = max(pixels[3::4]) / 255
        # The strongest place of a picture is as opaque as its share of the strongest of all three allows.
        expected = 0.85 * min(1, 2 * np.abs(leads[side]).max() / peak)
        assert opacity == pytest.approx(expected, abs=0.12)


def test_the_dialog_tells_the_sum_of_the_change_and_of_either_model(opened: Page, made: Path) -> None:
    data = read_data(made)
    opened.locator("#flip-list .trio").first.click()
    flip = {one["id"]: one for one in data["flips"]}[opened.locator(".viewer-name").inner_text()]
    leads = list_leads(flip)
    for name, side in (("B less A", "change"), ("A's maps", "a"), ("B's maps", "b")):
        opened.get_by_role("button", name=name, exact=True).click()
        told = opened.locator(".viewer-sum").inner_text().replace("−", "-")
        told = re.sub(r"- (change of the bias|bias) ", r"+ \1 -", told)
        mean, bias, total = (float(word) for word in re.findall(r"-?\d+\.?\d*(?:e-\d+)?", told))
        expected = {"a": flip["leadA"], "b": flip["leadB"], "change": flip["leadB"] - flip["leadA"]}[side]
        assert total == pytest.approx(expected, abs=0.006 + 0.01 * abs(expected))
        assert mean == pytest.approx(leads[side].mean(), abs=0.006 + 0.01 * abs(mean))
        assert mean + bias == pytest.approx(total, abs=0.03 + 0.01 * abs(total))
        assert ("change of the" in told) == (side == "change")
        assert opened.get_by_role("button", name=name, exact=True).get_attribute("aria-pressed") == "true"
    opened.keyboard.press("c")
    assert opened.locator("#sides [aria-pressed=true]").inner_text() == "B less A"
    opened.keyboard.press("ArrowRight")
    assert opened.locator(".viewer-name").inner_text() != flip["id"]
    assert f"#photo={opened.locator('.viewer-name').inner_text()}".replace("/", "%2F") in opened.url


def test_filters_choose_flips(opened: Page, made: Path) -> None:
    flips = read_data(made)["flips"]
    chosen = [flip for flip in flips if flip["kind"] == "right-to-wrong"]
    opened.locator("[name=kind]").select_option("right-to-wrong")
    assert opened.locator("#count").inner_text() == f"{len(chosen)} of {len(flips)} photos."
    assert opened.locator("#flip-list article").count() == min(12, len(chosen))
    opened.get_by_role("button", name="Clear").click()
    opened.get_by_label("Not between seeds").check()
    steady = sum(flip["between"] == 0 for flip in flips)
    assert opened.locator("#count").inner_text() == f"{steady} of {len(flips)} photos."
    opened.get_by_role("button", name="Clear").click()
    opened.get_by_label("Search").fill(flips[0]["id"])
    assert opened.locator("#flip-list article").count() == 1


def test_it_fits_a_phone(opened: Page) -> None:
    opened.set_viewport_size({"width": 360, "height": 740})
    assert opened.evaluate("document.documentElement.scrollWidth") == 360
    opened.locator("#flip-list .trio").first.click()
    assert opened.evaluate("document.querySelector('dialog').scrollWidth") <= 360


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(page: Page, made: Path, scheme: Any) -> None:
    from axe_core_python.sync_playwright import Axe

    page.emulate_media(color_scheme=scheme)
    page.goto(made.as_uri())
    page.get_by_label("Search").fill(read_data(made)["flips"][0]["id"])
    on_page = Axe().run(page)["violations"]
    page.locator("#flip-list .trio").click()
    in_viewer = Axe().run(page, "#viewer-dialog")["violations"]
    grave = [one for one in (*on_page, *in_viewer) if one["impact"] in {"serious", "critical"}]
    assert not [(one["id"], one["nodes"][0]["html"]) for one in grave]
