"""Public datasets as folders of photos: downloaded, or unpacked from files that are already here.

A new dataset is one row in `DATASETS`.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import importlib
import os
import re
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from whycam.aside import replace_folder
from whycam.errors import UserError, as_clause, make_disk_error, make_unknown_name
from whycam.made import check_free, check_name, write_list

Progress = Callable[[int, int], None]
Place = Callable[[Path, Path], object]

TIMEOUT_S = 5.0
_MAX_ATTEMPTS = 20
_BLOCK_BYTES = 1 << 18
_ORIGIN_FILE = "SOURCE.txt"


@dataclass(frozen=True)
class Dataset:
    """A public dataset and how it becomes class folders; folders are relative to a root."""

    title: str
    licence: str
    download_mb: int
    downloads: Mapping[str, str]  # address -> digest
    unpacked: str  # the folder that shows the files are unpacked
    unpack_into: str = ""  # where torchvision unpacks them
    torchvision_class: str = ""
    splits: Mapping[str, tuple[dict[str, Any], ...]] = field(default_factory=dict)  # split -> torchvision arguments
    has_masks: bool = False


_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data"

DATASETS: dict[str, Dataset] = {
    "flowers": Dataset(
        title="Flower photos, 3,670 of 5 classes (The TensorFlow Team, 2019)",
        licence="CC BY 2.0, photographers named in LICENSE.txt",
        download_mb=229,
        downloads={
            "https://storage.googleapis.com/download.tensorflow.org/example_images/flower_photos.tgz": (
                "sha256:4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c"
            )
        },
        unpacked="flower_photos",
    ),
    "cifar10": Dataset(
        title="CIFAR-10, 60,000 photos of 32 x 32 pixels in 10 classes (Krizhevsky 2009)",
        licence="none stated by its authors",
        download_mb=171,
        downloads={"https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz": "md5:c58f30108f718f92721af3b95e74349a"},
        unpacked="cifar-10-batches-py",
        torchvision_class="CIFAR10",
        splits={"train": ({"train": True},), "val": ({"train": False},)},
    ),
    "stl10": Dataset(
        title="STL-10, the 13,000 labelled photos of 96 x 96 pixels in 10 classes (Coates et al. 2011)",
        licence="none stated by its authors; the photos come from ImageNet",
        download_mb=2640,
        downloads={"http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz": "md5:91f7769df0f17e558f3565bffb0c7dfb"},
        unpacked="stl10_binary",
        torchvision_class="STL10",
        splits={"train": ({"split": "train"},), "val": ({"split": "test"},)},
    ),
    "flowers102": Dataset(
        title="Oxford 102 Flowers, 8,189 photos (Nilsback, Zisserman 2008); train is its training and validation set",
        licence="none stated by its authors",
        download_mb=345,
        downloads={
            f"{_OXFORD}/flowers/102/102flowers.tgz": "md5:52808999861908f626f3c1f4e79d11fa",
            f"{_OXFORD}/flowers/102/imagelabels.mat": "md5:e0620be6f572b9609742df49c70aed4d",
            f"{_OXFORD}/flowers/102/setid.mat": "md5:a5357ecc9cb78c4bef273ce3793fc85c",
        },
        unpacked="flowers-102/jpg",
        unpack_into="flowers-102",
        torchvision_class="Flowers102",
        splits={"train": ({"split": "train"}, {"split": "val"}), "val": ({"split": "test"},)},
    ),
    "oxford-pets": Dataset(
        title="Oxford-IIIT Pet, 7,349 photos of 37 breeds with masks (Parkhi et al. 2012)",
        licence="CC BY-SA 4.0",
        download_mb=811,
        downloads={
            f"{_OXFORD}/pets/data/images.tar.gz": "md5:5c4f3ee8e5d25df40f4fd59a7f44e54c",
            f"{_OXFORD}/pets/data/annotations.tar.gz": "md5:95a8c909bbe2e81eed6a22bccdf3f68f",
        },
        unpacked="oxford-iiit-pet/images",
        unpack_into="oxford-iiit-pet",
        torchvision_class="OxfordIIITPet",
        splits={"train": ({"split": "trainval"},), "val": ({"split": "test"},)},
        has_masks=True,
    ),
}


def fetch(
    name: str,
    folder: Path,
    *,
    source: str | Path | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> Path:
    """The folder `folder/photos`, with train/CLASS/x.jpg and val/CLASS/x.jpg, or CLASS/x.jpg if there is no split.

    `val` is the dataset's official test set. Masks lie in `folder/masks` under the photos' names, as PNG: 255 on the
    object, 0 elsewhere and on the outline that the annotators left open. The folder appears only when it is whole; a
    broken download stays beside it and is continued by the next call.

    Args:
        name: One of `DATASETS`.
        folder: Where the dataset goes; new or empty.
        source: Instead of a download: the archive, a folder that holds all the dataset's files, or a folder in which
            they are unpacked (a torchvision root).
        progress: Called with (bytes so far, bytes in all or 0 if unknown) of the file being downloaded.
        overwrite: Replace a folder that an earlier call made.

    Raises:
        UserError: unknown name, occupied folder, no connection, or files that are missing, damaged or others.
    """
    if name not in DATASETS:
        raise make_unknown_name("set of photos", name, DATASETS)
    dataset, folder = DATASETS[name], Path(folder).absolute()
    source = None if source is None else Path(source).absolute()
    check_name(folder)
    if not folder.is_dir() or any(folder.iterdir()):  # an empty one may be filled
        check_free(folder, overwrite=overwrite)
    incoming = folder.parent / f".{folder.name}.download"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as work:
            root = _find_unpacked(dataset, source) if source else None
            place: Place = shutil.copyfile  # the caller's own unpacked files stay where they are
            if root is None:
                files = _find_files(dataset, source) if source else _download_all(name, dataset, incoming, progress)
                root, place = _unpack(dataset, files, Path(work, "root")), os.replace
            _lay_out(dataset, root, Path(work, "new"), place)
            replace_folder(Path(work, "new"), folder)
    except OSError as error:
        raise make_disk_error(error, folder) or UserError(
            f"'{error.filename or folder}' can't be read or written: {as_clause(error.strerror or error)}; "
            "expected files that can be read, and a folder that is yours. Choose others."
        ) from error
    shutil.rmtree(incoming, ignore_errors=True)
    return folder / "photos"


def _find_unpacked(dataset: Dataset, source: Path) -> Path | None:
    """`source`, if the dataset's files are unpacked in it."""
    if not source.exists():
        raise UserError(f"Found nothing at '{source}'; expected {_name_files(dataset)}. Check the path of --source.")
    return source if (source / dataset.unpacked).is_dir() else None


