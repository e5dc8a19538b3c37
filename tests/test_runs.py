"""A result appears whole under its name or not at all.

What happens inside a block is what is tested here, so several statements stand in it (noqa: PT012).
"""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from whycam.aside import name_beside
from whycam.errors import UserError
from whycam.made import LIST, begin_list
from whycam.runs import (
    TableWriter,
    hold_lock,
    open_atomic,
    open_run,
    read_versions,
    tell_disk_errors,
    write_json,
    write_lines,
)

SCHEMA = pa.schema([("path", pa.string()), ("score", pa.float64()), ("boxes", pa.list_(pa.int64()))])
ROWS = [{"path": f"photo, {i}.jpg", "score": i / 7, "boxes": [i, 2 * i]} for i in range(10)]
HOLD_LOCK = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def names_in(folder: Path) -> list[str]:
    """All but the list of what is there."""
    return sorted(path.name for path in folder.iterdir() if path.name != LIST)


def make_run(folder: Path, word: str, **options: bool) -> None:
    with open_run(folder, **options) as work:
        (work / "a.txt").write_text(word)


def test_the_name_appears_at_the_end(tmp_path: Path) -> None:
    run = tmp_path / "deep" / "run"
    with open_run(run) as work:
        (work / "a.txt").write_text("new")
        assert not run.exists()
        assert work.parent == run.parent
    assert names_in(run.parent) == ["run"]
    assert names_in(run) == ["a.txt"]


def test_after_an_error_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_run(tmp_path / "run") as work:  # noqa: PT012
        (work / "a.txt").write_text("half")
        raise ZeroDivisionError
    assert names_in(tmp_path) == []


def test_what_a_resume_needs_is_left_under_the_partial_name(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(ZeroDivisionError), open_run(run, keep="checkpoints") as work:  # noqa: PT012
        (work / "checkpoints").mkdir()
        (work / "checkpoints" / "1.pt").write_text("epoch 1")
        raise ZeroDivisionError
    assert names_in(tmp_path) == ["run.partial"]
    with open_run(run, resume=True, keep="checkpoints") as work:
        assert (work / "checkpoints" / "1.pt").read_text() == "epoch 1"
    assert names_in(tmp_path) == ["run"]


def test_without_resume_the_work_starts_anew(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_run(tmp_path / "run", keep="old.txt") as work:  # noqa: PT012
        (work / "old.txt").write_text("old")
        raise ZeroDivisionError
    with open_run(tmp_path / "run") as work:
        assert names_in(work) == []


def interrupt(run: Path, error: type[BaseException] = ZeroDivisionError, **how: bool) -> None:
    with pytest.raises((error, UserError)), open_run(run, keep="kept", **how) as work:  # noqa: PT012
        (work / "kept").mkdir(exist_ok=True)
        (work / "kept" / "1.pt").write_text("epoch 1")
        raise error


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["note.txt", "kept/note.txt", "deep/er/note.txt"])
def test_a_file_that_was_put_into_unfinished_work_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: type[BaseException], place: str
) -> None:
    interrupt(tmp_path / "run", error)
    (tmp_path / "run.partial" / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "run.partial" / place).write_text("mine")
    make_run(tmp_path / "run", "second")
    (kept,) = (path for path in tmp_path.iterdir() if path.name != "run")
    assert (kept / place).read_text() == "mine"
    assert names_in(tmp_path / "run") == ["a.txt"]
    assert f"kept as '{kept.name}': WhyCAM did not make {place} in it" in caplog.text


def test_what_a_killed_run_left_goes_and_what_came_into_it_later_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    partial = tmp_path / "run.partial"
    for place in ("", "note.txt"):
        interrupt(tmp_path / "run", overwrite=bool(place))
        begin_list(partial)  # as it is while a run goes on
        if place:
            os.utime(partial / LIST, (time.time() - 60,) * 2)
            os.utime(partial / "kept" / "1.pt", (0, 0))
            (partial / place).write_text("mine")
        make_run(tmp_path / "run", "second", overwrite=bool(place))
        kept = [path for path in tmp_path.iterdir() if path.name != "run"]
        assert [(one / place).read_text() for one in kept] == (["mine"] if place else [])
    assert f"kept as '{kept[0].name}': WhyCAM did not make " in caplog.text


def test_what_came_into_a_killed_run_is_not_claimed_by_the_one_that_goes_on(tmp_path: Path) -> None:
    run, partial = tmp_path / "run", tmp_path / "run.partial"
    interrupt(run)
    begin_list(partial)
    os.utime(partial / LIST, (time.time() - 60,) * 2)
    (partial / "note.txt").write_text("mine")
    make_run(run, "second", resume=True)
    with pytest.raises(UserError, match=r"it holds (kept/1\.pt, )?note\.txt"):
        make_run(run, "third", overwrite=True)
    assert (run / "note.txt").read_text() == "mine"


