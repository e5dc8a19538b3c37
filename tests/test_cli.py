"""The command line as a user calls it: exit codes, closing lines, files, messages."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from whycam.config import TrainOptions
from whycam.made import tell_foreign

Run = Callable[..., subprocess.CompletedProcess[str]]


_HELP = """
import sys
from whycam.__main__ import main
sys.argv = ["whycam", "--help"]
try: main()
except SystemExit: pass
"""


def test_help_needs_no_torch() -> None:
    code = _HELP + "print('HEAVY', sorted(sys.modules.keys() & {'torch', 'timm', 'matplotlib', 'numpy', 'pyarrow'}))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "explain" in shown
    assert "HEAVY []" in shown


def test_pillow_gives_the_memory_of_large_photos_back() -> None:
    code = _HELP + "from PIL import Image; print('BLOCK', Image.core.get_block_size())"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert f"BLOCK {64 * 2**20}" in shown


def test_every_option_of_the_config_is_on_the_command_line(run_whycam: Run) -> None:
    shown = run_whycam("train", "--help").stdout
    for name, field in TrainOptions.model_fields.items():
        assert f"--{name.replace('_', '-')}" in shown
        assert field.description


def test_train_then_explain(call_whycam: Run, shapes_folder: Path, tmp_path: Path) -> None:
    out, maps = tmp_path / "run", tmp_path / "maps"
    done = call_whycam("train", shapes_folder, "-o", out, "--image-size", 64, "--epochs", 3)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith(f"the run is in {out}")
    assert tell_foreign(out) == ""
    done = call_whycam("explain", out, shapes_folder / "circle", shapes_folder / "square" / "00.jpg", "-o", maps)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"Explained 13 photos; overlays, maps and table are in {maps}"
    rows = pq.read_table(maps / "explanations.parquet").to_pylist()
    with (maps / "explanations.csv").open() as file:
        assert [row["path"] for row in csv.DictReader(file)] == [row["path"] for row in rows]
    bias = json.loads((out / "model" / "config.json").read_text())["whycam"]["identity_error"]
    assert bias < 1e-4
    for row in rows:
        photo = Image.open(row["path"])
        for kind in ("overlay", "heatmap"):
            assert Image.open(maps / row[kind]).size == photo.size
        values = np.load(maps / row["map"])
        assert values.shape == (2, 2)
        assert values.mean() == pytest.approx(row["map_mean"], abs=1e-5)
        assert 0 <= row["p_target"] <= 1
    record = json.loads((maps / "record.json").read_text())
    assert (record["method"], record["photos"], record["head"]) == ("cam", 13, "linear")
    assert {"scale", "resize", "relu", "layer", "versions", "preprocess", "command"} <= record.keys()


def test_one_bad_file_is_recorded_and_the_rest_goes_on(
    call_whycam: Run, tiny_folder: Path, shapes_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a", "c"):
        (folder / f"{name}.jpg").write_bytes((shapes_folder / "circle" / "00.jpg").read_bytes())
    (folder / "b.jpg").write_text("no picture")
    done = call_whycam("explain", tiny_folder, folder, "-o", tmp_path / "out")
    assert done.returncode == 0
    assert "Explained 2 photos (1 could not be read: see the table)" in done.stdout
    rows = pq.read_table(tmp_path / "out" / "explanations.parquet").to_pylist()
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    assert "b.jpg" in rows[1]["error"]


def test_targets_contrast_and_formats(call_whycam: Run, tiny_folder: Path, shapes_folder: Path, tmp_path: Path) -> None:
    photo = shapes_folder / "circle" / "00.jpg"
    call_whycam("explain", tiny_folder, photo, "-o", tmp_path / "top", "--target", "top:3", "--format", "png")
    rows = {row["target"]: row for row in pq.read_table(tmp_path / "top" / "explanations.parquet").to_pylist()}
    assert rows.keys() == {"circle", "square", "triangle"}
    assert {Path(row["overlay"]).suffix for row in rows.values()} == {".png"}
    done = call_whycam(
        "explain", tiny_folder, photo, "-o", tmp_path / "against", "--target", "circle", "--versus", "square"
    )
    assert done.returncode == 0, done.stderr
    against = pq.read_table(tmp_path / "against" / "explanations.parquet").to_pylist()[0]
    maps = {name: np.load(tmp_path / "top" / row["map"]) for name, row in rows.items()}
    difference = np.load(tmp_path / "against" / against["map"])
    np.testing.assert_allclose(difference, maps["circle"] - maps["square"], atol=1e-5)


@pytest.mark.parametrize(
    "case",
    [
        (["--target", "circel"], ["Unknown class 'circel'", "Did you mean 'circle'"]),
        (["--target", "7"], ["Class index 7 is outside 0..2"]),
        (["--colormap", "infenro"], ["Unknown colour map", "inferno"]),
        (["--method", "gradcam"], ["Unknown method 'gradcam'", "'grad-cam'"]),
        (["--alpha", "2"], ["--alpha is 2; expected a number from 0 to 1"]),
    ],
)
def test_wrong_words_are_told_what_would_be_right(
    call_whycam: Run, tiny_folder: Path, shapes_folder: Path, tmp_path: Path, case: tuple[list[str], list[str]]
) -> None:
    words, expected = case
    done = call_whycam("explain", tiny_folder, shapes_folder / "circle", "-o", tmp_path / "out", *words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for text in expected:
        assert text in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


def test_dead_network_ends_in_seconds_with_three_remedies(run_whycam: Run, shapes_folder: Path, tmp_path: Path) -> None:
    env = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf")}
    done = run_whycam("train", shapes_folder, "-o", tmp_path / "run", "--recipe", "vgg16-gap", env=env, timeout_s=60)
    assert done.returncode == 2
    for text in ("--weights FILE", "hub cache", "--backbone imagenet"):
        assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run.partial").exists()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_photos(cached: str, shapes_folder: Path, tmp_path: Path) -> None:
    """With a graph at hand, so without torch, beside whose own size a growth would be small."""
    photos = sorted(shapes_folder.rglob("*.jpg"))
    peaks = {}
    for count in (100, 1000):
        folder = tmp_path / str(count)
        folder.mkdir()
        for index in range(count):
            (folder / f"{index:04}.jpg").symlink_to(photos[index % len(photos)])
        code = (
            "import resource, sys; from whycam.cli import app\n"
            f"sys.argv = ['whycam', 'explain', {cached!r}, {str(folder)!r}]\n"
            f"sys.argv += ['-o', {str(tmp_path / f'o{count}')!r}]\n"
            "try: app()\nexcept SystemExit: pass\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        peaks[count] = int(done.stdout.split()[-1])
        assert len(list((tmp_path / f"o{count}" / "maps").iterdir())) == count
    assert peaks[1000] < 1.2 * peaks[100]


@pytest.mark.slow
def test_demo_does_the_main_job_offline(run_whycam: Run, warm: None, tmp_path: Path) -> None:
    done = run_whycam("demo", "-o", tmp_path / "demo", timeout_s=400)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"The pictures are in {tmp_path / 'demo'}")
    found = json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert found["val_accuracy"] > 0.95
    assert found["lift"] >= 2.5
    for name, word in (("chelsea", "cat"), ("coffee", "espresso"), ("camera", "tripod")):
        assert (resources.files("skimage") / "data" / f"{name}.png").is_file()
        assert word in done.stdout
    for picture in ("photos.jpg", "garden.jpg"):
        assert np.asarray(Image.open(tmp_path / "demo" / picture)).std() > 20
    page = (tmp_path / "demo" / "report.html").read_text()
    assert f"whycam audit {tmp_path / 'demo' / 'run'}" in page
    assert ".partial" not in re.sub(r"[\w+/=]{200,}", "", page)


def test_damaged_photos_leave_one_line_each_and_no_library_speaks(run_whycam: Run, cached: str, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    photo.save(photos / "exif.jpg", exif=b"Exif\0\0" + b"MM\0*" + b"\xff" * 40)
    photo.save(photos / "lzw.tif", compression="tiff_lzw")
    data = (photos / "lzw.tif").read_bytes()
    (photos / "lzw.tif").write_bytes(data[:400] + bytes(400) + data[800:])
    (photos / "cut.tif").write_bytes(data[: len(data) // 2])
    done = run_whycam("explain", cached, photos, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "1 photos (2 could not be read" in done.stdout
    for word in ("Warning", "LZW", "TIFF", "PIL", "Traceback"):
        assert word not in done.stderr
