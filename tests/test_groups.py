"""Groups of photos: how the CSV is read, and what is said of each group and of the worst."""

from __future__ import annotations

from pathlib import Path

import pytest

from whycam.data.annotations import read_boxes
from whycam.data.groups import read_groups
from whycam.data.listed import read_labels
from whycam.errors import UserError
from whycam.metrics.groups import score_groups, tell_groups


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    found = [tmp_path / "photos" / name for name in ("train/a/1.jpg", "train/a/2.jpg", "val/b/1.jpg", "val/b/2.jpg")]
    for path in found:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return found


def write(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / "groups.csv"
    path.write_text(text, encoding=encoding)
    return path


def test_paths_below_the_folder_whole_ones_and_below_the_csv(photos: list[Path], tmp_path: Path) -> None:
    text = f"file,group\ntrain/a/1.jpg,logo\n{photos[1]},none\nphotos/val/b/1.jpg, logo \n"
    found = read_groups(write(tmp_path, text, "utf-8-sig"), photos, tmp_path / "photos")
    assert found == {photos[0]: "logo", photos[1]: "none", photos[2]: "logo"}


def test_rows_of_photos_that_are_not_meant_are_passed_over(photos: list[Path], tmp_path: Path) -> None:
    text = "group,path\nx,train/a/1.jpg\ny,train/a/2.jpg\nx,val/b/1.jpg\ny,val/b/2.jpg\n"
    assert read_groups(write(tmp_path, text), photos[2:], tmp_path / "photos") == {photos[2]: "x", photos[3]: "y"}


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("file,group\na.jpg,x\n".encode("utf-16"), ("is in UTF-16", "file,group", "iconv -f UTF-16 -t UTF-8")),
        ("file,group\na.jpg,x\n".encode("utf-16-be"), ("is in UTF-16",)),
        ("file,group\na.jpg,bl\xfcte\n".encode("cp1252"), ("not in UTF-8 (byte 0xfc", "iconv -f WINDOWS-1252")),
        (b"file;group\na.jpg;x\n", ("';' between its columns (file, group)", "commas", "sep=';'")),
        (b"file\tgroup\na.jpg\tx\n", ("a tab between its columns",)),
    ],
)
def test_other_letters_and_separators_are_told_with_how_to_mend_them(
    content: bytes, parts: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(content)
    (tmp_path / "a.jpg").touch()
    for read in (lambda: read_groups(path, [tmp_path / "a.jpg"], tmp_path), lambda: read_labels(path)):
        with pytest.raises(UserError) as caught:
            read()
        for part in parts:
            assert part in str(caught.value) or (part == "file,group" and "path,label" in str(caught.value))
    with pytest.raises(UserError, match="expected a CSV of boxes"):
        read_boxes(path)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ("has the columns none", "file,group")),
        ("file,label\na,b\n", ("columns file, label", "Rename")),
        ("file,group\n", ("has no rows", "Add a line")),
        ("file,group\ntrain/a/1.jpg,\n", ("Line 2", "lacks its photo or its group")),
        ("file,group\ntrain/a/1.jpg,x\ntrain/a/9.jpg,y\n", ("names 1 photos that are not there", "line 3", "9.jpg")),
        ("file,group\ntrain/a/1.jpg,x\ntrain/a/1.jpg,y\n", ("Line 3", "'y'", "'x'", "one group a photo")),
        ("file,group\ntrain/a/1.jpg,x\nval/b/1.jpg,x\n", ("one group, 'x', for all 2 photos", "two or more")),
        ("file,group\n{}/groups.csv,x\n", ("names none of the 4 photos", "Check the folder")),
    ],
)
def test_what_is_wrong_with_a_csv_is_told(
    text: str, parts: tuple[str, ...], photos: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        read_groups(write(tmp_path, text.format(tmp_path)), photos, tmp_path / "photos")
    for part in parts:
        assert part in str(caught.value)


def test_no_csv_is_told(photos: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be read"):
        read_groups(tmp_path / "none.csv", photos, tmp_path)


def test_groups_are_a_class_and_a_word_and_the_worst_is_first() -> None:
    classes = ["a"] * 6 + ["b"] * 4 + ["b"]
    groups = ["x", "x", "x", "x", "y", "y", "x", "x", "y", "y", None]
    found = score_groups(classes, groups, [1, 1, 1, 0, 1, 0, 1, 1, 1, 0, 0])
    told = [(one["class"], one["group"], one["right"], one["photos"], one["accuracy"]) for one in found["each"]]
    assert told == [("a", "y", 1, 2, 0.5), ("b", "y", 1, 2, 0.5), ("a", "x", 3, 4, 0.75), ("b", "x", 2, 2, 1.0)]
    assert found["worst"] == found["each"][0]
    # Wilson by hand: p = 3/4, n = 4, z = 1.96.
    assert (found["each"][2]["low"], found["each"][2]["high"]) == pytest.approx((0.3006, 0.9544), abs=1e-3)
    assert "worst group, a / y: accuracy 0.500 on 2 photos" in tell_groups(found)
    assert "a / x 0.750 on 4" in tell_groups(found)


def test_without_groups_nothing_is_said() -> None:
    assert score_groups(["a"], [None], [True]) == {}
    assert tell_groups({}) == ""
