"""`whycam audit`: a model and a folder of photos to `audit.json`, a table, and an exit code for a user's CI."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from whycam.audit import KINDS, Audit, audit
from whycam.audit.asker import AskBy, ask_here
from whycam.audit.compare import compare_audits
from whycam.config import AuditOptions
from whycam.data.annotations import Annotation, read_both
from whycam.data.folder import Sample
from whycam.data.regions import find_masks
from whycam.data.shards import is_there
from whycam.errors import UserError, make_unknown_name
from whycam.explainer.targets import seek_class
from whycam.intake.door import open_classifier
from whycam.jobs.progress import show_progress
from whycam.jobs.trained_run import find_trained
from whycam.model.classifier import MANY, Classifier
from whycam.runs import command_line, open_run, read_result, write_json

# So many findings are told with what to do about them; `audit.json` has it of all.
_REMEDIES = 3


def audit_folder(model_name: str, folder: Path, out: Path, options: AuditOptions, ask_by: AskBy = ask_here) -> Audit:
    """Audits, prints the table, and writes the folder `out` with `audit.json`.

    Args:
        model_name: see `whycam.load`.
        folder: photos.
        out: the folder to make.
        options: what is looked for.
        ask_by: whose cores answer for the model.

    Raises:
        UserError: no photos, not one class that the model has, an unknown kind, a result of that name.
    """
    kinds = split_kinds(options.kinds) or list(KINDS)
    if unsought := set(split_kinds(options.fail_on)) - set(kinds):
        raise UserError(
            f"--fail-on names {', '.join(sorted(unsought))}, which --kinds leaves out, so it never fails; expected "
            f"kinds among {', '.join(kinds)}. Add them to --kinds."
        )
    before = read_result(options.before, "audit.json", "record", "whycam audit") if options.before else None
    with open_run(out, overwrite=options.overwrite) as partial:
        model = open_classifier(model_name, **options.describe_model(), engine=options.engine, photos=MANY)
        samples, train = read_samples(model, folder)
        training = choose_training_photos(model_name, model, train) if options.with_training else []
        masks = (
            find_masks(options.masks, [sample.path for sample in samples], folder.absolute()) if options.masks else None
        )
        found = audit(
            model,
            samples,
            kinds=kinds,
            train=[sample.path for sample in train],
            training=training,
            masks=masks,
            limit=options.limit,
            seed=options.seed,
            engine=options.engine,
            show_progress=show_progress,
            ask_by=ask_by,
        )
        _check_can_fail(found, split_kinds(options.fail_on))
        words = {"MODEL": model_name, "FOLDER": str(folder), "FINDING": str(out / "audit.json")}
        told = found.to_json(**words)
        content = {"command": command_line(), "options": options.model_dump(mode="json"), **told}
        if before is not None:
            content["since_before"] = compare_audits(before, told)
        write_json(partial / "audit.json", content)
    print_audit(found, Console(), told["findings"])
    for sentence in content.get("since_before", ()):
        Console().print(f"Since {options.before}: {sentence}", markup=False, highlight=False)
    return found


def _check_can_fail(found: Audit, fail_on: Sequence[str]) -> None:
    """Refuses a --fail-on that never fails, as its kind can't be looked for in these photos."""
    if lost := [kind for kind in fail_on if kind not in found.record["kinds"]]:
        why = next((note for note in found.notes if note.startswith("Not looked for") and lost[0] in note), "")
        raise UserError(
            f"--fail-on names {', '.join(lost)}, which can't be looked for here, so it never fails. {why} Expected "
            f"kinds among {', '.join(found.record['kinds'])}. Leave the others out, or name the photos' classes."
        )


def split_kinds(words: str, known: Collection[str] = tuple(KINDS)) -> list[str]:
    """The kinds that a person named with commas, among those that are known.

    Raises:
        UserError: one that does not exist.
    """
    kinds = [word.strip() for word in words.split(",") if word.strip()]
    for kind in kinds:
        if kind == "question" and kind not in known:
            raise UserError("Questions are asked where shortcuts are looked for; name the kind 'shortcut' for both.")
        if kind not in known:
            raise make_unknown_name("kind of finding", kind, known)
    return kinds


