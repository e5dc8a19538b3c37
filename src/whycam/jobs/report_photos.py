"""Which photos a report is about, what is known of each, and the maps of those that can be read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from whycam.config import ReportOptions
from whycam.data.annotations import read_photos
from whycam.data.budget import BUDGET
from whycam.data.images import ImageError, open_picture
from whycam.data.loader import Photo, in_batches, map_ahead
from whycam.data.preprocess import Preprocess
from whycam.data.several import split_words
from whycam.data.shards import is_there
from whycam.errors import UserError
from whycam.explainer.exact import ExactReader, choose_stand_in
from whycam.explainer.reading import Reading
from whycam.explainer.targets import seek_class
from whycam.intake.door import open_classifier
from whycam.jobs.trained_run import Run, find_photo, list_trained
from whycam.runs import find_data, to_text
from whycam.show.entries import encode_photo, shrink_photo

# Of so many classes at the most, every one's map is kept; of more, those of the best five and the true one.
ALL_CLASSES = 20
BEST = 5


@dataclass(frozen=True)
class ReportPhoto:
    """One photo to read.

    Attributes:
        name: what the page calls it.
        words: its class by name or index; none where it is not known.
        is_evidence: shown with a finding only, and in no figure.
        is_whole: its words are all of its classes, none to several.
    """

    path: Path
    name: str
    words: tuple[str | int, ...] = ()
    is_evidence: bool = False
    is_whole: bool = False


@dataclass(frozen=True)
class ReportPhotos:
    """The photos of a report, in words which they are, and those that the run was trained on."""

    items: tuple[ReportPhoto, ...]
    told: str
    train: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Read:
    """One photo that was read, as small as the page needs it; or why it was not.

    `truth` is its class; of a photo all of whose classes are known `truths` are these.
    """

    item: ReportPhoto
    truth: int | None = None
    reading: Reading | None = None
    image: str = ""
    truths: tuple[int, ...] | None = None
    error: str = ""


def find_photos_to_report(model: str, run: Run | None, folder: Path | None) -> ReportPhotos:
    """The photos: the run's held-out ones, there or where FOLDER says they are now; else all that FOLDER has.

    Raises:
        UserError: no photos, or the run's are no longer there.
    """
    if run is not None:
        root = folder or find_data(run.place, run.summary["data"])
        items = tuple(
            ReportPhoto(
                find_photo(root.absolute(), path),
                path,
                tuple(split_words(truth or "")) if run.is_multi_label else (truth,),
                is_whole=run.is_multi_label,
            )
            for path, truth in run.photos
        )
        found = sum(is_there(item.path) for item in items)
        if found:
            train = tuple(one.photo for one in list_trained(run, root))
            return ReportPhotos(items, f"the {len(items):,} photos that training held out", train)
        if folder is None:
            raise UserError(
                f"Found none of the {len(items)} held-out photos of the run '{run.folder.absolute()}' in '{root}' (the "
                f"first: '{run.photos[0][0]}'); expected them where they were at training. Say where they are now: "
                f"whycam report {run.folder} FOLDER."
            )
    if folder is None:
        raise UserError(
            f"Found no photos to report on: '{model}' is no training run, which knows its held-out photos. "
            f"Name a folder of them: whycam report {model} FOLDER."
        )
    if not folder.is_dir():
        raise UserError(
            f"Found no folder '{folder.absolute()}'; expected one of photos, plain or in class folders. Check the path."
        )
    root = folder.absolute()
    photos = read_photos(folder)
    listed = (ReportPhoto(one.photo, to_text(one.photo.relative_to(root)), one.classes or ()) for one in photos)
    return ReportPhotos(tuple(listed), f"{len(photos):,} photos in {folder.name}")


def add_evidence(reported: ReportPhotos, paths: Sequence[str]) -> tuple[ReportPhotos, dict[str, str]]:
    """With the photos of the findings that it lacks; and path as the finding says it -> the photo's name."""
    known = {str(item.path): item.name for item in reported.items} | {item.name: item.name for item in reported.items}
    names, more = {}, []
    for path in dict.fromkeys(paths):
        if path in known:
            names[path] = known[path]
        elif is_there(Path(path)):
            names[path] = to_text(path)
            more.append(ReportPhoto(Path(path), names[path], is_evidence=True))
    return replace(reported, items=(*reported.items, *more)), names


