"""Which runtime answers for a classifier: one rule, and the same numbers by each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import whycam
from conftest import find_graph
from whycam.data.preprocess import Preprocess
from whycam.errors import UserError
from whycam.intake.door import open_classifier
from whycam.model.card import Card
from whycam.model.classifier import MANY, Classifier, choose_runtime

EXACT = Card("net", ("a", "b"), Preprocess(), {})
INEXACT = Card("net", ("a", "b"), Preprocess(), {}, no_exact_map="It has a hidden layer.")
ON_GPU = Card("net", ("a", "b"), Preprocess(), {}, "cuda")
FOREIGN = Card("net", ("a", "b"), Preprocess(), {}, kind="module", is_exportable=False)


@pytest.mark.parametrize(
    ("engine", "card", "is_at_hand", "photos", "expected"),
    [
        ("auto", EXACT, False, 1, "torch"),
        ("auto", EXACT, False, MANY, "onnx"),
        ("auto", EXACT, True, 1, "onnx"),
        ("auto", ON_GPU, True, MANY, "torch"),
        ("auto", INEXACT, True, MANY, "torch"),
        ("auto", FOREIGN, True, MANY, "torch"),
        ("torch", EXACT, True, MANY, "torch"),
        ("onnx", EXACT, False, 1, "onnx"),
    ],
)
def test_the_rule(engine: str, card: Card, is_at_hand: bool, photos: int, expected: str) -> None:
    assert choose_runtime(engine, card, is_at_hand=is_at_hand, photos=photos) == expected


@pytest.mark.parametrize(
    ("engine", "card", "words"),
    [
        ("onnx", INEXACT, "It has a hidden layer"),
        ("onnx", FOREIGN, "'net' is a module"),
        ("fast", EXACT, "Unknown engine 'fast'"),
    ],
)
def test_what_no_runtime_can_do_is_refused(engine: str, card: Card, words: str) -> None:
    with pytest.raises(UserError, match=words):
        choose_runtime(engine, card, is_at_hand=True, photos=MANY)


def test_both_runtimes_give_the_same_scores_and_exact_maps(tiny_folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 64, 64), dtype=np.uint8)
    by_torch = open_classifier(tiny_folder, engine="torch")
    by_graph = by_torch.having(engine="onnx")
    assert (by_torch.runtime, by_graph.runtime) == ("torch", "onnx")
    bias = np.array(by_torch.bias)
    assert np.allclose(bias, by_graph.bias)
    images = torch.from_numpy(by_torch.card.preprocess.normalise(pixels))
    for one in (by_torch, by_graph):
        answer = one.read(pixels)
        spread = np.ptp(answer.logits)
        assert np.abs(answer.maps.mean((2, 3)) + bias - answer.logits).max() < 1e-4 * spread
        assert np.abs(one.scores(pixels) - answer.logits).max() < 1e-4 * spread
        assert np.abs(one.score_inputs(images).numpy() - answer.logits).max() < 1e-4 * spread
    assert np.allclose(by_torch.read(pixels).maps, by_graph.read(pixels).maps, atol=1e-4)


def test_pooled_features_times_the_weight_are_the_logits(tiny_folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 64, 64), dtype=np.uint8)
    by_torch = open_classifier(tiny_folder, engine="torch")
    for one in (by_torch, by_torch.having(engine="onnx", pools=True)):
        answer = one.read(pixels)
        assert answer.pooled is not None
        assert one.weight is not None
        assert one.weight.shape == (3, answer.pooled.shape[1])
        logits = answer.pooled @ one.weight.T + np.array(one.bias)
        assert np.abs(logits - answer.logits).max() < 1e-4 * np.ptp(answer.logits)
    assert by_torch.having(engine="onnx").read(pixels).pooled is None


def test_a_graph_that_fails_leaves_the_answer_to_torch(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise UserError("an operator is missing")

    monkeypatch.setattr(Classifier, "_make_graph", fail)
    classifier = open_classifier(tiny_folder, photos=MANY)
    pixels = np.zeros((1, 3, 64, 64), np.uint8)
    assert classifier.read(pixels).maps.shape == (1, 3, 2, 2)
    assert classifier.describe_read() == {}
    assert caplog.text.count("Explaining with torch: an operator is missing") == 1
    with pytest.raises(UserError, match="an operator is missing"):
        classifier.having(engine="onnx").read(pixels)


def test_a_changed_network_never_gets_the_graph(cached: str) -> None:
    classifier = open_classifier(cached)
    assert find_graph(classifier) is not None
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    swapped = classifier.swap(other)
    assert find_graph(swapped) is None
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(swapped.score_inputs(images), other(images), atol=1e-6)


def test_without_exact_maps_reading_says_why(tiny_folder: Path) -> None:
    classifier = open_classifier(tiny_folder).having(no_exact_map="It has a hidden layer.")
    with pytest.raises(UserError, match="It has a hidden layer"):
        classifier.read(np.zeros((1, 3, 64, 64), np.uint8))
    with pytest.raises(UserError, match=r"Refined maps start from exact class maps\. It has a hidden layer"):
        whycam.Model(classifier).explain(np.zeros((8, 8, 3), np.uint8), refine=True)


def test_a_graph_at_hand_needs_no_torch(cached: str) -> None:
    code = (
        "import sys, numpy as np; from whycam.intake.door import open_classifier\n"
        f"found = open_classifier({cached!r})\n"
        "assert found.read(np.zeros((1, 3, 64, 64), np.uint8)).logits.shape == (1, 3)\n"
        "assert found.scores(np.zeros((2, 3, 64, 64), np.uint8)).shape == (2, 3) and found.bias\n"
        "found = found.having(pools=True)\n"
        "assert found.read(np.zeros((1, 3, 64, 64), np.uint8)).pooled.shape[1] == found.weight.shape[1]\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
