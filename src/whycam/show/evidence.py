"""Evidence of a model: every number with where it came from, as JSON and as a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from whycam.show.layout import open_templates, read_static

# Of the JSON; a later version that means something else by it counts on.
FORMAT = 1
NO_CLAIM = (
    "This file repeats what was recorded when the model was made and examined. It is no statement that the model "
    "conforms to a law or a standard, and it does not replace the parts that people have to write."
)
# What the order of the sections leaves open.
LEFT_TO_PEOPLE = (
    "who provides the model, who uses it, and on whose photos",
    "how the photos were collected and labelled, and by what right",
    "human oversight, and what is done with an answer",
    "the system of risk management, of which findings are only a part",
    "standards that were applied, a declaration of conformity, and monitoring after release",
)


@dataclass(frozen=True)
class Origin:
    """Where a value stands: a file by its name in `files`, and a JSON Pointer in it (of a .jsonl: /LINE, from 0)."""

    file: str
    key: str


@dataclass(frozen=True)
class Interval:
    """Where the value of all such photos lies, with a chance of `level`."""

    low: float
    high: float
    how: str
    level: float = 0.95


@dataclass(frozen=True)
class Fact:
    """One thing that is known.

    Attributes:
        name: what it is.
        value: a number, a text, a flag, or a list of texts.
        origins: where it stands; a computed one has all that it was computed from.
        unit: of a number.
        interval: of a number.
        computed: how it was made of its origins, in words; empty where it stands there as it is.
        note: what has to be known to read it.
    """

    name: str
    value: Any
    origins: tuple[Origin, ...]
    unit: str = ""
    interval: Interval | None = None
    computed: str = ""
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Without what is empty."""
        optional = {"unit", "interval", "computed", "note"}
        return {name: value for name, value in asdict(self).items() if value or name not in optional}


@dataclass(frozen=True)
class Section:
    """Facts under a title, and sections below it."""

    key: str
    title: str
    facts: Sequence[Fact] = ()
    parts: Sequence[Section] = ()
    note: str = ""

    def iter_facts(self) -> Iterator[Fact]:
        """Its own and those of its parts."""
        yield from self.facts
        for part in self.parts:
            yield from part.iter_facts()

    def to_json(self) -> dict[str, Any]:
        """With its parts."""
        about: dict[str, Any] = {"key": self.key, "title": self.title}
        about |= {"note": self.note} if self.note else {}
        about["facts"] = [fact.to_json() for fact in self.facts]
        return about | ({"parts": [part.to_json() for part in self.parts]} if self.parts else {})


@dataclass(frozen=True)
class Evidence:
    """All that is known of a model.

    Attributes:
        name: of the model.
        made: when, as ISO 8601 in UTC.
        command: that made it.
        versions: that made it.
        files: name -> path and SHA-256 of what is quoted.
    """

    name: str
    made: str
    command: str
    versions: Mapping[str, str]
    files: Mapping[str, Mapping[str, str]]
    sections: Sequence[Section] = field(default=())

    def __getitem__(self, key: str) -> Section:
        """The section of that key."""
        return next(section for section in self.sections if section.key == key)

    def to_json(self) -> dict[str, Any]:
        """As the file holds it."""
        return {
            "format": FORMAT,
            "about": NO_CLAIM,
            "name": self.name,
            "made": self.made,
            "command": self.command,
            "versions": dict(self.versions),
            "files": {name: dict(about) for name, about in self.files.items()},
            "sections": [section.to_json() for section in self.sections],
            "left_to_people": list(LEFT_TO_PEOPLE),
        }


def tell_value(fact: Fact) -> str:
    """A fact's value, its interval and its unit, for people."""
    told = _tell(fact.value)
    if fact.interval is not None:
        told += (
            f" ({100 * fact.interval.level:.0f} % interval {_tell(fact.interval.low)} to {_tell(fact.interval.high)})"
        )
    return f"{told} {fact.unit}".strip()


def _tell(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        words = [str(one) for one in value]
        # Sentences need no comma.
        return (" " if all(word.endswith(".") for word in words) else ", ").join(words) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)


def render_evidence(evidence: Evidence) -> str:
    """The page as HTML, which runs no script and asks for nothing outside itself."""
    pages = open_templates()
    pages.filters["told"] = tell_value
    style = read_static(("viewer.css", "report.css", "evidence.css"))
    return pages.get_template("evidence.html").render(
        style=style, evidence=evidence, no_claim=NO_CLAIM, left=LEFT_TO_PEOPLE
    )
