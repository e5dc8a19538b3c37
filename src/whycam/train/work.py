"""One training in progress: what its steps hand on, and photos that turn out to be unreadable."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whycam.config import TrainOptions
from whycam.data.check import drop_unreadable
from whycam.data.exchange import Exchange
from whycam.data.folder import PhotoFolder, Sample
from whycam.data.loader import stream_photos
from whycam.data.views import Swaps
from whycam.model.gap import GapClassifier
from whycam.train.features import FeatureStore
from whycam.train.focus import Focus
from whycam.train.loop import Epoch

log = logging.getLogger("whycam.train")


@dataclass
class Work:
    """What the steps of one training hand on.

    Attributes:
        photos: the folder, without what can't be read.
        hashes: path -> content hash.
        unreadable: path -> reason.
        model: the classifier in the making, on `device`.
        run: the folder to write into.
        show_progress: (words, total) -> a bar, whose block gets a function that is told how many more are done.
        times_s: step -> seconds.
        epochs: the lines of all phases so far.
        store: features of all photos, where the finished model's backbone is still the one that made them.
        focus: where evidence is unwanted, if anywhere.
        exchange: views of photos with the cause of a finding exchanged, where the training is against one.
        groups: photo -> group, where that is known.
        retrained: how the last layer was fitted once more, if it was.
    """

    options: TrainOptions
    photos: PhotoFolder
    hashes: Mapping[Path, str]
    unreadable: dict[Path, str]
    model: GapClassifier
    device: torch.device
    run: Path
    show_progress: Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
    times_s: dict[str, float] = field(default_factory=dict)
    epochs: list[Epoch] = field(default_factory=list)
    store: FeatureStore | None = None
    focus: Focus | None = None
    exchange: Exchange | None = None
    groups: Mapping[Path, str] = field(default_factory=dict)
    retrained: dict[str, Any] | None = None

    @property
    def swaps(self) -> Swaps | None:
        """The training photos with the content of the ignored region exchanged."""
        return self.focus.make_swaps(self.photos, self.options.seed) if self.focus else None

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Adds the block's seconds to the step's."""
        start = time.perf_counter()
        yield
        self.times_s[step] = self.times_s.get(step, 0.0) + time.perf_counter() - start

    def labels(self, samples: Sequence[Sample]) -> Tensor:
        """(N,) class indices."""
        return torch.tensor([sample.label for sample in samples], device=self.device)


def drop_photos(work: Work, reasons: Mapping[Path, str]) -> None:
    """Leaves out photos that can't be read; where a class goes with them, the model is made anew."""
    work.unreadable |= reasons
    for path, why in reasons.items():
        log.warning("Left out '%s': %s", path, why)
    before = work.photos.class_names
    label = work.exchange.label if work.exchange else None
    work.photos = drop_unreadable(work.photos, work.unreadable, allow_empty=work.options.allow_empty)
    names = work.photos.class_names
    if work.exchange:
        kept = names.index(before[label]) if label is not None and before[label] in names else None
        work.exchange = replace(work.exchange, donors=work.photos.train, label=kept)
    if names != before:
        log.warning("Left out the classes whose photos can't be read: %s", ", ".join(map(repr, work.photos.left_out)))
        torch.manual_seed(work.options.seed)
        origin = work.model.origin
        work.model = GapClassifier(origin, work.photos.class_names, work.options.head).to(work.device).eval()


def drop_undecodable(work: Work) -> None:
    """Leaves out the photos that can't be decoded, by decoding each once."""
    paths = [sample.path for sample in work.photos.samples]
    with work.show_progress("decoding", len(paths)) as advance:
        reasons = {}
        for photo in stream_photos(paths, work.model.preprocess):
            advance(1)
            if photo.error:
                reasons[photo.path] = photo.error
    drop_photos(work, reasons)
