"""Stored features of a training's photos: the plain ones and those of each view, made once and read in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from whycam.data.exchange import Exchange
from whycam.data.folder import Sample
from whycam.data.loader import Photo, map_ahead, stream_photos
from whycam.data.views import ViewDataset
from whycam.errors import UserError
from whycam.model.backbone import hash_tensors
from whycam.model.gap import GapClassifier
from whycam.model.onnx.engine import place_engine
from whycam.model.onnx.export import open_features
from whycam.train.features import (
    Changed,
    FeatureKey,
    FeatureStore,
    Stores,
    compute_features,
    default_cache_dir,
    open_relatives,
)
from whycam.train.focus import SWAPPED_VIEWS, name_swaps
from whycam.train.work import Work, drop_photos, log

WORKERS = 2
# From so many photos on, the time for an export is soon won back.
_EXPORT_FROM_PHOTOS = 1000
Reader = Callable[[Tensor, Tensor], Tensor]
PhotoReader = Callable[[Iterable[Path]], Iterator[Photo]]


def compute_stores(work: Work) -> Stores:
    """Plain features of all photos, then those of each random, swapped or exchanged view of the training photos."""
    maker = _StoreMaker(work)
    plain = maker.make(maker.hash_all(work.source.samples), "plain", "features")
    reasons = {sample.path: plain.unreadable.get(work.hashes[sample.path], "") for sample in work.source.samples}
    drop_photos(work, {path: why for path, why in reasons.items() if why})
    log.info(
        "Features of %d photos %s", len(work.source.samples), "were in the cache" if plain.was_cached else "computed"
    )
    views = []
    for view, (name, read) in enumerate(_list_views(work)):
        photos, words = maker.hash_all(work.photos.train), f"features of view {view + 1}"
        views.append(maker.make(photos, name, words, partial(read, work=work, view=view)))
    changed = [
        maker.change(number, view)
        for number in range(len(work.exchanges))
        for view in range(work.exchanges[number].views)
    ]
    return Stores(plain, tuple(views), tuple(changed))


def compute_plain(work: Work) -> FeatureStore:
    """Plain features of all photos of the folder."""
    maker = _StoreMaker(work)
    return maker.make(maker.hash_all(work.source.samples), "plain", "features")


def compute_more(work: Work, samples: Sequence[Sample], words: str, *, is_flipped: bool = False) -> FeatureStore:
    """Plain features of other photos, or of the photos' mirror images."""
    maker = _StoreMaker(work)
    if not is_flipped:
        return maker.make(maker.hash_all(samples), "plain", words)
    return maker.make(maker.hash_all(samples), "flipped", words, partial(_read_flipped, work=work))


class _StoreMaker:
    """Makes the stores of a training, or opens them where they are kept."""

    def __init__(self, work: Work) -> None:
        passes = len(work.photos.train) * (SWAPPED_VIEWS if work.swaps else work.options.augment)
        if work.exchanges:
            passes = sum(one.views * len(one.pick(work.photos.train)) for one in work.exchanges)
        # What makes the plain features must not hang on what else is asked for: they are kept for the next training.
        photos = len(work.source.samples)
        self.work, self.run, self.view_run = work, _FeatureRun(work, photos), _FeatureRun(work, photos + passes)
        self.cache = work.options.cache_dir or default_cache_dir()

    def hash_all(self, samples: Sequence[Sample]) -> dict[str, Path]:
        """Content hash -> photo."""
        return {self.work.hashes[sample.path]: sample.path for sample in samples}

    def make(self, photos: Mapping[str, Path], view: str, words: str, read: PhotoReader | None = None) -> FeatureStore:
        """The store of these photos in one view."""
        run = self.run if read is None else self.view_run
        return self._compute(run, photos, run.describe(sorted(photos), view), words, read)

    def change(self, number: int, view: int) -> Changed:
        """A view with a cause exchanged; rows that another training made are taken from there.

        Of held-out photos one view tells how much the answers still hang on the cause.
        """
        work, exchange = self.work, self.work.exchanges[number]
        samples = exchange.pick(work.photos.train if view else work.photos.samples)
        words = {sample.path: exchange.word(sample.path, view, work.hashes) for sample in samples}
        kept = open_relatives(self.run.describe((), "exchanged", is_shared=True), self.cache)
        known = {word for store in kept for word in store.row_of}
        missing = {word: path for path, word in words.items() if word not in known}
        if not missing:
            return Changed(number, words, tuple(kept))
        key = self.run.describe(sorted(missing), "exchanged", is_shared=True)
        read = partial(_read_exchanged, exchange=exchange, work=work, view=view)
        fresh = self._compute(self.view_run, missing, key, f"features of view {view + 1}, {exchange.title}", read)
        return Changed(number, words, (*kept, fresh))

    def _compute(
        self,
        run: Callable[[Tensor], Tensor],
        photos: Mapping[str, Path],
        key: FeatureKey,
        words: str,
        read: PhotoReader | None,
    ) -> FeatureStore:
        device = self.work.device
        with self.work.show_progress(words, len(photos)) as advance:
            return compute_features(run, photos, key, device=device, cache_dir=self.cache, progress=advance, read=read)


