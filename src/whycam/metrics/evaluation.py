"""evaluate(): methods x metrics over photos, with intervals, baselines and what is more than noise."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from whycam.data.annotations import Annotation, read_photos, to_annotation
from whycam.data.folder import Sample, sort_names
from whycam.data.loader import in_batches, stream_photos
from whycam.errors import UserError
from whycam.explainer.model import Model, load
from whycam.metrics.accuracy import count_confusion, measure_calibration, measure_classes, measure_top
from whycam.metrics.curves import TOLERANCE
from whycam.metrics.in_progress import EvaluationInProgress, find_classes
from whycam.metrics.measurer import Job, MeasureBy, Question, Ready, make_ready, measure_here
from whycam.metrics.pooling import Estimate, compare, estimate, is_defined
from whycam.metrics.registry import Metric, get_metrics

BASELINES = ("random", "centre", "edges")
MIN_PHOTOS = 2
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Evaluation:
    """Numbers of methods and metrics over photos.

    Attributes:
        methods: those asked for, then the baselines.
        metrics: in the order asked for.
        rows: method -> metric's name -> (N, ...) what each photo gives; NaN where a metric is not defined.
        photos: N files.
        classes: N names of the class whose maps were made.
        logits: (N, K).
        labels: (N,) index of the true class; -1 where it is not known.
        same: method -> the earlier method whose maps it repeats, up to scale and negative values, on every photo.
        counts: what was left out, and of how many photos.
        class_names: K names.
        record: how it was made.
        is_multi_label: several labels may be right at once.
        is_sampled: (N,) whether the baselines were measured on a photo; None: on all.
    """

    methods: tuple[str, ...]
    metrics: tuple[Metric, ...]
    rows: Mapping[str, Mapping[str, np.ndarray]]
    photos: tuple[Path, ...]
    classes: tuple[str, ...]
    logits: np.ndarray
    labels: np.ndarray
    same: Mapping[str, str]
    counts: Mapping[str, int]
    class_names: tuple[str, ...]
    record: Mapping[str, Any]
    is_multi_label: bool = False
    is_sampled: np.ndarray | None = None
    _kept: dict[object, Estimate] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.photos)

    @property
    def distinct(self) -> tuple[str, ...]:
        """Methods whose maps no earlier one has."""
        return tuple(name for name in self.methods if name not in self.same)

    def find_measured(self, *methods: str) -> np.ndarray:
        """(N,) whether all these methods were measured on a photo."""
        is_every = self.is_sampled is None or not set(self.record["baselines"]).intersection(methods)
        return np.ones(len(self), dtype=bool) if is_every else np.asarray(self.is_sampled)

    def find_metric(self, name: str) -> Metric:
        """The metric of that name, with or without its baseline."""
        return next(m for m in self.metrics if name in (m.name, m.family))

    def estimate(self, method: str, metric: str) -> Estimate:
        """The number over all photos, with its 95 % interval."""
        found = self.find_metric(metric)
        key = (method, found.name)
        if key not in self._kept:
            self._kept[key] = estimate(self.rows[method][found.name][self.find_measured(method)], found.pool)
        return self._kept[key]

    def difference(self, method: str, other: str, metric: str) -> Estimate:
        """`method` - `other` on the same photos, with its 95 % interval (paired bootstrap)."""
        found = self.find_metric(metric)
        key = (method, other, found.name)
        if key not in self._kept:
            both = self.find_measured(method, other)
            ours, theirs = (self.rows[name][found.name][both] for name in (method, other))
            self._kept[key] = compare(ours, theirs, found.pool)
        return self._kept[key]

    def is_noise(self, method: str, other: str, metric: str) -> bool:
        """Whether the difference of two methods may be 0, or can't be told."""
        gap = self.difference(method, other, metric)
        return not (gap.low > 0 or gap.high < 0)

    def best(self, metric: str) -> str | None:
        """The method with the best number, baselines aside; None where none has one."""
        found = self.find_metric(metric)
        values = {m: self.estimate(m, metric).value for m in self.distinct if m not in self.record["baselines"]}
        values = {m: v for m, v in values.items() if np.isfinite(v)}
        choose = max if found.better == "higher" else min
        return choose(values, key=values.__getitem__) if values else None

    def per_photo(self, method: str, metric: str) -> np.ndarray:
        """(N,): one number a photo; NaN where it is not defined."""
        found = self.find_metric(metric)
        rows = self.rows[method][found.name]
        good = is_defined(rows)
        values = np.full(len(rows), np.nan)
        if good.any():
            values[good] = found.pool.each(rows[good], rows[good].mean(0))
        return values

    def classifier(self) -> dict[str, Any]:
        """The network's own accuracy and calibration on photos with labels, empty without labels."""
        known = self.labels >= 0
        logits, labels = torch.from_numpy(self.logits[known]), torch.from_numpy(self.labels[known])
        if not len(labels):
            return {}
        right = (logits.argmax(1) == labels).numpy()
        found = estimate(right.astype(float))
        per_class = measure_classes(count_confusion(logits, labels))["recall"]
        return {
            "photos": len(labels),
            "accuracy": measure_top(logits, labels),
            "accuracy_low": _to_number(found.low),
            "accuracy_high": _to_number(found.high),
            "top5_accuracy": measure_top(logits, labels, min(5, logits.shape[1])),
            # Of labels that don't exclude each other, one true class says nothing of the others.
            "calibration_error": None if self.is_multi_label else measure_calibration(logits.softmax(1), labels),
            "classes": {self.class_names[k]: float(per_class[k]) for k in labels.unique().tolist()},
        }

    def overall(self) -> list[dict[str, Any]]:
        """A row for each metric and method: number, interval, the best method, and whether it is more than noise."""
        table = []
        for metric in self.metrics:
            best = self.best(metric.name)
            for method in self.methods:
                found = self.estimate(method, metric.name)
                row: dict[str, Any] = {"metric": metric.name, "better": metric.better, "method": method}
                row |= {"value": found.value, "low": found.low, "high": found.high}
                row |= {"photos": found.photos, "undefined": found.undefined, "same_as": self.same.get(method)}
                row["is_baseline"] = method in self.record["baselines"]
                if best is not None:
                    gap = self.difference(method, best, metric.name)
                    row |= {"best": best, "gap": gap.value, "gap_low": gap.low, "gap_high": gap.high}
                    row["is_noise"] = self.is_noise(method, best, metric.name)
                table.append({k: _to_number(v) if isinstance(v, float) else v for k, v in row.items()})
        return table

    def per_class(self) -> list[dict[str, Any]]:
        """A row for each class and method: the pooled numbers of its photos alone."""
        table = []
        for name in sort_names(set(self.classes)):
            of_class = np.array([one == name for one in self.classes])
            for method in self.methods:
                measured = of_class & self.find_measured(method)
                row: dict[str, Any] = {"class": name, "method": method, "photos": int(measured.sum())}
                for one in self.metrics:
                    rows = self.rows[method][one.name][measured]
                    good = rows[is_defined(rows)]
                    row[one.name] = float(one.pool.finish(good.mean(0, keepdims=True))[0]) if len(good) else None
                table.append(row)
        return table


