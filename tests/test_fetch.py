"""Public datasets: downloads that resume, archives that are checked, folders that appear whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whycam.data import fetch as module
from whycam.data.fetch import DATASETS, fetch
from whycam.errors import UserError
from whycam.made import LIST

PHOTOS = ["daisy/1.jpg", "daisy/2.jpg", "tulips/3.jpg"]


def make_photo(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def make_archive(path: Path, members: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return path


def make_flowers(folder: Path) -> Path:
    members = {f"flower_photos/{name}": make_photo(seed) for seed, name in enumerate(PHOTOS)}
    return make_archive(folder / "flower_photos.tgz", {**members, "flower_photos/LICENSE.txt": b"CC BY"})


def register(monkeypatch: pytest.MonkeyPatch, name: str, *files: Path, base_url: str | None = None) -> None:
    """Let the dataset `name` expect these files, at `base_url` or at its true addresses."""
    urls = [f"{base_url}/{file.name}" for file in files] if base_url else list(DATASETS[name].downloads)
    digests = [f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files]
    changed = dataclasses.replace(DATASETS[name], downloads=dict(zip(urls, digests, strict=True)))
    monkeypatch.setitem(DATASETS, name, changed)


def list_files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


class Server:
    """A web server for one file; it can break off after some bytes, and can ignore Range."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.ranges: list[str | None] = []
        self.break_after: int | None = None
        self.knows_ranges = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.httpd.server_address[1]}"
        threading.Thread(target=self.httpd.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        self.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.knows_ranges else 0
        if start >= len(self.data):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(self.data)}")
            handler.end_headers()
            return
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(self.data) - start))
        handler.end_headers()
        end = len(self.data) if self.break_after is None else start + self.break_after
        handler.wfile.write(self.data[start:end])


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that holds the flowers' archive, from which `fetch("flowers", ...)` downloads."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    archive = make_flowers(tmp_path)
    running = Server(archive.read_bytes())
    register(monkeypatch, "flowers", archive, base_url=running.url)
    archive.unlink()
    yield running
    running.httpd.shutdown()
    running.httpd.server_close()


