"""check_evidence_kept: does a new model see what the old one saw?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from whycam.errors import UserError, join_words
from whycam.testing.limits import check_limit
from whycam.testing.looks import measure_heat
from whycam.testing.models import CAM, Answer, Tested, find_tested
from whycam.testing.photos import Asked, PhotosLike, read_asked, tell_left_out
from whycam.testing.pictures import draw_heat, load_small
from whycam.testing.verdict import Measured, Panel, Verdict, Worst

SHARE = 0.7
# Maps of any two sizes are compared on this grid.
_GRID = (56, 56)
_LISTED = 5
# In this order a method is taken that both models answer for.
_METHODS = {"grad-cam": "gradients", "ablation-cam": "tail scores", "occlusion": "scores"}


def check_evidence_kept(
    old: object,
    new: object,
    photos: PhotosLike,
    share: float = SHARE,
    *,
    each_class: bool = True,
    method: str | None = None,
) -> Verdict:
    """Whether the mean share of the evidence that stays in its place is surely under `share`, surely not, or neither.

    Both models are asked for the map of the class that the old one predicts. A photo's share is the overlap of the two
    maps' positive parts, each of sum 1: the sum over the photo of the smaller one. It is 1 where the evidence is the
    same, 0 where it lies elsewhere altogether, and where one of two models sees nothing that speaks for the class.

    Args:
        old: what `whycam.load` gives, or takes.
        new: the same; classes are matched by their names.
        photos: a folder, or files.
        share: of the evidence, in (0, 1].
        each_class: in the photos of each class that the old model predicts, too: a mean hides what one class lost.
        method: whose maps are compared; without, exact maps, where both models have them, else the quickest method
            that both answer for.

    Raises:
        UserError: models of different classes, no photos.
    """
    limit = check_limit("share", share)
    before, after = find_tested(old), find_tested(new)
    order = match_classes(before, after)
    asked = read_asked(photos)
    how = choose_common(before, after, method)
    tops = {path: answer.predicted for path, answer in before.ask(asked).items()}
    read = [one for one in asked if one.path in tops]
    pairs = _Pairs(
        (before, after), how, before.ask(read, how, tops), after.ask(read, how, {p: order[k] for p, k in tops.items()})
    )
    found = sorted(
        ((pairs.measure(one, tops, order), one) for one in read if one.path in pairs.new),
        key=lambda one: (one[0], one[1].path),
    )
    changed = sum(order[tops[one.path]] != pairs.new[one.path].predicted for _, one in found)
    notes = [f"{changed} of {len(found)} photos are given another class by the new model."]
    if how != CAM:
        notes.append(f"Compared by the maps of {how}, as not both models have exact ones.")
    notes += tell_left_out(len(asked) - len(found), "that can't be read")
    return Measured(
        "evidence-kept",
        np.array([value for value, _ in found]),
        [before.card.class_names[tops[one.path]] for _, one in found],
        lambda values: f"of the evidence in {len(values)} photos, this share stays where the old model saw it",
    ).judge(
        limit,
        each_class=each_class,
        worst=[pairs.tell(value, one, tops, order) for value, one in found if value < limit],
        notes=notes,
        numbers={"method": how, "changed": changed},
    )


class _Pairs:
    """Two models' answers on the same photos."""

    def __init__(
        self, models: tuple[Tested, Tested], method: str, old: dict[Path, Answer], new: dict[Path, Answer]
    ) -> None:
        self.models, self.method, self.old, self.new = models, method, old, new

    def measure(self, one: Asked, tops: Mapping[Path, int], order: tuple[int, ...]) -> float:
        """The overlap of a photo's two maps."""
        top = tops[one.path]
        maps = self.old[one.path].maps[self.method, top], self.new[one.path].maps[self.method, order[top]]
        return measure_overlap(*maps)

    def tell(self, value: float, one: Asked, tops: Mapping[Path, int], order: tuple[int, ...]) -> Worst:
        """A photo whose evidence went elsewhere."""
        before, after = self.models
        top = tops[one.path]
        name, says = before.card.class_names[top], after.card.class_names[self.new[one.path].predicted]

        def draw() -> list[Panel]:
            return [
                ("the photo", load_small(one.path)),
                (f"old, for {name}", draw_heat(before, one.path, top, self.method)),
                (f"new, for {name}", draw_heat(after, one.path, order[top], self.method)),
            ]

        now = "" if says == name else f"; the new model says {says}"
        return Worst(one.path, f"{value:.3f} of the evidence for {name} stays in its place{now}", draw, name)


def measure_overlap(values: np.ndarray, others: np.ndarray) -> float:
    """The sum of the smaller one of two maps' positive parts, each of sum 1: 1 - their total variation distance.

    Two maps without a positive value are alike; one such map has nothing in common with any other.
    """
    heat, other = measure_heat(values, _GRID), measure_heat(others, _GRID)
    if not heat.any() or not other.any():
        return float(heat.any() == other.any())
    return float(np.minimum(heat / heat.sum(), other / other.sum()).sum())


def match_classes(before: Tested, after: Tested) -> tuple[int, ...]:
    """For each class of the old model its index in the new one.

    Raises:
        UserError: one has a class that the other has not.
    """
    old, new = before.card.class_names, after.card.class_names
    if gone := [name for name in (*old, *new) if (name in old) != (name in new)]:
        more = f" and {len(gone) - _LISTED} more" if len(gone) > _LISTED else ""
        raise UserError(
            f"The old model has {len(old)} classes, the new one {len(new)}, and not both have "
            f"{join_words([repr(name) for name in gone[:_LISTED]])}{more}; expected the same classes. Compare models "
            "of the same classes, or give both the same names."
        )
    return tuple(new.index(name) for name in old)


def choose_common(before: Tested, after: Tested, method: str | None) -> str:
    """The method whose maps are compared."""
    if method is not None:
        return next(tested.choose_method(method) for tested in (before, after))
    if before.card.is_exact and after.card.is_exact:
        return CAM
    cards = before.card, after.card
    return next(name for name, need in _METHODS.items() if all(card.answers_for(need) for card in cards))
