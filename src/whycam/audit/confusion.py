"""Classes that the model mistakes for one another, and the regions that decide it: the difference of the two maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy

from whycam.audit.chance import find_interval, to_certainty
from whycam.audit.data import AuditData, read_difference
from whycam.audit.findings import LEAST_CERTAINTY, Box, EvidencePhoto, Finding, Region, quote_word
from whycam.maps import boxes as localize
from whycam.maps import render

_LEAST_PHOTOS, _MOST_PHOTOS, _THRESHOLD, _MEAN_THRESHOLD = 3, 12, 0.4, 0.6
_SIDE_PX = 128


def find_confusion(data: AuditData) -> list[Finding]:
    """A finding for each pair of classes of which the one is taken for the other more often than the errors spread."""
    findings, wrong = [], data.labels != data.predicted
    counts = {
        (k, other): int((wrong[rows] & (data.predicted[rows] == other)).sum())
        for k, rows in data.groups.items()
        for other in range(len(data.classifier.card.class_names))
        if other != k
    }
    rate = wrong.mean() / max(1, len(data.classifier.card.class_names) - 1)
    for (k, other), count in counts.items():
        p = float(scipy.stats.binom.sf(count - 1, len(data.groups[k]), rate))
        if count >= _LEAST_PHOTOS and to_certainty(p, len(counts)) >= LEAST_CERTAINTY:
            findings.append(_tell(data, k, other, to_certainty(p, len(counts))))
    return findings


def _tell(data: AuditData, k: int, other: int, certainty: float) -> Finding:
    rows = np.flatnonzero((data.labels == k) & (data.predicted == other))
    gap = data.logits[rows, other] - data.logits[rows, k]
    rows = rows[np.argsort(-gap)]
    maps = read_difference(data, rows, other, k)
    total, name, second = len(data.groups[k]), data.name(k), data.name(other)
    low, high = find_interval(len(rows), total)
    return Finding(
        kind="confusion",
        severity=len(rows) / total,
        certainty=certainty,
        cost=len(rows) / len(data),
        title=f"{len(rows)} of {total} photos of {name!r} are taken for {second!r}.",
        detail=(
            f"That is {len(rows) / total:.1%} (95 % interval {low:.1%} to {high:.1%}). The boxes show what speaks for "
            f"{second!r} and against {name!r} in each photo: the difference of the two maps; the region is their mean."
        ),
        class_name=name,
        other=second,
        region=Region("mean of what decides", find_boxes(maps.mean(0), _MEAN_THRESHOLD)),
        photos=tuple(
            EvidencePhoto(
                data.paths[row],
                find_boxes(values, _THRESHOLD),
                f"{second!r} leads by {data.logits[row, other] - data.logits[row, k]:.1f}",
            )
            for row, values in list(zip(rows.tolist(), maps, strict=True))[:_MOST_PHOTOS]
        ),
        numbers={"photos": len(rows), "of": total, "low": low, "high": high},
        remedy=f"Add photos that show what tells {name!r} from {second!r}. The command shows where it is decided.",
        command=compare_command(data.paths[rows[0]].parent, second, name),
    )


def compare_command(folder: Path, target: str, versus: str) -> str:
    """The command that shows what speaks for one class and against another in each photo of a folder."""
    words = " ".join(
        f"--{name} {quote_word(f'class:{word}')}" for name, word in (("target", target), ("versus", versus))
    )
    return f"whycam explain $MODEL {quote_word(str(folder))} -o $RESULT {words}"


def find_boxes(values: np.ndarray, threshold: float) -> tuple[Box, ...]:
    """Boxes around the positive part of a map (h, w) over a share of its maximum, as fractions of the photo."""
    heat = render.make_heatmap(values, (_SIDE_PX, _SIDE_PX), is_signed=False)
    if not heat.any():
        return ()
    found = localize.find_boxes(heat, threshold=threshold)[:3]
    return tuple((b.x0 / _SIDE_PX, b.y0 / _SIDE_PX, b.x1 / _SIDE_PX, b.y1 / _SIDE_PX) for b in found)
