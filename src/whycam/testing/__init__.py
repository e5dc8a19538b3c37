"""Tests that keep a model mended: `from whycam.testing import assert_accuracy`, with pytest or without."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whycam.testing.accuracy import check_accuracy
    from whycam.testing.asserts import (
        BrokenGuardError,
        InconclusiveWarning,
        assert_accuracy,
        assert_evidence_kept,
        assert_exact,
        assert_looks_at,
        assert_no_shortcut,
    )
    from whycam.testing.exactness import check_exact
    from whycam.testing.kept import check_evidence_kept
    from whycam.testing.looks import check_looks_at
    from whycam.testing.rule import State
    from whycam.testing.shortcuts import check_no_shortcut
    from whycam.testing.verdict import Verdict

__all__ = [
    "BrokenGuardError",
    "InconclusiveWarning",
    "State",
    "Verdict",
    "assert_accuracy",
    "assert_evidence_kept",
    "assert_exact",
    "assert_looks_at",
    "assert_no_shortcut",
    "check_accuracy",
    "check_evidence_kept",
    "check_exact",
    "check_looks_at",
    "check_no_shortcut",
]

# Public name -> the file that has it; loaded at first use: the pytest plugin is here, and must bring in nothing.
_HOMES = {
    "State": "rule",
    "Verdict": "verdict",
    "check_accuracy": "accuracy",
    "check_evidence_kept": "kept",
    "check_exact": "exactness",
    "check_looks_at": "looks",
    "check_no_shortcut": "shortcuts",
}


def __getattr__(name: str) -> object:
    if name in __all__:
        home = _HOMES.get(name, "asserts")
        return getattr(importlib.import_module(f"whycam.testing.{home}"), name)
    raise AttributeError(f"module 'whycam.testing' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
