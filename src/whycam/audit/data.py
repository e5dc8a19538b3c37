"""AuditData: the photos of an audit with what the model says of each, and the model as a function of pixels."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from whycam.data.folder import Sample
from whycam.data.loader import in_batches, stream_photos
from whycam.data.properties import PropertyTable, read_table
from whycam.errors import make_unreadable_error
from whycam.explainer.exact import choose_stand_in
from whycam.explainer.targets import to_sides
from whycam.model.classifier import Classifier

Made = TypeVar("Made")
Run = Callable[[np.ndarray], np.ndarray]
Progress = Callable[[int], None]
# A step of the work in words, and how many photos it is about, 0 where nobody knows -> a block that is told of them.
ShowProgress = Callable[[str, int], AbstractContextManager[Progress]]
_BATCH = 16


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
        kept: see `remember`.
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
    kept: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def predicted(self) -> np.ndarray:
        """(N,) each photo's top class."""
        top: np.ndarray = self.logits.argmax(1)
        return top

    @property
    def properties(self) -> PropertyTable:
        """How each photo was made; read from its file when it is first asked for."""
        return self.remember("properties", lambda: read_table(self.paths))

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

    def remember(self, name: str, make: Callable[[], Made]) -> Made:
        """What several kinds of findings need: made when it is first asked for, and kept under that name."""
        if name not in self.kept:
            self.kept[name] = make()
        made: Made = self.kept[name]
        return made

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
    for sample in draw.sample(list(samples), len(samples)):
        by_class[sample.label].append(sample)
    ranked = sorted((k, label, i) for label, group in by_class.items() for i, k in enumerate(range(len(group))))
    kept = [by_class[label][i] for _, label, i in ranked[:limit]]
    return sorted(kept, key=lambda sample: (sample.label, sample.path))


def read_data(
    classifier: Classifier,
    samples: Sequence[Sample],
    *,
    seed: int,
    engine: str,
    progress: Progress | None = None,
) -> AuditData:
    """Decodes the photos and asks the model about each.

    Raises:
        UserError: not one photo can be read, or the engine can't be had.
    """
    classifier = classifier.having(engine=engine, pools=True)
    found: list[tuple[Sample, np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]] = []
    unreadable: dict[Path, str] = {}
    photos = stream_photos((sample.path for sample in samples), classifier.card.preprocess)
    for batch in in_batches(zip(samples, photos, strict=True), _BATCH):
        unreadable |= {photo.path: photo.error for _, photo in batch if photo.error}
        good = [(sample, photo.pixels) for sample, photo in batch if photo.pixels is not None]
        if good:
            pixels = np.stack([values for _, values in good])
            found += zip([sample for sample, _ in good], pixels, *_ask(classifier, pixels), strict=True)
        if progress:
            progress(len(batch))
    if not found:
        raise make_unreadable_error(len(samples), samples[0].path)
    pooled = [values for *_, values in found if values is not None]
    weight = classifier.weight if pooled else None

    def run(pixels: np.ndarray) -> np.ndarray:
        return to_sides(classifier.scores(pixels))

    return AuditData(
        classifier,
        run,
        tuple(sample.path for sample, *_ in found),
        np.stack([pixels for _, pixels, *_ in found]),
        np.array([sample.label for sample, *_ in found]),
        np.stack([logits for _, _, logits, *_ in found]),
        np.stack([evidence for *_, evidence, _ in found]),
        unreadable,
        seed,
        pooled=np.stack(pooled) if weight is not None else None,
        weight=None if weight is None else to_sides(weight.T).T,
    )


def _ask(classifier: Classifier, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, Sequence[np.ndarray | None]]:
    """Logits (B, K), evidence (B, h, w), and the pooled features of each photo, where they are to be had."""
    if not classifier.card.is_exact:
        return *explain_inexactly(classifier, pixels), [None] * len(pixels)
    answer = classifier.read(pixels)
    maps, logits = answer.maps, answer.logits
    own = maps[np.arange(len(maps)), logits.argmax(1) if maps.shape[1] > 1 else 0]
    pooled = [None] * len(maps) if answer.pooled is None else list(answer.pooled)
    return logits, own - maps.mean(1) if maps.shape[1] > 1 else own, pooled


def explain_inexactly(
    classifier: Classifier, pixels: np.ndarray, target: int | None = None, versus: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Logits (B, K) and maps (B, h, w) by the method that stands in for exact ones."""
    from whycam.explainer.model import Model  # noqa: PLC0415 - torch, which exact maps do without

    method = choose_stand_in(classifier.card)
    why: Any = Model(classifier).explain_pixels(pixels, target, method, versus=versus)
    return why.logits.cpu().numpy(), why.maps.detach().cpu().numpy()


def read_difference(data: AuditData, rows: np.ndarray, target: int, versus: int) -> np.ndarray:
    """(n, h, w) maps of photos (n,): what speaks for one class and against another."""
    if not data.is_exact:
        return explain_inexactly(data.classifier, data.pixels[rows], target, versus)[1]
    maps = data.classifier.read(data.pixels[rows]).maps
    if maps.shape[1] == 1:
        return maps[:, 0] if target else -maps[:, 0]
    difference: np.ndarray = maps[:, target] - maps[:, versus]
    return difference
