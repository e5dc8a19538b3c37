"""The table of a run on a cluster: a row a photo, its maps as int8 with a scale each."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from whycam.runs import to_text

if TYPE_CHECKING:
    import pyarrow as pa

_LEVELS = 127
_TEXTS, _REMARKS = ("path", "hash", "predicted"), ("boxes", "note", "error")
_LISTS = {
    "top_index": "int32",
    "p_top": "float32",
    "target_index": "int32",
    "p_target": "float32",
    "logit": "float32",
    "scale": "float32",
}


def pack_maps(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps (T, h, w) float32 as int8 (T, h, w) and the scale (T,) of each: map = scale * int8, to half a scale.

    The scale is max|map| / 127; NaN where a map is not finite, whose int8 are zeros.
    """
    most = np.abs(maps).max(axis=tuple(range(1, maps.ndim)))
    is_finite = np.isfinite(most)
    scales = np.where(is_finite, most / np.float32(_LEVELS), np.float32(np.nan)).astype(np.float32)
    divisor = np.where(is_finite & (scales > 0), scales, 1).reshape(-1, *[1] * (maps.ndim - 1))
    levels = np.rint(np.nan_to_num(maps, nan=0, posinf=0, neginf=0) / divisor)
    return np.where(is_finite.reshape(divisor.shape), levels, 0).clip(-_LEVELS, _LEVELS).astype(np.int8), scales


def unpack_maps(content: bytes, scales: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Maps (T, h, w) float32 of a row: its `map`, its `scale`, and the `map_shape` of record.json."""
    levels = np.frombuffer(content, np.int8).reshape(shape)
    return levels * np.asarray(scales, np.float32).reshape(-1, *[1] * (len(shape) - 1))


def make_table(columns: Mapping[str, np.ndarray]) -> pa.Table:
    """Rows as `Explainer` gives them, with path and hash, as they are written; numbers of unread photos are null."""
    import pyarrow as pa  # noqa: PLC0415 - slow to import, and only workers need it

    is_read = [not error for error in columns["error"]]
    packed = [pack_maps(maps) for maps in columns["maps"]]
    lists = {**columns, "scale": np.array([scales for _, scales in packed])}

    def only_read(values: object) -> list[object]:
        return [value if ok else None for value, ok in zip(values, is_read, strict=True)]  # type: ignore[call-overload]

    def to_texts(name: str) -> pa.Array:
        return pa.array([to_text(value) or None for value in columns[name]], pa.string())

    return pa.table(
        {
            **{name: to_texts(name) for name in _TEXTS},
            **{name: pa.array(only_read(columns[name].tolist()), pa.int32()) for name in ("width_px", "height_px")},
            **{
                name: pa.array(only_read([list(row) for row in lists[name]]), pa.list_(getattr(pa, kind)()))
                for name, kind in _LISTS.items()
            },
            "map": pa.array(only_read([levels.tobytes() for levels, _ in packed]), pa.binary()),
            **{name: to_texts(name) for name in _REMARKS},
        }
    )


def to_parquet(table: pa.Table) -> bytes:
    """A Parquet file, compressed."""
    import pyarrow.parquet as pq  # noqa: PLC0415 - as above

    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    return file.getvalue()