def test_download_becomes_class_folders(server: Server, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    photos = fetch("flowers", tmp_path / "out", progress=lambda done, total: steps.append((done, total)))
    assert photos == tmp_path / "out" / "photos"
    assert list_files(tmp_path) == sorted(
        [f"out/{LIST}", "out/LICENSE.txt", "out/SOURCE.txt", *(f"out/photos/{name}" for name in PHOTOS)]
    )
    assert (photos / "tulips/3.jpg").read_bytes() == make_photo(2)
    assert server.url in (tmp_path / "out/SOURCE.txt").read_text()
    assert steps[-1] == (len(server.data), len(server.data))
    assert steps == sorted(steps)


def test_broken_connections_are_continued_within_one_call(server: Server, tmp_path: Path) -> None:
    server.break_after = len(server.data) // 3 + 1
    fetch("flowers", tmp_path / "out")
    third = server.break_after
    assert server.ranges == [None, f"bytes={third}-", f"bytes={2 * third}-"]


def test_next_call_continues_where_the_last_one_stopped(server: Server, tmp_path: Path) -> None:
    whole, server.data = server.data, server.data[:100]
    with pytest.raises(UserError, match="the sha256"):  # the server itself held only a part
        fetch("flowers", tmp_path / "out")
    server.data = whole
    partial = tmp_path / ".out.download/flower_photos.tgz.part"
    partial.write_bytes(whole[:1000])
    server.ranges.clear()
    fetch("flowers", tmp_path / "out")
    assert server.ranges == ["bytes=1000-"]
    assert not partial.parent.exists()


def test_stopped_download_is_kept_and_nothing_else_appears(server: Server, tmp_path: Path) -> None:
    server.break_after = 0
    (tmp_path / ".out.download").mkdir()
    (tmp_path / ".out.download/flower_photos.tgz.part").write_bytes(server.data[:500])
    with pytest.raises(UserError, match="ended after 500 of"):
        fetch("flowers", tmp_path / "out")
    assert list_files(tmp_path) == [".out.download/flower_photos.tgz.part"]
    assert not (tmp_path / "out").exists()


def test_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.knows_ranges = False
    (tmp_path / ".out.download").mkdir()
    (tmp_path / ".out.download/flower_photos.tgz.part").write_bytes(b"x" * 500)
    fetch("flowers", tmp_path / "out")
    assert len(list_files(tmp_path / "out/photos")) == 3


@pytest.mark.parametrize("surplus", [b"", b"too much"])
def test_partial_file_that_is_whole_or_too_long(server: Server, tmp_path: Path, surplus: bytes) -> None:
    (tmp_path / ".out.download").mkdir()
    (tmp_path / ".out.download/flower_photos.tgz.part").write_bytes(server.data + surplus)
    fetch("flowers", tmp_path / "out")
    assert len(list_files(tmp_path / "out/photos")) == 3


def test_download_with_another_digest_is_removed(server: Server, tmp_path: Path) -> None:
    server.data = server.data[:-1] + b"?"
    with pytest.raises(UserError, match=r"has the sha256 \w+; expected \w+.*run the same command again"):
        fetch("flowers", tmp_path / "out")
    assert list_files(tmp_path) == []


def test_missing_page_is_told(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "answer", lambda handler: handler.send_error(404))
    with pytest.raises(UserError, match="404"):
        fetch("flowers", tmp_path / "out")


def test_refused_connection_ends_in_seconds_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{probe.getsockname()[1]}"
    register(monkeypatch, "flowers", make_flowers(tmp_path), base_url=closed)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"can't be downloaded.*refused.*whycam data flowers --source FILE") as caught:
        fetch("flowers", tmp_path / "new/out")
    assert time.monotonic() - began < 6
    assert f"{closed}/flower_photos.tgz" in str(caught.value)
    assert list((tmp_path / "new").iterdir()) == []


def test_silent_server_ends_in_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(module, "TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        register(monkeypatch, "flowers", make_flowers(tmp_path), base_url=url)
        with pytest.raises(UserError, match="timed out"):
            fetch("flowers", tmp_path / "out")


def test_timeout_is_at_most_five_seconds() -> None:
    assert 0 < module.TIMEOUT_S <= 5


@pytest.mark.parametrize("given", ["flower_photos.tgz", "."])
def test_local_archive_or_its_folder(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "flowers", archive := make_flowers(tmp_path))
    fetch("flowers", tmp_path / "out", source=tmp_path / given)
    assert list_files(tmp_path / "out/photos") == PHOTOS
    assert archive.exists()


def test_unpacked_source_is_copied_not_moved(tmp_path: Path) -> None:
    for name in PHOTOS:
        (tmp_path / "root/flower_photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root/flower_photos" / name).write_bytes(make_photo())
    fetch("flowers", tmp_path / "out", source=str(tmp_path / "root"))
    assert list_files(tmp_path / "out/photos") == list_files(tmp_path / "root/flower_photos") == PHOTOS


def test_local_archive_with_another_digest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected 4c54ace7911aaffe"):
        fetch("flowers", tmp_path / "out", source=make_flowers(tmp_path))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["cut", "text"])
def test_corrupt_archive_leaves_nothing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_flowers(tmp_path)
    archive.write_bytes(archive.read_bytes()[:2000] if kind == "cut" else b"<html>not found</html>")
    register(monkeypatch, "flowers", archive)
    with pytest.raises(UserError, match="can't be unpacked"):
        fetch("flowers", tmp_path / "out", source=archive)
    assert list_files(tmp_path) == ["flower_photos.tgz"]


