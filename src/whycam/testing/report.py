"""The report of guards: a folder with the pictures of each one that fails, guards.json, and a page of all."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from whycam.errors import UserError
from whycam.runs import find_way, open_atomic, read_versions, tell_disk_errors, write_json
from whycam.testing.verdict import NAMED, Verdict

PAGE, TABLE = "index.html", "guards.json"
_QUALITY = 88
# Of a test's name as much as a folder's may hold.
_LETTERS = 80


def name_folder(test: str, count: int) -> str:
    """A folder's name for the verdict of a test; another one's has another name."""
    digest = hashlib.blake2b(test.encode("utf-8", "surrogateescape"), digest_size=3).hexdigest()
    stem = re.sub(r"[^A-Za-z0-9_.]+", "-", test.rpartition("/")[2])[-_LETTERS:].strip("-.")
    return "-".join(filter(None, (stem, digest, str(count))))


def write_verdict(record: Mapping[str, Any], verdict: Verdict, folder: Path) -> dict[str, Any]:
    """Draws the worst photos into a folder, which replaces one of that name; the record comes back with the files.

    Raises:
        UserError: a full disk, or a place that can't be written to.
    """
    with tell_disk_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if not (table := folder.parent / TABLE).exists():
            # Of a run that is killed before its end, the next one knows that the folder is a report's.
            write_json(table, {"guards": []})
        rows = [dict(row) for row in record["worst"]]
        for number, (row, one) in enumerate(zip(rows, verdict.worst[:NAMED], strict=False), start=1):
            row["pictures"] = []
            for place, (caption, picture) in enumerate(one.draw(), start=1):
                file = f"{number:02}-{place}.jpg"
                with open_atomic(folder / file) as part:
                    picture.save(part, "JPEG", quality=_QUALITY)
                row["pictures"].append({"file": file, "caption": caption, "size_px": picture.size})
    return {**record, "worst": rows, "folder": str(folder.absolute())}


def write_report(root: Path, records: Sequence[Mapping[str, Any]], **about: Any) -> Path:
    """`guards.json` and the page of some verdicts; what an earlier report left in the folder goes.

    Args:
        root: the folder.
        records: as `write_verdict` gives them, or without pictures.
        about: what else guards.json holds.

    Raises:
        UserError: a full disk, or a place that can't be written to.
    """
    from whycam.show.guards import render_guards  # noqa: PLC0415 - the page takes what no guard that holds needs

    with tell_disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        rows = [dict(record) for record in records]
        for row in rows:
            if "folder" in row:
                row["folder"] = find_way(root, Path(row["folder"])) or row["folder"]
        _remove_old(root, {str(row["folder"]) for row in rows if "folder" in row})
        content = {**about, "guards": rows, "versions": read_versions()}
        write_json(root / TABLE, content)
        with open_atomic(root / PAGE) as part:
            part.write_text(render_guards(content), encoding="utf-8", errors="backslashreplace")
    return root / PAGE


def check_root(root: Path) -> None:
    """Refuses a folder that holds something else than an earlier report.

    Raises:
        UserError: it does, or it is a file.
    """
    if root.exists() and not (root / TABLE).is_file() and (root.is_file() or any(root.iterdir())):
        raise UserError(
            f"'{root.absolute()}' holds something else than a report of guards; expected an empty folder, one with "
            f"{TABLE}, or none. Choose another name."
        )


def _remove_old(root: Path, kept: set[str]) -> None:
    """The folders that an earlier report names and this one does not; nothing outside of the folder."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads((root / TABLE).read_text(encoding="utf-8"))["guards"]
        for name in {str(row["folder"]) for row in found if "folder" in row} - kept:
            if name not in {"", ".", ".."} and Path(name).name == name:
                shutil.rmtree(root / name, ignore_errors=True)
