"""The tables of `intake.py`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from common import save, write_table

Row = dict[str, Any]
ANSWERS = ("exact", "gradients", "tail scores", "scores", "refused", "traceback", "skipped")
EXACT_LIMIT, GRADIENT_LIMIT, PLACE_LIMIT, AWAY_LIMIT = 1e-4, 1e-3, 0.5, 0.25
WANTED = {"module": 0.99, "ONNX": 0.95, "Keras": 0.95}


def is_wrong(row: Row) -> bool:
    """Whether a map was given in silence that is not what it is said to be."""
    return bool(tell_wrong(row))


def is_unclear(row: Row) -> bool:
    """Whether a patch did not show where the cells stand: too few of them, or each sees the whole image."""
    return row.get("place", 1.0) < PLACE_LIMIT and (row["away"] <= AWAY_LIMIT or min(row.get("grid", [2])) < 3)


def tell_wrong(row: Row) -> str:
    """What is wrong with a row's maps or scores, in words."""
    found = []
    if row["answer"] == "exact" and not row.get("identity", 1.0) <= EXACT_LIMIT:
        found.append(f"identity off by {row.get('identity', float('nan')):.2g}")
    if row.get("scores", 0.0) > 1e-3:
        found.append(f"scores off by {row['scores']:.2g}")
    if row.get("grad_cam") is not None and row["grad_cam"] > GRADIENT_LIMIT:
        found.append(f"Grad-CAM off by {row['grad_cam']:.2g}")
    if row.get("place", 1.0) < PLACE_LIMIT and not is_unclear(row):
        found.append(f"the map follows a patch by {row['place']:.2f}, {row['away']:.0%} of its cells answer to others")
    return ", ".join(found)


def write_report(rows: Sequence[Row], costs: Sequence[Row], out: Path) -> None:
    lines = [
        "# Any classifier comes in",
        "`python benchmarks/intake.py`: random weights, 10 classes, 64 px or the smallest side that the network takes;",
        "batch norms were fed once, and gains near zero were raised, so that no network is blind. Those of over 30 M",
        "parameters, or too slow, are left out and listed as skipped. All that whycam is held against is computed by",
        "hand: logits by the model's own library; a head of pooling and one linear layer by watching every output of",
        "the network for one whose mean, weighed once, is the logits; Grad-CAM by hooks on the same layer; and the",
        "place by a patch that changes in one quarter after the other, followed by where the map changes.",
        "",
        "## Summary",
        "",
        *_summarise(rows),
        "",
        *_list_claims(rows),
        "",
        "## What exact maps of an ONNX file cost",
        "",
        *_list_costs(costs),
        "",
        *_list_faults(rows),
        "",
        "## Each model",
        "",
        *_list_rows(rows),
    ]
    save("intake", lines, {"costs": list(costs)}, out)


def _summarise(rows: Sequence[Row]) -> list[str]:
    kinds = dict.fromkeys(row["kind"] for row in rows)
    table = []
    for kind in kinds:
        own = [row for row in rows if row["kind"] == kind]
        count = Counter(row["answer"] for row in own)
        table.append([kind, len(own) - count["skipped"], *(count[answer] for answer in ANSWERS)])
    table.append(["all", *(sum(int(row[i]) for row in table) for i in range(1, 2 + len(ANSWERS)))])
    return write_table(["kind", "opened", *ANSWERS], table)


def _name_group(row: Row) -> str:
    return "ONNX" if row["kind"] == "ONNX" else "Keras" if row["kind"].startswith("Keras") else "module"


