"""Recorder: asks a module that is being trained for the evidence on a fixed set of photos, and writes it down."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from whycam.callbacks.numbers import WORDS, mean_by_class, mean_of, measure_moved, measure_on_masks
from whycam.callbacks.photos import Labelled, PhotosLike, WatchedPhotos, list_labelled, read_watched
from whycam.callbacks.recording import Snapshot, add_snapshot, is_recording, read_recording, write_about
from whycam.callbacks.untouched import leave_untouched
from whycam.data.loader import in_batches
from whycam.errors import UserError
from whycam.explainer.explanation import Explanation
from whycam.explainer.model import Model, load
from whycam.maps import render
from whycam.runs import open_run, read_versions

log = logging.getLogger("whycam.callbacks")


class Logger(Protocol):
    """What takes an epoch's numbers and pictures elsewhere; see `whycam.callbacks.loggers`."""

    def log(self, epoch: int, numbers: Mapping[str, float], pictures: Mapping[str, Image.Image]) -> None:
        """Takes scalars by name, and overlays by the name of the photo."""


@dataclass
class Recorder:
    """The evidence on a fixed set of photos, epoch by epoch, in a folder of its own.

    Maps are exact class activation maps where the module has them, else Grad-CAM (arXiv:1610.02391), of each photo's
    own class. What an epoch's numbers are is said in `whycam.callbacks.numbers.WORDS`.

    Attributes:
        photos: a folder CLASS/photo.jpg, or a mapping photo -> class (name or index).
        out: the folder to make; whole after every epoch.
        preprocess: see `whycam.load`; None where the module says it itself, as timm's do.
        class_names: K names in the order of the outputs [those of the photos' folders, in order of name].
        image_size: side of the network's input in pixels, where it takes any.
        masks: a folder of mask pictures PHOTO.png, in which all but 0 is the object.
        every: epochs from one record to the next; epoch 0 is before training.
        batch_size: photos in one forward pass.
        loggers: what gets the same numbers and pictures.
        logged_pictures: overlays that loggers get each time, at the most; the first photos of each class take turns.
        overwrite: whether a recording of that name may be replaced; nothing else ever is.
        resume: whether one of that name, of the same photos, is gone on with.
    """

    photos: PhotosLike
    out: str | Path
    preprocess: object = None
    class_names: Sequence[str] | None = None
    image_size: int | None = None
    masks: str | Path | None = None
    every: int = 1
    batch_size: int = 16
    loggers: Sequence[Logger] = ()
    logged_pictures: int = 8
    overwrite: bool = False
    resume: bool = False
    _labelled: Labelled | None = field(default=None, init=False, repr=False)
    _watched: WatchedPhotos | None = field(default=None, init=False, repr=False)
    _last: Snapshot | None = field(default=None, init=False, repr=False)
    _lines: list[Mapping[str, Any]] = field(default_factory=list, init=False, repr=False)

    def begin(self, network: nn.Module, epoch: int = 0) -> None:
        """Records a module before training; on one that is trained on nothing is done.

        Raises:
            UserError: as `record`: what is wrong is told before an epoch is trained.
        """
        if self._last is None:
            self.record(network, epoch)

    def record(self, network: nn.Module, epoch: int) -> None:
        """Records a module after its epoch of that number, every `every` epochs; the module goes on untouched.

        Args:
            network: normalised images (N, C, H, W) -> scores (N, K), on any device, in any mode.
            epoch: how many are finished.

        Raises:
            UserError: `every` under 1, photos that can't be read or are not labelled, an `out` that exists, an epoch
                recorded already, class names of another number than the outputs, or a module that has no maps.
        """
        self._check_asked(network, epoch)
        if epoch % self.every:
            return
        if self._last is not None and epoch <= self._last.epoch:
            raise UserError(
                f"Epoch {epoch} was to be recorded in '{self.out}' after epoch {self._last.epoch}; a recording is of "
                "one training, whose epochs go up. Make a new Recorder for a new training, or go on counting."
            )
        if self._labelled is None:
            self._check_out()
            self._labelled = list_labelled(self.photos, self.class_names, self.masks)
        labelled = self._labelled
        network = _unwrap(network)
        with leave_untouched(network):
            why = self._explain(network, labelled)
        snapshot = self._write(self._measure(why, labelled, epoch), why, labelled)
        self._log(snapshot, why, labelled)

    def _explain(self, network: nn.Module, labelled: Labelled) -> Explanation:
        device = next((str(one.device) for one in network.parameters()), "cpu")
        model = load(
            network,
            device=device,
            class_names=labelled.class_names,
            preprocess=self.preprocess,
            image_size=self.image_size,
            engine="torch",
        )
        if self._watched is None:
            self._watched = read_watched(labelled, model.preprocess)
        return explain_watched(model, self._watched, self.batch_size)

    def _measure(self, why: Explanation, labelled: Labelled, epoch: int) -> Snapshot:
        watched = self._photos
        maps, logits = why.maps.numpy(), why.logits.numpy()
        if self._last is None and self.resume and is_recording(Path(self.out)):
            self._last = self._go_on(labelled, epoch)
        on_masks = measure_on_masks(maps, watched.masks)
        moved = measure_moved(maps, None if self._last is None else self._last.maps)
        right = (logits.argmax(1) == watched.truths).astype(float)
        told: dict[str, Any] = {"epoch": epoch, "maps": f"maps/{epoch:06}.npz", "method": why.record["method"]}
        told |= {"layer": why.record.get("layer"), "photos": len(maps)}
        told["without_heat"] = int((maps.max((1, 2)) <= 0).sum())
        for name, values in (("accuracy", right), ("on_masks", on_masks), ("moved", moved)):
            told[name] = mean_of(values)
            told[f"{name}_by_class"] = mean_by_class(values, watched.truths, labelled.class_names)
        return Snapshot(epoch, maps, logits, on_masks, moved, told)

    def _check_asked(self, network: object, epoch: object) -> None:
        if not isinstance(self.every, int) or self.every < 1:
            raise UserError(f"every is {self.every!r}; expected 1 or more epochs. Give every=1 to record each.")
        if not isinstance(epoch, int) or epoch < 0:
            raise UserError(
                f"The epoch is {epoch!r}; expected a whole number, 0 before training. Count finished epochs."
            )
        if not isinstance(network, nn.Module):
            raise UserError(
                f"Found {type(network).__name__} to record; expected the torch module that is trained. Pass that."
            )
        for logger in self.loggers:
            if not hasattr(logger, "log"):
                raise UserError(
                    f"Found the logger {logger!r}; expected one of whycam.callbacks.loggers, or an object with "
                    "log(epoch, numbers, pictures). Make one, such as TensorBoardLogger(writer)."
                )

    def _check_out(self) -> None:
        out = Path(self.out)
        if out.exists() and not (is_recording(out) and (self.overwrite or self.resume)):
            kind = "a recording, which is never replaced by itself" if is_recording(out) else "no recording"
            do = ", or give resume=True to go on with it, or overwrite=True" if is_recording(out) else ""
            raise UserError(f"'{out.absolute()}' is there already ({kind}); expected a new name. Choose another{do}.")

    def _go_on(self, labelled: Labelled, epoch: int) -> Snapshot | None:
        """The last snapshot before the epoch in the recording that is there; later ones are recorded again."""
        recording = read_recording(Path(self.out))
        found = (recording.about["photos"], tuple(recording.about["class_names"]))
        if found != (self._describe_photos(), labelled.class_names):
            raise UserError(
                f"'{Path(self.out).absolute()}' is a recording of other photos or classes; expected the same to go on "
                "with. Choose another name."
            )
        self._lines = [line for line in recording.epochs if line["epoch"] < epoch]
        if again := [line["epoch"] for line in recording.epochs if line["epoch"] >= epoch]:
            log.warning(
                "The recording '%s' goes on at epoch %s: %s epochs that it had from there to %s are recorded again",
                Path(self.out),
                epoch,
                len(again),
                again[-1],
            )
        return recording.read(self._lines[-1]) if self._lines else None

    def _write(self, snapshot: Snapshot, why: Explanation, labelled: Labelled) -> Snapshot:
        out = Path(self.out)
        if self._last is None and not (self.resume and is_recording(out)):
            with open_run(out, overwrite=self.overwrite) as work:
                write_about(work, self._describe(why, labelled))
                for row, picture in zip(self._describe_photos(), self._photos.pictures, strict=True):
                    picture.save(work / row["picture"], quality=85)
                self._lines = add_snapshot(work, snapshot, ())
        else:
            self._lines = add_snapshot(out, snapshot, self._lines)
        self._last = snapshot
        return snapshot

    def _describe(self, why: Explanation, labelled: Labelled) -> dict[str, Any]:
        return {
            "class_names": list(labelled.class_names),
            "photos": self._describe_photos(),
            "unreadable": [{"name": name, "why": reason} for name, reason in self._photos.unreadable],
            "every": self.every,
            "numbers": WORDS,
            "record": {name: value for name, value in why.record.items() if name != "target"},
            "versions": read_versions(),
        }

    def _describe_photos(self) -> list[dict[str, Any]]:
        watched = self._photos
        rows = zip(watched.names, watched.truths, watched.sizes, watched.masks, strict=True)
        return [
            {
                "name": name,
                "class": int(truth),
                "size_px": list(size),
                "picture": f"photos/{i:04}.jpg",
                "has_mask": mask is not None,
            }
            for i, (name, truth, size, mask) in enumerate(rows)
        ]

    @property
    def _photos(self) -> WatchedPhotos:
        assert self._watched is not None  # noqa: S101 - read with the first explanation
        return self._watched

    def _log(self, snapshot: Snapshot, why: Explanation, labelled: Labelled) -> None:
        if not self.loggers:
            return
        numbers: dict[str, float | None] = {}
        for name in WORDS:
            # Not below the whole's own name: a tracker may keep names as files in folders.
            each = {f"{name}_by_class/{label}": value for label, value in snapshot.told[f"{name}_by_class"].items()}
            numbers |= {f"whycam/{key}": value for key, value in {name: snapshot.told[name], **each}.items()}
        there = {name: value for name, value in numbers.items() if value is not None}
        pictures = {
            f"whycam/{self._photos.names[i]}": draw_overlay(self._photos.pictures[i], snapshot.maps[i])
            for i in choose_in_turn(self._photos.truths, self.logged_pictures)
        }
        for logger in self.loggers:
            logger.log(snapshot.epoch, there, pictures)


