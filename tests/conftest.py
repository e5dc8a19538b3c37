"""What several test files share: a tiny network, a folder of drawn photos, the command line as a user runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file

import whycam
from whycam.model.backbone import create_backbone, make_backbone
from whycam.model.classifier import GapClassifier, save_classifier

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SHAPES = ("circle", "square", "triangle")
PHOTOS_A_CLASS = 12
SIDE_PX = 96


@pytest.fixture(scope="session", autouse=True)
def _session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No fixture of the session writes into the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WHYCAM_CACHE", str(tmp_path_factory.mktemp("session-cache")))
        yield


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each test starts with an empty cache."""
    monkeypatch.setenv("WHYCAM_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def photos_dir() -> Path:
    """The folder of real photos that WHYCAM_DATA names."""
    if not os.environ.get("WHYCAM_DATA"):
        pytest.skip("WHYCAM_DATA names no folder of real photos")
    return Path(os.environ["WHYCAM_DATA"])


def make_tiny() -> GapClassifier:
    """A seeded three-class classifier on a small random ResNet, 64 px, in eval mode."""
    torch.manual_seed(0)
    return GapClassifier(make_backbone("test_resnet", is_random=True, image_size=64), SHAPES).eval()


@pytest.fixture
def tiny_model() -> GapClassifier:
    """See make_tiny; each test has its own."""
    return make_tiny()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, saved; to be read only."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    save_classifier(make_tiny(), folder, 0.0)
    return folder


@pytest.fixture(scope="session")
def shapes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLASS/photo.jpg of coloured shapes on noise, class = shape, 12 photos of 96 px a class."""
    root = tmp_path_factory.mktemp("photos") / "shapes"
    draw_from = np.random.default_rng(0)
    for name in SHAPES:
        (root / name).mkdir(parents=True)
        for index in range(PHOTOS_A_CLASS):
            _draw_shape(name, draw_from).save(root / name / f"{index:02}.jpg", quality=90)
    return root


def _draw_shape(name: str, draw_from: np.random.Generator) -> Image.Image:
    photo = Image.fromarray(draw_from.integers(0, 110, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8))
    side = int(draw_from.integers(36, 60))
    x, y = (int(v) for v in draw_from.integers(0, SIDE_PX - side, 2))
    color = tuple(int(v) for v in draw_from.integers(150, 256, 3))
    pen = ImageDraw.Draw(photo)
    if name == "circle":
        pen.ellipse((x, y, x + side, y + side), fill=color)
    elif name == "square":
        pen.rectangle((x, y, x + side, y + side), fill=color)
    else:
        pen.polygon([(x + side / 2, y), (x, y + side), (x + side, y + side)], fill=color)
    return photo


@pytest.fixture(scope="session")
def run_whycam() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run_whycam("train", folder, "-o", run, env={...})`: the command line in a process of its own, output as text."""

    def run(
        *words: object, env: dict[str, str] | None = None, timeout_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        source = str(Path(whycam.__file__).parents[1])
        return subprocess.run(
            [sys.executable, "-m", "whycam", *map(str, words)],
            env={**os.environ, "PYTHONPATH": source, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium without a window; it asks nothing of the network by itself."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-background-networking"])
        yield found
        found.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A tab of a browser of its own; the test fails on an error in the console and on a request to another machine."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    tab = context.new_page()
    errors: list[str] = []
    requests: list[str] = []
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    yield tab
    context.close()
    assert not errors
    assert not [url for url in requests if urlsplit(url).hostname not in {None, "", "127.0.0.1", "localhost"}]


@pytest.fixture
def random_weights(tmp_path: Path) -> Path:
    """A file of weights for test_resnet, which are random and always the same."""
    torch.manual_seed(0)
    path = tmp_path / "test_resnet.safetensors"
    save_file(create_backbone("test_resnet", image_size=64).module.state_dict(), path)
    return path
