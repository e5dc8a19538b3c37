"""`whycam audit --on ray`: the audit runs here, and what it asks of the model is answered by workers that hold it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from whycam.audit import Audit
from whycam.audit.asker import Asker, Seen
from whycam.config import AuditOptions
from whycam.jobs.audit import audit_folder
from whycam.model.classifier import CHUNK, Classifier
from whycam.model.sent import SentClassifier
from whycam.ray.cluster import Pool, import_ray
from whycam.ray.opening import Opening, describe_files, name_everywhere, put
from whycam.ray.workers import Workers, hire


def audit_on_ray(model: str, folder: Path, out: Path, options: AuditOptions) -> Audit:
    """As `audit_folder`, the model asked on a cluster: the same findings.

    Raises:
        UserError: as there; and a cluster that does not answer or has no room, workers that do not find the model, are
            of another version, or die again and again.
    """
    import_ray()
    return audit_folder(model, folder, out, options, partial(_ask_on, model, options))


@contextmanager
def _ask_on(name: str, options: AuditOptions, classifier: Classifier) -> Iterator[Asker]:
    def describe(ray: ModuleType, pool: Pool) -> MakeAsker:
        sent = None if pool.gpus else SentClassifier.of(classifier)
        words = options.describe_model() | describe_files(options)
        opening = Opening(name_everywhere(name), words, classifier.card.name, "torch", put(ray, sent) if sent else None)
        return MakeAsker(opening)

    with hire(options, describe, options.limit) as workers:
        yield AskerOfMany(classifier, workers)


class AskerOfMany(Asker):
    """Asks workers: the same batches that one machine would make of the same pixels."""

    def __init__(self, classifier: Classifier, workers: Workers) -> None:
        super().__init__(classifier)
        self._workers = workers

    def see_each(self, batches: Iterable[np.ndarray]) -> Iterator[Seen]:
        """See Asker."""
        return self._workers.map(("see", batch) for batch in batches)

    def see(self, pixels: np.ndarray) -> Seen:
        """See Asker."""
        return next(self.see_each([pixels]))

    def score(self, pixels: np.ndarray) -> np.ndarray:
        """See Asker."""
        parts = (pixels[start : start + CHUNK] for start in range(0, len(pixels), CHUNK))
        return np.concatenate(list(self._workers.map(("score", part) for part in parts)))

    def contrast(self, pixels: np.ndarray, target: int, versus: int) -> np.ndarray:
        """See Asker."""
        return np.asarray(self._workers("contrast", pixels, target, versus))

    def map_classes(self, pixels: np.ndarray, targets: Sequence[int]) -> np.ndarray:
        """See Asker."""
        return np.asarray(self._workers("map_classes", pixels, targets))


@dataclass(frozen=True)
class MakeAsker:
    """Makes on a worker what answers there."""

    opening: Opening

    def __call__(self) -> Callable[..., Any]:
        """A function of a question's name and its words."""
        asker = Asker(self.opening().having(pools=True))
        return lambda question, *words: getattr(asker, question)(*words)