def explain_watched(model: Model, watched: WatchedPhotos, batch_size: int) -> Explanation:
    """The map of each photo's own class: exact where the model has exact ones, else Grad-CAM."""
    method = "cam" if model.classifier.card.is_exact else "grad-cam"
    parts = []
    for batch in in_batches(range(len(watched.truths)), batch_size):
        at = np.array(batch)
        why = model.explain_pixels(watched.pixels[at], torch.from_numpy(watched.truths[at]), method)
        assert isinstance(why, Explanation)  # noqa: S101 - of one method
        parts.append(why)
    first = parts[0]

    def join(name: str) -> Tensor:
        return torch.cat([getattr(one, name).detach().float().cpu() for one in parts])

    target, scores = torch.from_numpy(watched.truths), (join("logits"), join("probabilities"))
    return Explanation(join("maps"), *scores, target, first.class_names, first.record, first.is_signed)


def draw_overlay(picture: Image.Image, values: np.ndarray) -> Image.Image:
    """The small photo with the heat of a raw map (h, w) over it, as `Explanation.overlay` draws it."""
    heat = render.draw_levels(values, picture.size[::-1], is_signed=False)
    return render.lay_over(picture, heat, render.COLORMAP_POSITIVE, alpha=render.ALPHA, is_signed=False)


def choose_in_turn(truths: np.ndarray, count: int) -> list[int]:
    """Places of so many photos at the most: the first of each class, then the second, and so on."""
    seen: dict[int, int] = {}
    ranks = []
    for i, truth in enumerate(truths.tolist()):
        seen[truth] = seen.get(truth, -1) + 1
        ranks.append((seen[truth], truth, i))
    return [i for *_, i in sorted(ranks)[:count]]


def _unwrap(network: nn.Module) -> nn.Module:
    """The user's own module within what torch.compile and DistributedDataParallel make of it."""
    network = getattr(network, "_orig_mod", network)
    return network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
