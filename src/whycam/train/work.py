"""One training in progress: what its steps hand on, and photos that turn out to be unreadable."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whycam.config import TrainOptions
from whycam.data.check import drop_unreadable
from whycam.data.exchange import Exchange
from whycam.data.folder import PhotoFolder, Sample
from whycam.data.loader import stream_photos
from whycam.data.tested import Tested
from whycam.data.views import Swaps
from whycam.model.backbone import Backbone
from whycam.model.card import HALF
from whycam.model.gap import GapClassifier
from whycam.train.epochs import Epoch
from whycam.train.features import Stores
from whycam.train.focus import Focus
from whycam.train.multi_label import to_labels
from whycam.train.ranks import ALONE, Ranks

log = logging.getLogger("whycam.train")


@dataclass
class Work:
    """What the steps of one training hand on.

    Attributes:
        source: the folder as it is on the disk, without what can't be read.
        hashes: path -> content hash.
        unreadable: path -> reason.
        model: the classifier in the making, on `device`.
        run: the folder to write into.
        show_progress: (words, total) -> a bar, whose block gets a function that is told how many more are done.
        times_s: step -> seconds.
        epochs: the lines of all phases so far.
        stores: features of all photos, where the finished model's backbone is still the one that made them.
        focus: where evidence is unwanted, if anywhere.
        make_exchanges: the photos to train on -> their views with a cause exchanged, one for each cause that the
            training is against.
        groups: photo -> group, where that is known.
        retrained: how the last layer was fitted once more, if it was.
        chosen: on which photos the epoch was chosen, and how; see `describe_choice`.
        edit: the folder -> what is trained on: with people's labels, and without what they left out.
        test: what the finished model is tested on.
        ranks: the processes that train.
        photos: what is trained on.
        exchanges: what `make_exchanges` makes of them.
    """

    options: TrainOptions
    source: PhotoFolder
    hashes: Mapping[Path, str]
    unreadable: dict[Path, str]
    model: GapClassifier
    device: torch.device
    run: Path
    show_progress: Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
    times_s: dict[str, float] = field(default_factory=dict)
    epochs: list[Epoch] = field(default_factory=list)
    stores: Stores | None = None
    focus: Focus | None = None
    make_exchanges: Callable[[PhotoFolder], tuple[Exchange, ...]] = lambda photos: ()
    groups: Mapping[Path, str] = field(default_factory=dict)
    retrained: dict[str, Any] | None = None
    chosen: dict[str, Any] = field(default_factory=dict)
    edit: Callable[[PhotoFolder], PhotoFolder] = lambda folder: folder
    test: Tested | None = None
    ranks: Ranks = ALONE
    photos: PhotoFolder = field(init=False)
    exchanges: tuple[Exchange, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.photos = self.edit(self.source)
        self.exchanges = self.make_exchanges(self.photos)

    @property
    def keeps_maps(self) -> bool:
        """Whether stored features are whole maps: a convolution asks for them, and what says where evidence lies."""
        return self.options.head != "linear" or self.focus is not None

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
        """(N,) class indices; of classes that go together (N, K) float32 of 0 and 1."""
        count = len(self.photos.class_names) if self.photos.is_multi_label else None
        return to_labels(samples, count).to(self.device)


def make_classifier(origin: Backbone, photos: PhotoFolder, options: TrainOptions) -> GapClassifier:
    """A classifier of the photos' classes that has learnt nothing; where these go together one half gives each."""
    thresholds = [HALF] * len(photos.class_names) if photos.is_multi_label else ()
    return GapClassifier(origin, photos.class_names, options.head, thresholds)


def drop_photos(work: Work, reasons: Mapping[Path, str]) -> None:
    """Leaves out photos that can't be read; where a class goes with them, the model is made anew."""
    work.unreadable |= reasons
    for path, why in reasons.items():
        log.warning("Left out '%s': %s", path, why)
    before = work.photos.class_names
    work.source = drop_unreadable(work.source, work.unreadable, allow_empty=work.options.allow_empty)
    work.photos = work.edit(work.source)
    work.exchanges = work.make_exchanges(work.photos) if reasons else work.exchanges
    if work.photos.class_names != before:
        log.warning("Left out the classes whose photos can't be read: %s", ", ".join(map(repr, work.photos.left_out)))
        torch.manual_seed(work.options.seed)
        origin = work.model.origin
        work.model = make_classifier(origin, work.photos, work.options).to(work.device).eval()


def find_undecodable(work: Work) -> dict[Path, str]:
    """The photos that can't be decoded and why, by decoding each once."""
    paths = [sample.path for sample in work.source.samples]
    with work.show_progress("decoding", len(paths)) as advance:
        reasons = {}
        for photo in stream_photos(paths, work.model.preprocess):
            advance(1)
            if photo.error:
                reasons[photo.path] = photo.error
    return reasons
