"""A run trained again by its journal, as a new version beside the one that is kept; and a version's audit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from whycam.audit import KINDS, audit
from whycam.audit.data import ShowProgress, draw_samples
from whycam.config import TrainOptions
from whycam.data.folder import PhotoFolder
from whycam.intake.door import open_classifier
from whycam.mend.compare import compare_findings, compare_models
from whycam.mend.journal import NAME, Journal
from whycam.mend.state import State, replay
from whycam.mend.training import EDITS, prepare, read_source
from whycam.mend.versions import COMPARISON, Version, find_version, list_versions, open_version
from whycam.model.classifier import MANY
from whycam.model.gap import load_classifier
from whycam.runs import command_line, read_result, write_json

AUDIT = "audit.json"
# So many photos an audit looks at, the held-out ones first.
AUDITED = 350


def retrain(
    run: Path, root: Path, options: TrainOptions, show_progress: ShowProgress, *, has_audit: bool = False
) -> Version:
    """A new version by all edits so far, compared with the kept one, which stays as it is.

    Args:
        run: the run's folder.
        root: the folder of photos, or the list or shards that name them.
        options: how the run is trained.
        show_progress: see `Work`; what it raises calls the training off.
        has_audit: audit it too, which takes longer than the training.

    Raises:
        UserError: edits that can't be followed, another process at work on the run, a full disk.
    """
    journal = Journal.of(run)
    reading = journal.read()
    state = replay(reading.edits, reading.notes)
    before = next(version for version in list_versions(run) if version.is_kept)
    source = read_source(root, options, state)
    with open_version(run) as place:
        training = prepare(source, options, place, show_progress, state)
        scored = training.run()
        training.save(scored, {})
        comparison = compare_models(training.work, load_classifier(before.folder / "model"))
        if has_audit:
            found = audit_version(place, run, training.work.photos, options, show_progress)
            if (old := find_audit(before.folder)) is not None:
                comparison["findings"] = compare_findings(old, found)
        write_json(place / COMPARISON, {"before": before.number, **comparison})
        # What was said since this training began is none of it.
        if reading.content:
            (place / NAME).write_bytes(reading.content)
        _copy(run, place, options, state)
        number = place.name.removesuffix(".partial")
    return find_version(run, number)


def _copy(run: Path, place: Path, options: TrainOptions, state: State) -> None:
    """What makes the version a run of its own beside its journal: its options."""
    shutil.rmtree(place / "checkpoints", ignore_errors=True)
    words = json.loads((run / "options.json").read_text(encoding="utf-8"))
    # With the edits the training is another one, to whom asks which runs differ by their seed alone.
    ids = [edit.id for edit in state.edits]
    write_json(place / "options.json", {**words, "allow_empty": options.allow_empty, EDITS: ids})


def audit_version(
    place: Path,
    run: Path,
    photos: PhotoFolder,
    options: TrainOptions,
    show_progress: ShowProgress,
    *,
    kinds: Sequence[str] = tuple(KINDS),
    limit: int = AUDITED,
) -> dict[str, Any]:
    """Audits the model of a version on photos as people have them; written beside it as `audit.json`.

    Args:
        place: the version's folder.
        run: as commands name the model.
        photos: with their labels of now; the held-out ones first, then training photos up to the limit.
        options: whose seed counts.
        show_progress: see `Work`.
        kinds: what is looked for.
        limit: so many photos.
    """
    held = draw_samples(photos.val, limit, options.seed)
    more = draw_samples(photos.train, limit - len(held), options.seed) if len(held) < limit else []
    samples = sorted([*held, *more], key=lambda sample: (sample.label, sample.path))
    model = open_classifier(place, photos=MANY)
    found = audit(model, samples, kinds=kinds, seed=options.seed, show_progress=show_progress)
    # What is said of the audit holds when the version has its name.
    named = place.with_name(place.name.removesuffix(".partial"))
    told = found.to_json(MODEL=str(run), FOLDER=str(photos.place), FINDING=str(named / AUDIT))
    told = {"command": command_line(), **told, "record": {**told["record"], "model": str(run)}}
    write_json(place / AUDIT, told)
    return told


def find_audit(place: Path) -> dict[str, Any] | None:
    """The audit of a version; None where there is none.

    Raises:
        UserError: it can't be read.
    """
    path = place / AUDIT
    return read_result(path, AUDIT, "findings", "whycam audit") if path.is_file() else None