def test_a_run_says_that_it_is_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whycam.made._BEAT_S", 0.01)
    with open_run(tmp_path / "run") as work:
        os.utime(work / LIST, (0, 0))
        deadline = time.monotonic() + 30
        while (work / LIST).stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (work / LIST).stat().st_mtime > time.time() - 60


def test_a_file_that_was_put_into_unfinished_work_stays_somebody_elses_when_it_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    interrupt(run)
    (tmp_path / "run.partial" / "note.txt").write_text("mine")
    interrupt(run, resume=True)
    make_run(run, "second", resume=True)
    assert names_in(run) == ["a.txt", "kept", "note.txt"]
    with pytest.raises(UserError, match=r"but it holds note\.txt, which WhyCAM did not make"):
        make_run(run, "third", overwrite=True)
    (run / "note.txt").unlink()
    make_run(run, "third", overwrite=True)
    assert names_in(tmp_path) == ["run"]


@pytest.mark.parametrize(("has_work", "words"), [(True, "--resume goes on"), (False, "Nothing is left of it")])
def test_ctrl_c_says_what_is_left(tmp_path: Path, has_work: bool, words: str) -> None:
    with pytest.raises(UserError, match=f"Interrupted.*{words}"), open_run(tmp_path / "run", keep="kept") as work:  # noqa: PT012
        if has_work:
            (work / "kept").mkdir()
        raise KeyboardInterrupt
    assert names_in(tmp_path) == (["run.partial"] if has_work else [])


def test_an_existing_result_is_refused_and_untouched(tmp_path: Path) -> None:
    make_run(tmp_path / "run", "first")
    with pytest.raises(UserError, match=r"is there already \(a finished result\).*--overwrite"):
        make_run(tmp_path / "run", "second")
    assert (tmp_path / "run" / "a.txt").read_text() == "first"
    assert names_in(tmp_path) == ["run"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"is there already \(a file\)"):
        make_run(tmp_path / "file", "second")


def test_overwrite_keeps_the_old_until_the_new_is_whole(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run, "first")
    with pytest.raises(ZeroDivisionError), open_run(run, overwrite=True):
        raise ZeroDivisionError
    assert (run / "a.txt").read_text() == "first"
    with open_run(run, overwrite=True) as work:
        (work / "b.txt").write_text("second")
        assert (run / "a.txt").read_text() == "first"
    assert names_in(run) == ["b.txt"]
    assert names_in(tmp_path) == ["run"]


