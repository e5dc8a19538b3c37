"""Training on what a table or tar shards name: the same model as from class folders, and lists with faults."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from conftest import Run
from whycam.config import AuditOptions, ReportOptions, make_train_options
from whycam.data.folder import read_folder
from whycam.data.images import content_hash, load_image
from whycam.data.listed import is_listed, read_labels, read_listed
from whycam.data.shards import is_there, measure_size, name_member
from whycam.errors import UserError
from whycam.jobs.audit import audit_folder
from whycam.jobs.report import make_report
from whycam.jobs.train import train
from whycam.mend.edited_run import EditedRun

WORDS = {"image_size": 64, "epochs": 3}
NAMES = ("circle", "square", "triangle")


@pytest.fixture
def photos(shapes_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shapes_folder, tmp_path / "photos"))


def list_rows(photos: Path) -> list[tuple[str, str]]:
    return [(path.relative_to(photos).as_posix(), path.parent.name) for path in sorted(photos.rglob("*.jpg"))]


def write_csv(place: Path, rows: Sequence[Sequence[str]], columns: Sequence[str] = ("path", "label", "split")) -> Path:
    with place.open("w", newline="") as file:
        csv.writer(file).writerows([columns[: len(rows[0])] if rows else columns, *rows])
    return place


def write_tar(place: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(place, "w") as shard:
        for name, content in members:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            shard.addfile(about, io.BytesIO(content))
    return place


def write_webdataset(place: Path, photos: Path, *, is_numbered: bool = False) -> Path:
    members = []
    for number, (path, label) in enumerate(list_rows(photos)):
        word = str(NAMES.index(label)) if is_numbered else label
        members += [(f"{number:06}.cls", word.encode()), (f"{number:06}.jpg", (photos / path).read_bytes())]
    return write_tar(place, members)


def read_weights(run: Path) -> dict:
    return load_file(run / "model" / "model.safetensors")


def learn(place: Path, out: Path, **words: object) -> dict:
    return train(place, out, make_train_options(**{**WORDS, **words}))


def test_a_list_of_all_photos_is_their_folder(photos: Path, tmp_path: Path) -> None:
    rows = list_rows(photos)
    folder = read_folder(photos)
    for place in (
        write_csv(photos / "list.csv", rows),
        write_csv(tmp_path / "whole.csv", [(str(photos / path), label) for path, label in rows]),
        write_csv(photos / "other.csv", [(b, a, "x") for a, b in rows], ("class", "file", "camera")),
    ):
        read = read_listed(place)
        assert (read.class_names, read.train, read.val) == (folder.class_names, folder.train, folder.val)
        assert read.listed == read.place == place
    table = pa.table({"path": [path for path, _ in rows], "label": [label for _, label in rows]})
    pq.write_table(table, photos / "list.parquet")
    assert read_listed(photos / "list.parquet").samples == folder.samples
    learn(photos, tmp_path / "a")
    summary = learn(photos / "list.parquet", tmp_path / "b")
    a, b = (read_weights(tmp_path / name) for name in "ab")
    assert all(bool((a[name] == b[name]).all()) for name in a)
    assert summary["data"]["listed"] == "list.parquet"


def test_rows_say_the_split(photos: Path) -> None:
    rows = [
        (path, label, "val" if path.endswith(("00.jpg", "01.jpg")) else "train") for path, label in list_rows(photos)
    ]
    read = read_listed(write_csv(photos / "list.csv", rows))
    assert not read.is_split_by_us
    assert {sample.path.name for sample in read.val} == {"00.jpg", "01.jpg"}
    assert len(read.train) == 30


def test_shards_hold_the_same_photos(photos: Path, tmp_path: Path) -> None:
    rows = list_rows(photos)
    shard = write_tar(tmp_path / "s" / "a.tar", [(f"./{path}", (photos / path).read_bytes()) for path, _ in rows])
    member = name_member(shard, rows[0][0])
    assert content_hash(member) == content_hash(photos / rows[0][0])
    assert load_image(member).tobytes() == load_image(photos / rows[0][0]).tobytes()
    assert measure_size(member) == (photos / rows[0][0]).stat().st_size
    assert is_there(member)
    assert not is_there(name_member(shard, "none.jpg"))
    found = read_labels(shard)
    assert {path.name: label for path, label in found.labels.items() if label == "circle"} == {
        Path(path).name: "circle" for path, label in rows if label == "circle"
    }
    assert len(found.labels) == 36


@pytest.mark.slow
@pytest.mark.parametrize("is_numbered", [False, True])
def test_webdataset_trains_and_goes_on_through_report_audit_and_mend(
    photos: Path, tmp_path: Path, is_numbered: bool
) -> None:
    shard = write_webdataset(tmp_path / "shards" / "a-000.tar", photos, is_numbered=is_numbered)
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    run = tmp_path / "run"
    summary = learn(tmp_path / "shards", run, classes=tmp_path / "names.txt")
    assert list(summary["classes"]) == list(NAMES)
    assert summary["data"]["train"] + summary["data"]["val"] == 36
    with (run / "predictions.csv").open() as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    assert all(path.startswith("a-000.tar::") for path in paths)
    if is_numbered:
        return
    assert make_report(str(run), None, tmp_path / "report.html", ReportOptions()).photos == len(paths)
    audit = audit_folder(str(run), shard, tmp_path / "audit", AuditOptions(kinds="duplicate,label"))
    assert audit.photos == 36
    edited = EditedRun.open(run)
    photo = next(iter(edited.list_photos().values()))
    edited.append([{"kind": "leave-out", "photo": photo.photo}])
    version = edited.retrain()
    assert version.summary["data"]["train"] + version.summary["data"]["val"] == 35


def test_splits_of_shards_are_in_their_names(photos: Path, tmp_path: Path) -> None:
    write_webdataset(tmp_path / "s" / "train-0.tar", photos)
    held = tmp_path / "held"
    for path, _ in list_rows(photos)[::6]:
        (held / path).parent.mkdir(parents=True, exist_ok=True)
        (held / path).write_bytes((photos / path).read_bytes() + b"x")
    write_webdataset(tmp_path / "s" / "val" / "0.tar", held)
    read = read_listed(tmp_path / "s")
    assert (len(read.train), len(read.val)) == (36, 6)
    assert not read.is_split_by_us


def test_class_folders_beside_a_tar_are_class_folders(photos: Path) -> None:
    write_tar(photos / "original.tar", [])
    assert not is_listed(photos)


def check_refused(place: Path, *words: str, without: tuple[str, ...] = (), **options: object) -> None:
    with pytest.raises(UserError) as refused:
        read_listed(place, **options)
    for word in words:
        assert word in str(refused.value)
    for word in without:
        assert word not in str(refused.value)


@pytest.mark.parametrize("is_last", [True, False])
def test_a_quote_that_is_not_closed_is_told_with_its_line(photos: Path, is_last: bool) -> None:
    """It takes the lines below into one cell, to the end or to the next quote."""
    lines = [f"{path},{label}" for path, label in list_rows(photos)]
    lines[3] = f'"{lines[3]}'
    if not is_last:
        path, _, label = lines[9].partition(",")
        lines[9] = f'"{path}",{label}'
    (photos / "list.csv").write_text("\n".join(["path,label", *lines]))
    check_refused(photos / "list.csv", "line 5", "quotation mark", without=("no label", "--allow-empty"))


def test_lists_with_faults(photos: Path, tmp_path: Path) -> None:
    rows = list_rows(photos)
    place = photos / "list.csv"
    check_refused(write_csv(place, rows, ("picture", "kind")), "columns picture, kind", "path,label")
    check_refused(write_csv(place, [*rows, (rows[0][0], "square")]), "line 38", "'square'", "'circle'", "Keep one")
    check_refused(write_csv(place, [("a.jpg", "a", "dev")]), "line 2", "'dev'", "train or val")
    check_refused(write_csv(place, [("s3://b/a.jpg", "a"), ("b.jpg", "a")]), "address", "s3://b/a.jpg")
    check_refused(write_csv(place, rows[:12]), "one label, 'circle'", "at least two")
    check_refused(write_csv(place, []), "names no photo")
    check_refused(write_csv(place, [(path, "") for path, _ in rows]), "36 of its lines have no label")
    held = [(path, label, "val" if label == "circle" else "train") for path, label in rows]
    check_refused(write_csv(place, held), "'circle' has no photo to train on", "3 such")
    check_refused(write_csv(place, rows), "label 'triangle' has no line", order=("circle", "square"))
    check_refused(write_csv(place, rows), "'star' has no label", order=(*NAMES, "star"))
    check_refused(photos / "none.csv", "No file")
    gone = [(f"gone/{path}", label) for path, label in rows]
    check_refused(write_csv(place, gone), "None of the 36 photos", f"'{photos}", "whole paths")
    few = [*rows[:12], (rows[12][0], rows[12][1])]
    check_refused(write_csv(place, few), "fewer than 2 photos", without=("--allow-empty",))
    place.write_bytes(b"path,label\n\xff\xfe\x00,a\n")
    check_refused(place, "is not in UTF-8")
    (photos / "list.parquet").write_bytes(b"no table")
    check_refused(photos / "list.parquet", "can't be read as a list")
    (tmp_path / "a.tar").write_bytes(b"no tar" * 200)
    check_refused(tmp_path / "a.tar", "can't be read as a tar shard")
    (tmp_path / "a.tar.gz").write_bytes(b"")
    check_refused(tmp_path / "a.tar.gz", "compressed shard")


def test_what_a_list_lacks_is_counted_and_the_rest_goes_on(photos: Path, tmp_path: Path) -> None:
    rows = list_rows(photos)
    faults = [rows[0], ("gone.jpg", "circle"), ("", "square"), (rows[5][0], "circle"), ("x.jpg", "")]
    summary = learn(write_csv(photos / "list.csv", [*rows, *faults]), tmp_path / "run")
    about = summary["data"]
    assert about["train"] + about["val"] == 36
    assert [Path(path).name for path in about["unreadable"]] == ["gone.jpg"]
    told = " ".join(about["notes"])
    assert "2 of its lines name a photo a second time" in told
    assert "1 of its lines have a label and no photo" in told
    assert "1 of its lines have no label" in told
    assert "a second time" in (tmp_path / "run" / "train.log").read_text()


def test_labels_without_photos_in_a_shard(photos: Path, tmp_path: Path) -> None:
    rows = list_rows(photos)
    members = [(f"{k}.jpg", (photos / path).read_bytes()) for k, (path, _) in enumerate(rows)]
    labels = [(f"{k}.json", json.dumps({"label": label}).encode()) for k, (_, label) in enumerate(rows)]
    found = read_labels(write_tar(tmp_path / "a.tar", [*members, *labels, ("99.json", b"{}"), ("98.jpg", b"?")]))
    assert len(found.labels) == 36
    assert [note.split(",")[0].split(" and were")[0] for note in found.notes] == [
        "1 of its lines have no label",
        "1 of its lines have a label and no photo",
    ]


def test_as_a_user_calls_it(photos: Path, tmp_path: Path, call_whycam: Run) -> None:
    place = write_csv(photos / "list.csv", list_rows(photos))
    done = call_whycam("train", place, "-o", tmp_path / "run", "--image-size", 64, "--epochs", 2)
    assert done.returncode == 0, done.stderr
    again = call_whycam("train", write_csv(place, [("a", "b")], ("x", "y")), "-o", tmp_path / "other")
    assert again.returncode == 2
    assert "Traceback" not in again.stderr
    assert not list(tmp_path.glob("other*"))


def test_what_takes_photos_alone_says_so_of_a_list(
    call_whycam: Run, tiny_folder: Path, shapes_folder: Path, tmp_path: Path
) -> None:
    listed = write_csv(tmp_path / "list.csv", [(next(shapes_folder.rglob("*.jpg")), "circle", "")])
    out = tmp_path / "out"
    for words in (("evaluate", tiny_folder, listed), ("localize", tiny_folder, listed)):
        done = call_whycam(*words, "-o", out)
        assert (done.returncode, "is a list or holds shards" in done.stderr) == (2, True), done.stderr
    done = call_whycam("export", tiny_folder, "-o", out, "--int8", "--calibrate", listed)
    assert (done.returncode, "is a list or holds shards" in done.stderr) == (2, True), done.stderr
    assert not out.exists()


def test_words_that_nothing_asks_for_are_not_passed_over(
    call_whycam: Run, tiny_folder: Path, shapes_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = call_whycam("explain", tiny_folder, shapes_folder, "-o", out, "--workers", "2")
    assert (done.returncode, "--workers is about a cluster" in done.stderr) == (2, True), done.stderr
    done = call_whycam("export", tiny_folder, "-o", out, "--calibrate", shapes_folder)
    assert (done.returncode, "--calibrate gives photos to --int8" in done.stderr) == (2, True), done.stderr
    assert not out.exists()
