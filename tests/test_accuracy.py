"""Accuracy, calibration and each class's figures, beside torchmetrics, whose import a training needs no longer."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torchmetrics.functional import classification

from whycam.metrics.accuracy import count_confusion, measure_calibration, measure_classes, measure_top


@pytest.mark.parametrize(("photos", "classes", "spread"), [(200, 5, 2.0), (60, 12, 0.1), (7, 2, 30.0), (1, 3, 1.0)])
@pytest.mark.parametrize("seed", range(5))
def test_figures_are_those_of_torchmetrics(photos: int, classes: int, spread: float, seed: int) -> None:
    """Also of classes that no photo has, that none is taken for, and of a network that is sure of all."""
    draw = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(photos, classes, generator=draw, dtype=torch.float64)
    labels = torch.randint(max(1, classes - 1), (photos,), generator=draw)
    counts = count_confusion(logits, labels)
    assert torch.equal(counts, classification.multiclass_confusion_matrix(logits, labels, classes))
    for name, values in measure_classes(counts).items():
        theirs = getattr(classification, f"multiclass_{name}{'_score' if name == 'f1' else ''}")
        torch.testing.assert_close(values.float(), theirs(logits, labels, classes, average="none"))
    for top in {1, min(5, classes)}:
        theirs = classification.multiclass_accuracy(logits, labels, classes, average="micro", top_k=top)
        assert measure_top(logits, labels, top) == pytest.approx(float(theirs), abs=1e-6)
    error = classification.multiclass_calibration_error(logits.softmax(dim=1), labels, classes)
    assert measure_calibration(logits.softmax(dim=1), labels) == pytest.approx(float(error), abs=1e-6)


def test_a_sure_answer_is_in_the_last_bin() -> None:
    sure = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert measure_calibration(sure, torch.tensor([0, 1])) == 0.5


def test_training_and_evaluation_go_without_torchmetrics() -> None:
    """To import it takes seconds, and transformers with it where that is installed."""
    words = "import sys, whycam.jobs.train, whycam.metrics.evaluation; print('torchmetrics' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
