"""`whycam export` as a user calls it: formats, int8, refusals."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from PIL import Image

import whycam
from whycam.config import ExportOptions
from whycam.data.walk import find_images
from whycam.errors import UserError
from whycam.jobs import export as module
from whycam.jobs.export import export
from whycam.made import tell_foreign
from whycam.model.onnx.engine import OnnxEngine
from whycam.model.onnx.quantise import Drift, check_drift

NAMES = ("circle", "square", "triangle")
ENDINGS = {"onnx": ".onnx", "torchscript": ".pt"}


def run(model: object, out: Path, **options: object) -> object:
    return export(str(model), out, ExportOptions.model_validate(options))


@pytest.fixture(scope="module")
def expected(tiny_folder: Path, shapes_folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    model = whycam.load(tiny_folder, engine="torch")
    why = model.explain(find_images([shapes_folder])[:3], "all")
    pixels = np.stack([model.preprocess.to_pixels(photo) for photo in why.photos])
    return pixels, why.logits.numpy(), why.maps.numpy()


@pytest.mark.parametrize("kind", ["onnx", "openvino", "torchscript", "safetensors"])
def test_a_name_that_is_not_utf8(tiny_folder: Path, tmp_path: Path, kind: str) -> None:
    if kind == "openvino" and not importlib.util.find_spec("openvino"):
        pytest.skip("openvino is an extra")
    out = tmp_path / (os.fsdecode(b"caf\xe9") + ENDINGS.get(kind, ""))
    assert run(tiny_folder, out, format=kind).parity_error < 1e-4  # type: ignore[attr-defined]
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_onnx_beside_int8(
    tiny_folder: Path, expected: tuple[np.ndarray, ...], shapes_folder: Path, tmp_path: Path
) -> None:
    done = run(tiny_folder, tmp_path / "m.onnx", uint8_input=True)
    assert done.parity_error < 1e-4  # type: ignore[attr-defined]
    pixels, logits, maps = expected
    answer = OnnxEngine(tmp_path / "m.onnx")(pixels)
    assert np.allclose(answer.logits, logits, atol=1e-4 * np.ptp(logits))
    assert np.allclose(answer.maps, maps, atol=1e-4 * np.ptp(maps))
    with pytest.raises(UserError, match="is there already"):
        run(tiny_folder, tmp_path / "m.onnx")
    quantised = run(tiny_folder, tmp_path / "q.onnx", uint8_input=True, int8=True, calibrate=shapes_folder)
    drift = quantised.drift  # type: ignore[attr-defined]
    assert drift.photos == 18
    assert drift.correlation > 0.98
    rounded = OnnxEngine(tmp_path / "q.onnx")
    assert 0 < rounded.metadata.identity_error < 1e-5
    rough = rounded(pixels)
    correlation = np.corrcoef(rough.maps.ravel(), maps.ravel())[0, 1]
    assert 0.95 < correlation < 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "q.onnx"]


@pytest.mark.parametrize(("correlation", "changed"), [(0.97, 0.0), (0.999, 0.02), (float("nan"), 0.0)])
def test_int8_that_changes_too_much_is_refused_with_its_figures(correlation: float, changed: float) -> None:
    check_drift(Drift(0.99, 0.005, 200))
    with pytest.raises(UserError, match=rf"correlate {correlation:.3f} .* {changed:.1%}.*Nothing was written"):
        check_drift(Drift(correlation, changed, 200))


def test_int8_keeps_as_many_first_convolutions_in_float_as_it_has_to(
    tiny_folder: Path, shapes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([Drift(0.99, 0.04, 18), Drift(0.97, 0.0, 18), Drift(0.99, 0.005, 18, 1.5)])
    monkeypatch.setattr(module, "measure_drift", lambda *_: next(found))
    done = run(tiny_folder, tmp_path / "q.onnx", uint8_input=True, int8=True, calibrate=shapes_folder)
    assert done.drift == Drift(0.99, 0.005, 18, 1.5)  # type: ignore[attr-defined]
    nodes = onnx.load(tmp_path / "q.onnx").graph.node
    made = {name: node for node in nodes for name in node.output}
    # A rounded convolution reads weights that are unpacked from int8.
    is_float = [
        made.get(node.input[1]) is None or made[node.input[1]].op_type != "DequantizeLinear"
        for node in nodes
        if node.op_type == "Conv" and not node.output[0].startswith("maps")
    ]
    assert is_float == [True] * 6 + [False] * (len(is_float) - 6)
    assert len(is_float) > 6


def test_int8_that_no_share_of_float_mends_is_not_written(
    tiny_folder: Path, shapes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FLOAT_FIRST", (0, 3))
    monkeypatch.setattr(module, "measure_drift", lambda *_: Drift(0.9, 0.2, 18))
    with pytest.raises(UserError, match="Nothing was written"):
        run(tiny_folder, tmp_path / "q.onnx", uint8_input=True, int8=True, calibrate=shapes_folder)
    assert not list(tmp_path.iterdir())


def test_torchscript(tiny_folder: Path, expected: tuple[np.ndarray, ...], tmp_path: Path) -> None:
    run(tiny_folder, tmp_path / "m.pt", format="torchscript", uint8_input=True)
    pixels, logits, maps = expected
    found = torch.jit.load(tmp_path / "m.pt")(torch.from_numpy(pixels))
    assert np.allclose(found[0].numpy(), logits, atol=1e-4)
    assert np.allclose(found[1].numpy(), maps, atol=1e-4)


def test_a_folder_for_plain_timm(tiny_folder: Path, expected: tuple[np.ndarray, ...], tmp_path: Path) -> None:
    run(tiny_folder, tmp_path / "m", format="safetensors")
    pixels, logits, _ = expected
    plain = timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True).eval()
    preprocess = whycam.load(tmp_path / "m").preprocess
    with torch.no_grad():
        found = plain(torch.from_numpy(preprocess.normalise(pixels))).numpy()
    assert np.allclose(found, logits, atol=1e-4)


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is an extra")
def test_openvino(tiny_folder: Path, expected: tuple[np.ndarray, ...], tmp_path: Path) -> None:
    import openvino

    run(tiny_folder, tmp_path / "ov", format="openvino", uint8_input=True)
    assert tell_foreign(tmp_path / "ov") == ""
    pixels, logits, maps = expected
    compiled = openvino.compile_model(tmp_path / "ov" / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = list(compiled(pixels).values())
    assert np.allclose(found[0], logits, atol=1e-4 * np.ptp(logits))
    assert np.allclose(found[1], maps, atol=1e-4 * np.ptp(maps))
    assert json.loads((tmp_path / "ov" / "card.json").read_text())["class_names"] == list(NAMES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topk": 4}, "--topk is 4; expected 1 to 3"),
        ({"int8": True}, "found no --calibrate FOLDER"),
        ({"format": "safetensors", "topk": 2}, "--format safetensors does not go with --topk"),
        ({"format": "openvino", "int8": True}, "--format openvino does not go with --int8"),
    ],
)
def test_options_that_do_not_go(tiny_folder: Path, tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(tiny_folder, tmp_path / "m.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_few_photos_are_told_before_a_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "open_classifier", lambda *_, **__: pytest.fail("loads a model"))
    Image.new("RGB", (32, 32)).save(tmp_path / "one.png")
    with pytest.raises(UserError, match=r"Found 1 photos in .*; expected 20 or more"):
        run("imagenet", tmp_path / "m.onnx", int8=True, calibrate=tmp_path)


def test_few_photos_that_can_be_read_do_not_calibrate(tiny_folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "one.png")
    for number in range(20):
        (tmp_path / f"{number}.jpg").write_text("no photo")
    with pytest.raises(UserError, match=r"Found 1 photos that can be read in .*; expected 20 or more"):
        run(tiny_folder, tmp_path / "m.onnx", int8=True, calibrate=tmp_path)


def test_a_killed_export_leaves_no_half_file(tiny_folder: Path, tmp_path: Path) -> None:
    code = (
        "import time, whycam.model.onnx.export as module\n"
        "save = module._save\n"
        "def slow(graph, path):\n    save(graph, path)\n    print('saved', flush=True)\n    time.sleep(60)\n"
        "module._save = slow\n"
        "from whycam.jobs.export import export\nfrom whycam.config import ExportOptions\n"
        "from pathlib import Path\n"
        f"export({str(tiny_folder)!r}, Path({str(tmp_path / 'm.onnx')!r}), ExportOptions())"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"saved\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "m.onnx").exists()
    run(tiny_folder, tmp_path / "m.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("kind", ["onnx", "torchscript", "safetensors"])
def test_no_room_is_told_and_leaves_nothing(tiny_folder: Path, tmp_path: Path, kind: str) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"No room to write '.*m[.a-z]*': File too large"):
            run(tiny_folder, tmp_path / f"m{ENDINGS.get(kind, '')}", format=kind)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["onnx", "torchscript", "safetensors"])
def test_a_place_that_cant_be_written_to_is_told(tiny_folder: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file.*' can't be written to: (Not a directory|File exists)"):
        run(tiny_folder, tmp_path / "file" / f"m{ENDINGS.get(kind, '')}", format=kind)
    with pytest.raises(UserError, match="can't be written to: File name too long"):
        run(tiny_folder, tmp_path / f"{'m' * 256}{ENDINGS.get(kind, '')}", format=kind)


def test_a_folder_in_the_place_of_the_file(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    with pytest.raises(UserError, match=r"there already \(a folder\); an export is one new file"):
        run(tiny_folder, tmp_path / "m", format="torchscript", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_long_name(tiny_folder: Path, tmp_path: Path) -> None:
    run(tiny_folder, tmp_path / f"{'m' * 250}.pt", format="torchscript")
    run(tiny_folder, tmp_path / ("n" * 250), format="safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{'m' * 250}.pt", "n" * 250]
