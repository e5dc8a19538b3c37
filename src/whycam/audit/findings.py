"""What an audit gives back: findings, each with its evidence photos, its numbers and how sure it is."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

Box = tuple[float, float, float, float]
_WORDS = ("MODEL", "FOLDER", "FINDING", "RESULT")
# What is less certain is not shown.
LEAST_CERTAINTY = 0.95


@dataclass(frozen=True)
class Region:
    """A part of the photo.

    Attributes:
        name: in plain words.
        boxes: x0, y0, x1, y1 as fractions of the photo's width and height; none where it moves or has no place.
    """

    name: str
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True)
class EvidencePhoto:
    """A photo that shows what a finding says, with the places to look at as fractions of the photo."""

    path: Path
    boxes: tuple[Box, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Finding:
    """One thing that a person should look at.

    Attributes:
        kind: one of the audit's kinds.
        severity: in [0, 1]; the share of the photos it speaks of that it concerns.
        certainty: in [0, 1]; 1 - the chance that so clear a sign arises without a cause, corrected for the tests made.
        title: one plain sentence.
        detail: plain sentences with the numbers.
        class_name: the class it concerns.
        other: the second class, where there is one.
        region: the part of the photo, where there is one.
        photos: evidence, the clearest first.
        numbers: what the sentences say, and more, by name.
        cost: in [0, 1]; the share of all audited photos whose answer is wrong, or would be, by it.
        remedy: one sentence: what to do.
        command: one command line, with `$MODEL`, `$FOLDER` and `$FINDING` for what `to_json` is told, and `$RESULT`
            for the finding's own name, as a place of the result; all other words by `quote_word`.
    """

    kind: str
    severity: float
    certainty: float
    title: str
    detail: str
    class_name: str | None = None
    other: str | None = None
    region: Region | None = None
    photos: tuple[EvidencePhoto, ...] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)
    cost: float = 0.0
    remedy: str = ""
    command: str = ""

    def to_json(self, key: str, words: Mapping[str, str]) -> dict[str, Any]:
        """The finding as `audit.json` holds it; `words` say what its command's words mean."""
        meant = {**words, "RESULT": key}
        if "FINDING" in words:
            meant["FINDING"] = f"{words['FINDING']}#{key}"
        # A word that nothing is told of stands as it is.
        quoted = {word: shlex.quote(meant.get(word, word)) for word in _WORDS}
        command = Template(self.command).substitute(quoted)
        region = self.region and {"name": self.region.name, "boxes": _round(self.region.boxes)}
        photos = [{"path": str(p.path), "boxes": _round(p.boxes), "note": p.note} for p in self.photos]
        return {
            "id": key,
            "kind": self.kind,
            "severity": round(self.severity, 4),
            "certainty": round(self.certainty, 6),
            "cost": round(self.cost, 4),
            "class": self.class_name,
            "other": self.other,
            "title": self.title,
            "detail": self.detail,
            "region": region,
            "photos": photos,
            "numbers": dict(self.numbers),
            "remedy": self.remedy,
            "command": command,
        }


def quote_word(text: str) -> str:
    """A word of a finding's command that stands for itself: a class, a folder."""
    return shlex.quote(text).replace("$", "$$")


def _round(boxes: Sequence[Box]) -> list[list[float]]:
    return [[round(float(value), 4) for value in box] for box in boxes]


def rank(found: Iterable[Finding]) -> tuple[Finding, ...]:
    """Those that are certain enough: proven shortcuts, then all else, what costs most first.

    What is proved of the model stands before what the photos would let any model learn.
    """
    certain = [one for one in found if one.certainty >= LEAST_CERTAINTY]
    return tuple(sorted(certain, key=lambda one: (one.kind != "shortcut", -one.cost, -one.severity, -one.certainty)))


@dataclass(frozen=True)
class Audit:
    """The findings of a model on a folder of photos.

    Attributes:
        findings: first what costs most.
        photos: how many were looked at.
        notes: sentences: what could not be looked at, and why.
        record: how it was made.
    """

    findings: tuple[Finding, ...]
    photos: int
    notes: tuple[str, ...]
    record: Mapping[str, Any]

    def of_kind(self, kind: str) -> tuple[Finding, ...]:
        """The findings of one kind."""
        return tuple(finding for finding in self.findings if finding.kind == kind)

    def to_json(self, **words: str) -> dict[str, Any]:
        """What `audit.json` holds; `MODEL=`, `FOLDER=` and `FINDING=` (the file itself) complete the commands."""
        seen: Counter[str] = Counter()
        rows = []
        for finding in self.findings:
            stem = "-".join(filter(None, (finding.kind, finding.class_name)))
            seen[stem] += 1
            rows.append(finding.to_json(f"{stem}-{seen[stem]}", words))
        return {"findings": rows, "photos": self.photos, "notes": list(self.notes), "record": dict(self.record)}
