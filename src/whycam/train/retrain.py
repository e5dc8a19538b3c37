"""`whycam train --groups`, `--robust`, `--against`: the last layer fitted once more, so that a shortcut has no say.

All work on stored features of a frozen backbone, in seconds, and change nothing but the linear layer: maps stay exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from whycam.config import TrainOptions
from whycam.data.folder import PhotoFolder, Sample
from whycam.errors import UserError
from whycam.train.features import Stores
from whycam.train.last_layer import Layer, Stillness, fit_layer, weigh_groups, weigh_missed
from whycam.train.stores import read_changed, read_pooled
from whycam.train.work import Work, log

# What is tried. The rule that chooses among them, and these ends, were chosen on draws 1000 to 1005 of flower photos.
_DECAYS = (0.03, 0.1, 0.3, 1.0, 3.0)
_GAMMAS = (0.0, 1.0, 2.0, 4.0, 8.0)
FOLDS = 5
# Of the heads that say which photos are missed.
_FOLD_DECAY = 0.01
# Chosen on draws 1000 to 1003 of compressed flower photos: weights of 0.1 to 10 and ridges of 0.01 to 0.1 are as good.
_STILL_DECAY, _STILLNESS = 0.03, 1.0


@dataclass(frozen=True)
class Pooled:
    """What the last layer sees of photos.

    Attributes:
        values: (N, C) mean features.
        labels: (N,) classes.
        groups: (N,) a number for each class and word; -1 where the word is not known.
        photos: (N,) which photo a row is of; the first rows are each photo once, further ones are views of them.
        causes: (N,) which exchange a view is of; -1 of the photos themselves.
    """

    values: Tensor
    labels: Tensor
    groups: Tensor
    photos: Tensor
    causes: Tensor


def check_retraining(options: TrainOptions, *, has_causes: bool = False) -> None:
    """Refuses what does not go together.

    Args:
        options: of the training.
        has_causes: edits name causes too, or parts of photos, that are trained against.

    Raises:
        UserError: --groups or --robust beside an option that they would undo, or that leaves no frozen backbone.
    """
    against = "--edits, which has cures or marked parts," if has_causes else "--against"
    given = {
        against: has_causes or options.against is not None,
        "--robust": options.robust,
        "--groups": options.groups is not None,
    }
    own = next((name for name, is_given in given.items() if is_given), None)
    if own is None:
        return
    other = "--robust" if options.robust else "--groups" if has_causes and options.groups is not None else ""
    if own == against and other:
        raise UserError(
            f"Found {own} beside {other}; expected one of them: each fits the last layer in its own way. Leave one out."
        )
    if options.scratch or options.unfreeze != "none":
        other = "--scratch" if options.scratch else f"--unfreeze {options.unfreeze}"
        raise UserError(
            f"Found {own} beside {other}; expected a frozen backbone, whose stored features the last layer is fitted "
            f"to once more. Leave {other} out."
        )
    if own == against and options.augment:
        raise UserError(
            f"Found {own} beside --augment {options.augment}; expected no random views beside those in which the "
            "cause is exchanged. Leave --augment out."
        )
    named = {"ignore": options.ignore, "attend": options.attend}
    if other := next((f"--{name}" for name, value in named.items() if value is not None), ""):
        raise UserError(
            f"Found {own} beside {other}; expected one of them: the last layer would be fitted once more without what "
            f"{other} asks of it. Choose one; whycam evaluate --groups tells how each group does after either."
        )


def check_groups(groups: Mapping[Path, str], photos: PhotoFolder, options: TrainOptions) -> None:
    """Refuses groups that can't do what they are for.

    Raises:
        UserError: a class without a training photo of any group, or no class with photos of two groups, so that balance
            changes nothing.
    """
    if options.robust or options.against is not None or not groups:
        return
    words: dict[int, set[str]] = {}
    for sample in photos.train:
        if sample.path in groups:
            words.setdefault(sample.label, set()).add(groups[sample.path])
    if unnamed := [name for k, name in enumerate(photos.class_names) if k not in words]:
        raise UserError(
            f"--groups names no training photo of {', '.join(map(repr, unnamed[:5]))} ({len(unnamed)} of "
            f"{len(photos.class_names)} classes); the last layer is fitted to named photos alone and would forget the "
            "others. Add rows for them; one word for all photos of a class will do."
        )
    if all(len(found) < 2 for found in words.values()):
        told = "; ".join(f"{photos.class_names[k]!r}: {', '.join(sorted(found))}" for k, found in words.items())
        raise UserError(
            f"No class has training photos of two groups ({told[:300] or 'no training photo has a group'}), so that "
            "groups of equal weight change nothing. Add photos of a class in another group, or use --against with a "
            "finding of whycam audit, which makes such photos."
        )


def retrain(work: Work, stores: Stores) -> None:
    """Puts the refitted last layer into the model, and what was chosen into `work.retrained`; the head is trained."""
    model, options = work.model, work.options
    train, val = (_pool(work, stores, samples) for samples in (work.photos.train, work.photos.val))
    first = Layer(model.classifier.weight.detach().cpu(), model.classifier.bias.detach().cpu())
    if work.exchanges:
        layer, about = retrain_still(first, train, is_balanced=options.class_weights)
        about |= _tell_changed({"before": first, "after": layer}, val, [one.title for one in work.exchanges])
    else:
        way = retrain_missed if options.robust else retrain_groups
        layer, about = way(first, train, val, options.seed)
    with torch.no_grad():
        model.classifier.weight.copy_(layer.weight)
        model.classifier.bias.copy_(layer.bias)
    work.retrained = about
    numbers = ", ".join(f"{name} {value:g}" for name, value in about.items() if isinstance(value, float))
    log.info("The last layer was fitted once more (%s): %s", about["way"], numbers)


def _pool(work: Work, stores: Stores, samples: Sequence[Sample]) -> Pooled:
    """The photos, then their views of each exchange."""
    words = sorted(
        {(sample.label, work.groups[sample.path]) for sample in work.photos.samples if sample.path in work.groups}
    )
    number = {word: k for k, word in enumerate(words)}
    groups = [number[s.label, work.groups[s.path]] if s.path in work.groups else -1 for s in samples]
    labels, numbers = torch.tensor([sample.label for sample in samples]), torch.tensor(groups)
    values, photos = [read_pooled(work, stores.plain, samples)], [torch.arange(len(samples))]
    causes = [torch.full((len(samples),), -1)]
    for changed in stores.changed:
        rows = [row for row, sample in enumerate(samples) if sample.path in changed.words]
        if rows:
            values.append(read_changed(work, changed, [samples[row] for row in rows]))
            photos.append(torch.tensor(rows))
            causes.append(torch.full((len(rows),), changed.number))
    row_of = torch.cat(photos)
    return Pooled(torch.cat(values), labels[row_of], numbers[row_of], row_of, torch.cat(causes))


def retrain_groups(first: Layer, train: Pooled, val: Pooled, seed: int) -> tuple[Layer, dict[str, Any]]:
    """The last layer fitted to the training photos with groups of equal weight.

    Paper: DFR, Kirichenko et al., arXiv:2204.02937 (its DFR-Tr-Tr: the frozen network was never trained on the photos,
    so that none has to be held back for it). Differs: see `weigh_groups`; ridge in place of L1. How strong it is has
    the least loss of the worst group of held-out photos (in the paper the best accuracy, which moves in thirds where a
    group has three photos). Photos without a group are left out.
    """
    weights = weigh_groups(train.groups)
    tried = [
        ({"decay": decay}, fit_layer(train.values, train.labels, weights, first.zeros, decay=decay))
        for decay in _DECAYS
    ]
    return _choose(tried, val, {"way": "groups of equal weight", "photos": int((train.groups >= 0).sum())})


def retrain_missed(first: Layer, train: Pooled, val: Pooled, seed: int) -> tuple[Layer, dict[str, Any]]:
    """The last layer fitted again with more weight on the training photos that a head misses which never saw them.

    Paper: AFR, Qiu et al., arXiv:2306.11074, section 4: weights `beta_y exp(-gamma p)`, L2 towards the first head.
    Differs: the paper trains the first head on 80 % and refits on the other 20 % alone. Here each fifth in turn is held
    back from a head that weighs it, and all photos are refitted, towards the head that was trained on all: of 150
    photos a class a fifth holds one or two of the few that matter. A frozen backbone never learnt the photos by heart,
    so that none is lost by it. The L2 term is in units of the features' spread. gamma and lambda have the least loss of
    the worst group of held-out photos where groups are known, else of the worst class (in the paper the accuracy).
    """
    classes = len(first.bias)
    unseen = _score_unseen(train, first, seed)
    tried = []
    for gamma in _GAMMAS:
        weights = weigh_missed(unseen, train.labels, gamma, classes)
        for decay in _DECAYS:
            tried.append(
                ({"gamma": gamma, "lambda": decay}, fit_layer(train.values, train.labels, weights, first, decay=decay))
            )
    missed = float((unseen.argmax(dim=1) != train.labels).float().mean())
    return _choose(
        tried, val, {"way": "photos that a first head misses", "missed": missed, "photos": len(train.labels)}
    )


def _score_unseen(train: Pooled, first: Layer, seed: int) -> Tensor:
    """(N, K) logits of each photo by a head fitted to the other four fifths; all views of a photo are in one fifth."""
    folds = split_folds(train.labels[: int(train.photos.max()) + 1], seed)[train.photos]
    logits = torch.zeros(len(train.labels), len(first.bias))
    for fold in range(FOLDS):
        seen = folds != fold
        if (~seen).any() and seen.any():
            head = fit_layer(
                train.values[seen], train.labels[seen], torch.ones(int(seen.sum())), first.zeros, decay=_FOLD_DECAY
            )
            logits[~seen] = head(train.values[~seen])
    return logits


def retrain_still(first: Layer, train: Pooled, *, is_balanced: bool = False) -> tuple[Layer, dict[str, Any]]:
    """The last layer fitted to photos and their views with the cause exchanged, so that the exchange moves no logit.

    To the loss on all of them is added the mean square of what the exchange does to the logits, the mean over the
    classes left out. What is learnt of one class's photos holds for all: a linear layer that is deaf to the step from
    a good photo to a compressed one is deaf to it also where no photo of the class is good.

    Paper: none for the whole; targeted augmentation is what Whac-A-Mole (arXiv:2212.04825) finds to help without
    feeding another shortcut, and the penalty is invariance to a known change (logit pairing, arXiv:1803.06373).

    Several causes have a penalty each: one that few photos show weighs as much as one that all show.

    Args:
        first: the head before.
        train: photos, then their views.
        is_balanced: every class has the same weight.
    """
    is_view = train.causes >= 0
    causes = train.causes[is_view]
    changes = train.values[is_view] - train.values[train.photos[is_view]]
    still = Stillness(changes, _STILLNESS / torch.bincount(causes)[causes])
    weights = weigh_groups(train.labels) if is_balanced else torch.ones(len(train.labels))
    layer = fit_layer(train.values, train.labels, weights, first.zeros, decay=_STILL_DECAY, still=still)
    return layer, {"way": "photos with the cause exchanged", "photos": len(train.labels)}


def _tell_changed(layers: Mapping[str, Layer], photos: Pooled, titles: Sequence[str]) -> dict[str, Any]:
    """The share of photos whose class is another when a cause is exchanged, by each layer; empty without a view."""
    is_view = photos.causes >= 0
    if not is_view.any():
        return {}
    causes, moved = photos.causes[is_view], {}
    for when, layer in layers.items():
        said = layer(photos.values).argmax(dim=1)
        moved[when] = (said != said[photos.photos])[is_view].float()
    each = [
        {"cause": title, "photos": int((causes == number).sum())}
        | {f"changed_{when}": float(values[causes == number].mean()) for when, values in moved.items()}
        for number, title in enumerate(titles)
        if (causes == number).any()
    ]
    return {f"changed_{when}": float(values.mean()) for when, values in moved.items()} | {"causes": each}


def split_folds(labels: Tensor, seed: int) -> Tensor:
    """(N,) a fold of 0 to 4 for each photo, every class spread over all of them."""
    draw = torch.Generator().manual_seed(seed)
    folds = torch.zeros_like(labels)
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        folds[members[torch.randperm(len(members), generator=draw)]] = torch.arange(len(members)) % FOLDS
    return folds


def _choose(
    tried: Sequence[tuple[dict[str, float], Layer]], val: Pooled, about: dict[str, Any]
) -> tuple[Layer, dict[str, Any]]:
    """The layer whose worst group, or class where no group is known, has the least mean loss; the first of equals."""
    has_groups = bool((val.groups >= 0).any())
    parts = val.groups if has_groups else val.labels
    least, best = None, tried[0]
    for numbers, layer in tried:
        losses = functional.cross_entropy(layer(val.values), val.labels, reduction="none")
        worst = max(float(losses[parts == part].mean()) for part in parts.unique() if part >= 0)
        if least is None or worst < least:
            least, best = worst, (numbers, layer)
    numbers, layer = best
    by = f"the least loss of the worst {'group' if has_groups else 'class'} of held-out photos"
    return layer, {**about, **numbers, "chosen_by": by}
