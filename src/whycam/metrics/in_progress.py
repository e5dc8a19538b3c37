"""One evaluation as it goes on: what batches of photos give is joined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from whycam.data.annotations import Annotation
from whycam.errors import UserError
from whycam.explainer.targets import seek_class
from whycam.metrics.measurer import Job, Measured, Question
from whycam.metrics.pooling import estimate

# Of fewer photos an interval says little.
_FEWEST = 30


def find_classes(samples: Sequence[Annotation], class_names: Sequence[str], target: str) -> dict[str | int, int | None]:
    """Each word of the samples for a class -> which of the model's classes it means; None: none of them.

    Raises:
        UserError: they have classes, and not one is the model's.
    """
    words = {word for sample in samples for word in sample.classes or ()}
    indices = {word: seek_class(word, class_names) for word in words}
    if target != "predicted" and words and all(i is None for i in indices.values()):
        raise UserError(
            f"Not one of the {len(words)} class names of the photos ({', '.join(sorted(map(str, words))[:5])}, ...)"
            f" is among the model's {len(class_names)} ({', '.join(class_names[:5])}, ...). "
            "Give --target predicted to explain what the model says, or rename the folders."
        )
    return indices


@dataclass(kw_only=True)
class EvaluationInProgress:
    """One evaluation as it goes on: batches come, rows of numbers pile up.

    Attributes:
        question: see there.
        total: the most photos there may be.
        counts: what was left out -> of how many photos.
        rows: method -> metric -> (total, ...), of which the first ones are filled; NaN where a method was not
            measured.
        same: method -> the earlier ones whose maps it repeats, so far.
        photos, labels, targets, logits: of the photos that were measured; a label is -1 where it is not known.
        places: which of all photos they are, counted as they came.
        is_sampled: whether the baselines were measured on them, too.
        record: method -> how its maps were made.
    """

    question: Question
    total: int
    counts: Counter[str] = field(default_factory=Counter)
    rows: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    same: dict[str, set[str]] = field(default_factory=dict)
    photos: list[Path] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    logits: list[np.ndarray] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    is_sampled: list[bool] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)
    _seen: int = 0
    _looked_at: int = 0

    def __post_init__(self) -> None:
        methods = self.question.methods
        self.rows = {method: {} for method in methods}
        self.same = {method: set(methods[:k]) for k, method in enumerate(methods)}

    def add(self, job: Job, found: Measured) -> None:
        """What the next job gave."""
        self.counts.update(found.counts)
        start, seen = len(self.photos), self._seen
        self._seen += len(job.photos)
        for method, of_method in found.rows.items():
            self.same[method] &= found.same[method]
            for name, rows in of_method.items():
                # Room for all at once: small arrays that stay, between large ones that go, would scatter the memory.
                if name not in self.rows[method]:
                    self.rows[method][name] = np.full((self.total, *rows.shape[1:]), np.nan, rows.dtype)
                self.rows[method][name][start : start + len(rows)] = rows
        self.places += [seen + k for k in found.places]
        self.is_sampled += [job.is_sampled] * len(found.places)
        self.photos += [job.photos[k].path for k in found.places]
        self.labels += found.labels
        self.targets += found.targets
        if found.places:
            self.logits.append(found.logits)
        self.record = {**found.record, **self.record}

    def is_narrow(self, until: float) -> bool:
        """Whether half of every interval is under `until`, baselines aside; looked at as the photos grow by a fifth."""
        count = len(self.photos)
        if count < max(_FEWEST, 1.2 * self._looked_at):
            return False
        self._looked_at = count
        asked = [name for name in self.question.methods if name not in self.question.baselines]
        metrics = self.question.metrics
        found = (estimate(self.rows[name][one.name][:count], one.pool) for name in asked for one in metrics)
        return all(one.high - one.low < 2 * until for one in found if one.photos)
