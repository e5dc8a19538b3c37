"""From an uploaded file to what a model is asked with: its name checked, its bytes decoded, nothing put on disk."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image

from whycam.data.images import load_image, read_size
from whycam.data.preprocess import Preprocess
from whycam.errors import UserError
from whycam.show.entries import encode_photo

_MAX_NAME = 200
# What no file system allows in a name, or what would be markup where someone forgets to escape it.
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f/\\<>]")


@dataclass(frozen=True)
class Upload:
    """One photo, decoded.

    Attributes:
        name: the file's.
        pixels: (3, H, W) uint8, the network's input before normalisation.
        size_px: (width, height) of the upright photo.
        address: the photo as a data address; empty where it was not asked for.
        photo: at full size, where it was asked for.
    """

    name: str
    pixels: np.ndarray
    size_px: tuple[int, int]
    address: str = ""
    photo: Image.Image | None = None


class _NamedBytes(io.BytesIO):
    """Bytes with the name that messages about them give."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


def check_name(name: str) -> str:
    """The file's name, if it is a plain one.

    Raises:
        UserError: it names a folder, holds markup or control characters, or is overlong.
    """
    if len(name) > _MAX_NAME:
        raise UserError(f"The file name has {len(name)} characters; expected {_MAX_NAME} at the most. Rename the file.")
    if found := _FORBIDDEN.search(name):
        raise UserError(
            f"The file name {name!r} holds {found[0]!r}; expected a plain name without folders, '<', '>' or control "
            "characters. Rename the file."
        )
    return name


def read_upload_size(file: BinaryIO, name: str, *, max_pixels: int) -> tuple[int, int]:
    """(width, height) of the upright photo in an uploaded file, from its header; the file stays at its start.

    Raises:
        UserError: see `decode_upload`; damaged pixels are not found.
    """
    size = read_size(_NamedBytes(file.read(), check_name(name)), max_pixels=max_pixels)
    file.seek(0)
    return size


def decode_upload(
    file: BinaryIO, name: str, preprocess: Preprocess, *, max_pixels: int, photo_px: int = 0, keep_photo: bool = False
) -> Upload:
    """The photo in an uploaded file.

    Args:
        file: open at its start.
        name: as the client gave it.
        preprocess: of the model.
        max_pixels: larger photos are refused before they are decoded.
        photo_px: longer side of the photo that the answer carries; 0: none.
        keep_photo: keep it at full size too.

    Raises:
        UserError: a name that is none, or no picture that can be read.
    """
    photo = load_image(_NamedBytes(file.read(), check_name(name)), max_pixels=max_pixels)
    return Upload(
        name,
        preprocess.to_pixels(photo),
        photo.size,
        encode_photo(photo, photo_px, quality=85) if photo_px else "",
        photo if keep_photo else None,
    )
