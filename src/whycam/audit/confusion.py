"""Classes that the model mistakes for one another, and the regions that decide it: the difference of the two maps."""

from __future__ import annotations

from typing import cast

import numpy as np
from scipy import stats

from whycam import localize, render
from whycam.audit.album import Album
from whycam.audit.chance import find_interval, to_certainty
from whycam.audit.findings import LEAST_CERTAINTY, Box, EvidencePhoto, Finding, Region
from whycam.explanation import Explanation

_LEAST_PHOTOS, _MOST_PHOTOS, _THRESHOLD, _MEAN_THRESHOLD = 3, 12, 0.4, 0.6
_SIDE_PX = 128


def find_confusion(album: Album) -> list[Finding]:
    """A finding for each pair of classes of which the one is taken for the other more often than the errors spread."""
    findings, wrong = [], album.labels != album.predicted
    counts = {
        (k, other): int((wrong[rows] & (album.predicted[rows] == other)).sum())
        for k, rows in album.groups.items()
        for other in range(len(album.model.class_names))
        if other != k
    }
    rate = wrong.mean() / max(1, len(album.model.class_names) - 1)
    for (k, other), count in counts.items():
        p = float(stats.binom.sf(count - 1, len(album.groups[k]), rate))
        if count >= _LEAST_PHOTOS and to_certainty(p, len(counts)) >= LEAST_CERTAINTY:
            findings.append(_tell(album, k, other, to_certainty(p, len(counts))))
    return findings


def _tell(album: Album, k: int, other: int, certainty: float) -> Finding:
    rows = np.flatnonzero((album.labels == k) & (album.predicted == other))
    gap = album.logits[rows, other] - album.logits[rows, k]
    rows = rows[np.argsort(-gap)]
    method = "cam" if album.is_exact else "grad-cam"
    why = cast(Explanation, album.model.explain_pixels(album.pixels[rows], other, method, versus=k))
    maps = why.maps.detach().cpu().numpy()
    total, name, second = len(album.groups[k]), album.name(k), album.name(other)
    low, high = find_interval(len(rows), total)
    return Finding(
        kind="confusion",
        severity=len(rows) / total,
        certainty=certainty,
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
                album.paths[row],
                find_boxes(values, _THRESHOLD),
                f"{second!r} leads by {album.logits[row, other] - album.logits[row, k]:.1f}",
            )
            for row, values in list(zip(rows.tolist(), maps, strict=True))[:_MOST_PHOTOS]
        ),
        numbers={"photos": len(rows), "of": total, "low": low, "high": high},
    )


def find_boxes(values: np.ndarray, threshold: float) -> tuple[Box, ...]:
    """Boxes around the positive part of a map (h, w) over a share of its maximum, as fractions of the photo."""
    heat = render.make_heatmap(values, (_SIDE_PX, _SIDE_PX), is_signed=False)
    if not heat.any():
        return ()
    found = localize.find_boxes(heat, threshold=threshold)[:3]
    return tuple((b.x0 / _SIDE_PX, b.y0 / _SIDE_PX, b.x1 / _SIDE_PX, b.y1 / _SIDE_PX) for b in found)
