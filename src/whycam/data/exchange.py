"""Photos whose cause is exchanged: what a model knows a class by, given to other classes and taken from its own.

Add a kind of cause as one class with `key` and `__call__`, both of (photo, donor), and where `make_change` makes it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

import numpy as np
from PIL import Image

from whycam.data.annotations import Box
from whycam.data.folder import PhotoFolder, Sample
from whycam.data.images import load_image, load_sized
from whycam.data.properties import Value, measure_facts
from whycam.data.regions import Regions, read_findings
from whycam.data.remake import REMAKES, open_host, remake
from whycam.data.shards import is_there
from whycam.errors import UserError

# Kinds of an audit's findings that tell by what a class is known: what is proved not to be the object, and what may be.
CAUSES = ("shortcut", "question")
# What is cut out with a sign reaches so far beyond its box, of the box's side: the box holds its middle.
_AROUND = 0.1


class Change(Protocol):
    """How a cause comes from one photo to another."""

    def key(self, photo: Path, donor: Path) -> str:
        """A word that changes with anything but the content of the two photos that decides the pixels."""

    def __call__(self, photo: Path, donor: Path) -> Image.Image:
        """The photo with the cause as the donor has it."""


@dataclass(frozen=True)
class Exchange:
    """Views of photos, each with the cause as another photo has it.

    Half of the donors are of the class that is known by the cause, the others' classes are drawn evenly; so in the
    views the cause says nothing about the class, where it can be both given and taken. Where photos come and go, or
    change their class, the donors of the others stay nearly all the same, so that their views need not be made anew.

    Attributes:
        donors: the photos that may give.
        label: the class that is known by the cause; None draws all classes evenly.
        change: how it is given.
        seed: the draws follow from it, from the view and from the photo's name.
        title: what the cause is called.
        only: the photos that have views; None: all.
        apart: photo -> the class whose photos give it nothing, where there are others.
        views: of each photo.
    """

    donors: tuple[Sample, ...]
    label: int | None
    change: Change
    seed: int
    title: str = ""
    only: frozenset[Path] | None = None
    apart: Mapping[Path, int] = field(default_factory=dict, repr=False)
    views: int = 2

    def __call__(self, photo: Path, view: int) -> Image.Image:
        """The photo in one of its views."""
        return self.change(photo, self.find_donor(photo, view))

    def pick(self, samples: Sequence[Sample]) -> list[Sample]:
        """Those that have views."""
        return [sample for sample in samples if self.only is None or sample.path in self.only]

    def find_donor(self, photo: Path, view: int) -> Path:
        """The photo that gives: of the drawn class the next one behind a drawn place (consistent hashing)."""
        draw = np.random.default_rng([self.seed, view, crc32(_name(photo))])
        classes, barred = self._classes, {self.label, self.apart.get(photo)}
        rest = [ring for label, ring in classes.items() if label not in barred] or list(classes.values())
        has_own = self.label in classes and draw.random() < 0.5
        ring = classes[self.label] if has_own else rest[draw.integers(len(rest))]
        return ring.paths[int(np.searchsorted(ring.places, draw.integers(2**63))) % len(ring.paths)]

    @cached_property
    def _classes(self) -> dict[int | None, _Ring]:
        rings: dict[int | None, _Ring] = {}
        for label in sorted({sample.label for sample in self.donors}):
            placed = sorted((_place(sample.path), sample.path) for sample in self.donors if sample.label == label)
            rings[label] = _Ring(np.array([place for place, _ in placed]), [path for _, path in placed])
        return rings

    def word(self, photo: Path, view: int, hashes: Mapping[Path, str]) -> str:
        """A word that changes with anything that decides the pixels of the photo's view."""
        donor = self.find_donor(photo, view)
        text = json.dumps([self.change.key(photo, donor), hashes[photo], hashes[donor]])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class _Ring:
    """The photos of a class in the order of their places, which are drawn by their names alone."""

    places: np.ndarray
    paths: list[Path]


