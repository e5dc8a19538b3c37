"""The steps of a training: features of the frozen backbone, the head on them, then the network on the photos."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from whycam.config import TrainOptions
from whycam.data.check import drop_unreadable
from whycam.data.folder import PhotoFolder, Sample, count_labels
from whycam.data.loader import Photo, map_ahead, stream_photos
from whycam.data.views import Swaps, ViewDataset
from whycam.errors import UserError
from whycam.model.backbone import hash_tensors
from whycam.model.gap import GapClassifier
from whycam.model.input import normalise_on
from whycam.model.onnx.engine import place_engine
from whycam.model.onnx.export import open_features
from whycam.runs import write_lines
from whycam.train.draws import choose_sample, count_steps, draw_steps, split_batches
from whycam.train.evidence import compute_evidence, compute_share
from whycam.train.features import FeatureKey, FeatureStore, compute_features, default_cache_dir
from whycam.train.finetune import freeze_batch_norm, make_groups
from whycam.train.focus import SWAPPED_VIEWS, Focus, name_swaps
from whycam.train.loop import Batches, Epoch, Phase, find_best, fit

log = logging.getLogger("whycam.train")
_WORKERS = 2
# From so many photos on, the time for an export is soon won back.
_EXPORT_FROM_PHOTOS = 1000
Reader = Callable[[Tensor, Tensor], Tensor]
PhotoReader = Callable[[Iterable[Path]], Iterator[Photo]]


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


def train_phases(work: Work) -> None:
    """The head on stored features, then the network on photos, as the options say."""
    options = work.options
    if options.scratch:
        with work.timed("decode"):
            _drop_undecodable(work)
        with work.timed("scratch"):
            _train_network(work, "scratch")
        return
    with work.timed("features"):
        stores = _compute_stores(work)
    with work.timed("head"):
        _train_head(work, stores)
    if options.unfreeze == "none":
        work.store = stores[0]
    else:
        with work.timed("finetune"):
            _train_network(work, "finetune")


def _drop(work: Work, reasons: Mapping[Path, str]) -> None:
    work.unreadable |= reasons
    for path, why in reasons.items():
        log.warning("Left out '%s': %s", path, why)
    before = work.photos.class_names
    work.photos = drop_unreadable(work.photos, work.unreadable, allow_empty=work.options.allow_empty)
    if work.photos.class_names != before:
        log.warning("Left out the classes whose photos can't be read: %s", ", ".join(map(repr, work.photos.left_out)))
        torch.manual_seed(work.options.seed)
        origin = work.model.origin
        work.model = GapClassifier(origin, work.photos.class_names, work.options.head).to(work.device).eval()


def _drop_undecodable(work: Work) -> None:
    paths = [sample.path for sample in work.photos.samples]
    with work.show_progress("decoding", len(paths)) as advance:
        reasons = {}
        for photo in stream_photos(paths, work.model.preprocess):
            advance(1)
            if photo.error:
                reasons[photo.path] = photo.error
    _drop(work, reasons)


def _compute_stores(work: Work) -> list[FeatureStore]:
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
    _drop(work, {path: why for path, why in reasons.items() if why})
    log.info(
        "Features of %d photos %s", len(work.photos.samples), "were in the cache" if plain.was_cached else "computed"
    )
    swaps = work.swaps
    count, read = (SWAPPED_VIEWS, _read_swaps) if swaps else (options.augment, _read_views)
    views = []
    for view in range(count):
        name = name_swaps(swaps, view, work.hashes) if swaps else f"random-{options.seed}-{view}"
        words = f"features of view {view + 1} of {count}"
        views.append(compute(work.photos.train, name, words, partial(read, work=work, view=view)))
    return [plain, *views]


class _FeatureRun:
    """Images -> features of the frozen backbone, by an exported graph where that pays: many photos and no GPU."""

    def __init__(self, work: Work, weights: str) -> None:
        self.model, self.weights = work.model, weights
        passes = len(work.photos.train) * work.options.augment + len(work.photos.samples)
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
    pixels = DataLoader(dataset, batch_size=None, num_workers=_WORKERS)
    return (Photo(sample.path, values.numpy()) for sample, (values, _) in zip(samples, pixels, strict=True))


def _read_swaps(paths: Iterable[Path], work: Work, view: int) -> Iterator[Photo]:
    swaps, preprocess = work.swaps, work.model.preprocess
    return map_ahead(lambda path: Photo(path, preprocess.to_pixels(swaps(path, view))) if swaps else Photo(path), paths)


def _train_head(work: Work, stores: Sequence[FeatureStore]) -> None:
    """The neck and the linear layer on stored features, the backbone not even asked."""
    options, model = work.options, work.model
    head = nn.ModuleDict({"neck": model.neck, "classifier": model.classifier})
    # Beside swapped views a plain one would still tell the class by what is in the region.
    views_of = stores[1:] if work.swaps else stores
    read_train, read_val = _make_readers(work, views_of, stores[0])
    train_labels, val_labels = work.labels(work.photos.train), work.labels(work.photos.val)
    cells = _compute_cells(work, views_of)

    def train_batches(epoch: int) -> Iterator[tuple[Tensor, ...]]:
        draw = torch.Generator().manual_seed(options.seed * 100_003 + epoch)
        for rows in draw_steps(len(train_labels), draw, options):
            views = torch.randint(len(views_of), (len(rows),), generator=draw)
            batch = read_train(rows, views), train_labels[rows]
            yield batch if cells is None else (*batch, cells[views, rows].to(work.device))

    def val_batches(chosen: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in chosen.split(256):
            yield read_val(rows, torch.zeros_like(rows)), val_labels[rows]

    phase = Phase(
        name="head",
        trained=head,
        forward=lambda features: model.classify(model.neck(features)),
        groups=[{"params": list(head.parameters()), "lr": options.lr}],
        epochs=options.epochs,
        steps_per_epoch=count_steps(len(train_labels), options),
        patience=options.patience,
        schedule=options.schedule,
        weight_decay=0.0,
        seed=options.seed,
        class_weight=_weigh_classes(work),
        is_fused=options.head == "conv",
        focus=None if cells is None else lambda features, cells: _focus(work, features, cells),
    )
    # Of means alone, all validation photos cost next to nothing.
    is_cheap = options.head == "linear" and options.val_photos is None
    sample = None if is_cheap else choose_sample(val_labels, phase.steps_per_epoch, options)
    _fit(work, phase, train_batches, val_batches, sample)


def _compute_cells(work: Work, stores: Sequence[FeatureStore]) -> Tensor | None:
    """(V, N, h, w): where evidence is unwanted in each view of the training photos; None: it is wanted everywhere."""
    if work.focus is None or not work.focus.weight:
        return None
    shape = (stores[0].values.shape[2], stores[0].values.shape[3])
    return work.focus.compute_view_cells(work.photos.train, work.swaps, len(stores), shape)


def _focus(work: Work, features: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) logits of stored features, and the weighted share of their maps' evidence that lies in `cells`."""
    kept = work.model.neck(features)
    shares = compute_share(compute_evidence(work.model.compute_maps(kept)), cells)
    return work.model.classify(kept), (work.focus.weight if work.focus else 0.0) * shares.mean()


