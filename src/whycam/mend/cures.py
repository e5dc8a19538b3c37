"""Causes that a training is against: findings of an audit, and parts of photos that people marked, as exchanges.

Every one of them goes the same way: views of photos in which the cause is another photo's, and a last layer whose
answers do not change with it. So any number of them goes together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from whycam.audit.cutouts import fill, lay
from whycam.audit.objects import LEAST_SHARE, MOST_SHARE, draw_mask, widen
from whycam.config import TrainOptions
from whycam.data.drawn import Drawn, draw_all
from whycam.data.exchange import Change, Exchange, draw_some, find_shortcut, make_change, make_exchange
from whycam.data.folder import PhotoFolder, Sample
from whycam.data.images import load_image, load_sized
from whycam.data.preprocess import Preprocess
from whycam.maps.objects import RECIPE, Finder, open_finder
from whycam.mend.apply import Applied
from whycam.mend.edits import Edit

# Photos taken apart that are kept for their next turn, some 0.3 MB each.
_KEPT = 600
# Photos of other classes that a marked part is laid on.
_HOSTS = 2
# A cure has one view each of so many training photos, and of so many held-out ones, by which it is measured: more help
# little (docs/mend.md), and each costs a pass of the network.
_TRAINED, _MEASURED = 400, 200


@dataclass(frozen=True)
class Taken:
    """A photo taken apart: pixels (3, H, W) uint8, what is sure to be the object (H, W), the ground (3, H, W) alone."""

    pixels: np.ndarray
    mask: np.ndarray
    ground: np.ndarray


class GroundChange:
    """What lies behind the object, whose place the installed network finds, or a person drew.

    Args:
        preprocess: the size of the pictures made.
        finder: of objects.
        drawn: photo -> its object, where a person drew it.
    """

    def __init__(
        self, preprocess: Preprocess, finder: Finder, drawn: Mapping[Path, tuple[Drawn, ...]] | None = None
    ) -> None:
        self.preprocess, self.finder, self.drawn = preprocess, finder, drawn or {}
        self._take_apart = lru_cache(_KEPT)(self.take_apart)

    def key(self, photo: Path, donor: Path) -> str:
        """See `Change`."""
        masks = [[one.digest for one in self.drawn.get(path, ())] for path in (photo, donor)]
        return json.dumps(["ground", RECIPE, self.preprocess.model_dump(mode="json"), masks, 1])

    def __call__(self, photo: Path, donor: Path) -> Image.Image:
        """The photo's object before the donor's ground; the photo as it is where either has no object to be found."""
        host, other = self._take_apart(photo), self._take_apart(donor)
        if host is None or other is None:
            return load_image(photo, at_least=self.preprocess.at_least)
        return Image.fromarray(lay(host.pixels, host.mask, other.ground).transpose(1, 2, 0))

    def take_apart(self, path: Path) -> Taken | None:
        """The photo's object and its ground; None where the object covers nothing of it, or most."""
        pixels = self.preprocess.to_pixels(load_image(path, at_least=self.preprocess.at_least))
        if path in self.drawn:
            mask = draw_all(self.drawn[path], pixels.shape[1:])
            # What a person drew is believed, however large it is.
            return Taken(pixels, mask, fill(pixels, widen(mask)))
        mask, hole = draw_mask(pixels, next(self.finder.see(pixels[None])).heat[0])
        if mask.mean() < LEAST_SHARE or hole.mean() > MOST_SHARE:
            return None
        return Taken(pixels, mask, fill(pixels, hole))


@dataclass(frozen=True)
class MarkedChange:
    """The content of a part that a person marked on one of the two photos.

    Attributes:
        drawn: photo -> what is marked on it.
        at_least: (width, height) of a photo that suffice.
    """

    drawn: Mapping[Path, tuple[Drawn, ...]] = field(repr=False)
    at_least: tuple[int, int]

    def key(self, photo: Path, donor: Path) -> str:
        """See `Change`."""
        return json.dumps(["marked", [one.digest for one in self._find(photo, donor)], self.at_least, 1])

    def __call__(self, photo: Path, donor: Path) -> Image.Image:
        """The photo with what the donor shows in the part: of the photo if it is marked, else of the donor."""
        image = load_image(photo, at_least=self.at_least)
        other, _ = load_sized(donor, at_least=self.at_least)
        mask = draw_all(self._find(photo, donor), (image.height, image.width))
        return Image.composite(other.resize(image.size), image, Image.fromarray(mask))

    def _find(self, photo: Path, donor: Path) -> tuple[Drawn, ...]:
        return self.drawn.get(photo) or self.drawn.get(donor, ())


