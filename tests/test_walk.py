"""Which photos a folder holds: one walker for all commands."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from whycam.data.annotations import read_photos
from whycam.data.folder import read_folder
from whycam.data.images import ImageError, load_image
from whycam.data.sources import find_sources
from whycam.data.walk import find_images, walk_photos
from whycam.errors import UserError

SYSTEM = ("@eaDir", "__MACOSX", ".ipynb_checkpoints", "@Recycle", "#recycle", "$RECYCLE.BIN", "lost+found")


def touch(root: Path, *names: str) -> list[Path]:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return [root / name for name in names]


@pytest.fixture
def lock_folder(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """A folder that can't be listed, also for root."""

    def lock(folder: Path) -> None:
        real = os.scandir

        def scandir(path: str | Path = ".") -> object:
            if os.path.realpath(path) == os.path.realpath(folder):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        monkeypatch.setattr(os, "scandir", scandir)

    return lock


def test_find_images_walks_sorts_and_skips(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.JPG", "b/1.png", "a.webp", "b/notes.txt", ".hidden/x.jpg", "b/._1.png", "__MACOSX/b/1.png")
    expected = [tmp_path / name for name in ("a.webp", "b/1.png", "b/2.JPG")]
    assert find_images([tmp_path]) == expected
    assert find_images(str(tmp_path)) == expected
    assert find_images([tmp_path / "b/2.JPG", tmp_path, tmp_path / "b/../a.webp"]) == [expected[2], *expected[:2]]
    assert find_images([tmp_path / "b/notes.txt"]) == [tmp_path / "b/notes.txt"]
    assert find_images([tmp_path / ".hidden"]) == [tmp_path / ".hidden/x.jpg"]


@pytest.mark.parametrize("name", SYSTEM)
@pytest.mark.parametrize("depth", ["", "a/", "a/b/"])
def test_system_folders_are_left_out_at_every_depth_by_all(tmp_path: Path, name: str, depth: str) -> None:
    wanted = touch(tmp_path, "a/1.jpg", "a/b/2.jpg", "a/3.jpg", "c/4.jpg", "c/5.jpg")
    touch(tmp_path, f"{depth}{name}/0.jpg", f"{depth}{name}/deep/0.jpg")
    assert set(find_images([tmp_path])) == set(wanted)
    assert {Path(source.path) for source in find_sources([str(tmp_path)])} == set(wanted)
    assert {Path(source.path.removeprefix("file://")) for source in find_sources([f"file://{tmp_path}"])} == set(wanted)
    folder = read_folder(tmp_path)
    assert folder.class_names == ("a", "c")
    assert {sample.path for sample in folder.samples} == set(wanted)
    assert {one.photo for one in read_photos(tmp_path)} == set(wanted)


def test_links_are_followed_once_and_loops_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "real/1.png")
    (tmp_path / "real/loop").symlink_to(tmp_path / "real")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/class").symlink_to(tmp_path / "real")
    with caplog.at_level(logging.WARNING, "whycam.data"):
        assert find_images([tmp_path / "photos"]) == [tmp_path / "photos/class/1.png"]
    assert [record.getMessage() for record in caplog.records] == [
        f"Left out the link '{tmp_path}/photos/class/loop': the folder that it leads to is searched already"
    ]


def test_a_real_folder_comes_before_the_link_to_it(tmp_path: Path) -> None:
    photos = touch(tmp_path, "real/1.png", "real/deep/2.png")
    (tmp_path / "alias").symlink_to(tmp_path / "real/deep")
    assert walk_photos(tmp_path) == sorted(photos)


def test_a_link_to_a_folder_above_lists_no_photo_twice(tmp_path: Path) -> None:
    inside, beside = touch(tmp_path, "top/photos/1.png", "top/beside/2.png")
    (tmp_path / "top/photos/up").symlink_to(tmp_path / "top")
    assert walk_photos(tmp_path / "top/photos") == [inside, tmp_path / "top/photos/up/beside/2.png"]
    assert beside.is_file()


def test_training_and_explaining_see_the_same_photos_behind_a_link(tmp_path: Path) -> None:
    touch(tmp_path, *(f"elsewhere/{i}.jpg" for i in range(4)))
    touch(tmp_path / "photos", *(f"{name}/{i}.jpg" for name in ("cat", "dog") for i in range(4)))
    (tmp_path / "photos/dog/more").symlink_to(tmp_path / "elsewhere")
    seen = {sample.path for sample in read_folder(tmp_path / "photos").samples}
    assert len(seen) == 12
    assert seen == set(find_images([tmp_path / "photos"]))
    assert seen == {Path(source.path) for source in find_sources([str(tmp_path / "photos")])}
    assert seen == {one.photo for one in read_photos(tmp_path / "photos")}


def test_a_sub_folder_that_cannot_be_read_is_recorded_and_the_rest_done(
    tmp_path: Path, lock_folder: Callable[[Path], None]
) -> None:
    touch(tmp_path, "a/1.jpg", "a/closed/2.jpg", "b/3.jpg")
    lock_folder(tmp_path / "a/closed")
    assert find_images([tmp_path]) == [tmp_path / "a/1.jpg", tmp_path / "a/closed", tmp_path / "b/3.jpg"]
    with pytest.raises(ImageError, match=r"'.*/a/closed' may not be read.*chmod"):
        load_image(tmp_path / "a/closed")


def test_a_folder_that_was_named_and_cannot_be_read_is_refused(
    tmp_path: Path, lock_folder: Callable[[Path], None]
) -> None:
    touch(tmp_path, "a/1.jpg")
    lock_folder(tmp_path)
    with pytest.raises(UserError, match=r"cannot be read: Permission denied"):
        find_images([tmp_path])


def test_a_link_to_nowhere_is_a_photo_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to(tmp_path / "gone.jpg")
    assert find_images([tmp_path]) == [tmp_path / "a.jpg"]
    assert find_images([tmp_path / "a.jpg"]) == [tmp_path / "a.jpg"]
    with pytest.raises(ImageError, match="No file"):
        load_image(tmp_path / "a.jpg")


def test_find_images_without_result(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No file or folder '.*nowhere'"):
        find_images([tmp_path / "nowhere"])
    with pytest.raises(UserError, match=r"No pictures in '.*"):
        find_images([tmp_path])
    with pytest.raises(UserError, match="an empty list"):
        find_images([])


def test_a_folder_named_by_hand_as_a_photo_is_told(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"is a folder; expected a picture"):
        load_image(tmp_path)
