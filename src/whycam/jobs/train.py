"""`whycam train`: from a folder of photos to a run folder with a model, its scores, its curves and its maps."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from whycam.config import TrainOptions
from whycam.data.check import drop_unreadable, find_same_content, hash_photos
from whycam.data.folder import PhotoFolder, count_labels, fingerprint, read_folder
from whycam.data.groups import read_groups
from whycam.errors import UserError
from whycam.intake.device import choose_device
from whycam.intake.request import read_classes
from whycam.jobs.against import make_exchange
from whycam.jobs.progress import log_to, show_progress
from whycam.jobs.run_files import write_results
from whycam.model.backbone import make_backbone
from whycam.model.gap import GapClassifier, save_classifier
from whycam.runs import command_line, find_way, open_run, read_versions, write_json
from whycam.train.focus import make_focus
from whycam.train.phases import train_phases
from whycam.train.retrain import check_groups, check_retraining
from whycam.train.work import Work, log


def train(folder: Path, out: Path, options: TrainOptions) -> dict[str, Any]:
    """Trains a classifier on the photos of `folder` and writes the run `out`; the summary comes back.

    Raises:
        UserError: a folder that can't be trained on, weights out of reach, a run of that name, a full disk.
    """
    start = time.perf_counter()
    check_retraining(options)
    photos = read_folder(
        folder,
        val_fraction=options.val_fraction,
        seed=options.seed,
        allow_empty=options.allow_empty,
        order=read_classes(options.classes) if options.classes else (),
    )
    device = torch.device(choose_device(options.device))
    with (
        open_run(out, overwrite=options.overwrite, resume=options.resume, keep="checkpoints") as run,
        log_to(run / "train.log"),
    ):
        _check_same_options(run, options, photos.class_names)
        hashes, unreadable = hash_photos([sample.path for sample in photos.samples])
        photos = drop_unreadable(photos, unreadable, allow_empty=options.allow_empty)
        torch.manual_seed(options.seed)
        origin = make_backbone(
            options.backbone,
            weights=options.weights,
            is_random=options.scratch,
            image_size=options.image_size,
            map_stride=options.map_stride,
        )
        model = GapClassifier(origin, photos.class_names, options.head).to(device).eval()
        focus = make_focus(options, photos, model.preprocess)
        groups = _read_groups(options, photos)
        exchange = make_exchange(options, photos, model.preprocess)
        work = Work(
            *(options, photos, hashes, unreadable, model, device, run, show_progress),
            focus=focus,
            exchange=exchange,
            groups=groups,
        )
        work.times_s["prepare"] = time.perf_counter() - start
        _log_start(work)
        train_phases(work)
        with work.timed("results"):
            summary = write_results(work, run)
        summary |= _describe(work, time.perf_counter() - start)
        identity_error = float(summary["identity_error"])
        save_classifier(work.model, run / "model", identity_error)
        write_json(run / "summary.json", summary)
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
    return summary


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


def _check_same_options(run: Path, options: TrainOptions, class_names: Sequence[str]) -> None:
    """An interrupted run goes on with the options it was started with, and with the same classes in the same order."""
    path = run / "options.json"
    now = options.model_dump(mode="json", exclude={"resume", "overwrite", "cache_dir", "device"})
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
    if max(counts) > 5 * min(counts) and not work.options.class_weights:
        log.warning(
            "The largest class has %.0f times the photos of the smallest; consider --class-weights.",
            max(counts) / min(counts),
        )
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


def _list_groups(groups: Sequence[Sequence[Path]]) -> str:
    shown = "; ".join(" = ".join(f"'{path}'" for path in group) for group in groups[:5])
    return shown + (f"; and {len(groups) - 5} more" if len(groups) > 5 else "")


def _describe(work: Work, time_s: float) -> dict[str, object]:
    """What the summary says beside the scores."""
    options, origin = work.options, work.model.origin
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
        "epochs": len(work.epochs),
        "data": {
            "folder": str(work.photos.root),
            "folder_from_run": find_way(work.run, work.photos.root),
            "fingerprint": fingerprint(work.photos.root, work.photos.samples, dict(work.hashes)),
            "train": len(work.photos.train),
            "val": len(work.photos.val),
            "is_split_by_us": work.photos.is_split_by_us,
            "classes_left_out": list(work.photos.left_out),
            "unreadable": {str(path): why for path, why in sorted(work.unreadable.items())},
        },
        "times_s": {step: round(seconds, 2) for step, seconds in (*work.times_s.items(), ("total", time_s))},
        "versions": read_versions(),
    }
