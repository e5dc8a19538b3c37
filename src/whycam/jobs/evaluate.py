"""`whycam evaluate`: a folder's photos to a table of methods and metrics; numbers by photo, by class and overall."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from whycam.config import EvaluateOptions
from whycam.data.annotations import read_photos
from whycam.data.groups import read_groups
from whycam.errors import UserError
from whycam.explainer.model import Model
from whycam.intake.door import open_classifier
from whycam.jobs.progress import show_progress
from whycam.metrics.evaluation import Evaluation, evaluate
from whycam.metrics.groups import score_groups, tell_groups
from whycam.metrics.measurer import MeasureBy, measure_here
from whycam.metrics.registry import Metric
from whycam.runs import TableWriter, command_line, open_run, write_json

_NOISE, _BEATEN = "≈", "!"
_LEGEND = (
    f"Mean and half of the 95 % interval over photos; ↑ higher is better, ↓ lower. * the best method; {_NOISE} not "
    f"told apart from it (paired bootstrap); {_BEATEN} a baseline that beats it."
)


def evaluate_folder(
    model_name: str, folder: Path, out: Path, options: EvaluateOptions, measure_by: MeasureBy = measure_here
) -> Evaluation:
    """Measures, prints the table, and writes the folder `out`.

    Args:
        model_name: see `whycam.load`.
        folder: photos.
        out: the folder to make.
        options: what is measured.
        measure_by: whose cores measure.

    Raises:
        UserError: unknown names, no photos, boxes that fit none of them, metrics without what they need.
    """
    if sum(source is not None for source in (options.boxes, options.masks, options.coco)) > 1:
        raise UserError("Found more than one of --boxes, --masks and --coco; expected one. Leave the others out.")
    photos = read_photos(folder, boxes=options.boxes, masks=options.masks, coco=options.coco)
    words = read_groups(options.groups, [one.photo for one in photos], folder) if options.groups else {}
    with open_run(out, overwrite=options.overwrite) as partial:
        model = Model(open_classifier(model_name, **options.describe_model()))
        total = min(options.limit or len(photos), len(photos))
        with show_progress("measuring", total) as advance:
            found = evaluate(
                model,
                photos,
                methods=_split(options.methods),
                metrics=_split(options.metrics),
                target=options.target,
                baseline_photos=options.baseline_photos,
                limit=options.limit,
                until=options.until,
                every_step=options.every_step,
                batch_size=options.batch_size,
                seed=options.seed,
                engine=options.engine,
                progress=advance,
                measure_by=measure_by,
                layer=options.layer,
            )
        groups = _score_groups(found, words)
        write_evaluation(found, partial, options, groups)
        print_evaluation(found, Console())
        if groups:
            Console().print(tell_groups(groups), markup=False, highlight=False)
    return found


def _split(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]


def _score_groups(found: Evaluation, words: Mapping[Path, str]) -> dict[str, Any]:
    """The accuracy of each group, over the photos whose class and group are known."""
    known = [i for i, label in enumerate(found.labels) if label >= 0]
    names = [found.class_names[min(int(found.labels[i]), len(found.class_names) - 1)] for i in known]
    right = found.logits.argmax(1)[known] == found.labels[known]
    return score_groups(names, [words.get(found.photos[i]) for i in known], right.tolist())


def write_evaluation(
    found: Evaluation, folder: Path, options: EvaluateOptions, groups: Mapping[str, Any] | None = None
) -> None:
    """`overall.json`, with each group's accuracy where it is known; and `photos` and `classes` as Parquet and CSV."""
    names = [metric.name for metric in found.metrics]
    write_json(
        folder / "overall.json",
        {
            "command": command_line(),
            "photos": len(found),
            "left_out": dict(found.counts),
            "same_maps": dict(found.same),
            "classifier": found.classifier(),
            **({"groups": groups} if groups else {}),
            "metrics": {metric.name: _describe(metric) for metric in found.metrics},
            "overall": found.overall(),
            "options": options.model_dump(mode="json"),
            "record": dict(found.record),
        },
    )
    texts = [pa.field(name, pa.string()) for name in ("path", "method", "class", "truth", "predicted")]
    numbers = [pa.field(name, pa.float64()) for name in names]
    with TableWriter(folder, "photos", pa.schema([*texts, *numbers])) as table:
        for row in list_photos(found):
            table.write(row)
    texts = [pa.field("class", pa.string()), pa.field("method", pa.string()), pa.field("photos", pa.int32())]
    with TableWriter(folder, "classes", pa.schema([*texts, *numbers])) as table:
        for row in found.per_class():
            table.write(row)


