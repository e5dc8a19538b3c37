"""How a trained model does on the held-out photos: scores, groups, and what it says of each photo."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from whycam.data.folder import PhotoFolder, Sample
from whycam.data.loader import in_batches, stream_photos
from whycam.errors import UserError
from whycam.mend.several_scores import set_thresholds, summarise_labels, write_label_predictions
from whycam.mend.shown import choose_shown
from whycam.metrics.accuracy import count_confusion, measure_calibration, measure_classes, measure_top
from whycam.metrics.groups import find_interval, score_groups
from whycam.model.gap import GapClassifier, check_identity, measure_identity
from whycam.model.input import normalise_on
from whycam.model.onnx.engine import Answer
from whycam.runs import TableWriter
from whycam.train.evidence import compute_evidence
from whycam.train.features import FeatureStore
from whycam.train.focus import SWAPPED_VIEWS
from whycam.train.work import Work


@dataclass(frozen=True)
class Scored:
    """What the model makes of photos.

    Attributes:
        logits: (N, K).
        errors: (M,) the identity's error of each photo whose maps were made.
        evidence: (M, h, w) how much speaks for or against any class in each cell of these.
        shown: photo -> what the whole network makes of it, of some of the photos where means alone are stored.
    """

    logits: Tensor
    errors: Tensor
    evidence: Tensor
    shown: Mapping[Path, Answer] = field(default_factory=dict)

    @cached_property
    def identity_error(self) -> float:
        """The largest of the errors."""
        return float(self.errors.max())


def score(work: Work) -> Scored:
    """What the trained model makes of the held-out photos; written to `predictions.parquet` and `.csv`.

    Raises:
        UserError: the maps are not the scores.
    """
    scored = score_model(work, work.model, is_stored=work.stores is not None)
    if not len(scored.errors):
        some = [work.photos.val[row] for row in choose_shown(scored.logits, work.photos)]
        shown: dict[Path, Answer] = {}
        scored = replace(scored, errors=_score_photos(work, work.model, some, shown=shown).errors, shown=shown)
    check_identity(scored.identity_error, "The trained model")
    if work.photos.is_multi_label:
        set_thresholds(work, scored.logits)
        write_label_predictions(scored.logits, work.model.thresholds, work.photos, work.run)
        return scored
    labels = torch.tensor([sample.label for sample in work.photos.val])
    _write_predictions(scored.logits, labels, work.photos, work.run)
    return scored


def summarise(work: Work, scored: Scored, more: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of held-out photos, as `summary.json` holds them, and `more`."""
    photos, logits = work.photos, scored.logits
    about = {"identity_error": scored.identity_error, "identity_photos": len(scored.errors), **more}
    if photos.is_multi_label:
        return {**summarise_labels(work, logits), **about}
    labels = torch.tensor([sample.label for sample in photos.val])
    views = SWAPPED_VIEWS if work.swaps else 0
    focus = {"focus": work.focus.describe(photos.val, scored.evidence, views=views)} if work.focus else {}
    retrained = {"last_layer": work.retrained} if work.retrained else {}
    low, high = find_interval(int((logits.argmax(dim=1) == labels).sum()), len(labels))
    return {
        **_compute_scores(logits, labels, photos.class_names),
        "val_interval": [low, high],
        "chosen": work.chosen,
        **_compute_groups(work, logits, labels),
        **retrained,
        **focus,
        **about,
        "confusion": count_confusion(logits, labels).tolist(),
    }


def score_model(work: Work, model: GapClassifier, *, is_stored: bool) -> Scored:
    """What a model makes of the held-out photos: from stored features, where they are its own backbone's.

    Of stored means there are no maps: no errors and no evidence.
    """
    if is_stored and work.stores is not None:
        scored = score_stored(work, model, work.stores.plain, work.photos.val)
        return scored if work.keeps_maps else replace(scored, errors=scored.errors[:0], evidence=scored.evidence[:0])
    with work.show_progress("validation", len(work.photos.val)) as advance:
        return _score_photos(work, model, work.photos.val, advance)


@torch.no_grad()
def score_stored(work: Work, model: GapClassifier, store: FeatureStore, samples: Sequence[Sample]) -> Scored:
    """What a model makes of photos whose features are stored."""
    parts = []
    for batch in in_batches(samples, 64):
        rows = [store.row_of[work.hashes[sample.path]] for sample in batch]
        features = model.neck(torch.from_numpy(store.values[rows].astype(np.float32)).to(work.device))
        parts.append(_score(model, features))
    return _join(parts)


