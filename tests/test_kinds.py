"""Every command on one small model of each kind: its names, its own answers, its own probabilities, exact maps."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

import whycam
from kind_cases import KINDS, NAMES, NET, OBJECTS, KindCase, read_pixels, write_photos
from whycam.audit import audit
from whycam.config import ServeOptions
from whycam.data.folder import Sample
from whycam.show.app.served import ServedModel
from whycam.show.app.site import make_app

Call = Callable[..., "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True)
class World:
    """The photos, and the models that are made of them as they are asked for."""

    root: Path
    photos: Path
    make: Callable[[str], KindCase]

    @property
    def pixels(self) -> np.ndarray:
        return read_pixels(self.photos)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("kinds")
    (root / "net.py").write_text(NET, encoding="utf-8")
    return World(root, write_photos(root / "photos"), cache(lambda name: (KINDS | OBJECTS)[name](root)))


@pytest.fixture
def here(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Where a package of the user's own is found."""
    monkeypatch.chdir(world.root)
    return world


@pytest.fixture(params=KINDS)
def case(request: pytest.FixtureRequest, here: World) -> KindCase:
    return make(request.param, here)


def make(name: str, world: World) -> KindCase:
    package = {"hugging face": "transformers", "keras": "keras", "h5": "keras"}.get(name)
    if package is not None and find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    return world.make(name)


def read_words(case: KindCase) -> dict[str, Any]:
    """The words of `whycam.load` for what the case says on the command line."""
    if case.how is not None:
        return dict(case.how)
    options = dict(zip(case.words[1::2], case.words[2::2], strict=True))
    words: dict[str, Any] = {name[2:].replace("-", "_"): value for name, value in options.items()}
    words |= {name: Path(words[name]) for name in ("weights", "classes") if name in words}
    if "classes" in words:
        words["class_names"] = words.pop("classes")
    return words | ({"image_size": int(words["image_size"])} if "image_size" in words else {})


def load(case: KindCase, **how: Any) -> whycam.Model:
    return whycam.load(case.words[0] if case.words else case.thing, **read_words(case), **how)


def choose_method(model: whycam.Model) -> str:
    card = model.classifier.card
    ways = {"linear head": "cam", "gradients": "grad-cam", "tail scores": "recipro-cam", "scores": "occlusion"}
    return next(method for need, method in ways.items() if card.answers_for(need))


def check_model(model: whycam.Model, case: KindCase, world: World) -> None:
    """What a model says in Python is what its own library says, and exact maps are exact."""
    card, expected = model.classifier.card, case.ask(world.pixels)
    assert card.kind == case.kind
    assert model.class_names == case.names
    assert card.is_multi_label is case.is_several
    if case.can == "exact maps":
        card.check_exact()
    why = model.explain_pixels(world.pixels, method=choose_method(model))
    assert isinstance(why, whycam.Explanation)
    np.testing.assert_allclose(why.probabilities, expected, atol=1e-5)
    assert why.target.tolist() == expected.argmax(1).tolist()
    assert case.is_several != np.allclose(expected.sum(1), 1)
    assert np.abs(why.maps.numpy()).max() > 0
    if card.is_exact:
        every = model.explain_pixels(world.pixels, "all")
        assert isinstance(every, whycam.Explanation)
        bias = torch.tensor(model.classifier.bias)
        spread = np.ptp(every.logits.numpy())
        np.testing.assert_allclose(every.maps.mean((2, 3)) + bias, every.logits, atol=1e-5 * max(1, spread))
    else:
        with pytest.raises(whycam.UserError, match=r"no exact|Exact maps need"):
            model.explain_pixels(world.pixels)


def test_in_python(case: KindCase, here: World) -> None:
    check_model(load(case, engine="torch"), case, here)


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_go_through_all_functions(name: str, here: World) -> None:
    """What has no name has no command line: a module, and a function of pixels."""
    case = here.make(name)
    model = load(case)
    check_model(model, case, here)
    photos = sorted(here.photos.rglob("*.png"))
    found = whycam.evaluate(model, here.photos, methods=[choose_method(model)], metrics=["gini"], baselines=())
    assert found.classifier()["accuracy"] == 1
    labels = [NAMES.index(path.parent.name) for path in photos]
    done = audit(model, [Sample(path, label) for path, label in zip(photos, labels, strict=True)])
    assert done.photos == len(photos)
    check_served(model, case, here)
    assert (model.explain(photos[0], method=choose_method(model)).overlay().size) == (64, 64)


