"""What several test files share: a tiny network, a folder of drawn photos, the command line as a user runs it."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import shutil
import subprocess
import sys
import tomllib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from importlib.metadata import entry_points
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch
from urllib.parse import urlsplit

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file

import whycam
from whycam.__main__ import main
from whycam.data.preprocess import Preprocess
from whycam.model.backbone import create_backbone, make_backbone
from whycam.model.classifier import Classifier
from whycam.model.gap import GapClassifier, save_classifier
from whycam.model.onnx.engine import OnnxEngine

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SHAPES = ("circle", "square", "triangle")
PHOTOS_A_CLASS = 12
SIDE_PX = 96

Run = Callable[..., subprocess.CompletedProcess[str]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--keep-results", action="store_true", help="tests/test_kept.py: keep what commands write now")


def pytest_configure(config: pytest.Config) -> None:
    """The order below stands: pytest-xdist would put files with many tests first, and end with a single slow one."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, then those with many, so that several workers end together."""
    tests, slow = Counter(item.path for item in items), {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, -tests[item.path], item.path))


@pytest.fixture(scope="session", autouse=True)
def _session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No fixture of the session writes into the user's own cache."""
    with patch.dict(os.environ, WHYCAM_CACHE=str(tmp_path_factory.mktemp("session-cache"))):
        yield


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, caches: Iterator[Path]) -> None:
    """Each test starts with an empty cache."""
    monkeypatch.setenv("WHYCAM_CACHE", str(next(caches)))


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders that are not there yet: mktemp would list all of its siblings for each test."""
    root = tmp_path_factory.mktemp("caches")
    return (root / str(number) for number in count())


@pytest.fixture(scope="session")
def common_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that all workers share, and all processes that they start: what it holds has locks."""
    root = tmp_path_factory.getbasetemp()
    return (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "common-cache"


@pytest.fixture
def warm(common_cache: Path, _own_cache: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test goes on with what others left in the cache: the installed network's graphs, features of the same photos.

    For what is large, and where a first time is not the point; whoever comes first has one all the same.
    """
    monkeypatch.setenv("WHYCAM_CACHE", str(common_cache))


@pytest.fixture(scope="session")
def torchs_export() -> Callable[..., Any]:
    """torch.onnx.export as it is."""
    return torch.onnx.export


@pytest.fixture(scope="session", autouse=True)
def _idle_threads() -> Iterator[None]:
    """ONNX Runtime's threads sleep while they wait: awake they take a third more of the cores that workers share."""
    make = onnxruntime.SessionOptions

    def make_idle() -> onnxruntime.SessionOptions:
        options = make()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options

    with patch.object(onnxruntime, "SessionOptions", make_idle):
        yield


class _Likeness(pickle.Pickler):
    """Pickles of equal networks are equal; a plain one holds the addresses of the tensors."""

    def persistent_id(self, thing: object) -> object:
        if isinstance(thing, torch.Tensor):
            return tuple(thing.shape), str(thing.dtype), thing.detach().numpy().tobytes()
        return None


@pytest.fixture(scope="session", autouse=True)
def _each_graph_once(torchs_export: Callable[..., Any]) -> Iterator[None]:
    """The same network is translated once by a worker, which takes seconds; what is done with the graph is done anew.

    Networks are the same if their pickles are: weights, structure, preprocessing and options. Of others, what the
    exporter makes anew each time, a quarter of its time, is made once: its table of all operators.
    """
    made: dict[bytes, Any] = {}

    def export(net: torch.nn.Module, images: tuple[torch.Tensor, ...], *rest: object, **how: object) -> Any:
        if not how.get("dynamo"):  # the older exporter writes into a file
            return torchs_export(net, images, *rest, **how)
        keep_operators()
        likeness = io.BytesIO()
        try:
            _Likeness(likeness).dump((net, [(image.shape, image.dtype) for image in images], str(how)))
        except (AttributeError, TypeError, pickle.PicklingError):  # a class of a test's own
            return torchs_export(net, images, *rest, **how)
        key = hashlib.sha256(likeness.getvalue()).digest()
        if key not in made:
            made[key] = torchs_export(net, images, *rest, **how)
        return made[key]

    with ExitStack() as held, patch.object(torch.onnx, "export", export):
        keep_operators = cache(lambda: held.enter_context(_one_table_of_operators()))
        yield


@contextmanager
def _one_table_of_operators() -> Iterator[None]:
    from torch.onnx._internal.exporter._registration import ONNXRegistry  # imports onnxscript

    with patch.object(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib))):
        yield


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


def find_graph(classifier: Classifier) -> OnnxEngine | None:
    """The exported graph that gives a classifier's maps; None where torch does."""
    return classifier._find_graph("maps")


def change(model: whycam.Model, **card: object) -> whycam.Model:
    """The same model with other entries in its card."""
    return whycam.Model(model.classifier.having(**card))


