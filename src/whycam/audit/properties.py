"""Properties that tell a class by themselves: a fault of the photos, which a model may learn instead of the object.

No model is asked. `data/properties.py` lists the properties.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from whycam.audit.chance import find_interval, to_certainty
from whycam.audit.data import AuditData
from whycam.audit.findings import LEAST_CERTAINTY, EvidencePhoto, Finding
from whycam.audit.suspects import MIN_PHOTOS
from whycam.audit.telling import Tell, bound_auc, tell_numbers, tell_words
from whycam.data.properties import PROPERTIES, PropertyTable
from whycam.errors import join_words


@dataclass(frozen=True)
class Line:
    """What a property must reach to be told.

    Attributes:
        score: the lower end of its AUC, or of its balanced accuracy.
        pure: or the lower end of the share of the class that has a value which next to none of the others have.
    """

    score: float
    pure: float = 1.0


# By how often an object has it by nature. Over 1,500 draws of clean flowers (of the training photos; 2 to 5 classes of
# 8 to 70) what a file alone has reached scores of 0.62, light and sharpness 0.79, and colours 0.89: the green cast of
# sunflowers against roses; over 250 draws, values that hardly another class has reached 0.17 and 0.40. Of three
# classes, a third one that is odd tells each of the two others by a score of 0.75.
LEAST = {"never": Line(0.76, 0.2), "seldom": Line(0.86, 0.45), "often": Line(0.93)}
LINES = {name: LEAST[one.by_nature] for name, one in PROPERTIES.items()}
# Nearly all, and next to none.
_MOST, _MOST_ALSO = 0.9, 0.02
_Z2 = 3.84
_MOST_TOLD, _MOST_PHOTOS = 3, 4


@dataclass(frozen=True, eq=False)
class Labelled:
    """Photos of classes, without a model.

    Attributes:
        paths: N files.
        labels: (N,) class indices, -1 where none is known.
        names: index -> the class's name.
        table: their properties.
    """

    paths: Sequence[Path]
    labels: np.ndarray
    names: Mapping[int, str]
    table: PropertyTable

    @property
    def classes(self) -> list[int]:
        """Those that photos have."""
        return [int(k) for k in np.unique(self.labels[self.labels >= 0])]


@dataclass(frozen=True)
class Told:
    """One property that tells one class.

    Attributes:
        label: the class.
        name: the property.
        tell: how well.
        usual: the median of the class's photos, or their commonest word; and that of the others.
    """

    label: int
    name: str
    tell: Tell
    usual: tuple[float | str, float | str]

    @property
    def score(self) -> float:
        """The lower end of what it reaches."""
        return max(self.tell.auc.low, self.tell.accuracy.low)

    def reaches(self, line: Line, count: int) -> bool:
        """Whether it tells the class, of so many photos, well enough."""
        own, rest = self.tell.caught
        is_pure = rest <= _MOST_ALSO and find_interval(round(own * count), count)[0] >= line.pure
        return is_pure or self.score >= line.score


def tell_classes(photos: Labelled, seed: int, lines: Mapping[str, Line]) -> list[Told]:
    """Each property that tells a class of enough photos; `lines` has what it must reach, by name.

    What can't reach it is left out by a quick screen, so that thousands of classes are no matter.
    """
    rows_of = {k: np.flatnonzero(photos.labels == k) for k in photos.classes}
    found = []
    for name, values in photos.table.columns.items():
        is_word = values.dtype.kind != "f"
        known = (values != "" if is_word else np.isfinite(values)) & (photos.labels >= 0)
        ranked = np.sort(values[known])
        if name not in lines or len(ranked) == 0 or ranked[0] == ranked[-1]:
            continue
        for k, rows in rows_of.items():
            own = values[rows[known[rows]]]
            count, others = len(own), len(ranked) - len(own)
            if min(count, others) < MIN_PHOTOS:
                continue
            reached = screen(np.sort(own), ranked, is_word=is_word)
            if not reached.may_reach(lines[name], count, others):
                continue
            rest = values[known & (photos.labels != k)]
            tell = (tell_words if is_word else tell_numbers)(own, rest, seed)
            one = Told(k, name, tell, (_find_usual(own), _find_usual(rest)))
            found += [one] if one.reaches(lines[name], count) else []
    return found


@dataclass(frozen=True)
class Screened:
    """What a property reaches at the best, on the very photos that its rule is made of.

    Attributes:
        auc: as it is.
        caught: the shares of the class, and of the others, that the best range or set of words holds.
    """

    auc: float
    caught: tuple[float, float]

    @property
    def accuracy(self) -> float:
        """Balanced, of that rule."""
        return 0.5 + 0.5 * (self.caught[0] - self.caught[1])

    def may_reach(self, line: Line, count: int, others: int) -> bool:
        """Whether so many photos of the class, and others, may reach a line with other photos' rules."""
        # Of photos that are all on the right side the interval is the narrowest.
        is_ruled = self.accuracy - 0.5 * _Z2 / (count + _Z2) >= line.score
        is_pure = self.caught[1] <= _MOST_ALSO and self.caught[0] >= line.pure
        return is_ruled or is_pure or bound_auc(self.auc, count, others).low >= line.score


