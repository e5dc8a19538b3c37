"""check_no_shortcut: does the audit convict none of the causes that are named?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from whycam.audit import Audit, Finding, audit
from whycam.audit.findings import Box
from whycam.audit.suspects import MIN_PHOTOS
from whycam.data.folder import Sample
from whycam.errors import UserError
from whycam.testing.models import Tested, find_file_key, find_tested
from whycam.testing.photos import Asked, PhotosLike, read_asked
from whycam.testing.pictures import draw_boxes, draw_heat, load_small
from whycam.testing.rule import State
from whycam.testing.verdict import Panel, Verdict, Worst

# What accused no model of clean training in benchmarks/results/guard.md.
KINDS = ("mark", "stamp", "property")
LIMIT = 1000
_REMEDY = "`whycam audit MODEL FOLDER -o OUT` writes the finding, and tells the command that trains without it."


def check_no_shortcut(
    model: object, folder: PhotosLike, kinds: Sequence[str] = KINDS, *, limit: int = LIMIT, seed: int = 0
) -> Verdict:
    """Whether the audit proves, by pairs of photos that differ in nothing else, that a class is known by such a cause.

    It is inconclusive where a class has fewer than 10 photos, as nothing can be told of it, and where the audit can't
    tell whether what a class is known by is the object.

    Args:
        model: what `whycam.load` gives, or takes.
        folder: photos as the model was trained on, marks and all: CLASS/photo.jpg, val/CLASS/photo.jpg, or a heap.
        kinds: of causes: mark, stamp, property, thing, ground, place; see docs/audit.md.
        limit: so many photos, drawn by the seed as evenly over the classes as can be.
        seed: of all that is drawn at random.

    Raises:
        UserError: an unknown kind, no photos, a folder that is no class of the model, a model of one class.
    """
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    if not kinds:
        raise UserError(f"Found no kind of shortcut to look for; expected some of {', '.join(KINDS)} and more.")
    tested = find_tested(model)
    asked = read_asked(folder, tested.card.class_names)
    found = _audit(tested, asked, kinds, limit, seed)
    counts = found.record["classes"]
    few = {name: count for name, count in counts.items() if count < MIN_PHOTOS}
    is_told = not few and len(counts) > 1
    proved, asked_of = found.of_kind("shortcut"), found.of_kind("question")
    is_clear = is_told and not asked_of
    state = State.BROKEN if proved else State.HOLDS if is_clear else State.INCONCLUSIVE
    told = f"no class is known by a {' or '.join(kinds)}, as far as an audit of {found.photos} photos can tell."
    if shown := proved or asked_of:
        told = " ".join(f"{one.title} ({one.severity:.0%} more photos change their class)" for one in shown)
    elif not is_told:
        listed = ", ".join(f"{name}: {count}" for name, count in counts.items())
        told = (
            f"two classes are needed, each of {MIN_PHOTOS} photos and more; nothing can be told of others ({listed})."
        )
    return Verdict(
        "no-shortcut",
        state,
        told,
        found.photos,
        max((one.severity for one in proved), default=0.0),
        worst=tuple(_tell(tested, one, place) for one in proved or asked_of for place in range(len(one.photos))),
        notes=(*(f"{one.detail} {one.remedy} {_REMEDY}" for one in found.findings), *found.notes),
        numbers={"kinds": kinds, "seed": seed, "findings": found.to_json()["findings"]},
    )


def _audit(tested: Tested, asked: Sequence[Asked], kinds: Sequence[str], limit: int, seed: int) -> Audit:
    """The audit of these photos, made once."""
    samples = [Sample(one.path, one.labels[0] if one.labels else -1) for one in asked]
    key = tuple(sorted(kinds)), limit, seed, tuple((find_file_key(one.path), one.label) for one in samples)
    if key not in tested.kept:
        tested.kept[key] = audit(tested.classifier, samples, kinds=["shortcut"], causes=kinds, limit=limit, seed=seed)
    made: Audit = tested.kept[key]
    return made


def _tell(tested: Tested, finding: Finding, place: int) -> Worst:
    photo, names = finding.photos[place], tested.card.class_names
    name = finding.class_name or names[0]
    boxes = photo.boxes or (finding.region.boxes if finding.region else ())
    draw = partial(_draw, tested, finding, place, boxes, names.index(name))
    return Worst(photo.path, f"{name}: {photo.note or 'has it'}", draw)


def _draw(tested: Tested, finding: Finding, place: int, boxes: Sequence[Box], target: int) -> list[Panel]:
    path, name = finding.photos[place].path, tested.card.class_names[target]
    heat = draw_heat(tested, path, target)
    where = finding.region.name if finding.region else "the photo"
    return [(where, draw_boxes(load_small(path), boxes)), (f"for {name}", draw_boxes(heat, boxes))]
