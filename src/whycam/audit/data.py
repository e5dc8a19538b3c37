"""AuditData: the photos of an audit with what the model says of each, and the model as a function of pixels."""

from __future__ import annotations

import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from whycam.audit.asker import Asker, Seen
from whycam.data.folder import Sample
from whycam.data.loader import in_batches, stream_photos
from whycam.data.properties import PropertyTable, read_table
from whycam.errors import make_unreadable_error
from whycam.explainer.targets import to_sides
from whycam.model.classifier import Classifier

Made = TypeVar("Made")
Holds = Literal["these classes", "these photos", "anything"]
Run = Callable[[np.ndarray], np.ndarray]
Progress = Callable[[int], None]
# A step of the work in words, and how many photos it is about, 0 where nobody knows -> a block that is told of them.
ShowProgress = Callable[[str, int], AbstractContextManager[Progress]]
_BATCH = 16


@dataclass(frozen=True)
class Kept:
    """One thing that is remembered, and what it holds for."""

    value: Any
    holds_for: Holds


@dataclass(frozen=True)
class AuditData:
    """N photos and a model's answers.

    Attributes:
        classifier: what is audited.
        run: (B, 3, H, W) uint8 -> (B, K) logits, of any number of images.
        paths: N files.
        pixels: (N, 3, H, W) uint8, the network's input before normalisation.
        labels: (N,) class indices; -1 where none is known.
        logits: (N, K).
        evidence: (N, h, w) map of the predicted class; where maps are exact, less the mean of all classes' maps:
            what all classes share decides nothing.
        pooled: (N, C) float32 means of the features that the exact maps weigh; None without exact maps.
        weight: (K, C) of the classifier, pooled @ weight.T + bias = logits; None without exact maps.
        unreadable: file -> why.
        seed: of all that is drawn at random.
        train: the files that the model was trained on, where they are known.
        masks: photo -> the user's mask picture of its object, where masks were given.
        causes: what shortcuts may be found by; None: by all that there is.
        sets: (N, K) bool, which classes each photo has, where they go together and all are known.
        is_training: (N,) bool: photos that the model was trained on, which shortcuts alone are looked for on; None:
            there are none among these.
        kept: see `remember`.
        asker: what answers for the model; None: the classifier, here.
    """

    classifier: Classifier
    run: Run
    paths: tuple[Path, ...]
    pixels: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    evidence: np.ndarray
    unreadable: dict[Path, str] = field(default_factory=dict)
    seed: int = 0
    train: tuple[Path, ...] = ()
    masks: Mapping[Path, Path] = field(default_factory=dict)
    pooled: np.ndarray | None = None
    weight: np.ndarray | None = None
    causes: tuple[str, ...] | None = None
    sets: np.ndarray | None = None
    is_training: np.ndarray | None = None
    kept: dict[str, Kept] = field(default_factory=dict)
    asker: Asker | None = None

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def asked(self) -> Asker:
        """What answers for the model."""
        return self.asker or Asker(self.classifier)

    @cached_property
    def predicted(self) -> np.ndarray:
        """(N,) each photo's top class."""
        top: np.ndarray = self.logits.argmax(1)
        return top

    @property
    def properties(self) -> PropertyTable:
        """How each photo was made; read from its file when it is first asked for."""
        return self.remember("properties", lambda: read_table(self.paths), holds_for="these photos")

    def telling(self, progress: Progress) -> AuditData:
        """The same, that tells `progress` how many changed photos the model is asked about, before it answers."""

        def run(pixels: np.ndarray) -> np.ndarray:
            progress(len(pixels))
            return self.run(pixels)

        return replace(self, run=run)

    @property
    def has_labels(self) -> bool:
        """Whether the class of every photo is known."""
        return bool((self.labels >= 0).all())

    @property
    def classes(self) -> np.ndarray:
        """(N,) each photo's class: its label where labels are known, else what it is taken for."""
        return self.labels if self.has_labels else self.predicted

    @cached_property
    def groups(self) -> dict[int, np.ndarray]:
        """Class -> its photos' rows."""
        return {int(k): np.flatnonzero(self.classes == k) for k in np.unique(self.classes)}

    def seeks(self, cause: str) -> bool:
        """Whether shortcuts are looked for that are found by this."""
        return self.causes is None or cause in self.causes

    def remember(self, name: str, make: Callable[[], Made], holds_for: Holds = "these classes") -> Made:
        """What several kinds of findings need: made when it is first asked for, and kept under that name.

        Args:
            name: what it is.
            make: makes it.
            holds_for: these photos in these classes, these photos in whatever classes, or anything.
        """
        if name not in self.kept:
            self.kept[name] = Kept(make(), holds_for)
        made: Made = self.kept[name].value
        return made

    def recall(self, *holds_for: Holds) -> dict[str, Kept]:
        """What is remembered that holds for these."""
        return {name: kept for name, kept in self.kept.items() if kept.holds_for in holds_for}

    @cached_property
    def is_audited(self) -> np.ndarray:
        """(N,) bool: all but the training photos among these."""
        return np.ones(len(self), dtype=bool) if self.is_training is None else ~self.is_training

    def count_audited(self, rows: np.ndarray) -> int:
        """How many of these rows are audited photos."""
        return int(self.is_audited[rows].sum())

    @property
    def is_exact(self) -> bool:
        """Whether the model has exact maps."""
        return self.classifier.card.is_exact

    def name(self, index: int) -> str:
        """A class's name."""
        return self.classifier.card.class_names[index]