def screen(own: np.ndarray, everything: np.ndarray, *, is_word: bool) -> Screened:
    """The AUC, and what the best range or set of words holds; both arrays sorted."""
    count, rest = len(own), len(everything) - len(own)
    at_most = np.searchsorted(everything, own, "right"), np.searchsorted(own, own, "right")
    below = np.searchsorted(everything, own, "left"), np.searchsorted(own, own, "left")
    # The others' photos that have the same value, and those that have less.
    same = at_most[1] - below[1]
    equal, less = at_most[0] - below[0] - same, below[0] - below[1]
    if is_word:
        # Each photo of the class stands for its word: what the others have of it is shared by the photos that have it.
        more = same / count > equal / rest
        return Screened(0.5, (float(more.mean()), float((equal / same)[more].sum() / rest)))
    auc = float((less + 0.5 * equal).mean() / rest)
    highest, lowest = at_most[1] / count - (less + equal) / rest, below[1] / count - less / rest
    high, low = int(highest.argmax()), int(lowest.argmin())
    held = (
        ((at_most[1][high] - below[1][low]) / count, (less[high] + equal[high] - less[low]) / rest)
        if low <= high
        else (1 - (below[1][low] - at_most[1][high]) / count, 1 - (less[low] - less[high] - equal[high]) / rest)
    )
    return Screened(max(auc, 1 - auc), (float(held[0]), float(held[1])))


def _find_usual(values: np.ndarray) -> float | str:
    """The median, or the word that a third of the photos have; empty where none is so common."""
    if values.dtype.kind == "f":
        return float(np.median(values))
    words, counts = np.unique(values, return_counts=True)
    return str(words[counts.argmax()]) if counts.max() >= len(values) / 3 else ""


def find_data(data: AuditData) -> list[Finding]:
    """What tells the classes of an audit's photos."""
    names = {k: data.name(k) for k in data.groups}
    return find_telling(Labelled(data.paths, data.labels, names, data.properties), data.seed)


def find_telling(photos: Labelled, seed: int) -> list[Finding]:
    """A finding for each class that a property tells nearly by itself; of two classes, one for both.

    Its cost is the share of all photos that a model could know by it.

    Args:
        photos: of all classes.
        seed: of the folds.
    """
    tests = len(photos.table.columns) * max(1, len(photos.classes))
    told = [one for one in tell_classes(photos, seed, LINES) if to_certainty(one.tell.p, tests) >= LEAST_CERTAINTY]
    labels = sorted({one.label for one in told})
    findings = []
    for k in labels[:1] if len(photos.classes) == 2 else labels:
        own = sorted((one for one in told if one.label == k), key=lambda one: -round(one.tell.auc.low, 2))
        findings.append(_tell(own, photos, tests))
    return findings


def _tell(told: Sequence[Told], photos: Labelled, tests: int) -> Finding:
    """The finding of one class: the properties that tell it, the clearest first."""
    first, name = told[0], photos.names[told[0].label]
    others = [photos.names[k] for k in photos.classes if k != first.label]
    other = others[0] if len(others) == 1 else None
    words = [PROPERTIES[one.name].words for one in told[:_MOST_TOLD]]
    words += [f"{len(told) - _MOST_TOLD} more"] if len(told) > _MOST_TOLD else []
    share = first.tell.caught[0]
    which = "Photos of" if share >= _MOST or other else f"{share:.0%} of the photos of"
    apart = f"{name!r} can be told" if other is None else f"{name!r} and {other!r} can be told apart"
    return Finding(
        kind="data",
        severity=first.tell.caught[0],
        cost=first.tell.caught[0] * float((photos.labels == first.label).sum()) / len(photos.labels),
        certainty=max(to_certainty(one.tell.p, tests) for one in told),
        title=f"{which} {apart} without a look at what is on them, by {join_words(words)}.",
        detail=" ".join(describe(one, name, other) for one in told[:_MOST_TOLD])
        + " A model may learn this instead of the object.",
        class_name=name,
        other=other,
        photos=_pick_photos(first, photos),
        numbers={
            "properties": [one.name for one in told],
            "figures": {one.name: _to_figures(one) for one in told},
        },
        remedy="Save all photos in one way, or collect photos of each class that were made like those of the others.",
        command="whycam audit $MODEL $FOLDER -o $RESULT --kinds shortcut",
    )


def describe(one: Told, name: str, other: str | None) -> str:
    """How a property differs between a class and the others, and how well it tells them, in sentences."""
    about, tell = PROPERTIES[one.name], one.tell
    is_number = isinstance(one.usual[0], float)
    how, score, share = ("median", "AUC", tell.auc) if is_number else ("mostly", "balanced accuracy", tell.accuracy)
    own, rest = (f"{how} {about.write(value)}" if value != "" else "of many kinds" for value in one.usual)
    others = repr(other) if other else "the others"
    return (
        f"{about.words[:1].upper()}{about.words[1:]}: {own} in {name!r}, {rest} in {others}. By it alone, "
        f"{tell.caught[0]:.0%} of {name!r} and {tell.caught[1]:.0%} of {others} are taken for {name!r} "
        f"({score} {share.value:.2f}, 95 % interval {share.low:.2f} to {share.high:.2f})."
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


def _pick_photos(one: Told, photos: Labelled) -> tuple[EvidencePhoto, ...]:
    """Photos with what is usual in the class, then photos with what is usual in the others."""
    values, about, picked = photos.table.columns[one.name], PROPERTIES[one.name], []
    sides = (photos.labels == one.label, (photos.labels != one.label) & (photos.labels >= 0))
    for rows, usual in zip((np.flatnonzero(side) for side in sides), one.usual, strict=True):
        if isinstance(usual, float):
            known = rows[np.isfinite(values[rows])]
            chosen = known[np.argsort(np.abs(values[known] - usual), kind="stable")]
        else:
            chosen = rows[(values[rows] == usual) | (usual == "")]
        for row in chosen[:_MOST_PHOTOS]:
            value = values[row].item()
            picked.append(EvidencePhoto(photos.paths[row], note=f"{about.words}: {about.write(value)}"))
    return tuple(picked)