@pytest.mark.parametrize(
    ("members", "links"),
    [
        ({"../evil.jpg": b"x"}, {}),
        ({"flower_photos/../../../evil.jpg": b"x"}, {}),
        ({}, {"flower_photos/evil.jpg": "/etc/passwd"}),
        ({"flower_photos/a.jpg": b"x"}, {"flower_photos/evil.jpg": "a.jpg"}),
    ],
)
def test_archive_that_reaches_outside_is_refused(
    members: dict[str, bytes], links: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    archive = make_archive(tmp_path / "flower_photos.tgz", members, links)
    register(monkeypatch, "flowers", archive)
    with pytest.raises(UserError, match="can't be unpacked"):
        fetch("flowers", tmp_path / "a/b/out", source=archive)
    assert list_files(tmp_path) == ["flower_photos.tgz"]


def test_archive_without_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_archive(tmp_path / "flower_photos.tgz", {"other/1.jpg": b"x"})
    register(monkeypatch, "flowers", archive)
    with pytest.raises(UserError, match="Found no photos"):
        fetch("flowers", tmp_path / "out", source=archive)
    assert not (tmp_path / "out").exists()


def test_occupied_folder_is_never_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "flowers", archive := make_flowers(tmp_path))
    out = tmp_path / "out"
    out.mkdir()
    fetch("flowers", out, source=archive)  # an empty folder is free
    (out / "photos/daisy/1.jpg").write_bytes(b"old")
    with pytest.raises(UserError, match="--overwrite"):
        fetch("flowers", out, source=archive)
    assert (out / "photos/daisy/1.jpg").read_bytes() == b"old"
    fetch("flowers", out, source=archive, overwrite=True)
    assert (out / "photos/daisy/1.jpg").read_bytes() == make_photo(0)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").touch()
    for target in (tmp_path / "mine", tmp_path / "mine/thesis.txt"):
        with pytest.raises(UserError, match=r"(is there already|is a file's name).*another name"):
            fetch("flowers", target, source=archive, overwrite=True)
    assert list_files(tmp_path / "mine") == ["thesis.txt"]


def test_unknown_name_and_missing_source(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Unknown set of photos 'cifar-10'.*Did you mean 'cifar10'"):
        fetch("cifar-10", tmp_path / "out")
    told = r"Found nothing at '.*gone.tgz'; expected flower_photos.tgz. Check the path of --source"
    with pytest.raises(UserError, match=told):
        fetch("flowers", tmp_path / "out", source=tmp_path / "gone.tgz")
    with pytest.raises(UserError, match=r"lacks 102flowers.tgz, imagelabels.mat, setid.mat"):
        fetch("flowers102", tmp_path / "out", source=tmp_path)


def test_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"can.t be written to: (File exists|Not a directory)"):
        fetch("flowers", tmp_path / "file/out", source=tmp_path)


def test_every_download_has_a_digest_and_a_torchvision_class_that_exists() -> None:
    from torchvision import datasets

    for dataset in DATASETS.values():
        for url, digest in dataset.downloads.items():
            kind, _, value = digest.partition(":")
            assert len(value) == {"sha256": 64, "md5": 32}[kind]
            assert url.startswith("http")
        assert not dataset.torchvision_class or hasattr(datasets, dataset.torchvision_class)


def test_digests_are_those_of_torchvision() -> None:
    from torchvision import datasets

    assert DATASETS["cifar10"].downloads == {datasets.CIFAR10.url: f"md5:{datasets.CIFAR10.tgz_md5}"}
    assert DATASETS["stl10"].downloads == {datasets.STL10.url: f"md5:{datasets.STL10.tgz_md5}"}
    assert list(DATASETS["oxford-pets"].downloads.values()) == [
        f"md5:{digest}" for _, digest in datasets.OxfordIIITPet._RESOURCES
    ]
    assert {url.rsplit("/", 1)[1]: digest for url, digest in DATASETS["flowers102"].downloads.items()} == {
        name: f"md5:{digest}" for name, digest in datasets.Flowers102._file_dict.values()
    }


