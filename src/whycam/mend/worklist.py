"""What to look at, in one order: an audit's findings, the most costly first, doubted labels, mistakes, fragile photos.

Each item says what may be done about it, as edits that are ready to be sent. Add a sort of item as one function in
`SORTS`: it is given what is known and gives its items in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from whycam.data.exchange import CAUSES, find_properties
from whycam.data.remake import REMAKES
from whycam.mend.edits import Edit, keep_finding, make_edit
from whycam.mend.state import State, name_cause

# Those that are no photos' own matter; the others come photo by photo.
_WHOLE = (*CAUSES, "data", "duplicate", "slice", "confusion")
# Kinds whose cause can be trained away.
_CURED = (*CAUSES, "data")


@dataclass(frozen=True)
class Photo:
    """A photo of the folder.

    Attributes:
        photo: its content hash.
        path: below the folder of photos.
        label: its class as people have it now.
        split: train or val.
        said: the class that it is taken for; none where it is not asked.
        share: the probability of its own label, by who says so; None where it is not asked.
        boxes: the places to look at, as fractions.
        note: what there is to see.
    """

    photo: str
    path: str
    label: str
    split: str
    said: str = ""
    share: float | None = None
    boxes: tuple[tuple[float, ...], ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Action:
    """Something that may be done about an item, with one click.

    Attributes:
        name: a word for it: the kind of its edits, or `relabel`, where a person says which class it is.
        title: in words.
        edits: the words of `make_edit`, one mapping an edit.
        needs: words that a person must add to each: a label, a region.
    """

    name: str
    title: str
    edits: tuple[Mapping[str, Any], ...]
    needs: tuple[str, ...] = ()

    def make(self, **given: Any) -> list[Edit]:
        """The edits, with what the person gives.

        Raises:
            UserError: something that it needs is not given.
        """
        return [make_edit(**{**words, **given}) for words in self.edits]


@dataclass(frozen=True)
class Item:
    """One thing to look at.

    Attributes:
        id: the same as long as there is something to do about it.
        sort: one of `SORTS`.
        title: a sentence.
        detail: the evidence, in sentences.
        cost: the share of the photos whose answer is wrong, or would be, by it.
        photos: to look at, the clearest first.
        actions: what fits; the first one is what the evidence speaks for.
        finding: as the audit has it, for a finding.
    """

    id: str
    sort: str
    title: str
    detail: str
    cost: float
    photos: tuple[Photo, ...]
    actions: tuple[Action, ...]
    finding: Mapping[str, Any] | None = None

    def find_action(self, name: str) -> Action:
        """The first action of that kind.

        Raises:
            KeyError: there is none.
        """
        return {action.name: action for action in reversed(self.actions)}[name]

    def to_json(self) -> dict[str, Any]:
        """For a page."""
        return asdict(self)


@dataclass(frozen=True)
class Known:
    """What a work list is made of.

    Attributes:
        state: what people said already.
        photos: content hash -> the photo; without those that are left out.
        places: path of a file -> content hash.
        findings: of the audit, in its order.
        doubts: (hash, what it is taken for, the probability of its own label) of each photo whose label is doubted, the
            most doubted first.
        answers: hash -> (what the kept model says, the probability of the own label), of held-out photos.
    """

    state: State
    photos: Mapping[str, Photo]
    places: Mapping[Path, str]
    findings: Sequence[Mapping[str, Any]] = ()
    doubts: Sequence[tuple[str, str, float]] = ()
    answers: Mapping[str, tuple[str, float]] = field(default_factory=dict)

    def find(self, shown: Mapping[str, Any]) -> Photo | None:
        """The photo that a finding shows; None where it is no longer there, or left out."""
        found = self.photos.get(self.places.get(Path(shown["path"]), ""))
        if found is None:
            return None
        boxes = tuple(tuple(box) for box in shown.get("boxes") or ())
        return Photo(**{**vars(found), "boxes": boxes, "note": shown.get("note", "")})

    def is_judged(self, photo: str) -> bool:
        """Whether people said what becomes of the photo."""
        said = self.state.photos.get(photo)
        return said is not None and said.verdict is not None


def make_list(known: Known) -> list[Item]:
    """All items in their order; of a photo that several sorts tell of, the first."""
    items: list[Item] = []
    seen: set[str] = set()
    for find in SORTS.values():
        for item in find(known):
            single = item.photos[0].photo if item.finding is None and item.photos else ""
            if not single or single not in seen:
                items.append(item)
                seen.add(single)
    return items


def _list_findings(known: Known) -> Iterator[Item]:
    """Those that nobody answered yet."""
    answered = {name_cause(edit.finding or {}) for edit in (*known.state.cures, *known.state.dismissed)}
    for finding in known.findings:
        if finding["kind"] not in _WHOLE or name_cause(finding) in answered:
            continue
        photos = tuple(photo for shown in finding["photos"] if (photo := known.find(shown)))
        yield Item(
            f"finding:{finding['id']}",
            "finding",
            finding["title"],
            finding["detail"],
            finding["cost"],
            photos,
            tuple(_act_on_finding(finding, photos)),
            finding,
        )


def _act_on_finding(finding: Mapping[str, Any], photos: Sequence[Photo]) -> Iterator[Action]:
    kept, is_question = keep_finding(finding), finding["kind"] == "question"
    if can_be_cured(finding):
        title = "It is not the object: train against it." if is_question else "Train against it."
        yield Action("cure", title, ({"kind": "cure", "finding": kept},))
    if finding["kind"] == "duplicate":
        for photo in photos:
            yield Action("leave-out", f"Leave out {photo.path}.", (_of(photo, "leave-out"),))
    marked = [photo for photo in photos if photo.boxes]
    if finding["kind"] in CAUSES and marked:
        edits = tuple(_of(photo, "not-object", region={"boxes": photo.boxes}) for photo in marked)
        yield Action("not-object", "What is marked on these photos is not the object.", edits)
    yield Action(
        "dismiss", "It is the object." if is_question else "This is no fault.", ({"kind": "dismiss", "finding": kept},)
    )


def can_be_cured(finding: Mapping[str, Any]) -> bool:
    """Whether a finding's cause can be exchanged between photos."""
    if finding.get("kind") not in _CURED:
        return False
    if (names := find_properties(finding)) is not None:
        return any(name in REMAKES for name in names)
    has_place = bool((finding.get("region") or {}).get("boxes"))
    has_signs = any(photo.get("boxes") for photo in finding.get("photos") or ())
    return (finding.get("numbers") or {}).get("found_by") == "ground" or has_place or has_signs


