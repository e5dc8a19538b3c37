"""Photos inside uncompressed tar shards, named SHARD.tar::MEMBER wherever a photo's path stands."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from whycam.errors import UserError, as_clause

_MARK = ".tar::"
PACKED_TARS = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst")


def make_packed_error(place: str) -> UserError:
    """Of a compressed shard."""
    return UserError(
        f"'{place}' is a compressed shard, whose photos can't be reached singly. Unpack it to a .tar first."
    )


def make_shard_error(place: str, error: Exception) -> UserError:
    """Of a shard that can't be read."""
    return UserError(f"'{place}' can't be read as a tar shard: {as_clause(error)}. Expected an uncompressed .tar.")


def name_member(shard: Path, member: str) -> Path:
    """What a photo in a shard is called; the shard's name ends in .tar."""
    return Path(f"{shard}::{member}")


def split_member(path: Path) -> tuple[Path, str] | None:
    """The shard and the member that a path names; None of any other path."""
    shard, mark, member = str(path).partition(_MARK)
    return (Path(f"{shard}.tar"), member) if mark else None


def list_members(shard: Path) -> Mapping[str, tuple[int, int]]:
    """Member -> (first byte, bytes) of the files in a shard, in its order; of two with one name the last counts.

    Raises:
        UserError: it can't be read, or is no uncompressed tar.
    """
    try:
        about = shard.stat()
        return _list_members(str(shard), about.st_mtime_ns, about.st_size)
    except (OSError, tarfile.TarError) as error:
        raise make_shard_error(str(shard), error) from None


@lru_cache(maxsize=1024)
def _list_members(shard: str, mtime_ns: int, size: int) -> Mapping[str, tuple[int, int]]:
    """The time and the size are there to be another key once the file is another."""
    with tarfile.open(shard, mode="r:") as file:
        # A path drops what a tar may have in front of and between its parts: "./a//b.jpg".
        return MappingProxyType(
            {str(PurePosixPath(one.name)): (one.offset_data, one.size) for one in file if one.isfile()}
        )


def read_member(shard: Path, member: str) -> bytes:
    """The bytes of a file in a shard.

    Raises:
        OSError: the shard, or the file in it, is not there or can't be read.
    """
    if not shard.is_file():
        raise FileNotFoundError(str(shard))
    try:
        start, size = list_members(shard)[member]
    except KeyError:
        raise FileNotFoundError(f"{shard}::{member}") from None
    except UserError as error:
        raise OSError(str(error)) from None
    with shard.open("rb") as file:
        file.seek(start)
        return file.read(size)


def open_file(path: Path) -> io.BufferedReader | io.BytesIO:
    """A file, or one in a shard, open for reading."""
    found = split_member(path)
    return path.open("rb") if found is None else io.BytesIO(read_member(*found))


def is_there(path: Path) -> bool:
    """Whether there is such a file, also in a shard."""
    found = split_member(path)
    if found is None:
        return path.is_file()
    try:
        return found[1] in list_members(found[0])
    except UserError:
        return False


def measure_size(path: Path) -> int:
    """The bytes that a file has, also in a shard.

    Raises:
        OSError: it is not there.
    """
    found = split_member(path)
    return path.stat().st_size if found is None else len(read_member(*found))