def check_served(model: whycam.Model, case: KindCase, world: World) -> None:
    path = sorted(world.photos.rglob("*.png"))[0]
    expected = case.ask(world.pixels[:1])[0]
    with ServedModel(model) as served:
        client = TestClient(make_app(served, ServeOptions(rate=0)), "http://127.0.0.1")
        about = client.get("/api/model").json()
        assert about["classNames"] == list(case.names)
        assert about["isMultiLabel"] is case.is_several
        assert (about["methods"][0]["name"] == "cam") is model.classifier.card.is_exact
        answer = client.post("/api/explain", files=[("files", (path.name, path.read_bytes()))])
        assert answer.status_code == 200, answer.text
        result = answer.json()["results"][0]
        assert result["prediction"]["index"] == expected.argmax()
        entry = result["entry"]
        np.testing.assert_allclose(entry["probabilities"], expected[entry["classes"]], atol=1e-5)
        assert ("which labels the network gives" in client.get("/").text) is case.is_several


def test_serve(case: KindCase, here: World) -> None:
    check_served(load(case), case, here)


def call(call_whycam: Call, command: str, case: KindCase, *words: object) -> str:
    done = call_whycam(command, case.words[0], *words, *case.words[1:])
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def is_exact(case: KindCase) -> bool:
    return load(case, engine="torch").classifier.card.is_exact


def name_folders(case: KindCase, world: World, tmp_path: Path) -> Path:
    """The photos in folders of the model's own names."""
    for name, own in zip(NAMES, case.names, strict=True):
        (tmp_path / own).symlink_to(world.photos / name)
    return tmp_path


def test_inspect(case: KindCase, here: World, call_whycam: Call) -> None:
    model = load(case, engine="torch")
    told = dict(line.split("  ", 1) for line in call(call_whycam, "inspect", case).splitlines())
    facts = {name: text.strip() for name, text in told.items()}
    assert facts["model"] == f"{case.words[0]} ({case.kind})"
    assert facts["classes"] == f"3: {', '.join(case.names)}"
    assert facts["input"].startswith("64 x 64 px, rgb")
    assert facts["exact maps"].startswith("yes: mean(map) + bias = logit" if model.classifier.card.is_exact else "no: ")
    methods = set(facts["methods"].split(", "))
    assert ("cam" in methods) is model.classifier.card.is_exact
    assert {"rise", "occlusion"} <= methods
    assert ("grad-cam" in methods) is (case.can in {"exact maps", "gradients"})
    assert ("recipro-cam" in methods) is (case.can != "scores")
    assert ("multi-label" in facts["output"]) is case.is_several


def test_explain(case: KindCase, here: World, tmp_path: Path, call_whycam: Call) -> None:
    method = choose_method(load(case, engine="torch"))
    if method != "cam":
        refused = call_whycam("explain", case.words[0], here.photos, "-o", tmp_path / "no", *case.words[1:])
        assert refused.returncode == 2
        assert re.search("--method|What works on it", refused.stderr)
        assert not (tmp_path / "no").exists()
    call(call_whycam, "explain", case, here.photos, "-o", tmp_path / "out", "--method", method)
    expected = case.ask(here.pixels)
    with (tmp_path / "out/explanations.csv").open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["path"])
    assert [row["predicted"] for row in rows] == [case.names[k] for k in expected.argmax(1)]
    np.testing.assert_allclose([float(row["p_predicted"]) for row in rows], expected.max(1), atol=1e-5)
    for row in rows:
        assert np.load(tmp_path / "out" / row["map"]).ndim == 2
        for picture in ("overlay", "heatmap"):
            with Image.open(tmp_path / "out" / row[picture]) as found:
                assert found.size == (64, 64)


