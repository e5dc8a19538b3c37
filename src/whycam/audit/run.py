"""audit(): the photos are read once, then each kind of finding is looked for.

Add a kind as one entry in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whycam.audit.asker import AskBy, ask_here
from whycam.audit.confusion import find_confusion
from whycam.audit.data import AuditData, ShowProgress, draw_samples, read_data
from whycam.audit.duplicates import AUDITED, Thumbnail, find_duplicates
from whycam.audit.each_label import audit_labels
from whycam.audit.findings import Audit, Finding, rank
from whycam.audit.fragile import find_fragile
from whycam.audit.grounds import measure_grounds, tell_grounds
from whycam.audit.labels import find_label_faults
from whycam.audit.notes import tell_few, tell_undrawn, tell_unlabelled, tell_unreadable
from whycam.audit.properties import find_data
from whycam.audit.provable import measure_provable, tell_provable
from whycam.audit.shortcuts import SUSPECTS, find_shortcuts
from whycam.audit.slices import find_slices
from whycam.audit.suspects import MIN_PHOTOS, list_classes
from whycam.audit.training import count_training, fill_up, tell_training
from whycam.data.folder import Sample
from whycam.data.loader import stream_photos
from whycam.errors import UserError, make_unknown_name
from whycam.explainer.exact import choose_stand_in
from whycam.model.classifier import Classifier
from whycam.runs import to_text


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
        find: finds it.
        needs_labels: every photo's class must be known.
        needs_one_label: the classes exclude each other.
        takes_training: it is looked for on training photos, too, where few are audited.
    """

    find: Callable[[AuditData], list[Finding]]
    needs_labels: bool = False
    needs_one_label: bool = False
    takes_training: bool = False


def _find_copies(data: AuditData) -> list[Finding]:
    labels = [data.name(int(k)) if k >= 0 else "" for k in data.labels]
    photos = [
        Thumbnail.of(path, AUDITED, label, pixels)
        for path, label, pixels in zip(data.paths, labels, data.pixels, strict=True)
    ]
    for photo in stream_photos(data.train, data.classifier.card.preprocess):
        if photo.pixels is not None:
            # Of classes that go together, what stands in a list is not known here.
            label = to_text(photo.path.parent.name) if data.sets is None else ""
            photos.append(Thumbnail.of(photo.path, "train", label, photo.pixels))
    return find_duplicates(photos)


if TYPE_CHECKING:
    from whycam.explainer.model import Model

_SEVERAL = "several labels of this model may be right at once"
KINDS = {
    "shortcut": Kind(find_shortcuts, takes_training=True),
    "data": Kind(find_data, needs_labels=True, needs_one_label=True),
    "label": Kind(find_label_faults, needs_labels=True, needs_one_label=True),
    "duplicate": Kind(_find_copies),
    "fragile": Kind(find_fragile),
    "slice": Kind(find_slices, needs_labels=True, needs_one_label=True),
    "confusion": Kind(find_confusion, needs_labels=True, needs_one_label=True),
}


