"""What a map explains, and what is refused."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from whycam.errors import UserError
from whycam.explainer.scores import make_score
from whycam.explainer.targets import Target, describe_blank, find_class, is_one, resolve_target, to_probabilities

NAMES = ("daisy", "Rose", "tulip", "7")
LOGITS = torch.tensor([[0.1, 2.0, -1.0, 0.5], [3.0, 0.0, 1.0, 2.0]])


@pytest.mark.parametrize(("word", "index"), [("tulip", 2), ("ROSE", 1), (0, 0), ("3", 3), ("7", 3), (3, 3)], ids=repr)
def test_classes_by_name_and_index(word: int | str, index: int) -> None:
    assert find_class(word, NAMES) == index


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("tulpe", r"Unknown class 'tulpe'. Available: daisy, Rose, tulip, 7. Did you mean 'tulip'"),
        (4, r"Class index 4 is outside 0\.\.3"),
        ("-1", r"Class index -1 is outside 0\.\.3"),
        (True, r"must be an index or a name; got True \(bool\)"),
        ("²", r"Unknown class '²'"),
    ],
)
def test_no_such_class(word: int | str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_class(word, NAMES)


def test_a_name_of_other_bytes_is_the_one_of_its_class_folder() -> None:
    assert find_class("caf\udce9", ("a", r"caf\udce9")) == 1
    assert find_class(os.fsencode("été").decode("ascii", "surrogateescape"), ("a", "été")) == 1


def test_two_names_that_differ_in_case_are_not_guessed() -> None:
    assert find_class("rose", ("Rose", "rose")) == 1
    with pytest.raises(UserError, match="Unknown class 'ROSE'"):
        find_class("ROSE", ("Rose", "rose"))


@pytest.mark.parametrize(
    ("target", "indices", "is_single"),
    [
        (None, [[1], [0]], True),
        ("predicted", [[1], [0]], True),
        ("tulip", [[2], [2]], True),
        (3, [[3], [3]], True),
        (["tulip", 0], [[2, 0], [2, 0]], False),
        ("top:2", [[1, 3], [0, 3]], False),
        ("all", [[0, 1, 2, 3], [0, 1, 2, 3]], False),
        (np.array([2, 3]), [[2], [3]], True),
        (lambda output: output[:, 0], [[-1], [-1]], True),
    ],
)
def test_targets(target: Target, indices: list[list[int]], is_single: bool) -> None:
    assert resolve_target(target, LOGITS.numpy(), NAMES).tolist() == indices
    assert is_one(target) is is_single


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("top:0", r"asks for '0' classes; expected top:N with N from 1 to 4"),
        ("top:5", "N from 1 to 4"),
        ("top:x", "asks for 'x' classes"),
        ("top:²", "asks for '²' classes"),
        ([], r"must be a class, a list of classes.*got \[\]"),
        (2.5, r"got 2\.5"),
        (["tulip", "rise"], r"Did you mean 'Rose'"),
        (np.array([1, 2, 3]), r"must be \(2,\) whole numbers.*got \(3,\)"),
        (np.array([1.0, 2.0]), r"got \(2,\) of float64"),
        (np.array([0, 4]), r"not all in 0\.\.3"),
        (np.array([0, -1]), r"\[0, -1\] are not all in"),
    ],
)
def test_refused_targets(target: Target, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_target(target, LOGITS.numpy(), NAMES)


def test_score_of_a_class_and_of_a_difference() -> None:
    rows, target = torch.tensor([1, 0]), torch.tensor([1, 3])
    assert make_score(target, None, None, LOGITS, None)(LOGITS[rows], rows).tolist() == [2.0, 2.0]
    assert make_score(target, None, 0, LOGITS, None)(LOGITS[rows], rows).tolist() == pytest.approx([-1.0, 1.9])


def test_score_of_a_single_logit_is_the_evidence_for_the_answer() -> None:
    logits = torch.tensor([[1.5], [-2.0]])
    score = make_score(torch.tensor([0, 0]), None, None, logits, None)
    assert score(logits, torch.arange(2)).tolist() == [1.5, 2.0]


def test_score_of_a_function() -> None:
    rows = torch.arange(2)
    score = make_score(torch.tensor([-1, -1]), lambda out: out.sum(dim=1).double(), None, LOGITS, None)
    assert score(LOGITS, rows).dtype == torch.float32
    assert torch.allclose(score(LOGITS, rows), LOGITS.sum(dim=1))
    wrong = make_score(torch.tensor([-1, -1]), lambda out: out, None, LOGITS, None)
    with pytest.raises(UserError, match=r"one number for each image, \(2,\); got \(2, 4\)"):
        wrong(LOGITS, rows)


def test_probabilities() -> None:
    assert np.allclose(to_probabilities(LOGITS.numpy()), LOGITS.softmax(dim=1).numpy(), atol=1e-7)
    assert to_probabilities(np.array([[0.0]])).tolist() == [[0.5]]


def test_blank_maps_are_described() -> None:
    good = torch.tensor([[1.0, -1.0]])
    maps = torch.stack([good, good * 0, good * 0 + 2, -good.abs() - good, torch.tensor([[float("nan"), 1.0]])])
    notes = describe_blank(maps.numpy(), [0, 1, 2, 3, -1], NAMES, ["", "nothing happened", "", "", ""])
    assert len(notes) == 4
    assert "'Rose' is zero everywhere: nothing happened." in notes[0]
    assert "'tulip' is flat" in notes[1]
    assert "'7' has no positive value" in notes[2]
    assert "1 of 2 cells of the map of 'the score' are not finite" in notes[3]


def test_numpys_whole_numbers_are_classes() -> None:
    assert find_class(np.int64(1), ("a", "b")) == 1
    assert resolve_target(np.int32(1), np.zeros((2, 3)), ("a", "b", "c")).tolist() == [[1], [1]]
