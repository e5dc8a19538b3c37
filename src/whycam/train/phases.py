"""The steps of a training: features of the frozen backbone, the head on them, then the network on the photos."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from whycam.data.folder import Sample
from whycam.data.views import ViewDataset
from whycam.model.input import normalise_on
from whycam.runs import write_lines
from whycam.train.choosing import Choice, describe_choice, make_choice, tell_choice
from whycam.train.draws import Draws, choose_sample, count_steps, draw_steps, draw_views, split_batches
from whycam.train.epochs import Epoch, find_kept
from whycam.train.evidence import compute_evidence, compute_share
from whycam.train.features import FeatureStore, Stores
from whycam.train.finetune import freeze_batch_norm, make_groups
from whycam.train.loop import Batches, Phase, fit
from whycam.train.multi_label import find_goal, weigh_classes
from whycam.train.ranks import ALONE, Ranks
from whycam.train.retrain import retrain
from whycam.train.stores import WORKERS, compute_stores, make_reader
from whycam.train.work import Work, drop_photos, find_undecodable, log

_WEIGHT_DECAY = 0.01
_MEASURED: dict[str, Literal["slice", "val", "none"]] = {"slice": "slice", "val": "val", "last": "none"}


def train_phases(work: Work) -> None:
    """The head on stored features, then the network on photos, as the options say."""
    options = work.options
    if options.scratch:
        with work.timed("decode"):
            drop_photos(work, work.ranks.first(lambda: find_undecodable(work)))
        with work.timed("scratch"):
            _train_network(work, "scratch")
        return
    learnt = work.ranks.first(lambda: _train_on_features(work))
    if not work.ranks.is_first:
        drop_photos(work, {path: why for path, why in learnt.unreadable.items() if path not in work.unreadable})
        work.model.load_state_dict(learnt.state)
    if options.unfreeze != "none":
        work.stores = None
        with work.timed("finetune"):
            _train_network(work, "finetune")


@dataclass(frozen=True)
class _Learnt:
    """What the other processes are told of what the first did alone: photos that it left out, and the model."""

    unreadable: dict[Path, str]
    state: dict[str, Tensor]


def _train_on_features(work: Work) -> _Learnt:
    """All that the frozen backbone's features are for."""
    with work.timed("features"):
        work.stores = compute_stores(work)
    with work.timed("head"):
        train_head(work, work.stores)
    if work.exchanges or work.options.groups is not None or work.options.robust:
        with work.timed("last layer"):
            retrain(work, work.stores)
    # On the CPU: each process has a device of its own.
    return _Learnt(work.unreadable, {name: values.cpu() for name, values in work.model.state_dict().items()})


def train_head(work: Work, stores: Stores) -> None:
    """The neck and the linear layer on stored features, the backbone not even asked.

    Where a slice of the training photos chose the epoch, the head is trained once more, for so many epochs, on all of
    them; not where the network is fine-tuned behind it, whose epoch the slice chooses too.
    """
    head = nn.ModuleDict({"neck": work.model.neck, "classifier": work.model.classifier})
    choice, first = make_choice(work), copy.deepcopy(head.state_dict())
    tell_choice(work, choice)
    epochs = _fit_head(work, stores, head, choice)
    kept = find_kept(epochs, _keeps(choice))
    is_refit = choice.on == "slice" and work.options.unfreeze == "none"
    work.chosen = describe_choice(choice, epochs, kept, is_refit=is_refit)
    if is_refit:
        head.load_state_dict(first)
        _fit_head(work, stores, head, Choice("last", range(len(work.photos.train))), refit_epochs=kept + 1)


def _keeps(choice: Choice) -> Literal["best", "last"]:
    return "last" if choice.on == "last" else "best"


def _pick_measured(work: Work, choice: Choice) -> tuple[Sample, ...]:
    """The photos that measure an epoch; none where the last one is kept."""
    if choice.on == "last":
        return ()
    return tuple(work.photos.train[row] for row in choice.apart) if choice.on == "slice" else work.photos.val


