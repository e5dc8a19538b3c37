"""Hidden slices: photos of a class that look alike and are wrong more often than its others (arXiv:2207.04104).

Each comes with its photos, its own exact map and words: what the installed general network sees in these photos more
than in the class's others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy

from whycam.audit.chance import find_interval, to_certainty
from whycam.audit.clusters import Group, find_groups
from whycam.audit.confusion import find_boxes
from whycam.audit.data import AuditData, read_difference
from whycam.audit.findings import LEAST_CERTAINTY, EvidencePhoto, Finding, Region
from whycam.audit.generic import list_generic_names, read_generic
from whycam.audit.suspects import list_classes
from whycam.audit.swaps import margin
from whycam.errors import join_words

_MOST_PHOTOS, _MAPPED, _THRESHOLD, _MEAN_THRESHOLD = 24, 32, 0.4, 0.6
# A word is one of the general network's ten best classes in so many of the photos.
_BEST, _SEEN, _MOST_WORDS = 10, 0.25, 3
# A direction of the weights counts from this share of the strongest on; they may be so large a share of the channels.
_LEAST_STRENGTH, _MOST_SCORED = 1e-6, 0.1


@dataclass(frozen=True)
class Slice:
    """A group of a class's photos.

    Attributes:
        label: the class.
        group: its photos, as rows of the audit's data.
        p: how likely so clear a group arises by chance; corrected for all groups of all classes.
    """

    label: int
    group: Group
    p: float


def find_slices(data: AuditData) -> list[Finding]:
    """A finding for each group of a class's photos that goes wrong more often than the rest, beyond chance."""
    return [_tell(data, one) for one in list_slices(data) if 1 - one.p >= LEAST_CERTAINTY]


def list_slices(data: AuditData) -> list[Slice]:
    """The groups of all classes, the most certain first; none lies mostly in a clearer one.

    Photos are told apart by their contributions to their class's score, pooled features times its weights, and judged
    by what is left of these without the directions that the scores in question depend on. Of models without exact maps
    both are the installed network's scores.
    """
    wrong = data.predicted != data.labels
    tried = [k for k in list_classes(data) if wrong[data.groups[k]].any()]
    found = []
    for k in tried:
        rows = data.groups[k]
        features, looks = _describe(data, k)
        for group in find_groups(features, wrong[rows], data.seed, looks=looks):
            own = Group(rows[group.rows], rows[group.alike], group.p)
            found.append(Slice(k, own, min(1.0, group.p * len(tried))))
    kept: list[Slice] = []
    for one in sorted(found, key=lambda one: (one.p, -len(one.group.rows))):
        if not any(np.isin(one.group.rows, other.group.rows).mean() > 0.5 for other in kept):
            kept.append(one)
    return kept


