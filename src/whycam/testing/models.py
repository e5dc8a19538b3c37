"""A model under test: opened once a session, and each photo asked once, however many guards want its answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whycam.data.loader import Photo, in_batches, stream_photos
from whycam.data.samples import make_probe
from whycam.errors import make_unreadable_error
from whycam.explainer.exact import ExactReader, choose_stand_in
from whycam.intake.door import open_classifier
from whycam.model.card import Card
from whycam.model.classifier import Classifier
from whycam.testing.photos import Asked
from whycam.testing.session import find_session

if TYPE_CHECKING:
    from whycam.explainer.model import Model

CAM = "cam"
_BATCH = 16
Progress = Callable[[int], None]
# Photo -> class; None: its own.
Targets = Mapping[Path, int] | None


@dataclass
class Answer:
    """What a model says of a photo.

    Attributes:
        logits: (K,).
        size_px: (width, height) of the photo.
        maps: (method, class) -> (h, w) raw map.
        identity_error: |mean(map) + bias - logit| at the most, as a share of the logits' range; None without exact
            maps.
    """

    logits: np.ndarray
    size_px: tuple[int, int] = (0, 0)
    maps: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    identity_error: float | None = None

    @property
    def predicted(self) -> int:
        """The top class."""
        return int(self.logits.argmax())

    def find_label(self, labels: Sequence[int]) -> int | None:
        """The photo's class; of several that are right, the one that the model sees most of."""
        return max(labels, key=lambda k: float(self.logits[k])) if labels else None


class Tested:
    """A classifier, and what it has answered."""

    def __init__(self, classifier: Classifier, held: object = None) -> None:
        self.classifier = classifier
        # What the session knows it by must not be another object's place in memory.
        self.held = held
        self.unreadable: dict[Any, str] = {}
        self.kept: dict[Any, Any] = {}
        self._answers: dict[Any, Answer] = {}

    @property
    def card(self) -> Card:
        """What is known of it."""
        return self.classifier.card

    @property
    def model(self) -> Model:
        """It with all that explains photos."""
        from whycam.explainer.model import Model  # noqa: PLC0415 - torch, which exact maps do without

        return Model(self.classifier)

    def choose_method(self, method: str | None = None) -> str:
        """The method whose maps are read: the given one, else exact maps, else what stands in for them."""
        if method is not None:
            self.model.check_methods([method])
            return method
        return CAM if self.card.is_exact else choose_stand_in(self.card)

    def ask(
        self,
        photos: Sequence[Asked],
        method: str | None = None,
        targets: Targets = None,
        progress: Progress | None = None,
    ) -> dict[Path, Answer]:
        """The answers of all photos that can be read.

        Args:
            photos: what is asked about.
            method: whose map is needed of each photo; None needs no map.
            targets: photo -> the class whose map it is; without, the photo's own, where that is known, else the
                predicted one.
            progress: is told how many photos are done.

        Raises:
            UserError: not one photo can be read.
        """
        keys = {one.path: find_file_key(one.path) for one in photos}
        left = [one for one in photos if not self._is_answered(keys[one.path], one, method, targets)]
        stream = stream_photos((one.path for one in left), self.card.preprocess)
        for batch in in_batches(zip(left, stream, strict=True), _BATCH):
            good = [(one, photo) for one, photo in batch if photo.pixels is not None]
            self.unreadable |= {keys[photo.path]: photo.error for _, photo in batch if photo.pixels is None}
            if good:
                self._ask_batch(good, keys, method, targets)
            if progress:
                progress(len(batch))
        found = {path: self._answers[key] for path, key in keys.items() if key in self._answers}
        if not found:
            raise make_unreadable_error(len(photos), photos[0].path)
        return found

    def _is_answered(self, key: Any, one: Asked, method: str | None, targets: Targets) -> bool:
        answer = self._answers.get(key)
        if key in self.unreadable or answer is None:
            return key in self.unreadable
        return method is None or (method, choose_target(one, answer, targets)) in answer.maps

    def _ask_batch(
        self, good: Sequence[tuple[Asked, Photo]], keys: Mapping[Path, Any], method: str | None, targets: Targets
    ) -> None:
        pixels = np.stack([photo.pixels for _, photo in good if photo.pixels is not None])
        if any(keys[photo.path] not in self._answers for _, photo in good):
            answers = self._read(pixels, [one for one, _ in good])
            for (_, photo), answer in zip(good, answers, strict=True):
                answer.size_px = photo.size_px or (0, 0)
                self._answers.setdefault(keys[photo.path], answer)
        if method is None:
            return
        known = [self._answers[keys[photo.path]] for _, photo in good]
        classes = [choose_target(one, answer, targets) for (one, _), answer in zip(good, known, strict=True)]
        rows = [i for i, k in enumerate(classes) if (method, k) not in known[i].maps]
        if rows:
            why: Any = self.model.explain_pixels(pixels[rows], np.array([classes[i] for i in rows]), method)
            for i, values in zip(rows, why.maps.detach().cpu().numpy(), strict=True):
                known[i].maps[method, classes[i]] = values

    def _read(self, pixels: np.ndarray, photos: Sequence[Asked]) -> list[Answer]:
        """Logits; where maps are exact, with those of the photos' classes and of the predicted ones."""
        if not self.card.is_exact:
            return [Answer(logits) for logits in self.classifier.scores(pixels)]
        answer = self.classifier.read(pixels)
        errors = measure_identity(answer.logits, answer.maps, self._bias)
        found = [
            Answer(logits, identity_error=float(error)) for logits, error in zip(answer.logits, errors, strict=True)
        ]
        classes = [choose_target(one, new) for one, new in zip(photos, found, strict=True)]
        for target in (None, np.array(classes)):
            readings = ExactReader(self.classifier, target).read(answer, [None] * len(pixels))
            for new, reading in zip(found, readings, strict=True):
                new.maps[CAM, int(reading.targets[0])] = reading.maps[0]
        return found

    def measure_probe(self) -> np.ndarray:
        """(2,): the identity's error on an installed photo and on noise."""
        answer = self.classifier.read(make_probe(self.card.preprocess))
        return measure_identity(answer.logits, answer.maps, self._bias)

    @cached_property
    def _bias(self) -> np.ndarray:
        return np.array(self.classifier.bias)


