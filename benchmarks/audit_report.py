"""The audit's benchmark as tables: what is found of what is relied on, who is accused falsely, and how both depend."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from audit_cases import CLEAN, KINDS, Case
from audit_judge import judge
from audit_prepare import IGNORES, RELIES, Bench
from audit_properties import PROPERTIES
from common import save, write_table

from whycam.audit.chance import find_interval

BINS = (-1.0, IGNORES, 0.05, RELIES, 0.2, 0.4, 9.0)
Row = dict[str, Any]
ABOUT = f"""`python benchmarks/audit.py prepare`, `audit`, `summary`. A training is audited on held-out photos with
the training photos' faults; the audit sees neither the cause nor the truth. The truth: the known cause is given to
and left out of photos that were not trained on. A model relies on its cause if so at least {RELIES:.0%} more of the
other classes' photos become its class, or so much more of its class is lost (three photos at least), than in a model
of clean training on the same photos; under {IGNORES:.0%} it ignores it. Found is what is told of the right class and
called what it is, or where the audit asks whether it is the object: by a mark that covers at least half of the
planted one and is no larger than it by half of the photo, by the property's name (darkness may be called brightness or
exposure, a poor resolution sharpness, a tint a colour cast; the words are in audit_judge.py), by the ground, by a
thing (or a sign, where its pixels come back). A finding of two classes in all is of both. Of a
garden in which each class has a ground of its own each class is one cause; causes of one training are not
independent. Intervals are Wilson's, of 95 %. Seeds from 0 on; thresholds are chosen on seeds from 1000 on,
but for the share of the lead that a ground must carry, which was raised from 18 to 22 % after frame-0000. With the
training photos: classes with fewer than 60 audited photos are filled up with them, for shortcuts alone."""


# What the folder of the audits with training photos is called beside that of those without.
WITH_TRAINING = "-training"


def read_rows(bench: Bench, cases: Sequence[Case], tag: str, earlier: Mapping[str, Row]) -> list[Row]:
    """The cases that are prepared and audited, with the judgement; of others the earlier rows by their keys."""
    rows = []
    for case in cases:
        path, about = bench.work / tag / f"{case.key}.json", bench.read(case)
        if about is not None and path.exists():
            row = json.loads(path.read_text())
            rows.append(
                {**case.to_json(), "is_small": case.is_small, "accuracy": about["accuracy"], **row}
                | judge(case, about, row)
            )
        elif case.key in earlier:
            rows.append({"questions": [], **earlier[case.key], "is_earlier": True})
    return rows


def tell_share(count: int, whole: int) -> str:
    """'9 of 10 (0.60 to 0.98)'."""
    if not whole:
        return "none"
    low, high = find_interval(count, whole)
    return f"{count} of {whole} ({low:.2f} to {high:.2f})"


def list_causes_of(rows: Iterable[Row]) -> list[Row]:
    """A line for each cause, with what is known of its training."""
    return [{**{k: v for k, v in row.items() if k != "causes"}, **cause} for row in rows for cause in row["causes"]]


def count_found(causes: Sequence[Row]) -> str:
    """Of those that are relied on, how many are found."""
    relied = [one for one in causes if one["relies"]]
    return tell_share(sum(one["found"] for one in relied), len(relied))


def write_report(bench: Bench, cases: Sequence[Case], tag: str, out: Path, earlier: Path | None) -> None:
    """results/audit.md and .json of the audits that are there, and of an earlier results file's others."""
    before = json.loads(earlier.read_text()) if earlier else {}
    known, known_filled = ({row["key"]: row for row in before.get(name, ())} for name in ("rows", "rows_with_training"))
    rows = read_rows(bench, cases, tag, known)
    filled = read_rows(bench, cases, tag + WITH_TRAINING, known_filled)
    planted, clean = [r for r in rows if r["kind"] != CLEAN], [r for r in rows if r["kind"] == CLEAN]
    causes = list_causes_of(planted)
    lines = [
        "# The audit, on models with planted causes and without",
        ABOUT,
        "",
        f"{len(planted)} planted and {len(clean)} clean trainings of {len(cases)} are in this table"
        + (
            f"; {sum('is_earlier' in row for row in rows)} of them as an earlier state of the audit told them."
            if known
            else "."
        ),
        "",
        *tell_main(causes, planted, clean),
        "",
        "## Held-out photos alone, and with the training photos",
        "",
        *tabulate_both(rows, filled),
        "",
        "All that follows but the last list is of held-out photos alone.",
        "",
        "## By kind",
        "",
        *tabulate_kinds(causes),
        "",
        "## Reliance and detection",
        "",
        *tabulate_bins(causes),
        "",
        "## Clean trainings",
        "",
        *tabulate_clean(clean),
        "",
        "## Warnings about the data",
        "",
        *tabulate_warnings(causes, clean),
        "",
        "## By what else differs",
        "",
        *tabulate_rest(causes),
        "",
        "## What each cause is called",
        "",
        *tabulate_names(causes),
        "",
        "## Each miss and each false accusation",
        "",
        *tell_each(rows),
        "",
        "## The same with the training photos",
        "",
        *tell_each(filled),
        "",
    ]
    content = {
        "figures": count_main(causes, planted, clean),
        "rows": [shorten(row) for row in rows],
        "rows_with_training": [shorten(row) for row in filled],
    }
    save("audit", lines, content, out)


