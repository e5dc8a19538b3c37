"""`whycam card`: a run's folder to its model card, and to the evidence behind every number of it."""

from __future__ import annotations

from pathlib import Path

from whycam.config import CardOptions
from whycam.errors import UserError
from whycam.jobs.evidence import make_evidence
from whycam.jobs.outputs import check_file
from whycam.jobs.run_record import read_record
from whycam.made import sign_text
from whycam.runs import open_atomic, tell_disk_errors, to_json
from whycam.show.card import render_card
from whycam.show.evidence import render_evidence


def make_card(run: Path, out: Path, options: CardOptions) -> list[Path]:
    """Writes the card and, where it is asked for, the evidence; nothing is measured, all of it is quoted.

    Args:
        run: a run folder.
        out: the card to make.
        options: see there.

    Returns:
        The files that were written, the card first.

    Raises:
        UserError: no run, one of an older version, an audit of another model, a file of that name, a full disk.
    """
    files = [out, *_name_evidence(options.evidence)]
    if out in files[1:]:
        raise UserError(
            f"-o and --evidence both name '{out}'; expected two files. Give the card a name such as card.md."
        )
    for path in files:
        what, endings = ("a card", (".md", ".markdown")) if path == out else ("evidence", (path.suffix.lower(),))
        check_file(path, what, endings, overwrite=options.overwrite)
    record = read_record(run, options.audit, options.evaluation)
    evidence = make_evidence(record, options)
    content = {out: sign_text(render_card(evidence, record.config.get("/whycam/head"), options.license))}
    for path in files[1:]:
        is_page = path.suffix.lower() == ".html"
        content[path] = (
            render_evidence(evidence).encode("utf-8", "backslashreplace")
            if is_page
            else to_json(evidence.to_json(), indent=2, allow_nan=False)
        )
    for path, text in content.items():
        with tell_disk_errors(path.absolute().parent), open_atomic(path) as part:
            part.write_bytes(text)
    return files


def _name_evidence(path: Path | None) -> list[Path]:
    """FILE.json, and the page beside it where that is what was asked for."""
    if path is None:
        return []
    if path.suffix.lower() not in {".json", ".html"}:
        raise UserError(
            f"--evidence is '{path}', which ends in neither .json nor .html; expected one of these. The "
            "page (.html) is written beside the same in JSON."
        )
    return [path] if path.suffix.lower() == ".json" else [path.with_suffix(".json"), path]
