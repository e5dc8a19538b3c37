"""The photos that choose the epoch: a slice of the training photos, so that the held-out ones choose nothing."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from whycam.data.folder import Sample
from whycam.train.epochs import Epoch
from whycam.train.work import Work, log

# One photo in so many of each class chooses; a class needs so many photos that differ for it.
SLICED, LEAST = 5, 5


@dataclass(frozen=True)
class Choice:
    """What chooses the epoch of a training.

    Attributes:
        on: the slice, the held-out photos, or nothing: the last epoch is kept.
        learnt: rows of the training photos that are learnt from meanwhile.
        apart: rows of the training photos that choose.
        note: why it is another choice than the one asked for.
    """

    on: Literal["slice", "val", "last"]
    learnt: Sequence[int]
    apart: Sequence[int] = ()
    note: str = ""


def make_choice(work: Work) -> Choice:
    """What chooses, as the options say; the held-out photos where a class has too few training photos for a slice."""
    samples, asked = work.photos.train, work.options.choose_on
    rows = range(len(samples))
    if asked != "slice":
        return Choice(asked, rows)
    if work.photos.is_multi_label:
        # Their thresholds need the held-out photos as it is.
        return Choice("val", rows)
    contents = _list_contents(samples, work.hashes)
    few = {work.photos.class_names[label]: len(words) for label, words in contents.items() if len(words) < LEAST}
    if few:
        told = ", ".join(f"{name!r}: {count}" for name, count in list(few.items())[:5])
        note = (
            f"Classes with fewer than {LEAST} different training photos ({told}) leave no slice to choose the epoch "
            "on; the held-out photos choose it."
        )
        return Choice("val", rows, note=note)
    chosen = {word for words in contents.values() for word in _draw(words, work.options.seed)}
    apart = [row for row in rows if work.hashes[samples[row].path] in chosen]
    learnt = [row for row in rows if work.hashes[samples[row].path] not in chosen]
    return Choice("slice", learnt, apart)


def _list_contents(samples: Sequence[Sample], hashes: Mapping[Path, str]) -> dict[int, set[str]]:
    """Class -> its contents. Copies count once, and those that stand under two classes not at all."""
    classes_of = defaultdict(set)
    for sample in samples:
        classes_of[hashes[sample.path]].add(sample.label)
    contents: dict[int, set[str]] = {sample.label: set() for sample in samples}
    for word, labels in classes_of.items():
        if len(labels) == 1:
            contents[min(labels)].add(word)
    return contents


def _draw(words: set[str], seed: int) -> list[str]:
    """A part of these contents, whatever the photos are called and whichever others there are."""
    order = sorted(words, key=lambda word: hashlib.blake2b(f"{seed}/{word}".encode()).digest())
    return order[: max(1, round(len(order) / SLICED))]


def tell_choice(work: Work, choice: Choice) -> None:
    """What the log says before the training."""
    if choice.note:
        log.warning("%s", choice.note)


def describe_choice(choice: Choice, epochs: Sequence[Epoch], kept: int, *, is_refit: bool) -> dict[str, Any]:
    """What the summary says of it: `on` which photos, how many, and what the kept epoch had there.

    Args:
        choice: what chose.
        epochs: that it chose among.
        kept: the place of the chosen one.
        is_refit: the model was trained once more on all training photos, for so many epochs.
    """
    line = epochs[kept]
    measured: dict[str, Any] = {}
    if choice.on != "last":
        measured = {"by": line.chosen_by, "accuracy": line.val_accuracy, "loss": line.val_loss}
        measured |= {} if line.val_mean_ap is None else {"mean_ap": line.val_mean_ap}
    return {
        "on": choice.on,
        "photos": 0 if choice.on == "last" else line.val_photos,
        **measured,
        "epochs": kept + 1,
        "of_epochs": len(epochs),
        "learnt_meanwhile": len(choice.learnt),
        "trained_again_on_all": is_refit,
        **({"note": choice.note} if choice.note else {}),
    }
