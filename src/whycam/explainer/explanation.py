"""Explanation: raw maps with the prediction they explain, and everything a person does with them."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from whycam.errors import PhotoIndexError, UserError
from whycam.explainer.reading import Reading
from whycam.maps import boxes as localize
from whycam.maps import render
from whycam.runs import write_json

# Of so many photos a line of text names the class.
_MOST_TOLD = 4


@dataclass(frozen=True, repr=False)
class Explanation:
    """Class maps for a batch, with the prediction they explain.

    Attributes:
        maps: (N, h, w) float32 raw maps as the method's paper defines them, signed if the method is; (N, T, h, w)
            where several targets were asked for; of signals (.., w), of volumes (.., d, h, w).
        logits: (N, K) float32.
        probabilities: (N, K): the softmax of the logits; of a single one, and of classes that go together, its sigmoid.
        target: (N,) or (N, T) class indices; -1 for a callable.
        class_names: K names.
        record: method, layer, target rule, scaling, resize, model and versions: what has to match for two maps of
            the same name to be comparable.
        is_signed: whether negative values count against the target.
        photos: the N photos at full size, where there are any.
        notes: N lists of sentences: why a map is blank, flat or not finite.
        paths: the N files, where there are any.
    """

    maps: Tensor
    logits: Tensor
    probabilities: Tensor
    target: Tensor
    class_names: tuple[str, ...]
    record: Mapping[str, Any]
    is_signed: bool
    photos: tuple[Image.Image, ...] = ()
    notes: tuple[tuple[str, ...], ...] = ()
    paths: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, index: int) -> Explanation:
        """The explanation of one photo, still a batch (of one).

        Raises:
            PhotoIndexError: a UserError and an IndexError: there is no such photo.
        """
        place = self._find(index)
        at = slice(place, place + 1)
        return replace(
            self,
            maps=self.maps[at],
            logits=self.logits[at],
            probabilities=self.probabilities[at],
            target=self.target[at],
            photos=self.photos[at],
            notes=self.notes[at],
            paths=self.paths[at],
        )

    def _find(self, photo: int) -> int:
        """The row of a photo; those below 0 count from the end."""
        count = len(self)
        if not hasattr(photo, "__index__"):
            raise UserError(
                f"Found {photo!r} ({type(photo).__name__}) for a photo; expected its number. To take some of them: "
                "[why[i] for i in (0, 2)]."
            )
        if not -count <= photo < count:
            raise PhotoIndexError(
                f"Found photo {int(photo)}; expected 0 to {count - 1}, or -1 for the last: this explanation is of "
                f"{count} photo{'s' * (count != 1)}. len() tells how many."
            )
        return int(photo) % count

    def __iter__(self) -> Iterator[Explanation]:
        return (self[index] for index in range(len(self)))

    @property
    def targets(self) -> Tensor:
        """(N, T) class indices, T = 1 where one target was asked for."""
        return self.target.reshape(len(self), -1)

    @property
    def predicted(self) -> Tensor:
        """(N,) each photo's top class."""
        return self.logits.argmax(dim=1)

    def given(self, photo: int = 0) -> list[str]:
        """The names of the classes that a photo is given, the likeliest first: the top one.

        Of classes that go together those at their thresholds (over one half where the model has none), none to all.
        """
        return [self.name(k) for k in self.reading(photo).given]

    def name(self, index: int) -> str:
        """A class's name; a callable target has none."""
        return self.class_names[index] if index >= 0 else "score"

    def reading(self, photo: int = 0) -> Reading:
        """One photo's maps, (T, h, w), and numbers in NumPy.

        Raises:
            PhotoIndexError: there is no such photo.
        """
        photo = self._find(photo)
        cells = self.maps.shape[self.target.ndim :]
        return Reading(
            self.maps[photo].reshape(-1, *cells).cpu().numpy(),
            self.logits[photo].cpu().numpy(),
            self.probabilities[photo].cpu().numpy(),
            self.targets[photo].cpu().numpy(),
            self.class_names,
            self.record,
            self.photos[photo] if self.photos else None,
            notes=self.notes[photo] if self.notes else (),
        )

    def heatmap(self, photo: int = 0, target: int = 0) -> np.ndarray:
        """(H, W) float32 in [0, 1]: one map, scaled, at its photo's size (at the map's own size without a photo).

        Raises:
            UserError: the map is of a signal or a volume.
        """
        return self.reading(photo).heatmap(target)

    def overlay(
        self, photo: int = 0, target: int = 0, *, colormap: str | None = None, alpha: float = render.ALPHA
    ) -> Image.Image:
        """The photo with the heat laid over it.

        Raises:
            UserError: the explanation was made of tensors and has no photos to draw on.
        """
        return self.reading(photo).overlay(target, colormap=colormap, alpha=alpha)

    def boxes(
        self, photo: int = 0, target: int = 0, *, threshold: float = localize.BOX_THRESHOLD
    ) -> list[localize.Box]:
        """Boxes around the evidence for the target in photo pixels, the largest first.

        Raises:
            UserError: the map is of a signal or a volume.
        """
        return self.reading(photo).boxes(target, threshold=threshold)

    @property
    def colormap(self) -> str:
        """The colour map that fits: diverging where both signs are drawn."""
        return render.COLORMAP_SIGNED if self.draws_both_signs else render.COLORMAP_POSITIVE

    @property
    def draws_both_signs(self) -> bool:
        """Whether heatmaps show evidence against the target too (contrast maps); else its positive part alone."""
        return bool(self.record["draws_both_signs"])

    def map(self, photo: int = 0, target: int = 0) -> Tensor:
        """(h, w) float32: one raw map; (w,) of a signal, (d, h, w) of a volume."""
        cells = self.maps.shape[self.target.ndim :]
        return self.maps.reshape(*self.targets.shape, *cells)[self._find(photo), target]

    @property
    def has_pictures(self) -> bool:
        """Whether its maps can be drawn: those of signals and volumes can't."""
        return self.maps.ndim - self.target.ndim == 2

    def save(self, folder: str | Path) -> Path:
        """Writes overlay, heatmap and raw map of each photo and target, and `explanation.json`, into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for i in range(len(self)):
            reading = self.reading(i)
            for t, index in enumerate(reading.targets.tolist()):
                stem = f"{i:04d}-{t}"
                np.save(folder / f"{stem}.npy", reading.maps[t])
                boxes = []
                if self.has_pictures:
                    levels = reading.levels(t)
                    render.to_picture(levels, self.colormap).save(folder / f"{stem}.heatmap.png")
                    boxes = [vars(box) for box in reading.boxes(t)]
                    if self.photos:
                        reading.overlay(t, heatmap=levels).save(folder / f"{stem}.overlay.png")
                rows.append(
                    {
                        "photo": i,
                        "target": self.name(index),
                        "logit": self._logit(i, index),
                        "boxes": boxes,
                        "notes": list(self.notes[i]) if self.notes else [],
                    }
                )
        write_json(folder / "explanation.json", {"record": dict(self.record), "explanations": rows})
        return folder

    def _logit(self, photo: int, index: int) -> float | None:
        return float(self.logits[photo, index]) if index >= 0 else None

    def to_png(self) -> bytes | None:
        """The overlays side by side, eight photos at the most; None of signals and volumes."""
        if not self.has_pictures:
            return None
        shown = [
            self.overlay(i) if self.photos else render.to_picture(self.heatmap(i), self.colormap)
            for i in range(min(len(self), 8))
        ]
        buffer = io.BytesIO()
        render.join_pictures(shown).save(buffer, "PNG")
        return buffer.getvalue()

    def __repr__(self) -> str:
        told = [
            f"{self.name(k)} {float(self.probabilities[i, k]):.0%}" if k >= 0 else self.name(k)
            for i, k in enumerate(self.targets[:_MOST_TOLD, 0].tolist())
        ]
        rest = f", and {len(self) - len(told)} more" if len(self) > len(told) else ""
        count = f"{len(self)} photo{'s' * (len(self) != 1)}"
        end = "overlay() gives the picture, save(FOLDER) writes all" if self.has_pictures else "map() gives the numbers"
        return f"Explanation of {count} by {self.record['method']}: {', '.join(told)}{rest}; {end}"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        """What a notebook shows. The viewer lies further up in the house, so it is looked up by its name."""
        bundle: dict[str, Any] = importlib.import_module("whycam.show.notebook").to_mimebundle(self)
        return bundle
