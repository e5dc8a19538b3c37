"""`whycam report`: a run's held-out photos, or a folder's, to one page that opens from the disk."""

from __future__ import annotations

import heapq
import random
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whycam.callbacks.recording import is_recording
from whycam.config import AuditOptions, ReportOptions
from whycam.data.folder import Sample
from whycam.errors import UserError, make_unreadable_error
from whycam.explainer.reading import Reading
from whycam.intake.door import open_classifier
from whycam.jobs.outcome import Outcome, write_page
from whycam.jobs.outputs import check_file
from whycam.jobs.progress import show_progress
from whycam.jobs.report_photos import (
    ALL_CLASSES,
    BEST,
    MapReader,
    Read,
    ReportPhotos,
    add_evidence,
    find_photos_to_report,
    find_truths,
    make_truth_finder,
    read_items,
)
from whycam.jobs.trained_run import Run, read_run
from whycam.runs import find_source, read_result, read_versions
from whycam.show.entries import make_entry
from whycam.show.report import EVIDENCE_PHOTOS, PICTURED_FINDINGS, Report, render_report
from whycam.show.tally import Tally

if TYPE_CHECKING:
    from whycam.show.web.embedded import EmbeddedNetwork


def make_report(model: str, folder: Path | None, out: Path, options: ReportOptions) -> Outcome:
    """Writes the page.

    Args:
        model: a training run, whose held-out photos are shown; a recording of `whycam.callbacks`; or see
            `whycam.load`, with a folder.
        folder: photos; of a run whose photos have moved, the folder that they are in now.
        out: the file to make.
        options: see there.

    Raises:
        UserError: no photos, an unknown model, a file that exists, a full disk, or not one photo that can be read; of
            --live, a model that can't answer in a page, or a page that is too large.
    """
    check_file(out, "a report", (".html", ".htm"), overwrite=options.overwrite)
    _check_live(model, options)
    if is_recording(Path(model)):
        from whycam.jobs.recording import make_recording_page  # noqa: PLC0415 - a page that other reports do without

        return make_recording_page(Path(model), folder, out)
    run = read_run(Path(model))
    reported = find_photos_to_report(model, run, folder)
    usual = run.place / "evaluation" if run else None
    evaluation = _find_json(options.evaluation, "overall.json", "whycam evaluate", usual)
    live = _make_live(model, options)
    audit, why_not = _find_audit(model, folder, reported, run, options)
    reported, names = add_evidence(reported, _list_paths(audit))
    kept = _read_all(
        reported, _Kept(MapReader(model, options, len(reported.items)), options, frozenset(names.values()))
    )
    _check_audit(audit, kept.reader.class_names)
    entries = kept.entries()
    page = render_report(
        Report(
            model=model,
            title=Path(model).resolve().name if run else model,
            class_names=kept.reader.class_names,
            is_multi_label=kept.reader.is_multi_label,
            thresholds=kept.reader.thresholds,
            entries=entries,
            tally=kept.tally,
            photos_told=reported.told,
            unreadable=kept.unreadable,
            bias=kept.bias,
            record=kept.record,
            summary=run.summary if run else None,
            epochs=run.epochs if run else (),
            audit=audit,
            audit_told=why_not or f"run whycam audit {model} {folder or 'FOLDER'} -o DIR, then this with --audit DIR.",
            evidence={path: name for path, name in names.items() if name in {entry["id"] for entry in entries}},
            evaluation=evaluation,
            versions=read_versions(),
            live=live,
        )
    )
    if live is not None:
        from whycam.jobs.report_live import check_page  # noqa: PLC0415 - torch, which other reports do without

        check_page(page, live, model)
    return Outcome(kept.tally.photos, len(kept.unreadable), write_page(page, out))


def _check_live(model: str, options: ReportOptions) -> None:
    """Refuses what does not go with --live, or without it."""
    if options.runtime is not None and not options.live:
        raise UserError("--runtime goes with --live, which is not asked for. Add --live, or leave it out.")
    if options.live and is_recording(Path(model)):
        raise UserError(
            f"'{Path(model).absolute()}' is a recording of a training, which holds maps and no network; --live puts a "
            "network into the page. Name the model that was trained, or leave --live out."
        )


def _make_live(model: str, options: ReportOptions) -> EmbeddedNetwork | None:
    if not options.live:
        return None
    from whycam.jobs.report_live import make_live  # noqa: PLC0415 - torch, which other reports do without

    return make_live(model, options)


def _read_all(reported: ReportPhotos, kept: _Kept) -> _Kept:
    with show_progress("reading photos", len(reported.items)) as advance:
        for read in read_items(reported.items, kept.reader, kept.options.batch_size):
            kept.add(read)
            advance(1)
    if not kept.tally.photos:
        raise make_unreadable_error(len(reported.items), reported.items[0].path)
    return kept


