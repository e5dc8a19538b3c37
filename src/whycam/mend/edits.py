"""An edit: what somebody says of one photo, of a finding, or of an earlier edit.

Add a kind as one entry in `KINDS`, and what comes of it in `state.py`.
"""

from __future__ import annotations

import getpass
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from whycam.data.drawn import Drawn, DrawnBox
from whycam.errors import UserError, make_unknown_name, tell_wrong_value

# Of the lines of a journal; a later version that means something else by them counts on.
FORMAT = 1
# Of a finding these parts are kept with the edit: an audit's file is replaced by the next audit.
_KEPT = ("id", "kind", "class", "other", "title", "region", "numbers", "photos")
_MOST_LETTERS = 4000
_MOST_OF_FINDING = 200_000


@dataclass(frozen=True)
class Kind:
    """A kind of edit.

    Attributes:
        title: what is said, in words.
        needs: the fields that it must have.
    """

    title: str
    needs: tuple[str, ...]


KINDS = {
    "right": Kind("the label is right", ("photo", "label")),
    "label": Kind("the label is another", ("photo", "label")),
    "leave-out": Kind("the photo is left out", ("photo",)),
    "not-object": Kind("a part of the photo is not the object", ("photo", "region")),
    "object": Kind("a part of the photo is the object", ("photo", "region")),
    "cure": Kind("the model is trained against a finding", ("finding",)),
    "dismiss": Kind("a finding is no fault", ("finding",)),
    "undo": Kind("an earlier edit does not count", ("of",)),
}
# Those that say what becomes of a photo: of two, the later counts.
VERDICTS = ("right", "label", "leave-out")


class _Numbers(BaseModel):
    found_by: str | None = None
    property: str | None = None
    properties: list[str] | None = None


class _Region(BaseModel):
    name: str = ""
    boxes: list[DrawnBox] = []


class _Shown(BaseModel):
    path: str
    photo: str | None = None
    boxes: list[DrawnBox] = []


class _Finding(BaseModel):
    """What of a finding is read when it is followed; a journal may be written by hand."""

    id: str = Field(min_length=1)
    kind: str = Field(min_length=1)
    class_name: str | None = Field(None, alias="class")
    region: _Region | None = None
    numbers: _Numbers | None = None
    photos: list[_Shown] = []


def check_finding(finding: Mapping[str, Any]) -> None:
    """Refuses what is no finding of an audit.

    Raises:
        ValueError: it is none, or a long one.
    """
    try:
        _Finding.model_validate(finding)
    except ValidationError as error:
        raise ValueError(f"the finding is none of an audit.json ({tell_fault(error)})") from None
    if len(json.dumps(finding)) > _MOST_OF_FINDING:
        raise ValueError(f"the finding has over {_MOST_OF_FINDING:,} letters; expected a finding of an audit.json")


class Edit(BaseModel):
    """One line of the journal.

    Attributes:
        format: of the line.
        id: what makes it one edit, however often it is sent.
        time: when it was said, as ISO 8601 in UTC.
        who: who said it.
        kind: one of `KINDS`.
        photo: the content hash of the photo; it finds the photo again where it was moved.
        path: the photo's path below the folder of photos, for people.
        label: a class.
        is_new: the class is meant to be new.
        region: a part of the photo.
        finding: what is kept of a finding of an audit.
        source: AUDIT.json#FINDING, for people.
        of: the id of an earlier edit.
        note: in the words of who said it.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    format: int = Field(FORMAT, ge=1)
    id: str = Field(min_length=1, max_length=100)
    time: str = Field(min_length=1, max_length=40)
    who: str = Field("", max_length=200)
    kind: str
    photo: str | None = Field(None, pattern="^[0-9a-f]{32}$")
    path: str | None = Field(None, max_length=_MOST_LETTERS)
    label: str | None = Field(None, min_length=1, max_length=255)
    is_new: bool = False
    region: Drawn | None = None
    finding: dict[str, Any] | None = None
    source: str | None = Field(None, max_length=_MOST_LETTERS)
    of: str | None = Field(None, max_length=100)
    note: str | None = Field(None, max_length=_MOST_LETTERS)

    @model_validator(mode="after")
    def _check(self) -> Edit:
        if self.kind in KINDS:
            for name in KINDS[self.kind].needs:
                if getattr(self, name) is None:
                    raise ValueError(f"an edit of the kind {self.kind!r} needs {name!r}")
        if self.finding is not None:
            check_finding(self.finding)
        return self

    def to_json(self) -> dict[str, Any]:
        """As a line holds it: without what is not said."""
        return {"format": self.format} | self.model_dump(mode="json", exclude_defaults=True)

    def tell(self) -> str:
        """In words, for a list of what disagrees."""
        said = {"label": f"it is {self.label!r}", "right": f"it is {self.label!r}", "leave-out": "leave it out"}
        return f"{self.who or 'somebody'} at {self.time}: {said.get(self.kind, self.kind)}"


def make_edit(kind: str, *, now: Callable[[], datetime] | None = None, **words: Any) -> Edit:
    """An edit with an id, a time and a name, where they are not given.

    Raises:
        UserError: an unknown kind, or a field that it lacks or can't have.
    """
    if kind not in KINDS:
        raise make_unknown_name("kind of edit", kind, KINDS)
    if unknown := sorted(words.keys() - Edit.model_fields.keys()):
        raise make_unknown_name("field of an edit", unknown[0], Edit.model_fields)
    moment = (now or (lambda: datetime.now(UTC)))()
    usual = {"id": str(uuid.uuid4()), "time": moment.isoformat(timespec="milliseconds"), "who": name_user()}
    if words.get("finding") is not None:
        words["finding"] = keep_finding(words["finding"])
    given = {name: value for name, value in words.items() if value is not None}
    try:
        return Edit.model_validate({**usual, **given, "kind": kind})
    except ValidationError as error:
        raise UserError(f"An edit of the kind {kind!r} can't be taken: {tell_fault(error)}.") from None


def tell_fault(error: ValidationError) -> str:
    """The first thing that is wrong, in a line."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where + ': ' if where else ''}{tell_wrong_value(first)}"


def keep_finding(finding: Mapping[str, Any]) -> dict[str, Any]:
    """What of a finding, as `audit.json` holds it, is kept with an edit."""
    return {name: finding[name] for name in _KEPT if name in finding}


def name_user() -> str:
    """Who is logged in; empty where the system does not say."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""
