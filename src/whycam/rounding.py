"""Numbers as people write them, with nothing lost."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import Any


def shorten_floats(content: Any) -> Any:
    """The same with what was computed in float32 as people write it: 0.1, not 0.10000000149011612."""
    if isinstance(content, Mapping):
        return {key: shorten_floats(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [shorten_floats(value) for value in content]
    # Others are float64, or short already.
    if not isinstance(content, float) or len(repr(content)) < 12 or _to_float32(content) != content:
        return content
    return next(short for digits in range(6, 18) if _to_float32(short := float(f"{content:.{digits}g}")) == content)


def _to_float32(value: float) -> float:
    with suppress(OverflowError):
        return float(struct.unpack("f", struct.pack("f", value))[0])
    return math.inf
