"""Photos that have several classes at once, or none: their split, and what can't be trained on.

How a list says several classes is read in `listed.py`; nothing here opens a file.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from whycam.data.folder import MIN_PHOTOS, PhotoFolder, Sample, check_order, list_missing, sort_names
from whycam.errors import UserError, as_clause

SEPARATORS = ";|"
_ONE_LABEL = (
    "Give each photo one label, where it is of one class or of none: its name, or another such as 'none' (columns "
    "path,label)."
)
# Photo -> its classes.
Sets = Mapping[Path, Collection[str]]


def split_words(text: str) -> tuple[str, ...]:
    """The classes in a cell, each once: between ; or |, without blanks around them."""
    words = (word.strip() for word in re.split(f"[{re.escape(SEPARATORS)}]", text))
    return tuple(dict.fromkeys(word for word in words if word))


def make_several(
    about: PhotoFolder,
    sets: Sets,
    known: Iterable[str],
    held: Collection[Path] | None = None,
    *,
    allow_empty: bool = False,
) -> PhotoFolder:
    """The folder with photos of several classes: those in `held` held out, or, without it, split as `about` says.

    A class of which fewer than 2 photos are, or that fewer than 2 are not of, tells nothing; with `allow_empty` it is
    left out. One that no photo has is left out in any case. Photos stay, as photos of their other classes or of none.

    Args:
        about: root, `val_fraction`, `seed`, `order` and notes.
        sets: the photos.
        known: the classes that there are, with photos or without.
        held: the photos that are held out.
        allow_empty: see above.

    Raises:
        UserError: such a class, fewer than two classes, an order that names others, a split that lacks a class, or a
            class whose name has one of `SEPARATORS` in it.
    """
    place, counts = about.place, Counter(name for names in sets.values() for name in names)
    if odd := [name for name in counts if set(name) & set(SEPARATORS)]:
        raise UserError(
            f"'{place}' has a class {odd[0]!r}, with one of {' '.join(SEPARATORS)} in its name, which part the classes "
            "of a photo in results. Name it otherwise."
        )
    useless = [name for name, count in counts.items() if not MIN_PHOTOS <= count <= len(sets) - MIN_PHOTOS]
    if held is not None:
        useless += [name for name in counts if name not in useless and not _is_in_both(name, sets, held)]
    kept = [name for name in counts if name not in useless]
    if useless and not allow_empty:
        raise _make_useless_error(place, useless, counts, sets, held, kept)
    _check_two(place, kept, counts)
    check_order(about.order, dict.fromkeys(kept), where=place, thing="label")
    names = tuple(about.order) or tuple(sort_names(kept))
    sets = {path: [name for name in names if name in has] for path, has in sets.items()}
    chosen = hold_out(sets, about.val_fraction, about.seed) if held is None else held
    missing = list_missing(known, dict.fromkeys(kept))
    return replace(
        about,
        class_names=names,
        train=_to_samples(sets, names, [path for path in sorted(sets) if path not in chosen]),
        val=_to_samples(sets, names, [path for path in sorted(sets) if path in chosen]),
        left_out=tuple(dict.fromkeys((*about.left_out, *missing))),
        is_multi_label=True,
    )


def drop_samples(folder: PhotoFolder, unreadable: Mapping[Path, str], *, allow_empty: bool = False) -> PhotoFolder:
    """The folder without those photos; a split of our own is drawn anew from the others.

    Raises:
        UserError: what is left can't be trained on; see `make_several`.
    """
    names = folder.class_names
    sets = {s.path: [names[k] for k in s.classes] for s in folder.samples if s.path not in unreadable}
    held = None if folder.is_split_by_us else {sample.path for sample in folder.val} & sets.keys()
    if not sets or held == set() or held == sets.keys():
        path, why = next(iter(unreadable.items()))
        what = "" if held is None else f", and of these {len(held)} are held out"
        raise UserError(
            f"Of the {len(folder.samples)} photos of '{folder.place}' {len(sets)} can be read{what}; expected some to "
            f"train on and some to hold out. '{path}' can't: {as_clause(why)}. Replace such files."
        )
    try:
        return make_several(folder, sets, names, held, allow_empty=allow_empty)
    except UserError as error:
        raise UserError(f"{len(unreadable)} photos can't be read. Without them: {error}") from None


def hold_out(sets: Sets, fraction: float, seed: int) -> set[Path]:
    """The held-out photos: about that fraction of all and of each class, at least one photo of each, not all of any.

    The rarest class is dealt out first, each photo to the side that lacks its class most.

    Paper: iterative stratification, Sechidis et al. 2011, doi:10.1007/978-3-642-23808-6_10, algorithm 1.
    Differs: a class's share is rounded up to one photo at least, and photos are drawn by the seed and their names.
    """
    paths = sorted(sets)
    random.Random(f"{seed}/several").shuffle(paths)  # noqa: S311 - a split, not a secret
    counts = Counter(name for path in paths for name in sets[path])
    wanted = {name: min(max(1.0, count * fraction), count - 1.0) for name, count in counts.items()}
    # Side (held out, or not) -> class -> how many photos it still lacks; "" counts all photos.
    lacks = {
        True: {**wanted, "": max(1.0, len(paths) * fraction)},
        False: {**{name: counts[name] - wanted[name] for name in counts}, "": len(paths) * (1 - fraction)},
    }
    side: dict[Path, bool] = {}
    left = Counter(counts)
    while left := +left:
        rarest = min(left, key=lambda name: (left[name], name))
        for path in [path for path in paths if path not in side and rarest in sets[path]]:
            _deal(path, rarest, sets[path], lacks, side)
            left.subtract(sets[path])
    for path in paths:
        if path not in side:
            _deal(path, "", (), lacks, side)
    _repair(sets, counts, side)
    return {path for path in paths if side[path]}


def _deal(
    path: Path, name: str, names: Collection[str], lacks: dict[bool, dict[str, float]], side: dict[Path, bool]
) -> None:
    side[path] = max((False, True), key=lambda one: (lacks[one][name], lacks[one][""]))
    for one in (*names, ""):
        lacks[side[path]][one] -= 1


def _repair(sets: Sets, counts: Mapping[str, int], side: dict[Path, bool]) -> None:
    """Brings a photo over of each class that has none on a side, where no other class loses its last one by that."""
    on = {one: Counter(name for path in sets if side[path] is one for name in sets[path]) for one in (True, False)}
    for name in sorted(counts):
        for lacking in (True, False):
            if on[lacking][name]:
                continue
            movable = (path for path in side if side[path] is not lacking and name in sets[path])
            path = next((path for path in movable if all(on[not lacking][k] > 1 for k in sets[path])), None)
            if path is not None:
                side[path] = lacking
                on[lacking].update(sets[path])
                on[not lacking].subtract(sets[path])


def _is_in_both(name: str, sets: Sets, held: Collection[Path]) -> bool:
    return {True, False} == {path in held for path, names in sets.items() if name in names}


def _make_useless_error(  # noqa: PLR0917 - all that is told
    place: Path,
    useless: Sequence[str],
    counts: Mapping[str, int],
    sets: Sets,
    held: Collection[Path] | None,
    kept: Sequence[str],
) -> UserError:
    name, all_photos = useless[0], len(sets)
    count = counts[name]
    told, remedies = f"{name!r} is on {count} of {all_photos} photos", ["Add photos of it"]
    if count > all_photos - MIN_PHOTOS:
        remedies = ["Add photos without it"]
    elif held is not None and count >= MIN_PHOTOS:
        of_held = sum(name in names for path, names in sets.items() if path in held)
        told = f"{name!r} is on {count - of_held} photos to train on and {of_held} held-out ones"
        remedies = ["Add photos", "leave the splits out: one is made then"]
    more = f", and {len(useless) - 1} more such" if len(useless) > 1 else ""
    if len(kept) >= 2:
        remedies.insert(1, "give --allow-empty to train without such classes")
    remedy = ", or ".join(remedies) + "."
    if len(kept) < 2 and len(remedies) == 1:
        remedy = f"Without such there {'is one class' if kept else 'is none'}: add photos. {_ONE_LABEL}"
    return UserError(
        f"'{place}' has classes that can't be learnt: {told}{more}; expected at least {MIN_PHOTOS} photos with the "
        f"class and {MIN_PHOTOS} without it, and some with it in each split. {remedy}"
    )


def _check_two(place: Path, kept: Sequence[str], counts: Mapping[str, int]) -> None:
    if len(kept) < 2:
        found = f"one class, {kept[0]!r}," if kept else "no class"
        raise UserError(
            f"Found {found} with enough photos in '{place}', of {len(counts)}; expected at least two that may go "
            f"together. {_ONE_LABEL}"
        )


def _to_samples(sets: Sets, names: Sequence[str], paths: Sequence[Path]) -> tuple[Sample, ...]:
    index = {name: k for k, name in enumerate(names)}
    return tuple(Sample(path, -1, tuple(index[name] for name in sets[path])) for path in paths)
