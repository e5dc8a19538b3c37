"""What a run folder holds for people beside the model and its scores: curves, confusion matrix, the sheet of maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from whycam.data.folder import Sample
from whycam.data.loader import Photo, in_batches, stream_batches
from whycam.errors import UserError
from whycam.explainer.exact import ExactReader
from whycam.explainer.explanation import Explanation
from whycam.explainer.model import Model, join_readings
from whycam.mend.scores import Scored
from whycam.mend.shown import choose_shown
from whycam.metrics.accuracy import count_confusion
from whycam.model.card import Card
from whycam.model.classifier import Classifier
from whycam.show.lettering import label_classes
from whycam.show.plots import make_sheet, plot_confusion, plot_curves
from whycam.train.work import Work

_SHEET_COLUMNS = 8
_BATCH = 16


def draw_results(work: Work, scored: Scored) -> dict[str, Any]:
    """Draws the pictures; what comes back is what the summary says of them."""
    run = work.run
    plot_curves(work.epochs, run, is_multi_label=work.photos.is_multi_label)
    if work.photos.is_multi_label:
        # Classes that go together are not taken for one another.
        return {"stored_features_error": _draw_sheet(work, scored, run / "sheet.jpg")}
    labels = torch.tensor([sample.label for sample in work.photos.val])
    plot_confusion(count_confusion(scored.logits, labels).numpy(), work.photos.class_names, run / "confusion.png")
    return {"stored_features_error": _draw_sheet(work, scored, run / "sheet.jpg")}


def _tell_labels(labels: Sequence[str], sample: Sample, given: Sequence[int]) -> tuple[str, bool]:
    """What a photo is given, what it lacks of its own, and whether that is all right."""
    missed = [labels[k] for k in sample.classes if k not in given]
    told = ", ".join(labels[k] if k in sample.classes else f"{labels[k]}?" for k in given) or "nothing"
    return (f"{told}\nlacks {', '.join(missed)}" if missed else told), set(given) == set(sample.classes)


def _draw_sheet(work: Work, scored: Scored, path: Path) -> float:
    """Held-out photos with the predicted class's map over them; of classes that go together, the strongest one's.

    They pass through the whole network, where they have not yet; what comes back is by how much their logits differ
    from `scored`, as a share of the logits' range: what the float16 of stored features costs.
    """
    photos, classifier, logits = work.photos, work.model, scored.logits
    rows = choose_shown(logits, photos)
    card = Card("", classifier.class_names, classifier.preprocess, {}, str(work.device))
    if photos.is_multi_label:
        card = replace(card, output="multi-label logits", thresholds=classifier.thresholds)
    explained = _explain(Classifier(card, classifier, engine="torch"), [photos.val[row].path for row in rows], scored)
    labels = label_classes(photos.class_names)
    pictures, captions, errors = [], [], []
    for row, (photo, why) in zip(rows, explained, strict=True):
        if why is None:
            raise UserError(f"'{photo.path}' could be read when the training began and can't now: {photo.error}")
        errors.append(float((why.logits[0].cpu() - logits[row]).abs().max() / (logits[row].max() - logits[row].min())))
        truth, top = photos.val[row].label, int(why.predicted[0])
        if photos.is_multi_label:
            pictures.append(why.overlay())
            captions.append(_tell_labels(labels, photos.val[row], why.reading().given))
            continue
        told = f"{float(why.probabilities[0, top]):.2f} {labels[top]}"
        pictures.append(why.overlay())
        captions.append((told if top == truth else f"{told}\nis {labels[truth]}", top == truth))
    make_sheet(list(in_batches(pictures, _SHEET_COLUMNS)), list(in_batches(captions, _SHEET_COLUMNS)), path)
    return max(errors)


def _explain(
    classifier: Classifier, paths: Sequence[Path], scored: Scored
) -> Iterator[tuple[Photo, Explanation | None]]:
    """The photos, each with the explanation of its top class; None with one that can't be read."""
    if any(path not in scored.shown for path in paths):
        yield from Model(classifier).stream(paths)
        return
    reader = ExactReader(classifier)
    for batch in stream_batches(paths, classifier.card.preprocess, _BATCH):
        for photo in batch:
            found = reader.read(scored.shown[photo.path], [photo.image])
            yield photo, None if photo.image is None else join_readings(found, (photo.path,), is_single=True)
