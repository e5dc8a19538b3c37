"""The user's cache: files that can be made again, and are believed only where they are what was once written.

Beside `NAME.ext` lies `NAME.json`: what the file was made of, and a SHA-256 of that and of the whole file. That costs
about a second a GB on each opening; to compute a GB of features costs minutes, and wrong ones cost the results.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import platformdirs

from whycam.errors import UserError, make_disk_error
from whycam.runs import hold_lock, open_atomic

T = TypeVar("T")
log = logging.getLogger("whycam.model.cache")


class CacheError(UserError):
    """A cache that can't be written to: who can do without, goes on."""


class _MisfitError(Exception):
    """Why a file in the cache is not used; empty where there is none."""


def find_cache() -> Path:
    """The user's cache folder; WHYCAM_CACHE names another."""
    return Path(os.environ.get("WHYCAM_CACHE") or platformdirs.user_cache_dir("whycam"))


def is_cached(path: Path) -> bool:
    """Whether there is a file, sound or not, at that place of the cache."""
    with suppress(OSError):  # a home that may not even be looked into
        return path.exists()
    return False


def open_cached(path: Path, open_file: Callable[[Path, Mapping[str, Any]], T]) -> T | None:
    """What lies at that place of the cache; None where there is nothing, or not what was put there. Needs no lock.

    Args:
        path: its stem is a hash of all that decides the content.
        open_file: (path, what its maker said of it) -> the thing; its UserError means that the file is of no use.
    """
    try:
        return _open(path, open_file)
    except _MisfitError:
        return None


def open_or_make(
    path: Path, make: Callable[[], Mapping[str, Any]], open_file: Callable[[Path, Mapping[str, Any]], T]
) -> tuple[T, bool]:
    """The same, made where it is not there or not sound (which is logged); and whether it was there.

    Args:
        path: as in `open_cached`.
        make: writes the file and says what it was made of.
        open_file: as in `open_cached`.

    Raises:
        CacheError: the cache can't be written to, or is full.
    """
    found = open_cached(path, open_file)
    if found is not None:
        return found, True
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with hold_lock(path, f"another process, which is making '{path}'"):
            # Under the lock: another process may just have made it, or be between the file and its description.
            try:
                return _open(path, open_file), True
            except _MisfitError as misfit:
                if str(misfit):
                    log.warning("'%s' is thrown away and made anew: %s", path, misfit)
            about = _make(path, make)
    except OSError as error:
        if make_disk_error(error, path) is None:
            raise
        raise CacheError(
            f"The cache '{path.parent}' can't be written to: {error.strerror}. Free some space there, or name another "
            "folder: by WHYCAM_CACHE, or in training by --cache-dir."
        ) from error
    return open_file(path, about), False


def _make(path: Path, make: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    described = path.with_suffix(".json")
    # In this order no file is ever beside a description that is not its own.
    for old in (described, path):
        shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink(missing_ok=True)
    about = {**make(), "key": path.stem}
    with open_atomic(described) as part:
        part.write_text(json.dumps({"sha256": _hash(path, about), **about}, indent=2), encoding="ascii")
    return about


def _open(path: Path, open_file: Callable[[Path, Mapping[str, Any]], T]) -> T:
    """Raises a _MisfitError where there is no such file, or one that is not what was written."""
    if not is_cached(path):
        raise _MisfitError
    try:
        about = json.loads(path.with_suffix(".json").read_bytes())
        expected = about.pop("sha256")
        if about["key"] != path.stem:
            raise _MisfitError("it was made of something else")
        if _hash(path, about) != expected:
            raise _MisfitError("its content is not what was written")
    except FileNotFoundError:
        raise _MisfitError("it lacks its description") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _MisfitError(f"its description can't be read ({type(error).__name__})") from error
    try:
        found = open_file(path, about)
    except UserError as error:
        raise _MisfitError(str(error)) from error
    with suppress(OSError):  # a cache that may only be read
        path.touch()
    return found


def _hash(path: Path, about: Mapping[str, Any]) -> str:
    """SHA-256 of what is said of the file, then of the file."""
    text = json.dumps(about, sort_keys=True)
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.sha256(text.encode("ascii"))).hexdigest()


def prune_cached(newest: Path, limit_bytes: int) -> None:
    """Removes the files of the newest one's kind that were used longest ago, beyond the limit."""
    sizes = {}
    for path in newest.parent.glob(f"*{newest.suffix}"):
        # A folder that --cache-dir names may hold files of the user's; ours are described.
        with suppress(FileNotFoundError):  # another process prunes too
            path.with_suffix(".json").stat()
            sizes[path] = path.stat()
    total = 0
    for path, found in sorted(sizes.items(), key=lambda item: item[1].st_mtime, reverse=True):
        total += found.st_size
        if total > limit_bytes and path != newest:
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)