def draw_some(samples: Sequence[Sample], count: int) -> frozenset[Path]:
    """About so many photos, as many of each class and one at least; nearly the same ones where others come and go."""
    groups: dict[int, list[tuple[int, Path]]] = {}
    for sample in samples:
        groups.setdefault(sample.label, []).append((_place(sample.path), sample.path))
    each = max(1, count // max(1, len(groups)))
    return frozenset(path for group in groups.values() for _, path in sorted(group)[:each])


def _name(photo: Path) -> bytes:
    return os.fsencode(f"{photo.parent.name}/{photo.name}")


def _place(photo: Path) -> int:
    return int.from_bytes(hashlib.blake2b(_name(photo), digest_size=8).digest()) >> 1


def swap_region(photo: Path, donor: Path, regions: Regions, at_least: tuple[int, int]) -> Image.Image:
    """The photo with what the donor shows in the region of either of the two; as it is where neither has one."""
    image, size = load_sized(photo, at_least=at_least)
    other, other_size = load_sized(donor, at_least=at_least)
    shape = (image.height, image.width)
    drawn = (regions.draw(photo, size, shape), regions.draw(donor, other_size, shape))
    masks = [mask for mask in drawn if mask is not None]
    if not masks:
        return image
    return Image.composite(other.resize(image.size), image, Image.fromarray(np.logical_or.reduce(masks)))


@dataclass(frozen=True)
class RegionChange:
    """The content of a region that is the same in every photo."""

    regions: Regions
    at_least: tuple[int, int]

    def key(self, photo: Path, donor: Path) -> str:
        """See `Change`."""
        return json.dumps(["region", self.regions.boxes, self.at_least])

    def __call__(self, photo: Path, donor: Path) -> Image.Image:
        """The donor's content in the photo's region."""
        return swap_region(photo, donor, self.regions, self.at_least)


@dataclass(frozen=True)
class PropertyChange:
    """A level of a property: how bright, how sharp, how strongly compressed.

    What is lost can't be given back: of a photo that is worse than the donor's level nothing changes.
    """

    name: str
    _rows: dict[Path, dict[str, Value]] = field(default_factory=dict, compare=False, repr=False)

    def key(self, photo: Path, donor: Path) -> str:
        """See `Change`."""
        return json.dumps(["property", self.name, 1])

    def __call__(self, photo: Path, donor: Path) -> Image.Image:
        """The photo made as the donor was."""
        return remake(self.name, open_host(photo, self._measure(photo)), self._measure(donor))

    def _measure(self, path: Path) -> dict[str, Value]:
        # Two threads that measure one photo find the same.
        if path not in self._rows:
            self._rows[path] = measure_facts(path)
        return self._rows[path]


@dataclass(frozen=True)
class SignChange:
    """A sign or a thing that stands elsewhere in each photo: cut out of the finding's photos, laid on others.

    It can be given and not taken: where it is in other photos is not known.

    Attributes:
        signs: (photo, box as fractions) of each of those that the finding shows.
        bearers: photos of the class; they give it, and are left as they are.
    """

    signs: tuple[tuple[Path, Box], ...]
    bearers: frozenset[Path]
    at_least: tuple[int, int]

    def key(self, photo: Path, donor: Path) -> str:
        """See `Change`."""
        is_given = photo not in self.bearers and donor in self.bearers
        # The names draw which sign, and where.
        about = [[[str(path), box] for path, box in self.signs], photo.name, donor.name] if is_given else []
        return json.dumps(["sign", about, self.at_least, 2])

    def __call__(self, photo: Path, donor: Path) -> Image.Image:
        """The photo with one of the signs at some place, where the donor has it and the photo has not."""
        image = load_image(photo, at_least=self.at_least)
        if photo in self.bearers or donor not in self.bearers:
            return image
        draw = np.random.default_rng(crc32(os.fsencode(f"{photo.name} {donor.name}")))
        source, (x0, y0, x1, y1) = self.signs[draw.integers(len(self.signs))]
        other = load_image(source, at_least=self.at_least)
        more = ((x1 - x0) * _AROUND, (y1 - y0) * _AROUND)
        box = (max(0, x0 - more[0]), max(0, y0 - more[1]), min(1, x1 + more[0]), min(1, y1 + more[1]))
        wide, high = other.size
        piece = other.crop((round(box[0] * wide), round(box[1] * high), round(box[2] * wide), round(box[3] * high)))
        size = (max(1, round((box[2] - box[0]) * image.width)), max(1, round((box[3] - box[1]) * image.height)))
        left, top = (int(draw.integers(max(1, side - own + 1))) for side, own in zip(image.size, size, strict=True))
        image = image.copy()
        image.paste(piece.resize(size), (left, top))
        return image


def list_signs(finding: Mapping[str, Any]) -> tuple[tuple[Path, Box], ...]:
    """(photo, box) of the sign in each photo of a finding that shows where it is."""
    shown = [(Path(photo["path"]), box) for photo in finding.get("photos", ()) for box in photo.get("boxes") or ()]
    return tuple((path, (float(b[0]), float(b[1]), float(b[2]), float(b[3]))) for path, b in shown if is_there(path))


def find_shortcut(text: str) -> dict[str, Any]:
    """The finding that `--against` names as AUDIT.json#FINDING.

    Raises:
        UserError: no such audit or finding, or one that is no shortcut.
    """
    file, _, key = text.partition("#")
    findings = read_findings(Path(file), "--against")
    shortcuts = [name for name, one in findings.items() if one.get("kind") in CAUSES]
    if key not in shortcuts:
        where = f"in '{Path(file).absolute()}'; expected a shortcut: {', '.join(shortcuts) or 'there is none'}"
        fault = f"is of the kind {findings[key].get('kind')!r}" if key in findings else "is not among the findings"
        raise UserError(
            f"--against names the finding {key!r}, which {fault} {where}. Write "
            f"{file}#{shortcuts[0] if shortcuts else 'FINDING'}."
        )
    return findings[key]


def make_exchange(
    finding: Mapping[str, Any],
    photos: PhotoFolder,
    at_least: tuple[int, int],
    seed: int,
    make_ground: Callable[[], Change],
) -> Exchange:
    """The exchange of a finding's cause.

    Args:
        finding: as `audit.json` holds it.
        photos: whose training photos are the donors.
        at_least: (width, height) of a photo that suffice.
        seed: of the draws.
        make_ground: the change of grounds, which needs a network that finds objects.

    Raises:
        UserError: a class that the folder has not, or no cause that can be exchanged.
    """
    key = str(finding["id"])
    label = photos.class_names.index(finding["class"]) if finding.get("class") in photos.class_names else None
    if label is None:
        raise UserError(
            f"The finding {key!r} is about the class {finding.get('class')!r}, which is none of "
            f"{', '.join(photos.class_names)[:200]}. Name an audit of the same classes."
        )
    change = make_change(finding, photos, label, at_least, make_ground)
    if change is None:
        raise UserError(
            f"The finding {key!r} says no place, no property that photos can be given, and shows no photo with its "
            "sign that is still there; expected one of them. Use --groups with a CSV that tells which photos have the "
            "cause, or --robust."
        )
    return Exchange(photos.train, label, change, seed, key)


def make_change(
    finding: Mapping[str, Any],
    photos: PhotoFolder,
    label: int,
    at_least: tuple[int, int],
    make_ground: Callable[[], Change],
) -> Change | None:
    """How the finding's cause comes from one photo to another; None where it can't. The words are `make_exchange`'s."""
    numbers = finding.get("numbers") or {}
    if numbers.get("found_by") == "ground":
        return make_ground()
    if (names := find_properties(finding)) is not None:
        name = next((name for name in names if name in REMAKES), None)
        return PropertyChange(name) if name else None
    boxes = (finding.get("region") or {}).get("boxes") or ()
    if boxes:
        return RegionChange(Regions(tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in boxes)), at_least)
    bearers = frozenset(sample.path for sample in photos.samples if sample.label == label)
    signs = list_signs(finding)
    return SignChange(signs, bearers, at_least) if signs else None


def find_properties(finding: Mapping[str, Any]) -> list[str] | None:
    """The properties that a finding is about, the clearest first; None where it is about none."""
    numbers = finding.get("numbers") or {}
    if (name := numbers.get("property")) is not None:
        return [str(name)]
    names = numbers.get("properties")
    return None if names is None else [str(name) for name in names]
