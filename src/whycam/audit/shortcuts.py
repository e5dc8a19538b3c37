"""Shortcuts: what decides a class and is not the object. Suspects by statistics; each is convicted by swaps alone.

Add a kind of shortcut as one function in `SUSPECTS`: data -> suspects.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from whycam.audit.chance import compare_means, find_interval, to_certainty
from whycam.audit.colours import suspect_tints
from whycam.audit.data import AuditData
from whycam.audit.findings import EvidencePhoto, Finding
from whycam.audit.marks import suspect_marks
from whycam.audit.places import suspect_places
from whycam.audit.stamps import suspect_stamps
from whycam.audit.suspects import Suspect, list_classes
from whycam.audit.swaps import Outcome, draw_pairs, judge

SUSPECTS: dict[str, Callable[[AuditData], list[Suspect]]] = {
    "mark": suspect_marks,
    "stamp": suspect_stamps,
    "tint": suspect_tints,
    "place": suspect_places,
}
# The share of photos that must change their class beyond the control, or else by how many logits the lead must move
# beyond it, and how sure that change must be. Few photos are near enough to another class to change theirs: the leads
# of all of them tell of a weaker reliance. They do so only of a sign in the pixels: colours and places may be the
# object's own, whose loss moves every lead. Of places more is asked, too.
LEAST_RELIANCE, LEAST_RELIANCE_PLACE, LEAST_SHIFT, SHORTCUT_CERTAINTY = 0.06, 0.25, 1.0, 0.99
_SIGNS = ("mark", "stamp")
_PAIRS, _MOST_PHOTOS = 70, 8


def find_shortcuts(data: AuditData) -> list[Finding]:
    """A finding for each suspect that swaps convict; of those of one class that overlap, the clearest."""
    suspects = [suspect for find in SUSPECTS.values() for suspect in find(data)]
    trials = [try_suspect(data, suspect) for suspect in suspects]
    tests = 2 * len(trials)
    guilty = [trial for trial in trials if trial.is_guilty(tests)]
    kept: list[Trial] = []
    for trial in sorted(guilty, key=lambda one: (list(SUSPECTS).index(one.suspect.kind), -one.reliance)):
        if not any(is_covered(trial.suspect, other.suspect) for other in kept):
            kept.append(trial)
    return [tell(data, trial, tests) for trial in kept]


@dataclass(frozen=True)
class Trial:
    """What swaps say of a suspect.

    Attributes:
        suspect: who.
        given: photos of other classes that got it from photos of the class.
        taken: photos of the class that lost it.
        control: photos of other classes that got the same of one another.
    """

    suspect: Suspect
    given: Outcome
    taken: Outcome
    control: Outcome

    @property
    def attack(self) -> tuple[float, float]:
        """The share of photos that become the donor's class: of this class, and in the control."""
        return float(self.given.is_won.mean()), float(self.control.is_won.mean())

    @property
    def loss(self) -> tuple[float, float]:
        """The share of photos that lose their class: of this class, and in the control."""
        return float(self.taken.is_lost.mean()), float(self.control.is_lost.mean())

    @property
    def reliance(self) -> float:
        """How much more of the photos change than in the control, by giving or by taking."""
        return max(self.attack[0] - self.attack[1], self.loss[0] - self.loss[1])

    @property
    def shift(self) -> float:
        """By how many logits more than in the control the lead moves, by giving or by taking."""
        gain = float(self.given.gain.mean() - self.control.gain.mean())
        return max(gain, float(self.taken.loss.mean() - self.control.loss.mean()))

    @property
    def p(self) -> float:
        """The chance that the scores move so much more than in the control, by giving or by taking."""
        gain = compare_means(self.given.gain, self.control.gain)
        loss = compare_means(self.taken.loss, self.control.loss)
        return min(1.0, 2 * min(gain, loss))

    def is_guilty(self, tests: int) -> bool:
        """Whether it changes enough, surely enough."""
        if to_certainty(self.p, tests) < SHORTCUT_CERTAINTY:
            return False
        least = LEAST_RELIANCE_PLACE if self.suspect.kind == "place" else LEAST_RELIANCE
        return self.reliance >= least or (self.suspect.kind in _SIGNS and self.shift >= LEAST_SHIFT)


