"""The audit of classes that go together: each by itself, as the question whether a photo has it.

A class is made a pair, those without it and those with it, and audited as two classes are. What a photo has beside it
is no fault, and no reason why it should not be given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import scipy

from whycam.audit.chance import find_interval, to_certainty
from whycam.audit.data import AuditData, Kept, ShowProgress
from whycam.audit.findings import LEAST_CERTAINTY, EvidencePhoto, Finding, quote_word
from whycam.audit.fragile import find_border, find_fragile
from whycam.audit.labels import find_label_faults
from whycam.audit.shortcuts import find_shortcuts
from whycam.explainer.targets import to_probabilities
from whycam.model.card import HALF

# What is looked for in each class, in this order; the trials of shortcuts take time for each.
_KINDS = {"shortcut": find_shortcuts, "label": find_label_faults, "fragile": find_fragile}
MOST_CLASSES = 20
_BATCH, _MOST_PHOTOS, _LEAST_PHOTOS = 16, 12, 3


def audit_labels(
    data: AuditData, kinds: Sequence[str], show_progress: ShowProgress
) -> tuple[list[Finding], list[str], list[str]]:
    """Findings, the kinds that were looked for, and sentences on what was not.

    Args:
        data: photos with `sets`.
        kinds: those that are wanted.
        show_progress: see `audit`.
    """
    done = [kind for kind in (*_KINDS, "confusion") if kind in kinds]
    tried = [kind for kind in _KINDS if kind in done]
    counts = _sets(data).sum(0)
    order = [int(k) for k in np.argsort(-counts, kind="stable") if 0 < counts[k] < len(data)]
    found: list[Finding] = []
    if "confusion" in done:
        found += find_outcomes(data)
    shared: dict[str, Kept] = {}
    looked_at = order[:MOST_CLASSES] if tried else []
    maps = read_maps(data, looked_at)
    for k in looked_at:
        pair = make_pair(data, k, maps[k], shared)
        for kind in tried:
            with show_progress(f"looking for: {kind} of {data.name(k)}", 0) as advance:
                found += [_fit(data, k, one) for one in _KINDS[kind](pair.telling(advance)) if one.class_name]
        shared |= pair.recall("these photos", "anything")
    if "fragile" in done:
        found += find_border(data)
    notes = ["Classes go together here: each was audited by itself, as those without it and those with it."]
    if left := [kind for kind in ("data", "slice") if kind in kinds]:
        notes.append(f"Not looked for, as it compares classes of which a photo has one: {', '.join(left)}.")
    if len(order) > MOST_CLASSES and done:
        notes.append(f"Looked at the {MOST_CLASSES} classes with most photos, of {len(order)}.")
    if alike := [data.name(int(k)) for k in np.flatnonzero((counts == 0) | (counts == len(data)))]:
        notes.append(f"Not looked at, as no photo has it, or each: {', '.join(alike)}.")
    return found, done, notes


def read_maps(data: AuditData, classes: Sequence[int]) -> dict[int, np.ndarray]:
    """Class -> (N, h, w) its maps; the model is asked once for all of them."""
    if not classes:
        return {}
    batches = (data.pixels[start : start + _BATCH] for start in range(0, len(data), _BATCH))
    parts = [data.asked.map_classes(batch, classes) for batch in batches]
    return dict(zip(classes, np.concatenate(parts).swapaxes(0, 1), strict=True))


def make_pair(data: AuditData, k: int, maps: np.ndarray, shared: dict[str, Kept]) -> AuditData:
    """The photos as two classes: 0 without class k, 1 with it; the score of the first is 0.

    Logits are moved so that the threshold of the class lies at 0. Evidence is of the answer given, half of the class's
    map (N, h, w) or of its negative, as it is of two classes.
    """
    name, cut = data.name(k), find_cut(data, k)
    card = replace(data.classifier.card, class_names=(f"no {name}", name), output="logits", thresholds=())
    classifier = data.classifier.having(
        engine=data.classifier.engine, class_names=card.class_names, output=card.output, thresholds=()
    )
    lead = data.logits[:, k] - cut
    sign = np.where(lead > 0, 0.5, -0.5)[:, None, None].astype(maps.dtype)

    def run(pixels: np.ndarray) -> np.ndarray:
        own = data.run(pixels)[:, k] - cut
        return np.stack([np.zeros_like(own), own], axis=1)

    weight = None if data.weight is None else np.stack([np.zeros_like(data.weight[k]), data.weight[k]])
    return replace(
        data,
        classifier=classifier,
        run=run,
        labels=_sets(data)[:, k].astype(int),
        logits=np.stack([np.zeros_like(lead), lead], axis=1),
        evidence=maps * sign,
        weight=weight,
        sets=None,
        asker=None,
        kept=dict(shared),
    )


def find_cut(data: AuditData, k: int) -> float:
    """The logit from which on a class is given."""
    thresholds = data.classifier.card.thresholds
    share = thresholds[k] if thresholds else HALF
    return float(np.log(share) - np.log1p(-share))


def find_outcomes(data: AuditData) -> list[Finding]:
    """A finding for each class that is missed, or given where it is not, more often than the errors of all spread."""
    truth = _sets(data)
    given = data.logits > np.array([find_cut(data, k) for k in range(truth.shape[1])])
    findings = []
    for wrong, base, is_missed in ((truth & ~given, truth, True), (given & ~truth, ~truth, False)):
        rate = wrong.sum() / max(1, base.sum())
        for k in range(truth.shape[1]):
            count, total = int(wrong[:, k].sum()), int(base[:, k].sum())
            certainty = to_certainty(float(scipy.stats.binom.sf(count - 1, total, rate)), 2 * truth.shape[1])
            if count >= _LEAST_PHOTOS and certainty >= LEAST_CERTAINTY:
                rows = np.flatnonzero(wrong[:, k])
                findings.append(_tell_outcome(data, k, rows, total, certainty, is_missed=is_missed))
    return findings


def _tell_outcome(
    data: AuditData, k: int, rows: np.ndarray, total: int, certainty: float, *, is_missed: bool
) -> Finding:
    name, count = data.name(k), len(rows)
    shares = _find_shares(data)[:, k]
    rows = rows[np.argsort(shares[rows] if is_missed else -shares[rows])]
    low, high = find_interval(count, total)
    told = f"{count} of {total} photos with {name!r} are not given it."
    if not is_missed:
        told = f"{count} of {total} photos without {name!r} are given it."
    return Finding(
        kind="confusion",
        severity=count / total,
        certainty=certainty,
        cost=count / len(data),
        title=told,
        detail=(
            f"That is {count / total:.1%} (95 % interval {low:.1%} to {high:.1%}), more than of the other classes. "
            "What else is on these photos does not count."
        ),
        class_name=name,
        photos=tuple(
            EvidencePhoto(data.paths[row], note=f"{name!r} has {shares[row]:.0%}") for row in rows[:_MOST_PHOTOS]
        ),
        numbers={"photos": count, "of": total, "low": low, "high": high},
        remedy=f"Add photos {'with' if is_missed else 'without'} {name!r} that look like these, and train again.",
        command=_show(data, rows, name),
    )


def _fit(data: AuditData, k: int, finding: Finding) -> Finding:
    """A finding of a pair, with commands and percentages that are the model's own."""
    rows = {path: row for row, path in enumerate(data.paths)}
    shares, name = _find_shares(data)[:, k], data.name(k)
    known = [rows[photo.path] for photo in finding.photos if photo.path in rows]
    finding = replace(finding, class_name=name, other=None, numbers={**finding.numbers, "side": finding.class_name})
    if finding.kind == "fragile":
        return finding
    command = _show(data, np.array(known), name) if known else ""
    if finding.kind != "label":
        remedy = f"Add photos with {name!r} and without this, and photos with this and without {name!r}; train again."
        ask = "Look at the marked places. If they are not the object: " if finding.kind == "question" else ""
        return replace(finding, remedy=f"{ask}{remedy[:1].lower() if ask else remedy[:1]}{remedy[1:]}", command=command)
    photos = tuple(
        replace(photo, note=f"{name!r} has {shares[rows[photo.path]]:.1%}") if photo.path in rows else photo
        for photo in finding.photos
    )
    remedy = "Look at them, correct the classes of those that are wrong in the list, and train again."
    return replace(finding, photos=photos, remedy=remedy, command=command)


def _show(data: AuditData, rows: np.ndarray, name: str) -> str:
    """The command that shows what speaks for a class in the photos of a folder."""
    folder = quote_word(str(data.paths[int(rows[0])].parent))
    return f"whycam explain $MODEL {folder} -o $RESULT --target {quote_word(f'class:{name}')}"


def _find_shares(data: AuditData) -> np.ndarray:
    """(N, K) the model's own probabilities."""
    return to_probabilities(data.logits, data.classifier.card.output)


def _sets(data: AuditData) -> np.ndarray:
    assert data.sets is not None  # noqa: S101 - audit_labels is called with them
    return data.sets
