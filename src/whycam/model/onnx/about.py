"""What an ONNX file's metadata say of its classes and its preprocessing, in the spellings that are in use."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from whycam.data.preprocess import Preprocess
from whycam.model.onnx.takes import Takes

_NAMES = ("whycam.class_names", "class_names", "names", "classes", "labels", "id2label", "label_names")
_SIZES = ("imgsz", "input_size", "image_size")


def find_class_names(metadata: Mapping[str, str]) -> tuple[tuple[str, ...] | None, str]:
    """The names of the classes in the order of the scores, and the entry that they are from; None without any."""
    for key in _NAMES:
        names = _read_names(metadata.get(key, ""))
        if names:
            return names, f"metadata '{key}'"
    return None, ""


def _read_names(text: str) -> tuple[str, ...] | None:
    """Names of a list or of a dict by index, in JSON or as Python writes them; of a line, or lines, of names."""
    value = _read_value(text)
    if isinstance(value, dict):
        with suppress(ValueError, TypeError):
            ordered = sorted(value.items(), key=lambda item: int(item[0]))
            if [int(key) for key, _ in ordered] == list(range(len(ordered))):
                return tuple(str(name) for _, name in ordered)
        return None
    if isinstance(value, list | tuple):
        return tuple(str(name) for name in value)
    for mark in ("\n", ","):
        if mark in text.strip():
            return tuple(name.strip() for name in text.strip().split(mark))
    return None


def _read_value(text: str) -> Any:
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
        return ast.literal_eval(text)  # Python's own literals: nothing is run
    return None


def find_thresholds(metadata: Mapping[str, str], classes: int) -> tuple[float, ...]:
    """From which probability on each of K classes that go together is given; empty where the file does not say so."""
    values = _read_value(metadata.get("whycam.thresholds", ""))
    if not isinstance(values, list) or len(values) != classes or not all(isinstance(one, float) for one in values):
        return ()
    return tuple(values)


def find_size(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """(height, width) in pixels that the metadata name; None where they don't."""
    with suppress(ValidationError):
        if "whycam.preprocess" in metadata:
            stated = Preprocess.model_validate_json(metadata["whycam.preprocess"])
            return stated.height_px, stated.width_px
    for key in _SIZES:
        value = _read_value(metadata.get(key, ""))
        sides = [value] * 2 if isinstance(value, int) else list(value)[-2:] if isinstance(value, list | tuple) else []
        if len(sides) == 2 and all(isinstance(side, int) and side > 0 for side in sides):
            return sides[0], sides[1]
    return None


def find_preprocess(
    metadata: Mapping[str, str], takes: Takes, size_px: tuple[int, int]
) -> tuple[Preprocess | None, str]:
    """How a photo becomes the input, and from where that is known; None where the file does not say.

    A graph of uint8 takes pixels as they are: mean 0 and deviation 1/255 undo the scaling to [0, 1].
    """
    height, width = size_px
    stated, where = Preprocess(), ""
    with suppress(ValidationError):
        if "whycam.preprocess" in metadata:
            stated = Preprocess.model_validate_json(metadata["whycam.preprocess"])
            where = "metadata 'whycam.preprocess'"
    stated = stated.model_copy(update={"height_px": height, "width_px": width})
    if takes.dtype.kind == "u":
        plain = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}
        return stated.model_copy(update=plain), "the input's type: uint8 is pixels, 0 to 255"
    return (stated, where) if where else (None, "")