def tabulate_both(rows: Sequence[Row], filled: Sequence[Row]) -> list[str]:
    """The trainings that were audited both ways; where classes have fewer than 60 audited photos they differ."""
    both = {row["key"] for row in rows} & {row["key"] for row in filled}
    sides = [[row for row in part if row["key"] in both] for part in (rows, filled)]
    planted, clean = (
        [[row for row in part if (row["kind"] == CLEAN) is is_clean] for part in sides] for is_clean in (False, True)
    )
    causes = [list_causes_of(part) for part in planted]
    table = []
    for name, is_in in (
        ("causes relied on, found with class and kind", lambda one: True),
        ("of those with 8 to 24 audited photos", lambda one: one["is_small"]),
        ("of those with 25 and more", lambda one: not one["is_small"]),
    ):
        table.append([name, *(count_found([one for one in part if is_in(one)]) for part in causes)])
    ignored = [[one for one in part if one["ignores"]] for part in causes]
    table.append(
        ["causes ignored, accused of", *(tell_share(sum(c["found"] for c in part), len(part)) for part in ignored)]
    )
    for of in ("misnamed", "turned", "false"):
        counts = [sum(one["of"] == of for row in part for one in row["accusations"]) for part in planted]
        table.append([f"accusations of planted trainings: {of}", *counts])
    for name, is_in in (
        ("clean trainings accused", lambda row: True),
        ("of those with 8 to 24", lambda row: row["is_small"]),
    ):
        some = [[row for row in part if is_in(row)] for part in clean]
        table.append([name, *(tell_share(sum(bool(row["accusations"]) for row in part), len(part)) for part in some)])
    # Which they are decides what the shares are worth: those that were missed say nothing of those that were found.
    count = f"{len(planted[0])} planted and {len(clean[0])} clean trainings were audited both ways"
    count = ": ".join([count, ", ".join(sorted(both))]) if both else count
    return [f"{count}.", "", *write_table(["", "held-out photos alone", "with the training photos"], table)]


def count_main(causes: Sequence[Row], planted: Sequence[Row], clean: Sequence[Row]) -> dict[str, int]:
    relied, ignored = [c for c in causes if c["relies"]], [c for c in causes if c["ignores"]]
    small = [row for row in clean if row["is_small"]]
    told = Counter(one["of"] for row in planted for one in row["accusations"])
    return {
        "planted": len(planted),
        "causes": len(causes),
        "relied_on": len(relied),
        "found": sum(c["found"] for c in relied),
        "class_found": sum(c["class_found"] for c in relied),
        "ignored": len(ignored),
        "ignored_accused": sum(c["found"] for c in ignored),
        "ignored_class_accused": sum(c["class_found"] for c in ignored),
        "clean": len(clean),
        "clean_accused": sum(bool(row["accusations"]) for row in clean),
        "clean_asked": sum(bool(row["questions"]) for row in clean),
        "questions_right": sum(one["of"] == "right" for row in planted for one in row["questions"]),
        "questions_else": sum(one["of"] != "right" for row in planted for one in row["questions"]),
        "clean_small": len(small),
        "clean_small_accused": sum(bool(row["accusations"]) for row in small),
        **{f"accusations_{name}": told[name] for name in ("right", "ignored", "misnamed", "turned", "false")},
        "data_findings_clean": sum(one["kind"] == "data" for row in clean for one in row["findings"]),
    }