def read_samples(model: Classifier, folder: Path) -> tuple[list[Sample], list[Sample]]:
    """The photos to audit, those of val/ where there is one, and the training photos beside them.

    Raises:
        UserError: no photos, or folders that name classes, and none that the model has.
    """
    photos, beside = read_both(folder, is_multi_label=model.card.is_multi_label)
    if any(photo.is_whole for photo in photos):
        return _read_sets(model, folder, photos), [Sample(photo.photo, -1) for photo in beside]
    words = {photo.classes[0] for photo in photos if photo.classes}
    if words and all(seek_class(str(word), model.card.class_names) is None for word in words):
        raise UserError(
            f"Not one of the {len(words)} folders ({', '.join(sorted(map(str, words))[:5])}, ...) is named as one of "
            f"the model's {len(model.card.class_names)} classes ({', '.join(model.card.class_names[:5])}, ...). "
            "Rename the folders, or put all photos into one folder to audit them without labels."
        )
    return label_samples(model, photos), label_samples(model, beside)


def choose_training_photos(model_name: str, model: Classifier, beside: Sequence[Sample]) -> Sequence[Sample]:
    """The training photos beside the audited ones; where there are none, those that a run says it learnt from.

    Raises:
        UserError: a file of the run is damaged.
    """
    if beside or model.card.is_multi_label:
        return beside
    return [sample for sample in label_samples(model, find_trained(model_name)) if is_there(sample.path)]


def label_samples(model: Classifier, photos: Sequence[Annotation]) -> list[Sample]:
    """The photos with their class as an index of the model's; -1 where it has none of that name."""
    words = {photo.classes[0] for photo in photos if photo.classes}
    found = {word: seek_class(str(word), model.card.class_names) for word in words}
    labels = {word: -1 if index is None else index for word, index in found.items()}
    return [Sample(photo.photo, labels[photo.classes[0]] if photo.classes else -1) for photo in photos]


def _read_sets(model: Classifier, folder: Path, photos: Sequence[Annotation]) -> list[Sample]:
    """The photos of a list whose classes go together, with those that the model has."""
    names = model.card.class_names
    words = {str(word) for photo in photos for word in photo.classes or ()}
    if not model.card.is_multi_label:
        raise UserError(
            f"'{folder}' gives photos several classes, and {model.card.name!r} names one of its {len(names)} a photo; "
            "expected a model of classes that go together, as whycam train makes of such a list."
        )
    index = {word: seek_class(word, names) for word in words}
    if words and all(found is None for found in index.values()):
        raise UserError(
            f"Not one of the {len(words)} classes in '{folder}' ({', '.join(sorted(words)[:5])}, ...) is one of the "
            f"model's {len(names)} ({', '.join(names[:5])}, ...). Rename them."
        )
    known = {word: found for word, found in index.items() if found is not None}
    return [
        Sample(photo.photo, -1, tuple(known[word] for word in map(str, photo.classes or ()) if word in known))
        for photo in photos
    ]


def print_audit(found: Audit, console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """The findings, what to do about those on top, and what could not be looked at.

    Args:
        found: the audit.
        console: where to.
        rows: its findings as `audit.json` holds them.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("cost", "severity", "certainty", "kind"):
        table.add_column(name, no_wrap=True)
    table.add_column("finding")
    for finding in found.findings:
        told = escape(finding.title)
        table.add_row(f"{finding.cost:.1%}", f"{finding.severity:.2f}", f"{finding.certainty:.3f}", finding.kind, told)
    if found.findings:
        (console if console.is_terminal else Console(width=160, file=console.file)).print(table)
    else:
        console.print("Nothing found.")
    for row in rows[:_REMEDIES]:
        console.print(f"{row['id']}: {row['remedy']}", markup=False, highlight=False)
        if row["command"]:
            console.print(f"    {row['command']}", markup=False, highlight=False, soft_wrap=True)
    for note in found.notes:
        console.print(note, markup=False, highlight=False)
