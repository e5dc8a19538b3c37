"""The only place that walks folders of photos: which files count, which links are followed, what can't be read."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from whycam.data.images import IMAGE_SUFFIXES
from whycam.errors import UserError

log = logging.getLogger("whycam.data")
# What systems and network drives put beside photos: previews, waste, snapshots.
_SYSTEM_NAMES = frozenset(
    ("__macosx", "__pycache__", "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "lost+found")
)


def is_visible(name: str) -> bool:
    """Whether a file or folder of that name counts: it is neither hidden (a leading dot) nor a system's own."""
    return not name.startswith(".") and name.casefold() not in _SYSTEM_NAMES


def is_photo_name(parts: Sequence[str]) -> bool:
    """Whether a path below a folder, given in parts, counts as a photo: by its suffix, and visible at every depth."""
    return os.path.splitext(parts[-1])[1].lower() in IMAGE_SUFFIXES and all(map(is_visible, parts))  # noqa: PTH122


def walk_photos(folder: Path) -> list[Path]:
    """The photos below a folder, sorted, at every depth.

    Names that end in one of `IMAGE_SUFFIXES` (in any case) count; hidden and system files and folders are left out.
    Links are followed, each real folder once; real folders come before links to them, and a link that leads to a
    folder already searched is told in the log. A sub-folder that can't be read is listed like a photo, so that it is
    recorded and counted as one that can't be read.

    Raises:
        UserError: the folder itself can't be read.
    """
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise UserError(
            f"The folder '{folder.absolute()}' cannot be read: {error.strerror}. Change its rights."
        ) from None
    seen: set[str] = set()
    found, links = _walk_real(folder, seen)
    while links:
        link = links.pop(0)
        if os.path.realpath(link) in seen:
            log.warning("Left out the link '%s': the folder that it leads to is searched already", link)
            continue
        files, more = _walk_real(link, seen)
        found += files
        links += more
    return sorted(found)


def _walk_real(root: Path, seen: set[str]) -> tuple[list[Path], list[Path]]:
    """Photos, and folders that can't be read, below `root` without following links; and the links to folders."""
    files: list[Path] = []
    links: list[Path] = []

    def record(error: OSError) -> None:
        files.append(Path(error.filename))

    for parent, folders, names in os.walk(root, onerror=record):
        real = os.path.realpath(parent)
        if real in seen:  # a link led to a folder above one that is searched
            folders.clear()
            continue
        seen.add(real)
        shown = [Path(parent, name) for name in sorted(folders) if is_visible(name)]
        links += [path for path in shown if path.is_symlink()]
        folders[:] = [path.name for path in shown]
        files += [Path(parent, name) for name in names if is_photo_name([name])]
    return files, links


def list_folders(folder: Path) -> list[Path]:
    """The visible sub-folders, linked ones too, sorted."""
    return sorted(entry for entry in folder.iterdir() if is_visible(entry.name) and entry.is_dir())


def find_images(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """The picture files among `paths`, each once: files as given, folders as `walk_photos` searches them.

    Raises:
        UserError: a path does not exist, a folder can't be read, or there is no picture at all.
    """
    given = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    found: dict[Path, Path] = {}
    for path in given:
        if not os.path.lexists(path):
            raise UserError(
                f"No file or folder '{path.absolute()}'. Expected a picture or a folder. Check the spelling."
            )
        for file in walk_photos(path) if path.is_dir() else [path]:
            found.setdefault(Path(os.path.abspath(file)), file)  # noqa: PTH100 - absolute() would keep "a/../b"
    if not found:
        listed = ", ".join(f"'{path.absolute()}'" for path in given[:3]) or "an empty list"
        raise UserError(
            f"No pictures in {listed}. Expected files ending in {' '.join(sorted(IMAGE_SUFFIXES))}; hidden files and "
            "folders do not count. Name another folder, or name the files themselves."
        )
    return list(found.values())
