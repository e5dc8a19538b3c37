"""Test-time views of the images, and the mean of their maps: less noise, for as many forward passes as views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from whycam.errors import UserError

_WORDS = ("flips", "scales")
_SCALES = (0.8, 1.25)


@dataclass(frozen=True)
class Smoothing:
    """Which views are averaged beside the plain image.

    Attributes:
        flips: the mirror image of each.
        scales: the image enlarged and reduced.
    """

    flips: bool = False
    scales: bool = False

    def __str__(self) -> str:
        sizes = f"scales {', '.join(map(str, _SCALES))}" if self.scales else ""
        return "; ".join(word for word in ("horizontal flips" if self.flips else "", sizes) if word)

    @property
    def copies(self) -> int:
        """How many views of one size there are of each image."""
        return 2 if self.flips else 1

    def repeat(self, images: Tensor) -> Tensor:
        """(copies * N, ...): the images, and behind them their mirror images."""
        return torch.cat([images, images.flip(-1)]) if self.flips else images

    def resize(self, images: Tensor, cells: Sequence[int]) -> list[Tensor]:
        """The images (N, C, H, W) at each further scale, a whole number of their `cells` (h, w)."""
        if not self.scales:
            return []
        sides = images.shape[-2:]
        sizes = [
            tuple(max(1, round(max(1, round(h * scale)) * side / h)) for side, h in zip(sides, cells, strict=True))
            for scale in _SCALES
        ]
        return [functional.interpolate(images, size, mode="bilinear", antialias=True) for size in dict.fromkeys(sizes)]

    def average(self, views: Sequence[Tensor]) -> Tensor:
        """(N, T, h, w): the mean of maps (copies * N, T, ...), turned back and brought to the first one's size."""
        size = views[0].shape[-2:]
        turned = []
        for maps in views:
            plain, *mirrored = maps.chunk(self.copies)
            for part in (plain, *(part.flip(-1) for part in mirrored)):
                same = part.shape[-2:] == size
                turned.append(part if same else functional.interpolate(part, size, mode="bilinear"))
        return torch.stack(turned).mean(0)


def parse_smooth(words: str | None, images: Tensor) -> Smoothing:
    """What `flips`, `scales` or `flips,scales` asks for.

    Raises:
        UserError: another word, or no images (N, channels, H, W) to turn.
    """
    if words is None:
        return Smoothing()
    found = [word.strip() for word in words.split(",")]
    if not set(found) <= set(_WORDS):
        raise UserError(f"smooth is {words!r}; expected flips, scales, or both: 'flips,scales'. Name one of these.")
    if images.ndim != 4:
        raise UserError(
            f"smooth={words!r} turns and resizes images (N, channels, H, W); got {tuple(images.shape)}. "
            "Leave smooth out."
        )
    return Smoothing("flips" in found, "scales" in found)
