"""A folder of photos to samples: the split, and every folder that is refused, with its message."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from whycam.data.folder import PhotoFolder, count_labels, fingerprint, read_folder
from whycam.errors import UserError


def make_photos(root: Path, **counts: int) -> Path:
    """Files of those names; nothing here is decoded."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            (root / name / f"{index:03}.jpg").write_bytes(f"{name}{index}".encode())
    return root


def names_of(folder: PhotoFolder, split: str) -> list[str]:
    return [s.path.relative_to(folder.root).as_posix() for s in getattr(folder, split)]


def check_refused(root: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        read_folder(root)
    for word in words:
        assert word in str(caught.value)


def test_labels_follow_the_sorted_class_names(tmp_path: Path) -> None:
    folder = read_folder(make_photos(tmp_path, tulip=5, daisy=5, rose=5))
    assert folder.class_names == ("daisy", "rose", "tulip")
    assert all(folder.class_names[s.label] == s.path.parent.name for s in folder.samples)


def test_numbers_in_class_names_are_ordered_by_their_value(tmp_path: Path) -> None:
    names = ("0", "1", "2", "9", "10", "11", "Rose", "class 2", "class 02", "class 10", "rose 1", "²")
    for split in ("train", "val"):
        make_photos(tmp_path / "split" / split, **dict.fromkeys(names, 2))
        make_photos(tmp_path / "split" / split, **{"v10": 0, "v9": 0})
    make_photos(tmp_path / "whole", **dict.fromkeys(names, 2))
    for folder in (read_folder(tmp_path / "split"), read_folder(tmp_path / "whole")):
        assert folder.class_names == ("0", "1", "2", "9", "10", "11", "Rose", "class 02", "class 2", *names[9:])
        assert all(folder.class_names[s.label] == s.path.parent.name for s in folder.samples)
    assert read_folder(tmp_path / "split").left_out == ("v9", "v10")


def test_split_is_stratified_and_complete(tmp_path: Path) -> None:
    folder = read_folder(make_photos(tmp_path, a=20, b=10, c=5), val_fraction=0.2)
    assert folder.is_split_by_us
    assert count_labels(folder.val, 3) == [4, 2, 1]
    assert count_labels(folder.train, 3) == [16, 8, 4]
    assert len({s.path for s in folder.samples}) == 35


@pytest.mark.parametrize(("fraction", "held"), [(0.01, 1), (0.99, 1)])
def test_both_splits_have_each_class(tmp_path: Path, fraction: float, held: int) -> None:
    folder = read_folder(make_photos(tmp_path, a=2, b=2), val_fraction=fraction)
    assert count_labels(folder.val, 2) == [held, held]
    assert count_labels(folder.train, 2) == [1, 1]


def test_split_follows_the_seed(tmp_path: Path) -> None:
    root = make_photos(tmp_path, a=40, b=40)
    first, again, other = (names_of(read_folder(root, seed=seed), "val") for seed in (1, 1, 2))
    assert first == again
    assert first != other
    # Two classes of the same size must not be drawn alike.
    assert [n[2:] for n in first if n[0] == "a"] != [n[2:] for n in first if n[0] == "b"]


def test_split_ignores_the_order_of_the_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_photos(tmp_path, a=9, b=9, c=9)
    straight = read_folder(root)
    real_walk, real_iterdir = os.walk, Path.iterdir

    def walk(*words: Any, **named: Any) -> Iterator[tuple[str, list[str], list[str]]]:
        for parent, folders, names in real_walk(*words, **named):
            folders.sort(reverse=True)
            yield parent, folders, sorted(names, reverse=True)

    monkeypatch.setattr(os, "walk", walk)
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(sorted(real_iterdir(self), reverse=True)))
    assert read_folder(root) == straight


def test_split_of_a_moved_folder_is_the_same(tmp_path: Path) -> None:
    one, two = (read_folder(make_photos(tmp_path / name, a=9, b=9)) for name in ("one", "two"))
    assert names_of(one, "val") == names_of(two, "val")


@pytest.mark.parametrize("val", ["val", "valid", "validation", "test"])
def test_given_splits_are_kept(tmp_path: Path, val: str) -> None:
    make_photos(tmp_path / "train", a=3, b=4)
    make_photos(tmp_path / val, a=1, b=2)
    folder = read_folder(tmp_path)
    assert not folder.is_split_by_us
    assert Counter(s.path.parent.parent.name for s in folder.samples) == {"train": 7, val: 3}
    assert {s.path.parent.parent.name for s in folder.val} == {val}


def test_train_without_val_is_split(tmp_path: Path) -> None:
    make_photos(tmp_path / "train", a=5, b=5)
    folder = read_folder(tmp_path)
    assert folder.class_names == ("a", "b")
    assert folder.is_split_by_us


def test_uppercase_suffixes_and_nested_folders_count(tmp_path: Path) -> None:
    make_photos(tmp_path, a=2, b=2)
    (tmp_path / "a" / "IMG_1.JPG").write_bytes(b"x")
    (tmp_path / "a" / "trip" / "day 2").mkdir(parents=True)
    (tmp_path / "a" / "trip" / "day 2" / "b.PnG").write_bytes(b"y")
    assert count_labels(read_folder(tmp_path).samples, 2) == [4, 2]


