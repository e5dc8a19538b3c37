"""`whycam inspect`: what was found in a model; and on photos in class folders, what each way to prepare them gives."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from whycam.config import InspectOptions
from whycam.data.annotations import read_photos
from whycam.data.images import ImageError, load_image
from whycam.data.preprocess import NAMED, Channels, Preprocess
from whycam.errors import UserError
from whycam.explainer.targets import seek_class
from whycam.intake.door import open_classifier
from whycam.model.classifier import Classifier

_MOST_PHOTOS, _SHOWN_CLASSES, _SHOWN_TRIALS = 200, 8, 10
_CHANNELS: tuple[Channels, ...] = ("rgb", "bgr")
_OWN = "as the model says"


@dataclass(frozen=True)
class Trial:
    """One way to prepare photos, and the share of photos in class folders that the model then gets right."""

    preprocess: str
    channels: str
    resize: str
    accuracy: float
    way: Preprocess


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        facts: by name, in the order to be told in.
        trials: ways to prepare photos, the best first; none without photos in class folders.
        notes: sentences.
    """

    facts: dict[str, str]
    trials: tuple[Trial, ...] = ()
    notes: tuple[str, ...] = ()


def inspect(model_name: str, folder: Path | None, options: InspectOptions) -> Inspection:
    """What a model is, and with photos in class folders, what each way to prepare them gives.

    Raises:
        UserError: no such model, or one that does not say how photos are prepared, and no photos to try it on.
    """
    given = options.describe_model()
    try:
        classifier, is_known = open_classifier(model_name, **given, engine="torch"), True
    except UserError:
        # With photos it is found out; any will do for the rest of the card.
        if folder is None or options.preprocess is not None:
            raise
        classifier, is_known = open_classifier(model_name, **given | {"preprocess": "imagenet"}, engine="torch"), False
    trials, notes = try_preprocessing(classifier, folder, options, is_known=is_known) if folder else ((), ())
    facts = describe(classifier)
    if not is_known:
        facts["preprocessing"] = "said by nobody: see below, and give --preprocess"
    return Inspection(facts, trials, notes)


def describe(classifier: Classifier) -> dict[str, str]:
    """What the card says, and which methods work, in words."""
    card, how = classifier.card, classifier.card.preprocess
    names = ", ".join(card.class_names[:_SHOWN_CLASSES])
    more = f" and {len(card.class_names) - _SHOWN_CLASSES} more" if len(card.class_names) > _SHOWN_CLASSES else ""
    told = {key: str(card.origin[key]) for key in ("backbone", "network", "weights") if key in card.origin}
    mean, std = (", ".join(f"{value:.4g}" for value in numbers) for numbers in (how.mean, how.std))
    facts = {
        "model": f"{card.name} ({card.kind})",
        **told,
        "classes": f"{len(card.class_names)}: {names}{more}",
        "input": f"{how.height_px} x {how.width_px} px, {how.channels}, the whole photo squashed ({how.interpolation})",
        "preprocessing": f"mean {mean}; deviation {std}; known: {card.preprocess_from or 'the model'}",
        "output": card.output + (f" (the model ends in a {card.activation})" if card.activation else ""),
    }
    return {**facts, "exact maps": card.tell_exactness(), "methods": ", ".join(find_methods(classifier))}


def find_methods(classifier: Classifier) -> Iterator[str]:
    """The names of the methods that work, one of each kind tried on an installed photo."""
    from whycam.cam.registry import iter_methods  # noqa: PLC0415 - torch, which the rest of a card may do without
    from whycam.explainer.model import Model  # noqa: PLC0415 - torch

    model, works = Model(classifier), {}
    for method in iter_methods():
        # What combines layers may fail where one layer works.
        kind = (method.needs, method.layers > 1)
        if kind not in works:
            how: dict[str, Any] = {"masks": 2} if method.name == "rise" else {}
            works[kind] = not model.find_fault(method.name, **how)
        if works[kind]:
            yield method.name


