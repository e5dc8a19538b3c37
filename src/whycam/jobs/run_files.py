"""What a run folder holds for people beside the model and its scores: curves, confusion matrix, the sheet of maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from whycam.data.folder import PhotoFolder, Sample
from whycam.data.loader import in_batches
from whycam.errors import UserError
from whycam.explainer.model import Model
from whycam.mend.scores import Scored, count_confusion
from whycam.model.card import Card
from whycam.model.classifier import Classifier
from whycam.show.lettering import label_classes
from whycam.show.plots import make_sheet, plot_confusion, plot_curves
from whycam.train.work import Work

_SHEET_PHOTOS = 40
_SHEET_COLUMNS = 8


def draw_results(work: Work, scored: Scored) -> dict[str, Any]:
    """Draws the pictures; what comes back is what the summary says of them."""
    run = work.run
    plot_curves(work.epochs, run, is_multi_label=work.photos.is_multi_label)
    if work.photos.is_multi_label:
        # Classes that go together are not taken for one another.
        return {"stored_features_error": _draw_sheet(work, scored.logits, run / "sheet.jpg")}
    plot_confusion(count_confusion(work, scored), work.photos.class_names, run / "confusion.png")
    return {"stored_features_error": _draw_sheet(work, scored.logits, run / "sheet.jpg")}


def choose_sheet(logits: Tensor, photos: PhotoFolder) -> list[int]:
    """Rows of the sheet's photos: of each class in turn its mistakes first, then the others in order."""
    if photos.is_multi_label:
        return _choose_several(logits, photos)
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


def _choose_several(logits: Tensor, photos: PhotoFolder) -> list[int]:
    """Of each class in turn the photos that lack most of its score, then those that have most; each photo once."""
    count = len(photos.class_names)
    each = max(2, _SHEET_PHOTOS // count)
    chosen: dict[int, None] = {}
    for label in range(count):
        own = [i for i, sample in enumerate(photos.val) if label in sample.classes and i not in chosen]
        ranked = sorted(own, key=lambda i: float(logits[i, label]))
        few = max(1, each // 4)
        chosen |= dict.fromkeys([*ranked[:few], *ranked[few:][::-1][: each - few]])
    return list(chosen)[: max(_SHEET_PHOTOS, 2 * count)][:80]


def _tell_labels(labels: Sequence[str], sample: Sample, given: Sequence[int]) -> tuple[str, bool]:
    """What a photo is given, what it lacks of its own, and whether that is all right."""
    missed = [labels[k] for k in sample.classes if k not in given]
    told = ", ".join(labels[k] if k in sample.classes else f"{labels[k]}?" for k in given) or "nothing"
    return (f"{told}\nlacks {', '.join(missed)}" if missed else told), set(given) == set(sample.classes)


def _draw_sheet(work: Work, logits: Tensor, path: Path) -> float:
    """Held-out photos with the predicted class's map over them; of classes that go together, the strongest one's.

    They pass through the whole network; what comes back is by how much their logits differ from `logits`, as a share
    of the logits' range: what the float16 of stored features costs.
    """
    photos, classifier = work.photos, work.model
    rows = choose_sheet(logits, photos)
    card = Card("", classifier.class_names, classifier.preprocess, {}, str(work.device))
    if photos.is_multi_label:
        card = replace(card, output="multi-label logits", thresholds=classifier.thresholds)
    model = Model(Classifier(card, classifier, engine="torch"))
    labels = label_classes(photos.class_names)
    pictures, captions, errors = [], [], []
    for row, (photo, why) in zip(rows, model.stream(photos.val[row].path for row in rows), strict=True):
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
