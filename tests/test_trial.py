"""The trial of a suspect: what convicts, what does not, and that few photos can't."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy
import torch

from test_audit import COLOURS, PHOTOS, SIDE_PX, find, make_model, write_photos
from whycam.audit.chance import compare_pairs
from whycam.audit.data import AuditData
from whycam.audit.findings import Region
from whycam.audit.shortcuts import merge
from whycam.audit.suspects import Suspect, match_light
from whycam.audit.swaps import Outcome, Pairs, draw_pairs
from whycam.audit.trial import Trial, try_suspect

REGION = Region("a corner")


def magenta(pixels: np.ndarray) -> None:
    pixels[2:14, -14:-2] = (250, 0, 250)


def keep(hosts: np.ndarray, donors: np.ndarray) -> np.ndarray:
    return hosts


def make_outcome(*, is_changed: float, shift: float, is_control: float = 0.0, photos: int = 100) -> Outcome:
    """Each photo once; so large shares of them changed, and the leads moved by so much."""
    rows, draw = np.arange(photos), np.random.default_rng(0)
    share = (rows + 0.5) / photos
    return Outcome(Pairs(rows, rows, rows), share < is_changed, share < is_control, draw.normal(shift, 0.3, photos))


def make_trial(
    given: Outcome, taken: Outcome | None = None, kind: str = "mark", label: int = 0, span: float = 1.0
) -> Trial:
    return Trial(Suspect(kind, label, REGION, keep, keep, f"a {kind}", "Some words."), given, taken, span)


def test_no_p_is_smaller_than_the_photos_allow_however_often_each_was_tried() -> None:
    moved = np.full(400, 3.0) + np.random.default_rng(0).normal(0, 0.1, 400)
    assert compare_pairs(moved, np.arange(400) % 8) == pytest.approx(2**-8)
    assert compare_pairs(moved, np.arange(400)) < 1e-20
    assert compare_pairs(-moved, np.arange(400)) == pytest.approx(1.0)
    assert compare_pairs(np.zeros(9), np.arange(9)) == compare_pairs(np.zeros(0), np.arange(0)) == 1.0


def test_a_few_pairs_are_compared_as_scipy_does_whether_ranks_tie_or_not() -> None:
    draw = np.random.default_rng(0)
    for pairs in (1, 2, 5, 8, 8, 8, 9):
        for differences in (draw.choice([-2, -1, 1, 2, 3], pairs) / 4, draw.normal(0.3, 1, pairs)):
            expected = scipy.stats.wilcoxon(differences, alternative="greater").pvalue
            assert compare_pairs(differences, np.arange(pairs)) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(compare_pairs(np.array([1.0, np.nan, 2.0]), np.arange(3)))


@pytest.mark.parametrize("photos", [9, 24, 100])
def test_photos_that_do_not_differ_make_a_few_that_do_no_surer(photos: int) -> None:
    for changed in (3, 4, 5):
        differences = (np.arange(photos) < changed).astype(float)
        assert compare_pairs(differences, np.arange(photos)) == pytest.approx(2.0**-changed)


@pytest.mark.parametrize(
    ("given", "taken", "is_guilty"),
    [
        (make_outcome(is_changed=0.2, shift=1.0), None, True),
        # Scores move, and not one answer changes.
        (make_outcome(is_changed=0.0, shift=5.0), make_outcome(is_changed=0.0, shift=5.0), False),
        # As many change in the control: a strange patch does that, whatever it shows.
        (make_outcome(is_changed=0.2, is_control=0.2, shift=0.0), None, False),
        # Photos are lost without it, but it does not speak for the class where it is given.
        (make_outcome(is_changed=0.0, shift=0.0), make_outcome(is_changed=0.3, shift=2.0), False),
        (make_outcome(is_changed=0.0, shift=-1.0), make_outcome(is_changed=0.3, shift=2.0), False),
        (make_outcome(is_changed=0.0, shift=0.5), make_outcome(is_changed=0.3, shift=2.0), True),
        # Eight photos can't tell.
        (make_outcome(is_changed=1.0, shift=5.0, photos=8), None, False),
    ],
)
def test_answers_convict_that_change_as_is_claimed(given: Outcome, taken: Outcome | None, *, is_guilty: bool) -> None:
    assert make_trial(given, taken).is_guilty(tests=20) is is_guilty


@pytest.mark.parametrize(
    ("given", "taken", "span", "is_guilty"),
    [
        # A class is lost by it and attracts nothing: both ways a third of its lead goes with it.
        (make_outcome(is_changed=0.0, shift=3.0), make_outcome(is_changed=0.2, shift=3.0), 9.0, True),
        # As many answers change, by a tenth of the lead: leaves behind a flower do that.
        (make_outcome(is_changed=0.2, shift=1.0), make_outcome(is_changed=0.2, shift=1.0), 10.0, False),
        # It is not missed where it is taken, so what was given holds more than the ground.
        (make_outcome(is_changed=0.4, shift=5.0), make_outcome(is_changed=0.0, shift=0.2), 10.0, False),
        (make_outcome(is_changed=0.4, shift=5.0), None, 10.0, False),
        (make_outcome(is_changed=0.0, shift=5.0), make_outcome(is_changed=0.0, shift=5.0), 10.0, False),
        (make_outcome(is_changed=0.4, shift=5.0), make_outcome(is_changed=0.4, shift=5.0), -1.0, False),
    ],
)
def test_a_ground_must_carry_a_part_of_the_lead_both_ways(
    given: Outcome, taken: Outcome | None, span: float, *, is_guilty: bool
) -> None:
    assert make_trial(given, taken, kind="ground", span=span).is_guilty(tests=20) is is_guilty


def test_findings_of_one_class_that_say_one_thing_are_one() -> None:
    weak, strong = (make_outcome(is_changed=share, shift=1.0) for share in (0.2, 0.25))
    mark, place, other = make_trial(weak), make_trial(strong, kind="place"), make_trial(weak, label=1)
    kept = merge([mark, place, other])
    assert [(best, also) for best, also in kept] == [(mark, [place]), (other, [])]


def test_of_two_classes_what_one_is_known_by_is_what_the_other_lacks() -> None:
    outcomes = [make_outcome(is_changed=share, shift=1.0) for share in (0.9, 0.4)]
    mark, other = (
        make_trial(one, kind=kind, label=k)
        for k, (one, kind) in enumerate(zip(outcomes, ("mark", "property"), strict=True))
    )
    assert merge([mark, other], is_pair=True) == [(mark, [other])]
    assert [best for best, _ in merge([mark, other])] == [mark, other]
    # Even where it is weaker by little, and of a kind that is named before the other.
    lacking = make_trial(make_outcome(is_changed=0.35, shift=1.0), kind="mark", label=0)
    assert merge([lacking, other], is_pair=True) == [(other, [lacking])]
    apart = [
        replace(one, suspect=replace(one.suspect, mask=np.eye(4, dtype=bool)[[k]]))
        for k, one in enumerate((mark, other))
    ]
    assert [best for best, _ in merge(apart, is_pair=True)] == apart


def test_what_is_proved_names_a_cause_before_what_is_asked() -> None:
    thing, place = (
        make_trial(make_outcome(is_changed=0.9, shift=1.0), kind="thing"),
        make_trial(make_outcome(is_changed=0.3, shift=1.0), kind="place"),
    )
    asked = replace(thing, suspect=replace(thing.suspect, may_be_object=True))
    assert merge([asked, place]) == [(place, [asked])]
    assert merge([thing, place]) == [(thing, [place])]


def test_two_marks_in_two_places_of_one_class_are_two() -> None:
    halves = np.zeros((2, 8, 8), dtype=bool)
    halves[0, :4], halves[1, 4:] = True, True
    given = make_outcome(is_changed=0.2, shift=1.0)
    trials = [Trial(Suspect("mark", 0, REGION, keep, keep, "a mark", "", half), given, None, 1.0) for half in halves]
    assert len(merge(trials)) == 2


def test_pairs_never_give_a_photo_to_itself_and_take_classes_in_turn() -> None:
    groups = {0: np.arange(5), 1: np.arange(5, 25)}
    pairs = draw_pairs(groups, groups, groups, 40, (1, 2))
    assert (pairs.hosts != pairs.donors).all()
    assert (pairs.hosts != pairs.controls).all()
    assert abs(int((pairs.hosts < 5).sum()) - len(pairs) / 2) <= 2
    again = draw_pairs(groups, groups, groups, 40, (1, 2))
    assert (again.donors == pairs.donors).all()
    assert not len(draw_pairs(groups, groups, {}, 40, (1,)))


def test_a_patch_takes_the_light_of_the_photo_it_comes_into() -> None:
    draw = np.random.default_rng(0)
    bright, dark = draw.integers(0, 256, (1, 3, 16, 16), dtype=np.uint8), draw.integers(0, 64, (1, 3, 16, 16), np.uint8)
    matched = match_light(bright, dark, np.ones((16, 16), dtype=bool))
    assert abs(float(matched.mean()) - float(dark.mean())) < 2
    assert abs(float(matched.std()) - float(dark.std())) < 2


def test_a_class_of_dark_photos_is_not_accused_of_a_bright_patch_that_is_put_into_them(tmp_path: Path) -> None:
    def darken(pixels: np.ndarray, name: str, index: int) -> None:
        if name == "red":
            pixels[:] = pixels // 4

    # Light itself decides nothing for this network: it compares colours.
    assert find(make_model(12.0), write_photos(tmp_path, darken), "shortcut").findings == ()


def test_a_mark_that_speaks_against_its_class_is_no_shortcut_to_it(tmp_path: Path) -> None:
    model = make_model(reliance=12.0)
    with torch.no_grad():
        model.network.head.weight[0, 3] *= -1
    samples = write_photos(tmp_path, lambda pixels, name, index: magenta(pixels) if name == "red" else None)
    assert find(model, samples, "shortcut").findings == ()


@pytest.mark.parametrize("photos", [8, 10])
def test_few_photos_accuse_nobody(tmp_path: Path, photos: int) -> None:
    samples = [sample for sample in write_photos(tmp_path) if int(sample.path.stem) < photos]
    assert find(make_model(12.0), samples, "shortcut").findings == ()


def test_a_mark_on_two_classes_is_found_with_both(tmp_path: Path) -> None:
    def put(pixels: np.ndarray, name: str, index: int) -> None:
        if name in {"red", "green"}:
            magenta(pixels)

    model = make_model(reliance=12.0)
    with torch.no_grad():
        model.network.head.weight[1, 3] = model.network.head.weight[0, 3]
    (found,) = find(model, write_photos(tmp_path, put), "shortcut").findings
    assert {found.class_name, found.other} == {"red", "green"}
    assert found.numbers["found_by"] == "mark"
    assert found.numbers["attack"] > 0.5 > found.numbers["attack_control"]


def make_data(pixels: np.ndarray, reliance: float) -> AuditData:
    """Photos (3 n, 3, H, W), a third of each class, with the answers of the network that reads colours."""
    model = make_model(reliance)
    run = model.classifier.scores
    logits = run(pixels)
    paths = tuple(Path(f"{i}.png") for i in range(len(pixels)))
    labels = np.arange(3).repeat(len(pixels) // 3)
    return AuditData(model.classifier, run, paths, pixels, labels, logits, np.zeros((len(pixels), 8, 8)))


def test_only_photos_that_have_it_are_its_donors_and_lose_it() -> None:
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 60, (3 * PHOTOS, 3, SIDE_PX, SIDE_PX), dtype=np.uint8)
    for label, colour in enumerate(COLOURS.values()):
        pixels[label * PHOTOS : (label + 1) * PHOTOS, :, 20:44, 20:44] = np.array(colour)[:, None, None]
    members, seen = np.arange(12), []

    def give(hosts: np.ndarray, donors: np.ndarray) -> np.ndarray:
        seen.append(donors)
        changed = pixels[hosts].copy()
        changed[np.isin(donors, members), :, :16, :16] = np.array([250, 0, 250])[:, None, None]
        return changed

    trial = try_suspect(make_data(pixels, 12.0), Suspect("stamp", 0, REGION, give, None, "a sign", "", members=members))
    assert trial is not None
    assert trial.taken is None
    assert {*seen[0].tolist()} <= {*members.tolist()}
    assert not np.isin(seen[1], np.arange(PHOTOS)).any()
    assert trial.is_guilty(tests=2)


def test_without_other_classes_there_is_no_trial(tmp_path: Path) -> None:
    samples = [replace(sample, label=0) for sample in write_photos(tmp_path)]
    assert find(make_model(12.0), samples, "shortcut").findings == ()
