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


@pytest.mark.parametrize(
    ("word", "index"),
    [("tulip", 2), ("ROSE", 1), (0, 0), ("7", 3), (3, 3), ("index:2", 2), ("class:7", 3), ("class:rose", 1)],
    ids=repr,
)
def test_classes_by_name_and_index(word: int | str, index: int) -> None:
    assert find_class(word, NAMES) == index


def test_a_number_is_an_index_where_no_class_is_named_by_one() -> None:
    assert find_class("3", ("daisy", "rose", "tulip", "v7")) == 3
    with pytest.raises(UserError, match=r"Class index 4 is outside 0\.\.3"):
        find_class("4", ("daisy", "rose", "tulip", "v7"))


@pytest.mark.parametrize("names", [("0", "1", "2", "10", "11"), ("0", "1", "2", "other", "-1"), ("00", "01", "02")])
def test_where_class_names_are_numbers_an_unknown_one_is_refused(names: tuple[str, ...]) -> None:
    assert [find_class(name, names) for name in names] == list(range(len(names)))
    for word in ("3", "class:3", "-2"):
        with pytest.raises(UserError, match=rf"Unknown class '{word.removeprefix('class:')}'"):
            find_class(word, names)
    with pytest.raises(UserError, match=r"numbers are names of classes here.*'index:3'"):
        find_class("3", names)
    assert find_class("index:2", names) == find_class(2, names) == 2


def test_a_class_of_any_name_can_be_named() -> None:
    names = ("all", "top:2", "predicted", "class:all", "index:1", "rose")
    logits = np.arange(6.0)[None]
    for index, name in enumerate(names[:3]):
        word = f"class:{name}" if name != "all" else "class:All"
        assert resolve_target(word, logits, names).tolist() == [[index]]
        assert is_one(word)
        assert find_class(name, names) == index
    assert find_class("class:all", names) == 3
    assert find_class("index:1", names) == 4
    assert resolve_target([*names], logits, names).tolist() == [[0, 1, 2, 3, 4, 5]]
    # The words for several classes, and the default, keep their one meaning.
    assert resolve_target("all", logits, names).shape == (1, 6)
    assert resolve_target("top:2", logits, names).tolist() == [[5, 4]]
    assert resolve_target("predicted", logits, names).tolist() == [[5]]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("tulpe", r"Unknown class 'tulpe'. Available: daisy, Rose, tulip, 7. Did you mean 'tulip'"),
        (4, r"Class index 4 is outside 0\.\.3"),
        ("-1", r"Unknown class '-1'"),
        ("index:4", r"Class index 4 is outside 0\.\.3"),
        ("index:x", r"Unknown class 'index:x'"),
        ("class:tulpe", r"Unknown class 'tulpe'.*Did you mean 'tulip'"),
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
        (torch.tensor([2, 3]), [[2], [3]], True),
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