def test_overwrite_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("x")
    (tmp_path / "notes").write_text("x")
    for name, words in (
        ("photos", r"there already: a folder that WhyCAM did not make \(cat\.jpg\)"),
        ("notes", "a file that"),
    ):
        with pytest.raises(UserError, match=f"{words}.*Take another name, or delete it yourself"):
            make_run(tmp_path / name, "new", overwrite=True)
        with pytest.raises(UserError, match=r"never replaced by itself\. Choose another name\.$"):
            make_run(tmp_path / name, "new")
    assert names_in(tmp_path) == ["notes", "photos"]
    assert names_in(tmp_path / "photos") == ["cat.jpg"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank").touch()
    for name in ("empty", "blank"):
        with pytest.raises(UserError, match="or give --overwrite"):
            make_run(tmp_path / name, "new")
        make_run(tmp_path / name, "new", overwrite=True)
        assert names_in(tmp_path / name) == ["a.txt"]


def test_files_that_were_put_into_a_result_are_named_and_stay(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with open_run(run) as work:
        (work / "maps").mkdir()
        (work / "maps" / "1.npy").write_text("map")
        make_run(work / "inner", "inner")
    (run / ".DS_Store").write_text("the system's")
    for place in ("notes.txt", "maps/mine.npy", "inner/mine.txt", "deep/er/mine.txt", "edits.jsonl"):
        (run / place).parent.mkdir(parents=True, exist_ok=True)
        (run / place).write_text("mine")
        with pytest.raises(
            UserError, match=f"a result of WhyCAM's, but it holds {place}, which WhyCAM did not make.*Move them"
        ):
            make_run(run, "new", overwrite=True)
        (run / place).unlink()
    (run / "link").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(UserError, match="but it holds link, which"):
        make_run(run, "new", overwrite=True)
    (run / "link").unlink()
    (run / "edits.jsonl").write_text("{}\n")
    make_run(run, "new", overwrite=True, keeps="edits.jsonl")
    assert names_in(run) == ["a.txt"]
    assert names_in(tmp_path) == ["run"]


def test_a_file_that_comes_while_a_result_is_replaced_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = tmp_path / "run"
    make_run(run, "first")
    with open_run(run, overwrite=True) as work:
        (work / "a.txt").write_text("second")
        (run / "mine.txt").write_text("mine")
    assert (run / "a.txt").read_text() == "second"
    (old,) = (path for path in tmp_path.iterdir() if path.name != "run")
    assert (old / "mine.txt").read_text() == "mine"
    assert f"is kept as '{old.name}'" in caplog.text


def test_what_a_killed_replacement_left_goes_with_the_next_result(tmp_path: Path) -> None:
    make_run(tmp_path / "run", "first")
    killed, written = (tmp_path / f".run.{word}.whycam-replaced" for word in ("0123abcd", "89abcdef"))
    (tmp_path / "run").replace(killed)
    shutil.copytree(killed, written)
    (written / "mine.txt").write_text("mine")
    copies = [tmp_path / name for name in ("run.0123abcd.old", "run.20261127.old", "run.may.old")]
    for copy in copies:
        shutil.copytree(killed, copy)
    make_run(tmp_path / "run", "second")
    assert names_in(tmp_path) == sorted(["run", written.name, *(copy.name for copy in copies)])


def test_names_beside_a_result_are_not_taken_from_anybody(tmp_path: Path) -> None:
    make_run(tmp_path / "run", "first")
    for name in ("run.old", "run.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("mine")
    for how in ({}, {"resume": True}):
        with pytest.raises(UserError, match=r"run\.partial' is there, and is no unfinished work.*Rename it"):
            make_run(tmp_path / "run", "second", overwrite=True, **how)
    shutil.rmtree(tmp_path / "run.partial")
    make_run(tmp_path / "run", "second", overwrite=True)
    assert (tmp_path / "run.old" / "mine.txt").read_text() == "mine"


def test_a_link_stays_and_what_it_points_to_is_the_result(tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to("run", target_is_directory=True)
    make_run(tmp_path / "latest", "first")
    make_run(tmp_path / "latest", "second", overwrite=True)
    assert (tmp_path / "latest").is_symlink()
    assert (tmp_path / "run" / "a.txt").read_text() == "second"


@pytest.mark.parametrize("name", ["audit.json", "page.HTML", "model.onnx"])
def test_a_folder_is_not_called_like_a_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"{name}' is a file's name.*folder.*Take '{Path(name).stem}'"):
        make_run(tmp_path / name, "x")
    make_run(tmp_path / "run.2", "x")
    assert names_in(tmp_path) == ["run.2"]


def test_a_run_that_another_process_works_on_is_refused(tmp_path: Path) -> None:
    lock = tmp_path / ".run.lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        # Twice: the first refusal must leave the other's lock where it is.
        for _ in range(2):
            with pytest.raises(UserError, match=r"Another process is working on .*run'. Wait for it"):
                make_run(tmp_path / "run", "mine")
        assert names_in(tmp_path) == [".run.lock"]
        other.communicate("")
    make_run(tmp_path / "run", "mine")
    assert (tmp_path / "run" / "a.txt").read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no /proc, which takes no files")
def test_a_folder_that_takes_no_files_is_not_called_busy() -> None:
    with pytest.raises(UserError, match=r"'/proc' can't be written to: nothing can be made there\. Choose a"):
        make_run(Path("/proc/x"), "x")
    with pytest.raises(OSError, match="nothing can be made there"), hold_lock(Path("/proc/x"), "another process"):
        pass


def test_a_result_that_was_finished_meanwhile_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process gives the folder its name just before this one gets the lock."""
    real = Path.mkdir

    def mkdir(self: Path, *words: object, **options: object) -> None:
        real(self, *words, **options)
        if self == tmp_path:
            real(tmp_path / "run", exist_ok=True)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(UserError, match="is there already"):
        make_run(tmp_path / "run", "mine")


def test_a_disk_that_is_full_from_the_start_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("whycam.runs.begin_list", fill)
    with pytest.raises(UserError, match="No room to write"), open_run(tmp_path / "run"):
        pass
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(tmp_path: Path, number: int) -> None:
    with pytest.raises(UserError, match=r"No room to write .*Free some space"), open_run(tmp_path / "run") as work:  # noqa: PT012
        (work / "half.bin").write_bytes(b"x")
        raise OSError(number, "No space left on device", str(work / "half.bin"))
    assert names_in(tmp_path) == []


def test_other_errors_of_the_system_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="broken"), open_run(tmp_path / "run"):
        raise OSError(errno.EIO, "broken")


def test_atomic_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"name": "grün", "value": 1.5})
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": "grün", "value": 1.5}
    assert "grün" in path.read_text(encoding="utf-8")
    with pytest.raises(ZeroDivisionError), open_atomic(path) as part:  # noqa: PT012
        part.write_text("half")
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"value": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8"))["value"] == 1.5
    assert names_in(tmp_path) == ["a.json"]


def test_float32_is_written_as_people_write_it(tmp_path: Path) -> None:
    single = float(np.float32(0.1))
    content = {"a": single, "b": [single, {"c": (float(np.float32(1 / 3)),)}], "d": 0.1, "e": 1 / 3, "f": 2.5, "g": 3}
    write_json(tmp_path / "a.json", {**content, "h": 1e300, "i": float(np.float32(1e-30)), "j": -single})
    text = (tmp_path / "a.json").read_text()
    assert "0.100000" not in text
    read = json.loads(text)
    assert (read["a"], read["b"][0], read["b"][1]["c"][0], read["j"]) == (0.1, 0.1, 0.33333334, -0.1)
    assert (read["d"], read["e"], read["f"], read["g"], read["h"]) == (0.1, 1 / 3, 2.5, 3, 1e300)
    assert np.float32(read["i"]) == np.float32(1e-30)
    write_lines(tmp_path / "a.jsonl", [content])
    assert "0.100000" not in (tmp_path / "a.jsonl").read_text()


def test_lines(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [{"a": 1}, {"a": 2}])
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("group_rows", [3, 100])
def test_both_tables_have_the_same_rows(tmp_path: Path, group_rows: int) -> None:
    with TableWriter(tmp_path, "table", SCHEMA, group_rows) as table:
        for row in ROWS:
            table.write(row)
        assert not (tmp_path / "table.parquet").exists()
    assert names_in(tmp_path) == ["table.csv", "table.parquet"]
    stored = pq.read_table(tmp_path / "table.parquet")
    assert stored.to_pylist() == ROWS
    assert pq.ParquetFile(tmp_path / "table.parquet").num_row_groups == -(-len(ROWS) // group_rows)
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        read = [
            {"path": r["path"], "score": float(r["score"]), "boxes": json.loads(r["boxes"])}
            for r in csv.DictReader(file)
        ]
    assert read == ROWS


def test_missing_values_are_empty(tmp_path: Path) -> None:
    with TableWriter(tmp_path, "table", SCHEMA) as table:
        table.write({"path": "a"})
    assert pq.read_table(tmp_path / "table.parquet").to_pylist() == [{"path": "a", "score": None, "boxes": None}]
    assert (tmp_path / "table.csv").read_text().splitlines()[1] == "a,,"


def test_an_empty_table_has_its_columns(tmp_path: Path) -> None:
    with TableWriter(tmp_path, "table", SCHEMA):
        pass
    assert pq.read_table(tmp_path / "table.parquet").schema == SCHEMA
    assert (tmp_path / "table.csv").read_text().strip() == "path,score,boxes"


def test_tables_are_removed_on_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), TableWriter(tmp_path, "table", SCHEMA) as table:  # noqa: PT012
        table.write(ROWS[0])
        raise ZeroDivisionError
    assert names_in(tmp_path) == []


def test_tables_are_removed_if_the_last_rows_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError)), TableWriter(tmp_path, "table", SCHEMA) as table:
        table.write({"path": "a", "score": "many"})
    assert names_in(tmp_path) == []


def test_versions_name_what_can_change_a_number() -> None:
    found = read_versions()
    assert found["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}")
    assert {"torch", "timm", "numpy", "pillow"} <= set(found)


@pytest.mark.parametrize("name", ["a" * 250, "ü" * 127, "🌼" * 63], ids=["ascii", "two bytes", "four bytes"])
def test_long_names_have_room_for_their_unfinished_selves(tmp_path: Path, name: str) -> None:
    make_run(tmp_path / name, "first")
    make_run(tmp_path / name, "second", overwrite=True)
    write_json(tmp_path / name / f"{name[:-1]}x", {})
    assert names_in(tmp_path) == [name]
    assert (tmp_path / name / "a.txt").read_text() == "second"
    beside = {name_beside(tmp_path / word, ".", ".part") for word in (name, f"{name[:-1]}x")}
    assert len(beside) == 2


def test_a_name_that_is_too_long_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"File name too long\. Choose a shorter name"):
        make_run(tmp_path / ("a" * 256), "x")


def test_only_the_system_s_own_errors_of_the_disk_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a folder' can't be written to: Is a directory"), tell_disk_errors(tmp_path):
        raise OSError(errno.EISDIR, "Is a directory", "a folder")
    with pytest.raises(OSError, match="broken"), tell_disk_errors(tmp_path):
        raise OSError(errno.EIO, "broken")