def _make_readers(work: Work, views: Sequence[FeatureStore], plain: FeatureStore) -> tuple[Reader, Reader]:
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


def _weigh_classes(work: Work) -> Tensor | None:
    if not work.options.class_weights:
        return None
    counts = torch.tensor(count_labels(work.photos.train, len(work.photos.class_names)), dtype=torch.float32)
    return (counts.sum() / (len(counts) * counts)).to(work.device)


def _train_network(work: Work, name: Literal["finetune", "scratch"]) -> None:
    """Backbone and head together, on the photos themselves, as random views."""
    options, model = work.options, work.model
    is_scratch = name == "scratch"
    head = nn.ModuleDict({"neck": model.neck, "classifier": model.classifier})
    depth: Literal["last", "all"] = "last" if options.unfreeze == "last" and not is_scratch else "all"
    lr = options.lr if is_scratch else options.finetune_lr
    datasets = {
        True: ViewDataset(work.photos.train, model.preprocess, is_random=True, seed=options.seed, load=work.swaps),
        False: ViewDataset(work.photos.val, model.preprocess, is_random=False),
    }
    epochs = options.epochs if is_scratch else options.finetune_epochs
    steps = count_steps(len(work.photos.train), options)

    def train_batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        datasets[True].epoch = epoch
        draw = torch.Generator().manual_seed(options.seed * 100_003 + epoch)
        order = torch.cat(list(draw_steps(len(datasets[True]), draw, options))).tolist()
        yield from _load_batches(datasets[True], work, order)

    phase = Phase(
        name=name,
        trained=model,
        forward=model,
        groups=make_groups(model.backbone, head, depth, lr),
        epochs=epochs,
        steps_per_epoch=steps,
        patience=options.patience,
        schedule="cosine",
        weight_decay=0.01,
        seed=options.seed,
        class_weight=_weigh_classes(work),
        set_mode=None if is_scratch else lambda: freeze_batch_norm(model.backbone),
    )

    def val_batches(chosen: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        return _load_batches(datasets[False], work, chosen.tolist())

    _fit(work, phase, train_batches, val_batches, choose_sample(work.labels(work.photos.val), steps, options))


def _load_batches(dataset: ViewDataset, work: Work, order: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    batches = split_batches(order, work.options.batch_size)
    for pixels, labels in DataLoader(dataset, batch_sampler=batches, num_workers=_WORKERS):
        yield normalise_on(pixels.to(work.device), work.model.preprocess), labels.to(work.device)


def _fit(
    work: Work,
    phase: Phase,
    train_batches: Batches,
    val_batches: Callable[[Tensor], Iterable[tuple[Tensor, ...]]],
    sample: Tensor | None,
) -> None:
    """`fit` under a bar, with its lines written to the log and to `metrics.jsonl`.

    Args:
        work: what the steps hand on.
        phase: what to train.
        train_batches: epoch -> batches.
        val_batches: rows of the validation photos -> batches.
        sample: the rows that measure an epoch; None: all.
    """
    checkpoints = work.run / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    rows = torch.arange(len(work.photos.val))

    def tell(line: Epoch) -> None:
        log.debug(
            "%s epoch %d: train loss %.4f accuracy %.4f, val loss %.4f accuracy %.4f (%d of %d photos)",
            *(line.phase, line.epoch + 1, line.train_loss, line.train_accuracy, line.val_loss, line.val_accuracy),
            *(line.val_photos, len(rows)),
        )

    with work.show_progress(phase.name, phase.epochs * phase.steps_per_epoch) as advance:
        epochs = fit(
            phase,
            train_batches,
            lambda _: val_batches(rows),
            checkpoints / f"{phase.name}.pt",
            on_epoch=tell,
            on_step=lambda: advance(1),
            val_sample=None if sample is None else lambda _: val_batches(sample),
        )
    best = find_best(epochs)
    log.info(
        "%s: epoch %d of %d was the best, val accuracy %.4f",
        phase.name,
        best + 1,
        len(epochs),
        epochs[best].val_accuracy,
    )
    work.epochs += epochs
    write_lines(work.run / "metrics.jsonl", [asdict(line) for line in work.epochs])
