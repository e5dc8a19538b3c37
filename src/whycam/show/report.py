"""The report: a page that holds all it shows; words, tables and curves are made here, pictures by the viewer in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from whycam.metrics.groups import find_interval
from whycam.show.curves import CURVES
from whycam.show.entries import encode_colormaps
from whycam.show.layout import space_percents
from whycam.show.page import render_page
from whycam.show.tally import OUTCOMES, Tally
from whycam.train.epochs import rank_epoch

if TYPE_CHECKING:  # it brings torch, which a report of exact maps does without
    from whycam.show.web.embedded import EmbeddedNetwork

# Of more classes, the confusions are a list.
MATRIX_CLASSES = 20
_LISTED_CONFUSIONS = 30
_CURVE_SIZE = (420, 180)
_OPEN_FINDINGS = 5
# Pictures of a finding at the most; findings after the first so many name their photos by path.
EVIDENCE_PHOTOS, PICTURED_FINDINGS = 6, 20
KINDS = {
    "shortcut": "Shortcut",
    "question": "The object?",
    "label": "Wrong label?",
    "duplicate": "Duplicate",
    "fragile": "Fragile",
    "confusion": "Confusion",
    "data": "The photos",
    "slice": "Hidden group",
}


@dataclass(frozen=True)
class Report:
    """All that the page shows.

    Attributes:
        model: what it was loaded by.
        title: the page's: the name of the run or of the model.
        class_names: K names.
        is_multi_label: several labels may be right at once.
        entries: photos for the viewer, as `make_entry` makes them, with `isEvidence`.
        tally: counts over all photos, shown or not.
        photos_told: in words, which photos these are.
        unreadable: (name, why) of photos that could not be read.
        bias: of each class, where mean(map) + bias is the score; else None.
        record: how the maps were made.
        summary: of the training run, where there is one.
        epochs: of the training run.
        audit: as `audit.json` holds it; None where none was made.
        audit_told: why there is none, or what would make one.
        evidence: path as a finding says it -> id of its entry.
        evaluation: as `overall.json` holds it, where there is one.
        thresholds: of labels that go together, from which probability on each is given; empty: over one half.
        versions: of the libraries.
        live: the network itself, for readers' own photos; None leaves it out.
    """

    model: str
    title: str
    class_names: tuple[str, ...]
    entries: Sequence[Mapping[str, Any]]
    tally: Tally
    photos_told: str
    unreadable: Sequence[tuple[str, str]]
    bias: Sequence[float] | None
    record: Mapping[str, Any]
    is_multi_label: bool = False
    summary: Mapping[str, Any] | None = None
    epochs: Sequence[Mapping[str, Any]] = ()
    audit: Mapping[str, Any] | None = None
    audit_told: str = ""
    evidence: Mapping[str, str] = field(default_factory=dict)
    evaluation: Mapping[str, Any] | None = None
    thresholds: tuple[float, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    live: EmbeddedNetwork | None = None


def render_report(report: Report) -> str:
    """The page as HTML: one file, which asks for nothing outside itself."""
    live = report.live
    return render_page(
        "report.html",
        styles=("viewer.css", "app.css", "report.css", "report_live.css") if live else ("viewer.css", "report.css"),
        script="report.js",
        data=_make_data(report),
        program=live.program if live else None,
        report=report,
        facts=describe_model(report),
        score=describe_score(report),
        tested=find_test(report),
        mirrored=(report.summary or {}).get("tta"),
        labels=describe_labels(report),
        groups=find_groups(report),
        findings=_list_findings(report),
        open_findings=_OPEN_FINDINGS,
        curves=[
            curve
            for name in CURVES[report.is_multi_label]
            if (curve := make_curve(report.epochs, name, is_multi_label=report.is_multi_label))
        ],
        # Where labels go together, none is taken for another.
        confusion=None if report.is_multi_label else _make_confusion(report),
        classes=report.tally.rows(),
        even_border=report.tally.even_border,
        quality=_make_quality(report.evaluation),
    )


def _make_data(report: Report) -> dict[str, Any]:
    """What the scripts read."""
    return {
        "classNames": report.class_names,
        "isMultiLabel": report.is_multi_label,
        "thresholds": [float(np.float32(value)) for value in report.thresholds] or None,
        "colormaps": encode_colormaps(),
        "bias": report.bias,
        "entries": report.entries,
        "counted": report.tally.photos,
        "classMaps": {row["index"]: row["map"] for row in report.tally.rows() if row["map"]},
        "findings": [
            {"id": found["id"], "class": found["class_index"], "photos": found["photos"]}
            for found in _list_findings(report)
        ],
    }


def describe_model(report: Report) -> list[str]:
    """Sentences: what the model is."""
    names = report.class_names
    listed = ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:8])} and {len(names) - 8:,} more"
    facts = [f"It tells {len(names):,} classes apart: {listed}." if len(names) > 1 else f"It scores {names[0]}."]
    if report.is_multi_label:
        about = "each has a percentage of its own, and several may be right at once"
        facts = [f"It gives {len(names):,} labels: {listed}; {about}."]
    if (run := report.summary) is not None:
        facts.append(
            f"It is {run['backbone']} with a {run['head']} head, trained on {run['data']['train']:,} photos; "
            f"{run['data']['val']:,} were held out."
        )
    sizes = {tuple(entry["maps"]["shape"][1:]) for entry in report.entries}
    if len(sizes) == 1:
        height, width = sizes.pop()
        about = "a map's mean and the class's bias add up to the score, exactly"
        if report.bias is None:
            about = f"made by {report.record['method']}, they say where the score comes from, not how much of it"
        facts.append(f"Its maps have {height} × {width} cells; {about}.")
    return facts


def describe_score(report: Report) -> dict[str, Any] | None:
    """How good the model is on the labelled photos; None without labels."""
    tally = report.tally
    if not tally.labelled:
        return None
    right = tally.over_half.total() if report.is_multi_label else tally.right
    low, high = find_interval(right, tally.labelled)
    return {
        "accuracy": right / tally.labelled,
        "strongest": tally.right / tally.labelled,
        "low": low,
        "high": high,
        "photos": tally.labelled,
        "wrong": tally.labelled - right,
        "top5": tally.top5 / tally.labelled if len(report.class_names) > MATRIX_CLASSES else None,
        "note": (report.summary or {}).get("val_note", ""),
    }


def find_test(report: Report) -> Mapping[str, Any] | None:
    """How the model did on the photos of `--test`; None without."""
    found: Mapping[str, Any] | None = (report.summary or {}).get("test")
    return found if found and found["photos"] else None


def describe_labels(report: Report) -> dict[str, Any] | None:
    """How the classes that go together are told, where all classes of the photos are known; else None."""
    tally, run = report.tally, report.summary or {}
    if not tally.whole:
        return None
    low, high = find_interval(tally.whole - tally.wrong, tally.whole)
    counts = {word: sum(count for (_, one), count in tally.outcomes.items() if one == word) for word in OUTCOMES}
    trained = run.get("classes", {}) if run.get("multi_label") else {}
    return {
        "photos": tally.whole,
        "wrong": tally.wrong,
        "right_share": 1 - tally.wrong / tally.whole,
        "low": low,
        "high": high,
        **counts,
        "run": run if trained else None,
        "of_class": {k: trained.get(name) for k, name in enumerate(report.class_names)},
        "thresholds": dict(enumerate(report.thresholds)),
    }


def find_groups(report: Report) -> Mapping[str, Any] | None:
    """The accuracy of each group, by the training run, else by the evaluation; None where no groups are known."""
    known = [(source or {}).get("groups") for source in (report.summary, report.evaluation)]
    return next((found for found in known if found), None)


def _list_findings(report: Report) -> list[dict[str, Any]]:
    """The findings, first what costs most, with the entries of their evidence photos."""
    rows = []
    found = sorted(
        (report.audit or {}).get("findings", ()),
        key=lambda one: (one["kind"] != "shortcut", -one.get("cost", 0), -one["severity"]),
    )
    index = {name: k for k, name in enumerate(report.class_names)}
    for number, one in enumerate(found):
        region = one["region"] or {}
        photos = [
            {
                "entry": report.evidence.get(photo["path"]),
                "path": photo["path"],
                "note": space_percents(photo["note"]),
                "boxes": photo["boxes"] or region.get("boxes") or [],
            }
            for photo in one["photos"][:EVIDENCE_PHOTOS]
        ]
        about = {"id": f"finding-{number + 1}", "photos": photos, "class_index": index.get(one["class"])}
        told = {name: space_percents(one[name]) for name in ("title", "detail", "remedy") if name in one}
        rows.append({**one, **about, **told, "kind_told": KINDS.get(one["kind"], one["kind"])})
    return rows


def make_curve(
    epochs: Sequence[Mapping[str, Any]], name: str, *, is_multi_label: bool = False
) -> dict[str, Any] | None:
    """Training and validation by epoch as points of a picture `_CURVE_SIZE`; None with fewer than two epochs."""
    # A training on all photos for as many epochs as were chosen is measured by none.
    epochs = [epoch for epoch in epochs if epoch["val_loss"] is not None]
    if len(epochs) < 2:
        return None
    width, height = _CURVE_SIZE
    lines = {split: [float(epoch[f"{split}_{name}"]) for epoch in epochs] for split in ("train", "val")}
    values = [value for line in lines.values() for value in line]
    low, high = (min(values), 1.0) if name == "accuracy" else (0.0, max(values))
    span = (high - low) or 1.0

    def place(line: Sequence[float]) -> str:
        steps = len(line) - 1
        return " ".join(f"{i / steps * width:.1f},{(high - v) / span * height:.1f}" for i, v in enumerate(line))

    # Where most epochs were measured on a sample, the best is among those measured on all held-out photos.
    whole = [i for i, epoch in enumerate(epochs) if epoch.get("is_val_whole", True)]
    sizes = [epoch["val_photos"] for epoch in epochs if not epoch.get("is_val_whole", True)]
    best = max(whole or range(len(epochs)), key=lambda i: _rank(epochs[i]))
    return {
        "name": name,
        "unit": CURVES[is_multi_label][name],
        "low": low,
        "high": high,
        "width": width,
        "height": height,
        "lines": {split: place(line) for split, line in lines.items()},
        "best": best + 1,
        "best_x": best / (len(epochs) - 1) * width,
        "best_value": lines["val"][best],
        "epochs": len(epochs),
        "sample": min(sizes, default=0),
        "measured_on": "set apart" if epochs[-1].get("measured_on") == "slice" else "held out",
    }


def _rank(epoch: Mapping[str, Any]) -> tuple[float, float]:
    return rank_epoch(epoch.get("ranked_by"), epoch["val_loss"], epoch["val_accuracy"], epoch.get("val_mean_ap"))


def _make_confusion(report: Report) -> dict[str, Any] | None:
    """The matrix, truth in rows; of many classes, the most frequent confusions."""
    pairs, names = report.tally.pairs, report.class_names
    if not pairs:
        return None
    if len(names) > MATRIX_CLASSES:
        wrong = [(count, truth, predicted) for (truth, predicted), count in pairs.items() if truth != predicted]
        return {"matrix": None, "pairs": sorted(wrong, key=lambda one: (-one[0], *one[1:]))[:_LISTED_CONFUSIONS]}
    matrix = []
    for truth in range(len(names)):
        total = sum(pairs[truth, predicted] for predicted in range(len(names)))
        counts = [pairs[truth, predicted] for predicted in range(len(names))]
        matrix.append([{"count": c, "shade": round(10 * (c / total) ** 0.5) if total else 0} for c in counts])
    return {"matrix": matrix, "pairs": []}


def _make_quality(evaluation: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The table of metrics and methods."""
    if evaluation is None:
        return None
    methods = list(dict.fromkeys(row["method"] for row in evaluation["overall"] if not row["same_as"]))
    cells = {(row["metric"], row["method"]): row for row in evaluation["overall"]}
    baselines = {row["method"] for row in evaluation["overall"] if row["is_baseline"]}
    rows = [
        {"name": name, "better": about["better"], "paper": about["paper"], "cells": [cells[name, m] for m in methods]}
        for name, about in evaluation["metrics"].items()
    ]
    return {
        "methods": methods,
        "baselines": baselines,
        "rows": rows,
        "photos": evaluation["photos"],
        "command": evaluation["command"],
    }
