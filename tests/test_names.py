"""Names of photos: unique output names that fit a disk, and file names that are no UTF-8, through every command."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from whycam.config import (
    AuditOptions,
    EvaluateOptions,
    ExplainOptions,
    LocalizeOptions,
    ReportOptions,
    UnitsOptions,
    make_train_options,
)
from whycam.data.sources import find_sources, name_outputs
from whycam.jobs import explain as job
from whycam.jobs.audit import audit_folder
from whycam.jobs.evaluate import evaluate_folder
from whycam.jobs.explain import explain_files
from whycam.jobs.localize import localize_files
from whycam.jobs.report import make_report
from whycam.jobs.train import train
from whycam.jobs.units import show_units
from whycam.made import LIST
from whycam.runs import from_text, to_text

ODD = os.fsdecode(b"caf\xe9.jpg")
DEEP = "/".join(["d" * 53] * 5)
RunWhycam = Callable[..., "subprocess.CompletedProcess[str]"]


def save(*paths: Path) -> None:
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((40 + number, 40), 90).convert("RGB").save(path, "JPEG")


@pytest.fixture
def odd_folder(shapes_folder: Path, tmp_path: Path) -> Path:
    """Class folders with photos whose names are no UTF-8, are long, deep, of two lines, or of other letters."""
    root = Path(shutil.copytree(shapes_folder, tmp_path / "photos"))
    for number, name in enumerate((ODD, "🌷.jpg", "n" * 250 + ".jpg", f"{DEEP}/x.jpg", "two\nlines.jpg")):
        path = root / "circle" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / "circle" / f"{number:02}.jpg", path)
    return root


@pytest.mark.parametrize(
    "names",
    [
        ["a/b.jpg", "a__b.jpg", "c.jpg"],
        ["p.jpg", "p.jpeg", "p_jpg.jpg"],
        ["p.jpg", "p.jpeg", "p_jpg.jpg", "p_jpeg.jpg", "p_jpg.jpeg"],
        ["x/p.jpg", "x/P.jpg", "x/P.JPG"],
        ["é.jpg", "é.jpg", "q.jpg"],
        [f"{DEEP}/x.jpg", f"{DEEP}/y.jpg", f"e{DEEP}/x.jpg", "z.jpg"],
        ["n" * 250 + ".jpg", "n" * 249 + "m.jpg"],
        ["日" * 83 + ".jpg", "日" * 82 + "本.jpg"],
        [ODD, "caf%E9.jpg", os.fsdecode(b"caf\xe8.jpg")],
    ],
)
def test_output_names_are_unique_and_fit_any_disk(names: list[str]) -> None:
    found = name_outputs([f"/photos/{name}" for name in names])
    assert len({name.casefold() for name in found}) == len(names)
    assert all(len(name.encode()) <= 200 and "/" not in name for name in found)
    assert found == name_outputs([f"/photos/{name}" for name in names])


def test_ordinary_names_stay_readable() -> None:
    assert name_outputs(["/a/rose/1.jpg", "/a/tulip/1.jpg"]) == ["rose__1", "tulip__1"]
    assert name_outputs(["/a/p.jpg", "/a/p.png", "/a/q.jpg"]) == ["p_jpg", "p_png", "q"]
    assert name_outputs([f"/a/{ODD}", "/a/b.jpg"]) == ["caf%E9", "b"]


def test_names_that_were_given_stay_and_are_not_given_again() -> None:
    known = dict(zip(["/a/b/x.jpg", "/a/b/y.jpg"], name_outputs(["/a/b/x.jpg", "/a/b/y.jpg"]), strict=True))
    paths = ["/a/b/x.jpg", "/a/b/y.jpg", "/a/x.jpg", "/a/b/y.png"]
    found = name_outputs(paths, known)
    assert found[:2] == ["x", "y"]
    assert len(set(found)) == 4


def read_rows(out: Path, name: str) -> list[dict[str, object]]:
    rows = pq.read_table(out / f"{name}.parquet").to_pylist()
    with (out / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [row["path"] for row in rows]
    return rows


def test_explain_writes_files_of_its_own_for_each_photo(tiny_folder: Path, tmp_path: Path) -> None:
    names = ("a/b.jpg", "a__b.jpg", "p.jpg", "p.jpeg", "p_jpg.jpg", ODD, f"{DEEP}/x.jpg", "n" * 250 + ".jpg")
    save(*(tmp_path / "photos" / name for name in names))
    explain_files(str(tiny_folder), [str(tmp_path / "photos")], str(tmp_path / "out"), ExplainOptions(target="top:2"))
    rows = read_rows(tmp_path / "out", "explanations")
    assert {from_text(str(row["path"])) for row in rows} == {str(tmp_path / "photos" / name) for name in names}
    for kind in ("overlay", "heatmap", "map"):
        assert len({row[kind] for row in rows}) == 2 * len(names)
        assert all((tmp_path / "out" / str(row[kind])).is_file() for row in rows)
    for row in rows:
        with Image.open(tmp_path / "out" / str(row["overlay"])) as overlay:
            assert overlay.size == (row["width_px"], row["height_px"])
    assert [path.name for path in (tmp_path / "out").glob(".*")] == [LIST]


def test_a_resumed_run_keeps_its_names_though_photos_have_come(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = tmp_path / "photos"
    save(photos / "d/x.jpg", photos / "d/y.jpg", photos / "d/z.jpg")
    write, count = job.write_reading, iter(range(100))

    def stop_at_1(*words: object) -> object:
        if next(count) >= 1:
            raise KeyboardInterrupt
        return write(*words)  # type: ignore[arg-type]

    options = ExplainOptions(batch_size=1)
    with monkeypatch.context() as patch:
        patch.setattr(job, "write_reading", stop_at_1)
        patch.setattr(job, "_WORKERS", 1)
        with pytest.raises(Exception, match="Interrupted"):
            explain_files(str(tiny_folder), [str(photos)], str(tmp_path / "out"), options)
    save(photos / "x.jpg", photos / "d/y.png")
    explain_files(str(tiny_folder), [str(photos)], str(tmp_path / "out"), ExplainOptions(batch_size=1, resume=True))
    rows = read_rows(tmp_path / "out", "explanations")
    assert len(rows) == 5
    files = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out/maps").iterdir()}
    assert files == {row["map"] for row in rows}
    assert len(files) == 5


def test_a_journal_cut_inside_a_letter_loses_that_line_alone(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = tmp_path / "photos"
    save(*(photos / f"é{number}.jpg" for number in range(4)))
    with monkeypatch.context() as patch:
        patch.setattr(job, "_write_table", lambda folder: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(Exception, match="Interrupted"):
            explain_files(str(tiny_folder), [str(photos)], str(tmp_path / "out"), ExplainOptions())
    journal = tmp_path / "out.partial/.rows.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:3]) + lines[3][: lines[3].index("é".encode()) + 1])
    explain_files(str(tiny_folder), [str(photos)], str(tmp_path / "out"), ExplainOptions(resume=True))
    assert len(read_rows(tmp_path / "out", "explanations")) == 4


def test_text_and_json_of_odd_names_lose_nothing() -> None:
    assert to_text(ODD) == r"caf\udce9.jpg"
    assert from_text(to_text(ODD)) == ODD
    assert from_text("plain.jpg") == "plain.jpg"


def test_odd_names_go_through_every_command(odd_folder: Path, tmp_path: Path) -> None:
    options = make_train_options(backbone="test_resnet", scratch=True, image_size=64, epochs=1, device="cpu")
    summary = train(odd_folder, tmp_path / "run", options)
    assert summary["data"]["train"] + summary["data"]["val"] == 41
    run = str(tmp_path / "run")
    assert len(read_rows(tmp_path / "run", "predictions")) == summary["data"]["val"]
    circle = odd_folder / "circle"
    done = localize_files(run, [circle], tmp_path / "found", LocalizeOptions())
    assert (done.photos, done.unreadable) == (17, 0)
    coco = json.loads((tmp_path / "found/coco.json").read_text(encoding="utf-8"))
    assert str(circle / ODD) in {image["file_name"] for image in coco["images"]}
    assert len(list((tmp_path / "found/labels").iterdir())) == 17
    evaluate_folder(run, odd_folder, tmp_path / "measured", EvaluateOptions(metrics="gini", methods="cam"))
    assert str(circle / ODD) in {from_text(str(row["path"])) for row in read_rows(tmp_path / "measured", "photos")}
    audit_folder(run, odd_folder, tmp_path / "audit", AuditOptions(kinds="label,duplicate"))
    found = json.loads((tmp_path / "audit/audit.json").read_text(encoding="utf-8"))["findings"]
    assert str(circle / ODD) in {photo["path"] for finding in found for photo in finding["photos"]}
    reported = make_report(run, odd_folder, tmp_path / "all.html", ReportOptions(audit=tmp_path / "audit"))
    assert (reported.photos, reported.unreadable) == (summary["data"]["val"], 0)
    assert r"caf\\udce9.jpg" in (tmp_path / "all.html").read_text(encoding="utf-8")
    assert show_units(run, "circle", circle, tmp_path / "units", UnitsOptions(units=2)).photos == 17


def test_held_out_photos_of_odd_names_are_found_again(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for label, name in enumerate(("a", os.fsdecode(b"b\xe9"))):
            save(
                *(tmp_path / f"photos/{split}/{name}" / os.fsdecode(b"%d\xe9.jpg" % (i + 9 * label)) for i in range(3))
            )
    options = make_train_options(backbone="test_resnet", scratch=True, image_size=64, epochs=1, device="cpu")
    summary = train(tmp_path / "photos", tmp_path / "run", options)
    assert list(summary["classes"]) == ["a", r"b\udce9"]
    done = make_report(str(tmp_path / "run"), None, tmp_path / "r.html", ReportOptions(no_audit=True))
    assert (done.photos, done.unreadable) == (6, 0)
    found = audit_folder(str(tmp_path / "run"), tmp_path / "photos", tmp_path / "o", AuditOptions(kinds="label"))
    assert set(found.record["classes"]) == {"a", r"b\udce9"}


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_any_terminal_takes_odd_names(run_whycam: RunWhycam, cached: str, tmp_path: Path, locale: str) -> None:
    save(tmp_path / "photos" / ODD, tmp_path / "photos" / "🌷.jpg")
    (tmp_path / "photos" / os.fsdecode(b"bad\xe9.jpg")).write_bytes(b"no photo")
    env = {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = run_whycam("explain", cached, tmp_path / "photos", "-o", tmp_path / "out", env=env)
    assert done.returncode == 0, done.stderr
    assert len(read_rows(tmp_path / "out", "explanations")) == 3
    done = run_whycam("explain", cached, tmp_path / "photos" / os.fsdecode(b"bad\xe9.jpg"), "-o", "x", env=env)
    assert done.returncode == 2
    assert r"bad\udce9.jpg" in done.stderr


def test_a_list_may_name_what_is_no_utf8(tmp_path: Path) -> None:
    save(tmp_path / ODD)
    (tmp_path / "list.txt").write_bytes(os.fsencode(ODD) + b"\n")
    assert [source.path for source in find_sources([str(tmp_path / "list.txt")])] == [str(tmp_path / ODD)]
