"""The model behind the server, asked by many at once; decoding, exact maps and all other methods have threads."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import numpy as np

from whycam.cam.about import CAM, CONTRAST
from whycam.errors import UserError, make_unknown_name
from whycam.explainer.exact import ExactReader
from whycam.explainer.reading import Reading
from whycam.explainer.targets import find_class, resolve_target, to_probabilities
from whycam.model.classifier import Classifier
from whycam.show.app.batching import Batcher
from whycam.show.app.menu import find_methods
from whycam.show.app.uploads import Upload

if TYPE_CHECKING:
    from whycam.explainer.model import Model

T = TypeVar("T")

BEST = 10
# Maps that one request may ask for of a photo.
_MOST_EXACT, _MOST_OTHERS = 200, 10
_WAITING = 32
# A photo at full size takes 4 bytes a pixel while it waits and some 10 while it is drawn on: of photos of more pixels
# than this, a 16-megapixel camera's, there is one at a time. The others do not wait for it.
LARGE_PIXELS = 16_000_000


@dataclass(frozen=True)
class Question:
    """What is asked of a photo.

    Attributes:
        target: predicted, top:N, all, or a class as `find_class` reads it.
        versus: a second class, or empty.
        method: empty takes the first of `ServedModel.methods`.
    """

    target: str = "predicted"
    versus: str = ""
    method: str = ""


class ServedModel:
    """A model that answers questions about photos, from a thread pool for each kind of work.

    Attributes:
        classifier: as opened.
        exact: its exact maps, read in batches; None where it has none.
        methods: those that work for it, the default first.
    """

    def __init__(self, model: Model | Classifier) -> None:
        classifier = model if isinstance(model, Classifier) else model.classifier
        self.classifier = classifier.having(engine="auto").ready()
        self.exact = Batcher(self.classifier.read) if classifier.card.is_exact else None
        self.methods = find_methods(self.classifier)
        cores = os.cpu_count() or 1
        # Few decode or draw at a time: a photo at full size is large. Many wait for the engine: they make its batches.
        self._decoders = ThreadPoolExecutor(max(2, min(4, cores)), "whycam-decode")
        self._readers = ThreadPoolExecutor(_WAITING, "whycam-read")
        self._drawers = ThreadPoolExecutor(2, "whycam-draw")
        self._large, self._ordinary = asyncio.Semaphore(1), asyncio.Semaphore(4)
        # A network changes its state while a method runs: one at a time.
        self._network = ThreadPoolExecutor(1, "whycam-network")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the threads once their work is done."""
        for pool in (self._decoders, self._readers, self._drawers, self._network):
            pool.shutdown(cancel_futures=True)
        if self.exact is not None:
            self.exact.close()

    async def decode(self, work: Callable[[], T]) -> T:
        """The result of work that holds a photo at full size."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, work)

    async def draw(self, work: Callable[[], T]) -> T:
        """The result of work that draws on a photo at full size."""
        return await asyncio.get_running_loop().run_in_executor(self._drawers, work)

    def keep(self, pixels: int) -> asyncio.Semaphore:
        """Held, with `async with`, by who keeps a photo of so many pixels at full size until it is answered."""
        return self._large if pixels > LARGE_PIXELS else self._ordinary

    async def read(
        self, upload: Upload, question: Question, use: Callable[[Reading], T], *, with_best: bool = False
    ) -> T:
        """What `use` makes, in a thread, of the maps of the asked classes.

        Args:
            upload: the photo.
            question: checked by `check`.
            use: of the reading, whose first targets are those that were asked for.
            with_best: the ten best classes too, where their maps cost nothing.

        Raises:
            UserError: the method can't explain it after all, or scores that are no numbers.
        """
        pool = self._readers if self._is_exact(question) and self.exact else self._network
        return await asyncio.get_running_loop().run_in_executor(
            pool, lambda: use(self._read(upload, question, with_best=with_best))
        )

    async def score(self, upload: Upload) -> Reading:
        """The photo's scores; maps of the predicted class where they cost nothing, else none.

        Raises:
            UserError: scores that are no numbers.
        """
        if self.exact is not None:
            return await self.read(upload, self.check(Question()), lambda reading: reading)
        return await asyncio.get_running_loop().run_in_executor(self._network, lambda: self._score(upload))

    def check(self, question: Question) -> Question:
        """The question with its method named.

        Raises:
            UserError: an unknown class or method, or more maps than one request may ask for.
        """
        names, known = self.classifier.card.class_names, [method.name for method in self.methods]
        asked = replace(question, method=question.method or known[0])
        if asked.method not in known:
            raise make_unknown_name("method", asked.method, known)
        # Any logits do: words are checked alike for all photos.
        count = resolve_target(asked.target, np.zeros((1, len(names))), names).shape[1]
        most = _MOST_EXACT if self._is_exact(asked) else _MOST_OTHERS
        if count > most:
            raise UserError(
                f"Target {asked.target!r} asks for {count} maps; expected {most} at the most in one request. "
                f"Ask for top:{most}, or for one class after the other."
            )
        if asked.versus:
            self._check_pair(asked)
        return asked

    def _check_pair(self, question: Question) -> None:
        names, word = self.classifier.card.class_names, question.target
        other = find_class(question.versus, names)
        is_several = word in {"predicted", "all"} or word.startswith("top:")
        if not is_several and find_class(word, names) == other:
            raise UserError(
                f"The class {names[other]!r} is asked for against itself; expected two classes. Give another versus."
            )

    def _is_exact(self, question: Question) -> bool:
        return question.method in {CAM.name, CONTRAST.name}

    def _read(self, upload: Upload, question: Question, *, with_best: bool) -> Reading:
        pixels, versus = upload.pixels[None], question.versus or None
        reading: Reading
        if not self._is_exact(question):
            from whycam.explainer.model import Model  # noqa: PLC0415 - torch, which exact maps do without

            made = Model(self.classifier).explain_pixels(pixels, question.target, question.method, versus=versus)
            reading = cast(Any, made).reading()
        else:
            if self.exact is None:
                raise RuntimeError(
                    f"{question.method!r} was asked for, and {self.classifier.card.name!r} has no exact maps."
                )
            answer = self.exact(pixels)
            reader = ExactReader(self.classifier, question.target, versus)
            # Of the classes that were not asked for, nobody wants to be told that their maps are blank.
            notes = reader.read(answer, [None])[0].notes
            classes = self._choose(question, answer.logits, with_best=with_best)
            reading = replace(replace(reader, target=classes).read(answer, [None])[0], notes=notes)
        _check_finite(reading.logits, upload)
        record = {**reading.record, "target": question.target}
        return replace(reading, photo=upload.photo, size_px=upload.size_px, record=record)

    def _score(self, upload: Upload) -> Reading:
        logits, card = self.classifier.scores(upload.pixels[None]), self.classifier.card
        _check_finite(logits, upload)
        shares, none = to_probabilities(logits, card.output), np.zeros(0, np.int64)
        return Reading(np.zeros((0, 1, 1), np.float32), logits[0], shares[0], none, card.class_names, {})

    def _choose(self, question: Question, logits: np.ndarray, *, with_best: bool) -> list[int]:
        names = self.classifier.card.class_names
        asked = resolve_target(question.target, logits, names)[0].tolist()
        if not with_best:
            return list(asked)
        best = (-logits[0]).argsort(kind="stable")[:BEST].tolist()
        against = find_class(question.versus, names) if question.versus else None
        return list(dict.fromkeys([*asked, *(k for k in best if k != against)]))


def _check_finite(logits: np.ndarray, upload: Upload) -> None:
    if not np.isfinite(logits).all():
        raise UserError(
            f"The scores of {upload.name!r} are not finite; expected numbers. Look for NaN in the model's weights."
        )


class CurrentModel:
    """The model that an app shows, in whose place another may be put while requests are under way.

    Attributes:
        served: what new requests are answered by.
        reopen: opens what stands under the model's name now; None: it stays what it is.
    """

    def __init__(self, served: ServedModel, reopen: Callable[[], Model | Classifier] | None = None) -> None:
        self._first, self.served, self.reopen = served, served, reopen
        self._requests: Counter[ServedModel] = Counter()
        self._counting, self._exchanging = threading.Lock(), threading.Lock()

    @contextmanager
    def use(self) -> Iterator[ServedModel]:
        """The model of now, which stays open until this is left."""
        with self._counting:
            served = self.served
            self._requests[served] += 1
        try:
            yield served
        finally:
            with self._counting:
                self._requests[served] -= 1
                is_over = served is not self.served and not self._requests[served]
            if is_over:
                served.close()

    def close(self) -> None:
        """Closes what took the place of the first one, which is closed by who opened it."""
        if self.served is not self._first:
            self.served.close()

    def exchange(self) -> None:
        """Opens the model anew; requests under way end with the one that they began with.

        Raises:
            UserError: it can't be opened; the earlier one stays.
        """
        if self.reopen is None:
            return
        with self._exchanging:
            new = ServedModel(self.reopen())
            with self._counting:
                old, self.served = self.served, new
                is_over = not self._requests[old]
            if is_over:
                old.close()
