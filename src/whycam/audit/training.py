"""Training photos beside the audited ones: what few photos can't prove of a class is looked for on more of them.

A shortcut is a property of the collection and of the model, so it is on the training photos, too. Nothing else is asked
of them: a model is right on what it learnt, whatever it is worth.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from whycam.audit.asker import Asker
from whycam.audit.data import AuditData, ShowProgress, read_some
from whycam.audit.notes import tell_unreadable
from whycam.data.folder import Sample

# Five photos that change are the fewest that prove anything, and 8 % of sixty, what a property or a ground must change:
# of more photos it is no longer their number that limits what can be told of a class.
ENOUGH = 60


def fill_up(
    data: AuditData, asker: Asker, training: Sequence[Sample], limit: int | None, show_progress: ShowProgress
) -> AuditData:
    """The audited photos, and beside them training photos of each class that has too few; the same where none is added.

    Args:
        data: the audited photos.
        asker: asks the model about the others.
        training: photos that the model was trained on, with their classes.
        limit: so many photos at the most, the audited ones among them.
        show_progress: see `audit`.
    """
    chosen = choose_training(data, training, limit) if data.has_labels else []
    if not chosen:
        return data
    with show_progress("reading training photos", len(chosen)) as advance:
        more, unreadable = read_some(asker, chosen, seed=data.seed, progress=advance)
    both = replace(data, is_training=np.zeros(len(data), dtype=bool)) if more is None else join(data, more)
    return replace(both, unreadable=unreadable)


def choose_training(data: AuditData, training: Sequence[Sample], limit: int | None) -> list[Sample]:
    """Photos for the classes with fewer than `ENOUGH`, those with the fewest first; drawn by the seed."""
    counts = Counter(data.labels.tolist())
    audited, by_class = set(data.paths), defaultdict(list)
    for sample in sorted(training, key=lambda one: one.path):
        if sample.label >= 0 and sample.path not in audited:
            by_class[sample.label].append(sample)
    draw = random.Random(data.seed)  # noqa: S311 - a sample, not a secret
    ranked = [
        (counts[label] + i, label, sample)
        for label, own in sorted(by_class.items())
        for i, sample in enumerate(draw.sample(own, len(own))[: max(0, ENOUGH - counts[label])])
    ]
    room = len(ranked) if limit is None else max(0, limit - len(data))
    chosen = [sample for *_, sample in sorted(ranked, key=lambda one: one[:2])[:room]]
    return sorted(chosen, key=lambda one: (one.label, one.path))


def join(data: AuditData, more: AuditData) -> AuditData:
    """Both, the rows of the second as training photos; nothing that was remembered holds for them."""
    both: dict[str, Any] = {
        name: np.concatenate([getattr(data, name), getattr(more, name)])
        for name in ("pixels", "labels", "logits", "evidence", *(("pooled",) if data.pooled is not None else ()))
    }
    is_training = np.arange(len(data) + len(more)) >= len(data)
    return replace(data, **both, paths=data.paths + more.paths, is_training=is_training, kept={})


def count_training(data: AuditData) -> dict[str, int]:
    """Class name -> how many training photos are among its photos."""
    found = {data.name(k): len(rows) - data.count_audited(rows) for k, rows in data.groups.items()}
    return {name: count for name, count in found.items() if count}


def tell_training(data: AuditData, most: int = 8) -> list[str]:
    """A sentence: which classes were filled up, and by how many photos of which folder."""
    counts = count_training(data)
    unreadable = [] if data.is_training is None else tell_unreadable(data.unreadable, "training photos")
    if not counts:
        return unreadable
    audited = {data.name(k): data.count_audited(rows) for k, rows in data.groups.items()}
    listed = ", ".join(f"{count} of {name!r} beside {audited[name]}" for name, count in list(counts.items())[:most])
    more = f" and of {len(counts) - most} more classes" if len(counts) > most else ""
    first = next(path for path, is_own in zip(data.paths, data.is_audited, strict=True) if not is_own)
    return [
        f"Shortcuts, and nothing else, were looked for on {sum(counts.values())} training photos, too, as fewer than "
        f"{ENOUGH} photos of a class are audited: {listed}{more} (the first: '{first}').",
        *unreadable,
    ]
