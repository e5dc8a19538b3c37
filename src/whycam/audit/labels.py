"""Photos whose evidence says another class than their label, more clearly than almost all photos of that class."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from whycam.audit.confusion import compare_command
from whycam.audit.data import AuditData
from whycam.audit.findings import EvidencePhoto, Finding
from whycam.explainer.targets import to_probabilities

# A label is doubted where photos so clear have the label that the model says in at least this share.
LEAST_AGREEMENT = 0.95
_MOST_PHOTOS = 24


def find_label_faults(data: AuditData) -> list[Finding]:
    """A finding for each pair of classes: labelled the one, and by the evidence clearly the other."""
    labels, predicted, shares = data.labels, data.predicted, to_probabilities(data.logits, data.classifier.card.output)
    rows = np.arange(len(data))
    gap = data.logits[rows, predicted] - data.logits[rows, labels]
    top_two = np.sort(data.logits, 1)[:, -2:]
    clarity = top_two[:, 1] - top_two[:, 0]
    doubted: dict[tuple[int, int], list[tuple[float, int]]] = defaultdict(list)
    for row in np.flatnonzero(labels != predicted):
        as_clear = (clarity >= clarity[row]) & (rows != row)
        agreement = float((labels[as_clear] == predicted[as_clear]).sum() / (as_clear.sum() + 1))
        if agreement >= LEAST_AGREEMENT:
            doubted[int(labels[row]), int(predicted[row])].append((agreement, int(row)))
    findings = []
    for (label, said), found in doubted.items():
        found.sort(key=lambda one: -gap[one[1]])
        name, other = data.name(label), data.name(said)
        photos = [
            EvidencePhoto(data.paths[row], note=f"{other!r} has {shares[row, said]:.1%} and leads by {gap[row]:.1f}")
            for _, row in found[:_MOST_PHOTOS]
        ]
        agreement = float(np.mean([one for one, _ in found]))
        findings.append(
            Finding(
                kind="label",
                severity=min(1.0, len(found) / len(data.groups[label])),
                certainty=agreement,
                cost=len(found) / len(data),
                title=f"{_count(len(found))} labelled {name!r}: the evidence says {other!r}.",
                detail=(
                    f"Of photos that the model is so sure of, {agreement:.1%} have the label that it says. "
                    "Look at them: the label may be wrong, or both may be in the photo."
                ),
                class_name=name,
                other=other,
                photos=tuple(photos),
                numbers={"photos": len(found), "agreement": agreement},
                remedy="Look at them, move those with a wrong label into the right folder, and train again.",
                command=compare_command(photos[0].path.parent, other, name),
            )
        )
    return findings


def _count(photos: int) -> str:
    return "1 photo" if photos == 1 else f"{photos} photos"
