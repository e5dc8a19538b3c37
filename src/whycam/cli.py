"""The commands: parse, call one function, print one closing line.

A command is one function here; its options come from a model in `config/`. What it needs is imported inside it:
help comes without torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whycam import __version__
from whycam.config import (
    OVERWRITE,
    AuditOptions,
    CardOptions,
    CheckOptions,
    CompareOptions,
    EditsOptions,
    EvaluateOptions,
    ExplainOptions,
    ExportOptions,
    GuardOptions,
    InspectOptions,
    LocalizeOptions,
    ReportOptions,
    ServeOptions,
    TrainOptions,
    UnitsOptions,
    make_train_options,
)
from whycam.jobs.options import GreedyCommand, PlainGroup, with_options

if TYPE_CHECKING:
    from whycam.audit import Audit

app = typer.Typer(
    cls=PlainGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Why did the network say that? Exact class activation maps: train, explain, prove, show, ship.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A run or model folder, 'imagenet', a timm or torchvision name, a Hugging Face folder or hf:org/name, an "
        ".onnx, .keras, .h5 or .pt2 file, or file.py:attribute, which is run.",
    ),
]


@app.command()
@with_options(TrainOptions)
def train(
    folder: Annotated[
        Path,
        typer.Argument(
            help="CLASS/photo.jpg, or train/CLASS/.. and val/CLASS/..; or a .csv or .parquet of path,label, or tar "
            "shards, one or a folder of them."
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The run folder to make.")],
    given: dict[str, object],
) -> None:
    """Train a classifier on a folder of photos, one sub-folder a class, and see where it looks."""
    options = make_train_options(**given)
    from whycam.jobs.train import tell
    from whycam.jobs.train import train as run

    for line in tell(run(folder, out, options), out):
        typer.echo(line)


@app.command()
@with_options(ExplainOptions)
def explain(
    model: ModelName,
    inputs: Annotated[
        list[str], typer.Argument(help="Photos, folders, lists of paths (.txt), shards (.tar), s3:// and the like.")
    ],
    out: Annotated[str, typer.Option("-o", "--out", help="The folder to make; may be an address.")],
    given: dict[str, object],
) -> None:
    """Show where a network looks: overlay, heatmap, raw map and boxes of each photo, and one table."""
    options = ExplainOptions.model_validate(given)
    options.check_used()
    if options.on == "ray":
        from whycam.ray.explain import explain_on_ray

        done = explain_on_ray(model, inputs, out, options)
        twice = f"; {done.doubles} were named again, and are there once" if done.doubles else ""
        typer.echo(f"Explained {_count_read(done.photos, done.unreadable)}{twice}; the table is in {out}")
        return
    from whycam.jobs.explain import explain_files

    done = explain_files(model, inputs, out, options)
    typer.echo(f"Explained {_count_read(done.photos, done.unreadable)}; overlays, maps and table are in {out}")


@app.command()
@with_options(ExportOptions)
def export(
    model: ModelName,
    out: Annotated[Path, typer.Option("-o", "--out", help="The file or folder to make.")],
    given: dict[str, object],
) -> None:
    """Write a model that explains itself: one pass gives scores and maps, in ONNX Runtime, OpenVINO or plain timm."""
    options = ExportOptions.model_validate(given)
    from whycam.jobs.export import export as run

    done = run(model, out, options)
    typer.echo(f"Wrote {out} ({done.size_mb:.1f} MB); it differs from PyTorch by {done.parity_error:.1g} of the range")
    if done.drift is not None:
        typer.echo(
            f"int8, on {done.drift.photos} photos: maps correlate {done.drift.correlation:.4f}, "
            f"{done.drift.changed:.2%} of the top classes change; {done.drift.speed:.1f} x as fast on one core"
        )


@app.command()
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to make.")] = Path("demo"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help=OVERWRITE.description)] = False,
) -> None:
    """Everything, offline: explain installed photos, train on generated flowers, measure the maps."""
    from whycam.jobs.demo import run_demo

    for line in run_demo(out, overwrite=overwrite):
        typer.echo(line)


@app.command()
def data(
    name: Annotated[str, typer.Argument(help="flowers, cifar10, stl10, flowers102 or oxford-pets.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to make.")],
    source: Annotated[Path | None, typer.Option(help="An archive or folder that you fetched elsewhere.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help=OVERWRITE.description)] = False,
) -> None:
    """Fetch a known set of photos and lay it out as class folders (needs the internet, or --source)."""
    from whycam.jobs.data import fetch_with_progress

    photos = fetch_with_progress(name, out, source=source, overwrite=overwrite)
    typer.echo(f"The photos are in {photos}: whycam train {photos} -o runs/{name}")


@app.command()
@with_options(EvaluateOptions)
def evaluate(
    model: ModelName,
    folder: Annotated[Path, typer.Argument(help="CLASS/photo.jpg, val/CLASS/photo.jpg, or photos in one folder.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to make.")],
    given: dict[str, object],
) -> None:
    """Measure how good the maps are, method by method, with intervals and baselines; and the classifier too."""
    options = EvaluateOptions.model_validate(given)
    options.check_used()
    if options.on == "ray":
        from whycam.ray.evaluate import evaluate_on_ray

        done = evaluate_on_ray(model, folder, out, options)
    else:
        from whycam.jobs.evaluate import evaluate_folder

        done = evaluate_folder(model, folder, out, options)
    typer.echo(f"Measured {len(done.metrics)} metrics on {len(done)} photos; overall.json and tables are in {out}")


@app.command()
@with_options(AuditOptions)
def audit(
    model: ModelName,
    folder: Annotated[Path, typer.Argument(help="CLASS/photo.jpg, val/CLASS/photo.jpg, or photos in one folder.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to make.")],
    given: dict[str, object],
) -> None:
    """Find what a model should not be looking at: shortcuts, wrong labels, duplicates, fragile photos, confusion."""
    options = AuditOptions.model_validate(given)
    options.check_used()
    if options.on == "ray":
        from whycam.ray.audit import audit_on_ray

        done = audit_on_ray(model, folder, out, options)
    else:
        from whycam.jobs.audit import audit_folder

        done = audit_folder(model, folder, out, options)
    _tell_findings(done, out, options.fail_on)


@app.command()
@with_options(EditsOptions)
def edits(
    run: Annotated[Path, typer.Argument(help="A run folder whose photos people corrected.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to make.")],
    given: dict[str, object],
    folder: Annotated[Path | None, typer.Argument(help="Where the run's photos are now [where they were].")] = None,
) -> None:
    """Hand on what people said of a run's photos: as a table, or for Label Studio or FiftyOne."""
    options = EditsOptions.model_validate(given)
    from whycam.jobs.edits import hand_on

    done = hand_on(run, folder, out, options)
    for sentence in done.told:
        typer.echo(sentence)
    typer.echo(f"Edits that count: {done.edits}, photos they are about: {done.photos}; they are in {out}")


