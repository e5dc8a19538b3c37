"""The page of a recording: what it holds, and in a browser what its slider does."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from callback_cases import PHOTOS, make_garden, make_net, make_recorder
from conftest import Run
from report_cases import decode_maps, read_data
from whycam.callbacks.recording import Recording, read_recording
from whycam.maps import render

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Three epochs of a training that jumps: networks of three seeds."""
    folder = tmp_path_factory.mktemp("page")
    recorder = make_recorder(make_garden(folder / "garden"), folder / "rec")
    for epoch in range(3):
        recorder.record(make_net(epoch), epoch)
    return read_recording(folder / "rec")


@pytest.fixture(scope="module")
def page_file(recorded: Recording) -> Path:
    from whycam.config import ReportOptions
    from whycam.jobs.report import make_report

    out = recorded.folder.parent / "page.html"
    done = make_report(str(recorded.folder), None, out, ReportOptions())
    assert (done.photos, done.unreadable) == (PHOTOS, 0)
    return out


def test_the_page_holds_each_map_of_each_epoch(recorded: Recording, page_file: Path) -> None:
    data = read_data(page_file)
    assert [one["epoch"] for one in data["epochs"]] == [0, 1, 2]
    for number, line in enumerate(recorded.epochs):
        shot = recorded.read(line)
        for i, photo in enumerate(data["photos"]):
            entry = photo["at"][number]
            limit = np.abs(shot.maps[i]).max() / 65534 * 1.01
            assert np.abs(decode_maps(entry)[0] - shot.maps[i]).max() <= limit
            assert entry["predicted"] == shot.logits[i].argmax()
            assert entry["bias"] + shot.maps[i].mean() == pytest.approx(shot.logits[i][photo["truth"]], abs=1e-5)
            assert entry["onMask"] == (None if np.isnan(shot.on_masks[i]) else pytest.approx(shot.on_masks[i]))


def test_the_command_makes_it_and_tells_what_is_wrong(
    recorded: Recording, call_whycam: Run, tmp_path: Path, shapes_folder: Path
) -> None:
    done = call_whycam("report", recorded.folder, "-o", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    assert f"Reported on {PHOTOS} photos; open {tmp_path / 'page.html'}" in done.stdout
    assert "http" not in (tmp_path / "page.html").read_text(encoding="utf-8").replace("http-equiv", "").replace(
        "http://www.w3.org/2000/svg", ""
    )
    beside = call_whycam("report", recorded.folder, shapes_folder, "-o", tmp_path / "other.html")
    assert beside.returncode == 2
    assert "is a recording, which holds its photos" in beside.stderr
    broken = tmp_path / "broken"
    shutil.copytree(recorded.folder, broken)
    (broken / "photos/0001.jpg").unlink()
    done = call_whycam("report", broken, "-o", tmp_path / "other.html")
    assert done.returncode == 2
    assert "0001.jpg' can't be read as a recording's photo" in done.stderr
    assert not (tmp_path / "other.html").exists()


def test_one_epoch_makes_a_page_too(recorded: Recording, call_whycam: Run, tmp_path: Path) -> None:
    shutil.copytree(recorded.folder, tmp_path / "rec")
    lines = (tmp_path / "rec/epochs.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "rec/epochs.jsonl").write_text(lines[0] + "\n", encoding="utf-8")
    assert call_whycam("report", tmp_path / "rec", "-o", tmp_path / "page.html").returncode == 0
    assert [one["epoch"] for one in read_data(tmp_path / "page.html")["epochs"]] == [0]


def read_alpha(page: Page, selector: str) -> np.ndarray:
    found: dict[str, Any] = page.locator(selector).first.evaluate(
        """canvas => { const { width, height } = canvas;
        return { width, height, data: [...canvas.getContext("2d").getImageData(0, 0, width, height).data] }; }"""
    )
    return np.array(found["data"]).reshape(found["height"], found["width"], 4)[..., 3]


def expect_alpha(values: np.ndarray) -> np.ndarray:
    heat = render.make_heatmap(values, (64, 64), is_signed=False)
    return np.rint(255 * 0.6 * np.minimum(1, 2 * np.floor(heat * 255 + 0.5) / 255))


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_slider_shows_each_epochs_heat(
    page: Page, page_file: Path, recorded: Recording, width: int, scheme: str
) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.goto(page_file.as_uri())
    shots: list[Any] = [recorded.read(line) for line in recorded.epochs]
    place: Callable[[], str] = page.locator(".now").first.evaluate_handle("line => line").as_element().get_attribute
    for epoch in (2, 0, 1):
        page.locator("#epoch").fill(str(epoch))
        page.locator("#gallery .card img[src^=data]").first.wait_for()
        page.wait_for_timeout(50)
        found, expected = read_alpha(page, "#gallery .viewer-heat"), expect_alpha(shots[epoch].maps[0])
        assert np.abs(found - expected).max() <= 2
        told = page.locator("#told").inner_text()
        assert told.startswith("Before training" if epoch == 0 else f"After epoch {epoch}")
        assert float(place("x1")) == pytest.approx(420 * epoch / 2)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.locator("#gallery .card").first.click()
    page.locator("#epoch-in-dialog").fill("2")
    assert page.locator("#epoch").input_value() == "2"
    assert np.abs(read_alpha(page, "#viewer .viewer-heat") - expect_alpha(shots[2].maps[0])).max() <= 2
    predicted = int(shots[2].logits[0].argmax())
    tag = page.locator("#viewer .viewer-tag").inner_text()
    assert tag == ("predicted, true class" if predicted == recorded.about["photos"][0]["class"] else "true class")
    page.keyboard.press("Escape")
    page.get_by_label("At this epoch").select_option("right")
    right = sum(
        int(logits.argmax() == row["class"])
        for logits, row in zip(shots[2].logits, recorded.about["photos"], strict=True)
    )
    assert page.locator("#gallery .card:visible").count() == right
    page.get_by_role("button", name="Play").click()
    page.locator("#told", has_text="Before training").wait_for()
    page.locator("#told", has_text="After epoch 1").wait_for()
