"""Entries: what the viewer in a browser is given of one photo; it draws heatmaps itself, from the small raw maps."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from whycam.explainer.reading import Reading
from whycam.maps import render

COLORMAPS = (render.COLORMAP_POSITIVE, "viridis", "cividis", "turbo", render.COLORMAP_SIGNED)
_LEVELS = 32767


def make_entry(
    reading: Reading, key: str, name: str, *, image: str, truth: int | None = None, keep: Sequence[int] | None = None
) -> dict[str, Any]:
    """One photo for the viewer.

    Args:
        reading: its maps of several classes, with its photo or `size_px`.
        key: tells it from all others.
        name: what is shown: a file's name.
        image: address of the photo: a path on the server, or `encode_photo`'s.
        truth: index of the true class, where it is known.
        keep: the classes to keep of the reading's targets; notes on the others are left out. None keeps all.

    Returns:
        What JSON holds. Maps are int16 in base64, little-endian, (T, h, w); value = integer / 32767 * scale, with a
        `scale` for each class, so an entry differs from its map by 1 / 65534 of the map's largest value at the most.
    """
    targets = [int(k) for k in reading.targets]
    chosen = sorted(range(len(targets)), key=lambda i: -float(reading.logits[targets[i]]))
    chosen = [i for i in chosen if keep is None or targets[i] in keep]
    classes = [targets[i] for i in chosen]
    maps = np.nan_to_num(np.asarray(reading.maps, dtype=np.float32)[chosen])
    scale = np.abs(maps).max(axis=(1, 2))
    levels = np.rint(maps / np.where(scale > 0, scale, 1)[:, None, None] * _LEVELS).astype("<i2")
    width, height = reading.find_size()

    def tells(note: str, of: Sequence[int]) -> bool:
        return any(repr(reading.name(k)) in note for k in of)

    return {
        "id": key,
        "name": name,
        "width": width,
        "height": height,
        "image": image,
        "truth": truth,
        "classes": classes,
        "logits": [float(reading.logits[k]) for k in classes],
        "probabilities": [float(reading.probabilities[k]) for k in classes],
        "maps": {"shape": list(maps.shape), "scale": scale.tolist(), "data": _to_text(levels.tobytes())},
        "method": str(reading.record["method"]),
        "notes": [note for note in reading.notes if tells(note, classes) or not tells(note, targets)],
    }


def encode_photo(photo: Image.Image, side_px: int = 360, quality: int = 66) -> str:
    """The photo as a data address: JPEG, its longer side `side_px` at the most."""
    small = shrink_photo(photo, side_px)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{_to_text(file.getvalue())}"


def shrink_photo(photo: Image.Image, side_px: int = 360) -> Image.Image:
    """The photo in RGB, its longer side `side_px` at the most: what `encode_photo` shows of it."""
    small = photo.convert("RGB")
    small.thumbnail((side_px, side_px))
    return small


def encode_colormaps() -> dict[str, str]:
    """Name -> 256 colours, three bytes each, in base64: the viewer's colours are those of the pictures on disk."""
    return {name: _to_text(render.read_colors(name).tobytes()) for name in COLORMAPS}


def _to_text(data: bytes) -> str:
    return base64.b64encode(data).decode()
