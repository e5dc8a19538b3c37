"""Measurer: a batch of photos to the numbers of all methods and metrics; the same here and on another machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from whycam.data.annotations import Annotation, AnnotationError, Truth
from whycam.data.loader import Photo
from whycam.data.preprocess import Preprocess
from whycam.explainer.model import Model
from whycam.metrics.case import Case, Photos, Score, to_heat
from whycam.metrics.registry import Metric
from whycam.model.classifier import Classifier
from whycam.model.input import normalise_on

_SAME = 1e-4


@dataclass(frozen=True)
class Question:
    """What is measured; can be sent to other machines.

    Attributes:
        methods: names, the baselines among them.
        metrics: in the order asked for.
        target: see `evaluate`.
        seed: likewise.
        engine: what scores changed photos.
        how: what `whycam.explain` takes beside these.
        indices: each word for a class -> which of the model's it is; None where it is none of them.
        baselines: those of the methods that need not be measured on every photo.
        tolerance: see `Photos`.
    """

    methods: tuple[str, ...]
    metrics: tuple[Metric, ...]
    target: str
    seed: int
    engine: str
    how: Mapping[str, Any]
    indices: Mapping[str | int, int | None]
    baselines: frozenset[str] = frozenset()
    tolerance: float = 0.0

    @property
    def needs_truth(self) -> bool:
        """Whether a metric asks where the object is."""
        return any(one.needs in {"boxes", "region", "mask"} for one in self.metrics)

    def can_measure(self, photo: Ready) -> bool:
        """Whether the photo can be read and has a class to explain."""
        return photo.pixels is not None and (self.takes_top(photo.classes) or bool(self.find_known(photo.classes)))

    def find_known(self, classes: Sequence[str | int] | None) -> list[int]:
        """Of a photo's classes those that the model has."""
        return [k for k in (self.indices[word] for word in classes or ()) if k is not None]

    def takes_top(self, classes: Sequence[str | int] | None) -> bool:
        """Whether the class that the model sees is explained, and not a true one."""
        return self.target == "predicted" or (self.target == "auto" and classes is None)


@dataclass(frozen=True)
class Ready:
    """A photo that is decoded, with what is known of it; can be sent to other machines.

    Attributes:
        path: the file.
        classes: see `Annotation`.
        pixels: (3, H, W) uint8; None where it can't be read.
        truth: where the object is; None where that is not known, or asked by no metric.
        lacks: why it is not known, where it is asked.
    """

    path: Path
    classes: tuple[str | int, ...] | None
    pixels: np.ndarray | None
    truth: Truth | None = None
    lacks: str = ""


@dataclass(frozen=True)
class Job:
    """A batch to measure; the baselines only where it is of their sample."""

    photos: Sequence[Ready]
    is_sampled: bool = True


@dataclass(frozen=True)
class Measured:
    """What a job gives.

    Attributes:
        places: which of the job's photos were measured: n of them.
        labels, targets: n indices each; a label is -1 where it is not known.
        logits: (n, K).
        rows: method -> metric -> (n, ...).
        same: method -> the earlier ones whose maps it repeats on all n.
        counts: what was left out -> of how many photos.
        record: method -> how its maps were made.
    """

    places: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()
    targets: tuple[int, ...] = ()
    logits: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    rows: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    same: Mapping[str, frozenset[str]] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    record: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


Measure = Callable[[Iterable[Job]], Iterator[Measured]]
# A model, a question and how many jobs come -> a block in which jobs are measured, when asked for or ahead, in order.
MeasureBy = Callable[[Model, Question, int], AbstractContextManager[Measure]]


@contextmanager
def measure_here(model: Model, question: Question, jobs: int) -> Iterator[Measure]:
    """By this process, one job after the other."""
    measurer = Measurer(model, question)
    yield lambda jobs: map(measurer, jobs)


def make_ready(sample: Annotation, photo: Photo, question: Question, preprocess: Preprocess) -> Ready:
    """A decoded photo, with its object fitted to the network's input where a metric asks for it."""
    ready = Ready(photo.path, sample.classes, photo.pixels)
    if photo.pixels is None or not question.needs_truth:
        return ready
    if photo.size_px is None:
        raise RuntimeError(f"'{photo.path}' was decoded and its size not kept.")
    if not sample.has_truth:
        return replace(ready, lacks="photos without boxes or masks")
    try:
        return replace(ready, truth=sample.fit(photo.size_px, (preprocess.height_px, preprocess.width_px)))
    except AnnotationError as error:
        return replace(ready, lacks=f"photos left out of localization: {error}")


def make_scores(classifier: Classifier) -> Callable[[Tensor], Tensor]:
    """Images (B, 3, H, W) -> logits (B, K); a single logit stands against 0, as a second class."""

    def run(images: Tensor) -> Tensor:
        logits = classifier.score_inputs(images)
        return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits

    return run