@app.command()
@with_options(CheckOptions)
def check(
    folder: Annotated[Path, typer.Argument(help="CLASS/photo.jpg, or train/CLASS/.. and val/CLASS/..")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to make.")],
    given: dict[str, object],
) -> None:
    """Find what is wrong with photos before a model learns it: what tells a class by itself, and copies."""
    options = CheckOptions.model_validate(given)
    from whycam.jobs.check import check_folder

    _tell_findings(check_folder(folder, out, options), out, options.fail_on)


@app.command()
@with_options(GuardOptions)
def guard(
    model: ModelName,
    folder: Annotated[Path, typer.Argument(help="CLASS/photo.jpg, val/CLASS/photo.jpg, or photos in one folder.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to make.")],
    given: dict[str, object],
) -> None:
    """Fail where a model surely is no longer as it should be: accuracy, where it looks, shortcuts, its evidence."""
    options = GuardOptions.model_validate(given)
    from whycam.jobs.guard import guard_model

    done = guard_model(model, folder, out, options)
    typer.echo(f"{done.told}; guards.json and index.html are in {out}")
    if done.fails:
        raise typer.Exit(1)


@app.command()
@with_options(LocalizeOptions)
def localize(
    model: ModelName,
    inputs: Annotated[list[Path], typer.Argument(help="Photos, and folders of photos.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to make.")],
    given: dict[str, object],
) -> None:
    """Find objects with the classifier alone: boxes and outlines as COCO JSON, YOLO labels and a table."""
    options = LocalizeOptions.model_validate(given)
    from whycam.jobs.localize import localize_files

    done = localize_files(model, inputs, out, options)
    typer.echo(
        f"Found {done.boxes} boxes in {_count_read(done.photos, done.unreadable)}; coco.json, labels, boxes.csv and "
        f"pictures are in {out}"
    )


@app.command()
@with_options(UnitsOptions)
def units(
    model: ModelName,
    target: Annotated[str, typer.Argument(metavar="CLASS", help="A class name, class:NAME, or index:N.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to make.")],
    given: dict[str, object],
    folder: Annotated[
        Path | None, typer.Argument(help="Photos, or a folder of them [those that come with whycam].")
    ] = None,
) -> None:
    """Show what a class is made of: its weightiest channels, with their own maps on the photos that excite them."""
    options = UnitsOptions.model_validate(given)
    from whycam.jobs.units import show_units

    done = show_units(model, target, folder, out, options)
    typer.echo(f"{done.units} channels of {done.name!r} on {done.photos} photos; sheet.png and units.csv are in {out}")


@app.command()
@with_options(ServeOptions)
def serve(
    model: ModelName,
    given: dict[str, object],
) -> None:
    """Show a model in the browser: drop photos, see the evidence for each class; and answer a JSON API."""
    options = ServeOptions.model_validate(given)
    from whycam.jobs.serve import serve as run

    run(model, options, typer.echo)
    typer.echo("Stopped.")


@app.command()
@with_options(ReportOptions)
def report(
    model: ModelName,
    out: Annotated[Path, typer.Option("-o", "--out", help="The page to make, such as report.html.")],
    given: dict[str, object],
    folder: Annotated[
        Path | None, typer.Argument(help="Photos, plain or in class folders [those that the run held out].")
    ] = None,
) -> None:
    """Make one page that opens from the disk: how good the model is, what to worry about, where it looks."""
    options = ReportOptions.model_validate(given)
    from whycam.jobs.report import make_report

    done = make_report(model, folder, out, options)
    typer.echo(
        f"Reported on {_count_read(done.photos + done.unreadable, done.unreadable)}; open {out} ({done.size_mb:.1f} MB)"
    )


@app.command()
@with_options(CardOptions)
def card(
    run: Annotated[Path, typer.Argument(help="A run folder that whycam train made.")],
    given: dict[str, object],
    out: Annotated[Path, typer.Option("-o", "--out", help="The card to make.")] = Path("card.md"),
) -> None:
    """Write a run's model card, as Hugging Face reads it; and every number in it with where it came from."""
    options = CardOptions.model_validate(given)
    from whycam.jobs.card import make_card

    files = make_card(run, out, options)
    typer.echo(
        f"The card is {files[0]}" + (f"; its evidence is {' and '.join(map(str, files[1:]))}" if files[1:] else "")
    )


@app.command(cls=GreedyCommand)
@with_options(CompareOptions)
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A model, as in every command.")],
    b: Annotated[
        str, typer.Argument(metavar="B", help="Another, on the same photos: a later epoch, an export, a cure.")
    ],
    photos: Annotated[Path, typer.Argument(help="CLASS/photo.jpg, val/CLASS/photo.jpg, or photos in one folder.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to make, or its page, such as compare.html.")],
    given: dict[str, object],
) -> None:
    """Compare two models: who wins by how much, which photos flip, where the change lies, what is noise of seeds."""
    options = CompareOptions.model_validate(given)
    from whycam.jobs.compare import compare_models

    done = compare_models(a, b, photos, out, options)
    told = _count_read(done.photos + done.unreadable, done.unreadable)
    typer.echo(
        f"Compared on {told}; {done.flips} flip; open {done.page} ({done.size_mb:.1f} MB); compare.json and flips.csv "
        "are beside it"
    )


