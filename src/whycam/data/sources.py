"""Where photos come from: files, folders, lists of paths, tar shards, and addresses such as s3://, each photo once."""

from __future__ import annotations

import codecs
import hashlib
import os
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from whycam.data.images import IMAGE_SUFFIXES, ImageError
from whycam.data.shards import PACKED_TARS, make_packed_error, make_shard_error
from whycam.data.walk import find_images, is_photo_name
from whycam.errors import UserError, as_clause

# Of a name; a file's own has a dot, a class's number and a suffix or two beside, and 255 bytes at the most.
_NAME_BYTES = 200
_LISTS, _TARS = (".txt", ".lst"), (".tar",)


@dataclass(frozen=True)
class Source:
    """One photo, not yet read.

    Attributes:
        path: what the table says: a path, an address, or SHARD.tar::MEMBER.
        name: a short unique name for the photo's files.
        place: the file or address that holds it.
        span: (first byte, bytes) within a shard; None is the whole file.
    """

    path: str
    name: str
    place: str
    span: tuple[int, int] | None = None

    def read(self) -> Path | bytes:
        """The file, or the photo's bytes.

        Raises:
            ImageError: it can't be read.
        """
        if self.span is None and not is_address(self.place):
            return Path(self.place)
        try:
            with open_place(self.place) as file:
                if self.span is None:
                    return bytes(file.read())
                file.seek(self.span[0])
                return bytes(file.read(self.span[1]))
        except Exception as error:  # noqa: BLE001 - every file system has errors of its own
            raise ImageError(
                f"'{self.path}' can't be read: {as_clause(error)}. Check that it is still there."
            ) from None


def is_address(place: str) -> bool:
    """Whether it names a file system by scheme (s3://bucket/..), not a path."""
    return "://" in place


def open_place(place: str) -> Any:
    """A path or an address, opened for reading."""
    if not is_address(place):
        return Path(place).open("rb")
    return find_filesystem(place)[0].open(place, "rb")


