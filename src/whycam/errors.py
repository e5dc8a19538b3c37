"""The errors a person can fix, told without a traceback."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

EXIT_CODE = 2
_DISK_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# The last: a folder that went away while it was written to, or one that takes no files, as /proc.
_ACCESS_ERRNOS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT}


class UserError(Exception):
    """Something the caller can put right: what was found, what was expected, what to do.

    The command line prints the message without a traceback and exits with code 2.
    """


class PhotoIndexError(UserError, IndexError):
    """A photo's number that an explanation does not have; an IndexError too, by which loops know their end."""


def as_clause(reason: object) -> str:
    """What an error or another reason says, inside a sentence: one line, no dot at its end; its class where it is mute.

    Of a sentence with a list of tries below it, as tarfile's, the sentence stands.
    """
    first, *rest = str(reason).strip().splitlines() or [""]
    if rest and not (first.endswith(":") and all(line.lstrip().startswith("- ") for line in rest)):
        first = " ".join(" ".join((first, *rest)).split())
    return first.strip().rstrip(".:") or type(reason).__name__


def tell_wrong_value(fault: Mapping[str, Any]) -> str:
    """What pydantic says of one wrong value, without its own word in front: "input should be greater than 0"."""
    told = re.sub(r"^(Value error|Assertion failed), ", "", str(fault["msg"]))
    return as_clause(told[:1].lower() + told[1:])


def join_words(words: Sequence[str]) -> str:
    """Such as "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def with_article(words: str) -> str:
    """A or an before it."""
    return f"{'an' if words[:1].lower() in set('aeiou') else 'a'} {words}"


def nearest_names(name: str, choices: Iterable[str], count: int = 3) -> list[str]:
    """The choices spelled most like `name`, best first; names that contain it come next."""
    folded = {choice.casefold(): choice for choice in choices}
    close = difflib.get_close_matches(name.casefold(), folded, n=count, cutoff=0.5)
    inside = [key for key in folded if name.casefold() in key and key not in close]
    return [folded[key] for key in (*close, *inside)[:count]]


def make_unknown_name(kind: str, name: str, choices: Iterable[str]) -> UserError:
    """A UserError for a name that is none of `choices`, with the nearest ones."""
    known = list(choices)
    listed = ", ".join(known) if len(known) <= 12 else f"{', '.join(known[:8])}, ... ({len(known)} in all)"
    near = nearest_names(name, known)
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    return UserError(f"Unknown {kind} {name!r}. Available: {listed}.{hint}")


def make_disk_error(error: OSError, folder: Path) -> UserError | None:
    """A UserError for a full disk, a spent quota, a file size limit or a place that can't be written to; else None."""
    where = Path(error.filename).absolute() if isinstance(error.filename, str) else folder
    if error.errno in _ACCESS_ERRNOS:
        return UserError(f"'{where}' can't be written to: {error.strerror}. Choose a folder that is yours.")
    if error.errno == errno.ENAMETOOLONG:
        return UserError(f"'{where}' can't be written to: {error.strerror}. Choose a shorter name.")
    if error.errno not in _DISK_ERRNOS:
        return None
    return UserError(
        f"No room to write '{where}': {error.strerror}. Nothing was left under the final name. "
        "Free some space (or choose a folder on another disk) and run the same command again (with --resume where "
        "there is one)."
    )


def make_busy_error(path: Path) -> UserError:
    """A UserError for an output that another process is writing."""
    return UserError(f"Another process is working on '{path}'. Wait for it, or choose another name.")


def make_unreadable_error(photos: int, first: str | Path) -> UserError:
    """A UserError for photos of which not one could be read."""
    return UserError(
        f"Not one of the {photos} photos could be read; nothing was written. The first: '{first}'. Check the files."
    )
