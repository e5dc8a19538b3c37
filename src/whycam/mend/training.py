"""One training, from a folder of photos and what people said of them to a model folder with its scores.

`whycam train` and a version of a run are both made here: of the same edits and options they are the same model.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from whycam.audit.data import ShowProgress
from whycam.config import TrainOptions
from whycam.data.check import drop_unreadable, find_same_content, hash_photos
from whycam.data.exchange import Exchange
from whycam.data.folder import PhotoFolder, count_labels, fingerprint, read_folder
from whycam.data.groups import read_groups
from whycam.data.listed import is_listed, read_listed
from whycam.data.tested import Tested, compare_tested, find_no_pictures, read_tested
from whycam.errors import UserError
from whycam.intake.request import read_classes
from whycam.mend.apply import Applied, find_photos
from whycam.mend.scores import Scored, score, summarise
from whycam.mend.state import State
from whycam.mend.tested import measure_more
from whycam.model.backbone import make_backbone
from whycam.model.gap import save_classifier
from whycam.rounding import shorten_floats
from whycam.runs import command_line, find_way, read_versions, write_json
from whycam.train.finetune import check_finetuning
from whycam.train.focus import make_focus
from whycam.train.multi_label import check_multi_label
from whycam.train.phases import train_phases
from whycam.train.ranks import ALONE, Ranks
from whycam.train.retrain import check_groups, check_retraining
from whycam.train.work import Work, log, make_classifier

_MANY = 1000
# Under this name `options.json` has the ids of the edits that count.
EDITS = "edits_that_count"


@dataclass
class Training:
    """A training in progress.

    Attributes:
        work: what its steps hand on.
        applied: people's edits beside the photos; None where there is no journal.
        notes: sentences on edits that don't count, or could not be followed.
        measured: what the summary says beside the held-out photos' scores; see `measure_more`.
        start: when it began, by `time.perf_counter`.
    """

    work: Work
    applied: Applied | None
    notes: list[str] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)
    start: float = field(default_factory=time.perf_counter)

    def run(self) -> Scored:
        """Trains, and scores the held-out photos.

        Raises:
            UserError: photos, edits or a network that can't be trained with; the maps are not the scores.
        """
        self.work.times_s["prepare"] = time.perf_counter() - self.start
        _log_start(self.work)
        for note in self.notes:
            log.warning("%s", note)
        train_phases(self.work)
        with self.work.timed("results"):
            scored = score(self.work)
        with self.work.timed("test"):
            self.measured = measure_more(self.work, scored)
        return scored

    def save(self, scored: Scored, more: dict[str, Any]) -> dict[str, Any]:
        """Writes the model and `summary.json`, which comes back; `more` stands in it."""
        summary = summarise(self.work, scored, more) | self.measured | self._describe()
        if self.applied is not None:
            summary["edits"] = self._describe_edits(self.applied)
        save_classifier(self.work.model, self.work.run / "model", scored.identity_error)
        summary = shorten_floats(summary)  # what comes back is what is written
        write_json(self.work.run / "summary.json", summary)
        return dict(summary)

    def _describe(self) -> dict[str, Any]:
        """What the summary says beside the scores."""
        work = self.work
        options, origin = work.options, work.model.origin
        total_s = time.perf_counter() - self.start
        return {
            "command": command_line(),
            "backbone": origin.architecture,
            "weights": origin.source,
            "head": options.head,
            "image_size_px": origin.preprocess.height_px,
            "map_stride": origin.map_stride,
            "recipe": options.recipe,
            "seed": options.seed,
            "device": str(work.device),
            "epochs": sum(line.phase != "refit" for line in work.epochs),
            "data": {
                "folder": str(work.photos.root),
                "folder_from_run": find_way(work.run, work.photos.root),
                **_describe_list(work.photos),
                "fingerprint": fingerprint(work.photos.root, work.photos.samples, dict(work.hashes)),
                "train": len(work.photos.train),
                "val": len(work.photos.val),
                "is_split_by_us": work.photos.is_split_by_us,
                **({"multi_label": True} if work.photos.is_multi_label else {}),
                "classes_left_out": list(work.photos.left_out),
                "unreadable": {str(path): why for path, why in sorted(work.unreadable.items())},
            },
            "times_s": {step: round(seconds, 2) for step, seconds in (*work.times_s.items(), ("total", total_s))},
            "versions": read_versions(),
        }

    def _describe_edits(self, applied: Applied) -> dict[str, Any]:
        """Which photos got which edit, what is trained against, and what was skipped."""
        state = applied.state
        return {
            "count": len(state.edits),
            "ids": [edit.id for edit in state.edits],
            "photos": applied.list_photos(self.work.source.root),
            "cures": [{"id": edit.id, "finding": (edit.finding or {})["id"]} for edit in state.cures],
            "conflicts": [conflict.to_json() for conflict in state.conflicts],
            "notes": self.notes,
        }


def read_source(folder: Path, options: TrainOptions, state: State | None = None) -> PhotoFolder:
    """The photos of a folder, list or shards, split as the options say; what does not go together is refused first.

    Raises:
        UserError: a folder that can't be trained on, or options that don't go together.
    """
    check_retraining(options, has_causes=state is not None and state.has_causes)
    check_finetuning(options)
    how: dict[str, Any] = {
        "val_fraction": options.val_fraction,
        "seed": options.seed,
        "allow_empty": options.allow_empty,
        "order": read_classes(options.classes) if options.classes else (),
    }
    if is_listed(folder):
        source = read_listed(folder, is_multi_label=options.multi_label, **how)
    elif options.multi_label:
        raise UserError(
            f"Found --multi-label beside '{folder}', a folder in which each photo lies in one class's; expected a list "
            "(path,labels), COCO JSON or shards. Write one, or leave --multi-label out."
        )
    else:
        source = read_folder(folder, **how)
    check_multi_label(options, source, has_edits=state is not None)
    return source


def prepare(
    source: PhotoFolder,
    options: TrainOptions,
    run: Path,
    show_progress: ShowProgress,
    state: State | None = None,
    *,
    ranks: Ranks = ALONE,
) -> Training:
    """A training of the photos that `read_source` gives, ready to run.

    Args:
        source: the folder as it is on the disk.
        options: how it is trained.
        run: the folder to write into, which is there.
        show_progress: see `Work`.
        state: what people said; None where there is no journal.
        ranks: the processes that train, of which the first alone writes.

    Raises:
        UserError: edits that leave a class without photos, weights out of reach, a cause that can't be exchanged.
    """
    start = time.perf_counter()
    device = ranks.find_device(options.device)
    paths = [sample.path for sample in source.samples]
    # Few are read before a bar is seen.
    show = show_progress if len(paths) > _MANY else lambda *_: nullcontext(None)
    with show("reading photos", len(paths)) as advance:
        hashes, unreadable = ranks.first(lambda: hash_photos(paths, advance))
    source = drop_unreadable(source, unreadable, allow_empty=options.allow_empty)
    applied = None if state is None else find_photos(state, source.root, hashes)
    photos = source if applied is None else applied.edit(source, allow_empty=options.allow_empty)
    tested = None if options.test is None else read_tested(options.test, photos.class_names)
    if tested is not None:
        more, lost = ranks.first(partial(hash_photos, tested.paths))
        hashes = {**more, **hashes}
        lost |= ranks.first(partial(find_no_pictures, list(more)))
        tested = compare_tested(tested, photos, hashes, lost)
    torch.manual_seed(options.seed)
    origin = make_backbone(
        options.backbone,
        weights=options.weights,
        is_random=options.scratch,
        image_size=options.image_size,
        map_stride=options.map_stride,
    )
    model = make_classifier(origin, photos, options).to(device).eval()
    notes: list[str] = []

    def edit(folder: PhotoFolder) -> PhotoFolder:
        return folder if applied is None else applied.edit(folder, allow_empty=options.allow_empty)

    def make_exchanges(photos: PhotoFolder) -> tuple[Exchange, ...]:
        if options.against is None and applied is None:
            return ()
        from whycam.mend.cures import CauseMaker  # noqa: PLC0415 - slow to import, and few trainings have a cause

        maker = CauseMaker(options, photos, model.preprocess, applied)
        made = maker.make()
        notes[:] = [*(applied.notes if applied else ()), *maker.notes]
        return made

    focus, groups = make_focus(options, photos, model.preprocess), _read_groups(options, photos)
    work = Work(
        *(options, source, hashes, unreadable, model, device, run, show_progress),
        focus=focus,
        groups=groups,
        make_exchanges=make_exchanges,
        edit=edit,
        test=tested,
        ranks=ranks,
    )
    return Training(work, applied, notes, start=start)


def _describe_list(photos: PhotoFolder) -> dict[str, Any]:
    """Of photos that a list or shards name: which, and what of it was left out."""
    if photos.listed is None:
        return {}
    return {"listed": os.path.relpath(photos.listed, photos.root), "notes": list(photos.notes)}


def _read_groups(options: TrainOptions, photos: PhotoFolder) -> dict[Path, str]:
    """Photo -> group; those without are counted in the log."""
    if options.groups is None:
        return {}
    groups = read_groups(options.groups, [sample.path for sample in photos.samples], photos.root)
    check_groups(groups, photos, options)
    for words, samples in (("training", photos.train), ("held-out", photos.val)):
        known = sum(sample.path in groups for sample in samples)
        if known < len(samples):
            log.info("--groups names %d of %d %s photos.", known, len(samples), words)
    return groups


def _log_start(work: Work) -> None:
    counts = count_labels(work.photos.train, len(work.photos.class_names))
    origin = work.model.origin
    log.info(
        "%d classes; %d photos to train on, %d held out%s; %s, %d px, maps of stride %d, on %s",
        len(counts),
        len(work.photos.train),
        len(work.photos.val),
        f" (seed {work.options.seed})" if work.photos.is_split_by_us else "",
        origin.architecture,
        origin.preprocess.height_px,
        origin.map_stride,
        work.device,
    )
    if work.photos.is_multi_label:
        each = sum(counts) / max(1, len(work.photos.train))
        log.info("Classes go together: %.2f a photo on average, thresholds by %s", each, work.options.threshold)
    if max(counts) > 5 * min(counts) and not work.options.class_weights:
        log.warning(
            "The largest class has %.0f times the photos of the smallest; consider --class-weights.",
            max(counts) / min(counts),
        )
    for note in (*work.photos.notes, *(_tell_tested(work.test) if work.test else ())):
        log.warning("%s", note)
    for path, why in work.unreadable.items():
        log.warning("Left out '%s': %s", path, why)
    if work.photos.left_out:
        log.warning("Left out the classes without photos to train on: %s", ", ".join(map(repr, work.photos.left_out)))
    in_both, mislabelled = find_same_content(work.photos, work.hashes)
    for words, groups in (
        ("in both splits (validation is too kind)", in_both),
        ("under different classes", mislabelled),
    ):
        if groups:
            log.warning("%d sets of photos with the same content are %s: %s", len(groups), words, _list_groups(groups))


def _tell_tested(tested: Tested) -> Iterator[str]:
    """Sentences on what is odd about the photos of --test."""
    for split, what in (("train", "trained on"), ("val", "held out")):
        if count := tested.copies.get(split, 0):
            yield f"{count} of the {len(tested.paths)} photos of --test are {what}, too: the test is too kind"
    if tested.missing:
        yield f"--test has no photos of {', '.join(map(repr, tested.missing))}"
    for path, why in tested.unreadable.items():
        yield f"Left out of --test '{path}': {why}"


def _list_groups(groups: Sequence[Sequence[Path]]) -> str:
    shown = "; ".join(" = ".join(f"'{path}'" for path in group) for group in groups[:5])
    return shown + (f"; and {len(groups) - 5} more" if len(groups) > 5 else "")
