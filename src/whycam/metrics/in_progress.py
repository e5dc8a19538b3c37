"""One evaluation as it goes on: photos to cases, cases to rows of numbers; what scores the changed photos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from whycam.data.annotations import Annotation, AnnotationError, Truth
from whycam.data.loader import Photo
from whycam.errors import UserError
from whycam.explainer.model import Model
from whycam.explainer.targets import seek_class
from whycam.metrics.case import Case, Photos, Score, to_heat
from whycam.metrics.pooling import estimate
from whycam.metrics.registry import Metric
from whycam.model.classifier import Classifier
from whycam.model.input import normalise_on

_SAME = 1e-4
# Of fewer photos an interval says little.
_FEWEST = 30


def make_scores(classifier: Classifier) -> Callable[[Tensor], Tensor]:
    """Images (B, 3, H, W) -> logits (B, K); a single logit stands against 0, as a second class."""

    def run(images: Tensor) -> Tensor:
        logits = classifier.score_inputs(images)
        return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits

    return run


@dataclass(kw_only=True)
class EvaluationInProgress:
    """One evaluation as it goes on: photos come in batches, rows of numbers pile up.

    Attributes:
        model, methods, metrics, target, seed, how: see `evaluate`.
        scored: scores changed photos.
        baselines: those of the methods that need not be measured on every photo.
        tolerance: see `Photos`.
        counts: what was left out -> of how many photos.
        total: the most photos there may be.
        rows: method -> metric -> (total, ...), of which the first ones are filled; NaN where a method was not
            measured.
        same: method -> the earlier ones whose maps it repeats, so far.
        photos, labels, targets, logits: of the photos that were measured; a label is -1 where it is not known.
        places: which of all photos they are, counted as they came.
        is_sampled: whether the baselines were measured on them, too.
        record: method -> how its maps were made.
    """

    model: Model
    methods: tuple[str, ...]
    metrics: tuple[Metric, ...]
    target: str
    seed: int
    scored: Classifier
    how: Mapping[str, Any]
    total: int
    baselines: frozenset[str] = frozenset()
    tolerance: float = 0.0
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
    _indices: dict[str | int, int | None] = field(default_factory=dict)
    _seen: int = 0
    _looked_at: int = 0

    def __post_init__(self) -> None:
        self._run = make_scores(self.scored)
        self.rows = {method: {} for method in self.methods}
        self.same = {method: set(self.methods[:k]) for k, method in enumerate(self.methods)}

    def find_classes(self, samples: Sequence[Annotation]) -> None:
        """Which of the model's classes the samples' words mean.

        Raises:
            UserError: they have classes, and not one is the model's.
        """
        words = {word for sample in samples for word in sample.classes or ()}
        self._indices = {word: seek_class(word, self.model.class_names) for word in words}
        if self.target != "predicted" and words and not any(i is not None for i in self._indices.values()):
            raise UserError(
                f"Not one of the {len(words)} class names of the photos ({', '.join(sorted(map(str, words))[:5])}, ...)"
                f" is among the model's {len(self.model.class_names)} ({', '.join(self.model.class_names[:5])}, ...). "
                "Give --target predicted to explain what the model says, or rename the folders."
            )

    def measure(self, batch: Sequence[tuple[Annotation, Photo]], *, is_sampled: bool = True) -> None:
        """The numbers of a batch of photos; the baselines' only where it is of their sample."""
        readable = [(a, p) for a, p in batch if p.pixels is not None]
        places = [self._seen + k for k, (_, p) in enumerate(batch) if p.pixels is not None]
        self._seen += len(batch)
        self.counts["unreadable photos"] += len(batch) - len(readable)
        if not readable:
            return
        pixels = torch.from_numpy(np.stack([p.pixels for _, p in readable if p.pixels is not None]))
        images = normalise_on(pixels.to(self.model.device), self.model.preprocess)
        logits = self._run(images)
        found = [self._find_target(a, logits[k]) for k, (a, _) in enumerate(readable)]
        at = [k for k, (target, _) in enumerate(found) if target >= 0]
        if not at:
            return
        truths = [self._fit(*readable[k]) for k in at]
        targets = torch.tensor([found[k][0] for k in at], device=images.device)
        labels = torch.tensor([found[k][1] for k in at], device=images.device)
        methods = tuple(name for name in self.methods if is_sampled or name not in self.baselines)
        photos = self._make_photos(images[at], targets, labels, logits[at], truths)
        self._measure_all(replace(photos, methods=methods))
        self.places += [places[k] for k in at]
        self.is_sampled += [is_sampled] * len(at)
        self.photos += [readable[k][0].photo for k in at]
        self.labels += labels.tolist()
        self.targets += targets.tolist()
        self.logits.append(logits[at].cpu().numpy())

    def is_narrow(self, until: float) -> bool:
        """Whether half of every interval is under `until`, baselines aside; looked at as the photos grow by a fifth."""
        count = len(self.photos)
        if count < max(_FEWEST, 1.2 * self._looked_at):
            return False
        self._looked_at = count
        asked = [name for name in self.methods if name not in self.baselines]
        found = (estimate(self.rows[name][one.name][:count], one.pool) for name in asked for one in self.metrics)
        return all(one.high - one.low < 2 * until for one in found if one.photos)

    def _find_target(self, sample: Annotation, logits: Tensor) -> tuple[int, int]:
        """The class to explain and the true one; -1 where there is none."""
        known = [k for k in (self._indices[word] for word in sample.classes or ()) if k is not None]
        # Where several classes are right, the one that the model sees most of.
        label = max(known, key=lambda k: float(logits[k])) if known else -1
        if self.target == "predicted" or (self.target == "auto" and sample.classes is None):
            return int(logits.argmax()), label
        if label < 0:
            self.counts["photos whose class the model does not have"] += 1
        return label, label

    def _fit(self, sample: Annotation, photo: Photo) -> Truth | None:
        if photo.size_px is None:
            raise RuntimeError(f"'{photo.path}' was decoded and its size not kept.")
        if not sample.has_truth:
            self.counts["photos without boxes or masks"] += 1
            return None
        try:
            return sample.fit(photo.size_px, (self.model.preprocess.height_px, self.model.preprocess.width_px))
        except AnnotationError as error:
            self.counts[f"photos left out of localization: {error}"] += 1
            return None

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
            self.methods,
            self._explain,
            self.model.network,
            black,
            hits if bool((labels >= 0).any()) else None,
            self.seed,
            self.tolerance,
        )

    def _explain(
        self, methods: Sequence[str], images: Tensor, targets: Tensor, network: nn.Module | None
    ) -> dict[str, Tensor]:
        model = self.model if network is None else Model(self.model.classifier.swap(network))
        targets = targets.clamp(max=len(model.class_names) - 1)  # the two sides of a single logit are one class
        found = model.explain(images, targets, method=list(methods), seed=self.seed, **self.how)
        for method, why in found.items():
            self.record.setdefault(method, dict(why.record))
        return {method: why.maps for method, why in found.items()}

    def _measure_all(self, photos: Photos) -> None:
        cases: dict[str, Case] = {}
        for method, maps in photos.explain_all(photos.images).items():
            case = Case(photos, maps, method)
            twins = [other for other in self.same[method] if other in cases and is_same(case.maps, cases[other].maps)]
            self.same[method] &= set(twins)
            cases[method] = case
            first = next((other for other in self.methods if other in twins), None)
            for one in self.metrics:
                # What a repeated map scores is known.
                done = slice(len(self.photos), len(self.photos) + len(case))
                rows = self.rows[first][one.name][done] if first else self._run_metric(one, case)
                # Room for all at once: small arrays that stay, between large ones that go, would scatter the memory.
                if one.name not in self.rows[method]:
                    self.rows[method][one.name] = np.full((self.total, *rows.shape[1:]), np.nan, rows.dtype)
                self.rows[method][one.name][done] = rows

    def _run_metric(self, one: Metric, case: Case) -> np.ndarray:
        values = one.run(case).detach().cpu().numpy()
        if len(values) != len(case):
            raise RuntimeError(f"{one.name} gave {values.shape} for {len(case)} photos.")
        return values


def is_same(maps: Tensor, others: Tensor) -> bool:
    """Whether two sets of maps (N, h, w) are one up to scale and negative values, photo by photo."""
    if maps.shape != others.shape:
        return False
    return bool((to_heat(maps) - to_heat(others)).abs().max() < _SAME)
