"""Asker: every question that an audit asks of its model, pixels in and numbers out; here, or on other machines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from whycam.explainer.exact import choose_stand_in
from whycam.explainer.targets import to_sides
from whycam.model.classifier import Classifier


@dataclass(frozen=True)
class Seen:
    """What a model says of photos.

    Attributes:
        logits: (B, K).
        evidence: (B, h, w); see `AuditData`.
        pooled: (B, C) features; None where they are not to be had.
    """

    logits: np.ndarray
    evidence: np.ndarray
    pooled: np.ndarray | None


class Asker:
    """Asks a classifier of this process."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier

    def see_each(self, batches: Iterable[np.ndarray]) -> Iterator[Seen]:
        """`see` of pixels (B, 3, H, W) uint8, batch by batch, in order."""
        return map(self.see, batches)

    def see(self, pixels: np.ndarray) -> Seen:
        """Logits, evidence and pooled features of a batch."""
        if not self.classifier.card.is_exact:
            return Seen(*self._explain(pixels), None)
        answer = self.classifier.read(pixels)
        maps, logits = answer.maps, answer.logits
        own = maps[np.arange(len(maps)), logits.argmax(1) if maps.shape[1] > 1 else 0]
        return Seen(logits, own - maps.mean(1) if maps.shape[1] > 1 else own, answer.pooled)

    def score(self, pixels: np.ndarray) -> np.ndarray:
        """(B, K) logits of any number of photos; the two sides of a single logit."""
        return to_sides(self.classifier.scores(pixels))

    def contrast(self, pixels: np.ndarray, target: int, versus: int) -> np.ndarray:
        """(B, h, w) maps: what speaks for one class and against another."""
        if not self.classifier.card.is_exact:
            return self._explain(pixels, target, versus)[1]
        maps = self.classifier.read(pixels).maps
        if maps.shape[1] == 1:
            return maps[:, 0] if target else -maps[:, 0]
        difference: np.ndarray = maps[:, target] - maps[:, versus]
        return difference

    def map_classes(self, pixels: np.ndarray, targets: Sequence[int]) -> np.ndarray:
        """(B, T, h, w) maps of T classes; exact ones are of one pass."""
        if not self.classifier.card.is_exact:
            return np.stack([self._explain(pixels, target)[1] for target in targets], axis=1)
        maps: np.ndarray = self.classifier.read(pixels).maps[:, list(targets)]
        return maps

    def _explain(
        self, pixels: np.ndarray, target: int | None = None, versus: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Logits (B, K) and maps (B, h, w) by the method that stands in for exact ones."""
        from whycam.explainer.model import Model  # noqa: PLC0415 - torch, which exact maps do without

        method = choose_stand_in(self.classifier.card)
        why: Any = Model(self.classifier).explain_pixels(pixels, target, method, versus=versus)
        return why.logits.cpu().numpy(), why.maps.detach().cpu().numpy()


# A classifier -> a block in which it is asked.
AskBy = Callable[[Classifier], AbstractContextManager[Asker]]


@contextmanager
def ask_here(classifier: Classifier) -> Iterator[Asker]:
    """By this process."""
    yield Asker(classifier)
