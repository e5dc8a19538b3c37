"""`whycam check`: a folder of photos, and no model, to `audit.json`, a table, and an exit code for a user's CI."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from whycam.audit.findings import Audit
from whycam.audit.photos import KINDS, check
from whycam.config import CheckOptions
from whycam.data.annotations import read_both
from whycam.data.folder import Sample
from whycam.jobs.audit import print_audit, split_kinds
from whycam.jobs.progress import show_progress
from whycam.runs import command_line, open_run, write_json


def check_folder(folder: Path, out: Path, options: CheckOptions) -> Audit:
    """Checks, prints the table, and writes the folder `out` with `audit.json`.

    Raises:
        UserError: no photos, an unknown kind, a result of that name.
    """
    split_kinds(options.fail_on, KINDS)
    with open_run(out, overwrite=options.overwrite) as partial:
        photos, train = read_both(folder)
        is_several = any(one.is_whole for one in photos)
        words = [] if is_several else sorted({one.classes[0] for one in (*photos, *train) if one.classes})
        index = {word: k for k, word in enumerate(words)}
        samples, kept = (
            [Sample(one.photo, index[one.classes[0]] if one.classes and not is_several else -1) for one in part]
            for part in (photos, train)
        )
        total = 2 * min(options.limit, len(samples) + len(kept))
        with show_progress("checking", total) as advance:
            found = check(
                samples,
                {k: str(word) for word, k in index.items()},
                train=kept,
                limit=options.limit,
                seed=options.seed,
                progress=advance,
            )
        if is_several:
            note = "Classes go together in this list: nothing that compares them was looked for."
            found = replace(found, notes=(note, *found.notes))
        told = found.to_json(FOLDER=str(folder), FINDING=str(out / "audit.json"))
        content = {"command": command_line(), "options": options.model_dump(mode="json"), **told}
        write_json(partial / "audit.json", content)
    print_audit(found, Console(), told["findings"])
    return found