def tell_main(causes: Sequence[Row], planted: Sequence[Row], clean: Sequence[Row]) -> list[str]:
    n = count_main(causes, planted, clean)
    seconds = sorted(row["cpu_s"] for row in [*planted, *clean]) or [0.0]
    shares = Counter(one["of"] for row in planted for one in row["accusations"])
    return [
        f"- Of causes that the model relies on, found with the right class and kind: **"
        f"{tell_share(n['found'], n['relied_on'])}**; the class alone: {tell_share(n['class_found'], n['relied_on'])}.",
        f"- Of clean trainings, accused: **{tell_share(n['clean_accused'], n['clean'])}**; of those with 24 photos a "
        f"class or fewer: {tell_share(n['clean_small_accused'], n['clean_small'])}.",
        f"- Questions whether something is the object: in {n['clean_asked']} clean trainings; in planted ones "
        f"{n['questions_right']} of the cause and {n['questions_else']} of something else.",
        f"- Of causes that the model ignores (under {IGNORES:.0%}), accused of it: **"
        f"{tell_share(n['ignored_accused'], n['ignored'])}**; its class accused of anything: "
        f"{tell_share(n['ignored_class_accused'], n['ignored'])}.",
        f"- All accusations of planted trainings: {shares['right']} right, {shares['misnamed']} of the right class by "
        f"a wrong name, {shares['turned']} of the cause but of another class, {shares['ignored']} of an ignored cause, "
        f"{shares['false']} false.",
        f"- CPU seconds of an audit: median {median(seconds):.1f}, longest {seconds[-1]:.1f}.",
    ]


def tabulate_kinds(causes: Sequence[Row]) -> list[str]:
    table = []
    for kind in KINDS:
        own = [c for c in causes if c["kind"] == kind]
        relied, ignored = [c for c in own if c["relies"]], [c for c in own if c["ignores"]]
        accused, between = sum(c["found"] for c in ignored), [c for c in own if not c["relies"] and not c["ignores"]]
        if own:
            class_found = tell_share(sum(c["class_found"] for c in relied), len(relied))
            told = f"{sum(c['found'] for c in between)} of {len(between)}"
            table.append([kind, len(own), count_found(own), class_found, told, f"{accused} of {len(ignored)}"])
    head = [
        "cause",
        "causes",
        "relied on: class and kind found",
        "class alone",
        "between: found",
        "ignored: accused of it",
    ]
    return write_table(head, table)


def tabulate_bins(causes: Sequence[Row]) -> list[str]:
    table = []
    for low, high in pairwise(BINS):
        own = [c for c in causes if low <= c["reliance"] < high]
        span = f"under {high:g}" if low < 0 else f"{low:g} and more" if high > 1 else f"{low:g} to {high:g}"
        table.append([span, *(tell_share(sum(c[name] for c in own), len(own)) for name in ("found", "class_found"))])
    return write_table(["reliance", "found with class and kind", "class accused"], table)