def draw_samples(samples: Sequence[Sample], limit: int | None, seed: int) -> list[Sample]:
    """So many of the samples, as evenly over the classes as they allow."""
    if limit is None or len(samples) <= limit:
        return list(samples)
    draw = random.Random(seed)  # noqa: S311 - a sample, not a secret
    by_class: dict[int, list[Sample]] = defaultdict(list)
    counts = Counter(k for sample in samples for k in sample.classes)
    for sample in draw.sample(list(samples), len(samples)):
        # Of several classes the rarest, so that each is drawn.
        by_class[min(sample.classes, key=lambda k: (counts[k], k), default=-1)].append(sample)
    ranked = sorted((k, label, i) for label, group in by_class.items() for i, k in enumerate(range(len(group))))
    kept = [by_class[label][i] for _, label, i in ranked[:limit]]
    return sorted(kept, key=lambda sample: (sample.label, sample.path))


def read_data(asker: Asker, samples: Sequence[Sample], *, seed: int, progress: Progress | None = None) -> AuditData:
    """Decodes the photos and asks the model about each.

    Raises:
        UserError: not one photo can be read, or the engine can't be had.
    """
    data, _ = read_some(asker, samples, seed=seed, progress=progress)
    if data is None:
        raise make_unreadable_error(len(samples), samples[0].path)
    return data


def read_some(
    asker: Asker, samples: Sequence[Sample], *, seed: int, progress: Progress | None = None
) -> tuple[AuditData | None, dict[Path, str]]:
    """The same, None where not one photo can be read; and which files can't be, with the reason.

    Raises:
        UserError: the engine can't be had.
    """
    classifier = asker.classifier
    known: list[Sample] = []
    pixels: list[np.ndarray] = []
    unreadable: dict[Path, str] = {}
    sizes: deque[int] = deque()

    def make_batches() -> Iterator[np.ndarray]:
        photos = stream_photos((sample.path for sample in samples), classifier.card.preprocess)
        for batch in in_batches(zip(samples, photos, strict=True), _BATCH):
            unreadable.update((photo.path, photo.error) for _, photo in batch if photo.error)
            good = [(sample, photo.pixels) for sample, photo in batch if photo.pixels is not None]
            if good:
                known.extend(sample for sample, _ in good)
                pixels.extend(values for _, values in good)
                sizes.append(len(batch))
                yield np.stack([values for _, values in good])
            elif progress:
                progress(len(batch))

    found: list[Seen] = []
    for seen in asker.see_each(make_batches()):
        found.append(seen)
        if progress:
            progress(sizes.popleft())
    if not found:
        return None, unreadable
    pooled = [seen.pooled for seen in found if seen.pooled is not None]
    weight = classifier.weight if pooled else None
    data = AuditData(
        classifier,
        asker.score,
        tuple(sample.path for sample in known),
        np.stack(pixels),
        np.array([sample.label for sample in known]),
        np.concatenate([seen.logits for seen in found]),
        np.concatenate([seen.evidence for seen in found]),
        unreadable,
        seed,
        pooled=np.concatenate(pooled) if weight is not None else None,
        weight=None if weight is None else to_sides(weight.T).T,
        sets=_make_sets(known, len(classifier.card.class_names)),
        asker=asker,
    )
    return data, unreadable


def _make_sets(samples: Sequence[Sample], classes: int) -> np.ndarray | None:
    """(N, K) bool; None where not all classes of each photo are known."""
    if any(sample.labels is None for sample in samples):
        return None
    return np.array([[k in sample.classes for k in range(classes)] for sample in samples])


def read_difference(data: AuditData, rows: np.ndarray, target: int, versus: int) -> np.ndarray:
    """(n, h, w) maps of photos (n,): what speaks for one class and against another."""
    return data.asked.contrast(data.pixels[rows], target, versus)
