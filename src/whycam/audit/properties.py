"""Properties that tell a class by themselves: a fault of the photos, which a model may learn instead of the object.

No model is asked. `data/properties.py` lists the properties.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from whycam.audit.chance import to_certainty
from whycam.audit.findings import LEAST_CERTAINTY, EvidencePhoto, Finding
from whycam.audit.telling import Tell, tell_numbers, tell_words
from whycam.data.properties import PROPERTIES, PropertyTable

MIN_PHOTOS = 8
# The lower end of a property's AUC, or of its balanced accuracy, from which on it is told. Over 60 draws of clean
# flowers (of the training photos; 2 to 5 classes of 8 to 200) it reached 0.62 for the technical ones and 0.80, the green
# cast of sunflowers, for those that a flower has by nature. That a third class is the odd one tells a class by 0.75.
LEAST_TECHNICAL, LEAST_NATURAL = 0.76, 0.9
# The range or word that fits the photos at hand best is this good in their own eyes where its AUC is 0.75 or more.
_LEAST_SCREENED = 0.64
_MOST_TOLD, _MOST_PHOTOS = 3, 4


@dataclass(frozen=True)
class Told:
    """One property that tells one class.

    Attributes:
        label: the class.
        name: the property.
        tell: how well.
        usual: what half of the class's photos reach, or their commonest word; and that of the others.
    """

    label: int
    name: str
    tell: Tell
    usual: tuple[float | str, float | str]

    @property
    def score(self) -> float:
        """The lower end of what it reaches."""
        return max(self.tell.auc.low, self.tell.accuracy.low)

    @property
    def line(self) -> float:
        """What it must reach to be told."""
        return LEAST_TECHNICAL if PROPERTIES[self.name].is_technical else LEAST_NATURAL


def tell_classes(table: PropertyTable, labels: np.ndarray, seed: int, least: float = _LEAST_SCREENED) -> list[Told]:
    """Each property that may tell each class of enough photos; what can't is left out by a quick screen."""
    rows_of = {int(k): np.flatnonzero(labels == k) for k in np.unique(labels[labels >= 0])}
    found = []
    for name, values in table.columns.items():
        known = np.isfinite(values) if values.dtype.kind == "f" else values != ""  # noqa: PLC1901 - an array
        known &= labels >= 0
        everything = values[known]
        if len(everything) == 0 or (everything == everything[0]).all():
            continue
        ranked = np.sort(everything)
        for k, rows in rows_of.items():
            own = values[rows[known[rows]]]
            if min(len(own), len(everything) - len(own)) < MIN_PHOTOS:
                continue
            if screen(np.sort(own), ranked, is_word=values.dtype.kind != "f") < least:
                continue
            rest = values[known & (labels != k)]
            tell = tell_numbers if values.dtype.kind == "f" else tell_words
            found.append(Told(k, name, tell(own, rest, seed), (_find_usual(own), _find_usual(rest))))
    return found


def screen(own: np.ndarray, everything: np.ndarray, *, is_word: bool) -> float:
    """The balanced accuracy of the best range, or set of words, on the photos it is made of; both sorted."""
    count, rest = len(own), len(everything) - len(own)
    at_most = np.searchsorted(everything, own, "right"), np.searchsorted(own, own, "right")
    below = np.searchsorted(everything, own, "left"), np.searchsorted(own, own, "left")
    if is_word:
        # Each photo of the class stands for its word, so a word's gain is shared by the photos that have it.
        same = at_most[1] - below[1]
        gain = same / count - (at_most[0] - below[0] - same) / rest
        return float(0.5 + 0.5 * (gain.clip(0) / same).sum())
    highest = at_most[1] / count - (at_most[0] - at_most[1]) / rest
    lowest = below[1] / count - (below[0] - below[1]) / rest
    return float(0.5 + 0.5 * (max(0.0, highest.max()) - min(0.0, lowest.min())))


def _find_usual(values: np.ndarray) -> float | str:
    if values.dtype.kind == "f":
        return float(np.median(values))
    words, counts = np.unique(values, return_counts=True)
    return str(words[counts.argmax()])