@dataclass
class _Kept:
    """What is kept while photos go by: counts of all; up to the limit evidence, mistakes, a sample."""

    reader: MapReader
    options: ReportOptions
    wanted: frozenset[str] = frozenset()
    record: dict[str, Any] = field(default_factory=dict)
    bias: list[float] | None = None
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tally = Tally(len(self.reader.class_names))
        self._draw = random.Random(self.options.seed)  # noqa: S311 - a sample, not a secret
        self._kept: list[tuple[bool, bool, float, int, dict[str, Any]]] = []
        self._evidence: list[tuple[int, dict[str, Any]]] = []
        self._seen = 0

    def add(self, read: Read) -> None:
        """Counts a photo, and keeps it where it ranks high enough."""
        self._seen += 1
        if read.reading is None:
            self.unreadable.append((read.item.name, read.error))
            return
        if not self.record:
            self._begin(read.reading)
        if read.item.is_evidence:
            self._evidence.append((self._seen, self._make_entry(read, read.reading)))
            return
        if read.truths is not None:
            self.tally.add_whole(read.reading, read.truths)
            is_wrong = set(read.reading.given) != set(read.truths)
        else:
            self.tally.add(read.reading, read.truth)
            is_wrong = read.truth is not None and not self._is_right(read.reading, read.truth)
        rank = (read.item.name in self.wanted, is_wrong, self._draw.random(), self._seen)
        if len(self._kept) < self.options.limit:
            heapq.heappush(self._kept, (*rank, self._make_entry(read, read.reading)))
        elif rank > self._kept[0][:4]:
            heapq.heapreplace(self._kept, (*rank, self._make_entry(read, read.reading)))

    def _is_right(self, reading: Reading, truth: int) -> bool:
        """Whether the class is named; of labels that may go together, whether its own is given."""
        if self.reader.is_multi_label:
            return truth in reading.given
        return truth == reading.predicted

    def _begin(self, reading: Reading) -> None:
        self.record = {name: value for name, value in reading.record.items() if name != "target"}
        if self.reader.is_exact:
            order = np.argsort(reading.targets)
            self.bias = (reading.logits - reading.maps[order].mean(axis=(1, 2))).tolist()

    def _make_entry(self, read: Read, reading: Reading) -> dict[str, Any]:
        keep = None
        if len(reading.class_names) > ALL_CLASSES:
            keep = [int(k) for k in np.argsort(-reading.logits, kind="stable")[:BEST]]
            keep += [*reading.given, *(read.truths or ()), *([] if read.truth is None else [read.truth])]
        entry = make_entry(reading, read.item.name, read.item.name, image=read.image, truth=read.truth, keep=keep)
        whole = {} if read.truths is None else {"truths": list(read.truths)}
        return entry | whole | {"isEvidence": read.item.is_evidence}

    def entries(self) -> list[dict[str, Any]]:
        """Those that were kept, in the order of the photos."""
        kept = [(place, entry) for *_, place, entry in self._kept] + self._evidence
        return [entry for _, entry in sorted(kept, key=lambda one: one[0])]


def _find_json(given: Path | None, name: str, maker: str, usual: Path | None) -> dict[str, Any] | None:
    """The JSON that an option names, itself or its folder; else the one in the usual folder, where there is one.

    Raises:
        UserError: no such file, or not what that command writes.
    """
    place = given if given is not None else usual
    if place is None:
        return None
    path = place / name if place.is_dir() or given is None else place
    if given is None and not path.is_file():
        return None
    return read_result(path, name, "findings" if name == "audit.json" else "overall", maker)


def _list_paths(audit: dict[str, Any] | None) -> list[str]:
    found = (audit or {}).get("findings", ())[:PICTURED_FINDINGS]
    return [photo["path"] for finding in found for photo in finding["photos"][:EVIDENCE_PHOTOS]]


def _check_audit(audit: dict[str, Any] | None, class_names: Sequence[str]) -> None:
    """Refuses an audit of another model.

    Raises:
        UserError: a finding on a class that the model has not.
    """
    named = {one["class"] for one in (audit or {}).get("findings", ()) if one["class"] is not None}
    if foreign := sorted(named - set(class_names)):
        raise UserError(
            f"The audit speaks of {', '.join(map(repr, foreign[:5]))}, which is no class of this model "
            f"({', '.join(map(repr, class_names[:5]))}); expected an audit of the same model. Run whycam audit with it."
        )


def _find_audit(
    model: str, folder: Path | None, reported: ReportPhotos, run: Run | None, options: ReportOptions
) -> tuple[dict[str, Any] | None, str]:
    """The audit that there is, or one made now of the photos; or why there is none, where it was tried."""
    audit = _find_json(options.audit, "audit.json", "whycam audit", run.place if run else None)
    if audit is not None or options.no_audit:
        return audit, ""
    from whycam.audit import audit as make_audit  # noqa: PLC0415 - slow, and a report with an audit does without

    found, limit = open_classifier(model, **options.describe_model(), photos=len(reported.items)), AuditOptions().limit
    find_truth = make_truth_finder(found.card.class_names)
    names, samples = found.card.class_names, []
    for item in reported.items:
        truth = None if item.is_whole else find_truth(item.words)
        labels = find_truths(item.words, names) if item.is_whole else None
        samples.append(Sample(item.path, -1 if truth is None else truth, labels))
    try:
        result = make_audit(
            found,
            samples,
            train=reported.train,
            limit=limit,
            seed=options.seed,
            engine=options.engine,
            show_progress=show_progress,
        )
    except UserError as error:
        return None, str(error)
    where = folder or (find_source(run.place, run.summary["data"]) if run else "FOLDER")
    words = {"MODEL": model, "FOLDER": str(where), "FINDING": "audited/audit.json"}
    told = result.to_json(**words)
    if any("audited/audit.json" in finding["command"] for finding in told["findings"]):
        command = shlex.join(["whycam", "audit", words["MODEL"], words["FOLDER"], "-o", "audited"])
        told["notes"].append(f"audited/audit.json, where a command names it, is made by: {command}")
    return told, ""
