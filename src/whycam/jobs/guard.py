"""`whycam guard`: what a model must keep to, as `guards.json`, a page with the photos to look at, and an exit code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from whycam.audit.shortcuts import SUSPECTS
from whycam.config import GuardOptions
from whycam.data.annotations import read_photos
from whycam.errors import UserError, make_unknown_name
from whycam.intake.door import open_classifier
from whycam.jobs.progress import show_progress
from whycam.runs import command_line, open_run
from whycam.testing.accuracy import check_accuracy
from whycam.testing.exactness import check_exact
from whycam.testing.kept import check_evidence_kept, match_classes
from whycam.testing.looks import check_looks_at
from whycam.testing.models import Tested
from whycam.testing.photos import read_asked
from whycam.testing.report import write_report, write_verdict
from whycam.testing.rule import State
from whycam.testing.shortcuts import check_no_shortcut
from whycam.testing.verdict import Verdict

Check = Callable[[], Verdict]


@dataclass(frozen=True)
class Outcome:
    """What a finished `whycam guard` counts."""

    verdicts: tuple[Verdict, ...]
    fails: int

    @property
    def told(self) -> str:
        """In words."""
        counts = {state: sum(one.state is state for one in self.verdicts) for state in State}
        words = {State.HOLDS: "hold", State.BROKEN: "broken", State.INCONCLUSIVE: "inconclusive"}
        return f"{len(self.verdicts)} guards: " + ", ".join(f"{n} {words[s]}" for s, n in counts.items() if n)


def guard_model(model_name: str, folder: Path, out: Path, options: GuardOptions) -> Outcome:
    """Asks each guard that the options name, prints the verdicts, and writes the folder `out`.

    Raises:
        UserError: no guard is named, no photos, masks of none of them, models of other classes, a result of that name.
    """
    _check_options(options)
    with open_run(out, overwrite=options.overwrite) as partial_folder:
        paths = [one.photo for one in read_photos(folder)]
        tested = _open(model_name, options, len(paths))
        checks = list(_list_checks(tested, folder, options))
        _read(tested, folder)
        verdicts = tuple(check() for check in checks)
        records = [
            _write(verdict, partial_folder / f"{number}-{verdict.guard}", is_strict=options.strict)
            for number, verdict in enumerate(verdicts, start=1)
        ]
        about = {"model": model_name, **tested.card.origin, "options": options.model_dump(mode="json")}
        write_report(partial_folder, records, command=command_line(), **about)
    for verdict in verdicts:
        Console().print(verdict.describe(), markup=False, highlight=False, soft_wrap=True)
    return Outcome(verdicts, sum(record["fails"] for record in records))


def _check_options(options: GuardOptions) -> None:
    if (options.looks_at is None) != (options.share is None):
        raise UserError(
            "Found one of --looks-at and --share without the other; expected both: where the objects are, and how much "
            "of the evidence must lie there. For example --looks-at MASKS --share 0.5."
        )
    named = (options.at_least, options.looks_at, options.no_shortcut, options.kept)
    if all(one is None for one in named) and not options.exact:
        raise UserError(
            "Found no guard; expected one or more of --at-least, --looks-at, --no-shortcut, --kept and --exact. For "
            "example --at-least 0.9."
        )
    kinds = _split(options.no_shortcut)
    if options.no_shortcut is not None and not kinds:
        raise UserError(f"--no-shortcut names nothing; expected some of {', '.join(SUSPECTS)}, with commas.")
    if unknown := next((kind for kind in kinds if kind not in SUSPECTS), None):
        raise make_unknown_name("kind of shortcut", unknown, SUSPECTS)


def _split(words: str | None) -> list[str]:
    return [word.strip() for word in (words or "").split(",") if word.strip()]


def _open(name: str, options: GuardOptions, photos: int) -> Tested:
    return Tested(open_classifier(name, **options.describe_model(), photos=photos))


def _open_old(name: str, options: GuardOptions) -> Tested:
    """The older model: as the options say, or, where they don't fit it, as it says itself.

    Raises:
        UserError: neither can be opened.
    """
    try:
        return _open(name, options, 1)
    except UserError as error:
        try:
            return Tested(open_classifier(name, device=options.device))
        except UserError:
            raise error from None


def _read(tested: Tested, folder: Path) -> None:
    """Asks the model of every photo, with a bar; the guards find its answers there."""
    photos = read_asked(folder)
    with show_progress("asking", len(photos)) as advance:
        tested.ask(photos, progress=advance)


def _list_checks(tested: Tested, folder: Path, options: GuardOptions) -> Iterator[Check]:
    """The guards that are named."""
    if options.exact:
        yield partial(check_exact, tested, folder)
    if options.at_least is not None:
        yield partial(check_accuracy, tested, folder, options.at_least, each_class=options.each_class)
    if options.looks_at is not None and options.share is not None:
        share, each_class = options.share, options.each_class
        yield partial(check_looks_at, tested, folder, options.looks_at, share=share, each_class=each_class)
    if options.no_shortcut is not None:
        kinds = _split(options.no_shortcut)
        yield partial(check_no_shortcut, tested, folder, kinds, limit=options.limit, seed=options.seed)
    if options.kept is not None:
        old = _open_old(options.kept, options)
        match_classes(old, tested)
        yield partial(check_evidence_kept, old, tested, folder, options.kept_share)


def _write(verdict: Verdict, folder: Path, *, is_strict: bool) -> dict[str, Any]:
    """The verdict as guards.json holds it, with the pictures of one that fails."""
    record = {"test": "", "fails": verdict.fails(is_strict=is_strict), **verdict.to_json()}
    return write_verdict(record, verdict, folder) if record["fails"] else record
