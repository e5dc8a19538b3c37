"""The journal: what was said is there, whole and once, whoever writes beside and whenever the process ends."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kill_cases import KILL_APPENDING
from whycam.errors import UserError
from whycam.mend import journal as journal_file
from whycam.mend.edits import Edit, make_edit
from whycam.mend.journal import Journal, read_lines
from whycam.runs import to_json

FINDING = {"id": "shortcut-1", "kind": "shortcut"}
PHOTOS = ["a" * 32, "b" * 32, "c" * 32]


def make(number: int, kind: str = "label", **words: Any) -> Edit:
    about = {"photo": PHOTOS[number % 3], "label": f"class-{number % 4}"} if kind == "label" else {}
    return make_edit(kind, id=f"edit-{number}", who="Ann", **{**about, **words})


def to_bytes(edits: list[Edit]) -> bytes:
    return b"".join(to_json(edit.to_json()) for edit in edits)


def test_what_is_appended_is_read_in_its_order(tmp_path: Path) -> None:
    journal = Journal.of(tmp_path)
    assert journal.read().edits == ()
    first, second, third = make(1), make(2, note="a\nb  \N{SNOWMAN}"), make(3, "undo", of="edit-1")
    journal.append([first])
    journal.append([second, third])
    assert journal.read().edits == (first, second, third)
    assert journal.read().notes == ()
    lines = (tmp_path / "edits.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["label", "label", "undo"]
    assert datetime.fromisoformat(json.loads(lines[0])["time"]).tzinfo == UTC


@given(st.integers(0, 2000))
def test_of_any_part_of_the_file_the_whole_lines_count(end: int) -> None:
    edits = [make(number) for number in range(6)]
    content = to_bytes(edits)[:end]
    whole = content.count(b"\n")
    found = read_lines(content)
    rest = content.rpartition(b"\n")[2]
    # A line that lacks nothing but its end is whole.
    is_whole = bool(rest) and to_bytes(edits[whole:])[: len(rest) + 1].endswith(b"\n")
    assert list(found.edits) == edits[: whole + is_whole]
    assert len(found.notes) == (bool(rest) and not is_whole)
    assert not rest or is_whole or "cut off" in found.notes[0]


def test_a_torn_line_is_told_and_not_glued_to_the_next(tmp_path: Path) -> None:
    journal = Journal.of(tmp_path)
    journal.append([make(0), make(1)])
    path = tmp_path / "edits.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert journal.read().edits == (make_again(0, journal),)
    assert "Line 2 of the journal was cut off while it was written; it does not count." in journal.read().notes
    journal.append([make(2)])
    assert [edit.id for edit in journal.read().edits] == ["edit-0", "edit-2"]
    assert "Line 2" in journal.read().notes[0]


def make_again(number: int, journal: Journal) -> Edit:
    return next(edit for edit in journal.read().edits if edit.id == f"edit-{number}")


@given(st.lists(st.integers(0, 9), max_size=20))
def test_an_edit_that_is_sent_again_counts_once(again: list[int]) -> None:
    """Whatever is sent again, whenever: the state is that of the edits sent once."""
    edits = [make(number) for number in range(5)]
    lines = [to_json(edit.to_json()) for edit in edits]
    for place, number in enumerate(again):
        known = min(number, len(edits) - 1)
        # Behind the first time.
        lines.insert(lines.index(to_json(edits[known].to_json())) + 1 + place % 3, to_json(edits[known].to_json()))
    found = read_lines(b"".join(lines))
    assert list(found.edits) == edits
    assert found.notes == ()


def test_an_id_that_another_edit_has_is_told() -> None:
    found = read_lines(to_bytes([make(1), make_edit("leave-out", id="edit-1", photo=PHOTOS[0])]))
    assert [edit.kind for edit in found.edits] == ["label"]
    assert "has the id of another edit (edit-1)" in found.notes[0]


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ({"id": "1", "time": "now", "kind": "blur", "photo": "x"}, ("kind 'blur'", "later version", "leave-out")),
        ({"id": "1", "time": "now", "kind": "label", "format": 2}, ("format 2", "later version")),
        ({"id": "1", "time": "now", "kind": "label", "photo": PHOTOS[0]}, ("needs 'label'",)),
        ({"id": "1", "time": "now", "kind": "leave-out", "photo": "../etc"}, ("photo: ",)),
        (
            {"id": "1", "time": "now", "kind": "cure", "finding": {"title": "?"}},
            (
                "no",
                "audit.json (id: ",
            ),
        ),
        ({"id": "1", "time": "now", "kind": "cure", "finding": FINDING | {"photos": [1]}}, ("photos.0: ",)),
        (
            {"id": "1", "time": "now", "kind": "cure", "finding": FINDING | {"numbers": {"properties": 1}}},
            ("properties",),
        ),
        ({"time": "now", "kind": "right"}, ("id: ",)),
        ([1], ("is no edit",)),
        ("{", ("is no JSON",)),
        ("[" * 100_000, ("is no JSON",)),
    ],
)
def test_what_can_not_be_followed_is_told_by_its_line(line: object, parts: tuple[str, ...]) -> None:
    text = line if isinstance(line, str) else json.dumps(line)
    found = read_lines(to_bytes([make(0)]) + text.encode() + b"\n" + to_bytes([make(1)]))
    assert [edit.id for edit in found.edits] == ["edit-0", "edit-1"]
    for part in ("Line 2", "does not count", *parts):
        assert part in found.notes[0]


def test_many_bad_lines_are_counted() -> None:
    found = read_lines(b"{\n" * 30)
    assert len(found.notes) == 6
    assert "25" in found.notes[-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"kind": "blur"}, "Unknown kind of edit 'blur'"),
        ({"kind": "label", "photo": PHOTOS[0]}, "needs 'label'"),
        ({"kind": "label", "photo": PHOTOS[0], "labell": "x"}, "Did you mean 'label'"),
        ({"kind": "not-object", "photo": PHOTOS[0], "region": {"boxes": []}}, "nothing is drawn"),
        ({"kind": "not-object", "photo": PHOTOS[0], "region": {"boxes": [[0, 0, 2, 1]]}}, "less than or equal to 1"),
    ],
)
def test_an_edit_that_lacks_something_is_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_edit(**words)


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.of(tmp_path)
    journal.append([make(0)])
    before = journal.path.read_bytes()

    def fill(file: Any, content: bytes) -> None:
        file.write(content[:30])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal_file, "_write", fill)
        with pytest.raises(UserError, match="No room to write"):
            journal.append([make(1)])
    assert journal.path.read_bytes() == before
    journal.append([make(1)])
    assert len(journal.read().edits) == 2


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the system lets root write anywhere")
def test_a_run_that_may_only_be_read_is_read(tmp_path: Path) -> None:
    journal = Journal.of(tmp_path)
    journal.append([make(0)])
    tmp_path.chmod(0o500)
    try:
        assert len(journal.read().edits) == 1
        with pytest.raises(UserError, match="can't be written to"):
            journal.append([make(1)])
    finally:
        tmp_path.chmod(0o700)


def test_a_place_that_takes_no_files_is_told() -> None:
    with pytest.raises(UserError, match=r"can't be written to|Choose"):
        Journal(Path("/proc/edits.jsonl")).append([make(0)])


# Appends edits with numbers as their ids.
WRITER = """
import sys
from pathlib import Path
from whycam.mend.edits import make_edit
from whycam.mend.journal import Journal
journal, name, count = Journal(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
for number in range(count):
    edit = make_edit("label", id=f"{name}-{number}", photo="a" * 32, label="x" * (number % 200 + 1))
    journal.append([edit])
"""


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(journal_file.__file__).parents[2])}


def test_two_processes_write_beside_each_other(tmp_path: Path) -> None:
    path = tmp_path / "edits.jsonl"
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*command, name, "60"], env=ENVIRONMENT) for name in ("ann", "bob")]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    found = Journal(path).read()
    assert found.notes == ()
    for name in ("ann", "bob"):
        ids = [edit.id for edit in found.edits if edit.id.startswith(name)]
        assert ids == [f"{name}-{number}" for number in range(60)]


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_what_was_said_to_be_written_is_there_after_a_kill(tmp_path: Path) -> None:
    """Ten processes, one after the other, are killed while they append to one journal."""
    path = tmp_path / "edits.jsonl"
    command = [sys.executable, "-c", KILL_APPENDING, str(path), "10", "0"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=True, timeout=100)
    promised = json.loads(done.stdout)
    found = Journal(path).read()
    assert len(promised) >= 30
    assert set(promised) <= {edit.id for edit in found.edits}
    assert all("cut off" in note for note in found.notes)


settings.register_profile("few", max_examples=40, deadline=None)
settings.load_profile("few")