def evaluate(
    model: Model | str | Path,
    samples: str | Path | Iterable[str | Path | Sample | Annotation],
    *,
    methods: Sequence[str] = ("cam",),
    metrics: Sequence[str] = ("quick",),
    target: str = "auto",
    baselines: Sequence[str] = BASELINES,
    baseline_photos: int = 100,
    limit: int | None = None,
    until: float | None = None,
    every_step: bool = False,
    batch_size: int = 8,
    seed: int = 0,
    engine: str = "auto",
    progress: Progress | None = None,
    measure_by: MeasureBy = measure_here,
    **how: Any,
) -> Evaluation:
    """How good the maps of methods are, by metrics, over photos.

    Args:
        model: what `whycam.load` gives, or takes.
        samples: a folder, whose sub-folders name classes; paths; `Sample`s with their labels; or `Annotation`s, as
            `read_photos` makes them, with boxes or masks.
        methods: names that `whycam methods` lists.
        metrics: `quick`, `all`, a category, or names; see docs/metrics.md.
        target: which class is explained: `true`, `predicted`, or `auto`: the true one where it is known.
        baselines: methods that are measured beside the others.
        baseline_photos: on so many of the photos, drawn by the seed.
        limit: so many of the photos, drawn by the seed.
        until: the photos come in an order drawn by the seed, and no more of them once half of every interval is under
            this, the baselines' aside.
        every_step: all points of every curve, not only those where it bends; see `curves.trace`.
        batch_size: photos at a time.
        seed: of everything that is drawn at random.
        engine: what scores changed photos. onnx: the exported graph, made once and kept in the cache; torch: the
            network; auto: the first, where the model can be exported and there is no GPU.
        progress: is told how many photos are done.
        measure_by: whose cores measure.
        how: what `whycam.explain` takes beside these: layer, smooth.

    Raises:
        UserError: fewer than 2 photos, unknown names, or metrics that need boxes or masks where there are none.
    """
    model = model if isinstance(model, Model) else load(model)
    chosen = get_metrics(metrics)
    samples = read_photos(Path(samples)) if isinstance(samples, str | Path) else samples
    listed = _draw_samples([to_annotation(one) for one in samples], limit, seed)
    beside = tuple(b for b in baselines if b not in methods)
    names = (*dict.fromkeys(methods), *dict.fromkeys(beside))
    model.check_methods(names)
    chosen, left_out = _choose_metrics(chosen, metrics, listed, model)
    question = Question(
        methods=names,
        metrics=tuple(chosen),
        target=target,
        seed=seed,
        engine=engine,
        how=how,
        indices=find_classes(listed, model.class_names, target),
        baselines=frozenset(beside),
        tolerance=0.0 if every_step else TOLERANCE,
    )
    running = EvaluationInProgress(question=question, total=len(listed))
    order = list(range(len(listed)))
    if until or (beside and baseline_photos < len(listed)):
        random.Random(seed).shuffle(order)  # noqa: S311 - a sample, not a secret
    photos = _stream(model, [listed[k] for k in order], question)
    asked: deque[Job] = deque()
    with measure_by(model, question, -(-len(listed) // batch_size)) as measure:
        for found in measure(_keep(_make_jobs(question, photos, batch_size, baseline_photos), asked)):
            job = asked.popleft()
            running.add(job, found)
            if progress:
                progress(len(job.photos))
            if until and running.is_narrow(until):
                return _finish(
                    running, model, beside, left_out, order=order, stopped={"until": until, "of": len(listed)}
                )
    return _finish(running, model, beside, left_out, order=order)


def _make_jobs(question: Question, photos: Iterator[Ready], size: int, sample: int) -> Iterator[Job]:
    """Batches of photos; the first `sample` photos are those on which the baselines are measured, too."""
    sampled = 0
    for is_sample, part in ((True, islice(photos, max(MIN_PHOTOS, sample))), (False, photos)):
        for batch in in_batches(part, size):
            # Where the sample's photos can't be read, those that come next stand in for them.
            job = Job(batch, is_sample or sampled < MIN_PHOTOS)
            sampled += job.is_sampled * sum(question.can_measure(one) for one in batch)
            yield job


def _keep(jobs: Iterable[Job], kept: deque[Job]) -> Iterator[Job]:
    for job in jobs:
        kept.append(job)
        yield job


def _draw_samples(samples: list[Annotation], limit: int | None, seed: int) -> list[Annotation]:
    if limit is not None and limit < len(samples):
        kept = sorted(random.Random(seed).sample(range(len(samples)), limit))  # noqa: S311 - a sample, not a secret
        samples = [samples[k] for k in kept]
    if len(samples) < MIN_PHOTOS:
        raise UserError(
            f"Found {len(samples)} photos to measure on; expected {MIN_PHOTOS} or more, for an interval. Add photos."
        )
    return samples


def _choose_metrics(
    chosen: list[Metric], words: Sequence[str], samples: Sequence[Annotation], model: Model
) -> tuple[list[Metric], list[str]]:
    """The metrics that photos and model allow: one that was named and lacks what it needs is an error, others go."""
    has = {
        "nothing": True,
        "boxes": any(s.has_truth for s in samples),
        "region": any(s.has_truth for s in samples),
        "mask": any(s.mask is not None for s in samples),
        "weights": model.classifier.card.answers_for("weights"),
    }
    lacking = [m for m in chosen if not has[m.needs]]
    named = [m.name for m in lacking if {m.name, m.family, m.category} & set(words)]
    if m := next((m for m in lacking if {m.name, m.family} & set(words)), None):
        if m.needs == "weights":
            raise UserError(
                f"{m.name} draws the model's weights anew, and {model.name!r} is a {model.classifier.card.kind}, whose "
                "weights are not at hand. Leave it out, or evaluate the network that it was made of."
            )
        raise UserError(
            f"{m.name} needs {'masks' if m.needs == 'mask' else 'boxes or masks'}, and none of the {len(samples)} "
            "photos has any. Give --boxes, --masks or --coco."
        )
    kept = [m for m in chosen if has[m.needs]]
    if not kept:
        raise UserError(f"Found no boxes and no masks, which {', '.join(named)} need. Give --boxes, --masks or --coco.")
    return kept, [m.name for m in lacking]


def _stream(model: Model, samples: Sequence[Annotation], question: Question) -> Iterator[Ready]:
    photos = stream_photos((s.photo for s in samples), model.preprocess, is_whole=True, ahead=16)
    for sample, photo in zip(samples, photos, strict=True):
        yield make_ready(sample, photo, question, model.preprocess)


def _finish(
    running: EvaluationInProgress,
    model: Model,
    baselines: tuple[str, ...],
    left_out: Sequence[str],
    *,
    order: Sequence[int],
    stopped: Mapping[str, Any] | None = None,
) -> Evaluation:
    """What was measured, the photos in the order in which they were listed."""
    if len(running.photos) < MIN_PHOTOS:
        told = "; ".join(f"{what}: {count}" for what, count in running.counts.items() if count)
        raise UserError(
            f"{len(running.photos)} photos are left to measure on; expected {MIN_PHOTOS} or more. Left out: {told}."
        )
    question, scored = running.question, model.classifier.having(engine=running.question.engine)
    methods, names = question.methods, model.class_names
    sort = np.argsort([order[k] for k in running.places])
    is_sampled = np.array(running.is_sampled)[sort]
    return Evaluation(
        methods,
        question.metrics,
        {m: {name: rows[sort] for name, rows in of_method.items()} for m, of_method in running.rows.items()},
        tuple(running.photos[k] for k in sort),
        tuple(names[min(running.targets[k], len(names) - 1)] for k in sort),
        np.concatenate(running.logits)[sort],
        np.array(running.labels)[sort],
        {m: min(same, key=methods.index) for m, same in running.same.items() if same},
        {what: count for what, count in running.counts.items() if count},
        names,
        {
            "model": model.name,
            **model.origin,
            "preprocess": model.preprocess.model_dump(),
            "target": question.target,
            "seed": question.seed,
            "engine": scored.runtime,
            "baselines": list(baselines),
            "baseline_photos": int(is_sampled.sum()) if baselines else 0,
            "every_step": not question.tolerance,
            **({"stopped": dict(stopped)} if stopped else {}),
            "left_out": list(left_out),
            "maps": running.record,
        },
        scored.card.is_multi_label,
        None if is_sampled.all() else is_sampled,
    )


def _to_number(value: float) -> float | None:
    """JSON and tables have no NaN: what is not defined is empty."""
    return float(value) if np.isfinite(value) else None
