"""`whycam explain` of many photos: engines, sources, addresses, resuming, faults in the middle."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from whycam.config import ExplainOptions
from whycam.data.sources import find_sources
from whycam.errors import UserError
from whycam.jobs import explain as job
from whycam.jobs.explain import explain_files
from whycam.made import LIST
from whycam.model.cache import find_cache
from whycam.model.onnx.engine import OnnxEngine, find_engine


def explain(model: object, inputs: object, out: object, **options: object) -> list[dict[str, object]]:
    listed = inputs if isinstance(inputs, list) else [inputs]
    explain_files(str(model), [str(text) for text in listed], str(out), ExplainOptions.model_validate(options))
    return read_table(out)


def read_table(out: object) -> list[dict[str, object]]:
    return pq.read_table(Path(str(out)) / "explanations.parquet").to_pylist()


def test_engine_and_network_write_the_same(cached: str, shapes_folder: Path, tmp_path: Path) -> None:
    fast = explain(cached, shapes_folder, tmp_path / "onnx")
    slow = explain(cached, shapes_folder, tmp_path / "torch", engine="torch")
    records = [json.loads((tmp_path / name / "record.json").read_text()) for name in ("onnx", "torch")]
    assert records[0]["engine"].startswith("onnxruntime")
    assert "engine" not in records[1]
    for a, b in zip(fast, slow, strict=True):
        same = ("path", "target", "predicted", "target_index", "width_px", "height_px", "overlay", "map", "note")
        assert [a[name] for name in same] == [b[name] for name in same]
        assert a["logit"] == pytest.approx(b["logit"], abs=1e-4)
        boxes = [json.loads(str(row["boxes"])) for row in (a, b)]
        assert [box["x1"] for box in boxes[0]] == pytest.approx([box["x1"] for box in boxes[1]], abs=1)
        maps = [np.load(tmp_path / name / str(a["map"])) for name in ("onnx", "torch")]
        assert np.abs(maps[0] - maps[1]).max() < 1e-4 * np.ptp(maps[1])
    pictures = [np.asarray(Image.open(tmp_path / name / str(fast[0]["overlay"]))) for name in ("onnx", "torch")]
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() <= 4


def test_a_cached_graph_needs_no_torch(cached: str, shapes_folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from whycam.cli import app; "
        f"words = ['explain', {cached!r}, {str(shapes_folder)!r}, '-o', {str(tmp_path / 'out')!r}]; "
        "app(words, standalone_mode=False); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert len(read_table(tmp_path / "out")) == 36


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "grad-cam", "engine": "onnx"}, "--engine onnx has the exact maps of classes alone"),
        ({"smooth": "flips", "engine": "onnx"}, "--engine onnx has the exact maps of classes alone"),
        ({"target": "cirkle"}, "Unknown class 'cirkle'"),
        ({"versus": "nothing"}, "Unknown class 'nothing'"),
    ],
)
def test_wrong_words(cached: str, shapes_folder: Path, tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        explain(cached, shapes_folder, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_what_is_written_can_be_chosen(cached: str, shapes_folder: Path, tmp_path: Path) -> None:
    folder = shapes_folder / "circle"
    explain(cached, folder, tmp_path / "all")
    explain(cached, folder, tmp_path / "few", heatmaps=False)
    rows = explain(cached, folder, tmp_path / "maps", maps_only=True)
    assert sorted(path.name for path in (tmp_path / "all").iterdir() if path.is_dir()) == [
        "heatmaps",
        "maps",
        "overlays",
    ]
    assert sorted(path.name for path in (tmp_path / "few").iterdir() if path.is_dir()) == ["maps", "overlays"]
    assert [path.name for path in (tmp_path / "maps").iterdir() if path.is_dir()] == ["maps"]
    same = ("path", "boxes", "width_px", "height_px", "logit")
    for a, b in zip(read_table(tmp_path / "all"), rows, strict=True):
        assert [a[name] for name in same] == [b[name] for name in same]
        assert b["overlay"] is None


def test_large_photos_are_decoded_small_for_maps_alone(cached: str, tmp_path: Path) -> None:
    draw = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(draw).resize((1600, 1200), Image.Resampling.BICUBIC).save(tmp_path / "large.jpg", quality=95)
    (small,) = explain(cached, tmp_path / "large.jpg", tmp_path / "small", maps_only=True)
    (whole,) = explain(cached, tmp_path / "large.jpg", tmp_path / "whole")
    assert (small["width_px"], small["height_px"]) == (whole["width_px"], whole["height_px"]) == (1600, 1200)
    maps = [np.load(tmp_path / name / "maps" / "large.npy").ravel() for name in ("small", "whole")]
    assert np.corrcoef(*maps)[0, 1] > 0.99
    boxes = json.loads(str(whole["boxes"]))
    assert all(0 <= box["x0"] < box["x1"] <= 1600 and 0 <= box["y0"] < box["y1"] <= 1200 for box in boxes)


def make_shard(folder: Path, path: Path) -> None:
    with tarfile.open(path, "w") as shard:
        for file in sorted(folder.glob("*.jpg")):
            shard.add(file, f"0000{file.name}")
            info = tarfile.TarInfo(f"0000{file.stem}.cls")
            info.size = 1
            shard.addfile(info, io.BytesIO(b"0"))


def test_sources_of_every_kind_give_the_same(cached: str, shapes_folder: Path, tmp_path: Path) -> None:
    folder = shapes_folder / "square"
    plain = explain(cached, folder, tmp_path / "plain", maps_only=True)
    make_shard(folder, tmp_path / "shard.tar")
    (tmp_path / "list.txt").write_text("# squares\n\n" + "\n".join(map(str, sorted(folder.glob("*.jpg")))) + "\n")
    memory = fsspec.filesystem("memory")
    for file in [*folder.glob("*.jpg"), tmp_path / "shard.tar"]:
        memory.pipe(f"/photos/{file.name}", file.read_bytes())
    sources = [
        tmp_path / "shard.tar",
        tmp_path / "list.txt",
        "memory://photos",
        "memory://photos/shard.tar",
        f"file://{folder}",
    ]
    for i, source in enumerate(sources):
        rows = explain(cached, source, tmp_path / f"out{i}", maps_only=True)
        assert [row["logit"] for row in rows] == pytest.approx([row["logit"] for row in plain], abs=1e-5)
        assert len({row["map"] for row in rows}) == len(rows)
    memory.rm("/photos", recursive=True)


def test_names_do_not_collide(tmp_path: Path, shapes_folder: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for name in ("1.jpg", "1.png"):
            Image.new("RGB", (8, 8)).save(tmp_path / folder / name)
    make_shard(shapes_folder / "circle", tmp_path / "a.tar")
    sources = find_sources([str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "a.tar"), str(tmp_path / "a")])
    assert len(sources) == 4 + 12
    assert len({source.name for source in sources}) == 16
    assert all("/" not in source.name for source in sources)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "No file or folder"),
        ("empty", "No pictures in"),
        ("shard.tar.gz", "compressed shard"),
        ("broken.tar", "can't be read as a tar shard"),
        ("nothing.txt", "No pictures in"),
        ("memory://not/there", "No file or folder 'memory://not/there'"),
        ("nosuch://bucket/photos", r"'nosuch://bucket/photos' can't be opened"),
    ],
)
def test_bad_sources(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "nothing.txt").write_text("# no path\n")
    for file in ("shard.tar.gz", "broken.tar"):
        (tmp_path / file).write_bytes(b"no tar" * 200)
    with pytest.raises(UserError, match=message):
        find_sources([name if "://" in name else str(tmp_path / name)])


def test_a_corrupt_photo_and_a_missing_one_are_counted_and_the_rest_goes_on(
    cached: str, shapes_folder: Path, tmp_path: Path
) -> None:
    files = sorted((shapes_folder / "circle").glob("*.jpg"))
    (tmp_path / "bad.jpg").write_bytes(files[0].read_bytes()[:500])
    paths = [*files[:5], tmp_path / "bad.jpg", tmp_path / "gone.jpg", *files[5:]]
    (tmp_path / "list.txt").write_text("\n".join(map(str, paths)))
    done = explain_files(cached, [str(tmp_path / "list.txt")], str(tmp_path / "out"), ExplainOptions())
    rows = read_table(tmp_path / "out")
    assert (done.photos, done.unreadable) == (14, 2)
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    assert [bool(row["error"]) for row in rows] == [path.name in {"bad.jpg", "gone.jpg"} for path in paths]


def test_only_unreadable_photos_leave_nothing(cached: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("no photo")
    with pytest.raises(UserError, match="Not one of the 1 photos could be read"):
        explain(cached, tmp_path / "a.jpg", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


def test_a_killed_run_goes_on_to_the_same_table(cached: str, shapes_folder: Path, tmp_path: Path) -> None:
    explain(cached, shapes_folder, tmp_path / "whole", batch_size=2)
    code = (
        "import time, whycam.jobs.photo_files as files, whycam.jobs.explain as job\n"
        "write = job.write_reading\n"
        "def slow(*words):\n    time.sleep(0.05)\n    return write(*words)\n"
        "job.write_reading = slow\n"
        "from whycam.config import ExplainOptions\n"
        f"job.explain_files({cached!r}, [{str(shapes_folder)!r}], {str(tmp_path / 'out')!r}, "
        "ExplainOptions(batch_size=2))"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    journal = tmp_path / "out.partial" / ".rows.jsonl"
    deadline = time.monotonic() + 60
    while not (journal.is_file() and journal.read_bytes().count(b"\n") >= 8):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out").exists()
    with journal.open("a") as file:
        file.write('[{"path": "cut o')
    done_before = {json.loads(line)[0]["path"] for line in journal.read_text().splitlines()[:-1]}
    with pytest.raises(UserError, match=r"was begun with another value of: options"):
        explain(cached, shapes_folder, tmp_path / "out", resume=True, colormap="jet")
    seen: list[str] = []
    write = job.write_reading
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "write_reading", lambda r, s, *w: (seen.append(s.path), write(r, s, *w))[1])
        rows = explain(cached, shapes_folder, tmp_path / "out", resume=True, batch_size=2)
    assert not done_before & set(seen)
    assert len(seen) + len(done_before) == 36
    assert rows == read_table(tmp_path / "whole")
    assert (tmp_path / "out" / "explanations.csv").read_bytes() == (
        tmp_path / "whole" / "explanations.csv"
    ).read_bytes()
    assert [path.name for path in (tmp_path / "out").rglob(".*")] == [LIST]
    for row in rows:
        for kind in ("overlay", "heatmap", "map"):
            name = str(row[kind])
            assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_full_disk_is_one_clear_error_and_resume_goes_on(
    cached: str, shapes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, count = job.write_reading, iter(range(1000))

    def fail_at_20(*words: object) -> object:
        if next(count) >= 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(*words)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(job, "write_reading", fail_at_20)
        with pytest.raises(UserError, match=r"No room to write .*--resume"):
            explain(cached, shapes_folder, tmp_path / "out", batch_size=2)
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.partial").is_dir()
    assert len(explain(cached, shapes_folder, tmp_path / "out", batch_size=2, resume=True)) == 36


def test_results_can_go_to_an_address(cached: str, shapes_folder: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    rows = explain(cached, shapes_folder / "circle", tmp_path / "here")
    options = ExplainOptions()
    explain_files(cached, [str(shapes_folder / "circle")], "memory://results/run", options)
    here = {path.relative_to(tmp_path / "here").as_posix() for path in (tmp_path / "here").rglob("*") if path.is_file()}
    there = {path.removeprefix("/results/run/") for path in memory.find("/results/run")}
    assert here - {LIST} == there  # what is at an address is never removed as a whole
    assert memory.cat(f"/results/run/{rows[0]['map']}") == (tmp_path / "here" / str(rows[0]["map"])).read_bytes()
    with pytest.raises(UserError, match="holds a finished result already"):
        explain_files(cached, [str(shapes_folder / "circle")], "memory://results/run", options)
    memory.rm("/results", recursive=True)


def test_few_photos_do_not_pay_for_an_export_many_do(
    tiny_folder: Path, shapes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explain(tiny_folder, shapes_folder, tmp_path / "few", maps_only=True)
    assert "engine" not in json.loads((tmp_path / "few" / "record.json").read_text())
    monkeypatch.setattr("whycam.model.classifier.MANY", 30)
    explain(tiny_folder, shapes_folder, tmp_path / "many", maps_only=True)
    assert "engine" in json.loads((tmp_path / "many" / "record.json").read_text())


def test_a_failed_export_falls_back_to_torch_unless_it_was_asked_for(
    tiny_folder: Path, shapes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whycam.model.classifier.MANY", 1)
    monkeypatch.setattr(OnnxEngine, "run", lambda self, images: [np.zeros((len(images), 3)), np.zeros(1)])
    explain(tiny_folder, shapes_folder / "circle", tmp_path / "out", maps_only=True)
    assert "engine" not in json.loads((tmp_path / "out" / "record.json").read_text())
    with pytest.raises(UserError, match="does not give PyTorch's numbers"):
        explain(tiny_folder, shapes_folder / "circle", tmp_path / "two", maps_only=True, engine="onnx")


def test_without_room_in_the_cache_torch_explains_and_the_cache_is_named(
    tiny_folder: Path,
    shapes_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("whycam.model.classifier.MANY", 1)

    def fill(*_words: object, **_named: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("whycam.model.onnx.export.export_onnx", fill)
    explain(tiny_folder, shapes_folder / "circle", tmp_path / "out", maps_only=True)
    assert "engine" not in json.loads((tmp_path / "out" / "record.json").read_text())
    assert f"Explaining with torch: The cache '{find_cache() / 'engines'}' can't be written to: No space" in caplog.text


def test_a_cached_graph_that_is_not_sound_is_made_anew_for_a_few_photos_too(
    tiny_folder: Path, shapes_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = find_engine(str(tiny_folder))
    assert path is not None
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a graph")
    explain(tiny_folder, shapes_folder / "circle", tmp_path / "out", maps_only=True)
    assert "engine" in json.loads((tmp_path / "out" / "record.json").read_text())
    assert [name for name, level, _ in caplog.record_tuples if level >= logging.WARNING] == ["whycam.model.cache"]
