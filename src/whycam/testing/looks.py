"""check_looks_at: does enough of the evidence lie on the objects?"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from whycam.data.annotations import AnnotationError
from whycam.errors import UserError, as_clause
from whycam.maps import render
from whycam.testing.limits import check_limit
from whycam.testing.models import CAM, Answer, Tested, choose_target, find_tested
from whycam.testing.photos import Asked, PhotosLike, read_asked, tell_left_out
from whycam.testing.pictures import draw_heat, load_small, outline
from whycam.testing.verdict import Measured, Panel, Verdict, Worst


@dataclass(frozen=True)
class Look:
    """Where the evidence of one photo lies.

    Attributes:
        share: of the evidence, on the object.
        area: of the photo, that the object covers.
        one: the photo.
        target: the class.
        region: (H, W) bool: the object.
    """

    share: float
    area: float
    one: Asked
    target: int
    region: np.ndarray


def check_looks_at(
    model: object,
    photos: PhotosLike,
    masks: str | Path | None = None,
    *,
    share: float,
    each_class: bool = False,
    method: str | None = None,
) -> Verdict:
    """Whether the mean share of the evidence that lies on the objects is surely under `share`, surely not, or neither.

    A photo's share is that of the positive part of the map, resized to the network's input, that lies in the mask
    (`mass-in-mask`, arXiv:2003.07258); 0 where nothing speaks for the class. The map is that of the photo's own class
    where its folder names it, else of the predicted one.

    Args:
        model: what `whycam.load` gives, or takes.
        photos: a folder; or `Annotation`s that have masks or boxes.
        masks: a folder of masks (PHOTO.png, all but 0), a .csv of boxes or COCO's .json; see docs/metrics.md.
        share: of the evidence, in (0, 1].
        each_class: in the photos of each class, too.
        method: whose maps are read; without, exact maps, else the quickest method that the model answers for.

    Raises:
        UserError: no photos, masks of none of them, a folder that is no class of the model.
    """
    limit = check_limit("share", share)
    tested = find_tested(model)
    asked = read_asked(photos, tested.card.class_names, masks)
    known = [one for one in asked if one.photo.has_truth]
    if not known:
        raise UserError(f"Found no mask for any of the {len(asked)} photos; expected some. Pass a folder as masks.")
    how = tested.choose_method(method)
    answers = tested.ask(known, how)
    counts = Counter({"without a mask": len(asked) - len(known), "that can't be read": len(known) - len(answers)})
    found: list[Look] = []
    for one in known:
        if one.path in answers:
            try:
                found.append(_look(tested, one, answers[one.path], how))
            except AnnotationError as error:
                counts[f"({as_clause(error)})"] += 1
    if not found:
        raise UserError(
            f"Not one of {len(known)} masks fits its photo ({', '.join(+counts)}); expected masks of the photos' own "
            "size. Check the folder."
        )
    found.sort(key=lambda look: (look.share, look.one.path))
    area = float(np.mean([look.area for look in found]))
    notes = [f"The objects cover {area:.3f} of these photos: that share of the evidence would lie there by chance."]
    notes += _tell_method(tested, how)
    notes += [line for what, count in counts.items() for line in tell_left_out(count, what)]
    return Measured(
        "looks-at",
        np.array([look.share for look in found]),
        [tested.card.class_names[look.target] for look in found],
        lambda values: f"of the evidence in {len(values)} photos, this share lies on the objects",
    ).judge(
        limit,
        each_class=each_class,
        worst=[_tell(tested, look, how) for look in found if look.share < limit],
        notes=notes,
        numbers={"method": how, "area": round(area, 6)},
    )


def _look(tested: Tested, one: Asked, answer: Answer, method: str) -> Look:
    preprocess = tested.card.preprocess
    size, target = (preprocess.height_px, preprocess.width_px), choose_target(one, answer)
    region = one.photo.fit(answer.size_px, size).region
    heat = measure_heat(answer.maps[method, target], size)
    return Look(float(heat[region].sum() / (heat.sum() or 1)), float(region.mean()), one, target, region)


def measure_heat(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) float64: the positive part of a map (h, w) at that size."""
    finite = np.where(np.isfinite(values), values, 0)
    return np.asarray(render.resize_map(finite, size), np.float64).clip(0)


def _tell_method(tested: Tested, method: str) -> list[str]:
    if method == CAM:
        return []
    why = "" if tested.card.is_exact else f" Exact maps? {tested.card.tell_exactness()}"
    return [f"Measured with the maps of {method}, which are not exact: they say where, not how much.{why}"]


def _tell(tested: Tested, look: Look, method: str) -> Worst:
    path, name = look.one.path, tested.card.class_names[look.target]

    def draw() -> list[Panel]:
        heat = draw_heat(tested, path, look.target, method)
        return [
            ("the object", outline(load_small(path), look.region)),
            (f"for {name} ({method})", outline(heat, look.region)),
        ]

    note = f"{look.share:.3f} of the evidence for {name} lies on the object, which covers {look.area:.3f}"
    return Worst(path, note, draw, name)
