"""What a run folder holds beside the model: scores, predictions, curves, confusion matrix and the sheet of maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from whycam.data.folder import PhotoFolder, Sample
from whycam.data.loader import in_batches, stream_photos
from whycam.errors import UserError
from whycam.explainer.model import Model
from whycam.jobs.progress import show_progress
from whycam.metrics.groups import score_groups
from whycam.model.card import Card
from whycam.model.classifier import Classifier
from whycam.model.gap import GapClassifier, check_identity, measure_identity
from whycam.model.input import normalise_on
from whycam.runs import TableWriter
from whycam.show.lettering import label_classes
from whycam.show.plots import make_sheet, plot_confusion, plot_curves
from whycam.train.evidence import compute_evidence
from whycam.train.features import FeatureStore
from whycam.train.focus import SWAPPED_VIEWS
from whycam.train.work import Work

_SHEET_PHOTOS = 40
_SHEET_COLUMNS = 8


@dataclass(frozen=True)
class Scored:
    """What the model makes of photos.

    Attributes:
        logits: (N, K).
        errors: (N,) the identity's error of each.
        evidence: (N, h, w) how much speaks for or against any class in each cell.
    """

    logits: Tensor
    errors: Tensor
    evidence: Tensor


def write_results(work: Work, run: Path) -> dict[str, Any]:
    """Scores the held-out photos, writes the files, and returns the scores.

    Raises:
        UserError: the maps are not the scores.
    """
    model, photos = work.model, work.photos
    scored = score_stored(work, work.store) if work.store else score_photos(model, photos.val, work.device)
    logits, labels = scored.logits, torch.tensor([sample.label for sample in photos.val])
    identity_error = float(scored.errors.max())
    check_identity(identity_error, "The trained model")
    confusion = multiclass_confusion_matrix(logits, labels, num_classes=len(photos.class_names)).numpy()
    plot_curves(work.epochs, run)
    plot_confusion(confusion, photos.class_names, run / "confusion.png")
    _write_predictions(logits, labels, photos, run)
    stored_error = _draw_sheet(work, logits, run / "sheet.jpg")
    views = SWAPPED_VIEWS if work.swaps else 0
    focus = {"focus": work.focus.describe(photos.val, scored.evidence, views=views)} if work.focus else {}
    retrained = {"last_layer": work.retrained} if work.retrained else {}
    return {
        **_compute_scores(logits, labels, photos.class_names),
        **_compute_groups(work, logits, labels),
        **retrained,
        **focus,
        "identity_error": identity_error,
        "stored_features_error": stored_error,
        "confusion": confusion.tolist(),
    }


@torch.no_grad()
def score_stored(work: Work, store: FeatureStore) -> Scored:
    """What `score_photos` gives, from the frozen backbone's stored features instead of the photos."""
    parts = []
    for batch in in_batches(work.photos.val, 64):
        rows = [store.row_of[work.hashes[sample.path]] for sample in batch]
        features = work.model.neck(torch.from_numpy(store.values[rows].astype(np.float32)).to(work.device))
        parts.append(_score(work.model, features))
    return _join(parts)


@torch.no_grad()
def score_photos(model: GapClassifier, samples: Sequence[Sample], device: torch.device) -> Scored:
    """The scores of photos from the disk through the whole network."""
    parts = []
    paths = (sample.path for sample in samples)
    with show_progress("validation", len(samples)) as advance:
        for batch in in_batches(stream_photos(paths, model.preprocess), 32):
            # Unreadable photos were left out before the training.
            pixels = np.stack([photo.pixels for photo in batch if photo.pixels is not None])
            images = normalise_on(torch.from_numpy(pixels).to(device), model.preprocess)
            parts.append(_score(model, model.features(images)))
            advance(len(batch))
    return _join(parts)


def _score(model: GapClassifier, features: Tensor) -> Scored:
    logits, maps = model.classify(features), model.compute_maps(features)
    errors = measure_identity(logits, maps, model.classifier.bias)
    return Scored(logits.cpu(), errors.cpu(), compute_evidence(maps).cpu())


