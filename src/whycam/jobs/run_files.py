"""What a run folder holds for people beside the model and its scores: curves, confusion matrix, the sheet of maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from whycam.data.folder import PhotoFolder
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
    plot_curves(work.epochs, run)
    plot_confusion(count_confusion(work, scored), work.photos.class_names, run / "confusion.png")
    return {"stored_features_error": _draw_sheet(work, scored.logits, run / "sheet.jpg")}


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