def _list_views(work: Work) -> list[tuple[str, Callable[..., Iterator[Photo]]]]:
    """Of each view of the training photos: a word for what decides its pixels, and how they are read."""
    swaps, options = work.swaps, work.options
    if work.exchanges:
        return []
    if swaps:
        return [(name_swaps(swaps, view, work.hashes), _read_swapped) for view in range(SWAPPED_VIEWS)]
    return [(f"random-{options.seed}-{view}", _read_views) for view in range(options.augment)]


class _FeatureRun:
    """Images -> features of the frozen backbone, by an exported graph where that pays: many photos and no GPU."""

    def __init__(self, work: Work, passes: int) -> None:
        self.model, self.is_pooled = work.model, not work.keeps_maps
        self.weights = hash_tensors(work.model.backbone.state_dict())
        self.is_worth_it = work.device.type == "cpu" and passes >= _EXPORT_FROM_PHOTOS
        self._run: Callable[[Tensor], Tensor] | None = None

    def describe(self, content: Sequence[str], view: str, *, is_shared: bool = False) -> FeatureKey:
        """What decides the features of these rows."""
        model = self.model
        stride = model.origin.map_stride
        return FeatureKey(self.weights, model.preprocess, stride, content, view, is_shared, self.is_pooled)

    def __call__(self, images: Tensor) -> Tensor:
        """(N, C, h, w)."""
        if self._run is None:
            self._run = self._open()
        return self._run(images)

    def _open(self) -> Callable[[Tensor], Tensor]:
        if self.is_worth_it:
            try:
                preprocess, stride = self.model.preprocess.model_dump_json(), self.model.origin.map_stride
                words = ["features", self.weights, preprocess, str(stride)]
                return open_features(place_engine(words), self.model)
            except (UserError, OSError) as error:
                log.info("Features by torch: %s", error)
        return self.model.backbone_features


def _read_views(paths: Iterable[Path], work: Work, view: int) -> Iterator[Photo]:
    samples = [Sample(path, 0) for path in paths]
    dataset = ViewDataset(samples, work.model.preprocess, is_random=True, seed=work.options.seed)
    dataset.epoch = view
    pixels = DataLoader(dataset, batch_size=None, num_workers=WORKERS)
    return (Photo(sample.path, values.numpy()) for sample, (values, _) in zip(samples, pixels, strict=True))


def _read_flipped(paths: Iterable[Path], work: Work) -> Iterator[Photo]:
    """The mirror images."""
    for photo in stream_photos(paths, work.model.preprocess):
        yield photo if photo.pixels is None else replace(photo, pixels=photo.pixels[..., ::-1].copy())


def _read_swapped(paths: Iterable[Path], work: Work, view: int) -> Iterator[Photo]:
    """Views with the content of a region from another photo."""
    swaps, preprocess = work.swaps, work.model.preprocess
    return map_ahead(lambda path: Photo(path, preprocess.to_pixels(swaps(path, view))) if swaps else Photo(path), paths)


def _read_exchanged(paths: Iterable[Path], exchange: Exchange, work: Work, view: int) -> Iterator[Photo]:
    """Views with the cause of a finding from another photo."""
    preprocess = work.model.preprocess
    return map_ahead(lambda path: Photo(path, preprocess.to_pixels(exchange(path, view))), paths)


def make_reader(work: Work, samples: Sequence[Sample], kept: Sequence[FeatureStore]) -> Reader:
    """A function (rows, views) -> features (B, C, h, w) of these photos in those views, read from the disk.

    What was read once stays in the system's file cache while there is room, so that memory does not grow with the
    photos.
    """
    rows_of = [np.array([store.row_of[work.hashes[sample.path]] for sample in samples]) for store in kept]

    def read(rows: Tensor, views: Tensor) -> Tensor:
        places, chosen = rows.numpy(), views.numpy()
        values = np.empty((len(places), *kept[0].values.shape[1:]), np.float32)
        for view in np.unique(chosen):
            is_of_view = chosen == view
            values[is_of_view] = kept[view].values[rows_of[view][places[is_of_view]]]
        return torch.from_numpy(values).to(work.device)

    return read


def read_pooled(
    work: Work, store: FeatureStore, samples: Sequence[Sample], model: GapClassifier | None = None
) -> Tensor:
    """(N, C) float32 on the CPU: what the linear layer sees of photos, after the neck of `model`, or the training's."""
    return _read_pooled(model or work.model, [store], [work.hashes[sample.path] for sample in samples])


def read_changed(work: Work, changed: Changed, samples: Sequence[Sample], model: GapClassifier | None = None) -> Tensor:
    """The same of their views with a cause exchanged."""
    return _read_pooled(model or work.model, changed.stores, [changed.words[sample.path] for sample in samples])


@torch.no_grad()
def _read_pooled(model: GapClassifier, stores: Sequence[FeatureStore], words: Sequence[str]) -> Tensor:
    places = {word: (store, row) for store in reversed(stores) for word, row in store.row_of.items()}
    device, parts = model.classifier.weight.device, []
    for block in np.array_split(np.array(words), max(1, len(words) // 64)):
        values = np.stack([store.values[row] for store, row in (places[word] for word in block)])
        parts.append(model.neck(torch.from_numpy(values.astype(np.float32)).to(device)).mean(dim=(2, 3)).cpu())
    return torch.cat(parts)
