"""Messages that a person can act on."""

from __future__ import annotations

import ast
import errno
import re
import tarfile
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import get_args

import pytest
from typer.main import get_command

import whycam
from conftest import Run
from whycam.cli import app
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


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--format=bmp", "--format is 'bmp'; expected one of jpg, png, webp. Change it, or leave --format out: the "),
        ("--device=cda", "--device is 'cda'; expected one of auto, cpu, cuda, mps. Change it"),
        ("--alpha=3", "--alpha is 3; expected a number from 0 to 1. Change it, or leave --alpha out: the def"),
        ("--alpha=nan", "--alpha is nan; expected a number from 0 to 1."),
        ("--alpha=", "--alpha is ''; expected a number from 0 to 1."),
        ("--batch-size=0", "--batch-size is 0; expected a whole number of at least 1. Change it, or leave"),
        ("--batch-size=x", "--batch-size is 'x'; expected a whole number of at least 1."),
        ("--batch-size=1.5", "--batch-size is 1.5; expected a whole number of at least 1."),
        ("--batch-size=1e3", "--batch-size is 1e3; expected a whole number of at least 1."),
        ("--image-size=9", "--image-size is 9; expected a whole number from 16 to 4096. Change it, or leave --image-"),
        ("--workers=x", "--workers is 'x'; expected a number of copies, such as 2, or MIN:MAX, such as 1:4. Change it"),
    ],
)
def test_a_wrong_option_is_told_in_one_voice(call_whycam: Run, words: str, told: str) -> None:
    done = call_whycam("explain", "MODEL", "photo.jpg", "-o", "out", words)
    assert done.returncode == 2
    assert done.stderr.startswith(f"whycam: {told}")
    assert "Usage" not in done.stderr


def iter_wrong_numbers() -> Iterator[tuple[str, str, str]]:
    wrong = cycle(("x", "-inf", "-1000000"))
    for name, command in get_command(app).commands.items():
        for field, about in getattr(command.callback, "fields", {}).items():
            if {int, float} & {about.annotation, *get_args(about.annotation)}:
                yield name, f"--{field.replace('_', '-')}", next(wrong)


def test_each_number_of_each_command_is_told_alike(call_whycam: Run) -> None:
    """What is wrong is told before anything is looked for, whoever finds it: typer, pydantic or a range."""
    tried = list(iter_wrong_numbers())
    assert len({name for name, *_ in tried}) > 10
    for name, option, given in tried:
        params = get_command(app).commands[name].params
        words = [one.name for one in params if one.param_type_name == "argument"]
        out = ["-o", "out"] if any("--out" in one.opts for one in params) else []
        done = call_whycam(name, *words, *out, f"{option}={given}")
        assert done.returncode == 2
        shown = repr(given) if given == "x" else given
        told = rf"whycam: {option} is {shown}; expected a (whole )?number.* Change it, or leave"
        assert re.match(told, done.stderr), (name, done.stderr)