@pytest.fixture(scope="session")
def tiny_cache(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the tiny model's exported graph; to be read only."""
    root = tmp_path_factory.mktemp("tiny-cache")
    with patch.dict(os.environ, WHYCAM_CACHE=str(root)):
        assert find_graph(whycam.load(tiny_folder, engine="onnx").classifier) is not None
    return root


@pytest.fixture
def cached(tiny_folder: Path, tiny_cache: Path, _own_cache: None) -> str:
    """The tiny model, its graph in the test's own cache."""
    shutil.copytree(tiny_cache, os.environ["WHYCAM_CACHE"])
    return str(tiny_folder)


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


@pytest.fixture(scope="session")
def split_shapes(shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and val/, 8 and 4 photos a class."""
    root = tmp_path_factory.mktemp("split")
    for path in shapes_folder.rglob("*.jpg"):
        to = root / ("train" if int(path.stem) < 8 else "val") / path.parent.name / path.name
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
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
def scene(shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run and its photos, for tests of edits; to be copied."""
    from edit_cases import make_scene

    return make_scene(shapes_folder, tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="session")
def run_whycam() -> Run:
    """`run_whycam("train", folder, "-o", run, env={...})`: the command line in a process of its own, output as text."""

    def run(
        *words: object, env: dict[str, str] | None = None, timeout_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        # Before what the tests themselves were told to import from.
        told = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
        source = os.pathsep.join([str(Path(whycam.__file__).parents[1]), *told])
        return subprocess.run(
            [sys.executable, "-m", "whycam", *map(str, words)],
            env={**os.environ, "PYTHONPATH": source, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    return run


@pytest.fixture
def call_whycam() -> Run:
    """As run_whycam, in this process: seconds faster, where a process of its own is not the point."""

    def call(*words: object) -> subprocess.CompletedProcess[str]:
        command, code = ["whycam", *map(str, words)], 0
        # What main() sets is set back.
        with (
            patch.object(sys, "argv", command),
            patch.dict(os.environ),
            warnings.catch_warnings(),
            redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8")) as out,
            redirect_stderr(io.TextIOWrapper(io.BytesIO(), "utf-8")) as err,
        ):
            try:
                main()
            except SystemExit as end:
                code = int(end.code or 0)
        shown = []
        for stream in (out, err):
            stream.seek(0)
            shown.append(stream.read())
        return subprocess.CompletedProcess(command, code, *shown)

    return call


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


@contextmanager
def open_tab(browser: Browser, **how: Any) -> Iterator[Page]:
    """A tab that fails on an error in the console and on a request to another machine."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **how})
    tab = context.new_page()
    errors: list[str] = []
    requests: list[str] = []
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    context.on("request", lambda request: requests.append(request.url))
    yield tab
    context.close()
    assert not errors
    assert not [url for url in requests if urlsplit(url).hostname not in {None, "", "127.0.0.1"}]


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A tab of a browser of its own."""
    with open_tab(browser) as tab:
        yield tab


@pytest.fixture
def guard_plugin(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pytest plugin by the entry point of pyproject.toml, also where this checkout is not what is installed.

    What a pytest within this process imports for the first time stays imported, all but its own tests: modules of
    whycam's that came twice would register their methods twice.
    """
    base = tmp_path_factory.getbasetemp()

    def forget_tests(_snapshot: object) -> None:
        for name, module in list(sys.modules.items()):
            if (file := getattr(module, "__file__", None)) and base in Path(file).parents:
                del sys.modules[name]

    monkeypatch.setattr("_pytest.pytester.SysModulesSnapshot.restore", forget_tests)
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    points = project["entry-points"]["pytest11"]
    assert list(points) == ["whycam"]
    if "whycam" in entry_points(group="pytest11").names:
        assert entry_points(group="pytest11")["whycam"].value == points["whycam"]
        return
    about = tmp_path / "site" / "whycam_plugin-0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: whycam-plugin\nVersion: 0\n")
    (about / "entry_points.txt").write_text(f"[pytest11]\nwhycam = {points['whycam']}\n")
    monkeypatch.syspath_prepend(about.parent)
    source = str(Path(whycam.__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(about.parent), source]))


@pytest.fixture
def random_weights(tmp_path: Path) -> Path:
    """A file of weights for test_resnet, which are random and always the same."""
    torch.manual_seed(0)
    path = tmp_path / "test_resnet.safetensors"
    save_file(create_backbone("test_resnet", image_size=64).module.state_dict(), path)
    return path


@pytest.fixture
def see_saturation(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the general network's place, which takes seconds: an object is what has a colour."""
    from whycam.audit import objects
    from whycam.maps.objects import GRID, Finder

    def look(images: np.ndarray) -> list[np.ndarray]:
        warm = (images.max(1) - images.min(1)).clip(0, 1)
        heat = np.stack([np.asarray(Image.fromarray(one).resize((GRID, GRID), Image.Resampling.BOX)) for one in warm])
        guide = np.ones((len(images), 2, GRID, GRID), np.float32)
        return [np.zeros((len(images), 1000), np.float32), np.zeros((len(images), 1000, 2, 2), np.float32), heat, guide]

    preprocess = Preprocess(height_px=64, width_px=64, mean=(0, 0, 0), std=(1, 1, 1))
    monkeypatch.setattr(
        objects, "open_finder", lambda photos: Finder(look, preprocess, ("thing",) * 1000, ((),) * 1000)
    )
