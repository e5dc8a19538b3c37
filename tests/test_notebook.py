"""What a notebook shows of explanations: a viewer in a frame, a picture where no script may run, a line of text."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import whycam
from conftest import change
from report_cases import decode_maps
from test_explain import make_images, make_net
from whycam.explainer.explanation import Explanation
from whycam.show.notebook import MOST_SHOWN

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> whycam.Model:
    return whycam.load(tiny_folder)


@pytest.fixture(scope="module")
def photos(shapes_folder: Path) -> list[Path]:
    return [shapes_folder / name / "00.jpg" for name in ("circle", "square", "triangle")]


@pytest.fixture(scope="module")
def why(model: whycam.Model, photos: list[Path]) -> Explanation:
    return model.explain(photos, "all")


def show(thing: Any) -> dict[str, Any]:
    bundle: dict[str, Any] = thing._repr_mimebundle_()
    return bundle


def open_frame(bundle: dict[str, Any]) -> str:
    """The page within the frame."""
    found = re.search(r'srcdoc="([^"]*)"', bundle["text/html"])
    assert found is not None
    return html.unescape(found[1])


def read_data(bundle: dict[str, Any]) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', open_frame(bundle), re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_a_notebook_is_given_the_maps_themselves_and_what_their_means_lack_to_the_scores(why: Explanation) -> None:
    bundle = show(why)
    assert set(bundle) == {"text/plain", "image/png", "text/html"}
    data = read_data(bundle)
    assert [row[0]["name"] for row in data["rows"]] == ["00.jpg"] * 3
    for i, (entry,) in enumerate(data["rows"]):
        for k, values in zip(entry["classes"], decode_maps(entry), strict=True):
            own = why.map(i, k).numpy()
            assert np.abs(values - own).max() <= np.abs(own).max() / 65000
            assert own.mean() + entry["bias"][str(k)] == pytest.approx(float(why.logits[i, k]), abs=1e-4)
    biases = [row[0]["bias"] for row in data["rows"]]
    assert all(one[k] == pytest.approx(biases[0][k], abs=1e-4) for one in biases for k in one)


def test_maps_that_are_not_exact_have_no_bias(model: whycam.Model, photos: list[Path]) -> None:
    for how in ({"method": "grad-cam"}, {"smooth": "scales"}):
        data = read_data(show(model.explain(photos, **how)))
        assert [row[0]["bias"] for row in data["rows"]] == [None] * 3


def test_a_line_says_what_was_found_where_nothing_can_be_shown(why: Explanation, model: whycam.Model) -> None:
    text = repr(model.explain(str(why.paths[0])))
    name = model.class_names[int(why.predicted[0])]
    share = f"{float(why.probabilities[0].max()):.0%}"
    assert text.startswith(f"Explanation of 1 photo by cam: {name} {share}; ")
    assert "overlay()" in text
    assert repr(why).count("%") == 3
    assert len(repr(model.explain([why.paths[0]] * 9))) < 250
    assert "and 5 more" in repr(model.explain([why.paths[0]] * 9))


def test_several_stand_side_by_side(model: whycam.Model, photos: list[Path]) -> None:
    whys = [model.explain(photos, method=method) for method in ("cam", "grad-cam", "cam")]
    grid = whycam.grid(*whys)
    assert list(grid.columns) == ["cam (1)", "grad-cam", "cam (3)"]
    data = read_data(show(grid))
    assert data["columns"] == list(grid.columns)
    assert [[entry["method"] for entry in row] for row in data["rows"]] == [["cam", "grad-cam", "cam"]] * 3
    assert "3 photos" in repr(grid)
    named = whycam.grid(*whys[:2], names=["exact", "gradients"])
    assert read_data(show(named))["columns"] == ["exact", "gradients"]


def test_what_cannot_stand_side_by_side_is_refused(model: whycam.Model, photos: list[Path]) -> None:
    three, two = model.explain(photos), model.explain(photos[:2])
    signals = whycam.explain(make_net(dims=1), make_images(3, 1), method="grad-cam")
    with pytest.raises(whycam.UserError, match="Found no explanation"):
        whycam.grid()
    with pytest.raises(whycam.UserError, match="2 and of 3 photos"):
        whycam.grid(three, two)
    with pytest.raises(whycam.UserError, match="the same photos in the same order"):
        whycam.grid(three, model.explain(photos[::-1]))
    with pytest.raises(whycam.UserError, match="Found a list among"):
        whycam.grid([three, three])  # type: ignore[arg-type]
    assert list(whycam.grid(three, three, names=[1, 2]).columns) == ["1", "2"]  # type: ignore[list-item]
    with pytest.raises(whycam.UserError, match="1 names of 2 explanations"):
        whycam.grid(three, three, names=["one"])
    with pytest.raises(whycam.UserError, match="can't draw"):
        whycam.grid(three, signals)


def test_what_the_viewer_cannot_draw_is_a_picture_or_a_line(model: whycam.Model, photos: list[Path]) -> None:
    versus = model.explain(photos, "circle", versus="square")
    tensors = whycam.explain(make_net(), make_images(2), method="grad-cam")
    called = whycam.explain(make_net(), make_images(2), lambda logits: logits.sum(1), method="grad-cam")
    signals = whycam.explain(make_net(dims=1), make_images(2, 1), method="grad-cam")
    assert [set(show(one)) for one in (versus, tensors, called)] == [{"text/plain", "image/png"}] * 3
    assert set(show(signals)) == {"text/plain"}
    assert "map() gives the numbers" in repr(signals)
    assert "score" in repr(called)


def test_of_many_photos_some_are_shown_and_the_others_told(model: whycam.Model, photos: list[Path]) -> None:
    bundle = show(model.explain([photos[0]] * (MOST_SHOWN + 3)))
    assert len(read_data(bundle)["rows"]) == MOST_SHOWN
    assert f"{MOST_SHOWN} of {MOST_SHOWN + 3} photos" in open_frame(bundle)


def test_a_frame_asks_for_nothing_outside_and_names_stay_text(why: Explanation) -> None:
    hostile = '"></iframe><script>alert(1)</script>'
    named = replace(why, class_names=(hostile, *why.class_names[1:]))
    frame = show(named)["text/html"]
    assert frame.count("<iframe") == 1
    assert "<script" not in frame
    page = open_frame(show(named))
    assert "alert(1)</script>" not in page
    assert "default-src 'none'" in html.unescape(page)
    assert not re.search(r'(src|href)="?https?:', page)


@pytest.mark.browser
@pytest.mark.parametrize(("thresholds", "told"), [((), "over 50 %"), ((0.01, 0.01, 0.99), "given")])
def test_classes_that_go_together_are_marked_as_given(
    *, page: Page, model: whycam.Model, photos: list[Path], tmp_path: Path, thresholds: tuple[float, ...], told: str
) -> None:
    several = change(model, output="multi-label logits", thresholds=thresholds)
    why = several.explain(photos[0], "all")
    (tmp_path / "notebook.html").write_text(f"<!doctype html><body>{show(why)['text/html']}")
    page.goto((tmp_path / "notebook.html").as_uri())
    chips = page.frame_locator("iframe").locator(".viewer-chip")
    chips.nth(2).wait_for()
    marked = [told in chip.inner_text() for chip in chips.all()]
    order = why.logits[0].argsort(descending=True).tolist()
    assert marked == [model.class_names[k] in why.given() for k in order]
    assert any(marked)


@pytest.mark.browser
def test_the_viewer_follows_the_chosen_photo(
    page: Page, model: whycam.Model, photos: list[Path], tmp_path: Path
) -> None:
    other = model.explain(photos, "all", method="grad-cam")
    other = replace(other, class_names=("another", *other.class_names[1:]))
    grid = whycam.grid(model.explain(photos, "all"), other)
    (tmp_path / "notebook.html").write_text(f"<!doctype html><body>{show(grid)['text/html']}")
    page.goto((tmp_path / "notebook.html").as_uri())
    inner = page.frame_locator("iframe")
    buttons = inner.locator(".shown-photo")
    buttons.nth(5).wait_for()
    assert buttons.count() == 6
    assert inner.locator(".title").all_text_contents() == ["cam", "grad-cam"]
    assert "=" in inner.locator(".viewer").inner_text()
    buttons.nth(3).click()
    assert [one.get_attribute("aria-pressed") for one in buttons.all()] == ["false"] * 3 + ["true"] + ["false"] * 2
    assert "where the score comes from" in inner.locator(".viewer").inner_text()
    assert "another" in inner.locator(".viewer-chips").inner_text()
    buttons.nth(2).click()
    assert "another" not in inner.locator(".viewer-chips").inner_text()
    buttons.nth(3).click()
    assert float(page.locator("iframe").evaluate("frame => frame.clientHeight")) > 300
    chips = inner.locator(".viewer-chip")
    page.keyboard.press("2")
    assert chips.nth(1).get_attribute("aria-pressed") == "true"
