"""`whycam train --ignore` and `--attend`: which part of each photo is meant, and how it went in the end."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whycam.config import TrainOptions
from whycam.data.folder import PhotoFolder, Sample
from whycam.data.images import content_hash
from whycam.data.loader import stream_photos
from whycam.data.preprocess import Preprocess
from whycam.data.regions import Regions, find_masks, read_regions
from whycam.data.views import Swaps
from whycam.errors import UserError
from whycam.train.evidence import compute_share, to_cells

log = logging.getLogger("whycam.train")
# Views of each training photo with the region of another; measured in docs/cure.md.
SWAPPED_VIEWS = 2


@dataclass(frozen=True)
class Focus:
    """Where evidence is unwanted, by option: `ignore`, `attend` or both."""

    regions: Mapping[str, Regions]
    words: Mapping[str, str]
    weight: float
    preprocess: Preprocess

    @cached_property
    def sizes_px(self) -> dict[Path, tuple[int, int]]:
        """(width, height) of the photos that have masks."""
        paths = sorted({path for regions in self.regions.values() for path in regions.masks})
        return {p.path: p.size_px for p in stream_photos(paths, self.preprocess) if p.size_px is not None}

    def compute_cells(self, option: str, samples: Sequence[Sample], shape: tuple[int, int]) -> Tensor:
        """(N, h, w) in [0, 1]: the share of each cell where evidence is unwanted; zeros where the photo has no mask."""
        regions = self.regions[option]
        size = (self.preprocess.height_px, self.preprocess.width_px)
        none = torch.zeros(shape)
        whole = to_cells(mask, shape) if (mask := regions.draw(Path(), (0, 0), size)) is not None else None
        cells = []
        for sample in samples:
            mask = None
            if whole is None and sample.path in self.sizes_px:
                mask = regions.draw(sample.path, self.sizes_px[sample.path], size)
            cells.append(whole if whole is not None else none if mask is None else to_cells(mask, shape))
        return torch.stack(cells)

    def make_swaps(self, photos: PhotoFolder, seed: int) -> Swaps | None:
        """The training photos with the content of the ignored region exchanged."""
        if "ignore" not in self.regions:
            return None
        at_least = self.preprocess.at_least
        return Swaps(photos.train, self.regions["ignore"], seed, at_least)

    def compute_view_cells(
        self, samples: Sequence[Sample], swaps: Swaps | None, views: int, shape: tuple[int, int]
    ) -> Tensor:
        """(V, N, h, w): unwanted cells of each view of the training photos; in a swapped one those of both photos."""
        each = {option: self.compute_cells(option, samples, shape) for option in self.regions}
        own = torch.stack(list(each.values())).amax(dim=0)
        if swaps is None:
            return own[None].expand(views, -1, -1, -1)
        row_of = {sample.path: row for row, sample in enumerate(samples)}
        donors = torch.tensor([[row_of[swaps.find_donor(s.path, v)] for s in samples] for v in range(views)])
        return torch.maximum(own, each["ignore"][donors])

    def describe(self, samples: Sequence[Sample], evidence: Tensor, *, views: int) -> dict[str, Any]:
        """How much of the evidence (N, h, w) of held-out photos lies where it is unwanted, and how large that is."""
        about: dict[str, Any] = {"weight": self.weight}
        for option, words in self.words.items():
            cells = self.compute_cells(option, samples, (evidence.shape[1], evidence.shape[2]))
            has_region = cells.flatten(1).any(dim=1)
            about[option] = {"region": words, "val_photos": int(has_region.sum())}
            if has_region.any():
                shares = {"area_share": cells.mean(dim=(1, 2)), "evidence_share": compute_share(evidence, cells)}
                about[option] |= {name: float(values[has_region].mean()) for name, values in shares.items()}
        return about | {"swapped_views": views}


def make_focus(options: TrainOptions, photos: PhotoFolder, preprocess: Preprocess) -> Focus | None:
    """What the options say; None where they say nothing.

    Raises:
        UserError: a region that can't be read, or options that don't go together.
    """
    if options.ignore is None and options.attend is None:
        return None
    _check_options(options)
    paths = [sample.path for sample in photos.samples]
    regions, words = {}, {}
    if options.ignore is not None:
        regions["ignore"] = read_regions(options.ignore, paths, photos.root, "--ignore")
        words["ignore"] = options.ignore
    if options.attend is not None:
        regions["attend"] = Regions(masks=find_masks(options.attend, paths, photos.root), is_outside=True)
        words["attend"] = str(options.attend)
    focus = Focus(regions, words, options.focus_weight, preprocess)
    for option, region in regions.items():
        if not region.boxes:
            count = int(focus.compute_cells(option, photos.train, (1, 1)).flatten(1).any(dim=1).sum())
            log.info(
                "--%s: %d of %d training photos have a mask; the other %d have none, an empty one, or one of another "
                "size, and no region of their own.",
                *(option, count, len(photos.train), len(photos.train) - count),
            )
    return focus


def _check_options(options: TrainOptions) -> None:
    if options.augment:
        raise UserError(
            f"Found --augment {options.augment} beside --ignore or --attend; expected no random crops there, in which "
            "the region would lie elsewhere. Leave --augment out."
        )
    if options.attend is not None and (options.scratch or options.unfreeze != "none"):
        raise UserError(
            "Found --attend beside --scratch or --unfreeze; expected a frozen backbone: the network is trained on "
            "random crops, in which the masks would lie elsewhere. Leave them out, or use --ignore."
        )


def name_swaps(swaps: Swaps, view: int, hashes: Mapping[Path, str]) -> str:
    """A word that changes with anything that decides the pixels of a swapped view."""
    masks = {path: content_hash(mask) for path, mask in swaps.regions.masks.items() if path in hashes}
    rows = []
    for sample in swaps.samples:
        pair = (sample.path, swaps.find_donor(sample.path, view))
        rows.append([[hashes[path], masks.get(path, "")] for path in pair])
    text = json.dumps([swaps.regions.boxes, swaps.at_least, sorted(rows)])
    return f"swapped-{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"