def tabulate_clean(clean: Sequence[Row]) -> list[str]:
    table = []
    for name, is_in in (
        *((pool, lambda row, pool=pool: row["pool"] == pool) for pool in ("flowers", "garden", "xray", "imagenet")),
        *((net, lambda row, net=net: row["network"] == net) for net in ("lite0", "lite1", "lite2", "scratch", "conv")),
        ("2 or 3 classes", lambda row: row["classes"] <= 3),
        ("4 or 5 classes", lambda row: 4 <= row["classes"] <= 5),
        ("10 to 20 classes", lambda row: row["classes"] >= 10),
        ("8 to 12 photos a class", lambda row: row["audited"] <= 12),
        ("13 to 24", lambda row: 12 < row["audited"] <= 24),
        ("25 and more", lambda row: row["audited"] > 24),
        ("unequal classes", lambda row: not row["is_balanced"]),
        ("all", lambda row: True),
    ):
        own = [row for row in clean if is_in(row)]
        warned = sum(any(one["kind"] == "data" for one in row["findings"]) for row in own)
        table.append([name, tell_share(sum(bool(row["accusations"]) for row in own), len(own)), warned])
    return write_table(["clean trainings", "accused", "warned of the data"], table)


def tabulate_warnings(causes: Sequence[Row], clean: Sequence[Row]) -> list[str]:
    """Of properties that one class has on 0.6 of its photos or more, whether a model relies on them or not."""
    table = []
    for kind in PROPERTIES:
        own = [c for c in causes if c["kind"] == kind and c["where"] == "one" and c["share"] >= 0.6]
        if own:
            table.append([kind, tell_share(sum(c["warned"] for c in own), len(own))])
    warned = sum(any(one["kind"] == "data" for one in row["findings"]) for row in clean)
    table.append(["clean", tell_share(warned, len(clean))])
    return write_table(["the class and the property are told of the data", ""], table)


def tabulate_rest(causes: Sequence[Row]) -> list[str]:
    groups: dict[str, Callable[[Row], str]] = {
        "photos": lambda c: c["pool"],
        "network": lambda c: c["network"],
        "share of the class's photos": lambda c: "even" if c["where"] == "even" else f"{c['share']:.2f}",
        "opacity": lambda c: f"{c['opacity']:.1f}",
        "audited photos a class": lambda c: "8 to 24" if c["is_small"] else "25 to 200",
        "classes": lambda c: "2 or 3" if c["classes"] <= 3 else "4 or 5" if c["classes"] <= 5 else "10 to 20",
    }
    table = []
    for name, find in groups.items():
        parts = defaultdict(list)
        for cause in causes:
            parts[find(cause)].append(cause)
        table += [[name, value, len(parts[value]), count_found(parts[value])] for value in sorted(parts)]
    return write_table(["", "", "causes", "relied on: found"], table)


def tabulate_names(causes: Sequence[Row]) -> list[str]:
    """Of the causes that are relied on, by what the right class is said to be known."""
    table = []
    for kind in KINDS:
        own = [c for c in causes if c["kind"] == kind and c["relies"]]
        said = Counter(name for c in own for name in set(c["said"] or ["nothing"]))
        if own:
            table.append([kind, len(own), ", ".join(f"{name} {count}" for name, count in said.most_common())])
    return write_table(["cause", "relied on", "said to be"], table)


def tell_each(rows: Sequence[Row]) -> list[str]:
    """A line for each cause that is relied on and was not found, and each accusation that is not right."""
    lines = []
    for row in rows:
        what = f"{row['key']} ({row['pool']}, {row['classes']} classes, {row['audited']} audited, {row['network']}"
        what += ")" if row["kind"] == CLEAN else f", share {row['share']}, opacity {row['opacity']}, {row['where']})"
        for one in row["causes"]:
            if one["relies"] and not one["found"]:
                said = ", ".join(one["said"]) or "nothing"
                lines.append(
                    f"- missed: {what}: {'/'.join(one['told_of'])}, reliance {one['reliance']:.2f}; said: {said}"
                )
        for one in row["questions"]:
            if one["of"] != "right":
                lines.append(f"- asked: {what}: {one['title']}")
        for one in row["accusations"]:
            if one["of"] != "right":
                word = "accused" if row["kind"] == CLEAN else one["of"]
                lines.append(f"- {word}: {what}: {one['title']}")
    return sorted(lines)


def shorten(row: Row) -> Row:
    """A row without the photos."""
    kept = ("id", "kind", "class", "title", "severity", "certainty", "numbers")
    return {**row, "findings": [{key: one[key] for key in kept if key in one} for one in row["findings"]]}