def try_preprocessing(
    classifier: Classifier, folder: Path, options: InspectOptions, *, is_known: bool
) -> tuple[tuple[Trial, ...], tuple[str, ...]]:
    """The accuracy on photos in class folders by each way to prepare them, the best first; and what was assumed."""
    photos, labels, notes = _read_labelled(classifier, folder, options)
    side, trials = classifier.card.preprocess, []
    for resize in ("squash", "crop"):
        cut = [photo if resize == "squash" else _crop(photo) for photo in photos]
        pixels = np.stack([side.to_pixels(photo) for photo in cut])
        for name, channels, one in _list_ways(side, is_known=is_known):
            scores = classifier.having(preprocess=one, engine="torch").scores(pixels)
            accuracy = float((scores.argmax(1) == labels).mean())
            trials.append(Trial(name, channels, resize, accuracy, one))
    trials.sort(key=lambda trial: -trial.accuracy)
    return tuple(trials), (f"Tried on {len(photos)} photos of {folder}.", *notes, _tell_best(trials, side))


def _list_ways(side: Preprocess, *, is_known: bool) -> Iterator[tuple[str, Channels, Preprocess]]:
    """The ways of the model's own size: as it says, where it does, then those that have a name."""
    own = {_OWN: side.model_dump(include={"mean", "std", "channels"})} if is_known else {}
    orders: tuple[Channels, ...] = ("grey",) if side.channels == "grey" else _CHANNELS
    for name, channels in itertools.product(own | NAMED, orders):
        changes = (own | NAMED)[name] | {"channels": channels}
        yield name, channels, Preprocess.model_validate(side.model_dump() | changes)


def _tell_best(trials: Sequence[Trial], side: Preprocess) -> str:
    """How the best of those is said that leave the photo whole, as whycam does."""
    best = next(trial for trial in trials if trial.resize == "squash")
    if best.preprocess in NAMED and best.channels in {NAMED[best.preprocess].get("channels", "rgb"), "grey"}:
        how = f"--preprocess {best.preprocess}"
    elif best.way == side:
        how = "as the model says, which is what is done"
    else:
        how = f"--preprocess FILE.json, with this in the file: {best.way.model_dump_json()}"
    crop = max((trial.accuracy for trial in trials if trial.resize == "crop"), default=0.0)
    more = f" A crop gives {crop:.3f}; whycam keeps the whole photo under the map." if crop > best.accuracy else ""
    return f"The best, {best.accuracy:.3f}: {how}.{more}"


def _read_labelled(
    classifier: Classifier, folder: Path, options: InspectOptions
) -> tuple[list[Image.Image], np.ndarray, list[str]]:
    names, notes = classifier.card.class_names, []
    listed = [(one.photo, str(one.classes[0])) for one in read_photos(folder) if one.classes]
    words = list(dict.fromkeys(word for _, word in listed))
    indices = {word: index for word in words if (index := seek_class(word, names)) is not None}
    if not indices and len(words) == len(names):
        indices = {word: k for k, word in enumerate(words)}
        notes.append("No folder is named as a class is: the folders were taken in their order for the outputs.")
    listed = [(path, word) for path, word in listed if word in indices]
    if not listed:
        raise UserError(
            f"Found no photos in folders of the model's {len(names)} classes in '{folder}'; expected CLASS/photo.jpg. "
            "Rename the folders, or give --classes FILE with their names in the order of the outputs."
        )
    order = np.random.default_rng(options.seed).permutation(len(listed))[:_MOST_PHOTOS]
    photos, labels = [], []
    for k in order:
        try:
            photos.append(load_image(listed[k][0]))
        except ImageError as error:
            notes.append(str(error))
        else:
            labels.append(indices[listed[k][1]])
    if not photos:
        raise UserError(f"Not one of the {len(order)} photos of '{folder}' can be read; the first: {notes[-1]}")
    return photos, np.array(labels), notes


def _crop(photo: Image.Image) -> Image.Image:
    """The square in the middle, seven eighths of the shorter side, as evaluation usually takes it."""
    side = min(photo.size) * 0.875
    x, y = ((length - side) / 2 for length in photo.size)
    return photo.crop((round(x), round(y), round(x + side), round(y + side)))


def tell(found: Inspection) -> Iterator[str]:
    """The lines to print."""
    width = max(map(len, found.facts))
    for name, text in found.facts.items():
        yield f"{name:{width}}  {text}"
    if found.trials:
        yield ""
        yield f"{'--preprocess':20} {'channels':9} {'resize':7} accuracy"
        for trial in found.trials[:_SHOWN_TRIALS]:
            yield f"{trial.preprocess:20} {trial.channels:9} {trial.resize:7} {trial.accuracy:.3f}"
    yield from found.notes
