"""The report in a browser, opened from the disk: what it draws, what keys and filters do, and whom it leaves out."""

from __future__ import annotations

import re
import shutil
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from conftest import PHOTOS_A_CLASS, SHAPES
from report_cases import decode_maps, make_finding, make_run, read_data, report, write_audit
from whycam.maps import boxes as localize
from whycam.maps import render
from whycam.model.backbone import make_backbone
from whycam.model.gap import GapClassifier, save_classifier

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

PHOTOS = PHOTOS_A_CLASS * len(SHAPES)
SIDE_PX = 96
LONG_NAMES = ("L" * 239 + "1", "תות שדה", "向日葵" * 20 + "🌷", "L" * 239 + "2")
HOSTILE = '</script><img src=x onerror="document.title=1">'


@pytest.fixture(scope="module")
def report_file(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, shapes_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    run = make_run(folder / "run", tiny_folder, shapes_folder)
    audit = write_audit(folder / "audit.json", make_finding([shapes_folder / "square" / "00.jpg"]))
    report(run, None, folder / "report.html", audit=audit)
    return folder / "report.html"


@pytest.fixture(scope="module")
def data(report_file: Path) -> dict[str, Any]:
    return read_data(report_file)


@pytest.fixture
def opened(page: Page, report_file: Path) -> Page:
    page.goto(report_file.as_uri())
    return page


@pytest.fixture
def viewer(page: Page, report_file: Path, data: dict[str, Any]) -> Page:
    """The viewer open on the first photo."""
    page.goto(f"{report_file.as_uri()}#photo={data['entries'][0]['id']}")
    page.locator("#viewer-dialog[open]").wait_for()
    return page


def read_canvas(page: Page) -> np.ndarray:
    """(H, W, 4) uint8: the viewer's heat."""
    found = page.evaluate(
        """() => { const canvas = document.querySelector("#viewer .viewer-heat");
        const { width, height } = canvas;
        return { width, height, data: [...canvas.getContext("2d").getImageData(0, 0, width, height).data] }; }"""
    )
    return np.array(found["data"], np.uint8).reshape(found["height"], found["width"], 4)


def expect_canvas(values: np.ndarray, *, is_signed: bool) -> np.ndarray:
    """What whycam.maps.render lays over a photo."""
    heat = render.make_heatmap(values.astype(np.float32), (SIDE_PX, SIDE_PX), is_signed=is_signed)
    levels = np.floor(heat * 255 + 0.5).astype(int)
    strength = np.abs(levels - 128) / 255 * 2 if is_signed else levels / 255
    alpha = np.rint(255 * 0.6 * np.minimum(1, 2 * strength))
    colors = render.color_heatmap(heat, render.COLORMAP_SIGNED if is_signed else render.COLORMAP_POSITIVE)
    return np.dstack([colors, alpha])


def assert_drawn_alike(found: np.ndarray, expected: np.ndarray) -> None:
    # A level may round the other way; the browser keeps colours multiplied by their alpha, with 8 bits.
    assert np.abs(found[..., 3].astype(float) - expected[..., 3]).max() <= 2
    seen = expected[..., 3] > 100
    assert not (np.abs(found[seen].astype(float) - expected[seen]) > 6).any()


def test_heat_is_drawn_as_the_pictures_on_disk(viewer: Page, data: dict[str, Any]) -> None:
    entry = data["entries"][0]
    for at in range(len(entry["classes"])):
        viewer.locator("#viewer .viewer-chip").nth(at).click()
        assert_drawn_alike(read_canvas(viewer), expect_canvas(decode_maps(entry)[at], is_signed=False))


def test_the_hottest_pixel_is_where_the_raw_map_is(viewer: Page, data: dict[str, Any]) -> None:
    values = decode_maps(data["entries"][0])[0]
    brightness = read_canvas(viewer).astype(int).sum(axis=2)
    y, x = np.unravel_index(brightness.argmax(), brightness.shape)
    assert (y * values.shape[0] // SIDE_PX, x * values.shape[1] // SIDE_PX) == np.unravel_index(
        values.argmax(), values.shape
    )


def test_a_difference_is_drawn_and_told_exactly(viewer: Page, data: dict[str, Any]) -> None:
    entry = data["entries"][0]
    maps, (first, second) = decode_maps(entry), entry["classes"][:2]
    viewer.get_by_label("Why not").select_option(str(second))
    assert_drawn_alike(read_canvas(viewer), expect_canvas(maps[0] - maps[1], is_signed=True))
    told = viewer.locator("#viewer .viewer-sum").inner_text().replace("−", "-").replace("- bias ", "+ bias -")
    mean, bias, total = (float(word) for word in re.findall(r"-?\d+\.?\d*(?:e-\d+)?", told))
    assert mean == pytest.approx((maps[0] - maps[1]).mean(), abs=0.006)
    assert bias == pytest.approx(data["bias"][first] - data["bias"][second], abs=0.006)
    assert total == pytest.approx(entry["logits"][0] - entry["logits"][1], abs=0.006)


def test_a_sum_is_told_with_as_many_digits_as_it_takes_to_add_up(opened: Page) -> None:
    told = opened.evaluate(
        """async () => {
          const { tellSum } = await import("whycam/viewer");
          const asked = [[1.004, 0.004, 1.008], [1.5, -0.25, 1.25], [104.4, 3.4, 107.8], [12.34, -0.04, 12.3]];
          asked.push([0.0041, 0.0002, 0.0043]);
          for (let i = 0; i < 999; i += 1) {
            const [mean, bias] = [20 * Math.sin(i), Math.cos(7 * i)];
            asked.push([mean, bias, Math.fround(mean + bias)]);
          }
          return asked.map(([mean, bias, total]) => tellSum([mean, bias], total));
        }"""
    )
    assert told[:3] == [["1.004", "0.004", "1.008"], ["1.50", "−0.25", "1.25"], ["104.4", "3.4", "107.8"]]
    assert told[3:5] == [["12.34", "−0.04", "12.30"], ["0.0041", "0.0002", "0.0043"]]
    for words in told:
        mean, bias, total = (Decimal(word.replace("−", "-")) for word in words)
        assert mean + bias == total


def test_sliders_change_pixels(viewer: Page) -> None:
    before = read_canvas(viewer)[..., 3]
    viewer.get_by_label("Opacity").fill("0.2")
    faint = read_canvas(viewer)[..., 3]
    assert (before.max(), faint.max()) == (153, 51)
    viewer.get_by_label("Hide below").fill("0.5")
    some = read_canvas(viewer)[..., 3]
    assert 0 < (some > 0).sum() < (faint > 0).sum()
    viewer.get_by_label("Colours").select_option("viridis")
    assert (read_canvas(viewer)[..., :3] != before.max()).any()


def test_boxes_are_those_of_the_library(viewer: Page, data: dict[str, Any]) -> None:
    viewer.get_by_label("Boxes").check()
    heat = render.make_heatmap(decode_maps(data["entries"][0])[0].astype(np.float32), (SIDE_PX,) * 2, is_signed=False)
    expected = [(box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0) for box in localize.find_boxes(heat)]
    drawn = viewer.locator("#viewer .viewer-box").evaluate_all(
        f"""all => all.map(one => ["x", "y", "width", "height"].map(
        name => Math.round({SIDE_PX} * Number(one.getAttribute(name)))))"""
    )
    assert sorted(map(tuple, drawn)) == sorted(expected)


def test_the_value_under_the_cursor_is_told(viewer: Page, data: dict[str, Any]) -> None:
    values = decode_maps(data["entries"][0])[0]
    frame = viewer.locator("#viewer .viewer-stage").bounding_box()
    assert frame
    viewer.mouse.move(frame["x"] + 1, frame["y"] + 1)
    told = viewer.locator("#viewer .viewer-readout").inner_text().replace("−", "-")
    found = re.match(r"At (\d+), (\d+): (-?[\d.]+)", told)
    assert found
    assert float(found[3]) == pytest.approx(values[0, 0], rel=0.02)


def test_keys_go_on_and_back_choose_and_close(viewer: Page, data: dict[str, Any]) -> None:
    title, chips = viewer.locator("#viewer-title"), viewer.locator("#viewer .viewer-chip")
    first = title.inner_text()
    viewer.keyboard.press("ArrowRight")
    assert title.inner_text() != first
    viewer.keyboard.press("ArrowLeft")
    assert title.inner_text() == first
    viewer.keyboard.press("2")
    assert chips.nth(1).get_attribute("aria-pressed") == "true"
    assert chips.nth(0).get_attribute("aria-pressed") == "false"
    viewer.keyboard.press("h")
    assert read_canvas(viewer)[..., 3].max() == 0
    viewer.keyboard.press("h")
    viewer.keyboard.press("v")
    assert "difference" in viewer.locator("#viewer .viewer-sum").inner_text()
    viewer.keyboard.press("Escape")
    assert not viewer.locator("#viewer-dialog").is_visible()
    viewer.wait_for_function("!location.hash")


def count_shown(page: Page) -> int:
    cards = page.locator("#gallery .card").count()
    assert page.locator("#count").inner_text().startswith(f"{cards} of {PHOTOS} ")
    return cards


def test_filters_narrow_the_list(opened: Page, data: dict[str, Any]) -> None:
    wrong = sum(entry["classes"][0] != entry["truth"] for entry in data["entries"])
    assert count_shown(opened) == PHOTOS
    opened.get_by_label("Right or wrong").select_option("wrong")
    assert count_shown(opened) == wrong
    opened.get_by_role("button", name="Clear").click()
    opened.get_by_label("Search").fill("SQUARE/00")
    assert count_shown(opened) == 1
    opened.locator("#gallery .card").click()
    assert opened.locator("#viewer .viewer-name").inner_text() == "square/00.jpg"
    opened.keyboard.press("Escape")
    opened.get_by_role("button", name="Clear").click()
    opened.get_by_label("Finding").select_option("finding-1")
    assert count_shown(opened) == 1


def test_a_cell_of_the_confusion_matrix_shows_its_photos_by_keyboard(opened: Page) -> None:
    cell = opened.locator("#confusion td:not(.right) button").first
    count = int(cell.inner_text())
    cell.focus()
    opened.keyboard.press("Enter")
    assert count_shown(opened) == count
    chosen = [opened.locator(f"#filters [name={name}]").input_value() for name in ("truth", "predicted")]
    assert chosen == [cell.get_attribute("data-truth"), cell.get_attribute("data-predicted")]
    assert chosen[0] != chosen[1]


def test_the_first_screen_shows_what_to_worry_about(opened: Page) -> None:
    box = opened.locator("#finding-1 .card").bounding_box()
    assert box
    assert box["y"] + box["height"] < 800
    drawn = opened.locator("#finding-1 .viewer-box").first
    assert [drawn.get_attribute(name) for name in ("x", "y", "width", "height")] == ["0.75", "0", "0.25", "0.25"]
    opened.locator("#finding-1 .card").click()
    chosen = opened.locator("#viewer .viewer-chip[aria-pressed=true] .viewer-chip-name")
    assert chosen.inner_text() == "square"


def test_a_mistake_opens_with_the_difference(opened: Page, data: dict[str, Any]) -> None:
    opened.locator("#mistake-list .trio").first.click()
    assert "which is wrong" in opened.locator("#verdict").inner_text()
    worst = max(
        (entry for entry in data["entries"] if entry["classes"][0] != entry["truth"]),
        key=lambda one: one["probabilities"][0] - one["probabilities"][one["classes"].index(one["truth"])],
    )
    assert opened.locator("#viewer .viewer-name").inner_text() == worst["name"]
    assert opened.get_by_label("Why not").input_value() == str(worst["truth"])


def test_pictures_out_of_sight_are_drawn_when_needed(opened: Page) -> None:
    drawn = opened.locator("#gallery img[src^='data:image/jpeg']")
    assert drawn.count() < PHOTOS
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert drawn.count() == PHOTOS


def test_on_paper_there_are_no_controls(opened: Page) -> None:
    opened.emulate_media(media="print")
    assert not opened.locator("#filters").is_visible()
    assert opened.locator("#classes table").is_visible()


def test_a_phone_needs_no_scrolling_sideways(opened: Page) -> None:
    opened.set_viewport_size({"width": 390, "height": 844})
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    opened.locator("#gallery .card").first.click()
    assert opened.locator("#viewer-dialog").evaluate("one => one.scrollWidth <= one.clientWidth")
    photo = opened.locator("#viewer .viewer-stage").bounding_box()
    assert photo
    assert photo["width"] > 300


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(page: Page, report_file: Path, scheme: Any) -> None:
    from axe_core_python.sync_playwright import Axe

    page.emulate_media(color_scheme=scheme)
    page.goto(report_file.as_uri())
    page.get_by_label("Search").fill("square/00")  # one card is as good as all, and quicker
    on_page = Axe().run(page)["violations"]
    page.locator("#gallery .card").click()
    in_viewer = Axe().run(page, "#viewer-dialog")["violations"]
    grave = [one for one in (*on_page, *in_viewer) if one["impact"] in {"serious", "critical"}]
    assert not [(one["id"], one["nodes"][0]["html"]) for one in grave]


def test_the_page_turns_dark_and_light(opened: Page) -> None:
    read = "getComputedStyle(document.body).backgroundColor"
    light = opened.evaluate(read)
    opened.get_by_role("button", name="Dark page").click()
    assert opened.evaluate(read) != light
    opened.get_by_role("button", name="Light page").click()
    assert opened.evaluate(read) == light


def test_names_of_users_do_nothing_but_be_read(page: Page, tmp_path: Path, shapes_folder: Path) -> None:
    backbone = make_backbone("test_resnet", is_random=True, image_size=64)
    save_classifier(GapClassifier(backbone, (HOSTILE, "square", "triangle")).eval(), tmp_path / "model", 0.0)
    finding = make_finding([shapes_folder / "square" / "00.jpg"], title=HOSTILE, detail=HOSTILE, id=HOSTILE)
    audit = write_audit(tmp_path / "audit.json", finding | {"class": HOSTILE})
    report(tmp_path / "model", shapes_folder, tmp_path / "report.html", audit=audit)
    page.goto(f"{(tmp_path / 'report.html').as_uri()}#photo=%3Cimg src=x onerror=alert(1)%3E")
    page.locator("#gallery .card").first.click()
    assert page.locator("#viewer .viewer-chip-name").filter(has_text=HOSTILE).count() == 1
    assert page.title().endswith("WhyCAM report")
    assert page.locator("img[onerror]").count() == 0


@pytest.fixture(scope="module")
def named_report(tmp_path_factory: pytest.TempPathFactory, shapes_folder: Path) -> Path:
    """Of a run whose classes have names of 240 letters without a gap, of other scripts and an emoji."""
    folder = tmp_path_factory.mktemp("names")
    backbone = make_backbone("test_resnet", is_random=True, image_size=64)
    save_classifier(GapClassifier(backbone, LONG_NAMES).eval(), folder / "model", 0.0)
    for name, shape in zip(LONG_NAMES[:3], SHAPES, strict=True):
        shutil.copytree(shapes_folder / shape, folder / "photos" / name)
    finding = make_finding([], title=f"{LONG_NAMES[0]!r} is told by a corner.") | {"class": LONG_NAMES[0]}
    audit = write_audit(folder / "audit.json", finding)
    run = make_run(folder / "run", folder / "model", folder / "photos")
    report(run, None, folder / "report.html", audit=audit)
    return folder / "report.html"


@pytest.mark.parametrize("width_px", [1280, 390])
def test_names_of_any_length_and_script_leave_the_page_as_wide_as_the_screen(
    page: Page, named_report: Path, width_px: int
) -> None:
    page.set_viewport_size({"width": width_px, "height": 900})
    page.goto(named_report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width_px
    # No table scrolls sideways on a desk, and every name can be read whole.
    if width_px > 1000:
        assert page.locator(".scroll").evaluate_all("all => all.every(one => one.scrollWidth <= one.clientWidth)")
    assert set(LONG_NAMES) <= set(page.locator("[title]").evaluate_all("all => all.map(one => one.title)"))
    assert max(page.locator(".name").evaluate_all("all => all.map(one => one.getBoundingClientRect().height)")) < 140
    page.locator("#gallery .card").first.click()
    assert page.locator("#viewer-dialog").evaluate("one => one.scrollWidth <= one.clientWidth")
    assert set(LONG_NAMES) == set(page.locator(".viewer-chip-name").all_text_contents())


def test_a_name_in_hebrew_leaves_the_number_beside_it_in_place(page: Page, named_report: Path) -> None:
    page.goto(named_report.as_uri())
    told = page.locator(".card-text .name", has_text="תות").first.text_content()
    assert "\u2068תות שדה\u2069" in told
