"""The trial of a suspect: given to photos of other classes, taken from those of its own, each against its control."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from whycam.audit.chance import to_certainty
from whycam.audit.data import AuditData
from whycam.audit.findings import LEAST_CERTAINTY
from whycam.audit.suspects import Suspect, list_classes
from whycam.audit.swaps import Outcome, draw_pairs, give, margin, take

# A first look at so many pairs ends the trial where the class's lead does not even rise; then come as many as these.
_FIRST, _PAIRS, _HOPELESS_P = 40, 140, 0.2
# So does it where, of the share of the lead that is asked for, not even this much is given.
_HOPELESS_LEAD = 0.8
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
        lead: the share of the class's lead that must go with it, when given and when taken; 0: not asked.
    """

    effect: float
    p: float
    lead: float = 0.0


# A ground, a thing or a place may hold a part of the object, and differs between classes by nature: leaves and sky of
# sunflowers carry up to 15 % of their lead in models of clean training (21 % once), planted grounds 24 % and more of it
# where they change a tenth of the answers (seeds 1000 to 1025).
LINES = {
    "mark": Line(0.05, 0.05),
    "stamp": Line(0.05, 0.05),
    "property": Line(0.08, 0.05),
    "thing": Line(0.08, 0.01),
    "ground": Line(0.08, 0.05, lead=0.22),
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
        span: by how many logits the lead of the class is larger on its own photos than on others'.
    """

    suspect: Suspect
    given: Outcome
    taken: Outcome | None
    span: float

    @property
    def reliance(self) -> float:
        """How many more of the photos change than in the control, by giving or by taking."""
        return max(0.0, *(outcome.effect for outcome in self.outcomes))

    @property
    def outcomes(self) -> list[Outcome]:
        """By giving, and by taking where that was tried."""
        return [self.given] if self.taken is None else [self.given, self.taken]

    @property
    def lead_share(self) -> float:
        """The share of the class's lead that goes with it; of giving and taking the lesser one."""
        return min(share_lead(outcome, self.span) for outcome in self.outcomes)

    def find_p(self) -> float:
        """The chance that the leads move so in the direction that convicts; 1 where nothing convicts.

        What is given must speak for the class, and by giving or by taking enough answers must change. Where a part of
        the lead is asked for, both ways must show it.
        """
        if self.given.p_shift > _SURE_P:
            return 1.0
        line = LINES[self.suspect.kind]
        clear = [one for one in self.outcomes if one.effect >= line.effect and one.p_change <= line.p]
        if clear and line.lead:
            is_enough = self.taken is not None and self.lead_share >= line.lead
            return max(one.p_shift for one in self.outcomes) if is_enough else 1.0
        return min((one.p_shift for one in clear), default=1.0)

    def find_certainty(self, tests: int) -> float:
        """1 - p, after the correction for the number of tests."""
        return to_certainty(self.find_p(), tests)

    def is_guilty(self, tests: int) -> bool:
        """Whether it changes enough, surely enough."""
        return self.find_certainty(tests) >= LEAST_CERTAINTY


def share_lead(outcome: Outcome, span: float) -> float:
    """The mean shift of a lead, as a share of its span; 0 where there is none."""
    return float(outcome.shift.mean() / span) if span > 0 else 0.0


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

    given, span = give_some(slice(_FIRST)), measure_span(data, suspect, own, rest)
    if given.p_shift > _HOPELESS_P or share_lead(given, span) < _HOPELESS_LEAD * LINES[suspect.kind].lead:
        return Trial(suspect, given, None, span)
    if len(to_give) > _FIRST:
        given += give_some(slice(_FIRST, None))
    if suspect.take is None or not len(to_take):
        return Trial(suspect, given, None, span)
    changed = suspect.take(to_take.hosts, to_take.donors), suspect.take(to_take.hosts, to_take.controls)
    return Trial(suspect, given, take(data, to_take, suspect.classes, *changed), span)


def measure_span(
    data: AuditData, suspect: Suspect, own: Mapping[int, np.ndarray], rest: Mapping[int, np.ndarray]
) -> float:
    """By how many logits the lead of a suspect's classes is larger on their photos (class -> rows) than on the rest."""
    lead = margin(data.logits, suspect.classes)
    means = [float(lead[np.concatenate(list(rows.values()))].mean()) for rows in (own, rest)]
    return means[0] - means[1]
