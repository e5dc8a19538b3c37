"""Tints: the lightest and darkest values that photos of a class reach in each channel, which a tint moves.

What is on a photo hardly changes these bounds, so they tell the camera, the scan or the filter from the object.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from whycam.audit.data import AuditData
from whycam.audit.findings import Region
from whycam.audit.suspects import Change, Suspect, list_classes

# On clean flowers the bounds of the classes lie within 6 levels of 255 of each other.
_LEAST_SHIFT = 14
_DARK, _LIGHT = (1, 10), (99, 90)


@dataclass(frozen=True)
class Bounds:
    """The darkest and lightest value of each channel that most photos of a class reach, (3,) each."""

    dark: np.ndarray
    light: np.ndarray


def suspect_tints(data: AuditData) -> list[Suspect]:
    """The classes whose bounds are not those of the other classes."""
    bounds = {k: measure_bounds(data.pixels[data.groups[k]]) for k in list_classes(data)}
    suspects = []
    for label, own in bounds.items():
        others = [b for k, b in bounds.items() if k != label]
        if not others:
            continue
        usual = Bounds(np.median([b.dark for b in others], axis=0), np.median([b.light for b in others], axis=0))
        shift = max(np.abs(own.dark - usual.dark).max(), np.abs(own.light - usual.light).max())
        if shift >= _LEAST_SHIFT:
            change = exchange_bounds(data, bounds)
            words = f"Its photos have another range of colours: {_describe(own, usual)}."
            suspects.append(
                Suspect("tint", label, Region("all over the photo"), change, change, "a tint of the photo", words)
            )
    return suspects


def measure_bounds(pixels: np.ndarray) -> Bounds:
    """Bounds of photos (n, 3, H, W): a tenth of them reach further."""
    values = pixels.reshape(len(pixels), 3, -1)[:, :, ::7]
    dark, light = np.percentile(values, [_DARK[0], _LIGHT[0]], axis=2)
    return Bounds(np.percentile(dark, _DARK[1], axis=0), np.percentile(light, _LIGHT[1], axis=0))


def exchange_bounds(data: AuditData, bounds: dict[int, Bounds]) -> Change:
    """Stretches a host's values so that its class's bounds become those of the donor's class."""
    of_row = {int(row): bounds[k] for k in bounds for row in data.groups[k]}

    def change(hosts: np.ndarray, donors: np.ndarray) -> np.ndarray:
        changed = []
        for host, donor in zip(hosts.tolist(), donors.tolist(), strict=True):
            old, new = of_row[host], of_row[donor]
            slope = (new.light - new.dark) / np.maximum(old.light - old.dark, 1)
            values = (data.pixels[host] - old.dark[:, None, None]) * slope[:, None, None] + new.dark[:, None, None]
            changed.append(values.clip(0, 255).astype(np.uint8))
        return np.stack(changed)

    return change


def _describe(own: Bounds, usual: Bounds) -> str:
    parts = [
        f"{channel} from {a:.0f} to {b:.0f} (others {c:.0f} to {d:.0f})"
        for channel, a, b, c, d in zip(
            ("red", "green", "blue"), own.dark, own.light, usual.dark, usual.light, strict=True
        )
        if max(abs(a - c), abs(b - d)) >= _LEAST_SHIFT / 2
    ]
    return "; ".join(parts)
