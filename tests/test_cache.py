"""What lies in the cache is believed only where it is what was put there; else it is made anew, with one line."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from whycam import runs
from whycam.errors import UserError
from whycam.model.cache import CacheError, is_cached, open_cached, open_or_make, prune_cached

HOLD_LOCK = """
import sys
from pathlib import Path
from whycam.runs import hold_lock
with hold_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


class Shelf:
    """A file in a cache, and how often it was made."""

    def __init__(self, folder: Path) -> None:
        self.path, self.made = folder / "abc.txt", 0

    def make(self) -> dict[str, Any]:
        self.made += 1
        self.path.write_text("content " * 1000)
        return {"made of": "words"}

    @staticmethod
    def read(path: Path, about: Mapping[str, Any]) -> str:
        text = path.read_text()
        if "useless" in text:
            raise UserError("it is of no use")
        return f"{about['made of']}: {text[:7]}"

    def open(self) -> tuple[str, bool]:
        return open_or_make(self.path, self.make, self.read)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "cache")


def test_the_second_time_it_is_there(shelf: Shelf) -> None:
    assert not is_cached(shelf.path)
    assert open_cached(shelf.path, shelf.read) is None
    assert shelf.open() == ("words: content", False)
    assert shelf.open() == ("words: content", True)
    assert open_cached(shelf.path, shelf.read) == "words: content"
    assert shelf.made == 1
    assert sorted(path.name for path in shelf.path.parent.iterdir()) == ["abc.json", "abc.txt"]


@pytest.mark.parametrize("name", ["abc.txt", "abc.json"])
@pytest.mark.parametrize("is_made", [True, False])
def test_a_folder_in_the_place_of_a_file_is_thrown_away(
    shelf: Shelf, name: str, is_made: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if is_made:
        shelf.open()
        (shelf.path.parent / name).unlink()
    (shelf.path.parent / name / "inner").mkdir(parents=True)
    with caplog.at_level(logging.WARNING, "whycam.cache"):
        assert shelf.open() == ("words: content", False)
    assert len(caplog.records) == (is_made or name == "abc.txt")
    assert shelf.open() == ("words: content", True)


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def put_another(shelf: Shelf) -> None:
    other = Shelf(shelf.path.parent)
    other.path = shelf.path.with_name("other.txt")
    other.open()
    for suffix in (".txt", ".json"):
        shutil.copyfile(other.path.with_suffix(suffix), shelf.path.with_suffix(suffix))


DAMAGE: dict[str, Callable[[Shelf], object]] = {
    "a bit in the middle": lambda shelf: flip(shelf.path, 4000),
    "cut": lambda shelf: os.truncate(shelf.path, 4000),
    "empty": lambda shelf: os.truncate(shelf.path, 0),
    "longer": lambda shelf: shelf.path.write_text(shelf.path.read_text() + "x"),
    "another's, with its description": put_another,
    "a word of the description": lambda shelf: shelf.path.with_suffix(".json").write_text(
        shelf.path.with_suffix(".json").read_text().replace("words", "wards")
    ),
    "no description": lambda shelf: shelf.path.with_suffix(".json").unlink(),
    **{
        f"description {text[:6]!r}": lambda shelf, text=text: shelf.path.with_suffix(".json").write_bytes(text)
        for text in (
            b"",
            b"{",
            b"[]",
            b"null",
            b"3",
            b"{}",
            b'{"sha256": 3, "key": "abc"}',
            b"\xff\xfe\x00",
            b"[" * 99_999,
        )
    },
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_does_not_fit_is_made_anew_with_one_line(
    shelf: Shelf, damage: Callable[[Shelf], object], caplog: pytest.LogCaptureFixture
) -> None:
    shelf.open()
    damage(shelf)
    assert open_cached(shelf.path, shelf.read) is None
    assert not caplog.records
    assert shelf.open() == ("words: content", False)
    assert [str(shelf.path) in record.message for record in caplog.records] == [True]
    assert "made anew" in caplog.text
    assert shelf.open() == ("words: content", True)


def test_a_file_that_is_what_was_written_and_yet_of_no_use(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    shelf.make, make = lambda: [make(), shelf.path.write_text("useless")][0], shelf.make  # type: ignore[method-assign,assignment]
    with pytest.raises(UserError, match="of no use"):
        shelf.open()
    shelf.make = make  # type: ignore[method-assign]
    assert shelf.open() == ("words: content", False)
    assert "made anew: it is of no use" in caplog.text


def test_a_maker_that_fails_leaves_nothing_that_is_believed(shelf: Shelf) -> None:
    def fail() -> dict[str, Any]:
        shelf.path.write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        open_or_make(shelf.path, fail, shelf.read)
    assert shelf.open() == ("words: content", False)


def test_a_cache_that_cant_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    shelf = Shelf(tmp_path / "file" / "cache")
    with pytest.raises(
        CacheError, match=r"The cache '.*file/cache' can't be written to: Not a directory.*WHYCAM_CACHE"
    ):
        shelf.open()
    assert not is_cached(shelf.path)


def test_a_cache_that_may_only_be_read_is_read(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.open()

    def refuse(*_words: object, **_named: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    for call in ("touch", "mkdir", "unlink"):
        monkeypatch.setattr(Path, call, refuse)
    assert shelf.open() == ("words: content", True)
    flip(shelf.path, 4000)
    with pytest.raises(CacheError, match="can't be written to: Read-only file system"):
        shelf.open()


def test_a_finished_file_is_opened_while_another_process_has_the_lock(shelf: Shelf) -> None:
    shelf.open()
    with runs.hold_lock(shelf.path):
        assert shelf.open() == ("words: content", True)


def test_who_waits_says_what_for_and_then_finds_it_made(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runs, "_PATIENCE_S", 0.1)
    shelf.open()
    content = {path: path.read_bytes() for path in shelf.path.parent.iterdir()}
    for path in content:
        path.unlink()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(shelf.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert [path.parent for path in shelf.path.parent.glob(".*.lock")] == [shelf.path.parent]
        found: list[tuple[str, bool]] = []
        waiting = threading.Thread(target=lambda: found.append(shelf.open()))
        waiting.start()
        end = time.monotonic() + 20
        while not caplog.records and time.monotonic() < end:
            time.sleep(0.02)
        for path, text in content.items():
            path.write_bytes(text)
        other.communicate("")
        waiting.join(20)
    assert found == [("words: content", True)]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"Waiting for another process, which is making '{shelf.path}'" in caplog.text
    assert not list(shelf.path.parent.glob(".*.lock"))


def test_the_oldest_go_first_with_their_descriptions(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "middle", "old")):
        for suffix in (".txt", ".json"):
            (tmp_path / f"{name}{suffix}").write_text("x" * 10)
            os.utime(tmp_path / f"{name}{suffix}", (1e9 - age, 1e9 - age))
    prune_cached(tmp_path / "new.txt", 25)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["middle.json", "middle.txt", "new.json", "new.txt"]
    prune_cached(tmp_path / "new.txt", 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.json", "new.txt"]


def test_the_description_says_what_it_was_made_of(shelf: Shelf) -> None:
    shelf.open()
    about = json.loads(shelf.path.with_suffix(".json").read_text())
    assert sorted(about) == ["key", "made of", "sha256"]
    assert (about["key"], about["made of"]) == ("abc", "words")