def audit(
    model: Model | Classifier,
    samples: Sequence[Sample],
    *,
    kinds: Sequence[str] = tuple(KINDS),
    causes: Sequence[str] = tuple(SUSPECTS),
    train: Sequence[Path] = (),
    training: Sequence[Sample] = (),
    masks: Mapping[Path, Path] | None = None,
    limit: int | None = None,
    seed: int = 0,
    engine: str = "auto",
    show_progress: ShowProgress = lambda *_: nullcontext(lambda _: None),
    ask_by: AskBy = ask_here,
) -> Audit:
    """What a model should not be looking at, and what is wrong with the photos.

    Args:
        model: what `whycam.load` gives.
        samples: photos with their class, as an index of the model's; -1 where it is not known; or with all of their
            classes, where these go together.
        kinds: what to look for.
        causes: what shortcuts may be found by (`SUSPECTS`); fewer are quicker.
        train: the photos that it was trained on, where copies are looked for too.
        training: those of them that classes with few photos are filled up with where shortcuts are looked for, with
            their classes; nothing else is asked of them. Not where classes go together.
        masks: photo -> mask picture of its object, in which all but 0 counts; None: a general network finds them.
        limit: so many of the photos, drawn by the seed as evenly over the classes as can be; training photos count.
        seed: of all that is drawn at random.
        engine: what asks the model: onnx, torch, or auto: the first, where the model can be exported and there is no
            GPU.
        show_progress: is told of each step and of how many photos it is about, 0 where that is not known before, and
            gives a block which is told of each; what that raises ends the audit.
        ask_by: whose cores answer for the model.

    Raises:
        UserError: an unknown kind, no photos, or a model of one class.
    """
    for word, names, known in (("kind of finding", kinds, KINDS), ("cause of a shortcut", causes, SUSPECTS)):
        if unknown := next((name for name in names if name not in known), None):
            raise make_unknown_name(word, unknown, known)
    classifier = model if isinstance(model, Classifier) else model.classifier
    if (count := len(classifier.card.class_names)) < 2:
        raise UserError(f"Found a model of {count} class; an audit compares classes: expected two.")
    if not samples:
        raise UserError("Found no photos to audit; expected some. Check the folder.")
    drawn = draw_samples(samples, limit, seed)
    with ask_by(classifier.having(engine=engine, pools=True)) as asker:
        with show_progress("reading photos", len(drawn)) as advance:
            data = read_data(asker, drawn, seed=seed, progress=advance)
        data = replace(data, train=tuple(train), masks=masks or {}, causes=tuple(causes))
        if data.sets is not None:
            return _audit_sets(data, data.sets, kinds, engine, len(samples) - len(drawn), show_progress=show_progress)
        is_several = classifier.card.is_multi_label
        apart = [kind for kind in kinds if KINDS[kind].needs_one_label and is_several]
        lacking = [kind for kind in kinds if KINDS[kind].needs_labels and not data.has_labels and kind not in apart]
        chosen = [kind for kind in KINDS if kind in kinds and kind not in {*apart, *lacking}]
        if not chosen:
            why = tell_unlabelled(data) if lacking else _SEVERAL
            raise _make_nothing_error(kinds, why, is_unlabelled=bool(lacking))
        is_filled = any(KINDS[kind].takes_training for kind in chosen)
        filled = fill_up(data, asker, training, limit, show_progress) if is_filled else data
        found = []
        for kind in chosen:
            with show_progress(f"looking for: {kind}", 0) as advance:
                found += KINDS[kind].find((filled if KINDS[kind].takes_training else data).telling(advance))
        data.kept.update(filled.recall("anything"))
        notes = [*tell_undrawn(len(samples) - len(drawn)), *tell_unreadable(data.unreadable)]
        if lacking:
            notes.append(f"Not looked for, as {tell_unlabelled(data)}: {', '.join(lacking)}.")
        if "shortcut" in chosen:
            notes += _tell_shortcuts(filled)
        if apart:
            notes.append(f"Not looked for, as {_SEVERAL}: {', '.join(apart)}.")
        record = _record(data, chosen, engine)
        if "shortcut" in chosen:
            record["causes"] = [name for name in SUSPECTS if data.seeks(name)]
            record["training_photos"] = count_training(filled)
            record["provable"] = measure_provable(filled)
        if "shortcut" in chosen and data.seeks("ground"):
            notes += tell_grounds(data)
            record["grounds"] = measure_grounds(data)
        return Audit(rank(found), len(data), tuple(notes), record)


def _audit_sets(
    data: AuditData, sets: np.ndarray, kinds: Sequence[str], engine: str, undrawn: int, *, show_progress: ShowProgress
) -> Audit:
    """The audit of photos whose classes go together: `sets` (N, K) bool."""
    found, chosen, notes = audit_labels(data, kinds, show_progress)
    if "duplicate" in kinds:
        found, chosen = [*found, *_find_copies(data)], [*chosen, "duplicate"]
    if not chosen:
        raise _make_nothing_error(kinds, "a photo has several classes here")
    told = [*tell_undrawn(undrawn), *tell_unreadable(data.unreadable), *notes]
    counts = dict(zip(data.classifier.card.class_names, sets.sum(0).tolist(), strict=True))
    return Audit(rank(found), len(data), tuple(told), {**_record(data, chosen, engine), "classes": counts})


def _tell_shortcuts(filled: AuditData) -> list[str]:
    """Sentences: on which photos shortcuts were looked for, and of which classes not, and why."""
    known = list_classes(filled)
    notes = tell_training(filled)
    notes += tell_few([filled.name(k) for k in filled.groups if k not in known], "no shortcut")
    notes += tell_provable(filled)
    if len(known) < 2:
        notes.append(f"Shortcuts need two classes with {MIN_PHOTOS} photos each; none was looked for.")
    return notes


def _make_nothing_error(kinds: Sequence[str], why: str, *, is_unlabelled: bool = False) -> UserError:
    """A UserError for an audit that looks for nothing, which would read as one that found nothing."""
    others = [name for name, kind in KINDS.items() if not (kind.needs_labels or kind.needs_one_label)]
    first = "Lay the photos out as CLASS/photo.jpg by the model's classes" if is_unlabelled else "Ask another model"
    return UserError(
        f"Nothing that was asked for can be looked for ({', '.join(kinds)}), as {why}; expected photos of one class "
        f"each. {first}, or look for others: {', '.join(others)}."
    )


def _record(data: AuditData, kinds: Sequence[str], engine: str) -> dict[str, Any]:
    card = data.classifier.card
    return {
        "model": card.name,
        **card.origin,
        "preprocess": card.preprocess.model_dump(),
        "kinds": list(kinds),
        "seed": data.seed,
        "engine": engine,
        "maps": "cam" if data.is_exact else choose_stand_in(card),
        "classes": {data.name(k): len(rows) for k, rows in data.groups.items()},
    }
