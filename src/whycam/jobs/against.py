"""`whycam train --against`: a finding of an audit to the exchange of its cause between photos."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from whycam.audit.cutouts import fill, lay
from whycam.audit.objects import LEAST_SHARE, MOST_SHARE, draw_mask
from whycam.config import TrainOptions
from whycam.data.exchange import Change, Exchange, read_exchange
from whycam.data.folder import PhotoFolder
from whycam.data.images import load_image
from whycam.data.preprocess import Preprocess
from whycam.maps.objects import RECIPE, Finder, open_finder

# Photos taken apart that are kept for their next turn, some 0.3 MB each.
_KEPT = 600


@dataclass(frozen=True)
class Taken:
    """A photo taken apart: pixels (3, H, W) uint8, what is sure to be the object (H, W), the ground (3, H, W) alone."""

    pixels: np.ndarray
    mask: np.ndarray
    ground: np.ndarray


class GroundChange:
    """What lies behind the object, whose place the installed network finds: the audit's swap of grounds."""

    def __init__(self, preprocess: Preprocess, finder: Finder) -> None:
        self.preprocess, self.finder = preprocess, finder
        self._take_apart = lru_cache(_KEPT)(self.take_apart)

    @property
    def key(self) -> str:
        """See `Change`."""
        return json.dumps(["ground", RECIPE, self.preprocess.model_dump(mode="json"), 1])

    def __call__(self, photo: Path, donor: Path) -> Image.Image:
        """The photo's object before the donor's ground; the photo as it is where either has no object to be found."""
        host, other = self._take_apart(photo), self._take_apart(donor)
        if host is None or other is None:
            return load_image(photo, at_least=self.preprocess.at_least)
        return Image.fromarray(lay(host.pixels, host.mask, other.ground).transpose(1, 2, 0))

    def take_apart(self, path: Path) -> Taken | None:
        """The photo's object and its ground; None where the object covers nothing of it, or most."""
        pixels = self.preprocess.to_pixels(load_image(path, at_least=self.preprocess.at_least))
        mask, hole = draw_mask(pixels, next(self.finder.see(pixels[None])).heat[0])
        if mask.mean() < LEAST_SHARE or hole.mean() > MOST_SHARE:
            return None
        return Taken(pixels, mask, fill(pixels, hole))


def make_exchange(options: TrainOptions, photos: PhotoFolder, preprocess: Preprocess) -> Exchange | None:
    """What `--against` names; None where it names nothing.

    Raises:
        UserError: no such finding, or one whose cause can't be exchanged.
    """
    if options.against is None:
        return None

    def make_ground() -> Change:
        return GroundChange(preprocess, open_finder(len(photos.samples)))

    return read_exchange(options.against, photos, preprocess.at_least, options.seed, make_ground)