def test_evaluate(case: KindCase, here: World, tmp_path: Path, call_whycam: Call) -> None:
    method = choose_method(load(case, engine="torch"))
    words = ("--methods", method, "--metrics", "gini,average-drop", "--engine", "torch")
    photos = name_folders(case, here, tmp_path)
    out = call(call_whycam, "evaluate", case, photos, "-o", tmp_path / "out", *words)
    found = json.loads((tmp_path / "out/overall.json").read_text(encoding="utf-8"))
    right = case.ask(here.pixels).argmax(1) == [NAMES.index(path.parent.name) for path in list_photos(here)]
    assert found["classifier"]["accuracy"] == pytest.approx(right.mean())
    assert (found["classifier"]["calibration_error"] is None) is case.is_several
    assert ("gives several labels" in out) is case.is_several
    assert {row["method"] for row in found["overall"]} == {method, "random", "centre", "edges"}


def list_photos(world: World) -> list[Path]:
    return sorted(world.photos.rglob("*.png"))


def test_audit_and_report(case: KindCase, here: World, tmp_path: Path, call_whycam: Call) -> None:
    (tmp_path / "photos").mkdir()
    photos = name_folders(case, here, tmp_path / "photos")
    call(call_whycam, "audit", case, photos, "-o", tmp_path / "a", "--engine", "torch")
    found = json.loads((tmp_path / "a/audit.json").read_text(encoding="utf-8"))
    assert found["photos"] == len(list_photos(here))
    assert any("several labels" in note for note in found["notes"]) is case.is_several
    words = ("--audit", tmp_path / "a", "--engine", "torch")
    call(call_whycam, "report", case, photos, "-o", tmp_path / "r.html", *words)
    check_report((tmp_path / "r.html").read_text(encoding="utf-8"), case, here)


def check_report(page: str, case: KindCase, world: World) -> None:
    told = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert told is not None
    data, expected = json.loads(told[1]), case.ask(world.pixels)
    assert data["classNames"] == list(case.names)
    assert data["isMultiLabel"] is case.is_several
    assert (data["bias"] is not None) is is_exact(case)
    assert len(data["entries"]) == len(list_photos(world))
    at = {f"{NAMES[case.names.index(Path(e['id']).parent.name)]}/{Path(e['id']).name}": e for e in data["entries"]}
    for path, shares in zip(list_photos(world), expected, strict=True):
        entry = at[f"{path.parent.name}/{path.name}"]
        np.testing.assert_allclose(entry["probabilities"], shares[entry["classes"]], atol=1e-5)
        assert entry["classes"][0] == shares.argmax()
    assert ("several may be right at once" in page) is case.is_several
    assert ("classes apart" in page) is not case.is_several
    assert ("are named rightly" in page) is not case.is_several


