"""`whycam train`: from a folder of photos to a run folder with a model, its scores, its curves and its maps."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import zip_longest
from pathlib import Path
from typing import Any

from whycam.config import TrainOptions
from whycam.data.folder import PhotoFolder
from whycam.errors import UserError
from whycam.jobs.progress import log_to, show_progress
from whycam.jobs.run_files import draw_results
from whycam.mend.journal import NAME, Journal
from whycam.mend.state import State, replay
from whycam.mend.training import EDITS, prepare, read_source
from whycam.runs import open_run, write_json
from whycam.train.phases import train_phases
from whycam.train.ranks import Ranks, join_ranks


def train(folder: Path, out: Path, options: TrainOptions) -> dict[str, Any]:
    """Trains a classifier on the photos of `folder` and writes the run `out`; the summary comes back.

    Of several processes the first writes; the others get an empty summary.

    Raises:
        UserError: a folder that can't be trained on, edits that can't be followed, weights out of reach, a run of that
            name, a full disk.
    """
    state = read_edits(options.edits)
    source = read_source(folder, options, state)
    with join_ranks(options) as ranks:
        if ranks.is_first:
            return _write_run(source, out, options, state, ranks)
        _help(source, out, options, state, ranks)
        return {}


def _help(source: PhotoFolder, out: Path, options: TrainOptions, state: State | None, ranks: Ranks) -> None:
    """What the other processes do: their part of each step, and no word."""
    logging.getLogger("whycam").setLevel(logging.ERROR)
    train_phases(prepare(source, options, out, lambda *_: nullcontext(lambda _: None), state, ranks=ranks).work)


def _write_run(
    source: PhotoFolder, out: Path, options: TrainOptions, state: State | None, ranks: Ranks
) -> dict[str, Any]:
    with (
        open_run(out, overwrite=options.overwrite, resume=options.resume, keep="checkpoints", keeps=NAME) as run,
        log_to(run / "train.log"),
    ):
        _check_same_options(run, options, source.class_names, state)
        training = prepare(source, options, run, show_progress, state, ranks=ranks)
        scored = training.run()
        with training.work.timed("results"):
            drawn = draw_results(training.work, scored)
        summary = training.save(scored, drawn)
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
        _keep_journals(out, options.edits, run)
    return summary


def read_edits(place: Path | None) -> State | None:
    """What the journal in a file, or in a run's folder, comes to; None where none is named.

    Raises:
        UserError: there is none, or a file of which no line is an edit.
    """
    if place is None:
        return None
    journal = Journal.of(place)
    if not journal.path.is_file():
        raise UserError(
            f"Found no journal of edits at '{journal.path.absolute()}'; expected RUN/{NAME}, or the run's folder. "
            "Check the path of --edits."
        )
    reading = journal.read()
    if reading.unread and not reading.edits:
        raise UserError(
            f"'{journal.path.absolute()}' has no line that is an edit ({reading.notes[0]}) Expected a journal, as "
            f"RUN/{NAME} is one. Check the path of --edits."
        )
    return replay(reading.edits, reading.notes)


def _keep_journals(old: Path, edits: Path | None, run: Path) -> None:
    """The run takes the journal that it was trained by; and that of a run whose name it takes, which is people's work.

    What stands in both counts once, as each edit has an id.
    """
    places = [place for place in (old if old.is_dir() else None, edits) if place is not None]
    files = dict.fromkeys(Journal.of(place).path.resolve() for place in places)
    content = [path.read_bytes() for path in files if path.is_file()]
    if content:
        (run / NAME).write_bytes(b"".join(part if part.endswith(b"\n") else part + b"\n" for part in content if part))


def _check_same_options(
    run: Path, options: TrainOptions, class_names: Sequence[str], state: State | None = None
) -> None:
    """An interrupted run goes on with the options it was started with, the same classes in their order and edits."""
    path = run / "options.json"
    now = options.model_dump(mode="json", exclude={"resume", "overwrite", "cache_dir", "device"})
    if state is not None:
        now[EDITS] = [edit.id for edit in state.edits]
    if path.is_file():
        # A run of a version that did not write the classes down had them in the order of their characters.
        then = {"class_names": sorted(class_names), **json.loads(path.read_text(encoding="utf-8"))}
        names = enumerate(zip_longest(then["class_names"], class_names))
        changed = [f"{name} was {then.get(name)!r}, now {now[name]!r}" for name in now if then.get(name) != now[name]]
        changed += [f"class {k} was {old!r}, now {new!r}" for k, (old, new) in names if old != new][:1]
        if changed:
            raise UserError(
                f"The interrupted run in '{run}' was started with other options or classes ({'; '.join(changed)}). "
                "Give the same ones with --resume, or leave --resume out to start anew."
            )
    write_json(path, {**now, "class_names": list(class_names)})


def tell(summary: Mapping[str, Any], out: Path) -> Iterator[str]:
    """What a person is told of a finished run: its figures, and last where it is; nothing by a process that helped."""
    if not summary:
        return
    for option, place in (("ignore", "in the ignored region"), ("attend", "outside the masks")):
        about = summary.get("focus", {}).get(option, {})
        if "evidence_share" in about:
            share, area = about["evidence_share"], about["area_share"]
            yield f"{share:.1%} of the evidence lies {place}, which is {area:.1%} of the photo"
    if "changed_before" in (about := summary.get("last_layer", {})):
        yield (
            f"With the cause exchanged, {about['changed_after']:.1%} of held-out photos change their class "
            f"({about['changed_before']:.1%} before the last layer was fitted against it)"
        )
    if edits := summary.get("edits"):
        yield from edits["notes"]
        yield from (conflict["told"] for conflict in edits["conflicts"])
        yield f"{edits['count']} edits count, of {len(edits['photos'])} photos and {len(edits['cures'])} findings"
    worst = summary["groups"]["worst"] if "groups" in summary else None
    told = (
        f", {worst['accuracy']:.3f} on the {worst['photos']} of the worst group ({worst['class']} / {worst['group']}; "
        f"95 % interval {worst['low']:.3f} to {worst['high']:.3f})"
        if worst
        else ""
    )
    for name, where in (("val", "held-out"), ("test", "test")):
        if about := summary.get("tta", {}).get(name):
            yield f"With mirror images: accuracy {about['accuracy']:.3f} on {about['photos']} {where} photos"
    if (about := summary.get("test")) and about["photos"]:
        interval = f"95 % interval {about['low']:.3f} to {about['high']:.3f}"
        yield f"Accuracy {about['accuracy']:.3f} on {about['photos']} test photos ({interval}). {about['note']}"
    photos = summary["data"]["val"]
    if summary.get("multi_label"):
        yield from _tell_labels(summary)
        yield f"{photos} photos were held out; the run is in {out}"
        return
    yield f"Accuracy {summary['val_accuracy']:.3f} on {photos} held-out photos{told}; the run is in {out}"


def _tell_labels(summary: Mapping[str, Any]) -> Iterator[str]:
    """The figures of classes that go together; a class that ranks worst is named."""
    yield from summary["notes"]
    classes = {name: one for name, one in summary["classes"].items() if one["ap"] is not None}
    if not classes:
        return
    worst = min(classes, key=lambda name: classes[name]["ap"])
    low, high = summary["val_mean_ap_low"], summary["val_mean_ap_high"]
    yield (
        f"Several classes a photo: mean AP {summary['val_mean_ap']:.3f} (95 % interval {low:.3f} to {high:.3f}) over "
        f"{len(classes)} classes, the lowest {classes[worst]['ap']:.3f} of {worst!r}; mean AUROC "
        f"{summary['val_mean_auroc']:.3f}"
    )
    unseen = summary.get("val_f1_of_unseen")
    told = "" if unseen is None else f" ({unseen:.3f} by thresholds that were chosen on other photos)"
    yield (
        f"At the thresholds: mean F1 {summary['val_f1']:.3f}{told}; {summary['val_right']} classes found, "
        f"{summary['val_missed']} missed, {summary['val_false']} given that are not there"
    )
