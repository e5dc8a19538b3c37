"""Photos whose answer a small crop, shift or mirror changes, and those whose evidence lies on the photo's border."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
from PIL import Image

from whycam.audit.chance import find_interval
from whycam.audit.data import AuditData
from whycam.audit.findings import EvidencePhoto, Finding, Region
from whycam.audit.regions import frame

# Only photos whose two best classes are close change with so little: the closest ones are tried.
_MOST_TRIED, _MOST_PHOTOS = 128, 12
_TRIED_SHARE = 0.35
# Share of the evidence in the outermost cells from which it is said to lie on the border.
_BORDER_SHARE = 0.8
_LEAST_PHOTOS = 3


def mirror(pixels: np.ndarray) -> np.ndarray:
    """(3, H, W) turned left to right."""
    return pixels[..., ::-1]


def crop(pixels: np.ndarray) -> np.ndarray:
    """(3, H, W) without 4 % at each edge, enlarged again."""
    height, width = pixels.shape[1:]
    box = (width * 0.04, height * 0.04, width * 0.96, height * 0.96)
    photo = Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels, 0, -1)))
    return np.moveaxis(np.asarray(photo.resize((width, height), Image.Resampling.BICUBIC, box=box)), -1, 0)


def shift(pixels: np.ndarray) -> np.ndarray:
    """(3, H, W) moved by 5 % to the right and down, the edges repeated."""
    down, right = (round(side * 0.05) for side in pixels.shape[1:])
    return np.pad(pixels, ((0, 0), (down, 0), (right, 0)), mode="edge")[:, : pixels.shape[1], : pixels.shape[2]]


VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mirrored": mirror,
    "cropped by 4 %": crop,
    "shifted by 5 %": shift,
}


def find_fragile(data: AuditData) -> list[Finding]:
    """A finding for each predicted class with photos that change, and one for evidence on the border."""
    top_two = np.sort(data.logits, 1)[:, -2:]
    clarity = top_two[:, 1] - top_two[:, 0]
    tried = np.argsort(clarity)[: min(_MOST_TRIED, max(8, round(_TRIED_SHARE * len(data))))]
    changes: dict[int, dict[str, int]] = {int(row): {} for row in tried}
    truth = data.labels if data.has_labels else data.predicted
    lost: Counter[int] = Counter()
    for name, view in VIEWS.items():
        said = data.run(np.stack([np.ascontiguousarray(view(data.pixels[row])) for row in tried])).argmax(1)
        for row, k in zip(tried.tolist(), said.tolist(), strict=True):
            if k != data.predicted[row]:
                changes[row][name] = k
            # A change may put right what was wrong: what is lost in sum is the cost.
            lost[int(data.predicted[row])] += int(data.predicted[row] == truth[row]) - int(k == truth[row])
    fragile = [row for row, found in changes.items() if found]
    findings = []
    for k in np.unique(data.predicted[fragile]) if fragile else []:
        rows = [row for row in fragile if data.predicted[row] == k]
        if len(rows) >= _LEAST_PHOTOS:
            cost = max(0, lost[int(k)]) / len(VIEWS) / len(data)
            findings.append(_tell_changes(data, int(k), rows, changes, cost))
    return findings + find_border(data)


def _tell_changes(data: AuditData, k: int, rows: list[int], changes: dict[int, dict[str, int]], cost: float) -> Finding:
    rows = sorted(rows, key=lambda row: -len(changes[row]))
    total, name = int((data.predicted == k).sum()), data.name(k)
    photos = [
        EvidencePhoto(
            data.paths[row], note="; ".join(f"{view}: {data.name(said)!r}" for view, said in changes[row].items())
        )
        for row in rows[:_MOST_PHOTOS]
    ]
    low, high = find_interval(len(rows), total)
    which, what = f"taken for {name!r}", "change their class"
    if data.classifier.card.is_multi_label:
        which, what = f"whose strongest label is {name!r}", "get another strongest label"
    return Finding(
        kind="fragile",
        severity=len(rows) / total,
        certainty=1.0,
        cost=cost,
        title=f"{len(rows)} of {total} photos {which} {what} if cropped, shifted or mirrored.",
        detail=(
            f"Each was {', '.join(VIEWS)}; {len(rows) / total:.1%} of the photos {which} (95 % interval "
            f"{low:.1%} to {high:.1%}) {what} in one of these at least."
        ),
        class_name=name,
        photos=tuple(photos),
        numbers={"photos": len(rows), "of": total, "low": low, "high": high},
        remedy="Train with random views of each photo, so that a small change no longer matters.",
        command="whycam train $FOLDER -o $RESULT --augment 4",
    )


def find_border(data: AuditData) -> list[Finding]:
    """Photos whose evidence lies in the outermost cells; said only where those are a minor part of the photo."""
    positive = data.evidence.clip(0)
    height, width = positive.shape[1:]
    inner = positive[:, 1:-1, 1:-1].sum((1, 2))
    total = positive.sum((1, 2))
    ring = 1 - (height - 2) * (width - 2) / (height * width)
    if ring > 0.6:
        return []
    share = np.where(total > 0, 1 - inner / np.where(total > 0, total, 1), 0)
    rows = [int(row) for row in np.argsort(-share) if share[row] >= _BORDER_SHARE]
    if len(rows) < _LEAST_PHOTOS:
        return []
    cell = 1 / width
    return [
        Finding(
            kind="fragile",
            severity=len(rows) / len(data),
            certainty=1.0,
            title=f"In {len(rows)} of {len(data)} photos the evidence lies on the border of the photo.",
            detail=(
                f"At least {_BORDER_SHARE:.0%} of what speaks for the class lies in the outermost cells of the map, "
                f"which are {ring:.0%} of the photo; the middle says little."
            ),
            region=Region("the border", frame(cell)),
            photos=tuple(
                EvidencePhoto(data.paths[row], note=f"{data.name(int(data.predicted[row]))!r}: {share[row]:.0%}")
                for row in rows[:_MOST_PHOTOS]
            ),
            numbers={"photos": len(rows), "border_area": ring},
            remedy="Look at what stands on the border of these photos, and train again with it ignored.",
            command="whycam train $FOLDER -o $RESULT --ignore border",
        )
    ]
