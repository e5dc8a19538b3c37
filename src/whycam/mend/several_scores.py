"""How a model of classes that go together does on the held-out photos; and from where each is given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from whycam.data.folder import PhotoFolder
from whycam.metrics.multi_label import (
    choose_fold_thresholds,
    choose_thresholds,
    compute_f1,
    count_outcomes,
    score_labels,
)
from whycam.runs import TableWriter
from whycam.train.multi_label import read_threshold, to_labels
from whycam.train.work import Work


def set_thresholds(work: Work, logits: Tensor) -> None:
    """Gives the model its thresholds, by the held-out photos' logits (N, K) or as `--threshold` says."""
    given, count = read_threshold(work.options.threshold), len(work.photos.class_names)
    shares, truth = _read(work, logits)
    work.model.thresholds = tuple(choose_thresholds(shares, truth).tolist()) if given is None else (given,) * count


def summarise_labels(work: Work, logits: Tensor) -> dict[str, Any]:
    """The scores of the held-out photos, as `summary.json` holds them."""
    shares, truth = _read(work, logits)
    thresholds, names = np.array(work.model.thresholds), work.photos.class_names
    found = score_labels(shares, truth, thresholds, names, seed=work.options.seed)
    for name, threshold in zip(names, thresholds.tolist(), strict=True):
        found["classes"][name]["threshold"] = threshold
    is_chosen = read_threshold(work.options.threshold) is None
    if is_chosen:
        unseen = count_outcomes(shares >= choose_fold_thresholds(shares, truth), truth)
        found["f1_of_unseen"] = float(compute_f1(unseen).mean())
    classes = found.pop("classes")
    labels = torch.from_numpy(truth.astype(np.float32))
    return {
        "multi_label": True,
        "threshold": work.options.threshold,
        **{f"val_{name}": value for name, value in found.items()},
        # The share of yes and no answers that are right, at the thresholds.
        "val_accuracy": found["answers_right"],
        "val_loss": float(functional.binary_cross_entropy_with_logits(logits, labels)),
        "classes": classes,
        "chosen": work.chosen,
        "val_note": _tell_choices(by_epoch=work.chosen["on"] == "val", by_threshold=is_chosen),
        "notes": _tell_odd(classes),
    }


def _read(work: Work, logits: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and truth of the held-out photos, (N, K) each."""
    truth = to_labels(work.photos.val, len(work.photos.class_names)).numpy() > 0
    # As float64: a probability over 1 - 6e-8 is 1 in float32.
    return logits.double().sigmoid().numpy(), truth


def _tell_choices(*, by_epoch: bool, by_threshold: bool) -> str:
    chosen = ["the epoch"] * by_epoch + ["the thresholds"] * by_threshold
    if not chosen:
        return "Nothing was chosen on these photos."
    what = " and ".join(chosen)
    return f"{what[0].upper()}{what[1:]} {'was' if what == 'the epoch' else 'were'} chosen on these same photos."


def _tell_odd(classes: dict[str, Any]) -> list[str]:
    """Sentences on classes that a figure can't be had of."""
    none = [name for name, one in classes.items() if not one["right"] + one["false"]]
    lacking = [name for name, one in classes.items() if one["ap"] is None]
    notes = []
    if none:
        notes.append(f"No held-out photo reaches the threshold of {', '.join(map(repr, none))}.")
    if lacking:
        notes.append(f"No AUROC and AP of {', '.join(map(repr, lacking))}: each held-out photo has it, or none.")
    return notes


def write_label_predictions(logits: Tensor, thresholds: Sequence[float], photos: PhotoFolder, run: Path) -> None:
    """`predictions.parquet` and `.csv`: each held-out photo with its classes, those given, and all probabilities.

    Several classes stand in a cell with ; between them; `p NAME` is a class's probability.
    """
    import pyarrow as pa  # noqa: PLC0415 - slow to import

    names = photos.class_names
    texts = [pa.field(name, pa.string()) for name in ("path", "truth", "predicted", "missed", "false")]
    columns = [f"p {name}" for name in names]
    fields = [*texts, pa.field("is_right", pa.bool_()), *(pa.field(name, pa.float32()) for name in columns)]
    shares = logits.double().sigmoid().numpy()
    given = shares >= np.asarray(thresholds)
    with TableWriter(run, "predictions", pa.schema(fields)) as table:
        for sample, p, is_given in zip(photos.val, shares.tolist(), given, strict=True):
            own, said = set(sample.classes), set(np.flatnonzero(is_given).tolist())
            sets = {"truth": own, "predicted": said, "missed": own - said, "false": said - own}
            table.write(
                {
                    "path": sample.path.relative_to(photos.root).as_posix(),
                    **{word: ";".join(names[k] for k in sorted(indices)) for word, indices in sets.items()},
                    "is_right": own == said,
                    **dict(zip(columns, p, strict=True)),
                }
            )