def find_telling(
    table: PropertyTable, paths: Sequence[Path], labels: np.ndarray, names: Mapping[int, str], seed: int
) -> list[Finding]:
    """A finding for each class that a property tells nearly by itself; of two classes, one for both.

    Args:
        table: of the photos.
        paths: N files.
        labels: (N,) class indices, -1 where none is known.
        names: index -> the class's name.
        seed: of the folds.
    """
    tests = len(table.columns) * max(1, len(np.unique(labels[labels >= 0])))
    told = [
        one
        for one in tell_classes(table, labels, seed)
        if one.score >= one.line and to_certainty(one.tell.p, tests) >= LEAST_CERTAINTY
    ]
    findings, is_pair = [], len(np.unique(labels[labels >= 0])) == 2
    for k in sorted({one.label for one in told}):
        own = sorted((one for one in told if one.label == k), key=lambda one: -round(one.score, 2))
        findings.append(_tell(own, table, paths, labels, names, tests))
        if is_pair:
            break
    return findings


def _tell(
    told: Sequence[Told],
    table: PropertyTable,
    paths: Sequence[Path],
    labels: np.ndarray,
    names: Mapping[int, str],
    tests: int,
) -> Finding:
    """The finding of one class: the properties that tell it, the clearest first."""
    first, label, name = told[0], told[0].label, names[told[0].label]
    others = [other for k, other in names.items() if k != label and (labels == k).any()]
    other = others[0] if len(others) == 1 else None
    words = [PROPERTIES[one.name].words for one in told[:_MOST_TOLD]]
    more = f" and {len(told) - _MOST_TOLD} more" if len(told) > _MOST_TOLD else ""
    apart = f"{name!r} can be told" if other is None else f"{name!r} and {other!r} can be told apart"
    return Finding(
        kind="data",
        severity=float(np.clip(first.tell.caught[0], 0, 1)),
        certainty=max(to_certainty(one.tell.p, tests) for one in told),
        title=f"Photos of {apart} without a look at what is on them, by {_list(words)}{more}.",
        detail=" ".join(_describe(one, name, other) for one in told[:_MOST_TOLD])
        + " A model may learn this instead of the object; whether one has is for the shortcuts to say.",
        class_name=name,
        other=other,
        photos=_pick_photos(first, table, paths, labels),
        numbers={
            "properties": [one.name for one in told],
            "figures": {one.name: _to_figures(one) for one in told},
        },
    )


def _list(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _describe(one: Told, name: str, other: str | None) -> str:
    about, tell = PROPERTIES[one.name], one.tell
    own, rest = (about.write(value) for value in one.usual)
    usual = "half of the photos are at most" if isinstance(one.usual[0], float) else "most often"
    score, share = ("AUC", tell.auc) if isinstance(one.usual[0], float) else ("balanced accuracy", tell.accuracy)
    return (
        f"{about.words[:1].upper()}{about.words[1:]}: {usual} {own} in {name!r}, {rest} in "
        f"{repr(other) if other else 'the others'}. A rule made of other photos takes {tell.caught[0]:.0%} of {name!r} and "
        f"{tell.caught[1]:.0%} of the others for {name!r} ({score} {share.value:.2f}, 95 % interval {share.low:.2f} to "
        f"{share.high:.2f})."
    )


def _to_figures(one: Told) -> dict[str, float | str]:
    tell = one.tell
    return {
        "auc": tell.auc.value,
        "auc_low": tell.auc.low,
        "auc_high": tell.auc.high,
        "balanced_accuracy": tell.accuracy.value,
        "balanced_accuracy_low": tell.accuracy.low,
        "balanced_accuracy_high": tell.accuracy.high,
        "p": tell.p,
        "usual": one.usual[0],
        "usual_of_others": one.usual[1],
    }


def _pick_photos(
    one: Told, table: PropertyTable, paths: Sequence[Path], labels: np.ndarray
) -> tuple[EvidencePhoto, ...]:
    """Photos with what is usual in the class, then photos with what is usual in the others."""
    values, about, photos = table.columns[one.name], PROPERTIES[one.name], []
    for rows, usual in zip((labels == one.label, (labels != one.label) & (labels >= 0)), one.usual, strict=True):
        if isinstance(usual, float):
            order = np.argsort(np.where(rows & np.isfinite(values), np.abs(values - usual), np.inf), kind="stable")
            chosen = [row for row in order[:_MOST_PHOTOS] if rows[row] and np.isfinite(values[row])]
        else:
            chosen = list(np.flatnonzero(rows & (values == usual))[:_MOST_PHOTOS])
        photos += [EvidencePhoto(paths[row], note=f"{about.words}: {_write(about.write, values[row])}") for row in chosen]
    return tuple(photos)


def _write(write: object, value: object) -> str:
    return write(str(value) if isinstance(value, str) else float(value))  # type: ignore[operator, arg-type, no-any-return]
