"""A folder of photos, one sub-folder a class, to a list of samples with a seeded, stratified split."""

from __future__ import annotations

import hashlib
import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from whycam.data.images import IMAGE_SUFFIXES
from whycam.data.walk import list_folders, walk_photos
from whycam.errors import UserError
from whycam.runs import to_text

# Names that a held-out folder goes by.
VAL_NAMES = ("val", "valid", "validation", "test")
MIN_PHOTOS = 2


@dataclass(frozen=True)
class Sample:
    """One labelled photo.

    Attributes:
        path: the file.
        label: the index of its class; -1 where it is not known, or where classes go together.
        labels: the indices of its classes where these go together, none to all of them; else None.
    """

    path: Path
    label: int
    labels: tuple[int, ...] | None = None

    @property
    def classes(self) -> tuple[int, ...]:
        """The indices of all its classes."""
        return (self.label,) if self.labels is None else self.labels


@dataclass(frozen=True)
class PhotoFolder:
    """A class folder as read.

    Attributes:
        root: the folder.
        class_names: in the order of the labels.
        train: training samples.
        val: held-out samples.
        is_split_by_us: there was no held-out folder.
        val_fraction: share that was held out, where it was.
        seed: that it was drawn by.
        left_out: class folders without photos.
        order: of the class names as it was given; empty for that of `sort_names`.
        listed: the list or shards that name the photos, where the folder itself does not.
        notes: sentences on what such a list has that was left out.
        is_multi_label: classes go together: each sample has `labels`.
    """

    root: Path
    class_names: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    is_split_by_us: bool
    val_fraction: float = 0.2
    seed: int = 0
    left_out: tuple[str, ...] = ()
    order: tuple[str, ...] = ()
    listed: Path | None = None
    notes: tuple[str, ...] = ()
    is_multi_label: bool = False

    @property
    def place(self) -> Path:
        """What a person names to train on these photos."""
        return self.listed or self.root

    @property
    def samples(self) -> tuple[Sample, ...]:
        """All samples, training first."""
        return self.train + self.val


def read_folder(
    root: Path,
    *,
    val_fraction: float = 0.2,
    seed: int = 0,
    allow_empty: bool = False,
    order: Sequence[str] = (),
) -> PhotoFolder:
    """The samples of `root/CLASS/photo.jpg`, or of `root/train/CLASS/..` and `root/val/CLASS/..`.

    Where there is no held-out folder, `val_fraction` of each class (at least one photo) is held out, chosen by seed
    and file name alone, so the split does not change with the order in which a disk lists its files. Class folders
    without a photo are left out; with `allow_empty` also those with a single one. `order` names the classes in the
    order that they are to have.

    Raises:
        UserError: an order that names other classes, no folder, no photos, one class, photos beside the class folders,
            class names that differ in case only, a class with fewer than 2 photos, two splits of different classes.
    """
    root = root.absolute()
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        raise UserError(
            f"Found {found} at '{root}'; expected a folder with one sub-folder of photos for each class. "
            "Check the path."
        )
    train_root = root / "train"
    val_root = next((root / name for name in VAL_NAMES if (root / name).is_dir()), None)
    if train_root.is_dir() and val_root:
        train, val = read_class_folders(train_root), read_class_folders(val_root)
        _check_same_classes(train, val, train_root, val_root)
        kept = drop_few(train, train_root, allow_empty=allow_empty)
        check_order(order, kept, where=train_root)
        about = PhotoFolder(root, (), (), (), False, left_out=list_missing(train, kept), order=tuple(order))
        return make_folder(about, kept, val)
    where = train_root if train_root.is_dir() else root
    classes = read_class_folders(where)
    kept = drop_few(classes, where, allow_empty=allow_empty)
    check_order(order, kept, where=where)
    missing = list_missing(classes, kept)
    return make_folder(PhotoFolder(root, (), (), (), True, val_fraction, seed, missing, tuple(order)), kept)


def check_order(
    order: Sequence[str], classes: Mapping[str, object], *, where: Path, thing: str = "class folder"
) -> None:
    """Refuses an order that names other classes than there are; `thing` is what names a class."""
    if not order:
        return
    extra, missing = [name for name in order if name not in classes], [name for name in classes if name not in order]
    if extra or missing:
        kind = thing.rsplit(maxsplit=1)[-1]
        told = f"{extra[0]!r} has no {kind} with photos" if extra else f"the {kind} {missing[0]!r} has no line"
        raise UserError(
            f"--classes does not name the classes of '{where}': {told} ({len(extra) + len(missing)} such). Name each "
            f"{thing} once, in the order that the classes are to have."
        )


def list_missing(classes: Iterable[str], kept: Mapping[str, object]) -> tuple[str, ...]:
    """The classes that were not kept, in order."""
    return tuple(sort_names(name for name in classes if name not in kept))


def sort_names(names: Iterable[str]) -> list[str]:
    """Class names in order: by their characters, but numbers in them by value, 2 before 10."""

    def split(name: str) -> tuple[list[str | int], str]:
        # Text and numbers take turns, so that like is compared with like.
        parts = re.split(r"(\d+)", name)
        return [int(part) if k % 2 else part for k, part in enumerate(parts)], name

    return sorted(names, key=split)


