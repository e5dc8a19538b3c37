"""`whycam compare`: two models on the same photos to one page, a table of the flips, and numbers for other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from whycam.config import CompareOptions
from whycam.data.annotations import read_photos
from whycam.intake.door import open_classifier
from whycam.jobs.outputs import check_file
from whycam.jobs.progress import show_progress
from whycam.metrics.pairs.comparison import Comparison, compare
from whycam.metrics.pairs.reader import Flip
from whycam.metrics.pairs.shared_model import SharedModel
from whycam.metrics.pairs.words import tell_points, tell_result
from whycam.metrics.pooling import Estimate
from whycam.runs import (
    command_line,
    open_atomic,
    open_run,
    read_result,
    read_versions,
    tell_disk_errors,
    to_json,
    to_text,
)
from whycam.show.compare_page import ComparePage, render_comparison
from whycam.show.entries import encode_photo

PAGE, NUMBERS, TABLE = "compare.html", "compare.json", "flips.csv"
_PAGES = {".html", ".htm"}
_SHOWN_CLASSES, _SHOWN_FINDINGS = 12, 8


@dataclass(frozen=True)
class Outcome:
    """What a finished `whycam compare` counts."""

    photos: int
    unreadable: int
    flips: int
    page: Path
    size_mb: float


def compare_models(a: str, b: str, photos: Path, out: Path, options: CompareOptions) -> Outcome:
    """Compares, prints the tables, and writes the page, `compare.json` and `flips.csv`.

    Args:
        a: see `whycam.load`.
        b: the same; all differences are B's less A's.
        photos: a folder, or one photo.
        out: a folder to make; or, where it ends in .html, the page, the other files beside it.
        options: see there.

    Raises:
        UserError: see `whycam.compare`; a file or folder that exists, a full disk.
    """
    listed = read_photos(photos)
    audit = read_result(options.audit, "audit.json", "findings", "whycam audit") if options.audit else None
    with open_place(out, overwrite=options.overwrite) as place:
        own = (
            options.describe_model("a"),
            options.describe_model("b"),
            *[{"device": options.device}] * len(options.noise),
        )
        first, second, *runs = (
            open_classifier(name, **words, engine=options.engine, photos=len(listed), threads=1)
            for name, words in zip((a, b, *options.noise), own, strict=True)
        )
        with show_progress("comparing", len(listed)) as advance:
            found = compare(
                first,
                second,
                listed,
                noise=runs,
                audit=audit,
                limit=options.limit,
                batch_size=options.batch_size,
                engine=options.engine,
                picture=encode_photo,
                progress=advance,
            )
        root = (photos if photos.is_dir() else photos.parent).absolute()
        told = f"{len(found):,} photos of {photos}"
        page = render_comparison(ComparePage(found, told, root, read_versions()))
        place.page.write_text(page, encoding="utf-8", errors="backslashreplace")
        place.numbers.write_bytes(to_json(describe(found, options), indent=2, allow_nan=False))
        place.table.write_bytes(write_flips(found))
    print_comparison(found, Console())
    written = out if out.suffix.lower() in _PAGES else out / PAGE
    return Outcome(len(found), len(found.unreadable), len(found.flips), written, written.stat().st_size / 1e6)


@dataclass(frozen=True)
class Place:
    """Where the three files are written before they get their names."""

    page: Path
    numbers: Path
    table: Path


@contextmanager
def open_place(out: Path, *, overwrite: bool) -> Iterator[Place]:
    """Files to write to; all three get their names when the block ends without an error, else none.

    Raises:
        UserError: one of them, or the folder, is there already.
    """
    if out.suffix.lower() not in _PAGES:
        with open_run(out, overwrite=overwrite) as folder:
            yield Place(folder / PAGE, folder / NUMBERS, folder / TABLE)
        return
    paths = (out, out.with_name(NUMBERS), out.with_name(TABLE))
    for path in paths:
        # Each by itself: by its page a comparison is three files, beside what else is in the folder.
        check_file(path, f"a comparison's {path.name}", (path.suffix.lower(),), overwrite=overwrite)
    with tell_disk_errors(out.absolute().parent), ExitStack() as stack:
        yield Place(*(stack.enter_context(open_atomic(path)) for path in paths))


def write_flips(found: Comparison) -> bytes:
    """A row for each flip, in the order of the photos."""
    file = io.StringIO(newline="")
    rows = [describe_flip(found, flip) for flip in found.flips]
    names = list(_COLUMNS)
    writer = csv.DictWriter(file, names)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode("utf-8", "backslashreplace")


_COLUMNS = (
    *("path", "kind", "truth", "a", "b", "p_a", "p_b", "lead_a", "lead_b", "change"),
    *("gain", "loss", "peak_x", "peak_y", "between_runs"),
)


def describe_flip(found: Comparison, flip: Flip) -> dict[str, Any]:
    """The row of a flip; what is not known is empty."""
    x, y = flip.peak or (None, None)
    told = {name: getattr(flip, name, None) for name in _COLUMNS}
    told |= {"path": to_text(flip.path), "peak_x": x, "peak_y": y, "between_runs": found.disagreement(flip)}
    return {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in told.items()}


def describe(found: Comparison, options: CompareOptions) -> dict[str, Any]:
    """What compare.json holds: all differences are B's less A's."""
    accuracy, change = found.accuracy, found.difference
    share, low, high = found.agreement
    return {
        "command": command_line(),
        "a": _describe_model(found.a),
        "b": _describe_model(found.b),
        "classes": list(found.class_names),
        "photos": len(found),
        "unreadable": [{"path": to_text(path), "error": error} for path, error in found.unreadable],
        "told": list(tell_result(found)),
        "accuracy": None if accuracy is None else {"a": accuracy[0], "b": accuracy[1]},
        "difference": None if change is None else {**asdict(change), "is_clear": change.is_clear},
        "agreement": {"value": share, "low": low, "high": high},
        "flips": {"photos": len(found.flips), **found.counts},
        "pairs": [{"a": a, "b": b, "photos": count} for a, b, count in found.pairs],
        "by_class": [asdict(row) for row in found.classes],
        "findings": [
            {
                "id": one.finding.key,
                "title": one.finding.title,
                "place": one.finding.place,
                "area": one.finding.area,
                "photos": one.change.photos,
                **{name: _describe_estimate(getattr(one, name)) for name in ("a", "b", "change")},
            }
            for one in found.finding_changes
        ],
        "noise": found.noise and {**found.noise.to_json(), "names": [run.name for run in found.runs]},
        "identity_error": found.identity_error,
        "notes": list(found.notes),
        "options": options.model_dump(mode="json"),
        "versions": read_versions(),
    }


def _describe_model(model: SharedModel) -> dict[str, Any]:
    card = model.classifier.card
    return {
        "name": card.name,
        "kind": card.kind,
        "maps": model.stand_in,
        "exact": card.tell_exactness(),
        "left_out": list(model.left_out),
        "preprocess": card.preprocess.model_dump(),
        **{name: card.origin[name] for name in ("backbone", "weights", "head") if name in card.origin},
    }


def _describe_estimate(one: Estimate) -> dict[str, float | None]:
    """JSON has no NaN: an interval that is not defined is empty."""
    return {name: float(v) if np.isfinite(v := getattr(one, name)) else None for name in ("value", "low", "high")}


def print_comparison(found: Comparison, console: Console) -> None:
    """The classes, the findings, and the result in sentences."""
    wide = console if console.is_terminal else Console(width=160, file=console.file)
    if rows := _list_classes(found):
        # Without labels a class's share is of the photos that it is given.
        whose, changes = ("class", ("lost", "gained")) if found.is_labelled else ("given to", ("by A", "by B"))
        wide.print(_make_table((whose, "photos", "A", "B", "points", *changes, "p"), rows))
    if rows := _list_findings(found):
        wide.print(_make_table(("finding", "place", "photos", "A", "B", "B less A", "95 % interval"), rows))
    for line in (f"A is {found.a.name}; B is {found.b.name}.", *tell_result(found), *found.notes):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _make_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for k, name in enumerate(head):
        is_number = k > 0 and name != "place"
        table.add_column(name, justify="right" if is_number else "left", no_wrap=is_number)
    for row in rows:
        table.add_row(*row)
    return table


def _list_classes(found: Comparison) -> list[list[str]]:
    changed = [row for row in found.classes if row.change.lost or row.change.gained]
    return [
        [
            row.name.replace("[", "\\["),
            f"{row.photos:,}",
            f"{row.share_a:.1%}",
            f"{row.share_b:.1%}",
            tell_points(row.change.value),
            str(row.change.lost),
            str(row.change.gained),
            f"{row.p:.2g}{'*' if row.p < 0.05 else ''}",
        ]
        for row in changed[:_SHOWN_CLASSES]
    ]


def _list_findings(found: Comparison) -> list[list[str]]:
    return [
        [
            one.finding.title.replace("[", "\\["),
            one.finding.place,
            str(one.change.photos),
            f"{one.a.value:.2f}",
            f"{one.b.value:.2f}",
            f"{one.change.value:+.2f}",
            f"{one.change.low:+.2f} to {one.change.high:+.2f}",
        ]
        for one in found.finding_changes[:_SHOWN_FINDINGS]
    ]
