"""Reading: one photo's maps with the prediction they explain, in NumPy: what is drawn and written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from whycam.errors import UserError
from whycam.maps import boxes as localize
from whycam.maps import render
from whycam.model.card import find_given

_BOX_SIDE_PX = 256


@dataclass(frozen=True)
class Reading:
    """One photo's maps.

    Attributes:
        maps: (T, h, w) float32 raw maps; of signals (T, w), of volumes (T, d, h, w).
        logits: (K,) float32.
        probabilities: (K,).
        targets: (T,) class indices; -1 for a callable.
        class_names: K names.
        record: how the maps were made.
        photo: at full size, where there is one.
        size_px: (width, height) of the photo where it is not kept; heatmaps and boxes have this size.
        notes: why a map is blank, flat or not finite.
    """

    maps: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray
    targets: np.ndarray
    class_names: tuple[str, ...]
    record: Mapping[str, Any]
    photo: Image.Image | None = None
    size_px: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()

    @property
    def predicted(self) -> int:
        """The top class."""
        return int(self.logits.argmax())

    @property
    def given(self) -> list[int]:
        """The classes that are given, the likeliest first: the top one; of classes that go together, any number."""
        if self.record.get("output") != "multi-label logits":
            return [self.predicted]
        is_given = find_given(self.probabilities, self.record.get("thresholds", ()))
        return [int(k) for k in np.argsort(-self.probabilities, kind="stable") if is_given[k]]

    def name(self, index: int) -> str:
        """A class's name; a callable target has none."""
        return self.class_names[index] if index >= 0 else "score"

    @property
    def draws_both_signs(self) -> bool:
        """Whether heatmaps show evidence against the target too (contrast maps); else its positive part alone."""
        return bool(self.record["draws_both_signs"])

    @property
    def colormap(self) -> str:
        """The colour map that fits: diverging where both signs are drawn."""
        return render.COLORMAP_SIGNED if self.draws_both_signs else render.COLORMAP_POSITIVE

    def heatmap(self, target: int = 0) -> np.ndarray:
        """(H, W) float32 in [0, 1]: one map, scaled, at its photo's size (at the map's own size without a photo).

        Raises:
            UserError: the map is of a signal or a volume.
        """
        values = self._check(target)
        return render.make_heatmap(values, self.find_size()[::-1], is_signed=self.draws_both_signs)

    def levels(self, target: int = 0) -> np.ndarray:
        """(H, W) uint8: the heatmap in 256 steps, as it is drawn; of a large photo it takes far less memory.

        Raises:
            UserError: the map is of a signal or a volume.
        """
        values = self._check(target)
        return render.draw_levels(values, self.find_size()[::-1], is_signed=self.draws_both_signs)

    def overlay(
        self,
        target: int = 0,
        *,
        colormap: str | None = None,
        alpha: float = render.ALPHA,
        heatmap: np.ndarray | None = None,
    ) -> Image.Image:
        """The photo with the heat laid over it; `heatmap`, or its `levels`, saves making it again.

        Raises:
            UserError: the explanation was made of tensors and has no photos to draw on.
        """
        if self.photo is None:
            raise UserError(
                "Found no photos in this explanation (it was made of tensors); expected some to draw on. "
                "Pass paths or images, or use heatmap()."
            )
        heat = self.levels(target) if heatmap is None else heatmap
        return render.lay_over(
            self.photo, heat, colormap or self.colormap, alpha=alpha, is_signed=self.draws_both_signs
        )

    def boxes(self, target: int = 0, *, threshold: float = localize.BOX_THRESHOLD) -> list[localize.Box]:
        """Boxes around the evidence for the target in photo pixels, the largest first.

        In photos of more than 256 px a side they are found at that size: a map has no finer detail.

        Raises:
            UserError: the map is of a signal or a volume.
        """
        values = self._check(target)
        width, height = self.find_size()
        shrink = min(1.0, _BOX_SIDE_PX / max(width, height))
        size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
        heatmap = render.make_heatmap(values, size, is_signed=False)
        boxes = localize.find_boxes(heatmap, threshold=threshold)
        return boxes if shrink == 1 else [localize.enlarge_box(box, width / size[1], height / size[0]) for box in boxes]

    def find_size(self) -> tuple[int, int]:
        """(width, height) that heatmaps are drawn at."""
        return self.size_px or (self.photo.size if self.photo else (self.maps.shape[-1], self.maps.shape[-2]))

    def _check(self, target: int) -> np.ndarray:
        values: np.ndarray = self.maps[target]
        if values.ndim != 2:
            raise UserError(
                f"The map is {values.shape}, that of a signal or a volume; a heatmap is drawn of maps (h, w). "
                "Take the raw values, why.map(), or explain a slice."
            )
        return values
