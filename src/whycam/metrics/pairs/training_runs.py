"""Which of several runs are of one training with other seeds, by what their folders say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whycam.metrics.pairs.seeds import check_runs
from whycam.model.classifier import Classifier


@dataclass(frozen=True)
class Training:
    """How a run was made.

    Attributes:
        options: all but the seed, and the folder of its photos.
        seed: that it was made with.
    """

    options: dict[str, Any]
    seed: object


@dataclass(frozen=True)
class SortedRuns:
    """The runs that noise is measured by.

    Attributes:
        others: without A and B.
        belongs: A is one of them, or was trained as they were.
        notes: sentences on those that are not counted, and on what makes them differ beside the seed.
    """

    others: tuple[object, ...] = ()
    belongs: bool = False
    notes: tuple[str, ...] = ()


def sort_runs(a: object, b: object, runs: Sequence[object]) -> SortedRuns:
    """Tells A and B from the runs, and runs that are there twice.

    Raises:
        UserError: fewer than two runs are left.
    """
    if not runs:
        return SortedRuns()
    others: list[object] = []
    notes, belongs = [], False
    for run in runs:
        if is_same(run, a):
            belongs = True
        elif is_same(run, b):
            notes.append("B is among the runs of --noise; it is not counted there, as it is what is asked about.")
        elif any(is_same(run, other) for other in others):
            notes.append(f"'{_name(run)}' is there twice among the runs of --noise; it counts once.")
        else:
            others.append(run)
    trainings = [read_training(run) for run in others]
    first = trainings[0] if trainings else None
    if changed := sorted({name for one in trainings if one and first for name in _list_changes(one, first)}):
        notes.append(f"The runs of --noise differ in more than the seed: {', '.join(changed)}. So may their noise.")
    own = read_training(a)
    if not belongs and own and first and not changed and not _list_changes(own, first):
        belongs = True
        notes.append("A was trained as the runs of --noise were, so it counts as one of them.")
    check_runs(len(others) + belongs)
    return SortedRuns(tuple(others), belongs, tuple(dict.fromkeys(notes)))


def is_same(one: object, other: object) -> bool:
    """Whether two models are one: the same object, the same file or folder, or the same training and seed."""
    if one is other:
        return True
    places = [find_place(model) for model in (one, other)]
    if places[0] is None or places[1] is None:
        return False
    trainings = [read_training(model) for model in (one, other)]
    return places[0] == places[1] or (trainings[0] is not None and trainings[0] == trainings[1])


def find_place(model: object) -> Path | None:
    """The file or folder that a model was loaded from: of a run the run's, not that of model/ in it."""
    name = _name(model)
    path = Path(name) if name else None
    if path is None or not path.exists():
        return None
    path = path.resolve()
    return path.parent if path.name == "model" and (path.parent / "options.json").is_file() else path


def read_training(model: object) -> Training | None:
    """What the run's folder says; None where the model is no run of `whycam train`'s."""
    if (folder := find_place(model)) is None or not folder.is_dir():
        return None
    with suppress(OSError, ValueError, KeyError, TypeError):
        options = json.loads((folder / "options.json").read_text(encoding="utf-8"))
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        seed = options.pop("seed")
        return Training({**options, "photos": summary["data"]["folder"]}, seed)
    return None


def _list_changes(one: Training, other: Training) -> list[str]:
    names = one.options.keys() | other.options.keys()
    return [name for name in names if one.options.get(name) != other.options.get(name)]


def _name(model: object) -> str:
    if isinstance(model, str | Path):
        return str(model)
    classifier = model if isinstance(model, Classifier) else getattr(model, "classifier", None)
    return classifier.card.name if isinstance(classifier, Classifier) else ""