class Measurer:
    """A model and a question: jobs to numbers."""

    def __init__(self, model: Model, question: Question) -> None:
        self.model, self.question = model, question
        self.scored = model.classifier.having(engine=question.engine)
        self._run = make_scores(self.scored)
        self._record: dict[str, Mapping[str, Any]] = {}

    def __call__(self, job: Job) -> Measured:
        """The numbers of a batch of photos, which no other batch changes."""
        counts: Counter[str] = Counter()
        readable = [k for k, one in enumerate(job.photos) if one.pixels is not None]
        if unreadable := len(job.photos) - len(readable):
            counts["unreadable photos"] = unreadable
        if not readable:
            return Measured(counts=counts)
        pixels = torch.from_numpy(np.stack([job.photos[k].pixels for k in readable]))  # type: ignore[misc]
        images = normalise_on(pixels.to(self.model.device), self.model.preprocess)
        logits = self._run(images)
        found = [self._find_target(job.photos[k].classes, logits[i]) for i, k in enumerate(readable)]
        at = [i for i, (target, _) in enumerate(found) if target >= 0]
        if unknown := len(found) - len(at):
            counts["photos whose class the model does not have"] = unknown
        if not at:
            return Measured(counts=counts)
        measured = [job.photos[readable[i]] for i in at]
        counts.update(one.lacks for one in measured if one.lacks)
        targets, labels = (torch.tensor([found[i][side] for i in at], device=images.device) for side in (0, 1))
        photos = self._make_photos(images[at], targets, labels, logits[at], [one.truth for one in measured])
        if not job.is_sampled:
            photos = replace(photos, methods=tuple(m for m in photos.methods if m not in self.question.baselines))
        rows, same = self._measure_all(photos)
        return Measured(
            tuple(readable[i] for i in at),
            tuple(labels.tolist()),
            tuple(targets.tolist()),
            logits[at].cpu().numpy(),
            rows,
            same,
            counts,
            dict(self._record),
        )

    def _find_target(self, classes: Sequence[str | int] | None, logits: Tensor) -> tuple[int, int]:
        """The class to explain and the true one; -1 where there is none."""
        known = self.question.find_known(classes)
        # Where several classes are right, the one that the model sees most of.
        label = max(known, key=lambda k: float(logits[k])) if known else -1
        return int(logits.argmax()) if self.question.takes_top(classes) else label, label

    def _make_photos(
        self, images: Tensor, targets: Tensor, labels: Tensor, logits: Tensor, truths: Sequence[Truth | None]
    ) -> Photos:
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        right = best == labels[:, None]
        hits = torch.stack([right[:, 0], right.any(1)], dim=1).double()
        hits[labels < 0] = torch.nan
        black = torch.from_numpy(self.model.preprocess.normalise(np.zeros((3, 1, 1), dtype=np.uint8))).view(-1)
        return Photos(
            images,
            Score(self._run, targets, self.scored.chunk, self.scored.card.is_multi_label),
            truths,
            self.question.methods,
            self._explain,
            self.model.network,
            black,
            hits if bool((labels >= 0).any()) else None,
            self.question.seed,
            self.question.tolerance,
        )

    def _explain(
        self, methods: Sequence[str], images: Tensor, targets: Tensor, network: nn.Module | None
    ) -> dict[str, Tensor]:
        model = self.model if network is None else Model(self.model.classifier.swap(network))
        targets = targets.clamp(max=len(model.class_names) - 1)  # the two sides of a single logit are one class
        how = self.question.how
        found = model.explain(images, targets, method=list(methods), seed=self.question.seed, **how)
        for method, why in found.items():
            self._record.setdefault(method, dict(why.record))
        return {method: why.maps for method, why in found.items()}

    def _measure_all(self, photos: Photos) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, frozenset[str]]]:
        """Method -> metric -> (n, ...), and method -> the earlier ones that it repeats."""
        cases: dict[str, Case] = {}
        rows: dict[str, dict[str, np.ndarray]] = {}
        same: dict[str, frozenset[str]] = {}
        for method, maps in photos.explain_all(photos.images).items():
            cases[method] = case = Case(photos, maps, method)
            same[method] = frozenset(other for other in rows if is_same(maps, cases[other].maps))
            first = next((other for other in rows if other in same[method]), None)
            # What a repeated map scores is known.
            rows[method] = rows[first] if first else {m.name: _run_metric(m, case) for m in self.question.metrics}
        return rows, same


def _run_metric(one: Metric, case: Case) -> np.ndarray:
    values = one.run(case).detach().cpu().numpy()
    if len(values) != len(case):
        raise RuntimeError(f"{one.name} gave {values.shape} for {len(case)} photos.")
    return values


def is_same(maps: Tensor, others: Tensor) -> bool:
    """Whether two sets of maps (N, h, w) are one up to scale and negative values, photo by photo."""
    if maps.shape != others.shape:
        return False
    return bool((to_heat(maps) - to_heat(others)).abs().max() < _SAME)
