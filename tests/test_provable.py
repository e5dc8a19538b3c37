"""What few photos can prove: the number that is told is the one at which a trial convicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from test_audit import make_model, write_photos
from test_trial import make_trial
from whycam.audit import audit
from whycam.audit.provable import find_least_changed
from whycam.audit.swaps import Outcome, Pairs


def change_some(photos: int, changed: int) -> Outcome:
    """Each photo once; the first so many change their class, and all leads move."""
    rows = np.arange(photos)
    return Outcome(Pairs(rows, rows, rows), rows < changed, rows < 0, np.linspace(1, 2, photos))


@pytest.mark.parametrize("photos", [10, 12, 24, 59, 100])
@pytest.mark.parametrize("tests", [8, 40])
def test_the_least_that_is_told_convicts_and_one_photo_fewer_does_not(photos: int, tests: int) -> None:
    least = find_least_changed(photos, tests)
    assert least is not None

    def is_guilty(changed: int) -> bool:
        return make_trial(change_some(photos, changed)).is_guilty(tests)

    assert is_guilty(least)
    assert not is_guilty(least - 1)


def test_ten_photos_prove_nothing_where_so_many_tests_are_made() -> None:
    assert find_least_changed(10, 51) == 5
    assert find_least_changed(10, 52) is None
    assert not make_trial(change_some(10, 10)).is_guilty(52)


def test_an_audit_of_few_photos_says_what_they_can_not_prove(tmp_path: Path) -> None:
    samples = [one for one in write_photos(tmp_path) if one.label != 2 or int(one.path.stem) < 12]
    found = audit(make_model(0.0), samples, kinds=["shortcut"], causes=["mark"], engine="torch")
    (told,) = (note for note in found.notes if "Few photos" in note)
    assert "5 of the 12 photos of 'blue' (42%)" in told
    assert "5 of the 24 photos of 'red' (21%)" in told
    assert found.record["provable"] == pytest.approx({"red": 5 / 24, "green": 5 / 24, "blue": 5 / 12})
