"""Model folders as they should not be: each case changes a sound one, with the hash of its weights made right again."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

Change = Callable[[Path], None]
# What a field may hold instead of what belongs there.
_WRONG: tuple[Any, ...] = (
    None,
    3,
    -1,
    0,
    1e308,
    float("nan"),
    float("inf"),
    True,
    "",
    "x" * 10_000,
    [],
    {},
    [[]],
    "\ud800",
)
_NESTED = "[" * 200_000 + "]" * 200_000


def iter_cases() -> Iterator[tuple[str, Change]]:
    """(name, change) of all of them."""
    for place in (
        ("architecture",),
        ("whycam",),
        *(("whycam", name) for name in ("format", "head", "class_names", "map_stride", "preprocess", "source")),
        *(("whycam", name) for name in ("identity_error", "sha256", "versions")),
        *(
            ("whycam", "preprocess", name)
            for name in ("height_px", "width_px", "mean", "std", "interpolation", "resize")
        ),
    ):
        for value in _WRONG:
            yield f"{'.'.join(place)} = {value!r:.20}", _set(place, value)
    for name, values in {
        "mean": ([0.5], [0.5] * 4, ["a"] * 3, [1e300] * 3),
        "std": ([0.0] * 3, [0.5, 0, 0.5], [-1.0] * 3, [1e-300] * 3, [0.5]),
        "height_px": (8193, 10**30, 1),
    }.items():
        for value in values:
            yield f"{name} = {value!r:.20}", _set(("whycam", "preprocess", name), value)
    for names in (
        [],
        ["a"],
        ["a"] * 4,
        [1, 2, 3],
        [None] * 3,
        ["\ud800", "b", "c"],
        [["a"], "b", "c"],
        ["a"] * 100_001,
    ):
        yield f"class_names = {names!r:.20} ({len(names)})", _set(("whycam", "class_names"), names)
    for name in ("resnet99", "../../etc/passwd", "test_vit", "test_convnext", "test_resnet.tag"):
        yield f"architecture = {name}", _set(("architecture",), name)
    for text in (
        b"",
        b"null",
        b"3",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"\x00" * 99,
        _NESTED.encode(),
        b'{"whycam": ' + _NESTED.encode(),
    ):
        yield f"config.json = {text[:12]!r} ({len(text)})", _write("config.json", text)
    yield from _iter_weights()


def _iter_weights() -> Iterator[tuple[str, Change]]:
    for name, value in {"NaN": float("nan"), "inf": float("inf"), "1e38": 1e38}.items():
        yield f"weights of {name}", _fill(value)
    tensor = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    for about in (
        {},
        [],
        3,
        "x",
        {"fc.weight": 3},
        {"fc.weight": tensor | {"shape": [2**62, 4]}},
        {"fc.weight": tensor | {"shape": [-2]}},
        {"fc.weight": tensor | {"dtype": "F8_E4M3", "shape": [8]}},
        {"fc.weight": tensor | {"dtype": "X9"}},
        {"fc.weight": tensor | {"data_offsets": [8, 0]}},
        {"fc.weight": tensor | {"data_offsets": [0, 2**63]}},
        {"fc.weight": tensor},
    ):
        text = json.dumps(about).encode()
        yield f"header {text[:60]!r}", _write("model.safetensors", struct.pack("<Q", len(text)) + text + bytes(8))
    for content in (
        b"",
        b"\xff" * 8,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 9) + b"not json!",
        b"PK\x03\x04",
    ):
        yield f"model.safetensors = {content[:12]!r}", _write("model.safetensors", content)
    yield "a weight is a scalar", _replace("fc.weight", torch.tensor(1.0))
    yield "a weight is complex", _replace("fc.weight", torch.zeros(3, 128, dtype=torch.complex64))
    yield "a weight is whole", _replace("fc.weight", torch.zeros(3, 128, dtype=torch.int64))
    yield "the bias is missing", _replace("fc.bias", None)
    yield "a second neck", _replace("neck.0.weight", torch.zeros(2))


def _read(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text()))


def _set(place: tuple[str, ...], value: object) -> Change:
    def change(folder: Path) -> None:
        config = inside = _read(folder)
        for name in place[:-1]:
            inside = inside[name]
        inside[place[-1]] = value
        (folder / "config.json").write_text(json.dumps(config))

    return change


def _write(name: str, content: bytes) -> Change:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)
        if name != "config.json":
            _set(("whycam", "sha256"), hashlib.sha256(content).hexdigest())(folder)

    return change


def _fill(value: float) -> Change:
    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        next(tensor for tensor in tensors.values() if tensor.ndim == 4).fill_(value)
        _write("model.safetensors", save(tensors))(folder)

    return change


def _replace(name: str, tensor: torch.Tensor | None) -> Change:
    def change(folder: Path) -> None:
        tensors = {key: old for key, old in load_file(folder / "model.safetensors").items() if key != name}
        _write("model.safetensors", save(tensors | ({name: tensor} if tensor is not None else {})))(folder)

    return change