def _find_files(dataset: Dataset, source: Path) -> list[Path]:
    """The dataset's downloaded files at `source`, checked."""
    if source.is_file() and len(dataset.downloads) == 1:
        files = [source]
    else:
        inside = source / dataset.unpack_into
        names = [_name_file(url) for url in dataset.downloads]
        files = [inside / name if (inside / name).is_file() else source / name for name in names]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise UserError(
            f"'{source}' lacks {', '.join(missing)}; expected {_name_files(dataset)}, or a folder that holds them, "
            f"or one with {dataset.unpacked} in it. Download {' '.join(dataset.downloads)}"
        )
    for (url, digest), file in zip(dataset.downloads.items(), files, strict=True):
        _check_digest(url, digest, file, "Download it again.")
    return files


def _name_file(url: str) -> str:
    return url.rsplit("/", 1)[1]


def _name_files(dataset: Dataset) -> str:
    return " and ".join(_name_file(url) for url in dataset.downloads)


def _download_all(name: str, dataset: Dataset, incoming: Path, progress: Progress | None) -> list[Path]:
    """The dataset's files in the folder `incoming`, checked; those already there are not downloaded again."""
    incoming.mkdir(exist_ok=True)
    files = [incoming / _name_file(url) for url in dataset.downloads]
    for (url, digest), file in zip(dataset.downloads.items(), files, strict=True):
        if file.exists():
            continue
        partial = file.with_name(file.name + ".part")
        try:
            receive_all(url, partial, progress or (lambda _done, _total: None))
        except OSError as error:
            with contextlib.suppress(OSError):
                incoming.rmdir()
            raise make_disk_error(error, incoming) or _make_offline_error(name, dataset, url, error) from error
        try:
            _check_digest(url, digest, partial, "It was removed; run the same command again.")
        except UserError:
            partial.unlink()
            raise
        partial.replace(file)
    return files


