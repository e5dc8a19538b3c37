"""Messages that a person can act on."""

from __future__ import annotations

import ast
import errno
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import whycam
from conftest import Run
from whycam.data.images import content_hash
from whycam.errors import UserError, as_clause, make_disk_error, make_unknown_name, nearest_names

FLOWERS = ["daisy", "dandelion", "roses", "sunflowers", "tulips"]


def test_nearest_names_are_best_first_and_forgive_case() -> None:
    assert nearest_names("Dasiy", FLOWERS) == ["daisy"]
    assert nearest_names("flower", FLOWERS) == ["sunflowers"]
    assert nearest_names("TULIP", FLOWERS)[0] == "tulips"
    assert nearest_names("zzz", FLOWERS) == []
    assert len(nearest_names("name", [f"name{i}" for i in range(9)], count=2)) == 2


def test_an_unknown_name_lists_all_and_the_nearest() -> None:
    error = make_unknown_name("class", "tulip", FLOWERS)
    assert isinstance(error, UserError)
    assert str(error) == f"Unknown class 'tulip'. Available: {', '.join(FLOWERS)}. Did you mean 'tulips'?"


def test_a_long_list_is_cut_with_its_count() -> None:
    text = str(make_unknown_name("class", "zzz", [f"name{i}" for i in range(300)]))
    assert "name7, ... (300 in all)" in text
    assert "name8" not in text
    assert "Did you mean" not in text


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_told_with_the_file(number: int, tmp_path: Path) -> None:
    told = make_disk_error(OSError(number, "no room", str(tmp_path / "a.npy")), tmp_path)
    assert isinstance(told, UserError)
    assert f"No room to write '{tmp_path / 'a.npy'}'" in str(told)
    assert "Free some space" in str(told)


def test_other_errors_are_not_a_full_disk(tmp_path: Path) -> None:
    assert make_disk_error(OSError(errno.EIO, "broken"), tmp_path) is None


def test_a_place_that_is_not_ours_is_told(tmp_path: Path) -> None:
    told = make_disk_error(PermissionError(errno.EACCES, "Permission denied"), tmp_path)
    assert "can't be written to: Permission denied" in str(told)
    assert str(tmp_path) in str(make_disk_error(OSError(errno.ENOSPC, "full"), tmp_path))


def test_a_folder_that_goes_away_while_it_is_written_to_is_told(tmp_path: Path) -> None:
    error = FileNotFoundError(errno.ENOENT, "No such file or directory", str(tmp_path / "gone" / "a.npy"))
    assert f"'{tmp_path / 'gone' / 'a.npy'}' can't be written to: No such file" in str(make_disk_error(error, tmp_path))


def test_disk_errors_name_the_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = make_disk_error(OSError(errno.EROFS, "Read-only file system", ".out.pt.part"), tmp_path)
    assert f"'{tmp_path / '.out.pt.part'}'" in str(told)


def test_a_reason_in_a_sentence_has_no_dot_of_its_own() -> None:
    assert as_clause(ValueError("the header is short. Copy it again.")) == "the header is short. Copy it again"
    assert as_clause("it ends ...") == "it ends "
    assert as_clause(TimeoutError()) == "TimeoutError"


def iter_bare_reasons(source: str) -> Iterator[int]:
    """Lines where a caught error stands as it is in the middle of a text, so that its own last dot would be doubled."""
    handlers = [one for one in ast.walk(ast.parse(source)) if isinstance(one, ast.ExceptHandler) and one.name]
    for handler in handlers:
        for text in (one for one in ast.walk(handler) if isinstance(one, ast.JoinedStr)):
            for part in text.values[:-1]:
                if isinstance(part, ast.FormattedValue) and part.conversion == -1:
                    said = part.value.values if isinstance(part.value, ast.BoolOp) else [part.value]
                    if any(isinstance(one, ast.Name) and one.id == handler.name for one in said):
                        yield part.lineno


SOURCES = sorted(Path(whycam.__file__).parent.rglob("*.py"))


def test_no_message_doubles_the_dot_of_the_error_that_it_tells() -> None:
    bad = "try:\n    1\nexcept OSError as e:\n    raise V(f'{e}. Expected')\n    raise V(f'{e or 1}.')"
    assert list(iter_bare_reasons(bad)) == [4, 5]
    assert len(SOURCES) > 100
    assert not [(path.name, line) for path in SOURCES for line in iter_bare_reasons(path.read_text(encoding="utf-8"))]


def test_what_else_is_hashed_is_not_called_a_photo(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "model.safetensors", tmp_path / ("long" * 99), Path("/dev/null")):
        with pytest.raises(UserError) as raised:
            content_hash(path)
        assert "picture" not in str(raised.value)


def test_a_reason_of_many_lines_is_one_clause() -> None:
    tar = "file could not be opened successfully:\n- method gz: ReadError('not a gzip file')\n- method bz2: ReadError()"
    assert as_clause(tarfile.ReadError(tar)) == "file could not be opened successfully"
    assert as_clause("Missing keys:\n\tweight\n\tbias.\n") == "Missing keys: weight bias"
    assert as_clause(ValueError()) == "ValueError"


def test_a_wrong_option_says_what_was_given_and_nothing_of_its_library(call_whycam: Run) -> None:
    for words, told in (
        (("--format", "bmp"), "Invalid value for '--format': 'bmp' is not one of 'jpg', 'png', 'webp'"),
        (("--alpha", "3"), "Invalid value for '--alpha': '3"),
        (("--batch-size", "0"), "Invalid value for '--batch-size': '0'; input should be greater than or equal to 1"),
        (("--batch-size", "x"), "Invalid value for '--batch-size': 'x'; "),
        (("--workers", "x"), "--workers is 'x'; expected a number of copies, such as 2, or MIN:MAX"),
    ):
        done = call_whycam("explain", "MODEL", "photo.jpg", "-o", "out", *words)
        assert done.returncode == 2
        assert told in done.stderr
        assert "value error" not in done.stderr.lower()
