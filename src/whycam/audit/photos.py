"""check(): what is wrong with photos, before any model is trained on them: what tells a class by itself, and copies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from whycam.audit.data import draw_samples
from whycam.audit.duplicates import AUDITED, Thumbnail, find_duplicates
from whycam.audit.findings import Audit, Finding, rank
from whycam.audit.notes import tell_few, tell_undrawn, tell_unreadable
from whycam.audit.properties import Labelled, find_telling
from whycam.audit.suspects import MIN_PHOTOS
from whycam.data.folder import Sample
from whycam.data.loader import stream_photos
from whycam.data.preprocess import Preprocess
from whycam.data.properties import PropertyTable, read_table
from whycam.errors import UserError

Progress = Callable[[int], None]
KINDS = ("data", "duplicate")


def check(
    samples: Sequence[Sample],
    names: Mapping[int, str],
    *,
    train: Sequence[Sample] = (),
    limit: int | None = None,
    seed: int = 0,
    progress: Progress = lambda _: None,
) -> Audit:
    """What is wrong with the photos.

    Args:
        samples: photos with the index of their class; -1 where they have none.
        names: index -> the class's name.
        train: the photos to train on, where the others are held out: a photo in both is a fault.
        limit: so many of the photos, drawn by the seed as evenly over the classes as can be.
        seed: of all that is drawn at random.
        progress: is told of each photo, twice.

    Raises:
        UserError: no photos, or not one that can be read.
    """
    both = [*samples, *train]
    if not both:
        raise UserError("Found no photos to check; expected some. Check the folder.")
    held_out = {sample.path for sample in samples}
    drawn = draw_samples(both, limit, seed)
    paths = [sample.path for sample in drawn]
    table = read_table(paths, progress)
    if len(table.unreadable) == len(paths):
        raise UserError(f"Not one of {len(paths)} photos can be read. {next(iter(table.unreadable.values()))}")
    labels = np.array([-1 if sample.path in table.unreadable else sample.label for sample in drawn])
    photos = Labelled(paths, labels, names, table)
    found = [*find_telling(photos, seed), *_find_copies(drawn, names, held_out, progress)]
    notes = tell_undrawn(len(both) - len(drawn)) + _tell_left_out(photos)
    counts = {names[k]: int((labels == k).sum()) for k in photos.classes}
    record = {"kinds": list(KINDS), "seed": seed, "classes": counts}
    return Audit(rank(found), len(paths) - len(table.unreadable), tuple(notes), record)


def _find_copies(
    samples: Sequence[Sample], names: Mapping[int, str], held_out: set[Path], progress: Progress
) -> list[Finding]:
    thumbnails = []
    photos = stream_photos((sample.path for sample in samples), Preprocess())
    for sample, photo in zip(samples, photos, strict=True):
        progress(1)
        if photo.pixels is not None:
            split, name = AUDITED if sample.path in held_out else "train", names.get(sample.label, "")
            thumbnails.append(Thumbnail.of(sample.path, split, name, photo.pixels))
    return find_duplicates(thumbnails)


def _tell_left_out(photos: Labelled) -> list[str]:
    """Sentences: what was not looked at, and why."""
    table: PropertyTable = photos.table
    notes = tell_unreadable(table.unreadable)
    few = [photos.names[k] for k in photos.classes if (photos.labels == k).sum() < MIN_PHOTOS]
    if len(photos.classes) < 2:
        notes.append("What tells one class from another was not looked for: it needs photos in two class folders.")
    elif len(few) == len(photos.classes):
        notes.append(
            f"Not one of the {len(few):,} classes has {MIN_PHOTOS} photos, so what tells one from another was not "
            "looked for."
        )
    else:
        notes += tell_few(few, "nothing that sets them apart")
    return notes