def _make_offline_error(name: str, dataset: Dataset, url: str, error: OSError) -> UserError:
    reason = error if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", error)
    what = "FILE" if len(dataset.downloads) == 1 else "FOLDER"
    return UserError(
        f"{url} can't be downloaded: {as_clause(reason)}; expected a connection for {dataset.download_mb} MB. Try "
        f"again later: what has arrived is kept. Or download {' '.join(dataset.downloads)} on another computer, put it "
        f"anywhere on this one, and run the same command with --source {what}: whycam data {name} --source {what}"
    )


def receive_all(url: str, partial: Path, progress: Progress) -> None:
    """Download `url` to `partial`, from where an earlier try stopped; go on as long as each try brings something."""
    for attempt in range(1, _MAX_ATTEMPTS + 1):
        before = _size_bytes(partial)
        try:
            _receive(url, partial, before, progress)
        except urllib.error.HTTPError as error:
            if error.code != 416 or before == 0:
                raise
            # The server has nothing behind these bytes: they are the whole file, or never were a part of it.
            if error.headers.get("Content-Range") == f"bytes */{before}":
                return
            partial.unlink()
        except OSError:
            if _size_bytes(partial) <= before or attempt == _MAX_ATTEMPTS:
                raise
        else:
            return
    raise ConnectionError(f"{url} refuses to continue the download")


def _size_bytes(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _receive(url: str, partial: Path, have: int, progress: Progress) -> None:
    """One request for the bytes of `url` behind the first `have`, appended to `partial`."""
    request = urllib.request.Request(url, headers={"User-Agent": "whycam"})  # noqa: S310 - addresses of our own table
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310 - as above
            is_resumed = response.status == 206
            have = have if is_resumed else 0
            total = have + int(response.headers.get("Content-Length") or 0)
            with partial.open("ab" if is_resumed else "wb") as file:
                while block := response.read1(_BLOCK_BYTES):
                    file.write(block)
                    have += len(block)
                    progress(have, total if total >= have else 0)
    except http.client.HTTPException as error:
        raise ConnectionError(f"the server's answer broke off ({error!r})") from error
    if have < total:
        raise ConnectionError(f"the connection ended after {have:,} of {total:,} bytes")


def _check_digest(url: str, digest: str, file: Path, remedy: str) -> None:
    kind, _, expected = digest.partition(":")
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, kind).hexdigest()
    if found != expected:
        raise UserError(
            f"'{file}' ({file.stat().st_size:,} bytes) has the {kind} {found}; expected {expected}, "
            f"that of {url}. {remedy}"
        )


def _unpack(dataset: Dataset, files: list[Path], root: Path) -> Path:
    """The folder `root`, with the archives unpacked and the other files copied as torchvision would."""
    inside = root / dataset.unpack_into
    inside.mkdir(parents=True)
    for file in files:
        if file.suffix == ".mat":
            shutil.copyfile(file, inside / file.name)
            continue
        try:
            with tarfile.open(file) as archive:
                archive.extractall(inside, filter=_accept_member)  # noqa: S202 - the filter checks each member
        except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
            no_room = make_disk_error(error, inside) if isinstance(error, OSError) else None
            raise no_room or UserError(
                f"The archive '{file}' can't be unpacked: {as_clause(error)}; expected a whole .tar.gz with folders "
                "of files. Nothing was written. Download it again."
            ) from error
    return root


