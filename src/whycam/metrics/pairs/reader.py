"""Photos read once and shown to two models: what each answers, and of photos that flip, where the change lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from whycam.data.budget import BUDGET
from whycam.data.images import ImageError, open_picture
from whycam.data.loader import in_batches, map_ahead
from whycam.explainer.exact import describe_maps
from whycam.explainer.reading import Reading
from whycam.maps.cells import subtract_maps
from whycam.metrics.pairs.finding_evidence import PlacedFinding
from whycam.metrics.pairs.shared_model import Answers, SharedModel

LOST, GAINED, MOVED, UNKNOWN = "right-to-wrong", "wrong-to-right", "wrong-to-wrong", "unlabelled"
KINDS = (LOST, GAINED, MOVED, UNKNOWN)
# Of so many shared classes at the most, every one's maps are kept of a flip; of more, those of its own two or three.
ALL_CLASSES = 20
# A photo that is kept until it is known whether it flips.
_KEPT_PX = 500_000
_KEPT_SIDE_PX = 720
Picture = Callable[[Image.Image], str]


@dataclass(frozen=True)
class Look:
    """What can be seen of a flip.

    Attributes:
        a, b: each model's own maps of the shared classes, those of its answer among them.
        change: B's maps less A's, of the same classes, on the finer of both grids; its logits are the differences of
            the logits. None where not both models have exact maps.
        picture: what the caller makes of the photo.
    """

    a: Reading
    b: Reading
    change: Reading | None
    picture: str = ""


@dataclass(frozen=True)
class Flip:
    """A photo that B names otherwise than A.

    The lead is the logit of B's class less that of A's: A has it at 0 or less, B at 0 or more. Between models a logit
    alone says nothing, as any number may be added to all of them; their differences are what decides.

    Attributes:
        path: the photo.
        kind: one of `KINDS`.
        truth: its class, where it is known.
        a, b: the classes that A and B name.
        p_a, p_b: the probability that each gives to its own answer.
        lead_a, lead_b: of B's class over A's, by A and by B, in logits.
        gain: of the map of lead_b - lead_a, the mean over the photo of its positive part: what moved the answer.
        loss: the same of its negative part; gain + loss + the change of the biases = lead_b - lead_a.
        peak: (x, y) of the cell with the strongest positive change, in fractions of the photo.
        look: the maps; None where more flips were found than are kept.
    """

    path: Path
    kind: str
    truth: str | None
    a: str
    b: str
    p_a: float
    p_b: float
    lead_a: float
    lead_b: float
    gain: float | None = None
    loss: float | None = None
    peak: tuple[float, float] | None = None
    look: Look | None = None

    @property
    def change(self) -> float:
        """How much the lead grew: 0 or more."""
        return self.lead_b - self.lead_a

    @property
    def change_map(self) -> np.ndarray | None:
        """(h, w): where it grew and fell; its mean and the change of the biases add up to `change`."""
        if self.look is None or self.look.change is None:
            return None
        reading = self.look.change
        place = {reading.name(int(k)): i for i, k in enumerate(reading.targets)}
        difference: np.ndarray = reading.maps[place[self.b]] - reading.maps[place[self.a]]
        return difference


@dataclass(frozen=True)
class Item:
    """A photo to read; `label` is the index of its shared class, -1 where it is not known."""

    path: Path
    label: int


@dataclass(frozen=True)
class Seen:
    """One photo, as both models see it; or why it can't be read.

    Attributes:
        named: (2 + R,) the classes that A, B and the other runs name.
        is_own: of A and of B, whether they would name that class among all of theirs.
        miss: the largest |mean(change) + bias - change of the logit|, and the range of the logits.
        evidence: finding -> what A and B draw from its place; see `PlacedFinding`.
    """

    item: Item
    error: str = ""
    named: tuple[int, ...] = ()
    is_own: tuple[bool, bool] = (True, True)
    flip: Flip | None = None
    miss: tuple[float, float] = (0.0, 0.0)
    evidence: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Decoded:
    """A photo as each model takes it, the same pixels where both take the same."""

    pixels: dict[str, np.ndarray]
    image: Image.Image | None
    size_px: tuple[int, int]


@dataclass(frozen=True)
class PairReader:
    """Reads photos for A, B and other runs; called from several threads.

    Attributes:
        a, b: the two models.
        runs: whose answers alone are wanted.
        findings: places to measure.
        picture: what is kept of the photo of a flip; None keeps nothing.
    """

    a: SharedModel
    b: SharedModel
    runs: tuple[SharedModel, ...] = ()
    findings: tuple[PlacedFinding, ...] = ()
    picture: Picture | None = None

    @property
    def is_exact(self) -> bool:
        """Whether a change has a map."""
        return self.a.is_exact and self.b.is_exact

    def read(self, items: Sequence[Item], batch_size: int) -> Iterator[Seen]:
        """The photos in order, read ahead by threads."""
        for batch in map_ahead(self._read_batch, in_batches(items, batch_size), ahead=4):
            yield from batch

    def _read_batch(self, items: Sequence[Item]) -> list[Seen]:
        decoded = [self._decode(item.path) for item in items]
        good = [(item, photo) for item, photo in zip(items, decoded, strict=True) if isinstance(photo, _Decoded)]
        seen = iter(self._ask(good) if good else ())
        return [
            next(seen) if isinstance(photo, _Decoded) else Seen(item, str(photo))
            for item, photo in zip(items, decoded, strict=True)
        ]

    def _decode(self, path: Path) -> _Decoded | ImageError:
        ways = [one.classifier.card.preprocess for one in (self.a, self.b, *self.runs)]
        least = max(way.at_least[0] for way in ways), max(way.at_least[1] for way in ways)
        try:
            with open_picture(path, at_least=least) as picture, BUDGET.hold(picture.pixels):
                image = picture.decode()
                pixels = {key: way.to_pixels(image) for key, way in {_name_pixels(way): way for way in ways}.items()}
                if self.picture and image.width * image.height > _KEPT_PX:
                    image.thumbnail((_KEPT_SIDE_PX, _KEPT_SIDE_PX))
                return _Decoded(pixels, image if self.picture else None, picture.size)
        except ImageError as error:
            return error

    def _ask(self, photos: Sequence[tuple[Item, _Decoded]]) -> list[Seen]:
        def stack(model: SharedModel) -> np.ndarray:
            key = _name_pixels(model.classifier.card.preprocess)
            return np.stack([photo.pixels[key] for _, photo in photos])

        answers = [model.read(stack(model)) for model in (self.a, self.b)]
        others = [model.score(stack(model)) for model in self.runs]
        return [self._compare(item, photo, answers, others, i) for i, (item, photo) in enumerate(photos)]

    def _compare(
        self, item: Item, photo: _Decoded, answers: Sequence[Answers], others: Sequence[Answers], i: int
    ) -> Seen:
        every = [*answers, *others]
        if bad := [m.name for m, one in zip(self._models, every, strict=True) if not np.isfinite(one.logits[i]).all()]:
            return Seen(item, f"'{item.path}' was read, but the scores that {bad[0]} gives it are not finite.")
        named = tuple(int(one.logits[i].argmax()) for one in every)
        pair = _Pair(self, item, photo, *(_pick(one, i) for one in answers))
        return Seen(
            item,
            named=named,
            is_own=(bool(answers[0].is_own[i]), bool(answers[1].is_own[i])),
            flip=pair.make_flip(named[0], named[1]) if named[0] != named[1] else None,
            miss=pair.measure_miss() if self.is_exact else (0.0, 0.0),
            evidence=pair.measure_findings(named[:2]) if self.is_exact else {},
        )

    @property
    def _models(self) -> tuple[SharedModel, ...]:
        return (self.a, self.b, *self.runs)


def _name_pixels(preprocess: Any) -> str:
    """What makes pixels differ: of two ways that differ in the normalisation alone they are the same."""
    return f"{preprocess.height_px} {preprocess.width_px} {preprocess.interpolation} {preprocess.resize}"


def _pick(answers: Answers, i: int) -> tuple[np.ndarray, np.ndarray | None]:
    return answers.logits[i], None if answers.maps is None else answers.maps[i]


class _Pair:
    """One photo with both models' logits (S,) and, where they are exact, maps (S, h, w)."""

    def __init__(
        self,
        reader: PairReader,
        item: Item,
        photo: _Decoded,
        a: tuple[np.ndarray, np.ndarray | None],
        b: tuple[np.ndarray, np.ndarray | None],
    ) -> None:
        self.reader, self.item, self.photo = reader, item, photo
        self.logits, self.maps = (a[0], b[0]), (a[1], b[1])

    @property
    def models(self) -> tuple[SharedModel, SharedModel]:
        return self.reader.a, self.reader.b

    def make_flip(self, a: int, b: int) -> Flip:
        names, label = self.models[0].class_names, self.item.label
        kind = UNKNOWN if label < 0 else LOST if a == label else GAINED if b == label else MOVED
        shares = [model.to_probabilities(z[None])[0] for model, z in zip(self.models, self.logits, strict=True)]
        lead_a, lead_b = (float(z[b] - z[a]) for z in self.logits)
        flip = Flip(
            path=self.item.path,
            kind=kind,
            truth=names[label] if label >= 0 else None,
            a=names[a],
            b=names[b],
            p_a=float(shares[0][a]),
            p_b=float(shares[1][b]),
            lead_a=lead_a,
            lead_b=lead_b,
            look=self._look(list(dict.fromkeys([b, a, *([label] if label >= 0 else [])])), shares),
        )
        if (values := flip.change_map) is None:
            return flip
        y, x = np.unravel_index(int(values.argmax()), values.shape)
        place = (float(x + 0.5) / values.shape[1], float(y + 0.5) / values.shape[0])
        return replace(flip, gain=float(values.clip(0).mean()), loss=float(values.clip(None, 0).mean()), peak=place)

    def _look(self, wanted: list[int], shares: list[np.ndarray]) -> Look:
        kept = list(range(len(shares[0]))) if len(shares[0]) <= ALL_CLASSES else wanted
        readings = []
        for model, logits, maps, share in zip(self.models, self.logits, self.maps, shares, strict=True):
            own, targets = (maps[kept], kept) if maps is not None else self._stand_in(model, wanted)
            record = describe_maps(model.classifier.card) | {"method": model.stand_in, "draws_both_signs": False}
            readings.append(self._make_reading(own, logits, share, targets, record))
        change = None
        if self.maps[0] is not None and self.maps[1] is not None:
            record = {**readings[1].record, "draws_both_signs": True, "subtracted": self.reader.a.name}
            values = subtract_maps(self.maps[1][kept], self.maps[0][kept])
            change = self._make_reading(values, self.logits[1] - self.logits[0], shares[1] - shares[0], kept, record)
        picture = self.reader.picture
        kept_photo = picture(self.photo.image) if picture and self.photo.image else ""
        return Look(readings[0], readings[1], change, kept_photo)

    def _stand_in(self, model: SharedModel, wanted: list[int]) -> tuple[np.ndarray, list[int]]:
        return model.explain(self.photo.pixels[_name_pixels(model.classifier.card.preprocess)], wanted)

    def _make_reading(
        self, maps: np.ndarray, logits: np.ndarray, shares: np.ndarray, targets: list[int], record: dict[str, Any]
    ) -> Reading:
        names = self.models[0].class_names
        return Reading(maps, logits, shares, np.array(targets), names, record, size_px=self.photo.size_px)

    def measure_miss(self) -> tuple[float, float]:
        """See `Seen`."""
        (a, b), (bias_a, bias_b) = self.maps, (model.bias for model in self.models)
        if a is None or b is None or bias_a is None or bias_b is None:
            return 0.0, 0.0
        told = subtract_maps(b, a).mean((1, 2), dtype=np.float64) + bias_b - bias_a
        miss = float(np.abs(told - (self.logits[1] - self.logits[0])).max())
        return miss, max(float(np.ptp(logits)) for logits in self.logits)

    def measure_findings(self, named: Sequence[int]) -> dict[str, tuple[float, float]]:
        """See `Seen`."""
        a, b = self.maps
        if a is None or b is None:
            return {}
        classes = {self.item.label} if self.item.label >= 0 else set(named)
        placed = [one for one in self.reader.findings if one.is_about(self.item.path, classes)]
        return {one.key: (one.measure(self.item.path, a), one.measure(self.item.path, b)) for one in placed}
