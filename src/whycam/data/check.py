"""What is wrong with a folder of photos, before any time is spent on it: unreadable files, photos in both splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from whycam.data.folder import MIN_PHOTOS, PhotoFolder, Sample, make_folder
from whycam.data.images import ImageError, content_hash
from whycam.data.loader import in_batches, map_ahead
from whycam.data.several import drop_samples
from whycam.data.shards import measure_size
from whycam.errors import UserError, as_clause

# A file takes less than a millisecond.
_TOLD_AT_ONCE = 256


def hash_photos(
    paths: Sequence[Path], progress: Callable[[int], None] | None = None
) -> tuple[dict[Path, str], dict[Path, str]]:
    """Content hashes of the files that can be read, and the reasons for those that can't.

    Args:
        paths: files.
        progress: told how many more are done.
    """

    def hash_one(path: Path) -> tuple[str, str]:
        try:
            word = content_hash(path)
            return (word, "") if measure_size(path) else ("", "the file is empty (0 bytes)")
        except (OSError, ImageError) as error:
            return "", str(error)

    hashes: dict[Path, str] = {}
    unreadable: dict[Path, str] = {}
    for batch in in_batches(zip(paths, map_ahead(hash_one, paths, workers=4, ahead=64), strict=True), _TOLD_AT_ONCE):
        for path, (word, why) in batch:
            if why:
                unreadable[path] = why
            else:
                hashes[path] = word
        if progress is not None:
            progress(len(batch))
    return hashes, unreadable


def drop_unreadable(folder: PhotoFolder, unreadable: Mapping[Path, str], *, allow_empty: bool = False) -> PhotoFolder:
    """The folder without those photos; of a class that lost some, a split of our own is drawn anew from the others.

    With `allow_empty` a class that loses too many is left out.

    Raises:
        UserError: a class loses so many that it can't be trained or validated, or fewer than two classes are left.
    """
    if not unreadable:
        return folder
    if folder.is_multi_label:
        return drop_samples(folder, unreadable, allow_empty=allow_empty)
    train, val = (_group(samples, folder, unreadable) for samples in (folder.train, folder.val))
    both = {name: sorted(train[name] + val[name]) for name in folder.class_names}
    few = [
        name
        for name in folder.class_names
        if len(both[name]) < MIN_PHOTOS or (not folder.is_split_by_us and not (train[name] and val[name]))
    ]
    names = [name for name in folder.class_names if name not in few]
    if few and (not allow_empty or len(names) < 2):
        counts = len(train[few[0]]), len(val[few[0]])
        raise _make_few_error(few[0], folder, unreadable, counts, has_others=len(names) > 1)
    about = replace(folder, left_out=(*folder.left_out, *few))
    if folder.is_split_by_us:
        return make_folder(about, {name: both[name] for name in names})
    return make_folder(about, {name: train[name] for name in names}, val)


def _group(samples: Sequence[Sample], folder: PhotoFolder, unreadable: Mapping[Path, str]) -> dict[str, list[Path]]:
    """Class name -> its photos that can be read."""
    groups: dict[str, list[Path]] = {name: [] for name in folder.class_names}
    for sample in samples:
        if sample.path not in unreadable:
            groups[folder.class_names[sample.label]].append(sample.path)
    return groups


def _make_few_error(
    name: str, folder: PhotoFolder, unreadable: Mapping[Path, str], counts: tuple[int, int], *, has_others: bool
) -> UserError:
    label = folder.class_names.index(name)
    lost = [sample.path for sample in folder.samples if sample.label == label and sample.path in unreadable]
    left = (
        f"{sum(counts)} readable photos left in '{folder.root}' (expected at least {MIN_PHOTOS})"
        if folder.is_split_by_us
        else f"{counts[0]} readable photos to train on and {counts[1]} held out in '{folder.root}' (expected one each)"
    )
    remedy = ", or give --allow-empty to train without such classes" if has_others else ""
    return UserError(
        f"Class {name!r} has {left}; {len(lost)} can't be read, such as '{lost[0]}': "
        f"{as_clause(unreadable[lost[0]])}. Replace such files{remedy}."
    )


def find_same_content(folder: PhotoFolder, hashes: Mapping[Path, str]) -> tuple[list[list[Path]], list[list[Path]]]:
    """Groups of same-content photos that are in both splits, and those under different classes."""
    split_of = {sample.path: "train" for sample in folder.train} | {sample.path: "val" for sample in folder.val}
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in folder.samples:
        groups[hashes[sample.path]].append(sample)
    several = [group for group in groups.values() if len(group) > 1]
    in_both = [[s.path for s in group] for group in several if len({split_of[s.path] for s in group}) > 1]
    mislabelled = [[s.path for s in group] for group in several if len({s.classes for s in group}) > 1]
    return in_both, mislabelled
