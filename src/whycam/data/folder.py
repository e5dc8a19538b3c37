"""A folder of photos, one sub-folder a class, to a list of samples with a seeded, stratified split."""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from whycam.data.images import IMAGE_SUFFIXES
from whycam.errors import UserError

# Names that a held-out folder goes by.
_VAL_NAMES = ("val", "valid", "validation", "test")
MIN_PHOTOS = 2


@dataclass(frozen=True)
class Sample:
    """One labelled photo; `label` is the index of its class."""

    path: Path
    label: int


@dataclass(frozen=True)
class PhotoFolder:
    """A class folder as read: `train` and `val` samples and the class names in the order of the labels."""

    root: Path
    class_names: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    is_split_by_us: bool

    @property
    def samples(self) -> tuple[Sample, ...]:
        """All samples, training first."""
        return self.train + self.val


def read_folder(root: Path, *, val_fraction: float = 0.2, seed: int = 0) -> PhotoFolder:
    """The samples of `root/CLASS/photo.jpg`, or of `root/train/CLASS/..` and `root/val/CLASS/..`.

    Where there is no held-out folder, `val_fraction` of each class (at least one photo) is held out, chosen by seed
    and file name alone, so the split does not change with the order in which a disk lists its files.

    Raises:
        UserError: no folder, no photos, one class, photos beside the class folders, class names that differ in case
            only, a class with fewer than 2 photos, or two splits with different classes.
    """
    root = root.absolute()
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        raise UserError(
            f"Found {found} at '{root}'; expected a folder with one sub-folder of photos for each class. "
            "Check the path."
        )
    train_root = root / "train"
    val_root = next((root / name for name in _VAL_NAMES if (root / name).is_dir()), None)
    if train_root.is_dir() and val_root:
        train, val = _read_classes(train_root), _read_classes(val_root)
        _check_same_classes(train, val, train_root, val_root)
        names = sorted(train)
        _check_counts(train, train_root)
        return PhotoFolder(root, tuple(names), _to_samples(train, names), _to_samples(val, names), is_split_by_us=False)
    classes = _read_classes(train_root if train_root.is_dir() else root)
    _check_counts(classes, root)
    names = sorted(classes)
    held = {name: _hold_out(classes[name], val_fraction, seed, name) for name in names}
    kept = {name: [path for path in classes[name] if path not in held[name]] for name in names}
    val_lists = {name: sorted(held[name]) for name in names}
    return PhotoFolder(root, tuple(names), _to_samples(kept, names), _to_samples(val_lists, names), is_split_by_us=True)


def _read_classes(root: Path) -> dict[str, list[Path]]:
    """Class name -> sorted photos below its folder."""
    entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith((".", "__")))
    loose = [entry for entry in entries if entry.is_file() and entry.suffix.lower() in IMAGE_SUFFIXES]
    folders = [entry for entry in entries if entry.is_dir()]
    if loose:
        raise UserError(
            f"Found {len(loose)} photos lying directly in '{root}' (such as '{loose[0].name}') beside "
            f"{len(folders)} folders; expected photos only inside class folders: CLASS/photo.jpg. "
            "Move each into the folder of its class."
        )
    _check_case(folders, root)
    classes = {folder.name: _list_photos(folder) for folder in folders}
    if not any(classes.values()):
        raise UserError(
            f"Found no photos in '{root}' ({len(folders)} folders in it); expected CLASS/photo.jpg for each class "
            f"({', '.join(sorted(IMAGE_SUFFIXES)[:6])}, ...). Check the path."
        )
    if len(classes) < 2:
        raise UserError(
            f"Found one class folder, '{folders[0].name}', in '{root}'; expected at least two to tell apart. "
            "Add a folder for each class."
        )
    return classes


def _list_photos(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not any(part.startswith((".", "__MACOSX")) for part in path.relative_to(folder).parts)
    )


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


def _check_counts(classes: dict[str, list[Path]], root: Path) -> None:
    few = {name: len(paths) for name, paths in classes.items() if len(paths) < MIN_PHOTOS}
    if few:
        listed = ", ".join(f"{name!r}: {count}" for name, count in few.items())
        raise UserError(
            f"Found classes with fewer than {MIN_PHOTOS} photos in '{root}' ({listed}). "
            "Add photos to them, or remove their folders."
        )


def _check_same_classes(
    train: dict[str, list[Path]], val: dict[str, list[Path]], train_root: Path, val_root: Path
) -> None:
    only_train, only_val = sorted(train.keys() - val.keys()), sorted(val.keys() - train.keys())
    if only_train or only_val:
        raise UserError(
            f"Found different classes in '{train_root}' and '{val_root}' (only in the first: {only_train or 'none'}; "
            f"only in the second: {only_val or 'none'}); expected the same folders in both. "
            "Add or rename the folders that differ."
        )
    empty = sorted(name for name, paths in val.items() if not paths)
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


def _to_samples(classes: dict[str, list[Path]], names: Sequence[str]) -> tuple[Sample, ...]:
    return tuple(Sample(path, label) for label, name in enumerate(names) for path in classes[name])


def count_labels(samples: Sequence[Sample], classes: int) -> list[int]:
    """Photos of each class."""
    counts = Counter(sample.label for sample in samples)
    return [counts[label] for label in range(classes)]


def fingerprint(root: Path, samples: Sequence[Sample], hashes: dict[Path, str]) -> str:
    """One short word for a set of photos and labels: changes if any photo, name or label does."""
    digest = hashlib.blake2b(digest_size=16)
    for sample in sorted(samples, key=lambda s: s.path):
        digest.update(f"{sample.path.relative_to(root).as_posix()}\0{sample.label}\0{hashes[sample.path]}\n".encode())
    return digest.hexdigest()