def test_localize(case: KindCase, here: World, tmp_path: Path, call_whycam: Call) -> None:
    words = ("--method", choose_method(load(case, engine="torch")))
    call(call_whycam, "localize", case, here.photos, "-o", tmp_path / "out", *words)
    found = json.loads((tmp_path / "out/coco.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in found["categories"]] == list(case.names)
    assert len(found["images"]) == len(list((tmp_path / "out/pictures").iterdir())) == len(list_photos(here))
    top = case.ask(here.pixels).argmax(1)
    ids = {image["id"]: str(Path(image["file_name"]).relative_to(here.photos)) for image in found["images"]}
    expected = {str(path.relative_to(here.photos)): int(k) for path, k in zip(list_photos(here), top, strict=True)}
    for box in found["annotations"]:
        assert box["category_id"] - 1 == expected[ids[box["image_id"]]]


def test_units(case: KindCase, here: World, tmp_path: Path, call_whycam: Call) -> None:
    words = (case.names[0], here.photos, "-o", tmp_path / "out", "--units", 3, "--photos", 2)
    if not is_exact(case):
        refused = call_whycam("units", case.words[0], *words, *case.words[1:])
        assert refused.returncode == 2
        assert "Units are channels that a class weighs" in refused.stderr
        return
    call(call_whycam, "units", case, *words)
    with (tmp_path / "out/units.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["rank"] for row in rows} == {"1", "2", "3"}
    assert (tmp_path / "out/sheet.png").is_file()


@pytest.mark.parametrize("name", [name for name in KINDS if name != "timm"])
def test_export_of_what_whycam_does_not_export_is_refused(
    name: str, here: World, tmp_path: Path, call_whycam: Call
) -> None:
    case = make(name, here)
    done = call_whycam("export", case.words[0], "-o", tmp_path / "x.onnx", *case.words[1:])
    assert done.returncode == 2
    assert re.search("export it to ONNX with its own library|no exact|Exact maps need", done.stderr), done.stderr
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.slow
def test_export(here: World, tmp_path: Path, call_whycam: Call) -> None:
    """The exported file comes in again by the same door, with the same answers."""
    case = here.make("timm")
    call(call_whycam, "export", case, "-o", tmp_path / "x.onnx")
    again = whycam.load(tmp_path / "x.onnx")
    assert again.class_names == case.names
    why = again.explain_pixels(here.pixels)
    assert isinstance(why, whycam.Explanation)
    np.testing.assert_allclose(why.probabilities, case.ask(here.pixels), atol=1e-5)


@pytest.mark.parametrize("name", ["file.py", "onnx", "onnx inexact", "pt2", "torchscript"])
def test_a_black_photo_first(name: str, here: World, tmp_path: Path, call_whycam: Call) -> None:
    """Of it no feature lives; what is found out about the model does not depend on it."""
    case = here.make(name)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "photos/0.png")
    photo = Image.open(here.photos / "red/0.png")
    photo.save(tmp_path / "photos/1.png")
    method = choose_method(load(case, engine="torch"))
    words = ("-o", tmp_path / "out", "--method", method, "--batch-size", 1)
    call(call_whycam, "explain", case, tmp_path / "photos", *words)
    with (tmp_path / "out/explanations.csv").open(encoding="utf-8", newline="") as file:
        black, red = csv.DictReader(file)
    assert "zero" in black["note"] or "no evidence" in black["note"] or "not change" in black["note"], black["note"]
    assert np.abs(np.load(tmp_path / "out" / red["map"])).max() > 0


def test_no_runtime_is_given_all_images_at_once() -> None:
    """An audit asks about hundreds: their activations would fill gigabytes."""
    sizes = []

    def classify(images: np.ndarray) -> np.ndarray:
        sizes.append(len(images))
        return images.mean((2, 3))

    model = whycam.load(classify, preprocess="unit", image_size=16)
    pixels = np.random.default_rng(0).integers(0, 256, (100, 3, 16, 16), dtype=np.uint8)
    expected = (pixels / 255).mean((2, 3))
    np.testing.assert_allclose(model.classifier.scores(pixels), expected, atol=1e-5)
    images = torch.from_numpy(model.preprocess.normalise(pixels))
    np.testing.assert_allclose(model.classifier.score_inputs(images), expected, atol=1e-5)
    assert max(sizes) == 32


TORCH_FREE = """
import sys
from pathlib import Path
what, model, photos, out = sys.argv[1:]
how = {"preprocess": "unit", "classes": Path(model).with_name("classes.txt")}
if what == "serve":
    from fastapi.testclient import TestClient
    from whycam.config import ServeOptions
    from whycam.jobs import serve  # what the command imports
    from whycam.show.app.served import ServedModel
    from whycam.show.app.site import make_app
    with ServedModel(serve.open_classifier(model, **how, photos=serve.MANY)) as served:
        client = TestClient(make_app(served, ServeOptions()), "http://127.0.0.1")
        assert client.get("/api/model").json()["classNames"] == ["red", "green", "blue"]
        photo = (Path(photos) / "red/0.png").read_bytes()
        for form in ({}, {"target": "green", "versus": "blue"}):
            answer = client.post("/api/explain", files=[("files", ("red.png", photo))], data=form)
            assert answer.json()["results"][0]["prediction"]["name"] == "red"
else:
    sys.argv[1:] = [what, model, photos, "-o", out, "--preprocess", "unit", "--classes", str(how["classes"])]
    from whycam.__main__ import main
    main()
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize("command", ["explain", "audit", "report", "serve"])
def test_an_onnx_file_with_exact_maps_needs_no_torch(command: str, here: World, tmp_path: Path) -> None:
    case = here.make("onnx")
    photos = write_photos(tmp_path / "photos", 9)  # enough for every kind of finding to be looked for
    out = tmp_path / ("out.html" if command == "report" else "out")
    words = [command, case.words[0], str(photos), str(out)]
    env = {**os.environ, "PYTHONPATH": str(Path(whycam.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", TORCH_FREE, *words], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert out.exists() is (command != "serve")