def try_suspect(data: AuditData, suspect: Suspect) -> Trial:
    """Gives it to photos of other classes, takes it from those of its own, and does the same among the others."""
    k, stream = suspect.label, zlib.crc32(f"{suspect.kind} {suspect.label} {suspect.region.name}".encode())
    rest = {other: data.groups[other] for other in list_classes(data) if other != k}
    own = {k: data.groups[k] if suspect.members is None else suspect.members}
    given = draw_pairs(data, own, rest, _PAIRS, stream)
    taken = draw_pairs(data, rest, own, -(-_PAIRS // len(rest)), stream + 1)
    control = draw_pairs(data, rest, rest, -(-_PAIRS // len(rest)), stream + 2)
    return Trial(
        suspect,
        judge(data, given, suspect.give(given.hosts, given.donors)),
        judge(data, taken, suspect.take(taken.hosts, taken.donors)),
        judge(data, control, suspect.give(control.hosts, control.donors)),
    )


def is_covered(suspect: Suspect, other: Suspect) -> bool:
    """Whether another suspect of the same class lies in the same place, or either has no place."""
    if suspect.label != other.label:
        return False
    if suspect.mask is None or other.mask is None:
        return True
    return bool((suspect.mask & other.mask).sum() > 0.3 * min(suspect.mask.sum(), other.mask.sum()))


def tell(data: AuditData, trial: Trial, tests: int) -> Finding:
    """The finding: what was done, what came of it, and what came of the control."""
    suspect, name = trial.suspect, data.name(trial.suspect.label)
    (attack, attack_usual), (loss, loss_usual) = trial.attack, trial.loss
    hosts, own = len(trial.given.is_won), len(trial.taken.is_lost)
    low, high = find_interval(int(trial.given.is_won.sum()), hosts)
    return Finding(
        kind="shortcut",
        severity=float(np.clip(trial.reliance, 0, 1)),
        certainty=to_certainty(trial.p, tests),
        title=f"The model knows {name!r} by {suspect.title}, not by the object alone.",
        detail=(
            f"{suspect.words} Given to {hosts} photos of other classes, it makes {attack:.0%} of them "
            f"{name!r} (95 % interval {low:.0%} to {high:.0%}; the same from other classes: {attack_usual:.0%}). "
            f"Taken from {own} photos of {name!r}, {loss:.0%} are no longer recognised (other classes: "
            f"{loss_usual:.0%})."
        ),
        class_name=name,
        region=suspect.region,
        photos=pick_photos(data, trial),
        numbers={
            "attack": attack,
            "attack_control": attack_usual,
            "loss": loss,
            "loss_control": loss_usual,
            "gain": float(trial.given.gain.mean()),
            "gain_control": float(trial.control.gain.mean()),
            "fall": float(trial.taken.loss.mean()),
            "fall_control": float(trial.control.loss.mean()),
            "pairs": hosts,
            "found_by": suspect.kind,
        },
    )


def pick_photos(data: AuditData, trial: Trial) -> tuple[EvidencePhoto, ...]:
    """The photos of the class that lose most without it."""
    suspect = trial.suspect
    seen: set[int] = set()
    photos: list[EvidencePhoto] = []
    for i in np.argsort(-trial.taken.loss):
        row = int(trial.taken.pairs.hosts[i])
        if row in seen or len(photos) == _MOST_PHOTOS:
            continue
        seen.add(row)
        boxes = suspect.boxes_of(row) if suspect.boxes_of else suspect.region.boxes
        fate = "no longer recognised without it" if trial.taken.is_lost[i] else "recognised without it"
        photos.append(EvidencePhoto(data.paths[row], boxes, f"{fate}; its lead falls by {trial.taken.loss[i]:.1f}"))
    return tuple(photos)
