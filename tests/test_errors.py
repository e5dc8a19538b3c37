"""Messages that a person can act on."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from whycam.errors import UserError, make_disk_error, make_unknown_name, nearest_names

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
