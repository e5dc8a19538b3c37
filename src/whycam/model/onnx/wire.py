"""An ONNX file read without its weights, which stay where they are in the file until a graph is run.

Only so much of protobuf is read here as it takes to step over them: the model's graph, its initializers, their bytes.
What is stepped over is marked as ONNX marks weights in a file of their own; the file is the model's.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto, StringStringEntryProto, TensorProto, helper

# Numbers of fields in onnx.proto.
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
# Smaller weights are read with the graph.
_LEAST_BYTES = 4096
# Types whose bytes in the file are NumPy's in memory.
_PLAIN = {"FLOAT", "FLOAT16", "DOUBLE", "INT8", "INT16", "INT32", "INT64", "UINT8"}

Content = mmap.mmap | bytes


@dataclass(frozen=True)
class _Field:
    """A field of a protobuf message: its number, where it starts with its tag, and where its value is."""

    number: int
    tag: int
    start: int
    end: int


def read_model(path: Path) -> ModelProto:
    """The model in a file, without the bytes of its weights.

    Raises:
        ValueError: it is no protobuf message, or one that was cut short.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        rest, graph = bytearray(), bytearray()
        for field in _iter_fields(content, 0, len(content)):
            if field.number != _GRAPH:
                rest += content[field.tag : field.end]
                continue
            for inner in _iter_fields(content, field.start, field.end):
                graph += _step_over(content, inner, path.name)
    model: ModelProto = ModelProto.FromString(bytes(rest + _tag(_GRAPH, graph)))
    return model


def _step_over(content: Content, field: _Field, location: str) -> bytes:
    """A field of a graph as it is; of an initializer with many bytes, where these are."""
    if field.number == _INITIALIZER:
        parts = list(_iter_fields(content, field.start, field.end))
        raw = next((part for part in parts if part.number == _RAW_DATA), None)
        if raw is not None and raw.end - raw.start >= _LEAST_BYTES:
            tensor = TensorProto.FromString(b"".join(content[part.tag : part.end] for part in parts if part is not raw))
            if TensorProto.DataType.Name(tensor.data_type) in _PLAIN:
                tensor.data_location = TensorProto.EXTERNAL
                for key, value in (("location", location), ("offset", raw.start), ("length", raw.end - raw.start)):
                    tensor.external_data.append(StringStringEntryProto(key=key, value=str(value)))
                return bytes(_tag(_INITIALIZER, tensor.SerializeToString()))
    return bytes(content[field.tag : field.end])


def _tag(number: int, value: bytes | bytearray) -> bytearray:
    """A field of bytes."""
    tag, length = bytearray([number << 3 | _BYTES]), len(value)
    while length > 127:
        tag.append(length & 127 | 128)
        length >>= 7
    tag.append(length)
    return tag + value


def _iter_fields(content: Content, start: int, end: int) -> Iterator[_Field]:
    at = start
    while at < end:
        tag = at
        key, at = _read_varint(content, at, end)
        kind, begin = key & 7, at
        if kind == _VARINT:
            at = _read_varint(content, at, end)[1]
        elif kind == _BYTES:
            length, begin = _read_varint(content, at, end)
            at = begin + length
        elif kind in {_EIGHT, _FOUR}:
            at += 8 if kind == _EIGHT else 4
        else:
            raise ValueError(f"no protobuf field at byte {tag}")
        if at > end:
            raise ValueError(f"the field at byte {tag} ends behind its message")
        yield _Field(key >> 3, tag, begin, at)


def _read_varint(content: Content, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        value |= (content[at] & 127) << shift
        at += 1
        if content[at - 1] < 128:
            return value, at
    raise ValueError(f"no protobuf number at byte {at}")


def find_place(tensor: TensorProto) -> tuple[str, int, int]:
    """File, offset and bytes of a tensor that lies outside the graph; 0 bytes where that is not stated."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return entries.get("location", ""), int(entries.get("offset") or 0), int(entries.get("length") or 0)


def read_tensor(tensor: TensorProto, folder: Path) -> np.ndarray:
    """The values of a tensor that lies outside the graph, of the folder of the model."""
    location, offset, _ = find_place(tensor)
    dtype, shape = helper.tensor_dtype_to_np_dtype(tensor.data_type), tuple(tensor.dims)
    return np.fromfile(folder / location, dtype, int(np.prod(shape)), offset=offset).reshape(shape)