@app.command()
@with_options(InspectOptions)
def inspect(
    model: ModelName,
    given: dict[str, object],
    photos: Annotated[
        Path | None, typer.Argument(help="CLASS/photo.jpg: the accuracy by each way to prepare photos [none].")
    ] = None,
) -> None:
    """Tell what a model is: classes, input, preprocessing and from where, exact or not and why, which methods work."""
    options = InspectOptions.model_validate(given)
    from whycam.jobs import inspect as job

    typer.echo("\n".join(job.tell(job.inspect(model, photos, options))))


@app.command()
def methods() -> None:
    """List the map methods: what each needs, its paper, when it differs from the class activation map, its cost."""
    from whycam.jobs.methods import print_methods

    print_methods()


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Options of whycam itself."""
    if version:
        typer.echo(f"whycam {__version__}")
        raise typer.Exit


def _tell_findings(done: Audit, out: Path, fail_on: str) -> None:
    from whycam.jobs.audit import split_kinds

    findings = "1 finding" if len(done.findings) == 1 else f"{len(done.findings)} findings"
    typer.echo(f"{findings} on {done.photos} photos; audit.json is in {out}")
    if any(done.of_kind(kind) for kind in split_kinds(fail_on)):
        raise typer.Exit(1)


def _count_read(photos: int, unreadable: int) -> str:
    return f"{photos - unreadable} photos" + (f" ({unreadable} could not be read: see the table)" if unreadable else "")
