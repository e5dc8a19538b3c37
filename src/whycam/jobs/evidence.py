"""A run's record as evidence: facts in the order of technical documentation, each with where it came from.

Add a fact as one line of the section that it belongs to; one that a run does not have is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from whycam.config import CardOptions
from whycam.jobs.run_record import RunRecord, SourceFile, escape_key
from whycam.mend.edits import KINDS
from whycam.mend.state import name_cause
from whycam.metrics.groups import find_interval
from whycam.runs import command_line, read_versions, to_text
from whycam.show.evidence import Evidence, Fact, Interval, Origin, Section

WILSON = "Wilson, of the counts in the confusion matrix"
BOOTSTRAP = "bootstrap over photos, as the file holds it"
# How the words of options.json that change what a model learns are told.
_AGAINST = {
    "against": "trained against a finding (--against)",
    "ignore": "evidence pushed off a part of the photos (--ignore)",
    "attend": "evidence pulled onto the objects (--attend)",
    "edits": "trained by people's edits (--edits)",
    "groups": "groups of equal weight (--groups)",
    "robust": "more weight on what a first head misses (--robust)",
}


@dataclass(frozen=True)
class _Quote:
    """Facts out of one file."""

    file: SourceFile

    def __call__(self, name: str, key: str, **about: Any) -> list[Fact]:
        """The fact at a JSON Pointer; none where the file does not say it."""
        value = self.file.get(key)
        return [] if value is None else [Fact(name, value, (Origin(self.file.name, key),), **about)]

    def count(self, name: str, key: str, **about: Any) -> list[Fact]:
        """How many entries a list or object has."""
        value = self.file.get(key)
        origins = (Origin(self.file.name, key),)
        return [] if value is None else [Fact(name, len(value), origins, computed="number of entries", **about)]


def make_evidence(record: RunRecord, options: CardOptions) -> Evidence:
    """All that is known of a run; nothing is measured for it."""
    return Evidence(
        name=to_text(options.name or record.folder.resolve().name),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command_line(),
        versions=read_versions(),
        files={one.name: {"path": to_text(one.path.absolute()), "sha256": one.sha256} for one in record.files},
        sections=(
            _tell_model(record, options),
            _tell_making(record),
            _tell_quality(record),
            _tell_measures(record),
            _tell_findings(record),
            _tell_changes(record),
        ),
    )


def _tell_model(record: RunRecord, options: CardOptions) -> Section:
    summary, config = _Quote(record.summary), _Quote(record.config)
    said = [
        Fact(name, value, (Origin("command line", key),))
        for name, value, key in (
            ("purpose, as its owner says it", options.purpose, "--purpose"),
            ("licence, as its owner says it", options.license, "--license"),
        )
        if value
    ]
    is_whole = "the file has this hash" if record.has_same_weights else "the file is not there, or not this one"
    return Section(
        "model",
        "1. The model",
        [
            *said,
            *config("classes", "/whycam/class_names"),
            *config("SHA-256 of the weights", "/whycam/sha256", note=is_whole),
            *summary("backbone", "/backbone"),
            *summary("weights that it started from", "/weights"),
            *summary("head", "/head"),
            *summary("side of the input", "/image_size_px", unit="px"),
            *summary("pixels that a cell of a map spans", "/map_stride", unit="px"),
            *config("a photo that is not of the input's shape", "/whycam/preprocess/resize"),
            *_tell_versions(record.summary),
        ],
    )


def _tell_versions(summary: SourceFile) -> Iterator[Fact]:
    for name in summary.get("/versions", {}):
        yield from _Quote(summary)(f"version of {name}", f"/versions/{escape_key(name)}")


def _tell_making(record: RunRecord) -> Section:
    summary, options = _Quote(record.summary), _Quote(record.options)
    data = Section(
        "data",
        "Photos",
        [
            *summary("folder", "/data/folder"),
            *summary("list or shards", "/data/listed"),
            *summary("what was left out of these", "/data/notes"),
            *summary("fingerprint of names, labels and contents", "/data/fingerprint"),
            *summary("photos trained on", "/data/train"),
            *summary("photos held out", "/data/val"),
            *summary("the split was drawn by the seed", "/data/is_split_by_us"),
            *(options("share held out", "/val_fraction") if record.summary.get("/data/is_split_by_us") else []),
            *summary.count("photos left out, unreadable", "/data/unreadable"),
            *summary("classes left out", "/data/classes_left_out"),
            *summary("photos that chose the epoch", "/chosen/photos", note=_tell_choice(record.summary)),
            *summary("photos that it was tested on", "/test/photos"),
        ],
    )
    training = Section(
        "training",
        "Training",
        [
            *summary("command", "/command"),
            *summary("seed", "/seed"),
            *summary("device", "/device"),
            *summary("epochs trained", "/epochs"),
            *summary("seconds in all", "/times_s/total", unit="s"),
        ],
    )
    words = [name for name in record.options.content if name not in {"class_names", *_AGAINST, "seed", "val_fraction"}]
    chosen = [fact for name in words for fact in options(name, f"/{escape_key(name)}")]
    return Section("making", "2. How it was made", parts=[data, training, Section("options", "Options", chosen)])


def _tell_choice(file: SourceFile) -> str:
    """Which photos chose the epoch, in words."""
    words = {"slice": "a slice of the training photos", "val": "those held out", "last": "the last epoch is kept"}
    by = f", by its {found}" if (found := file.get("/chosen/by")) else ""
    again = "; then it was trained on all of them" if file.get("/chosen/trained_again_on_all") else ""
    return words.get(str(file.get("/chosen/on")), "") + by + again


def _tell_quality(record: RunRecord) -> Section:
    summary, names = _Quote(record.summary), record.class_names
    counts = record.summary.get("/confusion")
    right, total = sum(row[k] for k, row in enumerate(counts)), sum(map(sum, counts))
    accuracy = Fact(
        "accuracy",
        record.summary.get("/val_accuracy"),
        (Origin(record.summary.name, "/val_accuracy"), Origin(record.summary.name, "/confusion")),
        interval=_find_interval(right, total),
        note=f"{right} of {total} held-out photos. {record.summary.get('/val_note', '')}".strip(),
    )
    whole = [
        accuracy,
        *_tell_test(record.summary),
        *summary("balanced accuracy", "/val_balanced_accuracy", note="mean recall of the classes"),
        *summary("expected calibration error", "/val_calibration_error"),
        *summary("cross entropy", "/val_loss", unit="nats"),
        *summary(
            "error of mean(map) + bias = logit",
            "/identity_error",
            unit="of the logits' range",
            note="the largest of the photos that it was measured on: by so much the maps are not the scores",
        ),
        *summary("photos that this was measured on", "/identity_photos"),
        *summary("what storing features in 16 bits changes", "/stored_features_error", unit="of the logits' range"),
    ]
    each = [_tell_class(record.summary, k, name) for k, name in enumerate(names)]
    parts = [Section("classes", "Each class", [fact for facts in each for fact in facts])]
    parts += (
        [Section("groups", "Each group", list(_tell_groups(record.summary)))]
        if "groups" in record.summary.content
        else []
    )
    parts += _tell_evaluation(record.evaluation) if record.evaluation else []
    return Section("quality", "3. How good it is", whole, parts)


def _tell_test(file: SourceFile) -> Iterator[Fact]:
    """The figures of `--test`, and those with mirror images."""
    about = "with the mirror image averaged in"
    for name, key in (
        ("accuracy on the test photos", "/test"),
        (f"accuracy {about}", "/tta/val"),
        (f"accuracy on the test photos, {about}", "/tta/test"),
    ):
        if (value := file.get(f"{key}/accuracy")) is not None:
            right, total = file.get(f"{key}/right"), file.get(f"{key}/photos")
            yield Fact(
                *(name, value, tuple(Origin(file.name, f"{key}/{word}") for word in ("accuracy", "right", "photos"))),
                interval=_find_interval(right, total),
                note=f"{right} of {total} photos. {file.get(f'{key}/note', '')}".strip(),
            )


def _find_interval(right: int, total: int) -> Interval:
    return Interval(*find_interval(right, total), how=WILSON)


def _tell_class(summary: SourceFile, k: int, name: str) -> list[Fact]:
    quote, row = _Quote(summary), summary.get(f"/confusion/{k}")
    key = f"/classes/{escape_key(name)}"
    recall = [
        Fact(
            f"{name}: recall",
            summary.get(f"{key}/recall"),
            (Origin(summary.name, f"{key}/recall"), Origin(summary.name, f"/confusion/{k}")),
            interval=_find_interval(row[k], sum(row)),
            note=f"{row[k]} of {sum(row)} photos",
        )
    ]
    return [*recall, *quote(f"{name}: precision", f"{key}/precision")]


def _tell_groups(source: SourceFile) -> Iterator[Fact]:
    for i, one in enumerate(source.get("/groups/each", [])):
        yield Fact(
            f"{one['class']} / {one['group']}: accuracy",
            one["accuracy"],
            (Origin(source.name, f"/groups/each/{i}/accuracy"),),
            interval=Interval(one["low"], one["high"], "Wilson, as the file holds it"),
            note=f"{one['right']} of {one['photos']} photos",
        )


def _tell_evaluation(source: SourceFile) -> list[Section]:
    quote, rows = _Quote(source), source.get("/overall", [])
    classifier = [*quote("command", "/command"), *quote("photos", "/photos")]
    if (accuracy := source.get("/classifier/accuracy")) is not None:
        low, high = (source.get(f"/classifier/accuracy_{end}") for end in ("low", "high"))
        interval = None if low is None else Interval(low, high, BOOTSTRAP)
        origins = (Origin(source.name, "/classifier/accuracy"),)
        classifier.append(Fact("accuracy on the evaluation's photos", accuracy, origins, interval=interval))
    maps = [
        Fact(
            f"{row['metric']} of {row['method']}",
            row["value"],
            (Origin(source.name, f"/overall/{i}/value"),),
            interval=None if row["low"] is None else Interval(row["low"], row["high"], BOOTSTRAP),
            note=f"{row['better']} is better; {row['photos']} photos" + ("; a baseline" if row["is_baseline"] else ""),
        )
        for i, row in enumerate(rows)
        if row["value"] is not None
    ]
    return [Section("evaluation", "The evaluation", classifier), Section("maps", "How good the maps are", maps)]


def _tell_measures(record: RunRecord) -> Section:
    facts = _Quote(record.summary)("how the epoch was chosen", "/val_note")
    if record.evaluation is not None:
        metrics = record.evaluation.get("/metrics", {})
        for name in metrics:
            facts += _Quote(record.evaluation)(f"paper of {name}", f"/metrics/{escape_key(name)}/paper")
    note = (
        "How each interval was made stands beside it in the evidence. Whether these are the right measures for the "
        "purpose is for people to say: an accuracy says nothing of photos that are taken otherwise than the held-out "
        "ones."
    )
    return Section("measures", "4. How it was measured", facts, note=note)


def _tell_findings(record: RunRecord) -> Section:
    done = [Section("done", "What was done in training", list(_tell_cures(record)))]
    audit, title = record.audit, "5. What was found, and what was done about it"
    if audit is None:
        none = "No audit of this model was given: that nothing is listed does not mean that nothing is there."
        return Section("findings", title, parts=[done[0], *_tell_answers(record)], note=none)
    quote = _Quote(audit)
    facts = [
        *quote("command", "/command"),
        *quote("photos audited", "/photos"),
        *quote("seed", "/record/seed"),
        *quote("kinds of findings that were looked for", "/record/kinds"),
        *quote.count("findings", "/findings"),
        *quote("notes of the audit", "/notes"),
        *quote("since the audit before", "/since_before"),
    ]
    note = f"The audit is known to be of this model by {record.audit_known_by}."
    found = [_tell_finding(record, audit, i) for i in range(len(audit.get("/findings", [])))]
    return Section("findings", title, facts, [*found, *done, *_tell_answers(record)], note)


def _tell_finding(record: RunRecord, audit: SourceFile, i: int) -> Section:
    quote, key = _Quote(audit), f"/findings/{i}"
    about = audit.get(key)
    named = [
        *quote("kind", f"{key}/kind"),
        *quote("class", f"{key}/class"),
        *quote("cost", f"{key}/cost", note="share of all audited photos whose answer is wrong, or would be, by it"),
        *quote("severity", f"{key}/severity", note="share of the photos that it speaks of"),
        *quote("certainty", f"{key}/certainty", note="1 - the chance of so clear a sign without a cause"),
        *quote("in words", f"{key}/detail"),
        *quote("what could be done", f"{key}/remedy"),
    ]
    cause = name_cause(about)
    answers = [
        fact for fact in _iter_answers(record) if record.journal and name_cause(_finding_of(record, fact)) == cause
    ]
    if not answers:
        answers = [
            Fact("what was done", "nothing is recorded", (Origin(audit.name, key),), computed="no edit is of it")
        ]
    return Section(about["id"], about["title"], [*named, *answers])


def _finding_of(record: RunRecord, fact: Fact) -> dict[str, Any]:
    assert record.journal is not None  # noqa: S101 - a fact of the journal
    line = fact.origins[0].key.split("/")[1]
    return dict(record.journal.get(f"/{line}/finding"))


def _iter_answers(record: RunRecord) -> Iterator[Fact]:
    """What people said of findings, with the line that they said it in."""
    if record.journal is None:
        return
    trained = set(record.summary.get("/edits/ids", []))
    lines: dict[str, int] = {}
    for i, line in enumerate(record.journal.content):
        if isinstance(line, dict) and "id" in line:
            lines.setdefault(line["id"], i)  # as the journal is read: of one id the first line counts
    for edit in (*record.state.cures, *record.state.dismissed):
        told = "trained against" if edit.kind == "cure" else "no fault, as a person said"
        if edit.kind == "cure" and edit.id not in trained:
            told = "to be trained against: this model is not yet trained by it"
        who = f"{edit.who or 'somebody'} at {edit.time}"
        note = f"{who}: {edit.note}" if edit.note else who
        origin = Origin(record.journal.name, f"/{lines[edit.id]}/kind")
        yield Fact("what was done", told, (origin,), computed="the edit's kind in words", note=note)


def _tell_cures(record: RunRecord) -> Iterator[Fact]:
    options, summary = _Quote(record.options), _Quote(record.summary)
    for name, told in _AGAINST.items():
        if record.options.get(f"/{name}"):
            yield from options(told, f"/{name}")
    for when, key in (("before", "changed_before"), ("after", "changed_after")):
        told = f"held-out photos whose class changes when the cause is exchanged, {when}"
        yield from summary(told, f"/last_layer/{key}", unit="of the photos")
    for option in ("ignore", "attend"):
        yield from summary(f"--{option}: share of the evidence that lies there", f"/focus/{option}/evidence_share")
        yield from summary(f"--{option}: share of the photo that it is", f"/focus/{option}/area_share")
    yield from summary("edits that this model is trained by", "/edits/count")
    yield from summary.count("findings that this model is trained against", "/edits/cures")


def _tell_answers(record: RunRecord) -> Iterable[Section]:
    """What people said in all."""
    if record.journal is None:
        return ()
    counts = Counter(edit.kind for edit in record.state.edits)
    source = (Origin(record.journal.name, ""),)
    facts = [
        Fact(KINDS[kind].title, count, source, computed=f"edits of the kind {kind} that count")
        for kind, count in counts.items()
    ]
    findings = [
        replace(fact, name=_finding_of(record, fact).get("title", "a finding")) for fact in _iter_answers(record)
    ]
    return (Section("edits", "What people said", [*facts, *findings]),)


def _tell_changes(record: RunRecord) -> Section:
    parts = []
    for number, file in record.versions.items():
        names = {"its accuracy": "/val_accuracy", "edits that count": "/edits/count", "command": "/command"}
        facts = [fact for name, key in names.items() for fact in _Quote(file)(name, key)]
        parts.append(Section(number, f"Version {number}{' (this model)' if number == record.kept else ''}", facts))
    return Section("changes", "6. Changes over its life", parts=parts)