def _list_claims(rows: Sequence[Row]) -> list[str]:
    done = [row for row in rows if row["answer"] != "skipped"]
    table = []
    for group, wanted in WANTED.items():
        own = [row for row in done if _name_group(row) == group and row.get("head")]
        exact = sum(row["answer"] == "exact" and not is_wrong(row) for row in own)
        share = exact / len(own) if own else float("nan")
        table.append(
            [
                f"heads of pooling + linear that are exact, as {group}",
                f"{exact} of {len(own)}, {share:.1%}",
                f"{wanted:.0%}",
                _tick(share >= wanted),
            ]
        )
    wrong, failed = sum(map(is_wrong, done)), sum(row["answer"] == "traceback" for row in done)
    refused = sum(row["answer"] == "refused" for row in done) / max(1, len(done))
    table.append(["maps or scores that are wrong in silence", wrong, 0, _tick(wrong == 0)])
    table.append(["tracebacks", failed, 0, _tick(failed == 0)])
    table.append(["refused", f"{refused:.1%}", "under 2 %", _tick(refused < 0.02)])
    lines = write_table(["what", "measured", "wanted", "holds"], table)
    identities = [row["identity"] for row in done if row["answer"] == "exact"]
    grads = [row["grad_cam"] for row in done if not math.isnan(row.get("grad_cam", math.nan))]
    places = [row for row in done if "place" in row]
    right, blurred = (
        sum(r["place"] >= PLACE_LIMIT for r in places),
        sum(map(is_unclear, places)),
    )
    return [
        *lines,
        "",
        f"Largest identity error of {len(identities)} exact models: {max(identities, default=0):.2g} of the logits' "
        f"range. Grad-CAM of {len(grads)} models lies at most {max(grads, default=0):.2g} of the map's largest value "
        f"from the formula by hand. Of {len(places)} maps of more than one cell {right} follow the patch "
        f"(correlation of at least {PLACE_LIMIT}); of {blurred} it can't be told: "
        "2 x 2 cells, or hardly one that answers to one place more than to another, as in deep nets of random weights.",
    ]


def _tick(holds: bool) -> str:
    return "yes" if holds else "no"


def _list_costs(costs: Sequence[Row]) -> list[str]:
    if not costs:
        return ["Not measured yet (`--costs`)."]
    table = [
        [
            row["name"],
            row["bare_ms"],
            row["time"],
            row["bare_mb"],
            row["maps_mb"] / row["bare_mb"],
            row["scores_mb"] / row["bare_mb"],
        ]
        for row in costs
    ]
    head = [
        "model",
        "bare, ms",
        "maps / bare, time",
        "bare, MB",
        "maps / bare, memory",
        "whycam's scores / bare, memory",
    ]
    return [
        *write_table(head, table),
        "",
        "224 px, one photo, one thread, 1,000 classes; medians of ratios within a round. Memory is the peak of a whole",
        "process that opens the file and runs it three times, Python and libraries included. Wanted: 1.05 and 1.2.",
    ]


def _list_faults(rows: Sequence[Row]) -> list[str]:
    groups: list[tuple[str, Iterable[list[Any]]]] = [
        ("Wrong in silence", ([r["kind"], r["name"], r["answer"], tell_wrong(r)] for r in rows if is_wrong(r))),
        (
            "Tracebacks",
            (
                [r["kind"], r["name"], r["answer"], _clean(r["failure"], 400)]
                for r in rows
                if r["answer"] == "traceback"
            ),
        ),
        (
            "Refused",
            ([r["kind"], r["name"], r["answer"], _clean(r["reason"], 400)] for r in rows if r["answer"] == "refused"),
        ),
        (
            "Heads of pooling and one linear layer that are not exact",
            (
                [r["kind"], r["name"], r["answer"], _clean(r["reason"])]
                for r in rows
                if r.get("head") and r["answer"] != "exact"
            ),
        ),
    ]
    lines = []
    for title, found in groups:
        table = list(found)
        lines += [
            f"## {title}",
            "",
            *(write_table(["kind", "model", "answer", "what"], table) if table else ["None."]),
            "",
        ]
    return lines


def _list_rows(rows: Sequence[Row]) -> list[str]:
    table = [
        [
            row["kind"],
            row["name"],
            row.get("side", "-"),
            row["answer"],
            "yes" if row.get("head") else "no" if "head" in row else "-",
            *(_show(row.get(key)) for key in ("scores", "identity", "grad_cam", "place", "away")),
            "" if row["answer"] == "exact" else _clean(row.get("reason", "")),
        ]
        for row in rows
    ]
    head = [
        "kind",
        "model",
        "px",
        "answer",
        "pooling + linear",
        "scores off",
        "identity",
        "Grad-CAM",
        "place",
        "away",
        "why not exact",
    ]
    return write_table(head, table)


def _show(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.2g}"


def _clean(text: str, length: int = 170) -> str:
    text = text.rsplit("has no exact class maps: ", maxsplit=1)[-1].replace("|", "/").replace("\n", " ")
    return text if len(text) <= length else f"{text[: length - 3]}..."