def find_filesystem(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path there.

    Raises:
        UserError: no such scheme, or a library that it needs is missing.
    """
    import fsspec  # noqa: PLC0415 - only addresses need it

    try:
        return fsspec.core.url_to_fs(address)  # type: ignore[no-any-return]
    except (ValueError, ImportError) as error:
        raise UserError(
            f"'{address}' can't be opened: {as_clause(error)}. Install what its scheme needs (s3://: pip install "
            "s3fs; gs://: pip install gcsfs), or copy the photos here."
        ) from None


def find_sources(inputs: Sequence[str]) -> list[Source]:
    """Every photo of the inputs, each once, with a name of its own; see `gather_sources`."""
    return name_sources(gather_sources(inputs)[0])


def gather_sources(inputs: Sequence[str]) -> tuple[list[Source], int]:
    """Every photo of the inputs, each once, without names; and how many were named again.

    Args:
        inputs: photos; folders, searched in depth; text files with a path or address a line (relative ones to the
            text's own folder); uncompressed tar shards; and all of these by address.

    Raises:
        UserError: an input that does not exist, a shard that is compressed or damaged, or no photo at all.
    """
    unique: dict[object, Source] = {}
    count = 0
    for source in (source for text in inputs for source in _expand(text)):
        unique[source.place, source.span] = source
        count += 1
    if not unique:
        raise UserError(
            f"No pictures in {', '.join(map(repr, inputs)) or 'an empty list'}. "
            f"Expected files ending in {' '.join(sorted(IMAGE_SUFFIXES))}. Name another folder."
        )
    return list(unique.values()), count - len(unique)


def name_sources(sources: Sequence[Source], known: Mapping[str, str] | None = None) -> list[Source]:
    """The sources with a name each; `known` has the names of paths that have one already."""
    names = name_outputs([source.path for source in sources], known)
    return [replace(source, name=name) for source, name in zip(sources, names, strict=True)]


def name_outputs(paths: Sequence[str], known: Mapping[str, str] | None = None) -> list[str]:
    """A short unique name for each photo's files: its path below the folder that all share, without the suffix.

    The suffix is added where two photos have the same path but for it; a hash of the whole path where that does not
    tell them apart, or where the name is too long for a file. Names differ also where a disk ignores case or writes
    accents another way. Bytes that are no UTF-8 stand as %E9.

    Args:
        paths: all different.
        known: path -> a name that was given before, and stays.
    """
    known = known or {}
    plain = [_to_plain(path) for path in paths]
    is_one_tree = len({path.startswith("/") for path in plain}) == 1
    common = os.path.commonpath([PurePosixPath(path).parent for path in plain]) if is_one_tree else ""
    short = [PurePosixPath(os.path.relpath(path, common) if common else path.lstrip("/")) for path in plain]
    stems = [_to_file_name(path.with_suffix("").as_posix()) for path in short]
    times = Counter(map(_fold, stems))
    taken = {_fold(_to_file_name(name)) for name in known.values()}
    names = []
    for path, whole, below, stem in zip(paths, plain, short, stems, strict=True):
        if path in known:
            name = _to_file_name(known[path])
        else:
            first = [stem] if times[_fold(stem)] == 1 else []
            options = [*first, stem + _to_file_name(below.suffix.replace(".", "_")), _shorten(stem, whole)]
            name = next(o for o in options if len(o.encode()) <= _NAME_BYTES and _fold(o) not in taken)
        taken.add(_fold(name))
        # In the system's encoding, which may be ASCII.
        names.append(os.fsdecode(name.encode()))
    return names


def _to_file_name(path: str) -> str:
    text = path.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    return "".join(f"%{ord(c) - 0xDC00:02X}" if "\udc80" <= c <= "\udcff" else c for c in text).replace("/", "__")


def _fold(name: str) -> str:
    """What two names share that some disk takes for one."""
    return unicodedata.normalize("NFC", name).casefold()


def _shorten(stem: str, path: str) -> str:
    """As much of the name's end as a file may have, and a hash of the path."""
    end = stem.encode()[-_NAME_BYTES + 20 :].decode(errors="ignore")
    return f"{end}-{hashlib.blake2b(os.fsencode(path), digest_size=8).hexdigest()}"


def _to_plain(path: str) -> str:
    """An absolute path, or an address without its signs, as a path."""
    if is_address(path):
        return path.replace("://", "/").replace("::", "/")
    return Path(os.path.abspath(path.replace("::", "/"))).as_posix()  # noqa: PTH100 - absolute() would keep "a/../b"


def _expand(text: str) -> Iterator[Source]:
    suffix = PurePosixPath(text).suffix.lower()
    if text.lower().endswith(PACKED_TARS):
        raise make_packed_error(text)
    if is_address(text):
        yield from _expand_address(text, suffix)
    elif suffix in _LISTS and Path(text).is_file():
        yield from _read_list(text)
    elif suffix in _TARS and Path(text).is_file():
        yield from _list_shard(text)
    else:
        yield from (Source(str(path), "", os.path.abspath(path)) for path in find_images([text]))  # noqa: PTH100


def _expand_address(text: str, suffix: str) -> Iterator[Source]:
    if suffix in _LISTS:
        yield from _read_list(text)
    elif suffix in _TARS:
        yield from _list_shard(text)
    else:
        system, path = find_filesystem(text)
        scheme = text.split("://", 1)[0]
        try:
            files = [path] if system.isfile(path) else sorted(system.find(path))
        except Exception as error:  # noqa: BLE001 - every file system has errors of its own
            raise UserError(
                f"'{text}' can't be listed: {as_clause(error)}. Check the address and your rights."
            ) from None
        if not files:
            raise UserError(f"No file or folder '{text}'. Expected a picture or a folder. Check the spelling.")
        for file in files:
            below = file.removeprefix(path.rstrip("/")).strip("/")
            if not below or is_photo_name(below.split("/")):
                address = f"{scheme}://{file.removeprefix('/')}" if scheme != "file" else f"file://{file}"
                yield Source(address, "", address)


def _read_list(place: str) -> Iterator[Source]:
    told = "Expected a text, a path a line."
    try:
        with open_place(place) as file:
            content = file.read().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise UserError(f"'{place}' can't be read as a list of paths: {as_clause(error)}. {told}") from None
    if b"\0" in content:
        raise UserError(f"'{place}' can't be read as a list of paths: it holds bytes that no path has. {told}")
    lines = os.fsdecode(content).splitlines()
    folder = "" if is_address(place) else str(Path(place).parent)
    for line in (line.strip() for line in lines):
        if line and not line.startswith("#"):
            path = line if is_address(line) or is_address(place) else os.path.join(folder, line)  # noqa: PTH118
            yield Source(path, "", path if is_address(path) else os.path.abspath(path))  # noqa: PTH100


def _list_shard(place: str) -> Iterator[Source]:
    try:
        with open_place(place) as file, tarfile.open(fileobj=file, mode="r:") as shard:
            yield from (
                Source(f"{place}::{member.name}", "", place, (member.offset_data, member.size))
                for member in shard
                if member.isfile() and is_photo_name([part for part in member.name.split("/") if part != "."])
            )
    except (OSError, tarfile.TarError) as error:
        raise make_shard_error(place, error) from None