def _join(parts: Sequence[Scored]) -> Scored:
    columns = ([getattr(part, name) for part in parts] for name in ("logits", "errors", "evidence"))
    return Scored(*map(torch.cat, columns))


def _compute_scores(logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> dict[str, Any]:
    """Accuracy, calibration and per-class figures by torchmetrics."""
    count = len(class_names)
    probabilities = logits.softmax(dim=1)
    each = {
        "precision": multiclass_precision(logits, labels, count, average="none"),
        "recall": multiclass_recall(logits, labels, count, average="none"),
        "f1": multiclass_f1_score(logits, labels, count, average="none"),
    }
    photos = torch.bincount(labels, minlength=count)
    return {
        "val_accuracy": float(multiclass_accuracy(logits, labels, count, average="micro")),
        "val_loss": float(torch.nn.functional.cross_entropy(logits, labels)),
        "val_balanced_accuracy": float(each["recall"].mean()),
        "val_calibration_error": float(multiclass_calibration_error(probabilities, labels, count)),
        "classes": {
            name: {"photos": int(photos[k]), **{word: float(values[k]) for word, values in each.items()}}
            for k, name in enumerate(class_names)
        },
    }


def _compute_groups(work: Work, logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """The accuracy of each group of the held-out photos, and what it was chosen by."""
    samples, names = work.photos.val, work.photos.class_names
    words = [work.groups.get(sample.path) for sample in samples]
    found = score_groups([names[s.label] for s in samples], words, (logits.argmax(dim=1) == labels).tolist())
    note = ""
    if work.retrained and "chosen_by" in work.retrained:
        note = f" The last layer's numbers were chosen by {work.retrained['chosen_by']}, these same photos."
    about = {"val_note": f"The epoch was chosen by its accuracy on these same photos.{note}"}
    return about | ({"groups": found} if found else {})


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


def choose_sheet(logits: Tensor, photos: PhotoFolder) -> list[int]:
    """Rows of the sheet's photos: of each class in turn its mistakes first, then the others in order."""
    predicted = logits.argmax(dim=1).tolist()
    rows = range(len(photos.val))
    of_class = [
        sorted(
            (i for i in rows if photos.val[i].label == label), key=lambda i: (predicted[i] == photos.val[i].label, i)
        )
        for label in range(len(photos.class_names))
    ]
    each = max(2, _SHEET_PHOTOS // len(of_class))
    wrong = max(1, each // 4)
    chosen = []
    for members in of_class:
        mistakes = [i for i in members if predicted[i] != photos.val[i].label][:wrong]
        right = [i for i in members if predicted[i] == photos.val[i].label]
        chosen += [*mistakes, *right[: each - len(mistakes)]]
    return chosen[: max(_SHEET_PHOTOS, 2 * len(of_class))][:80]


def _draw_sheet(work: Work, logits: Tensor, path: Path) -> float:
    """Held-out photos with the predicted class's map over them.

    They pass through the whole network; what comes back is by how much their logits differ from `logits`, as a share
    of the logits' range: what the float16 of stored features costs.
    """
    photos, classifier = work.photos, work.model
    rows = choose_sheet(logits, photos)
    card = Card("", classifier.class_names, classifier.preprocess, {}, str(work.device))
    model = Model(Classifier(card, classifier, engine="torch"))
    labels = label_classes(photos.class_names)
    pictures, captions, errors = [], [], []
    for row, (photo, why) in zip(rows, model.stream(photos.val[row].path for row in rows), strict=True):
        if why is None:
            raise UserError(f"'{photo.path}' could be read when the training began and can't now: {photo.error}")
        errors.append(float((why.logits[0].cpu() - logits[row]).abs().max() / (logits[row].max() - logits[row].min())))
        truth, top = photos.val[row].label, int(why.predicted[0])
        told = f"{float(why.probabilities[0, top]):.2f} {labels[top]}"
        pictures.append(why.overlay())
        captions.append((told if top == truth else f"{told}\nis {labels[truth]}", top == truth))
    make_sheet(list(in_batches(pictures, _SHEET_COLUMNS)), list(in_batches(captions, _SHEET_COLUMNS)), path)
    return max(errors)
