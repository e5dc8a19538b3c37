"""The trial of a suspect: given to photos of other classes, taken from those of its own, each against its control."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from whycam.audit.chance import to_certainty
from whycam.audit.data import AuditData
from whycam.audit.findings import LEAST_CERTAINTY
from whycam.audit.suspects import Suspect, list_classes
from whycam.audit.swaps import Outcome, draw_pairs, give, take

# A first look at so many pairs ends the trial where the class's lead does not even rise; then come as many as these.
_FIRST, _PAIRS, _HOPELESS_P = 40, 140, 0.2
# How often one photo is changed at the most.
_MOST_TURNS = 3
# How sure it must be, of one test, that what was given speaks for the class.
_SURE_P = 0.05


@dataclass(frozen=True)
class Line:
    """What convicts a kind of suspect.

    Attributes:
        effect: how many more photos than in the control must change their class, as a share.
        p: the chance that so many more change by accident, at the most.
    """

    effect: float
    p: float


# A ground, a thing or a place may hold a part of the object, and differs between classes by nature: before a few
# sunflowers' own grounds, with leaves and sky, a seventh of other flowers are taken for one (models of seed 1000).
LINES = {
    "mark": Line(0.05, 0.05),
    "stamp": Line(0.05, 0.05),
    "property": Line(0.08, 0.05),
    "thing": Line(0.08, 0.01),
    "ground": Line(0.12, 0.001),
    "place": Line(0.25, 0.01),
}


@dataclass(frozen=True, eq=False)
class Trial:
    """What swaps say of a suspect.

    Attributes:
        suspect: who.
        given: photos of other classes that got it from photos of the class; in the control, from other classes' photos.
        taken: photos of the class that lost it to what other classes have; in the control, to their own class's.
            None where it can't be taken away, or the trial ended before.
    """

    suspect: Suspect
    given: Outcome
    taken: Outcome | None

    @property
    def reliance(self) -> float:
        """How many more of the photos change than in the control, by giving or by taking."""
        return max(0.0, *(outcome.effect for outcome in self.outcomes))

    @property
    def outcomes(self) -> list[Outcome]:
        """By giving, and by taking where that was tried."""
        return [self.given] if self.taken is None else [self.given, self.taken]

    def find_p(self) -> float:
        """The chance that the leads move so in the direction that convicts; 1 where nothing convicts.

        What is given must speak for the class, and by giving or by taking enough answers must change.
        """
        if self.given.p_shift > _SURE_P:
            return 1.0
        line = LINES[self.suspect.kind]
        clear = [one for one in self.outcomes if one.effect >= line.effect and one.p_change <= line.p]
        return min((one.p_shift for one in clear), default=1.0)

    def find_certainty(self, tests: int) -> float:
        """1 - p, after the correction for the number of tests."""
        return to_certainty(self.find_p(), tests)

    def is_guilty(self, tests: int) -> bool:
        """Whether it changes enough, surely enough."""
        return self.find_certainty(tests) >= LEAST_CERTAINTY


def try_suspect(data: AuditData, suspect: Suspect) -> Trial | None:
    """Gives it and takes it; None where no other class has photos to compare with."""
    own = {suspect.label: data.groups[suspect.label] if suspect.members is None else suspect.members}
    rest = {k: data.groups[k] for k in list_classes(data) if k not in suspect.classes}
    if suspect.pool is not None:
        rest = {k: rows[np.isin(rows, suspect.pool)] for k, rows in rest.items()}
    is_said = np.isin(data.predicted, suspect.classes)
    goers = {k: rows[~is_said[rows]] for k, rows in rest.items()}
    knowers = {k: rows[is_said[rows]] for k, rows in own.items()}
    stream = zlib.crc32(f"{suspect.kind} {suspect.label} {suspect.region.name} {suspect.title}".encode())

    def count(part: dict[int, np.ndarray]) -> int:
        return min(_PAIRS, _MOST_TURNS * sum(map(len, part.values())))

    to_give = draw_pairs(goers, own, rest, count(goers), (data.seed, stream))
    to_take = draw_pairs(knowers, rest, own, count(knowers), (data.seed, stream + 1))
    if not len(to_give):
        return None

    def give_some(part: slice) -> Outcome:
        pairs, change = to_give[part], suspect.give
        changed = change(pairs.hosts, pairs.donors), change(pairs.hosts, pairs.controls)
        return give(data, pairs, suspect.classes, *changed)

    given = give_some(slice(_FIRST))
    if given.p_shift > _HOPELESS_P:
        return Trial(suspect, given, None)
    if len(to_give) > _FIRST:
        given += give_some(slice(_FIRST, None))
    if suspect.take is None or not len(to_take):
        return Trial(suspect, given, None)
    changed = suspect.take(to_take.hosts, to_take.donors), suspect.take(to_take.hosts, to_take.controls)
    return Trial(suspect, given, take(data, to_take, suspect.classes, *changed))
