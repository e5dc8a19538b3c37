"""Two audits side by side: what a cure took away, and what it fed."""

from __future__ import annotations

from typing import Any

from report_cases import make_finding
from whycam.audit.compare import compare_audits, compare_findings


def finding(title: str, place: str, severity: float = 0.5, **about: Any) -> dict[str, Any]:
    return make_finding([], title=title, severity=severity, region={"name": place, "boxes": []}, **about)


def test_what_is_gone_what_is_new_and_what_got_worse_is_told() -> None:
    before = [finding("A logo.", "upper left corner"), finding("A frame.", "frame", 0.2), finding("A date.", "edge")]
    after = [finding("A frame!", "frame", 0.4), finding("A date.", "edge"), finding("The ground.", "the ground")]
    gone, new, changed, same = compare_findings(before, after)
    assert gone == "No longer found (1): A logo."
    assert new.startswith("New, and not there before")
    assert new.endswith("(1): The ground.")
    assert "A frame! (0.20 before, 0.40 now)" in changed
    assert same.startswith("1 findings")


def test_the_same_place_of_another_class_is_another_finding() -> None:
    told = compare_findings([finding("A.", "frame")], [finding("B.", "frame", **{"class": "circle"})])
    assert [sentence[:10] for sentence in told] == ["No longer ", "New, and n"]


def test_two_empty_audits_say_so() -> None:
    assert compare_findings([], []) == ["Nothing was found before, and nothing now."]


def test_kinds_that_only_one_audit_looked_for_are_neither_gone_nor_new() -> None:
    before = {"record": {"kinds": ["shortcut", "label"]}, "findings": [finding("A logo.", "corner")]}
    after = {"record": {"kinds": ["label", "slice"]}, "findings": [finding("A group.", "none", kind="slice")]}
    nothing, left_out = compare_audits(before, after)
    assert nothing.startswith("Nothing was found")
    assert left_out.endswith("shortcut, slice.")


def test_audits_of_which_one_had_training_photos_are_told_apart() -> None:
    alone = {"record": {"kinds": ["shortcut"], "training_photos": {}}, "findings": []}
    filled = {"record": {"kinds": ["shortcut"], "training_photos": {"rose": 40}}, "findings": []}
    older = {"record": {"kinds": ["shortcut"]}, "findings": []}
    assert compare_audits(alone, filled)[-1].startswith("Only this one looked for shortcuts on training photos")
    assert compare_audits(filled, older)[-1].startswith("Only the one before looked for shortcuts on training photos")
    assert compare_audits(filled, filled) == compare_audits(older, alone) == compare_findings([], [])
