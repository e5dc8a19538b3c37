"""Shortcuts: what decides a class and is not the object. Suspects by statistics; each is convicted by swaps alone.

Swaps prove that a class is known by something, not that this is no part of the object: where nothing but a general
network's words tells a thing from the object, the finding is a question.

Add a kind of shortcut as one function in `SUSPECTS` (data -> suspects), with what convicts it in
`trial.LINES` and what to do about it in `REMEDIES`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from whycam.audit.chance import find_interval
from whycam.audit.data import AuditData
from whycam.audit.findings import EvidencePhoto, Finding
from whycam.audit.grounds import suspect_grounds
from whycam.audit.marks import suspect_marks
from whycam.audit.places import suspect_places
from whycam.audit.remade import suspect_properties
from whycam.audit.stamps import suspect_stamps
from whycam.audit.suspects import Suspect, list_classes
from whycam.audit.swaps import Outcome
from whycam.audit.things import suspect_things
from whycam.audit.trial import Trial, try_suspect

# In this order they are preferred where two of them explain a class about as well.
SUSPECTS: dict[str, Callable[[AuditData], list[Suspect]]] = {
    "mark": suspect_marks,
    "stamp": suspect_stamps,
    "property": suspect_properties,
    "thing": suspect_things,
    "ground": suspect_grounds,
    "place": suspect_places,
}
_IGNORE = "whycam train $FOLDER -o $RESULT --ignore $FINDING"
_AGAINST = "whycam train $FOLDER -o $RESULT --against $FINDING"
# Found by -> what to do, and the command.
REMEDIES = {
    "mark": ("Crop it away or cover it in all photos, or train again with its place ignored.", _IGNORE),
    "stamp": ("Remove it from the photos, or add photos of the class without it; or train against it.", _AGAINST),
    "property": (
        "Make the photos of all classes in the same way and train again, or train against it.",
        _AGAINST,
    ),
    "thing": ("Add photos of the class without it, and of other classes with it; or train against it.", _AGAINST),
    "ground": ("Collect photos of the class before other grounds, or train again before swapped ones.", _AGAINST),
    "place": ("Crop it away in all photos, or train again with the place ignored.", _IGNORE),
}
_ASK = "Look at the marked places. If they are not the object: "
# A suspect that explains so much of what the strongest one of its class does is as good a name for it.
_AS_GOOD = 0.7
_MOST_PHOTOS = 8


def find_shortcuts(data: AuditData) -> list[Finding]:
    """A finding for each suspect that swaps convict; of those of one class that say the same thing, the clearest."""
    suspects = [suspect for name, find in SUSPECTS.items() if data.seeks(name) for suspect in find(data)]
    trials = [trial for suspect in suspects if (trial := try_suspect(data, suspect))]
    # Grounds are screened by answers of the model, so each class counts as tried.
    tests = 2 * (len(trials) + len(list_classes(data)))
    guilty = [trial for trial in trials if trial.is_guilty(tests)]
    return [tell(data, trial, also, tests) for trial, also in merge(guilty, is_pair=is_pair(data))]


def merge(trials: list[Trial], *, is_pair: bool = False) -> list[tuple[Trial, list[Trial]]]:
    """For each class the trial that names its cause best, and those that say the same; a mark elsewhere is another."""
    kept: list[tuple[Trial, list[Trial]]] = []
    order = list(SUSPECTS)
    left = sorted(trials, key=lambda one: -one.reliance)
    while left:
        strongest = left[0]
        same = [one for one in left if is_same(strongest.suspect, one.suspect, is_pair=is_pair)]
        proved = [one for one in same if not one.suspect.may_be_object] or same
        # What the other class of two lacks is no better name, whatever its kind.
        own = [one for one in proved if set(one.suspect.classes) & set(proved[0].suspect.classes)]
        near = [one for one in own if one.reliance >= _AS_GOOD * proved[0].reliance]
        best = min(near, key=lambda one: (order.index(one.suspect.kind), -one.reliance))
        kept.append((best, [one for one in same if one is not best]))
        left = [one for one in left if one not in same]
    return kept


def is_pair(data: AuditData) -> bool:
    """Whether there are two classes: what one is known by is then what the other is known not to have."""
    return len(data.classifier.card.class_names) == 2


def is_same(suspect: Suspect, other: Suspect, *, is_pair: bool) -> bool:
    """Whether two suspects may be one cause: of one class, or of two alone, and not two marks in different places."""
    if not is_pair and not set(suspect.classes) & set(other.classes):
        return False
    if suspect.mask is None or other.mask is None or "place" in {suspect.kind, other.kind}:
        return True
    return bool((suspect.mask & other.mask).sum() > 0.3 * min(suspect.mask.sum(), other.mask.sum()))


def tell(data: AuditData, trial: Trial, also: list[Trial], tests: int) -> Finding:
    """The finding: what was done, what came of it, and what came of the control."""
    suspect = trial.suspect
    names = " and ".join(repr(data.name(k)) for k in suspect.classes)
    remedy, command = REMEDIES[suspect.kind]
    # Of the audited photos alone: what it costs on photos that were learnt is no cost.
    audited = data.count_audited(np.arange(len(data)))
    others = audited - sum(data.count_audited(data.groups[k]) for k in suspect.classes)
    bearers = data.count_audited(data.groups[suspect.label] if suspect.members is None else suspect.members)
    cost = max(0.0, trial.given.effect * others, trial.taken.effect * bearers if trial.taken else 0.0)
    other = data.name(suspect.partners[0]) if suspect.partners else None
    knows, alone = "knows", "the object alone" if len(suspect.classes) == 1 else "their objects alone"
    if is_pair(data):
        other = data.name(1 - suspect.label)
        knows, names, alone = "tells", f"{names} from {other!r}", "their objects alone"
    end = f"{suspect.title}: are they the object?" if suspect.may_be_object else f"{suspect.title}, not by {alone}."
    return Finding(
        kind="question" if suspect.may_be_object else "shortcut",
        severity=float(np.clip(trial.reliance, 0, 1)),
        certainty=trial.find_certainty(tests),
        cost=cost / audited,
        title=f"The model {knows} {names} by {end}",
        detail=" ".join(
            [suspect.words, *_tell_outcomes(data, trial), *_tell_tried(data, trial), *_tell_also(data, trial, also)]
        ),
        class_name=data.name(suspect.label),
        other=other,
        region=suspect.region,
        photos=pick_photos(data, trial),
        remedy=f"{_ASK}{remedy[0].lower()}{remedy[1:]}" if suspect.may_be_object else remedy,
        command=command,
        numbers={
            "found_by": suspect.kind,
            **_count("attack", trial.given),
            **(_count("loss", trial.taken) if trial.taken else {}),
            "lead_share": trial.lead_share,
            **_count_tried(data, trial),
            **suspect.numbers,
        },
    )


def _tell_outcomes(data: AuditData, trial: Trial) -> list[str]:
    names = " or ".join(repr(data.name(k)) for k in trial.suspect.classes)
    low, high = find_interval(int(trial.given.is_changed.sum()), len(trial.given.pairs))
    sentences = [
        f"Given to photos of other classes ({len(trial.given.pairs)} times), it makes {trial.given.share:.0%} of them "
        f"{names} (95 % interval {low:.0%} to {high:.0%}); the same from other classes' photos: "
        f"{trial.given.control:.0%}."
    ]
    if trial.taken:
        sentences.append(
            f"Taken from photos of {data.name(trial.suspect.label)!r} ({len(trial.taken.pairs)} times), "
            f"{trial.taken.share:.0%} are no longer recognised; with that of their own class instead: "
            f"{trial.taken.control:.0%}."
        )
    return sentences


def _split_tried(data: AuditData, trial: Trial) -> dict[str, tuple[np.ndarray, Outcome]]:
    """What was done -> which of its photos are audited ones, and what came of it; empty without training photos."""
    ways = {"attack": trial.given, **({"loss": trial.taken} if trial.taken else {})}
    return {} if data.is_audited.all() else {n: (data.is_audited[one.pairs.hosts], one) for n, one in ways.items()}


def _tell_tried(data: AuditData, trial: Trial) -> list[str]:
    """Of what photos the numbers are, where training photos are among them, and the same of the audited ones alone."""
    tried = _split_tried(data, trial)
    if not tried:
        return []
    hosts = np.unique(np.concatenate([one.pairs.hosts for _, one in tried.values()]))
    own = data.count_audited(hosts)
    words = {"attack": "giving changes", "loss": "taking"}
    shares = [
        f"{words[name]} {one.is_changed[is_own].mean():.0%} (control: {one.is_control[is_own].mean():.0%})"
        for name, (is_own, one) in tried.items()
        if is_own.any()
    ]
    alone = f"; of the audited ones alone {', '.join(shares)}" if shares else ""
    return [f"These are {own} audited photos and {len(hosts) - own} that were trained on{alone}."]


def _count_tried(data: AuditData, trial: Trial) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for name, (is_own, one) in _split_tried(data, trial).items():
        numbers[f"{name}_audited_pairs"] = int(is_own.sum())
        if is_own.any():
            numbers[f"{name}_audited"] = float(one.is_changed[is_own].mean())
            numbers[f"{name}_audited_control"] = float(one.is_control[is_own].mean())
    return numbers


def _tell_training(data: AuditData, row: int) -> str:
    return "" if data.is_audited[row] else "; a training photo"


def _tell_also(data: AuditData, trial: Trial, also: list[Trial]) -> list[str]:
    if not also:
        return []

    def name(one: Trial) -> str:
        label = one.suspect.label
        return "" if label in trial.suspect.classes else f"{data.name(label)!r} by "

    titles = dict.fromkeys(f"{name(one)}{one.suspect.title} ({one.reliance:.0%})" for one in also)
    return [f"Changing this moves the same photos too, and seems to be the same thing: {', '.join(titles)}."]


def _count(name: str, outcome: Outcome) -> dict[str, float]:
    return {
        name: outcome.share,
        f"{name}_control": outcome.control,
        f"{name}_shift": float(outcome.shift.mean()),
        f"{name}_pairs": len(outcome.pairs),
    }


def pick_photos(data: AuditData, trial: Trial) -> tuple[EvidencePhoto, ...]:
    """The photos of the class that lose most without it; where it was only given, some that have it."""
    suspect, outcome = trial.suspect, trial.taken
    if outcome is None:
        rows = data.groups[suspect.label] if suspect.members is None else suspect.members
        return tuple(
            EvidencePhoto(data.paths[row], _find_boxes(suspect, row), _tell_training(data, row).removeprefix("; "))
            for row in rows[:_MOST_PHOTOS].tolist()
        )
    seen: set[int] = set()
    photos: list[EvidencePhoto] = []
    for i in np.argsort(-outcome.shift):
        row = int(outcome.pairs.hosts[i])
        if row in seen or len(photos) == _MOST_PHOTOS:
            continue
        seen.add(row)
        fate = "no longer recognised without it" if outcome.is_changed[i] else "recognised without it"
        photos.append(
            EvidencePhoto(
                data.paths[row],
                _find_boxes(suspect, row),
                f"{fate}; its lead falls by {outcome.shift[i]:.1f}{_tell_training(data, row)}",
            )
        )
    return tuple(photos)


def _find_boxes(suspect: Suspect, row: int) -> tuple[tuple[float, float, float, float], ...]:
    return suspect.boxes_of(row) if suspect.boxes_of else suspect.region.boxes