class MapReader:
    """Pixels to readings with the maps that the page stores; called from several threads."""

    def __init__(self, model: str, options: ReportOptions, photos: int) -> None:
        """Opens the model; one without exact maps is read by another method."""
        self._classifier = open_classifier(
            model, **options.describe_model(), engine=options.engine, photos=photos, threads=1
        )
        card = self._classifier.card
        self.class_names, self.preprocess, self.is_exact = card.class_names, card.preprocess, card.is_exact
        self.is_multi_label, self._stand_in = card.is_multi_label, choose_stand_in(card)
        self.thresholds = card.thresholds
        # A network changes its state while a method runs.
        self._lock = threading.Lock()

    def __call__(self, pixels: np.ndarray, truths: Sequence[int | None]) -> list[Reading]:
        """A reading of each photo, with the map of its true class where that is known."""
        if self.is_exact:
            return ExactReader(self._classifier, "all")(pixels, [None] * len(pixels))
        readings = self._explain(pixels, "all" if len(self.class_names) <= ALL_CLASSES else f"top:{BEST}")
        for i, truth in enumerate(truths):
            if truth is not None and truth not in readings[i].targets:
                readings[i] = _join(readings[i], self._explain(pixels[i : i + 1], truth)[0])
        return readings

    def _explain(self, pixels: np.ndarray, target: str | int) -> list[Reading]:
        from whycam.explainer.model import Model  # noqa: PLC0415 - torch, which exact maps do without

        with self._lock:
            why: Any = Model(self._classifier).explain_pixels(pixels, target, self._stand_in)
        return [why.reading(i) for i in range(len(pixels))]


def _join(reading: Reading, other: Reading) -> Reading:
    """The maps of both."""
    maps, targets = np.concatenate([reading.maps, other.maps]), np.concatenate([reading.targets, other.targets])
    return replace(reading, maps=maps, targets=targets, notes=tuple(dict.fromkeys([*reading.notes, *other.notes])))


def read_items(items: Sequence[ReportPhoto], reader: MapReader, batch_size: int) -> Iterator[Read]:
    """The photos in order, read ahead by threads; no photo is held at full size."""
    find_truth = make_truth_finder(reader.class_names)

    def read_batch(batch: Sequence[ReportPhoto]) -> list[Read]:
        photos = [_load(item.path, reader.preprocess) for item in batch]
        truths = [None if item.is_whole else find_truth(item.words) for item in batch]
        good = [i for i, photo in enumerate(photos) if photo.pixels is not None]
        found: dict[int, Reading] = {}
        if good:
            pixels = np.stack([photo.pixels for photo in photos if photo.pixels is not None])
            found = dict(zip(good, reader(pixels, [truths[i] for i in good]), strict=True))
        reads = [_to_read(item, truths[i], found.get(i), photos[i]) for i, item in enumerate(batch)]
        return [
            replace(read, truths=find_truths(read.item.words, reader.class_names)) if read.item.is_whole else read
            for read in reads
        ]

    for reads in map_ahead(read_batch, in_batches(items, batch_size), ahead=4):
        yield from reads


def _load(path: Path, preprocess: Preprocess) -> Photo:
    """The photo no larger than the network and the page need it, or why it can't be read."""
    least = preprocess.at_least
    try:
        with open_picture(path, at_least=least) as picture, BUDGET.hold(picture.pixels):
            image = picture.decode()
            return Photo(path, preprocess.to_pixels(image), shrink_photo(image), size_px=picture.size)
    except ImageError as error:
        return Photo(path, error=str(error))


def _to_read(item: ReportPhoto, truth: int | None, reading: Reading | None, photo: Photo) -> Read:
    if reading is None or photo.image is None:
        return Read(item, error=photo.error)
    if not np.isfinite(reading.logits).all():
        return Read(item, error=f"'{item.path}' was read, but the model's scores of it are not finite.")
    return Read(item, truth, replace(reading, size_px=photo.size_px), encode_photo(photo.image))


def find_truths(words: Sequence[str | int], class_names: Sequence[str]) -> tuple[int, ...]:
    """The classes that words name, of those that the model has."""
    found = (seek_class(word, class_names) for word in words)
    return tuple(k for k in found if k is not None)


def make_truth_finder(class_names: Sequence[str]) -> Callable[[Sequence[str | int]], int | None]:
    """Words -> the class that they name; None where they name none of the model's."""
    known: dict[str | int, int | None] = {}

    def find(words: Sequence[str | int]) -> int | None:
        for word in words:
            if word not in known:
                known[word] = seek_class(word, class_names)
            if known[word] is not None:
                return known[word]
        return None

    return find
