"""What makes way for a new result: unfinished work and the old result, kept where somebody else's files are in them."""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import re
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

from whycam.made import find_added, tell_foreign, tell_names

log = logging.getLogger("whycam")
# What common file systems take.
_NAME_BYTES = 255
# A result that is being replaced; nobody calls a copy of theirs so.
_OLD = ".whycam-replaced"


def name_beside(path: Path, prefix: str, suffix: str) -> Path:
    """A hidden or temporary name beside a path, shortened where the file system would find it too long."""
    name = f"{prefix}{path.name}{suffix}"
    if len(os.fsencode(name)) > _NAME_BYTES:
        # Letters of up to four bytes; the hash keeps long names apart that begin alike.
        digest = hashlib.blake2b(os.fsencode(path.name), digest_size=8).hexdigest()
        name = f"{prefix}{path.name[:40]}-{digest}{suffix}"
    return path.with_name(name)


def take_up(partial: Path, *, resume: bool) -> Sequence[str]:
    """Makes the folder to work in, or with `resume` takes the one that is left; tells what people put into that."""
    added = find_added(partial) if partial.exists() else []
    if not resume:
        clear_away(partial, added)
    partial.mkdir(exist_ok=True)
    return added if resume else ()


def clear_away(partial: Path, added: Sequence[str]) -> None:
    """Removes unfinished work; under another name it is kept where something in it is somebody else's."""
    if not added:
        shutil.rmtree(partial, ignore_errors=True)
        return
    kept = name_beside(partial, "", f"-{uuid.uuid4().hex[:8]}")
    partial.replace(kept)
    log.warning("'%s' is kept as '%s': WhyCAM did not make %s in it", partial, kept.name, tell_names(added, "files"))


def replace_folder(partial: Path, folder: Path, keeps: str = "") -> None:
    """Renames, with the old one kept until the new one has its name; and longer, where somebody wrote into it since."""
    if not folder.exists():
        partial.replace(folder)
        _remove_killed(folder, keeps)
        return
    old = name_beside(folder, ".", f".{uuid.uuid4().hex[:8]}{_OLD}")
    folder.replace(old)
    partial.replace(folder)
    if why := tell_foreign(old, keeps):
        log.warning("The old '%s' is kept as '%s': it is %s", folder, old.name, why.partition(";")[0])
    elif old.is_dir():
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.unlink()
    _remove_killed(folder, keeps)


def _remove_killed(folder: Path, keeps: str) -> None:
    """Removes what was replaced by runs that were killed right then; not what somebody has written into."""
    for old in folder.parent.glob(f".{glob.escape(folder.name)}.*{_OLD}"):
        is_ours = re.fullmatch(rf"\.[0-9a-f]{{8}}{re.escape(_OLD)}", old.name.removeprefix(f".{folder.name}"))
        if is_ours and not tell_foreign(old, keeps):
            shutil.rmtree(old, ignore_errors=True)