@torch.no_grad()
def _score_photos(
    work: Work,
    model: GapClassifier,
    samples: Sequence[Sample],
    advance: Callable[[int], None] = lambda _: None,
    *,
    shown: dict[Path, Answer] | None = None,
) -> Scored:
    """From the disk, through the whole network; the answers are put into `shown`."""
    parts = []
    paths = (sample.path for sample in samples)
    for batch in in_batches(stream_photos(paths, model.preprocess), 32):
        # Unreadable photos were left out before the training.
        if lost := next((photo for photo in batch if photo.pixels is None), None):
            raise UserError(f"'{lost.path}' could be read when the training began and can't now: {lost.error}")
        pixels = np.stack([photo.pixels for photo in batch if photo.pixels is not None])
        images = normalise_on(torch.from_numpy(pixels).to(work.device), model.preprocess)
        features = model.features(images)
        parts.append(_score(model, features))
        if shown is not None:
            maps = model.compute_maps(features).cpu().numpy()
            answers = (Answer(parts[-1].logits[k : k + 1].numpy(), maps[k : k + 1]) for k in range(len(batch)))
            shown.update(zip((photo.path for photo in batch), answers, strict=True))
        advance(len(batch))
    return _join(parts)


def _score(model: GapClassifier, features: Tensor) -> Scored:
    logits, maps = model.classify(features), model.compute_maps(features)
    errors = measure_identity(logits, maps, model.classifier.bias)
    return Scored(logits.cpu(), errors.cpu(), compute_evidence(maps).cpu())


def _join(parts: Sequence[Scored]) -> Scored:
    logits, errors, evidence = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("logits", "errors", "evidence")
    )
    return Scored(logits, errors, evidence)


def _compute_scores(logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> dict[str, Any]:
    """Accuracy, calibration and per-class figures."""
    counts = count_confusion(logits, labels)
    each = measure_classes(counts)
    return {
        "val_accuracy": measure_top(logits, labels),
        "val_loss": float(torch.nn.functional.cross_entropy(logits, labels)),
        "val_balanced_accuracy": float(each["recall"].mean()),
        "val_calibration_error": measure_calibration(logits.softmax(dim=1), labels),
        "classes": {
            name: {"photos": int(counts[k].sum()), **{word: float(values[k]) for word, values in each.items()}}
            for k, name in enumerate(class_names)
        },
    }


def _compute_groups(work: Work, logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """The accuracy of each group of the held-out photos, and what it was chosen by."""
    samples, names = work.photos.val, work.photos.class_names
    words = [work.groups.get(sample.path) for sample in samples]
    found = score_groups([names[s.label] for s in samples], words, (logits.argmax(dim=1) == labels).tolist())
    return {"val_note": _tell_chosen(work)} | ({"groups": found} if found else {})


def _tell_chosen(work: Work) -> str:
    """What was chosen on the held-out photos, and where the epoch was chosen."""
    on = work.chosen.get("on", "val")
    told = "The epoch was chosen by its accuracy on these same photos."
    if on == "slice":
        told = f"The epoch was chosen by its {work.chosen['by']} on {work.chosen['photos']:,} of the training photos."
    elif on == "last":
        told = "No epoch was chosen: the last one was kept."
    if work.retrained and "chosen_by" in work.retrained:
        return f"{told} The last layer's numbers were chosen by {work.retrained['chosen_by']}, these same photos."
    return told if on == "val" else f"{told} Nothing was chosen on these."


def _write_predictions(logits: Tensor, labels: Tensor, photos: PhotoFolder, run: Path) -> None:
    """`predictions.parquet` and `.csv`: each held-out photo with its truth, prediction and probabilities."""
    import pyarrow as pa  # noqa: PLC0415 - slow to import

    probabilities = logits.softmax(dim=1)
    texts = [pa.field(name, pa.string()) for name in ("path", "truth", "predicted")]
    numbers = [pa.field(name, pa.float32()) for name in ("p_truth", "p_predicted")]
    with TableWriter(run, "predictions", pa.schema([*texts, pa.field("is_right", pa.bool_()), *numbers])) as table:
        for sample, p in zip(photos.val, probabilities, strict=True):
            top = int(p.argmax())
            table.write(
                {
                    "path": sample.path.relative_to(photos.root).as_posix(),
                    "truth": photos.class_names[sample.label],
                    "predicted": photos.class_names[top],
                    "is_right": top == sample.label,
                    "p_truth": float(p[sample.label]),
                    "p_predicted": float(p[top]),
                }
            )
