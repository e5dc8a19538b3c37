"""check_exact: are a model's maps its scores, mean(map) + bias = logit?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from whycam.model.onnx.engine import IDENTITY_LIMIT
from whycam.testing.models import Answer, Tested, find_tested
from whycam.testing.photos import PhotosLike, read_asked
from whycam.testing.pictures import draw_classes
from whycam.testing.rule import State
from whycam.testing.verdict import Verdict, Worst


def check_exact(model: object, photos: PhotosLike | None = None) -> Verdict:
    """Whether mean(map) + bias is the logit of every class, within 1e-4 of the logits' range.

    Nothing is estimated here: each photo is measured, and one that misses it breaks the guard.

    Args:
        model: what `whycam.load` gives, or takes.
        photos: to measure on; without, an installed photo and noise.

    Raises:
        UserError: no such model, no photos.
    """
    tested = find_tested(model)
    if not tested.card.is_exact:
        told = f"are there exact maps? {tested.card.tell_exactness()}"
        return Verdict("exact", State.BROKEN, told, 0, limit=IDENTITY_LIMIT)
    answers: dict[Path, Answer] = {}
    if photos is None:
        errors, where = tested.measure_probe(), "an installed photo and noise"
    else:
        answers = tested.ask(read_asked(photos))
        errors = np.array([one.identity_error for one in answers.values()])
        where = f"{len(answers)} photos"
    largest = float(errors.max())
    # A comparison with NaN is false.
    state = State.HOLDS if largest < IDENTITY_LIMIT else State.BROKEN
    told = (
        f"mean(map) + bias misses the logit by {largest:.1g} of the logits' range at the most, on {where}; under "
        f"{IDENTITY_LIMIT:g} is asked for."
    )
    value = largest if np.isfinite(largest) else None
    return Verdict("exact", state, told, len(errors), value, limit=IDENTITY_LIMIT, worst=_list_worst(tested, answers))


def _list_worst(tested: Tested, answers: Mapping[Path, Answer]) -> tuple[Worst, ...]:
    """The photos that miss it, by how much."""
    found = []
    for path, answer in answers.items():
        error = np.nan_to_num(answer.identity_error or 0.0, nan=np.inf)
        if not error < IDENTITY_LIMIT:
            draw = partial(draw_classes, tested, path, [answer.predicted])
            found.append((error, Worst(path, f"misses it by {error:.1g} of the logits' range", draw)))
    return tuple(one for _, one in sorted(found, key=lambda one: (-one[0], one[1].path)))
