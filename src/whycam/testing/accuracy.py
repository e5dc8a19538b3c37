"""check_accuracy: are enough photos of a folder named rightly?"""

from __future__ import annotations

import numpy as np

from whycam.errors import UserError
from whycam.explainer.targets import to_probabilities
from whycam.testing.limits import check_limit
from whycam.testing.models import Answer, Tested, find_tested
from whycam.testing.photos import Asked, PhotosLike, read_asked, tell_left_out
from whycam.testing.pictures import draw_classes
from whycam.testing.verdict import Measured, Verdict, Worst


def check_accuracy(model: object, folder: PhotosLike, at_least: float, *, each_class: bool = False) -> Verdict:
    """Whether the share of a folder's photos that are named rightly is surely under `at_least`, surely not, or neither.

    Args:
        model: what `whycam.load` gives, or takes.
        folder: CLASS/photo.jpg, or val/CLASS/photo.jpg.
        at_least: a share of the photos, in (0, 1].
        each_class: of the photos of each class, too.

    Raises:
        UserError: no photos in class folders, a folder that is no class of the model, a model of one class.
    """
    limit = check_limit("at_least", at_least)
    tested = find_tested(model)
    if (count := len(tested.card.class_names)) < 2:
        raise UserError(f"Found a model of {count} class; accuracy compares classes: expected two.")
    photos = read_asked(folder, tested.card.class_names)
    if unlabelled := [one for one in photos if not one.labels]:
        raise UserError(
            f"Found {len(unlabelled)} photos whose class no folder names (the first: '{unlabelled[0].path}'); expected "
            "CLASS/photo.jpg, of two classes or more. Put each photo into the folder of its class."
        )
    answers = tested.ask(photos)
    read = [(one, answers[one.path]) for one in photos if one.path in answers]
    wrong = sorted(
        ((find_lead(tested, one, answer), one, answer) for one, answer in read if not is_right(tested, one, answer)),
        key=lambda found: (-found[0], found[1].path),
    )
    how = "are right"
    if tested.card.is_multi_label:
        how = "are given their folder's label" + ("" if tested.card.thresholds else " with over 50 %")
    missed = {one.path for _, one, _ in wrong}
    return Measured(
        "accuracy",
        np.array([float(one.path not in missed) for one, _ in read]),
        [tested.card.class_names[one.labels[0]] for one, _ in read],
        lambda values: f"{values.sum():.0f} of {len(values)} photos {how}",
    ).judge(
        limit,
        each_class=each_class,
        worst=[_tell(tested, *found) for found in wrong],
        notes=tell_left_out(len(photos) - len(read), "that can't be read"),
    )


def is_right(tested: Tested, one: Asked, answer: Answer) -> bool:
    """Whether its class is the top one; of labels that may go together, whether it is given at all."""
    if tested.card.is_multi_label:
        shares = to_probabilities(answer.logits[None], tested.card.output)[0]
        is_given = tested.card.is_given(shares)
        return any(is_given[k] for k in one.labels)
    return answer.predicted in one.labels


def find_lead(tested: Tested, one: Asked, answer: Answer) -> float:
    """By how many logits the top class leads over the photo's own; of labels that may go together, a half leads."""
    own = float(answer.logits[list(one.labels)].max())
    return -own if tested.card.is_multi_label else float(answer.logits.max()) - own


def _tell(tested: Tested, lead: float, one: Asked, answer: Answer) -> Worst:
    names, label, top = tested.card.class_names, answer.find_label(one.labels), answer.predicted
    own = names[top if label is None else label]
    note = f"{own}, taken for {names[top]} by {lead:.2f} logits"
    if tested.card.is_multi_label:
        note = f"{own} is {lead:.2f} logits under a half; the strongest label is {names[top]}"
    classes = dict.fromkeys([top, *one.labels[:1]])
    return Worst(one.path, note, lambda: draw_classes(tested, one.path, list(classes)), names[one.labels[0]])
