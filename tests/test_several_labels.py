"""A model of several labels, opened: each label has its own percentage, and none is said to be the only one."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image
from safetensors.torch import save_file

import whycam
from kind_cases import COLOURS, NAMES, NET, SIDE_PX, import_net, set_weights
from report_cases import read_data, report
from whycam.config import ServeOptions
from whycam.jobs.serve import configure, describe_address, listen
from whycam.show.app.served import ServedModel
from whycam.show.app.site import make_app

if TYPE_CHECKING:
    from playwright.sync_api import Page

# Folder and file -> the colours on the photo.
PHOTOS = {"red/both.png": ("red", "blue"), "red/none.png": (), "green/one.png": ("green",), "blue/other.png": ("red",)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("several")
    (root / "net.py").write_text(NET, encoding="utf-8")
    net = import_net(root).make_several()
    set_weights(net[0])
    net[0].head.weight.data = torch.eye(3, 4) * 40
    net[0].head.bias.data = torch.full((3,), -2.0)
    save_file(net.state_dict(), root / "net.safetensors")
    (root / "classes.txt").write_text("\n".join(NAMES), encoding="utf-8")
    for name, colours in PHOTOS.items():
        pixels = np.full((SIDE_PX, SIDE_PX, 3), 30, np.uint8)
        for place, colour in enumerate(colours):
            pixels[8:40, 32 * place : 32 * place + 24] = COLOURS[colour]
        (root / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / "photos" / name)
    return root


def read_words(root: Path) -> dict[str, object]:
    words = {"weights": root / "net.safetensors", "preprocess": "unit", "image_size": SIDE_PX}
    return words | {"classes": root / "classes.txt"}


@pytest.fixture(scope="module")
def report_file(root: Path) -> Path:
    report(f"{root}/net.py:make_several", root / "photos", root / "report.html", **read_words(root))
    return root / "report.html"


def test_the_page_counts_labels_not_names(report_file: Path) -> None:
    entries = {entry["id"]: entry for entry in read_data(report_file)["entries"]}
    both = dict(zip(entries["red/both.png"]["classes"], entries["red/both.png"]["probabilities"], strict=True))
    assert (both[0] > 0.5, both[1] < 0.5, both[2] > 0.5) == (True,) * 3
    assert sum(both.values()) > 1
    page = report_file.read_text(encoding="utf-8").split('<script type="application/json"')[0]
    assert "<strong>50\N{NO-BREAK SPACE}%</strong> of 4 photos get the label of their folder" in page
    assert "each has a percentage of its own, and several may be right at once" in page
    for words in ("named rightly", "classes apart", "What is taken for what", "worst mistakes", "Right when named"):
        assert words not in page


@pytest.mark.browser
def test_the_report_in_a_browser(page: Page, report_file: Path) -> None:
    told = {
        "red/both.png": "Over 50 %: red (",
        "red/none.png": "No label has over 50 %; the strongest: ",
        "green/one.png": "Over 50 %: green (",
        "blue/other.png": "Its own label is missed: blue (",
    }
    for name, words in told.items():
        page.goto("about:blank")
        page.goto(f"{report_file.as_uri()}#photo={name}")
        page.locator("#viewer-dialog[open]").wait_for()
        verdict = page.locator("#verdict").inner_text()
        assert words in verdict
        assert ("blue (" in verdict) is (name in {"red/both.png", "blue/other.png"})
        over = sum("over 50 %" in text for text in page.locator("#viewer .viewer-chip").all_inner_texts())
        assert over == len(PHOTOS[name])
    page.goto("about:blank")
    page.goto(report_file.as_uri())
    assert sorted(page.locator("#mistake-list .path").all_inner_texts()) == ["blue/other.png", "red/none.png"]
    page.locator("[name=outcome]").select_option("wrong")
    assert page.locator("#gallery .card").count() == 2


@pytest.mark.browser
def test_the_app_in_a_browser(page: Page, root: Path) -> None:
    words = read_words(root)
    model = whycam.load(f"{root}/net.py:make_several", class_names=words.pop("classes"), **words)  # type: ignore[arg-type]
    with listen("127.0.0.1", 0) as door, ServedModel(model) as served:
        server = uvicorn.Server(configure(make_app(served, ServeOptions())))
        thread = threading.Thread(target=server.run, args=([door],))
        door.listen()
        thread.start()
        try:
            page.goto(describe_address(door))
            assert "which labels the network gives them" in page.locator("#welcome").inner_text()
            assert "3 labels, maps exact" in page.locator("#about").inner_text()
            page.locator("#choose").set_input_files(root / "photos/red/both.png")
            page.locator("#first .viewer-chip").first.wait_for()
            answer = page.locator(".app-answer").inner_text()
            assert "red" in answer
            assert "blue" in answer
            assert "green" not in answer
            page.goto("about:blank")
        finally:
            server.should_exit = True
            thread.join()
