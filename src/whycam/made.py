"""What WhyCAM made, and so may replace: a list of its files in each result's folder, and marks in single files.

`--overwrite` asks here before anything goes. A new kind of result needs nothing: `open_run` writes the list. A new kind
of single file needs a row in `_FILES`.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import BinaryIO

from whycam.errors import UserError

# A line that says who made the folder, then a line for each folder in it: its name, its files.
LIST = ".whycam-files.jsonl"
# What people say of a run's photos is theirs, whoever wrote it down.
JOURNAL = "edits.jsonl"
_FIRST = {"made_by": "whycam"}
# What systems leave in folders, and locks and unfinished files of our own.
_LITTER = (".DS_Store", "Thumbs.db", "desktop.ini", ".directory", ".*.lock", ".*.part", LIST)
_TEXTS = {".md", ".markdown"}
# Single files: bytes that one of a kind has all of.
_FILES: Sequence[Sequence[bytes]] = (
    (b"<!doctype html>", b'<meta name="generator" content="WhyCAM '),
    (b"<!doctype html>", b'"whycam/viewer"'),  # pages before they had the row above
    (b"<!doctype html>", b"<title>Evidence: ", b"whycam card"),
    (b'"versions": {', b'"whycam": "', b'"command": "'),
    (b"path,kind,truth,a,b,p_a,p_b,lead_a,lead_b,change",),
    (b"whycam.class_names", b"whycam.preprocess"),  # ONNX
    (b"PK\x03\x04", b"extra/class_names", b"constants.pkl"),  # TorchScript
)
# What is made as a folder is not called like a file.
_FILE_SUFFIXES = {
    *(".html", ".htm", ".json", ".jsonl", ".csv", ".parquet", ".md", ".txt", ".pdf", ".xml", ".zip", ".tar", ".gz"),
    *(".onnx", ".pt", ".pt2", ".pth", ".ts", ".keras", ".h5", ".safetensors", ".jpg", ".jpeg", ".png", ".webp"),
}
_NAMED = 5
# How often a run says that it is alive, and for how long after that a file may still be its own.
_BEAT_S, _PATIENCE_S = 1.0, 5.0
_SIGNED, _SIGN_BYTES = b"<!-- whycam: %s -->\n", 8


def begin_list(folder: Path) -> None:
    """Says of a folder that is worked in that WhyCAM made it."""
    with (folder / LIST).open("w", encoding="utf-8") as file:
        file.write(json.dumps(_FIRST) + "\n")


def write_list(folder: Path, but: Collection[str] = ()) -> None:
    """Writes down all files of a folder but those named; what was listed further down has its own list."""
    begin_list(folder)
    with (folder / LIST).open("ab") as file:
        for place, names in _walk(folder):
            way = "" if place == folder else place.relative_to(folder).as_posix()
            _append(file, way, [one for one in names if one not in {LIST, JOURNAL} and _join(way, one) not in but])


def find_added(partial: Path) -> list[str]:
    """The files that people put into unfinished work: of a run that was killed those that came after its last beat."""
    found = sorted(_find_strangers(partial, ""))
    if _read_list(partial) or not (partial / LIST).is_file():
        return found
    ended_s = (partial / LIST).stat().st_mtime + _PATIENCE_S
    # The time of a change is the system's own: copying keeps the time of writing.
    return [name for name in found if (partial / name).lstat().st_ctime > ended_s]


@contextmanager
def beat(partial: Path) -> Iterator[None]:
    """In the block the list's time says, second by second, that the run is alive."""
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(_BEAT_S):
            with suppress(OSError):
                os.utime(partial / LIST)

    thread = threading.Thread(target=touch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _join(way: str, name: str) -> str:
    return f"{way}/{name}" if way else name


def add_to_list(folder: Path, *files: str) -> None:
    """Files that came into a finished folder later, such as `maps/000001.npz`; nothing where it has no list."""
    if (folder / LIST).is_file():
        with (folder / LIST).open("ab") as file:
            for name in files:
                way, _, last = name.rpartition("/")
                _append(file, way, [last])


def _append(file: BinaryIO, folder: str, names: Sequence[str]) -> None:
    # Bytes of names that are no UTF-8 are escaped by JSON itself.
    file.write(json.dumps([folder, list(names)]).encode("ascii") + b"\n")


def check_replaceable(path: Path, keeps: str = "") -> None:
    """Refuses what WhyCAM did not make; an empty folder or file may always go.

    Args:
        path: a file or folder that is there.
        keeps: the name of a file of people's that the caller carries over into the new folder.

    Raises:
        UserError: it is something else, or holds files of somebody else's.
    """
    if why := tell_foreign(path, keeps):
        raise UserError(f"'{path.absolute()}' is there already: {why}")


def tell_foreign(path: Path, keeps: str = "") -> str:
    """Why a file or folder may not be replaced, and what to do; nothing where it may."""
    do = "--overwrite replaces only what WhyCAM made. Take another name, or delete it yourself."
    if not path.is_dir():
        return "" if is_made_file(path) else f"a file that WhyCAM did not make, or that was edited since. {do}"
    if not is_made_folder(path):
        entries = sorted(entry.name for entry in os.scandir(path))
        found = tell_names(entries, "entries")
        return f"a folder that WhyCAM did not make ({found}). {do}" if entries else ""
    if strangers := sorted(_find_strangers(path, keeps)):
        return (
            f"a result of WhyCAM's, but it holds {tell_names(strangers, 'files')}, which WhyCAM did not make or may "
            "not throw away; --overwrite would. Move them elsewhere first, or take another name."
        )
    return ""


def check_name(folder: Path) -> None:
    """Refuses a folder that would be called like a file.

    Raises:
        UserError: it would.
    """
    if (suffix := folder.suffix.lower()) in _FILE_SUFFIXES:
        raise UserError(
            f"'{folder}' is a file's name, and what is made here is a folder; expected a name that does not end in "
            f"{suffix}. Take '{folder.stem}', or another name."
        )


def check_free(folder: Path, *, overwrite: bool, keeps: str = "") -> None:
    """Refuses a name that is taken, or with `overwrite` what `check_replaceable` refuses.

    Raises:
        UserError: something is there that may not be replaced, or not without `overwrite`.
    """
    if not folder.exists():
        return
    if overwrite:
        check_replaceable(folder, keeps)
        return
    if not folder.is_dir():
        found = "a file"
    elif is_made_folder(folder):
        found = "a finished result"
    else:
        found = "a folder that WhyCAM did not make" if any(folder.iterdir()) else "an empty folder"
    do = "." if tell_foreign(folder, keeps) else ", or give --overwrite."
    raise UserError(f"'{folder}' is there already ({found}); it is never replaced by itself. Choose another name{do}")


def check_partial(partial: Path) -> None:
    """Refuses to work in, and to throw away, what is no unfinished work of WhyCAM's.

    Raises:
        UserError: it is something else.
    """
    if not partial.exists() or (partial.is_dir() and not any(partial.iterdir())):
        return
    if not partial.is_dir() or not _has_list(partial):
        raise UserError(
            f"'{partial}' is there, and is no unfinished work of WhyCAM's; work goes on under that name until it is "
            "whole. Rename it, or take another name for the result."
        )


def tell_names(names: Sequence[str], what: str) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more {what}" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def is_made_folder(folder: Path) -> bool:
    """Whether WhyCAM made it, whatever else was put in since; work that is not finished counts."""
    return _has_list(folder)


def is_made_file(path: Path) -> bool:
    """Whether a single file is a page, table or model of WhyCAM's, a card that nobody went on with, or empty."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return True
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                is_marked = any(all(content.find(mark) >= 0 for mark in marks) for marks in _FILES)
                return is_marked or (path.suffix.lower() in _TEXTS and _is_untouched(bytes(content)))
    except (OSError, ValueError):  # a device, a pipe, one that may not be read
        return False


def is_record(content: bytes) -> bool:
    """Whether these are the bytes of a record.json of ours."""
    return all(mark in content for mark in (b'"options": {', b'"command": "', b'"whycam": "'))


def sign_text(text: str) -> bytes:
    """A text that people are meant to go on with: its last line tells whether they have."""
    content = text.encode()
    return content + _SIGNED % hashlib.blake2b(content, digest_size=_SIGN_BYTES).hexdigest().encode()


def _is_untouched(content: bytes) -> bool:
    """Whether a text that `sign_text` made is as it was."""
    if not (found := re.search(_SIGNED.replace(b"%s", rb"([0-9a-f]+)") + rb"\Z", content)):
        return False
    return hashlib.blake2b(content[: found.start()], digest_size=_SIGN_BYTES).hexdigest().encode() == found[1]


def _has_list(folder: Path) -> bool:
    with suppress(OSError, ValueError, AttributeError), (folder / LIST).open("rb") as file:
        return bool(json.loads(file.readline()).get("made_by") == _FIRST["made_by"])
    return False


def _find_strangers(folder: Path, keeps: str) -> Iterator[str]:
    """The files, relative to the folder, that are not on its list; of folders in it that have their own, by that."""
    listed = _read_list(folder)
    for place, names in _walk(folder):
        way = "" if place == folder else place.relative_to(folder).as_posix()
        known = (listed or {}).get(way, set())
        for name in names:
            inside = _join(way, name)
            is_ours = name != JOURNAL and (name in known or any(fnmatch(name, one) for one in _LITTER))
            is_kept = name == keeps and (not way or way.startswith("versions/"))
            if not (is_ours or is_kept or inside == "versions/kept.json" or is_made_file(place / name)):
                yield inside
    for place in _find_listed(folder):
        if place.name.endswith(".partial"):  # unfinished: what is in it is on no list yet
            continue
        way = place.relative_to(folder).as_posix()
        kept = keeps if way.startswith("versions/") else ""
        yield from (f"{way}/{name}" for name in _find_strangers(place, kept))


def _read_list(folder: Path) -> dict[str, set[str]] | None:
    if not _has_list(folder):
        return None
    found: dict[str, set[str]] = {}
    with suppress(ValueError, TypeError), (folder / LIST).open("rb") as file:
        next(file)
        for line in file:
            way, names = json.loads(line)
            found.setdefault(way, set()).update(names)
    return found


def _walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders with the names of their files and links, without those in it that have a list of their own."""
    for root, folders, names in os.walk(folder):
        place = Path(root)
        links = [name for name in folders if (place / name).is_symlink()]
        folders[:] = sorted(name for name in folders if name not in links and not _has_list(place / name))
        yield place, sorted([*names, *links])


def _find_listed(folder: Path) -> Iterator[Path]:
    for root, folders, _ in os.walk(folder):
        place = Path(root)
        own = [name for name in folders if not (place / name).is_symlink() and _has_list(place / name)]
        folders[:] = [name for name in folders if name not in own]
        yield from (place / name for name in own)
