"""Photos that a finished model is tested on: of the training's classes, and nothing is chosen on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from whycam.data.folder import PhotoFolder, Sample, read_class_folders, sort_names
from whycam.data.images import ImageError, read_size
from whycam.data.listed import is_listed, read_labels
from whycam.errors import UserError


@dataclass(frozen=True)
class Tested:
    """The photos of `--test`.

    Attributes:
        place: what was named.
        classes: class name -> its photos.
        missing: classes of the training that have no photo there.
        unreadable: path -> reason, of those that were left out.
        copies: how many have the content of a photo that is trained on (`train`), or that is held out (`val`).
    """

    place: Path
    classes: Mapping[str, Sequence[Path]]
    missing: tuple[str, ...]
    unreadable: Mapping[Path, str] = field(default_factory=dict)
    copies: Mapping[str, int] = field(default_factory=dict)

    @property
    def paths(self) -> list[Path]:
        """All photos."""
        return [path for paths in self.classes.values() for path in paths]

    def list_samples(self, class_names: Sequence[str]) -> list[Sample]:
        """The photos with the labels of these classes; those of others are left out."""
        return [Sample(path, k) for k, name in enumerate(class_names) for path in self.classes.get(name, ())]


def read_tested(place: Path, class_names: Sequence[str]) -> Tested:
    """The photos of `place/CLASS/photo.jpg`, or of a list or shards, whichever split they name.

    Raises:
        UserError: no such place, no photos, or classes that the training does not have.
    """
    place = place.absolute()
    classes: dict[str, list[Path]] = defaultdict(list)
    if is_listed(place):
        for path, name in sorted(read_labels(place).labels.items()):
            classes[name].append(path)
    elif place.is_dir():
        classes |= {name: paths for name, paths in read_class_folders(place).items() if paths}
    else:
        found = "a file" if place.exists() else "nothing"
        raise UserError(
            f"Found {found} at '{place}'; --test expects a folder of photos for each class, a list or shards. Check "
            "the path."
        )
    if extra := sort_names(name for name in classes if name not in class_names):
        expected = ", ".join(map(repr, class_names[:5])) + (" and so on" if len(class_names) > 5 else "")
        raise UserError(
            f"--test '{place}' has classes that the training does not have: {', '.join(map(repr, extra[:5]))} "
            f"({len(extra)} such); expected {expected}. Rename or remove them, or name the folder that holds the "
            "folders of the classes."
        )
    return Tested(place, dict(classes), tuple(name for name in class_names if name not in classes))


def find_no_pictures(paths: Iterable[Path]) -> dict[Path, str]:
    """The files whose header is no picture's, and why; a training would tell of them after hours."""
    found = {}
    for path in paths:
        try:
            read_size(path)
        except ImageError as error:
            found[path] = str(error)
    return found


def compare_tested(
    tested: Tested, photos: PhotoFolder, hashes: Mapping[Path, str], unreadable: Mapping[Path, str]
) -> Tested:
    """What is left of the photos without the unreadable ones, and how many are copies of the training's.

    Args:
        tested: the photos.
        photos: what is trained on.
        hashes: content of all photos of both that can be read.
        unreadable: the photos of `tested` that can't be read, and why.

    Raises:
        UserError: none can be read, or each of them is trained on or held out.
    """
    classes = {name: [path for path in paths if path not in unreadable] for name, paths in tested.classes.items()}
    kept = replace(tested, classes=classes, unreadable=dict(unreadable))
    if not kept.paths:
        raise UserError(
            f"None of the {len(tested.paths):,} photos of --test '{tested.place}' can be read; expected photos to test "
            "the model on. Replace the files, or leave --test out."
        )
    sets = {split: {hashes[one.path] for one in getattr(photos, split)} for split in ("train", "val")}
    copies = {split: _count(kept.paths, hashes, words) for split, words in sets.items()}
    if _count(kept.paths, hashes, sets["train"] | sets["val"]) == len(kept.paths):
        what = "trained on" if copies["train"] == len(kept.paths) else "trained on or held out"
        raise UserError(
            f"All {len(kept.paths):,} photos of --test '{tested.place}' are {what}, too; expected others: what a "
            "model has learnt by heart says nothing of photos that it has not seen. Name another folder."
        )
    return replace(kept, copies=copies)


def _count(paths: Sequence[Path], hashes: Mapping[Path, str], words: Collection[str]) -> int:
    return sum(hashes[path] in words for path in paths)