def test_hidden_and_foreign_files_do_not_count(tmp_path: Path) -> None:
    make_photos(tmp_path, a=2, b=2)
    (tmp_path / "README.txt").write_text("notes")
    (tmp_path / ".DS_Store").write_text("")
    (tmp_path / ".thumb.jpg").write_text("")
    (tmp_path / "a" / "._000.jpg").write_text("")
    (tmp_path / "a" / "notes.txt").write_text("")
    make_photos(tmp_path, **{".git": 2, "__MACOSX": 2})
    make_photos(tmp_path / "b", **{".cache": 2, "__MACOSX": 2})
    (tmp_path / "b" / "folder.jpg").mkdir()
    folder = read_folder(tmp_path)
    assert folder.class_names == ("a", "b")
    assert len(folder.samples) == 4


def test_missing_folder(tmp_path: Path) -> None:
    check_refused(tmp_path / "none", "Found nothing at", str(tmp_path / "none"), "Check the path")


def test_file_instead_of_folder(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    check_refused(tmp_path / "a.jpg", "Found a file at", "one sub-folder of photos for each class")


def test_empty_folder(tmp_path: Path) -> None:
    check_refused(tmp_path, "Found no photos in", str(tmp_path), "CLASS/photo.jpg")


def test_class_folders_without_photos(tmp_path: Path) -> None:
    check_refused(make_photos(tmp_path, a=0, b=0), "Found no photos in", "2 folders in it")


def test_one_class(tmp_path: Path) -> None:
    check_refused(make_photos(tmp_path, only=4), "Found one class folder, 'only'", "at least two")
    check_refused(make_photos(tmp_path, empty=0), "Found one class folder, 'only'", "of 2 folders", "at least two")


def test_photos_beside_the_class_folders(tmp_path: Path) -> None:
    make_photos(tmp_path, a=2, b=2)
    for name in ("x.jpg", "y.JPG"):
        (tmp_path / name).write_bytes(b"x")
    check_refused(tmp_path, "Found 2 photos lying directly in", "'x.jpg'", "Move each into the folder of its class")


def test_photos_without_class_folders(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"x")
    check_refused(tmp_path, "Found 1 photos lying directly in", "beside 0 folders")


def test_names_that_differ_in_case_only(tmp_path: Path) -> None:
    make_photos(tmp_path, Rose=2, rose=2, tulip=2)
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("this disk ignores case, so the two folders are one")
    check_refused(tmp_path, "'Rose' and 'rose'", "differ in case only", "Join or rename")


def test_fewer_than_two_photos(tmp_path: Path) -> None:
    check_refused(make_photos(tmp_path, a=3, b=1, c=1, d=2), "fewer than 2 photos", "'b': 1, 'c': 1", "Add photos")
    folder = read_folder(tmp_path, allow_empty=True)
    assert folder.class_names == ("a", "d")
    assert folder.left_out == ("b", "c")


@pytest.mark.parametrize("splits", [("",), ("train", "val")])
def test_empty_class_folders_are_left_out(tmp_path: Path, splits: tuple[str, ...]) -> None:
    for split in splits:
        make_photos(tmp_path / split, a=2, b=0, c=2)
        (tmp_path / split / "d").mkdir()
    folder = read_folder(tmp_path)
    assert folder.class_names == ("a", "c")
    assert folder.left_out == ("b", "d")
    assert {folder.class_names[s.label] for s in folder.samples} == {s.path.parent.name for s in folder.samples}


def test_a_folder_that_is_empty_in_one_split_alone_and_missing_in_the_other_is_left_out(tmp_path: Path) -> None:
    make_photos(tmp_path / "train", a=2, b=2, c=0)
    make_photos(tmp_path / "val", a=2, b=2, d=0)
    assert read_folder(tmp_path).class_names == ("a", "b")


def test_splits_with_different_classes(tmp_path: Path) -> None:
    make_photos(tmp_path / "train", a=2, b=2)
    make_photos(tmp_path / "val", a=2, c=2)
    check_refused(tmp_path, "different classes", "only in the first: ['b']", "only in the second: ['c']")


def test_val_without_photos_of_a_class(tmp_path: Path) -> None:
    make_photos(tmp_path / "train", a=2, b=2)
    make_photos(tmp_path / "val", a=2, b=0)
    check_refused(tmp_path, "Found no photos of 'b'", str(tmp_path / "val"))


def test_fingerprint_changes_with_content_name_and_label(tmp_path: Path) -> None:
    folder = read_folder(make_photos(tmp_path, a=2, b=2))
    hashes = {s.path: s.path.read_text() for s in folder.samples}
    word = fingerprint(folder.root, folder.samples, hashes)
    assert word == fingerprint(folder.root, folder.samples[::-1], hashes)
    assert word != fingerprint(folder.root, folder.samples, hashes | {folder.samples[0].path: "other"})
    assert word != fingerprint(folder.root, folder.samples[1:], hashes)


def test_the_order_of_the_classes_may_be_given(tmp_path: Path) -> None:
    root = make_photos(tmp_path, b=3, a=3, c=3)
    found = read_folder(root, order=["c", "a", "b"])
    assert found.class_names == ("c", "a", "b")
    assert {sample.label for sample in found.samples if "c" in sample.path.parts} == {0}
    with pytest.raises(UserError, match="'d' has no folder with photos"):
        read_folder(root, order=["c", "a", "b", "d"])
    with pytest.raises(UserError, match="the folder 'b' has no line"):
        read_folder(root, order=["c", "a"])
