"""A photo of a run for the page Mend: with the exact maps of one version, or the change of them between two."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from whycam.data.drawn import draw_all, write_mask
from whycam.data.images import load_image
from whycam.errors import UserError
from whycam.explainer.exact import describe_maps
from whycam.explainer.reading import Reading
from whycam.explainer.targets import to_probabilities
from whycam.intake.door import open_classifier
from whycam.maps.cells import subtract_maps
from whycam.mend.state import PhotoState
from whycam.mend.versions import find_version
from whycam.model.classifier import Classifier
from whycam.runs import to_text
from whycam.show.app.mend_answers import MendEntry, PhotoView
from whycam.show.entries import encode_photo, make_entry, shrink_photo

if TYPE_CHECKING:
    from whycam.mend.edited_run import EditedRun

_THUMB_PX, _MASK_PX = 200, 192
# Of so many classes' maps a page takes at once; of more, those of the best.
_MOST_MAPS = 10
_MOST_MODELS = 3


@dataclass(frozen=True)
class Looked:
    """What one version says of one photo: logits (K,), maps (K, h, w)."""

    model: Classifier
    logits: np.ndarray
    maps: np.ndarray

    @property
    def names(self) -> tuple[str, ...]:
        """K names."""
        return self.model.card.class_names

    @property
    def shares(self) -> np.ndarray:
        """(K,) probabilities."""
        found: np.ndarray = to_probabilities(self.logits[None], self.model.card.output)[0]
        return found

    @property
    def said(self) -> str:
        """The class that it takes the photo for."""
        return self.names[int(self.logits.argmax())]


class PhotoReader:
    """Reads a run's photos with the models of its versions, the last few of which stay open; safe to share."""

    def __init__(self, max_pixels: int) -> None:
        self.max_pixels = max_pixels
        self._models: OrderedDict[Path, Classifier] = OrderedDict()
        self._lock = threading.Lock()

    def make_thumb(self, path: Path) -> bytes:
        """A small JPEG of the photo.

        Raises:
            UserError: it can't be read any more.
        """
        file = io.BytesIO()
        shrink_photo(load_image(path, max_pixels=self.max_pixels), _THUMB_PX).save(file, "JPEG", quality=80)
        return file.getvalue()

    def read(self, edited: EditedRun, content: str, *, version: str, before: str, photo_px: int) -> PhotoView:
        """The photo with the maps of a version.

        Args:
            edited: the run.
            content: the photo's content hash.
            version: its number.
            before: of another version, whose maps are taken off; empty: none.
            photo_px: longer side of the photo in the answer.

        Raises:
            UserError: no such photo or version, or one that can't be read any more.
        """
        path = edited.find_photo(content)
        if path is None:
            raise UserError(
                f"The run has no photo of the content {content!r}; expected one of its photos. List them anew."
            )
        photo = load_image(path, max_pixels=self.max_pixels)
        looked = self._look(edited, version, photo)
        state = edited.state
        known = edited.list_photos(state).get(content)
        label = known.label if known else ""
        told: dict[int, str] = {}
        if before:
            reading, told, bias = _subtract(looked, self._look(edited, before, photo), label, photo.size)
        else:
            reading, bias = _read_best(looked, label, photo.size), np.asarray(looked.model.bias)
        name = to_text(path.relative_to(edited.source.root).as_posix())
        truth = looked.names.index(label) if label in looked.names else None
        entry = make_entry(reading, content, name, image=encode_photo(photo, photo_px, quality=85), truth=truth)
        entry["told"] = [told[k] for k in entry["classes"]] if told else None
        return PhotoView(
            path=name,
            label=label,
            entry=MendEntry.model_validate(entry | {"is_change": bool(before)}),
            class_names=list(looked.names),
            bias=bias.tolist(),
            drawn=_draw(state.photos.get(content), photo.size),
        )

    def _look(self, edited: EditedRun, number: str, photo: Image.Image) -> Looked:
        model = self._open(find_version(edited.run, number).folder / "model")
        answer = model.read(model.card.preprocess.to_pixels(photo)[None])
        return Looked(model, answer.logits[0], answer.maps[0])

    def _open(self, folder: Path) -> Classifier:
        with self._lock:
            model = self._models.pop(folder, None) or open_classifier(str(folder), engine="torch").ready()
            self._models[folder] = model
            while len(self._models) > _MOST_MODELS:
                self._models.popitem(last=False)
            return model


def _read_best(looked: Looked, label: str, size: tuple[int, int]) -> Reading:
    """The reading of the best classes, and of the photo's own."""
    best = (-looked.logits).argsort(kind="stable")[:_MOST_MAPS].tolist()
    own = [looked.names.index(label)] if label in looked.names else []
    targets = list(dict.fromkeys([*best, *own]))
    record, maps = describe_maps(looked.model.card), looked.maps[targets]
    return Reading(maps, looked.logits, looked.shares, np.array(targets), looked.names, record, size_px=size)


def _subtract(
    new: Looked, old: Looked, label: str, size: tuple[int, int]
) -> tuple[Reading, dict[int, str], np.ndarray]:
    """The reading of the change, in the new version's classes that the old one had too; what to say of each; biases."""
    place = {name: k for k, name in enumerate(old.names)}
    asked = list(dict.fromkeys([new.said, old.said, label, *new.names]))
    common = [name for name in asked if name in place and name in new.names][:_MOST_MAPS]
    rows, others = [new.names.index(name) for name in common], [place[name] for name in common]

    def change(after: np.ndarray, earlier: np.ndarray) -> np.ndarray:
        found = np.zeros(len(new.names), np.float64)
        found[rows] = after[rows] - earlier[others]
        return found

    record = {**describe_maps(new.model.card), "draws_both_signs": True}
    reading = Reading(
        subtract_maps(new.maps[rows], old.maps[others]),
        change(new.logits, old.logits),
        change(new.shares, old.shares),
        np.array(rows),
        new.names,
        record,
        size_px=size,
    )
    words = {"now": new.said, "before": old.said, "its class": label}
    told = {
        k: ", ".join(word for word, named in words.items() if named == name)
        for k, name in zip(rows, common, strict=True)
    }
    return reading, told, change(np.asarray(new.model.bias), np.asarray(old.model.bias))


def _draw(said: PhotoState | None, size: tuple[int, int]) -> dict[str, str]:
    """What is drawn on a photo, by kind, as one mask each."""
    if said is None:
        return {}
    shrink = _MASK_PX / max(size)
    shape = [max(1, round(side * shrink)) for side in size[::-1]]
    parts = {"object": said.object, "not-object": said.not_object}
    return {word: write_mask(draw_all(drawn, shape)) for word, drawn in parts.items() if drawn}
