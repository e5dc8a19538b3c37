"""From what a request of KServe's protocols holds to photos: each is work for a decoding thread."""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from whycam.data.preprocess import Preprocess
from whycam.errors import UserError, as_clause
from whycam.show.app.kserve_answers import INPUTS, InferInput
from whycam.show.app.uploads import Upload, decode_upload

_LENGTH_BYTES = 4
_Source = bytes | np.ndarray


def read_instances(instances: Sequence[Any]) -> list[tuple[str, _Source]]:
    """The photos of V1, each with the name that messages give: a file's bytes, or pixels (H, W, 3) uint8.

    Raises:
        UserError: an instance is neither.
    """
    names = [f"instances[{k}]" for k in range(len(instances))]
    return [(name, _read_instance(name, instance)) for name, instance in zip(names, instances, strict=True)]


def _read_instance(name: str, instance: object) -> _Source:
    if isinstance(instance, list):
        return _read_pixels(name, instance)
    inner = instance.get("image", instance) if isinstance(instance, dict) else None
    if isinstance(inner, list):
        return _read_pixels(name, inner)
    text = inner.get("b64") if isinstance(inner, dict) else None
    if not isinstance(text, str):
        found = f"an object of {', '.join(map(repr, instance)) or 'nothing'}" if isinstance(instance, dict) else None
        raise UserError(
            f"{name} is {found or f'of type {type(instance).__name__}'}; expected "
            '{"b64": "..."} or {"image": {"b64": "..."}}, a photo\'s file in base64, or its pixels as lists (H, W, 3). '
            "Send one of these."
        )
    return _read_base64(name, text)


def read_tensor(tensor: InferInput, data: bytes | None) -> list[tuple[str, _Source]]:
    """The photos of V2, as `read_instances`.

    Args:
        tensor: as the request describes it.
        data: where the tensor came as bytes.

    Raises:
        UserError: a type, a shape or data that do not fit.
    """
    known = {datatype for datatype, _ in INPUTS.values()}
    if tensor.datatype not in known:
        raise UserError(
            f"The input {tensor.name!r} has the datatype {tensor.datatype!r}; expected BYTES, photo files, or UINT8, "
            "pixels (N, H, W, 3). Send one of these."
        )
    if tensor.datatype == "BYTES":
        files = _read_files(tensor) if data is None else _split_bytes(tensor.name, data)
        _check_count(tensor, len(files), "photo files")
        return [(f"{tensor.name}[{k}]", file) for k, file in enumerate(files)]
    if len(tensor.shape) != 4 or tensor.shape[-1] != 3 or 0 in tensor.shape[1:]:
        raise UserError(
            f"The input {tensor.name!r} has the shape {tensor.shape}; expected [N, H, W, 3], RGB pixels. "
            "Put the channels last, and the photos first."
        )
    values = _to_bytes(tensor.name, tensor.data) if data is None else np.frombuffer(data, np.uint8)
    _check_count(tensor, values.size, "values")
    return [(f"{tensor.name}[{k}]", photo) for k, photo in enumerate(values.reshape(tensor.shape))]


def decode_photo(name: str, source: _Source, preprocess: Preprocess, *, max_pixels: int) -> Upload:
    """The photo at the network's size.

    Raises:
        UserError: no picture that can be read, or one that is larger than `max_pixels`.
    """
    if isinstance(source, bytes):
        return decode_upload(io.BytesIO(source), name, preprocess, max_pixels=max_pixels)
    height, width = source.shape[:2]
    if height * width > max_pixels:
        raise UserError(
            f"{name!r} has {width} x {height} = {width * height:,} pixels; the limit is {max_pixels:,}. "
            "Send a smaller photo, or start the server with a larger --max-pixels."
        )
    photo = Image.fromarray(np.ascontiguousarray(source))
    return Upload(name, preprocess.to_pixels(photo), photo.size)


def _read_pixels(name: str, rows: list[Any]) -> np.ndarray:
    try:
        values = np.array(rows)
    except (ValueError, OverflowError):  # lists of different lengths, or numbers of any size
        values = np.array(None)
    if values.ndim != 3 or values.shape[-1] != 3 or not values.size:
        found = "lists of different lengths" if values.dtype == object else f"lists of the shape {values.shape}"
        raise UserError(
            f"{name} holds {found}; expected pixels (H, W, 3), whole numbers of 0 to 255. Send RGB, channels last."
        )
    return _check_bytes(name, values)


def _to_bytes(name: str, data: list[Any]) -> np.ndarray:
    try:
        values = np.array(data)
    except (ValueError, OverflowError):
        values = np.array(None)
    return _check_bytes(name, values).reshape(-1)


def _check_bytes(name: str, values: np.ndarray) -> np.ndarray:
    if values.size and (values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255):
        found = f"{values.min()} to {values.max()}" if values.dtype.kind in "iuf" else "something else than numbers"
        raise UserError(
            f"{name} holds {found}; expected whole numbers of 0 to 255 in lists of one length. "
            "Send pixels as they are, before any normalisation."
        )
    return values.astype(np.uint8)


def _read_files(tensor: InferInput) -> list[bytes]:
    flat: list[Any] = tensor.data
    while any(isinstance(one, list) for one in flat):
        flat = [item for one in flat for item in (one if isinstance(one, list) else [one])]
    return [_read_base64(f"{tensor.name}[{k}]", text) for k, text in enumerate(flat)]


def _read_base64(name: str, text: object) -> bytes:
    try:
        if isinstance(text, str):
            return base64.b64decode(text, validate=True)
        found = f"of type {type(text).__name__}"
    except (binascii.Error, ValueError) as error:
        found = f"no base64 ({as_clause(error)})"
    raise UserError(f"{name} is {found}; expected a photo's file in base64. Encode the file's bytes, without breaks.")


def _split_bytes(name: str, data: bytes) -> list[bytes]:
    """Elements of a BYTES tensor: each has its length, four bytes with the lowest first, before it."""
    files: list[bytes] = []
    start = 0
    while start < len(data):
        begin = start + _LENGTH_BYTES
        start = begin + int.from_bytes(data[start:begin], "little")
        if start > len(data):
            raise UserError(
                f"The input {name!r} ends within its element {len(files)}; expected a length of {_LENGTH_BYTES} bytes, "
                "little-endian, and so many bytes, for each. See the protocol's extension for binary data."
            )
        files.append(data[begin:start])
    return files


def _check_count(tensor: InferInput, found: int, what: str) -> None:
    expected = math.prod(tensor.shape)
    if found != expected:
        raise UserError(
            f"The input {tensor.name!r} holds {found:,} {what}; expected {expected:,} for its shape {tensor.shape}. "
            "Send the shape that the data have."
        )
