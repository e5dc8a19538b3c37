"""What the JSON API of the page Mend takes and answers, as models."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from whycam.data.drawn import Drawn
from whycam.show.app.answers import CamelAnswer, Entry

# All that one click may say: a finding's photos.
_MOST_EDITS = 500


class EditWords(BaseModel):
    """One edit, in the words of `whycam.mend.edits.make_edit`."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(min_length=8, max_length=100, description="Made by the client: the same id counts once.")
    kind: str = Field(max_length=20)
    photo: str | None = Field(None, pattern="^[0-9a-f]{32}$", description="Content hash.")
    path: str | None = Field(None, max_length=4000, description="Taken from the hash; what is given is not read.")
    label: str | None = Field(None, min_length=1, max_length=255)
    is_new: bool = False
    region: Drawn | None = None
    finding: dict[str, Any] | None = None
    of: str | None = Field(None, max_length=100)
    note: str | None = Field(None, max_length=4000)


class EditsRequest(BaseModel):
    """Edits that are said together: all of them are on the disk, or none."""

    model_config = ConfigDict(extra="forbid")

    edits: list[EditWords] = Field(min_length=1, max_length=_MOST_EDITS)


class RetrainRequest(BaseModel):
    """How a new version is made."""

    model_config = ConfigDict(extra="forbid")

    audit: bool = Field(False, description="Audit it too, which takes longer than the training.")
    allow_empty: bool = Field(False, description="Go on without classes that the edits leave without photos.")


class WorkAnswer(CamelAnswer):
    """The training that is under way, or the last one of this server."""

    state: Literal["none", "running", "done", "cancelled", "failed"] = "none"
    step: str = ""
    done: int = 0
    total: int = 0
    version: str = Field("", description="The number of the new version, once it is done.")
    reason: str = Field("", description="Why it failed.")
    is_class_empty: bool = Field(False, description="It failed for a class that the edits leave without photos.")


class MendState(CamelAnswer):
    """What a page asks again and again: whether anything has changed."""

    reason: str = Field("", description="Why nothing can be corrected here; empty where it can.")
    revision: str = Field("", description="Another one after each edit and each version, whoever made it.")
    work: WorkAnswer = WorkAnswer()


class Acknowledged(CamelAnswer):
    """What was sent is on the disk."""

    revision: str


class PhotoAnswer(CamelAnswer):
    """A photo to look at."""

    photo: str
    path: str
    label: str
    split: str
    said: str
    share: float | None
    boxes: list[tuple[float, float, float, float]]
    note: str


class ActionAnswer(CamelAnswer):
    """What may be done about an item."""

    name: str
    title: str
    edits: list[dict[str, Any]] = Field(description="To be sent, each with an id and with what is needed.")
    needs: list[str]


class ItemAnswer(CamelAnswer):
    """One thing to look at."""

    id: str
    sort: str
    title: str
    detail: str
    cost: float
    photos: list[PhotoAnswer]
    actions: list[ActionAnswer]


class SaidAnswer(CamelAnswer):
    """An edit that counts."""

    id: str
    kind: str
    told: str
    who: str
    time: str


class MendAnswer(CamelAnswer):
    """The work list, and what was said so far."""

    revision: str
    class_names: list[str] = Field(description="All classes, new ones too.")
    kept: str = Field(description="The number of the version that stands for the run.")
    items: list[ItemAnswer]
    left_off: int = Field(description="So many items more are not in the answer.")
    history: list[SaidAnswer] = Field(description="The last edits that count, the latest first.")
    said: int = Field(description="How many edits count.")
    notes: list[str] = Field(description="What does not count, and what disagrees.")


class MendEntry(Entry):
    """A photo for the viewer, with one version's maps or with the change between two."""

    is_change: bool = False
    told: list[str] | None = None


class PhotoView(CamelAnswer):
    """A photo with a version's maps, and what was said of it."""

    path: str
    label: str = Field(description="Its class as people have it; empty where it is left out.")
    entry: MendEntry
    class_names: list[str]
    bias: list[float]
    drawn: dict[str, str] = Field(description="object, not-object: what is drawn, as PNG in Base64.")


class VersionAnswer(CamelAnswer):
    """A version of the run."""

    number: str
    is_kept: bool
    accuracy: float
    photos: int = Field(description="Held-out photos.")
    comparison: dict[str, Any] | None = Field(description="As `comparison.json` holds it.")


class VersionsAnswer(CamelAnswer):
    """All versions, the first training first."""

    versions: list[VersionAnswer]
