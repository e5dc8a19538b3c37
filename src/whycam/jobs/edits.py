"""`whycam edits`: what people said of a run's photos, for other tools; and what does not count, for people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from whycam.config import EditsOptions
from whycam.errors import UserError
from whycam.mend.edited_run import EditedRun
from whycam.mend.hand_on import FORMATS, Edited
from whycam.runs import open_run


@dataclass(frozen=True)
class Outcome:
    """What a finished `whycam edits` counts, and sentences on what it skipped or found to disagree."""

    photos: int
    edits: int
    told: tuple[str, ...]


def hand_on(run: Path, folder: Path | None, out: Path, options: EditsOptions) -> Outcome:
    """Writes the edits into the folder `out`.

    Raises:
        UserError: no run, its photos are no longer there, no edits, or a result of that name.
    """
    edited = EditedRun.open(run, folder)
    state = edited.state
    if not state.edits:
        raise UserError(
            f"Found no edits in '{edited.journal.path.absolute()}'; expected some. Correct photos or findings first."
        )
    applied = edited.apply(state)
    labels = {sample.path: edited.source.class_names[sample.label] for sample in edited.source.samples}
    photos = [
        (path, content, labels[path], state.photos[content])
        for path, content in sorted(edited.hashes.items())
        if content in state.photos and path in labels
    ]
    names = applied.list_classes(edited.source)
    with open_run(out, overwrite=options.overwrite) as partial:
        FORMATS[options.format](Edited(edited.source.root, photos, names), partial)
    told = (*applied.notes, *(conflict.tell() for conflict in state.conflicts))
    return Outcome(len(photos), len(state.edits), told)