class CauseMaker:
    """Makes the exchanges of a training on these photos.

    Attributes:
        notes: sentences on what could not be exchanged, after `make`.
    """

    def __init__(
        self, options: TrainOptions, photos: PhotoFolder, preprocess: Preprocess, applied: Applied | None = None
    ) -> None:
        self.options, self.photos, self.preprocess, self.applied = options, photos, preprocess, applied
        self.notes: list[str] = []
        self._finder: Finder | None = None

    def make(self) -> tuple[Exchange, ...]:
        """What `--against` names, then each cure of a journal, then what people marked.

        Raises:
            UserError: no such finding, or one whose cause can't be exchanged.
        """
        made = []
        if self.options.against is not None:
            made.append(self.exchange(find_shortcut(self.options.against)))
        if self.applied is not None:
            for edit in self.applied.state.cures:
                made += self._cure(edit)
            made += self._mark(self.applied.find_drawn("not_object"), self.applied.find_drawn("object"))
        return tuple(made)

    def exchange(self, finding: Mapping[str, Any]) -> Exchange:
        """A finding's cause exchanged.

        Raises:
            UserError: a class that the folder has not, or no cause that can be exchanged.
        """
        words = (self.photos, self.preprocess.at_least, self.options.seed)
        return make_exchange(finding, *words, self._make_ground)

    def _make_ground(self) -> Change:
        return GroundChange(self.preprocess, self._open_finder())

    def _open_finder(self) -> Finder:
        if self._finder is None:
            self._finder = open_finder(len(self.photos.samples))
        return self._finder

    def refuse(self, edit: Edit) -> str:
        """Why the cause of a cure's finding can't be exchanged, in a sentence; empty where it can."""
        finding = self._find_photos(edit)
        if finding.get("class") not in self.photos.class_names:
            return f"The cause of {finding['id']!r} can't be exchanged: there is no class {finding.get('class')!r}."
        label = self.photos.class_names.index(finding["class"])
        if make_change(finding, self.photos, label, self.preprocess.at_least, _NoChange) is None:
            return (
                f"The cause of {finding['id']!r} can't be exchanged: it has no place, no property that photos can be "
                "given, and no photo with its sign is where it was."
            )
        return ""

    def _cure(self, edit: Edit) -> list[Exchange]:
        if why := self.refuse(edit):
            self.notes.append(f"The cure {edit.id} was skipped. {why}")
            return []
        photos = self.photos
        some = draw_some(photos.train, _TRAINED) | draw_some(photos.val, _MEASURED)
        return [replace(self.exchange(self._find_photos(edit)), only=some, views=1)]

    def _find_photos(self, edit: Edit) -> dict[str, Any]:
        """A cure's finding with its photos where they are now: no file but the folder's own is read."""
        finding = edit.finding or {}
        hashes = {} if self.applied is None else self.applied.hashes
        places = {content: path for path, content in hashes.items()}
        shown = [
            (one, places.get(one.get("photo", hashes.get(Path(one["path"]), "")))) for one in finding.get("photos", ())
        ]
        return {**finding, "photos": [{**one, "path": str(path)} for one, path in shown if path is not None]}

    def _mark(
        self, unwanted: Mapping[Path, tuple[Drawn, ...]], objects: Mapping[Path, tuple[Drawn, ...]]
    ) -> list[Exchange]:
        """Marked parts taken from their photos, and laid on others; drawn objects before other grounds."""
        train, seed, made = self.photos.train, self.options.seed, []
        labels = {sample.path: sample.label for sample in self.photos.samples}
        if unwanted:
            change, marked = MarkedChange(unwanted, self.preprocess.at_least), frozenset(unwanted)
            made.append(Exchange(train, None, change, seed, "marked parts, taken", marked, labels))
            givers = tuple(sample for sample in train if sample.path in unwanted)
            if hosts := _draw_hosts(givers, train, seed):
                made.append(Exchange(givers, None, change, seed, "marked parts, given", hosts, labels))
        if objects:
            ground = GroundChange(self.preprocess, self._open_finder(), objects)
            made.append(Exchange(train, None, ground, seed, "around the objects", frozenset(objects), labels))
        return made


def _draw_hosts(givers: Sequence[Sample], train: Sequence[Sample], seed: int) -> frozenset[Path]:
    """For each photo that gives, some training photos of other classes that are no givers."""
    marked, hosts = {sample.path for sample in givers}, set()
    for label in sorted({sample.label for sample in givers}):
        others = tuple(s for s in train if s.label != label and s.path not in marked)
        if others:
            draw = Exchange(others, None, _NoChange(), seed)
            own = (sample.path for sample in givers if sample.label == label)
            hosts |= {draw.find_donor(path, view) for path in own for view in range(_HOSTS)}
    return frozenset(hosts)


class _NoChange:
    """Where only the draws count."""

    def key(self, photo: Path, donor: Path) -> str:
        """See `Change`."""
        return ""

    def __call__(self, photo: Path, donor: Path) -> Image.Image:
        """See `Change`."""
        raise NotImplementedError
