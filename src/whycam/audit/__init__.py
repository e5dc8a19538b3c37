"""Is a model right for the wrong reason? audit() and what it gives back."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whycam.audit.findings import Audit, EvidencePhoto, Finding, Region
    from whycam.audit.run import KINDS, audit

__all__ = ["KINDS", "Audit", "EvidencePhoto", "Finding", "Region", "audit"]

# Name -> the file that has it; loaded at first use: who needs one part of an audit does without the others.
_HOMES = {
    "KINDS": "whycam.audit.run",
    "Audit": "whycam.audit.findings",
    "EvidencePhoto": "whycam.audit.findings",
    "Finding": "whycam.audit.findings",
    "Region": "whycam.audit.findings",
    "audit": "whycam.audit.run",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'whycam.audit' has no attribute {name!r}")