def test_cifar10_arrays_become_png(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tiny:
        classes = ("airplane", "big cat")

        def __init__(self, root: Path, train: bool) -> None:
            self.count = 3 if train else 1

        def __len__(self) -> int:
            return self.count

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            return Image.new("RGB", (32, 32), (index, 0, 9)), index % 2

    monkeypatch.setattr("torchvision.datasets.CIFAR10", Tiny)
    (tmp_path / "cifar-10-batches-py").mkdir()
    photos = fetch("cifar10", tmp_path / "out", source=tmp_path)
    expected = [
        "train/airplane/00000.png",
        "train/airplane/00002.png",
        "train/big-cat/00001.png",
        "val/airplane/00000.png",
    ]
    assert list_files(photos) == expected
    with Image.open(photos / "train/airplane/00002.png") as image:
        assert image.getpixel((0, 0)) == (2, 0, 9)


def test_damaged_cifar10_root(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(UserError, match="not all those of CIFAR10"):
        fetch("cifar10", tmp_path / "out", source=tmp_path)
    assert not (tmp_path / "out").exists()


def test_oxford_pets_from_its_two_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trimap = io.BytesIO()
    Image.fromarray(np.array([[1, 2, 3]], np.uint8)).save(trimap, "PNG")
    names = ["Abyssinian_1", "american_bulldog_7", "Abyssinian_2"]
    lines = ["Abyssinian_1 1 1 1", "american_bulldog_7 2 2 1", "Abyssinian_2 1 1 1"]
    images = make_archive(tmp_path / "images.tar.gz", {f"images/{name}.jpg": make_photo() for name in names})
    annotations = make_archive(
        tmp_path / "annotations.tar.gz",
        {f"annotations/trimaps/{name}.png": trimap.getvalue() for name in names}
        | {
            "annotations/trainval.txt": "\n".join(lines[:2]).encode(),
            "annotations/test.txt": lines[2].encode(),
        },
    )
    register(monkeypatch, "oxford-pets", images, annotations)
    photos = fetch("oxford-pets", tmp_path / "out", source=tmp_path)
    within = [
        "train/abyssinian/Abyssinian_1",
        "train/american-bulldog/american_bulldog_7",
        "val/abyssinian/Abyssinian_2",
    ]
    assert list_files(photos) == [f"{name}.jpg" for name in within]
    assert list_files(tmp_path / "out/masks") == [f"{name}.png" for name in within]
    with Image.open(tmp_path / "out/masks" / f"{within[0]}.png") as mask:
        assert np.asarray(mask).tolist() == [[255, 0, 0]]
    assert (photos / f"{within[0]}.jpg").read_bytes() == make_photo()


def test_flowers102_joins_train_and_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat

    savemat(tmp_path / "imagelabels.mat", {"labels": np.array([[1, 2, 1, 2, 1, 2]], np.uint8)})
    savemat(tmp_path / "setid.mat", {"trnid": [[1, 2]], "valid": [[3, 4]], "tstid": [[5, 6]]})
    photos = {f"jpg/image_{index:05d}.jpg": make_photo(index) for index in range(1, 7)}
    archive = make_archive(tmp_path / "102flowers.tgz", photos)
    register(monkeypatch, "flowers102", archive, tmp_path / "imagelabels.mat", tmp_path / "setid.mat")
    monkeypatch.setattr("torchvision.datasets.Flowers102._check_integrity", lambda _: True)
    monkeypatch.setattr("torchvision.datasets.Flowers102.classes", ["pink primrose", "tiger lily"], raising=False)
    out = fetch("flowers102", tmp_path / "out", source=tmp_path)
    assert list_files(out) == [
        "train/pink-primrose/image_00001.jpg",
        "train/pink-primrose/image_00003.jpg",
        "train/tiger-lily/image_00002.jpg",
        "train/tiger-lily/image_00004.jpg",
        "val/pink-primrose/image_00005.jpg",
        "val/tiger-lily/image_00006.jpg",
    ]
