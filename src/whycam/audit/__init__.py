"""Is a model right for the wrong reason? audit() and what it gives back."""

from whycam.audit.findings import Audit, EvidencePhoto, Finding, Region
from whycam.audit.run import KINDS, audit

__all__ = ["KINDS", "Audit", "EvidencePhoto", "Finding", "Region", "audit"]