def make_folder(
    about: PhotoFolder, classes: Mapping[str, Sequence[Path]], val: Mapping[str, Sequence[Path]] | None = None
) -> PhotoFolder:
    """The folder with these classes: split as `about` says, or, where `val` is given, with those held out."""
    names = tuple(name for name in about.order if name in classes) or tuple(sort_names(classes))
    held = {
        name: sorted(_hold_out(classes[name], about.val_fraction, about.seed, name)) if val is None else val[name]
        for name in names
    }
    apart = {name: set(held[name]) for name in names}
    kept = {name: [path for path in classes[name] if path not in apart[name]] for name in names}
    return replace(about, class_names=names, train=_to_samples(kept, names), val=_to_samples(held, names))


def read_class_folders(root: Path) -> dict[str, list[Path]]:
    """Class name -> sorted photos below its folder.

    Raises:
        UserError: no photos, photos beside the class folders, class names that differ in case only.
    """
    folders = list_folders(root)
    _check_case(folders, root)
    classes: dict[str, list[Path]] = {to_text(folder.name): [] for folder in folders}
    loose: list[Path] = []
    for path in walk_photos(root):
        name = to_text(path.relative_to(root).parts[0])
        classes.get(name, loose).append(path)
    if loose:
        raise UserError(
            f"Found {len(loose)} photos lying directly in '{root}' (such as '{loose[0].name}') beside "
            f"{len(folders)} folders; expected photos only inside class folders: CLASS/photo.jpg. "
            "Move each into the folder of its class."
        )
    if not any(classes.values()):
        raise UserError(
            f"Found no photos in '{root}' ({len(folders)} folders in it); expected CLASS/photo.jpg for each class "
            f"({', '.join(sorted(IMAGE_SUFFIXES)[:6])}, ...). Check the path."
        )
    return classes


def drop_few(
    classes: Mapping[str, list[Path]], root: Path, *, allow_empty: bool, thing: str = "class folder"
) -> dict[str, list[Path]]:
    """The classes that have photos enough to be split; `thing` is what names a class."""
    # A folder that can't be read is in the place of its photos; what is wrong with it is told when they are read.
    kept = {
        name: photos
        for name, photos in classes.items()
        if len(photos) >= MIN_PHOTOS or any(photo.is_dir() for photo in photos)
    }
    few = {name: len(photos) for name, photos in classes.items() if photos and name not in kept}
    if few and not allow_empty:
        listed = ", ".join(f"{name!r}: {count}" for name, count in few.items())
        # Without them there would be nothing to tell apart.
        remedy = ", or give --allow-empty to train without them" if len(kept) > 1 else ""
        raise UserError(
            f"Found classes with fewer than {MIN_PHOTOS} photos in '{root}' ({listed}). Add photos to them{remedy}."
        )
    if len(kept) < 2:
        found, kind = f"one {thing}, '{next(iter(kept))}'," if kept else f"no {thing}", thing.rsplit(maxsplit=1)[-1]
        raise UserError(
            f"Found {found} with {MIN_PHOTOS} or more photos in '{root}', of {len(classes)} {kind}s; expected at least "
            f"two to tell apart. Add a {kind} for each class."
        )
    return kept


def _check_case(folders: Sequence[Path], root: Path) -> None:
    spelled: dict[str, list[str]] = defaultdict(list)
    for folder in folders:
        spelled[folder.name.casefold()].append(folder.name)
    for names in spelled.values():
        if len(names) > 1:
            raise UserError(
                f"Found class folders whose names differ in case only, {' and '.join(repr(n) for n in names)}, "
                f"in '{root}'; expected one folder a class (a disk that ignores case would mix them). "
                "Join or rename them."
            )


def _check_same_classes(
    train: dict[str, list[Path]], val: dict[str, list[Path]], train_root: Path, val_root: Path
) -> None:
    full, held = ({name for name, photos in split.items() if photos} for split in (train, val))
    only_train, only_val = sort_names(full - val.keys()), sort_names(held - full)
    if only_train or only_val:
        raise UserError(
            f"Found different classes in '{train_root}' and '{val_root}' (only in the first: {only_train or 'none'}; "
            f"only in the second: {only_val or 'none'}); expected the same folders in both. "
            "Add or rename the folders that differ."
        )
    empty = sort_names(full - held)
    if empty:
        raise UserError(
            f"Found no photos of {', '.join(map(repr, empty))} in '{val_root}'; "
            "expected at least one of each class. Add some."
        )


def _hold_out(paths: Sequence[Path], fraction: float, seed: int, name: str) -> set[Path]:
    """The held-out photos of one class: at least one, and at least one is left."""
    draw = random.Random(f"{seed}/{name}")  # noqa: S311 - a split, not a secret
    count = min(max(1, round(len(paths) * fraction)), len(paths) - 1)
    return set(draw.sample(list(paths), count))


def _to_samples(classes: Mapping[str, Sequence[Path]], names: Sequence[str]) -> tuple[Sample, ...]:
    return tuple(Sample(path, label) for label, name in enumerate(names) for path in classes[name])


def count_labels(samples: Sequence[Sample], classes: int) -> list[int]:
    """Photos of each class."""
    counts = Counter(label for sample in samples for label in sample.classes)
    return [counts[label] for label in range(classes)]


def fingerprint(root: Path, samples: Sequence[Sample], hashes: dict[Path, str]) -> str:
    """One short word for a set of photos and labels: changes if any photo, name or label does."""
    digest = hashlib.blake2b(digest_size=16)
    for sample in sorted(samples, key=lambda s: s.path):
        name = os.fsencode(sample.path.relative_to(root).as_posix())
        label = ",".join(map(str, sample.classes))
        digest.update(name + f"\0{label}\0{hashes[sample.path]}\n".encode())
    return digest.hexdigest()