def _list_doubts(known: Known) -> Iterator[Item]:
    for content, said, share in known.doubts:
        photo = known.photos.get(content)
        if photo is None or known.is_judged(content) or said == photo.label:
            continue
        told = Photo(**{**vars(photo), "said": said, "share": share})
        title = f"Labelled {photo.label!r}, and looks like {said!r}."
        detail = f"To a model that never saw the photo it is {photo.label!r} with {share:.1%}."
        yield _make_item("label", told, title, detail, len(known.photos))


def _list_mistakes(known: Known) -> Iterator[Item]:
    """Held-out photos that the model takes for another class, the surest first."""
    wrong = [
        (share, content, said)
        for content, (said, share) in known.answers.items()
        if content in known.photos and known.photos[content].label != said and not known.is_judged(content)
    ]
    for share, content, said in sorted(wrong):
        photo = Photo(**{**vars(known.photos[content]), "said": said, "share": share})
        title = f"A held-out photo of {photo.label!r} is taken for {said!r}."
        detail = f"Its own class has {share:.1%}."
        yield _make_item("mistake", photo, title, detail, len(known.photos))


def _list_fragile(known: Known) -> Iterator[Item]:
    for finding in known.findings:
        for shown in finding["photos"] if finding["kind"] == "fragile" else ():
            photo = known.find(shown)
            if photo is not None and not known.is_judged(photo.photo):
                yield _make_item("fragile", photo, finding["title"], photo.note, len(known.photos))


def _make_item(sort: str, photo: Photo, title: str, detail: str, count: int) -> Item:
    said = photo.said if sort == "label" else ""
    first = [Action("label", f"It is {said!r}.", (_of(photo, "label", label=said),))] if said else []
    actions = (
        *first,
        Action("right", f"{photo.label!r} is right.", (_of(photo, "right", label=photo.label),)),
        Action("leave-out", "Leave it out.", (_of(photo, "leave-out"),)),
        Action("relabel", "It is another class.", (_of(photo, "label"),), ("label",)),
        Action("not-object", "A part is not the object.", (_of(photo, "not-object"),), ("region",)),
        Action("object", "A part is the object.", (_of(photo, "object"),), ("region",)),
    )
    return Item(f"{sort}:{photo.photo}", sort, title, detail, 1 / max(1, count), (photo,), actions)


def _of(photo: Photo, kind: str, **words: Any) -> dict[str, Any]:
    return {"kind": kind, "photo": photo.photo, "path": photo.path, **words}


SORTS: dict[str, Callable[[Known], Iterator[Item]]] = {
    "finding": _list_findings,
    "label": _list_doubts,
    "mistake": _list_mistakes,
    "fragile": _list_fragile,
}
