"""The page of a comparison: who wins, which classes, and every photo that flips with the place of its change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whycam.explainer.reading import Reading
from whycam.metrics.pairs.comparison import Comparison
from whycam.metrics.pairs.reader import Flip
from whycam.metrics.pairs.shared_model import SharedModel
from whycam.metrics.pairs.words import tell_difference, tell_flips, tell_noise, tell_noise_verdict, tell_points
from whycam.runs import to_text
from whycam.show.entries import encode_colormaps, make_entry
from whycam.show.page import render_page

# Of more classes those that change are listed, so many at the most.
_LISTED_CLASSES, _LISTED_PAIRS = 50, 20
KINDS = {
    "right-to-wrong": "Right to wrong",
    "wrong-to-right": "Wrong to right",
    "wrong-to-wrong": "Wrong to another wrong",
    "unlabelled": "Named differently",
}


@dataclass(frozen=True)
class ComparePage:
    """All that the page shows.

    Attributes:
        found: the comparison; its flips keep small photos as data addresses.
        photos_told: in words, which photos these are.
        root: the folder that names of photos are told from.
        versions: of the libraries.
    """

    found: Comparison
    photos_told: str
    root: Path
    versions: Mapping[str, str] = field(default_factory=dict)


def render_comparison(page: ComparePage) -> str:
    """The page as HTML: one file, which asks for nothing outside itself."""
    found = page.found
    shown = [flip for flip in found.flips if flip.look is not None]
    return render_page(
        "compare.html",
        styles=("viewer.css", "report.css", "compare.css"),
        script="compare.js",
        data=_make_data(page, shown),
        found=found,
        a=describe_model(found.a),
        b=describe_model(found.b),
        photos_told=page.photos_told,
        difference=list(tell_difference(found)),
        flips_told=tell_flips(found),
        noise_told=list(tell_noise(found.noise))[:-1] if found.noise else [],
        noise_verdict=tell_noise_verdict(found.noise) if found.noise else "",
        points=tell_points,
        kinds=KINDS,
        counts=found.counts,
        classes=list_classes(found),
        pairs=found.pairs[:_LISTED_PAIRS],
        findings=found.finding_changes,
        shown=len(shown),
        records={"A": dict(shown[0].look.a.record), "B": dict(shown[0].look.b.record)}
        if shown and shown[0].look
        else {},
        versions=page.versions,
    )


def list_classes(found: Comparison) -> list[Any]:
    """The rows of the table: all classes, or of many those that change."""
    rows = list(found.classes)
    if len(rows) > _LISTED_CLASSES:
        rows = [row for row in rows if row.change.lost or row.change.gained][:_LISTED_CLASSES]
    return rows


def describe_model(model: SharedModel) -> dict[str, Any]:
    """What the page says of a model."""
    card = model.classifier.card
    size = card.preprocess
    maps = "exact" if model.is_exact else f"not exact, shown by {model.stand_in}"
    return {
        "name": model.name,
        "title": Path(model.name).name or model.name,
        "facts": f"{card.kind}; {size.height_px} × {size.width_px} px; {len(card.class_names):,} classes; maps {maps}",
    }


def _make_data(page: ComparePage, shown: Sequence[Flip]) -> dict[str, Any]:
    """What the script reads."""
    found = page.found
    biases = {"a": found.a.bias, "b": found.b.bias}
    change = biases["b"] - biases["a"] if biases["a"] is not None and biases["b"] is not None else None
    return {
        "classNames": found.class_names,
        "colormaps": encode_colormaps(),
        "bias": {name: None if v is None else v.tolist() for name, v in {**biases, "change": change}.items()},
        "isExact": found.is_exact,
        "isLabelled": found.is_labelled,
        "hasRuns": bool(found.runs),
        "total": len(found.flips),
        "flips": [_make_flip(page, flip) for flip in shown],
    }


def _make_flip(page: ComparePage, flip: Flip) -> dict[str, Any]:
    names, look = page.found.class_names, flip.look
    assert look is not None  # noqa: S101 - only such are shown
    key = to_text(_shorten(flip.path, page.root))
    places = {"a": names.index(flip.a), "b": names.index(flip.b)}
    truth = None if flip.truth is None else names.index(flip.truth)
    parts = {"a": look.a, "b": look.b} | ({"change": look.change} if look.change else {})
    entries = {name: _make_entry(reading, key, truth, name, places) for name, reading in parts.items()}
    return {
        "id": key,
        "kind": flip.kind,
        "image": look.picture,
        "truth": truth,
        **places,
        "pA": flip.p_a,
        "pB": flip.p_b,
        "leadA": flip.lead_a,
        "leadB": flip.lead_b,
        "between": page.found.disagreement(flip),
        "entries": entries,
    }


def _make_entry(reading: Reading, key: str, truth: int | None, side: str, places: Mapping[str, int]) -> dict[str, Any]:
    entry = make_entry(reading, key, key, image="", truth=truth)
    words = {places["a"]: "A's answer", places["b"]: "B's answer"}
    told = [", ".join(filter(None, [words.get(k, ""), "true class" if k == truth else ""])) for k in entry["classes"]]
    return entry | {"told": told, "isChange": side == "change"}


def _shorten(path: Path, root: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else path
