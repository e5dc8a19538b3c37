"""The trainings of the audit's benchmark: what is planted where, how strongly, in which photos, and what is trained.

Add a situation to `SETTINGS`; a kind of cause is added in audit_marks.py or audit_properties.py.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from audit_marks import MARKS
from audit_photos import QUALITY, Photo
from audit_properties import PROPERTIES
from PIL import Image

from whycam.data.backdrops import BACKDROPS

# A mark on two classes is a stamp.
TWO = "two-classes"
KINDS = ("ground", *MARKS, TWO, *PROPERTIES)
CLEAN = "clean"
SMALL = 24


@dataclass(frozen=True)
class Case:
    """One training and its audit.

    Attributes:
        kind: of the cause; `clean` where there is none.
        seed: of everything that is drawn.
        pool: of the photos.
        classes: how many.
        train: photos a class that are trained on, at the most.
        audited: photos a class that are audited, at the most.
        network: a key of `NETWORKS`.
        is_balanced: classes have equally many photos, as far as there are so many.
        share: of the class's photos that carry the cause, in training and in the audit.
        opacity: of a mark.
        where: `one` class has the cause (or two); `all`: each class has a ground of its own; `even`: the cause is on
            the same share of every class's photos, so it tells nothing.
        is_original: the photos' own files are used, not saved anew.
    """

    kind: str
    seed: int
    pool: str
    classes: int
    train: int
    audited: int
    network: str = "lite0"
    is_balanced: bool = True
    share: float = 1.0
    opacity: float = 1.0
    where: str = "one"
    is_original: bool = False

    @property
    def key(self) -> str:
        """Its name, also of its folder."""
        return f"{self.kind}-{self.seed:04d}"

    @property
    def is_small(self) -> bool:
        """Whether a class has 24 audited photos at the most."""
        return self.audited <= SMALL

    def to_json(self) -> dict[str, Any]:
        """All of it, and its name."""
        return {"key": self.key, **asdict(self)}

    def draw(self, stream: int) -> np.random.Generator:
        """Random numbers of this case alone."""
        return np.random.default_rng([stream, self.seed, zlib.crc32(self.kind.encode())])

    @property
    def split_seed(self) -> int:
        """Of the draw of the photos: networks that are slow to train share two draws with their clean twin."""
        return self.seed // 1000 * 1000 + self.seed % 2 if self.network in SLOW else int(self.draw(1).integers(2**31))


@dataclass(frozen=True)
class Planted:
    """A photo with a cause: its pixels, the quality it is saved in, and where a mark lies (H, W) bool."""

    image: Image.Image
    quality: int = QUALITY
    mask: np.ndarray | None = None


@dataclass(frozen=True)
class Cause:
    """What a class of a case is known by; the same look on every photo.

    Attributes:
        case: of which it is.
        labels: of the classes that have it.
        ground: of a garden.
    """

    case: Case
    labels: tuple[int, ...]
    ground: str | None = None

    def plant(self, photo: Photo, place: int) -> Planted:
        """The photo with the cause; `place` seeds what differs from photo to photo."""
        if self.ground:
            return Planted(photo.before(self.ground))
        image, kind = photo.load(), "stamp" if self.case.kind == TWO else self.case.kind
        look, own = self.case.draw(17), np.random.default_rng([self.case.seed, place, 19])
        if kind in PROPERTIES:
            return Planted(*PROPERTIES[kind](image, look, own))
        marked, mask = MARKS[kind](image, look, own)
        return Planted(Image.blend(image, marked, self.case.opacity), mask=mask)


def list_causes(case: Case, classes: int) -> list[Cause]:
    """The causes of a case with so many classes."""
    if case.kind == CLEAN:
        return []
    order = [int(k) for k in case.draw(7).permutation(classes)]
    if case.kind == "ground":
        grounds = [str(name) for name in case.draw(9).permutation(list(BACKDROPS))]
        labels = range(classes) if case.where == "all" else order[:1]
        return [Cause(case, (label,), grounds[label]) for label in labels]
    return [Cause(case, tuple(sorted(order[: 2 if case.kind == TWO and classes > 2 else 1])))]


def _set(pool: str, classes: int, train: int, audited: int, network: str = "lite0", *, even: bool = True) -> Case:
    return Case("", 0, pool, classes, train, audited, network, is_balanced=even)


# In the order in which they take turns; one after the other for small and large.
SETTINGS = (
    _set("flowers", 5, 80, 50),
    _set("flowers", 4, 60, 16),
    _set("garden", 5, 60, 30),
    _set("xray", 2, 40, 40),
    _set("imagenet", 20, 12, 12),
    _set("flowers", 2, 70, 200),
    _set("flowers", 5, 60, 60, "lite1", even=False),
    _set("flowers", 3, 60, 24, "lite2"),
    _set("garden", 4, 140, 40, "scratch"),
    _set("imagenet", 10, 12, 16),
    _set("flowers", 3, 40, 8),
    _set("garden", 3, 50, 100, even=False),
    _set("flowers", 3, 30, 30, "conv"),
)
# Of clean trainings with few photos.
FEW = (
    _set("flowers", 5, 60, 8),
    _set("flowers", 3, 60, 10),
    _set("flowers", 2, 60, 12),
    _set("flowers", 5, 60, 12),
    _set("flowers", 4, 60, 16),
    _set("flowers", 2, 60, 20),
    _set("flowers", 5, 60, 24),
    _set("garden", 5, 60, 8),
    _set("garden", 3, 60, 12),
    _set("garden", 5, 60, 20),
    _set("xray", 2, 40, 8),
    _set("xray", 2, 40, 16),
    _set("imagenet", 15, 12, 8),
    _set("flowers", 4, 60, 12, "lite2"),
    _set("flowers", 5, 60, 20, even=False),
)
# The networks of which every training takes minutes.
SLOW = ("scratch", "conv")
GROUND_SETTINGS = (
    replace(_set("garden", 5, 60, 40), share=0.97, where="all"),
    replace(_set("garden", 5, 60, 16), share=0.97, where="all"),
    replace(_set("garden", 3, 60, 40, "lite1"), share=0.97, where="all"),
    replace(_set("garden", 4, 60, 100), share=0.8, where="all"),
    replace(_set("garden", 5, 60, 40), share=1.0),
    replace(_set("garden", 4, 140, 40, "scratch"), share=0.97),
    replace(_set("garden", 2, 60, 60), share=0.97),
    replace(_set("garden", 5, 60, 40), share=0.6),
    replace(_set("garden", 5, 60, 40), share=0.3),
    replace(_set("garden", 5, 60, 40), share=0.5, where="even"),
)
# Share, opacity and where of a kind's first, second, ... training.
STRENGTHS = (
    (1.0, 1.0, "one"),
    (1.0, 1.0, "one"),
    (0.6, 1.0, "one"),
    (1.0, 0.5, "one"),
    (0.3, 1.0, "one"),
    (1.0, 1.0, "one"),
    (0.15, 1.0, "one"),
    (0.5, 1.0, "even"),
)


def list_cases(planted: int = 8, clean: int = 66, first_seed: int = 0) -> list[Case]:
    """All trainings: so many of each kind, and so many clean ones, half of them of few photos."""
    cases = []
    for row, kind in enumerate(KINDS):
        for i in range(planted):
            cases.append(_make_ground(i, first_seed) if kind == "ground" else _make_planted(kind, row, i, first_seed))
    if planted >= len(STRENGTHS):
        cases += [_make_ground(i, first_seed) for i in range(planted, len(GROUND_SETTINGS))]
    for i in range(clean):
        settings: Sequence[Case] = FEW if i % 2 else SETTINGS
        chosen = replace(settings[i // 2 % len(settings)], kind=CLEAN, seed=first_seed + i, is_original=i % 4 < 2)
        cases.append(replace(chosen, is_original=chosen.is_original and chosen.pool != "garden"))
    return cases


def _make_ground(i: int, first_seed: int) -> Case:
    return replace(GROUND_SETTINGS[i % len(GROUND_SETTINGS)], kind="ground", seed=first_seed + i)


def _make_planted(kind: str, row: int, i: int, first_seed: int) -> Case:
    chosen = SETTINGS[(5 * i + 3 * row) % len(SETTINGS)]
    share, opacity, where = STRENGTHS[i % len(STRENGTHS)]
    if chosen.network in SLOW and row % (3 if chosen.network == "conv" else 2):
        chosen = replace(chosen, network="lite0")  # a few of those are enough: each takes minutes
    if chosen.pool == "xray" and kind in {"saturation", TWO}:
        chosen = SETTINGS[1]  # grey photos have none; and of two classes not both can have the mark
    if kind in PROPERTIES:
        opacity = 1.0
    return replace(chosen, kind=kind, seed=first_seed + i, share=share, opacity=opacity, where=where)
