"""Tally: what the report says of all photos together, counted photo by photo, so that none has to be kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from whycam.explainer.reading import Reading

TOP = 5
OUTCOMES = ("right", "missed", "false")


@dataclass
class ClassHeat:
    """Where the heat of one class's own photos lies: each photo's positive part over its sum, so all count the same."""

    photos: int = 0
    border: float = 0.0
    shares: np.ndarray | None = None

    def add(self, values: np.ndarray) -> None:
        """Adds one map (h, w); one without a positive value says nothing."""
        heat = np.nan_to_num(values, posinf=0).clip(0).astype(np.float64)
        if not heat.any():
            return
        shares = heat / heat.sum()
        self.photos += 1
        self.border += float(shares[~find_inner(shares.shape)].sum())
        self.shares = shares if self.shares is None else self.shares + shares


def find_inner(shape: tuple[int, ...]) -> np.ndarray:
    """(h, w) bool: the cells that do not touch the photo's border."""
    inner = np.zeros(shape, dtype=bool)
    inner[1:-1, 1:-1] = True
    return inner


@dataclass
class Tally:
    """Counts over photos with a known class, and where the heat lies.

    Attributes:
        classes: K.
        pairs: (truth, predicted) -> photos.
        top5: photos whose class is among the first five.
        over_half: class -> its own photos that are given it: those over one half, or over its threshold.
        unlabelled: photos of no known class.
        whole: photos all of whose classes are known, none to several.
        outcomes: (class, right, missed or false) -> of these photos.
        wrong: those of them with a class that is missed or false.
        heats: class -> its heat, over the photos of that class (over those called so, where no class is known).
    """

    classes: int
    pairs: Counter[tuple[int, int]] = field(default_factory=Counter)
    top5: int = 0
    over_half: Counter[int] = field(default_factory=Counter)
    unlabelled: int = 0
    whole: int = 0
    outcomes: Counter[tuple[int, str]] = field(default_factory=Counter)
    wrong: int = 0
    heats: dict[int, ClassHeat] = field(default_factory=dict)

    def add_whole(self, reading: Reading, truths: Collection[int]) -> None:
        """Counts a photo all of whose classes are known."""
        self.whole += 1
        found = judge_labels(reading.given, truths)
        self.outcomes.update((k, word) for word, classes in found.items() for k in classes)
        self.wrong += bool(found["missed"] or found["false"])
        for k in truths:
            self._add_heat(reading, k)

    def _add_heat(self, reading: Reading, of: int) -> None:
        row = np.flatnonzero(reading.targets == of)
        if len(row):
            self.heats.setdefault(of, ClassHeat()).add(reading.maps[row[0]])

    def add(self, reading: Reading, truth: int | None) -> None:
        """Counts one photo."""
        if truth is None:
            self.unlabelled += 1
        else:
            self.pairs[truth, reading.predicted] += 1
            self.top5 += int((reading.logits > reading.logits[truth]).sum() < TOP)
            self.over_half[truth] += int(truth in reading.given)
        self._add_heat(reading, reading.predicted if truth is None else truth)

    @property
    def photos(self) -> int:
        """All that were counted."""
        return self.labelled + self.unlabelled + self.whole

    @property
    def labelled(self) -> int:
        """Photos of a known class."""
        return self.pairs.total()

    @property
    def right(self) -> int:
        """Those that the model names rightly."""
        return sum(count for (truth, predicted), count in self.pairs.items() if truth == predicted)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each class that has photos or is named, the least accurate first."""
        of_class, named = Counter[int](), Counter[int]()
        for (truth, predicted), count in self.pairs.items():
            of_class[truth] += count
            named[predicted] += count
        rows = []
        for k, word in self.outcomes:
            if word != "false":
                of_class[k] = self.outcomes[k, "right"] + self.outcomes[k, "missed"]
            named[k] = self.outcomes[k, "right"] + self.outcomes[k, "false"]
        for k in sorted({*of_class, *named, *self.heats}):
            heat = self.heats.get(k, ClassHeat())
            right = self.outcomes[k, "right"] if self.whole else self.pairs[k, k]
            row: dict[str, Any] = {
                "index": k,
                "photos": of_class[k],
                "accuracy": make_share(right, of_class[k]),
                "over_half": make_share(self.over_half[k], of_class[k]),
                "named": named[k],
                "precision": make_share(right, named[k]),
                **{word: self.outcomes[k, word] for word in OUTCOMES},
                "border": heat.border / heat.photos if heat.photos else None,
                "heat_photos": heat.photos,
                "map": None,
            }
            if heat.shares is not None:
                even = heat.shares.size / heat.photos
                values = [round(float(v), 4) for v in (heat.shares * even).ravel()]
                row["map"] = {"shape": list(heat.shares.shape), "values": values}
            rows.append(row)
        return sorted(
            rows, key=lambda row: (row["accuracy"] is None, row["accuracy"] or 0, -row["photos"], -row["heat_photos"])
        )

    @property
    def even_border(self) -> float | None:
        """The share of heat on the border cells if it lay evenly: that of the cells themselves."""
        shapes = [heat.shares.shape for heat in self.heats.values() if heat.shares is not None]
        return float(1 - find_inner(shapes[0]).mean()) if shapes else None


def judge_labels(given: Sequence[int], truths: Collection[int]) -> dict[str, list[int]]:
    """Of the classes of a photo those that are given rightly, missed, and given though they are not there."""
    return {
        "right": [k for k in given if k in truths],
        "missed": [k for k in truths if k not in given],
        "false": [k for k in given if k not in truths],
    }


def make_share(part: int, whole: int) -> float | None:
    """None where there is nothing to divide."""
    return part / whole if whole else None
