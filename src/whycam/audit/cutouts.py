"""Objects before other grounds: an object is cut out with a soft seam, and the hole that one leaves is filled.

What is cut out is sure to be the object; the hole is larger, so that no part of the object stays on its ground.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import scipy

# How soft the seam is, of the photo's side.
_SEAM = 0.012
# Pieces that a hole is filled with, and what share of the photo may be left to its edges; cells a side in which pieces
# are looked for, and what a piece from another height loses, of the share that it covers.
_PIECES, _LEAST_LEFT, _CELLS, _DOWN = 5, 0.01, 56, 1.0
# Grounds are kept for the next photo up to so many bytes.
_MOST_BYTES = 100_000_000


@dataclass
class Cutouts:
    """Photos taken apart, as often as they are needed.

    Attributes:
        pixels: (N, 3, H, W) uint8.
        masks: row -> (H, W) bool: what is cut out.
        holes: row -> (H, W) bool: what is filled.
    """

    pixels: np.ndarray
    masks: Mapping[int, np.ndarray]
    holes: Mapping[int, np.ndarray]
    _grounds: dict[int, np.ndarray] = field(default_factory=dict)

    def swap(self, hosts: np.ndarray, donors: np.ndarray) -> np.ndarray:
        """(n, 3, H, W) uint8: the objects of the photos `hosts` (n,) before the grounds of `donors` (n,)."""
        pairs = zip(hosts.tolist(), donors.tolist(), strict=True)
        return np.stack([lay(self.pixels[h], self.masks[h], self.ground(d)) for h, d in pairs])

    def lay_on_plain(self, rows: np.ndarray) -> np.ndarray:
        """(n, 3, H, W) uint8: the objects of photos (n,) before one colour, the mean of the photo's own ground."""
        colours = [self.pixels[row][:, ~self.holes[row]].mean(1) for row in rows.tolist()]
        grounds = [np.broadcast_to(colour[:, None, None], self.pixels.shape[1:]) for colour in colours]
        return np.stack(
            [lay(self.pixels[r], self.masks[r], ground) for r, ground in zip(rows.tolist(), grounds, strict=True)]
        )

    def ground(self, row: int) -> np.ndarray:
        """(3, H, W) uint8: the photo without its object."""
        if row in self._grounds:
            return self._grounds[row]
        filled = fill(self.pixels[row], self.holes[row])
        if (len(self._grounds) + 1) * filled.nbytes <= _MOST_BYTES:
            self._grounds[row] = filled
        return filled


def lay(pixels: np.ndarray, mask: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """(3, H, W) uint8: what is under the mask (H, W) of a photo, before a ground (3, H, W), with a soft seam."""
    share = scipy.ndimage.gaussian_filter(mask.astype(np.float32), _SEAM * min(mask.shape))
    mixed: np.ndarray = ground + share * (pixels.astype(np.float32) - ground)
    return (mixed + 0.5).astype(np.uint8)


def fill(pixels: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """(3, H, W) uint8: the photo with a hole (H, W) filled from its own ground.

    Large pieces of the ground are laid over the hole, shifted or mirrored, those that cover most of it first, from the
    same height where they can be: so bricks stay bricks, and the sky stays above. What no piece covers takes the
    nearest ground, mirrored at its edge.
    """
    if not hole.any() or hole.all():
        return pixels
    pieces = []
    left = hole.copy()
    for _ in range(_PIECES):
        source, is_covered = find_piece(left, ~hole)
        pieces.append((pixels[:, source[0], source[1]], is_covered & left))
        left &= ~is_covered
        if left.mean() < _LEAST_LEFT:
            break
    filled = mirror(pixels, hole)
    for piece, cover in reversed(pieces):
        filled = lay(piece, cover, filled)
    soft: np.ndarray = np.where(hole, filled, pixels)
    return soft


def find_piece(hole: np.ndarray, ground: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each pixel where its piece comes from (2, H, W), and whether that is ground (H, W).

    Of all shifts of the photo and of its mirror image the one that lays most ground over the hole.
    """
    height, width = hole.shape
    step = max(1, min(hole.shape) // _CELLS)
    best, places = -np.inf, np.indices((height, width))
    chosen = places
    for is_mirrored in (False, True):
        shown = ground[:, ::-1] if is_mirrored else ground
        cover, downs, rights = _count_covered(hole[::step, ::step], shown[::step, ::step])
        size = max(1, int(hole[::step, ::step].sum()))
        worth = cover / size - _DOWN * np.abs(downs) / len(downs)
        at = np.unravel_index(worth.argmax(), worth.shape)
        if worth[at] > best:
            best = worth[at]
            y, x = places[0] + step * int(downs[at[0], 0]), places[1] + step * int(rights[0, at[1]])
            chosen = np.stack([y, width - 1 - x if is_mirrored else x])
    is_inside = (chosen >= 0).all(0) & (chosen[0] < height) & (chosen[1] < width)
    source = np.stack([chosen[0].clip(0, height - 1), chosen[1].clip(0, width - 1)])
    return source, is_inside & ground[source[0], source[1]]


def _count_covered(hole: np.ndarray, ground: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells of the hole that have ground at each shift (2h, 2w), and the shifts down (2h, 1) and right (1, 2w)."""
    size = (2 * hole.shape[0], 2 * hole.shape[1])
    product = np.conj(np.fft.rfft2(hole, size)) * np.fft.rfft2(ground, size)
    shifts = [np.fft.fftfreq(side, 1 / side).round().astype(int) for side in size]
    return np.fft.irfft2(product, size), shifts[0][:, None], shifts[1][None]


def mirror(pixels: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """(3, H, W): each pixel of the hole (H, W) takes the one as far outside the nearest edge as it lies inside."""
    near = scipy.ndimage.distance_transform_edt(hole, return_distances=False, return_indices=True)
    last = np.array(hole.shape).reshape(2, 1, 1) - 1
    turned = np.abs(2 * near - np.indices(hole.shape)) % (2 * last).clip(1)
    place = np.where(turned > last, 2 * last - turned, turned)
    # What lies in the hole again takes the edge that is next to it.
    source = np.where(hole[place[0], place[1]], near[:, place[0], place[1]], place)
    filled: np.ndarray = np.where(hole, pixels[:, source[0], source[1]], pixels)
    return filled
