"""Stored features of a training's photos: the plain ones and those of each view, made once and read in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from whycam.data.folder import Sample
from whycam.data.loader import Photo, map_ahead
from whycam.data.views import ViewDataset
from whycam.errors import UserError
from whycam.model.backbone import hash_tensors
from whycam.model.onnx.engine import place_engine
from whycam.model.onnx.export import open_features
from whycam.train.features import FeatureKey, FeatureStore, compute_features, default_cache_dir
from whycam.train.focus import SWAPPED_VIEWS, name_swaps
from whycam.train.work import Work, drop_photos, log

WORKERS = 2
# Views of each training photo with the cause exchanged.
EXCHANGED_VIEWS = 2
# From so many photos on, the time for an export is soon won back.
_EXPORT_FROM_PHOTOS = 1000
Reader = Callable[[Tensor, Tensor], Tensor]
PhotoReader = Callable[[Iterable[Path]], Iterator[Photo]]


def compute_stores(work: Work) -> list[FeatureStore]:
    """Plain features of all photos, then those of each random or swapped view of the training photos."""
    model, options = work.model, work.options
    weights = hash_tensors(model.backbone.state_dict())
    run = _FeatureRun(work, weights)
    cache = options.cache_dir or default_cache_dir()

    def compute(samples: Sequence[Sample], view: str, words: str, read: PhotoReader | None = None) -> FeatureStore:
        photos = {work.hashes[sample.path]: sample.path for sample in samples}
        content = sorted(photos)
        key = FeatureKey(weights, model.preprocess, model.origin.map_stride, content, view)
        with work.show_progress(words, len(content)) as advance:
            return compute_features(run, photos, key, device=work.device, cache_dir=cache, progress=advance, read=read)

    plain = compute(work.photos.samples, "plain", "features")
    reasons = {sample.path: plain.unreadable.get(work.hashes[sample.path], "") for sample in work.photos.samples}
    drop_photos(work, {path: why for path, why in reasons.items() if why})
    log.info(
        "Features of %d photos %s", len(work.photos.samples), "were in the cache" if plain.was_cached else "computed"
    )
    views = []
    for view, (samples, name, read) in enumerate(_list_views(work)):
        words = f"features of view {view + 1}"
        views.append(compute(samples, name, words, partial(read, work=work, view=view)))
    return [plain, *views]


def _list_views(work: Work) -> list[tuple[Sequence[Sample], str, Callable[..., Iterator[Photo]]]]:
    """Of each view: its photos, a word for what decides its pixels, and how they are read."""
    train, exchange, swaps, options = work.photos.train, work.exchange, work.swaps, work.options
    if exchange:
        # Of held-out photos one view tells how much the answers still hang on the cause.
        parts = [work.photos.samples, *[train] * (EXCHANGED_VIEWS - 1)]
        names = [exchange.name([s.path for s in part], v, work.hashes) for v, part in enumerate(parts)]
        return [(part, name, _read_changed) for part, name in zip(parts, names, strict=True)]
    if swaps:
        return [(train, name_swaps(swaps, view, work.hashes), _read_changed) for view in range(SWAPPED_VIEWS)]
    return [(train, f"random-{options.seed}-{view}", _read_views) for view in range(options.augment)]


class _FeatureRun:
    """Images -> features of the frozen backbone, by an exported graph where that pays: many photos and no GPU."""

    def __init__(self, work: Work, weights: str) -> None:
        self.model, self.weights = work.model, weights
        views = EXCHANGED_VIEWS if work.exchange else SWAPPED_VIEWS if work.swaps else work.options.augment
        passes = len(work.photos.train) * views + len(work.photos.samples)
        self.is_worth_it = work.device.type == "cpu" and passes >= _EXPORT_FROM_PHOTOS
        self._run: Callable[[Tensor], Tensor] | None = None

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


def _read_changed(paths: Iterable[Path], work: Work, view: int) -> Iterator[Photo]:
    """Views with the cause of a finding, or the content of a region, from another photo."""
    change, preprocess = work.exchange or work.swaps, work.model.preprocess
    return map_ahead(
        lambda path: Photo(path, preprocess.to_pixels(change(path, view))) if change else Photo(path), paths
    )


def make_readers(work: Work, views: Sequence[FeatureStore], plain: FeatureStore) -> tuple[Reader, Reader]:
    """Functions (rows, views) -> features (B, C, h, w) of training and of validation photos.

    A linear head needs no more than the means, which fit into memory; a convolution, and what looks at the maps while
    it trains, reads them from the disk.
    """

    def make(samples: Sequence[Sample], kept: Sequence[FeatureStore], *, is_pooled: bool) -> Reader:
        rows_of = [np.array([store.row_of[work.hashes[sample.path]] for sample in samples]) for store in kept]
        pooled = [_pool(store.values, rows) for store, rows in zip(kept, rows_of, strict=True)] if is_pooled else []

        def read(rows: Tensor, views: Tensor) -> Tensor:
            picked = zip(rows.tolist(), views.tolist(), strict=True)
            if is_pooled:
                return torch.stack([pooled[view][row] for row, view in picked]).to(work.device)
            values = np.stack([kept[view].values[rows_of[view][row]] for row, view in picked])
            return torch.from_numpy(values).to(work.device).float()

        return read

    is_linear = work.options.head == "linear"
    has_penalty = work.focus is not None and work.focus.weight > 0
    train = make(work.photos.train, views, is_pooled=is_linear and not has_penalty)
    return train, make(work.photos.val, [plain], is_pooled=is_linear)


def _pool(values: np.ndarray, rows: np.ndarray) -> Tensor:
    """(N, C, 1, 1) float32 means of stored features, a block at a time."""
    blocks = np.array_split(rows, max(1, len(rows) // 256))
    means = [values[block].astype(np.float32).mean(axis=(2, 3), keepdims=True) for block in blocks if len(block)]
    return torch.from_numpy(np.concatenate(means))


@torch.no_grad()
def read_pooled(work: Work, store: FeatureStore, samples: Sequence[Sample]) -> Tensor:
    """(N, C) float32 on the CPU: what the linear layer sees of photos, after the neck."""
    rows = np.array([store.row_of[work.hashes[sample.path]] for sample in samples])
    parts = []
    for block in np.array_split(rows, max(1, len(rows) // 64)):
        features = torch.from_numpy(store.values[block].astype(np.float32)).to(work.device)
        parts.append(work.model.neck(features).mean(dim=(2, 3)).cpu())
    return torch.cat(parts)
