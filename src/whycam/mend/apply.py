"""Edits on a folder of photos: which photo each is about, and the folder as it is trained on. No file is changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from whycam.data.drawn import Drawn
from whycam.data.folder import PhotoFolder, Sample, sort_names
from whycam.data.shards import is_there
from whycam.errors import UserError, make_unknown_name
from whycam.mend.state import State
from whycam.runs import from_text, to_text

# So many photos are named in a sentence.
_TOLD = 5


@dataclass(frozen=True)
class Applied:
    """A journal's state beside the photos that it is about.

    Attributes:
        state: what is said.
        hashes: path -> content hash, of the photos that can be read.
        notes: sentences: what was skipped, and why.
        skipped: content hash -> why its photo was not found.
    """

    state: State
    hashes: Mapping[Path, str]
    notes: tuple[str, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)

    def edit(self, folder: PhotoFolder, *, allow_empty: bool = False) -> PhotoFolder:
        """The folder with the labels that people gave, without what they left out; the split stays as it is.

        Args:
            folder: as it is on the disk, without what can't be read.
            allow_empty: a class that loses all photos to train on, or all held-out ones, is left out.

        Raises:
            UserError: a class that the folder has not, and that is not said to be new; one that loses all its photos.
        """
        names = self.list_classes(folder)
        index = {name: label for label, name in enumerate(names)}
        train, val = ([*self._edit(samples, folder, index)] for samples in (folder.train, folder.val))
        counts = [Counter(sample.label for sample in samples) for samples in (train, val)]
        few = [name for name, label in index.items() if not all(count[label] for count in counts)]
        kept = [name for name in names if name not in few]
        if few and (not allow_empty or len(kept) < 2):
            raise _make_empty_error(
                few[0], [count[index[few[0]]] for count in counts], is_old=few[0] in folder.class_names
            )
        place = {index[name]: label for label, name in enumerate(kept)}
        left_out = (*folder.left_out, *few)
        train, val = (_move(samples, place) for samples in (train, val))
        return replace(folder, class_names=tuple(kept), train=tuple(train), val=tuple(val), left_out=left_out)

    def _edit(self, samples: Sequence[Sample], folder: PhotoFolder, index: Mapping[str, int]) -> list[Sample]:
        edited = []
        for sample in samples:
            said = self.state.photos.get(self.hashes[sample.path])
            if said is None or not said.is_left_out:
                name = folder.class_names[sample.label] if said is None or said.label is None else said.label
                edited.append(Sample(sample.path, index[name]))
        return edited

    def list_classes(self, folder: PhotoFolder) -> list[str]:
        """The folder's classes, and those that edits say are new."""
        here = {self.hashes[sample.path] for sample in folder.samples}
        names = list(folder.class_names)
        for content, said in self.state.photos.items():
            if content in here and said.label is not None and said.label not in names:
                check_class(said.label, names, is_new=said.verdict is not None and said.verdict.is_new)
                names.append(said.label)
        return [*names] if folder.order else sort_names(names)

    def find_drawn(self, word: str) -> dict[Path, tuple[Drawn, ...]]:
        """Photo -> what is drawn on it as `object`, or as `not_object`; of photos that are not left out."""
        found = {}
        for path, content in self.hashes.items():
            said = self.state.photos.get(content)
            drawn: tuple[Drawn, ...] = getattr(said, word) if said and not said.is_left_out else ()
            if drawn:
                found[path] = drawn
        return found

    def list_photos(self, root: Path) -> dict[str, list[dict[str, str]]]:
        """Path below the folder -> the edits of that photo that count, for a summary."""
        return {
            to_text(path.relative_to(root).as_posix()): [
                {"id": edit.id, "kind": edit.kind, **({"label": edit.label} if edit.label else {})}
                for edit in self.state.photos[content].edits
            ]
            for path, content in sorted(self.hashes.items())
            if content in self.state.photos
        }


def _move(samples: Sequence[Sample], place: Mapping[int, int]) -> list[Sample]:
    """The samples of the classes that have a place, by their new labels, class by class."""
    moved = [Sample(sample.path, place[sample.label]) for sample in samples if sample.label in place]
    return sorted(moved, key=lambda sample: sample.label)


def check_class(name: str, known: Sequence[str], *, is_new: bool) -> None:
    """Refuses a class that nobody knows.

    Raises:
        UserError: there is none of that name, and it is not said to be new.
    """
    if name not in known and not is_new:
        told = str(make_unknown_name("class", name, known))
        raise UserError(f"{told} An edit gives it to a photo; if it is meant to be new, say so (is_new), else undo it.")


def find_photos(state: State, root: Path, hashes: Mapping[Path, str]) -> Applied:
    """The photos that a state is about, found by their content, wherever they are in the folder now.

    Args:
        state: what is said.
        root: the folder of photos.
        hashes: path -> content hash, of all its photos that can be read.
    """
    here, skipped = set(hashes.values()), {}
    for content, said in state.photos.items():
        if content not in here:
            has_file = bool(said.path) and is_there(root / from_text(said.path))
            skipped[content] = "its file was changed since" if has_file else "it is no longer in the folder"
    notes = []
    for why in sorted(set(skipped.values())):
        paths = [state.photos[content].path or content for content, reason in skipped.items() if reason == why]
        more = f" and {len(paths) - _TOLD} more" if len(paths) > _TOLD else ""
        listed = ", ".join(f"'{path}'" for path in sorted(paths)[:_TOLD])
        notes.append(f"Edits of {_count(len(paths))} were skipped, as {_tell(why, len(paths))}: {listed}{more}.")
    return Applied(state, hashes, (*state.notes, *notes), skipped)


def _count(photos: int) -> str:
    return "1 photo" if photos == 1 else f"{photos} photos"


def _tell(why: str, count: int) -> str:
    if count == 1:
        return why
    return why.replace("its file was", "their files were").replace("it is", "they are")


class EmptyClassError(UserError):
    """A class that the edits leave without photos to train on, or without held-out ones."""


def _make_empty_error(name: str, counts: Sequence[int], *, is_old: bool) -> EmptyClassError:
    train, val = counts
    who = f"After the edits the class {name!r} has" if is_old else f"The class {name!r}, which an edit says is new, has"
    what = "Undo edits that leave out its photos or give them another class" if is_old else "Give it to more photos"
    return EmptyClassError(
        f"{who} {_count(train)} to train on and {val} held out; expected at least one each. {what}, or give "
        "--allow-empty to train without such classes."
    )
