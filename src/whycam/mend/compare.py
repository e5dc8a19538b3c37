"""A new version beside the one that is kept, in numbers, on the same held-out photos with the labels of now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from whycam.audit.compare import match_findings
from whycam.data.folder import Sample
from whycam.errors import UserError
from whycam.mend.scores import score_model
from whycam.metrics.groups import find_interval, score_groups
from whycam.metrics.pairs.paired import measure_change
from whycam.model.backbone import hash_tensors
from whycam.model.gap import GapClassifier
from whycam.runs import to_text
from whycam.train.stores import read_changed, read_pooled
from whycam.train.work import Work


@dataclass(frozen=True)
class Answers:
    """What a model says of the held-out photos.

    Attributes:
        said: N class names.
        is_right: N.
        causes: the share of photos whose class changes when a cause is exchanged, by its title.
    """

    said: tuple[str, ...]
    is_right: tuple[bool, ...]
    causes: Mapping[str, float]


def compare_models(work: Work, before: GapClassifier) -> dict[str, Any]:
    """The trained model beside an earlier one, as `comparison.json` holds it.

    Args:
        work: a training that is through.
        before: the earlier model; of classes that it did not know it is wrong.
    """
    samples, names = work.photos.val, work.photos.class_names
    truth = [names[sample.label] for sample in samples]
    old, new = (ask(work, model) for model in (before.to(work.device).eval(), work.model))
    each = {"before": old, "after": new}
    classes = [_score_class(name, truth, each) for name in names]
    words = [work.groups.get(sample.path) for sample in samples]
    groups = {when: score_groups(truth, words, answers.is_right) for when, answers in each.items()}
    return {
        "photos": len(samples),
        "accuracy": {when: describe_share(sum(one.is_right), len(samples)) for when, one in each.items()}
        | {"difference": asdict(measure_change(np.array(old.is_right), np.array(new.is_right)))},
        "classes": classes,
        "worst_class": {when: min(classes, key=lambda one: one[when]["value"]) for when in each},
        **({"groups": groups} if groups["after"] else {}),
        "causes": [
            {"cause": title, "changed_before": old.causes[title], "changed_after": new.causes[title]}
            for title in new.causes
        ],
        "changed": _list_changed(work, samples, truth, old, new),
    }


def ask(work: Work, model: GapClassifier) -> Answers:
    """What a model says of the held-out photos of a training, and of their views with a cause exchanged."""
    names, samples = model.class_names, work.photos.val
    is_stored = work.stores is not None and (model is work.model or _has_same_backbone(model, work.model))
    logits = score_model(work, model, is_stored=is_stored).logits
    said = [names[k] for k in logits.argmax(dim=1).tolist()]
    truth = [work.photos.class_names[sample.label] for sample in samples]
    causes = _ask_changed(work, model) if is_stored else {}
    return Answers(tuple(said), tuple(a == b for a, b in zip(said, truth, strict=True)), causes)


@torch.no_grad()
def _ask_changed(work: Work, model: GapClassifier) -> dict[str, float]:
    """Title of each cause -> the share of held-out photos whose class changes with it."""
    assert work.stores is not None  # noqa: S101 - asked before
    seen: dict[str, list[Tensor]] = {}
    weight, bias = model.classifier.weight.cpu(), model.classifier.bias.cpu()
    for changed in work.stores.changed:
        samples = [sample for sample in work.photos.val if sample.path in changed.words]
        if samples:
            plain, view = (
                torch.nn.functional.linear(values, weight, bias).argmax(dim=1)
                for values in (
                    read_pooled(work, work.stores.plain, samples, model),
                    read_changed(work, changed, samples, model),
                )
            )
            seen.setdefault(work.exchanges[changed.number].title, []).append(plain != view)
    return {title: float(torch.cat(parts).float().mean()) for title, parts in seen.items()}


def _has_same_backbone(one: GapClassifier, other: GapClassifier) -> bool:
    alike = (one.preprocess, one.origin.map_stride) == (other.preprocess, other.origin.map_stride)
    return alike and hash_tensors(one.backbone.state_dict()) == hash_tensors(other.backbone.state_dict())


def describe_share(hits: int, total: int) -> dict[str, float]:
    """A share with its 95 % interval (Wilson)."""
    low, high = find_interval(hits, total)
    return {"value": hits / max(total, 1), "low": low, "high": high, "right": hits}


def _score_class(name: str, truth: Sequence[str], each: Mapping[str, Answers]) -> dict[str, Any]:
    rows = [row for row, word in enumerate(truth) if word == name]
    shares = {when: describe_share(sum(one.is_right[row] for row in rows), len(rows)) for when, one in each.items()}
    return {"class": name, "photos": len(rows), **shares}


def _list_changed(
    work: Work, samples: Sequence[Sample], truth: Sequence[str], old: Answers, new: Answers
) -> list[dict[str, Any]]:
    """The photos whose answer is another, those that were put right first."""
    rows = [row for row in range(len(samples)) if old.said[row] != new.said[row]]
    rows.sort(key=lambda row: (new.is_right[row] <= old.is_right[row], new.is_right[row] < old.is_right[row]))
    return [
        {
            "photo": work.hashes[samples[row].path],
            "path": to_text(samples[row].path.relative_to(work.source.root).as_posix()),
            "class": truth[row],
            "before": old.said[row],
            "after": new.said[row],
        }
        for row in rows
    ]


def compare_findings(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The findings that are gone, new and left, of two audits as `audit.json` holds them; of kinds looked for in both.

    Raises:
        UserError: one of them is none.
    """
    try:
        both = set(before["record"]["kinds"]) & set(after["record"]["kinds"])
        rows = [[_shorten(one) for one in part["findings"] if one["kind"] in both] for part in (before, after)]
        found = match_findings(*rows)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"An audit can't be compared ({type(error).__name__}); expected what whycam audit writes. Audit again."
        ) from None
    left = [{"before": old, "after": new} for old, new in found.left]
    return {"gone": list(found.gone), "new": list(found.fresh), "left": left}


def _shorten(finding: Mapping[str, Any]) -> dict[str, Any]:
    names = ("id", "kind", "class", "other", "title", "severity", "certainty", "cost", "region", "numbers")
    return {name: finding[name] for name in names}