def _describe(data: AuditData, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Contributions (n, C) of the class's photos; and those of what no score in question depends on, to judge by."""
    rows = data.groups[k]
    if data.pooled is None or data.weight is None:
        scores = read_generic(data)[rows]
        return scores, scores
    # Of one logit the first class has no weights of its own: what speaks against the other one speaks for it.
    weight = data.weight[k] if data.weight[k].any() else -data.weight.sum(0)
    pooled = data.pooled[rows]
    _, strengths, directions = np.linalg.svd(data.weight[np.union1d(data.predicted[rows], [k])], full_matrices=False)
    scored = directions[strengths > _LEAST_STRENGTH * strengths.max()]
    # Of few channels too little is left.
    rest = pooled - pooled @ scored.T @ scored if len(scored) <= _MOST_SCORED * pooled.shape[1] else pooled
    return pooled * weight, rest * weight


def _tell(data: AuditData, one: Slice) -> Finding:
    k, rows = one.label, one.group.rows
    whole = data.groups[k]
    wrong = data.predicted != k
    rest = np.setdiff1d(whole, one.group.alike)
    inside, outside = (_count(wrong, part) for part in (one.group.alike, rest))
    other = int(np.bincount(data.predicted[rows][wrong[rows]]).argmax())
    name, second = data.name(k), data.name(other)
    lost = int(wrong[rows].sum())
    words = find_words(data, rows, np.setdiff1d(whole, rows))
    seen = f"A general network sees more {_quote(words)} in them than in the others. " if words else ""
    region, boxes = _draw(data, one, other)
    return Finding(
        kind="slice",
        severity=lost / len(whole),
        certainty=to_certainty(one.p, 1),
        cost=lost / len(data),
        title=f"{len(rows)} photos of {name!r} that look alike go wrong{': more ' + _quote(words) if words else ''}.",
        detail=(
            f"{seen}Of photos that look so, each judged by the others, {_tell_share(*inside)} are wrong; of the "
            f"class's other photos {_tell_share(*outside)}. These are {len(rows) / len(whole):.0%} of the class's "
            f"photos and have {lost / wrong[whole].sum():.0%} of its errors; most are taken for {second!r}. The boxes "
            f"show what speaks for {second!r} and against {name!r}; the region is where that is stronger than in the "
            "class's others."
        ),
        class_name=name,
        other=second,
        region=region,
        photos=_list_photos(data, rows, boxes, k),
        numbers={
            "photos": len(rows),
            "of": len(whole),
            "share": len(rows) / len(whole),
            "share_of_errors": lost / int(wrong[whole].sum()),
            "error_inside": inside[0] / max(1, inside[1]),
            "error_inside_interval": find_interval(*inside),
            "error_outside": outside[0] / max(1, outside[1]),
            "error_outside_interval": find_interval(*outside),
            "lead_inside": _measure_lead(data, rows, k),
            "lead_outside": _measure_lead(data, np.setdiff1d(whole, rows), k),
            "words": words,
        },
        remedy=(
            f"Look whether these photos are labelled rightly; if so, add more photos of {name!r} like these, or train "
            "with more weight on what goes wrong."
        ),
        command="whycam train $FOLDER -o $RESULT --robust",
    )


def _count(wrong: np.ndarray, rows: np.ndarray) -> tuple[int, int]:
    return int(wrong[rows].sum()), len(rows)


def _tell_share(hits: int, total: int) -> str:
    low, high = find_interval(hits, total)
    return f"{hits} of {total} ({hits / max(1, total):.0%}, 95 % interval {low:.0%} to {high:.0%})"


def _quote(words: list[str]) -> str:
    return join_words([repr(word) for word in words])


def _measure_lead(data: AuditData, rows: np.ndarray, k: int) -> float:
    """The mean lead of the photos' class over the best other one, in logits."""
    return float(margin(data.logits[rows], [k]).mean()) if len(rows) else 0.0


def find_words(data: AuditData, rows: np.ndarray, others: np.ndarray) -> list[str]:
    """Up to three classes of the general network, the clearest first, that it sees more in `rows` than in `others`.

    They are among its ten best in a quarter of the photos, and score higher there by a rank test (Mann-Whitney, 0.05
    after Bonferroni's correction for all classes).
    """
    if len(rows) < 3 or len(others) < 3:
        return []
    logits = read_generic(data)
    best = np.argsort(-logits[rows], axis=1)[:, :_BEST]
    seen = np.bincount(best.ravel(), minlength=logits.shape[1]) / len(rows)
    words = np.flatnonzero(seen >= _SEEN)
    if not len(words):
        return []
    test = scipy.stats.mannwhitneyu(logits[rows][:, words], logits[others][:, words], alternative="greater")
    areas = test.statistic / (len(rows) * len(others))
    # Which words are tried depends on the same photos: so all count.
    clear = test.pvalue * logits.shape[1] < 1 - LEAST_CERTAINTY
    ranked = [int(word) for word in words[np.argsort(-areas, kind="stable")] if clear[words == word].all()]
    names = list_generic_names()
    return [names[word] for word in ranked[:_MOST_WORDS]]


def _draw(data: AuditData, one: Slice, other: int) -> tuple[Region, dict[int, tuple[tuple[float, ...], ...]]]:
    """Where the other class's evidence is stronger than in the class's other photos, and each photo's own boxes."""
    rows = _rank(data, one.group.rows, one.label)[:_MAPPED]
    others = np.setdiff1d(data.groups[one.label], one.group.rows)[:_MAPPED]
    maps = read_difference(data, rows, other, one.label)
    contrast = maps.mean(0)
    if len(others):
        contrast = contrast - read_difference(data, others, other, one.label).mean(0)
    region = Region("where these photos differ from the class's others", find_boxes(contrast, _MEAN_THRESHOLD))
    return region, {int(row): find_boxes(values, _THRESHOLD) for row, values in zip(rows, maps, strict=True)}


def _rank(data: AuditData, rows: np.ndarray, k: int) -> np.ndarray:
    """The photos that are most clearly wrong first."""
    lead = data.logits[rows].max(1) - data.logits[rows, k]
    return rows[np.argsort(-lead, kind="stable")]


def _list_photos(
    data: AuditData, rows: np.ndarray, boxes: dict[int, tuple[tuple[float, ...], ...]], k: int
) -> tuple[EvidencePhoto, ...]:
    photos = []
    for row in _rank(data, rows, k)[:_MOST_PHOTOS].tolist():
        said = int(data.predicted[row])
        lead = data.logits[row, said] - data.logits[row, k]
        note = "right, but looks like the others" if said == k else f"{data.name(said)!r} leads by {lead:.1f}"
        photos.append(EvidencePhoto(data.paths[row], boxes.get(row, ()), note))  # type: ignore[arg-type]
    return tuple(photos)