def _describe(metric: Metric) -> dict[str, Any]:
    told = ("better", "category", "paper", "differs", "baseline", "needs")
    return {name: value for name, value in vars(metric).items() if name in told}


def list_photos(found: Evaluation) -> list[dict[str, Any]]:
    """A row for each photo and method; what a metric does not define is empty."""
    values = {(m, one.name): found.per_photo(m, one.name) for m in found.methods for one in found.metrics}
    top = found.logits.argmax(1)
    measured = {name: found.find_measured(name) for name in found.methods}
    rows = []
    for i, path in enumerate(found.photos):
        label = int(found.labels[i])
        about: dict[str, Any] = {
            "path": str(path),
            "class": found.classes[i],
            "truth": found.class_names[label] if 0 <= label < len(found.class_names) else None,
            "predicted": found.class_names[min(int(top[i]), len(found.class_names) - 1)],
        }
        for method in (name for name in found.methods if measured[name][i]):
            own = {one.name: values[method, one.name][i] for one in found.metrics}
            rows.append(about | {"method": method} | {k: float(v) if np.isfinite(v) else None for k, v in own.items()})
    return rows


def print_evaluation(found: Evaluation, console: Console) -> None:
    """The table of methods and metrics, and in sentences what was left out and what repeats."""
    baselines = found.record["baselines"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("metric", no_wrap=True)
    for method in found.distinct:
        table.add_column(method, justify="right", style="dim" if method in baselines else "", no_wrap=True)
    category = ""
    for metric in found.metrics:
        if metric.category != category:
            category = metric.category
            table.add_row(f"[bold]{category}[/bold]")
        table.add_row(metric.title, *(make_cell(found, method, metric) for method in found.distinct))
    console = console if console.is_terminal else Console(width=240, file=console.file)
    console.print(table)
    for line in tell(found):
        console.print(line, markup=False, highlight=False)


def make_cell(found: Evaluation, method: str, metric: Metric) -> str:
    """Number, half interval, and how it stands to the best."""
    one, best = found.estimate(method, metric.name), found.best(metric.name)
    if not one.photos:
        return "-"
    mark = " "
    if best is not None and method == best:
        mark = "*"
    elif best is not None and found.is_noise(method, best, metric.name):
        mark = _NOISE
    elif best is not None:
        gap = found.difference(method, best, metric.name).value
        mark = _BEATEN if (gap > 0) == (metric.better == "higher") else " "
    return f"{one.value:.3f} ±{(one.high - one.low) / 2:.3f} {mark}"


def tell(found: Evaluation) -> list[str]:
    """What the table does not show: repeated maps, what was left out, the classifier."""
    lines = [_LEGEND]
    for first in found.distinct:
        if twins := [name for name, of in found.same.items() if of == first]:
            lines.append(f"{', '.join(twins)}: the maps of {first} up to scale and negative values, measured once.")
    lines += [f"Left out: {what}: {count}." for what, count in found.counts.items()]
    if missing := found.record["left_out"]:
        lines.append(f"Not measured, as photos or model lack what they need (docs/metrics.md): {', '.join(missing)}.")
    if found.is_sampled is not None:
        lines.append(
            f"The baselines are measured on {found.is_sampled.sum()} of {len(found)} photos (--baseline-photos)."
        )
    if stopped := found.record.get("stopped"):
        lines.append(
            f"Stopped before the end, at {len(found)} of {stopped['of']} photos: half of every interval is under "
            f"{stopped['until']:g} (--until)."
        )
    for metric in found.metrics:
        few = {m: e.undefined for m in found.distinct if (e := found.estimate(m, metric.name)).undefined}
        if few and len(set(few.values())) == 1 and len(few) == len(found.distinct):
            lines.append(f"{metric.name} is not defined on {next(iter(few.values()))} of {len(found)} photos.")
        elif few:
            listed = ", ".join(f"{m} {count}" for m, count in few.items())
            lines.append(f"{metric.name} is not defined on some of {len(found)} photos: {listed}.")
    if scores := found.classifier():
        if found.is_multi_label:
            lines.append(
                f"The classifier gives several labels: that of the folder is the strongest on {scores['accuracy']:.1%} "
                f"of {scores['photos']} photos, among the first five on {scores['top5_accuracy']:.1%}."
            )
            return lines
        lines.append(
            f"The classifier: accuracy {scores['accuracy']:.3f} on {scores['photos']} photos with labels, among the "
            f"first five {scores['top5_accuracy']:.3f}"
            + (f", calibration error {error:.3f}." if (error := scores["calibration_error"]) is not None else ".")
        )
    return lines
