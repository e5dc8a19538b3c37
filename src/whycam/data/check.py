"""What is wrong with a folder of photos, before any time is spent on it: unreadable files, photos in both splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from whycam.data.folder import MIN_PHOTOS, PhotoFolder, Sample, count_labels
from whycam.data.images import ImageError, content_hash
from whycam.errors import UserError


def hash_photos(paths: Sequence[Path]) -> tuple[dict[Path, str], dict[Path, str]]:
    """Content hashes of the files that can be read, and the reasons for those that can't."""

    def hash_one(path: Path) -> tuple[str, str]:
        try:
            word = content_hash(path)
            return (word, "") if path.stat().st_size else ("", "the file is empty (0 bytes)")
        except (OSError, ImageError) as error:
            return "", str(error)

    with ThreadPoolExecutor(4) as pool:
        results = dict(zip(paths, pool.map(hash_one, paths), strict=True))
    return {p: h for p, (h, why) in results.items() if not why}, {p: why for p, (_, why) in results.items() if why}


def drop_unreadable(folder: PhotoFolder, unreadable: Mapping[Path, str]) -> PhotoFolder:
    """The folder without those photos.

    Raises:
        UserError: a class loses so many that it can't be trained or validated.
    """
    if not unreadable:
        return folder
    left = replace(
        folder,
        train=tuple(s for s in folder.train if s.path not in unreadable),
        val=tuple(s for s in folder.val if s.path not in unreadable),
    )
    for split, samples, least in (("train", left.train, 1), ("val", left.val, 1), ("all", left.samples, MIN_PHOTOS)):
        for label, count in enumerate(count_labels(samples, len(folder.class_names))):
            if count < least:
                example = next(s.path for s in folder.samples if s.label == label and s.path in unreadable)
                where = "" if split == "all" else f" in the {split} split"
                raise UserError(
                    f"Class {folder.class_names[label]!r} has {count} readable photos left{where} of '{folder.root}' "
                    f"(expected at least {least}); unreadable are files such as '{example}': {unreadable[example]}. "
                    "Replace the unreadable files, or remove the class's folder."
                )
    return left


def find_same_content(folder: PhotoFolder, hashes: Mapping[Path, str]) -> tuple[list[list[Path]], list[list[Path]]]:
    """Groups of same-content photos that are in both splits, and those under different classes."""
    split_of = {sample.path: "train" for sample in folder.train} | {sample.path: "val" for sample in folder.val}
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in folder.samples:
        groups[hashes[sample.path]].append(sample)
    several = [group for group in groups.values() if len(group) > 1]
    in_both = [[s.path for s in group] for group in several if len({split_of[s.path] for s in group}) > 1]
    mislabelled = [[s.path for s in group] for group in several if len({s.label for s in group}) > 1]
    return in_both, mislabelled