def measure_identity(logits: np.ndarray, maps: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """(N,): |mean(map) + bias - logit| at the most, as a share of the logits' range.

    Args:
        logits: (N, K).
        maps: (N, K, h, w).
        bias: (K,).
    """
    gaps = np.abs(maps.mean((2, 3), dtype=np.float64) + bias - logits).max(1)
    spread = np.ptp(logits, axis=1)
    errors: np.ndarray = gaps / np.where(spread > 0, spread, np.abs(logits).max(1).clip(np.finfo(np.float32).tiny))
    return errors


def choose_target(one: Asked, answer: Answer, targets: Targets = None) -> int:
    """The class whose map is read: the given one, else the photo's own, else the predicted one."""
    if targets is not None:
        return targets[one.path]
    label = answer.find_label(one.labels)
    return answer.predicted if label is None else label


def find_tested(model: object, photos: int = 1) -> Tested:
    """The model, as this session knows it; opened where it does not.

    Args:
        model: what `whycam.load` gives, or takes.
        photos: how many are expected.

    Raises:
        UserError: no such model; see `whycam.load`.
    """
    if isinstance(model, Tested):
        return model
    inner = getattr(model, "classifier", None)
    thing = inner if isinstance(inner, Classifier) else model

    def open_it() -> Tested:
        return Tested(thing if isinstance(thing, Classifier) else open_classifier(thing, photos=photos), thing)

    found: Tested = find_session().remember(_find_key(thing), open_it)
    return found


def _find_key(thing: object) -> tuple[object, ...]:
    """Other weights, in memory or in the file, are another model."""
    if isinstance(thing, Classifier):
        return "classifier", id(thing), thing.hash_state()
    if isinstance(thing, str | Path):
        # CODE.py:attribute is a file, too.
        place = next(
            (path for path in (Path(thing), Path(str(thing).rpartition(":")[0])) if path.is_file()), Path(thing)
        )
        files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
        return "name", str(thing), str(place.absolute()), tuple(map(find_file_key, files))
    if hasattr(thing, "state_dict"):
        from whycam.model.backbone import hash_tensors  # noqa: PLC0415 - torch, which a module has imported

        return "module", id(thing), hash_tensors(thing.state_dict())
    return "thing", id(thing)


def find_file_key(path: Path) -> tuple[str, int, int]:
    """Changes where another file takes its place."""
    try:
        about = path.stat()
    except OSError:  # it is told of as unreadable
        return str(path), 0, 0
    return str(path), about.st_mtime_ns, about.st_size
