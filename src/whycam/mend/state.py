"""What all edits of a journal come to: of two that disagree the later counts, and both are listed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from whycam.data.drawn import Drawn
from whycam.data.exchange import CAUSES, find_properties
from whycam.data.remake import REMAKES
from whycam.mend.edits import VERDICTS, Edit


@dataclass(frozen=True)
class PhotoState:
    """What is said of one photo.

    Attributes:
        verdict: the edit that says what becomes of it; None where nobody did.
        not_object: parts that are not the object.
        object: parts that are.
        edits: all edits of it that count, in their order.
    """

    verdict: Edit | None = None
    not_object: tuple[Drawn, ...] = ()
    object: tuple[Drawn, ...] = ()
    edits: tuple[Edit, ...] = ()

    @property
    def label(self) -> str | None:
        """The class that it is said to be; None where that is not said."""
        return self.verdict.label if self.verdict else None

    @property
    def is_left_out(self) -> bool:
        """Whether it is left out."""
        return self.verdict is not None and self.verdict.kind == "leave-out"

    @property
    def path(self) -> str:
        """Where it was when it was last spoken of."""
        return next((edit.path for edit in reversed(self.edits) if edit.path), "")


@dataclass(frozen=True)
class Conflict:
    """Two edits of one photo, or of one finding, that disagree; the later one counts."""

    photo: str
    first: Edit
    later: Edit

    def tell(self) -> str:
        """A sentence."""
        where = self.later.path or self.first.path or self.photo or str((self.later.finding or {}).get("id"))
        return f"On '{where}' two disagree: {self.first.tell()}; {self.later.tell()}. The later counts."

    def to_json(self) -> dict[str, Any]:
        """For a summary, or a page."""
        return {"photo": self.photo, "first": self.first.id, "later": self.later.id, "told": self.tell()}


@dataclass(frozen=True)
class State:
    """What all edits come to.

    Attributes:
        photos: content hash -> what is said of it.
        cures: one edit for each cause that the model is trained against, in their order.
        dismissed: one for each that is said to be no fault.
        conflicts: of edits that count.
        edits: all that count, undoing ones too.
        notes: sentences on what does not count.
    """

    photos: Mapping[str, PhotoState] = field(default_factory=dict)
    cures: tuple[Edit, ...] = ()
    dismissed: tuple[Edit, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    edits: tuple[Edit, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def has_causes(self) -> bool:
        """Whether photos are to have a cause or a part exchanged."""
        return bool(self.cures) or any(one.not_object or one.object for one in self.photos.values())


def replay(edits: Sequence[Edit], notes: Iterable[str] = ()) -> State:
    """The state after these edits, each with an id of its own, in the order in which they were said."""
    kept, undone = _drop_undone(edits)
    photos: dict[str, PhotoState] = {}
    answers: dict[str, Edit] = {}
    conflicts: list[Conflict] = []
    for edit in kept:
        if edit.finding is not None:
            cause = name_cause(edit.finding)
            if cause in answers and answers[cause].kind != edit.kind:
                conflicts.append(Conflict("", answers[cause], edit))
            answers[cause] = edit
        elif edit.photo is not None:
            before = photos.get(edit.photo, PhotoState())
            photos[edit.photo], rivals = _add(before, edit)
            conflicts += [Conflict(edit.photo, rival, edit) for rival in rivals]
    cures, dismissed = (tuple(e for e in answers.values() if e.kind == kind) for kind in ("cure", "dismiss"))
    return State(photos, cures, dismissed, tuple(conflicts), kept, (*notes, *undone))


def _drop_undone(edits: Sequence[Edit]) -> tuple[tuple[Edit, ...], list[str]]:
    """Those that no later edit undoes, and sentences on what undoes nothing; an undoing edit may be undone too."""
    undone: set[str] = set()
    kept: list[Edit] = []
    for edit in reversed(edits):
        if edit.id not in undone:
            kept.append(edit)
            undone |= {str(edit.of)} if edit.kind == "undo" else set()
    known, notes = set[str](), []
    for edit in edits:
        if edit.kind == "undo" and edit.of not in known:
            notes.append(f"The edit {edit.id} undoes {edit.of!r}, which is no edit before it; it changes nothing.")
        known.add(edit.id)
    return tuple(reversed(kept)), notes


def _add(state: PhotoState, edit: Edit) -> tuple[PhotoState, list[Edit]]:
    """The photo's state after an edit, and the earlier edits that it disagrees with."""
    rivals: list[Edit] = []
    verdict, drawn = state.verdict, {"not-object": state.not_object, "object": state.object}
    if edit.kind in VERDICTS:
        if verdict is not None and _mean(verdict) != _mean(edit):
            rivals.append(verdict)
        verdict = edit
    elif edit.region is not None:
        other = "object" if edit.kind == "not-object" else "not-object"
        against = [one for one in state.edits if one.kind == other and one.region]
        rivals = [one for one in against if one.region and one.region.overlaps(edit.region)]
        # Of a part that is said to be both, the later counts: the earlier drawing is taken back as a whole.
        gone = {one.region.digest for one in rivals if one.region}
        drawn[other] = tuple(one for one in drawn[other] if one.digest not in gone)
        drawn[edit.kind] = (*drawn[edit.kind], edit.region)
    return PhotoState(verdict, drawn["not-object"], drawn["object"], (*state.edits, edit)), rivals


def _mean(edit: Edit) -> tuple[str, str | None]:
    """What a verdict comes to: to confirm a label is to give it."""
    return ("leave-out", None) if edit.kind == "leave-out" else ("label", edit.label)


def name_cause(finding: Mapping[str, Any]) -> str:
    """A word for what a finding is about, the same in each audit that finds it: its class, and what is exchanged."""
    numbers, region = finding.get("numbers") or {}, finding.get("region") or {}
    names = find_properties(finding) or []
    about: object = next((name for name in names if name in REMAKES), None)
    if about is None and finding.get("kind") not in CAUSES:
        photos = sorted(str(photo.get("path")) for photo in finding.get("photos") or ())
        about = [finding.get("kind"), finding.get("other"), *(photos if finding.get("kind") == "duplicate" else ())]
    return json.dumps([finding.get("class"), about or [numbers.get("found_by"), region.get("name")]])