def _accept_member(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo:
    """The member if it is a plain file or folder inside `path`; links and devices have no place in a dataset."""
    if not (member.isfile() or member.isdir()):
        raise tarfile.FilterError(f"'{member.name}' in it is a link or a device")
    return tarfile.data_filter(member, path)


def _lay_out(dataset: Dataset, root: Path, new: Path, place: Place) -> None:
    """Make the final folder `new` from the unpacked files in `root`."""
    if dataset.torchvision_class:
        for split, arguments in dataset.splits.items():
            for each in arguments:
                _lay_out_split(dataset, _open_torchvision(dataset, root, each), new, split, place)
    else:
        _lay_out_folders(root / dataset.unpacked, new, place)
    origin = [dataset.title, f"Licence: {dataset.licence}", *dataset.downloads]
    (new / _ORIGIN_FILE).write_text("\n".join(origin) + "\n", encoding="utf-8")
    write_list(new)


def _lay_out_folders(unpacked: Path, new: Path, place: Place) -> None:
    """Class folders as they are, and the licence beside them."""
    photos = sorted(unpacked.glob("*/*.jpg"))
    if not photos:
        raise UserError(f"Found no photos in '{unpacked}'; expected CLASS/photo.jpg in it. Unpack the archive again.")
    for photo in photos:
        target = new / "photos" / photo.parent.name / photo.name
        target.parent.mkdir(parents=True, exist_ok=True)
        place(photo, target)
    if (unpacked / "LICENSE.txt").is_file():
        place(unpacked / "LICENSE.txt", new / "LICENSE.txt")


def _open_torchvision(dataset: Dataset, root: Path, arguments: dict[str, Any]) -> Any:
    """The torchvision dataset over the unpacked files."""
    # Imported when used: torchvision brings torch.
    datasets = importlib.import_module("torchvision.datasets")
    try:
        return getattr(datasets, dataset.torchvision_class)(root, **arguments)
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"The files in '{root}' are not all those of {dataset.torchvision_class}: {as_clause(error)}; expected "
            f"what torchvision unpacks from {_name_files(dataset)}. Give these files themselves as --source."
        ) from error


def _lay_out_split(dataset: Dataset, samples: Any, new: Path, split: str, place: Place) -> None:
    """One split: photo files are taken over byte for byte, arrays become PNG."""
    files = getattr(samples, "_image_files", None) or getattr(samples, "_images", None)
    for index in range(len(samples)):
        label = samples._labels[index] if files else samples[index][1]
        within = Path(split, _make_folder_name(samples, label), files[index].name if files else f"{index:05d}.png")
        target = new / "photos" / within
        target.parent.mkdir(parents=True, exist_ok=True)
        if files:
            place(files[index], target)
        else:
            samples[index][0].save(target)
        if dataset.has_masks:
            mask = new / "masks" / within.with_suffix(".png")
            mask.parent.mkdir(parents=True, exist_ok=True)
            _make_mask(samples._segs[index]).save(mask)


def _make_folder_name(samples: Any, label: int) -> str:
    """A class's folder: its name in lower case, with dashes; its number where torchvision knows no name."""
    names = getattr(samples, "classes", None)
    return re.sub(r"[^a-z0-9]+", "-", names[label].lower()).strip("-") if names else f"class-{label:03d}"


def _make_mask(trimap: Path) -> Image.Image:
    """A trimap (1 object, 2 background, 3 outline) as a mask with 255 on the object."""
    with Image.open(trimap) as image:  # not load_image: these numbers are labels, not colours
        return Image.fromarray(np.where(np.asarray(image) == 1, 255, 0).astype(np.uint8))
