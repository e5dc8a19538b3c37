"""What is found wrong with a folder before any time is spent on it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from whycam.data.check import drop_unreadable, find_same_content, hash_photos
from whycam.data.folder import PhotoFolder, count_labels, read_folder
from whycam.errors import UserError


@pytest.fixture
def root(shapes_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shapes_folder, tmp_path / "circle" / "photos"))


def check(root: Path) -> tuple[PhotoFolder, dict[Path, str], dict[Path, str]]:
    folder = read_folder(root)
    return folder, *hash_photos([s.path for s in folder.samples])


def test_equal_bytes_have_equal_hashes(root: Path) -> None:
    shutil.copy(root / "circle" / "00.jpg", root / "circle" / "copy.jpg")
    folder, hashes, unreadable = check(root)
    assert not unreadable
    assert hashes[root / "circle" / "00.jpg"] == hashes[root / "circle" / "copy.jpg"]
    assert len(set(hashes.values())) == len(folder.samples) - 1


def test_empty_and_vanished_files_are_named_with_their_reason(root: Path) -> None:
    (root / "circle" / "00.jpg").write_bytes(b"")
    folder = read_folder(root)
    (root / "square" / "01.jpg").unlink()
    hashes, unreadable = hash_photos([s.path for s in folder.samples])
    assert unreadable[root / "circle" / "00.jpg"] == "the file is empty (0 bytes)"
    assert "No file" in unreadable[root / "square" / "01.jpg"]
    assert len(hashes) == len(folder.samples) - 2


def test_unreadable_photos_are_left_out(root: Path) -> None:
    (root / "circle" / "00.jpg").write_bytes(b"")
    folder, _, unreadable = check(root)
    left = drop_unreadable(folder, unreadable)
    assert {s.path for s in folder.samples} - {s.path for s in left.samples} == set(unreadable)
    assert left.class_names == folder.class_names
    assert drop_unreadable(folder, {}) is folder


def test_a_class_that_loses_all_is_refused(root: Path) -> None:
    for path in (root / "square").iterdir():
        path.write_bytes(b"")
    folder, _, unreadable = check(root)
    with pytest.raises(
        UserError, match=r"Class 'square' has 0 readable photos left in '.*' \(expected at least 2\)"
    ) as caught:
        drop_unreadable(folder, unreadable)
    assert "the file is empty" in str(caught.value)
    assert "give --allow-empty to train without such classes" in str(caught.value)
    left = drop_unreadable(folder, unreadable, allow_empty=True)
    assert left.class_names == ("circle", "triangle")
    assert left.left_out == ("square",)
    assert {left.class_names[s.label] for s in left.samples} == {"circle", "triangle"}
    assert all(left.class_names[s.label] == s.path.parent.name for s in left.samples)


def test_the_example_is_of_the_class_itself(root: Path) -> None:
    """The folder lies below one that is called like a class."""
    for path in [*(root / "circle").iterdir(), root / "square" / "00.jpg"]:
        path.write_bytes(b"")
    folder = read_folder(root)
    unreadable = {root / "square" / "00.jpg": "first", **dict.fromkeys((root / "circle").iterdir(), "second")}
    with pytest.raises(UserError, match=r"Class 'circle'.*: second\."):
        drop_unreadable(folder, unreadable)


def test_a_class_that_loses_its_held_out_photos_is_split_anew(root: Path) -> None:
    folder = read_folder(root)
    lost = {s.path: "damaged" for s in folder.val if folder.class_names[s.label] == "triangle"}
    left = drop_unreadable(folder, lost)
    assert count_labels(left.val, 3) == [2, 2, 2]
    assert {s.path for s in left.samples} == {s.path for s in folder.samples} - set(lost)
    whole = {name: [s.path for s in folder.val if s.path.parent.name == name] for name in folder.class_names}
    for name in ("circle", "square"):
        assert [s.path for s in left.val if s.path.parent.name == name] == whole[name]


def test_a_given_split_is_not_mixed_to_make_good_for_a_loss(root: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        shutil.copytree(root, tmp_path / "given" / split)
    folder = read_folder(tmp_path / "given")
    lost = {s.path: "damaged" for s in folder.val if folder.class_names[s.label] == "triangle"}
    with pytest.raises(UserError, match=r"'triangle' has 12 readable photos to train on and 0 held out"):
        drop_unreadable(folder, lost)
    left = drop_unreadable(folder, lost, allow_empty=True)
    assert left.class_names == ("circle", "square")
    assert {s.path.parent.parent.name for s in left.val} == {"val"}


def test_same_content_in_both_splits_and_under_two_classes(root: Path) -> None:
    folder = read_folder(root)
    train = next(s.path for s in folder.train if s.path.parent.name == "circle")
    val = next(s.path for s in folder.val if s.path.parent.name == "circle")
    shutil.copy(train, val)
    other = next(s.path for s in folder.train if s.path.parent.name == "square")
    twin = next(s.path for s in folder.train if s.path.parent.name == "triangle")
    shutil.copy(other, twin)
    folder, hashes, _ = check(root)
    in_both, mislabelled = find_same_content(folder, hashes)
    assert [set(group) for group in in_both] == [{train, val}]
    assert [set(group) for group in mislabelled] == [{other, twin}]


def test_a_clean_folder_has_no_findings(root: Path) -> None:
    folder, hashes, _ = check(root)
    assert find_same_content(folder, hashes) == ([], [])