def _fit_head(
    work: Work, stores: Stores, head: nn.ModuleDict, choice: Choice, *, refit_epochs: int | None = None
) -> list[Epoch]:
    options, model = work.options, work.model
    # Beside swapped views a plain one would still tell the class by what is in the region.
    views_of = stores.views if work.swaps else (stores.plain, *stores.views)
    measured, learnt = _pick_measured(work, choice), torch.tensor(choice.learnt)
    read_train, read_val = make_reader(work, work.photos.train, views_of), make_reader(work, measured, [stores.plain])
    train_labels, val_labels = work.labels(work.photos.train), work.labels(measured)
    cells, draws = _compute_cells(work, views_of), _make_draws(work, [work.photos.train[row] for row in choice.learnt])

    def train_batches(epoch: int) -> Iterator[tuple[Tensor, ...]]:
        views_drawn = draw_views(draws, epoch, len(views_of))
        for places in draw_steps(draws, epoch, options):
            views, rows = views_drawn[places], learnt[places]
            batch = read_train(rows, views), train_labels[rows]
            yield batch if cells is None else (*batch, cells[views, rows].to(work.device))

    def val_batches(chosen: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in chosen.split(256):
            yield read_val(rows, torch.zeros_like(rows)), val_labels[rows]

    phase = Phase(
        name="head" if refit_epochs is None else "refit",
        trained=head,
        forward=lambda features: model.classify(model.neck(features)),
        groups=[{"params": list(head.parameters()), "lr": options.lr}],
        epochs=options.epochs,
        steps_per_epoch=count_steps(len(learnt), options),
        patience=options.patience if choice.on != "last" else 0,
        schedule=options.schedule,
        weight_decay=0.0,
        seed=options.seed,
        class_weight=_weigh_classes(work),
        goal=find_goal(work.photos),
        is_fused=options.head == "conv",
        focus=None if cells is None else lambda features, cells: _focus(work, features, cells),
        stop_after=refit_epochs,
        keeps=_keeps(choice),
        measured_on=_MEASURED[choice.on],
        ranked_by="loss" if choice.on == "slice" else "accuracy",
        label_smoothing=options.label_smoothing,
    )
    # Of means alone, all photos cost next to nothing.
    is_cheap = options.head == "linear" and options.val_photos is None
    sample = None if is_cheap or choice.on == "last" else choose_sample(val_labels, phase.steps_per_epoch, options)
    return _fit(work, phase, train_batches, val_batches, len(measured), sample)


def _make_draws(work: Work, samples: Sequence[Sample]) -> Draws:
    return Draws([work.hashes[sample.path] for sample in samples], work.options.seed)


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


def _weigh_classes(work: Work) -> Tensor | None:
    if not work.options.class_weights:
        return None
    return weigh_classes(work.photos).to(work.device)


def _train_network(work: Work, name: Literal["finetune", "scratch"]) -> None:
    """Backbone and head together, on the photos themselves, as random views."""
    options, model = work.options, work.model
    is_scratch = name == "scratch"
    head = nn.ModuleDict({"neck": model.neck, "classifier": model.classifier})
    depth: Literal["last", "all"] = "last" if options.unfreeze == "last" and not is_scratch else "all"
    lr = options.lr if is_scratch else options.finetune_lr
    choice = make_choice(work)
    learnt, measured = [work.photos.train[row] for row in choice.learnt], _pick_measured(work, choice)
    make_views = partial(ViewDataset, seed=options.seed, load=work.swaps, strength=options.randaugment)
    datasets = {
        True: make_views(learnt, model.preprocess, is_random=True, labels=work.labels(learnt).cpu()),
        False: ViewDataset(measured, model.preprocess, is_random=False, labels=work.labels(measured).cpu()),
    }
    epochs = options.epochs if is_scratch else options.finetune_epochs
    steps, draws = count_steps(len(learnt), options), _make_draws(work, learnt)

    def train_batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        datasets[True].epoch = epoch
        order = torch.cat(list(draw_steps(draws, epoch, options))).tolist()
        yield from _load_batches(datasets[True], work, order)

    phase = Phase(
        name=name,
        trained=model,
        forward=model,
        groups=make_groups(
            *(model.backbone, head, depth, lr),
            decay=1.0 if is_scratch else options.finetune_decay,
            weight_decay=_WEIGHT_DECAY,
        ),
        epochs=epochs,
        steps_per_epoch=steps,
        patience=options.patience if choice.on != "last" else 0,
        schedule="cosine",
        weight_decay=_WEIGHT_DECAY,
        seed=options.seed,
        class_weight=_weigh_classes(work),
        goal=find_goal(work.photos),
        set_mode=None if is_scratch else lambda: freeze_batch_norm(model.backbone),
        keeps=_keeps(choice),
        measured_on=_MEASURED[choice.on],
        label_smoothing=options.label_smoothing,
        ema=options.ema,
    )

    def val_batches(chosen: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        return _load_batches(datasets[False], work, chosen.tolist())

    sample = None if choice.on == "last" else choose_sample(work.labels(measured), steps, options)
    lines = _fit(work, phase, train_batches, val_batches, len(measured), sample, ranks=work.ranks)
    work.chosen = describe_choice(choice, lines, find_kept(lines, phase.keeps), is_refit=False)


def _load_batches(dataset: ViewDataset, work: Work, order: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    batches = split_batches(order, work.options.batch_size, work.ranks.least)
    own = [part for part in map(work.ranks.share, batches) if part]
    for pixels, labels in DataLoader(dataset, batch_sampler=own, num_workers=WORKERS):
        yield normalise_on(pixels.to(work.device), work.model.preprocess), labels.to(work.device)


def _fit(  # noqa: PLR0917 - what `fit` takes
    work: Work,
    phase: Phase,
    train_batches: Batches,
    val_batches: Callable[[Tensor], Iterable[tuple[Tensor, ...]]],
    count: int,
    sample: Tensor | None,
    *,
    ranks: Ranks = ALONE,
) -> list[Epoch]:
    """`fit` under a bar, with its lines written to the log and to `metrics.jsonl`; they come back.

    Args:
        work: what the steps hand on.
        phase: what to train.
        train_batches: epoch -> batches.
        val_batches: rows of the photos that measure an epoch -> batches.
        count: so many photos do; 0: nothing measures it.
        sample: the rows of these that do by themselves; None: all.
        ranks: the processes that train.
    """
    checkpoints = work.run / "checkpoints"
    if ranks.is_first:
        checkpoints.mkdir(exist_ok=True)
    rows = torch.arange(count)

    def tell(line: Epoch) -> None:
        log.debug("%s epoch %d: train loss %.4f accuracy %.4f%s", *_tell_training(line), _tell_measured(line, count))

    with work.show_progress(phase.name, (phase.stop_after or phase.epochs) * phase.steps_per_epoch) as advance:
        epochs = fit(
            phase,
            train_batches,
            (lambda _: val_batches(rows)) if count else None,
            checkpoints / f"{phase.name}.pt",
            on_epoch=tell,
            on_step=lambda: advance(1),
            val_sample=None if sample is None else lambda _: val_batches(sample),
            ranks=ranks,
        )
    _log_kept(work, phase, epochs)
    work.epochs += epochs
    if ranks.is_first:
        write_lines(work.run / "metrics.jsonl", [asdict(line) for line in work.epochs])
    return epochs


def _tell_training(line: Epoch) -> tuple[str, int, float, float]:
    return line.phase, line.epoch + 1, line.train_loss, line.train_accuracy


def _tell_measured(line: Epoch, count: int) -> str:
    if line.val_loss is None or line.val_accuracy is None:
        return ""
    told = f"{line.measured_on} loss {line.val_loss:.4f} accuracy {line.val_accuracy:.4f}"
    return f", {told} ({line.val_photos} of {count} photos)"


def _log_kept(work: Work, phase: Phase, epochs: Sequence[Epoch]) -> None:
    kept = epochs[find_kept(epochs, phase.keeps)]
    if phase.keeps == "best":
        words = {"slice": f"{kept.val_photos} training photos that were set apart", "val": "held-out photos"}
        told = f"{kept.chosen_by} {kept.figure:.4f} on {words[kept.measured_on]}"
        log.info("%s: epoch %d of %d was the best, %s", phase.name, kept.epoch + 1, len(epochs), told)
    elif phase.stop_after is not None:
        log.info("head: trained again on all %d training photos, %d epochs", len(work.photos.train), len(epochs))
