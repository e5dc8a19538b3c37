"""A run that people correct: its journal, its work list, its versions. A page, or a program, holds one of these.

run = EditedRun.open(Path("runs/flowers"))
for item in run.list_work():
    run.append(item.actions[0].make(who="Ann"))
version = run.retrain()
run.keep(version.number)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from whycam.audit import KINDS
from whycam.config import TrainOptions
from whycam.data.check import drop_unreadable, hash_photos
from whycam.data.folder import PhotoFolder
from whycam.errors import UserError, as_clause, tell_wrong_value
from whycam.mend import retraining, versions
from whycam.mend.apply import Applied, check_class, find_photos
from whycam.mend.cures import CauseMaker
from whycam.mend.doubts import doubt_labels
from whycam.mend.edits import Edit, make_edit
from whycam.mend.journal import Journal
from whycam.mend.state import State, replay
from whycam.mend.steps import Progress, make_show
from whycam.mend.training import EDITS, Training, prepare, read_source
from whycam.mend.versions import Version
from whycam.mend.worklist import Item, Known, Photo, make_list
from whycam.runs import find_source, from_text, read_columns, to_text
from whycam.train.stores import compute_plain, read_pooled


@dataclass
class EditedRun:
    """A run folder and the photos that it was trained on, as they were when it was opened.

    Attributes:
        run: the run's folder.
        options: how it was trained, and is trained again.
        source: the photos as they are on the disk, without what can't be read.
        hashes: path -> content hash of each.
        journal: of the edits.
    """

    run: Path
    options: TrainOptions
    source: PhotoFolder
    hashes: Mapping[Path, str]
    journal: Journal
    _kept: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, run: Path, folder: Path | None = None, *, cache_dir: Path | None = None) -> EditedRun:
        """The run in that folder.

        Args:
            run: its folder.
            folder: of the photos, or the list or shards that name them; None: where they were at the training.
            cache_dir: where features are kept; None: the user's cache.

        Raises:
            UserError: no run that `whycam train` made, one of an older version, or its photos are no longer there.
        """
        # The test is for the end: of versions that are compared by it, it would choose one.
        options = _read_options(run).model_copy(update={"cache_dir": cache_dir, "edits": None, "test": None})
        place = folder or find_source(run, _read_data(run))
        if not place.exists():
            raise UserError(
                f"The photos of the run '{run.absolute()}' are no longer in '{place.absolute()}'; expected the folder "
                "that it was trained on. Name the folder where they are now."
            )
        source = read_source(place, options)
        if source.is_multi_label:
            raise UserError(
                f"The photos of the run '{run.absolute()}' have several classes each; edits and the page Mend give a "
                "photo one class. Correct the classes in the list that it was trained on, and train again."
            )
        versions.sweep(run)
        hashes, unreadable = hash_photos([sample.path for sample in source.samples])
        source = drop_unreadable(source, unreadable, allow_empty=options.allow_empty)
        return cls(run, options, source, hashes, Journal.of(run))

    @property
    def state(self) -> State:
        """What all edits in the journal come to now."""
        reading = self.journal.read()
        return replay(reading.edits, reading.notes)

    def apply(self, state: State | None = None) -> Applied:
        """A state, or the one of now, beside the photos."""
        return find_photos(state or self.state, self.source.root, self.hashes)

    def find_photo(self, content: str) -> Path | None:
        """The file of a photo by its content hash; None where the folder has none."""
        if "places" not in self._kept:
            self._kept["places"] = {word: path for path, word in self.hashes.items()}
        found: Path | None = self._kept["places"].get(content)
        return found

    def append(self, edits: Sequence[Edit | Mapping[str, Any]]) -> State:
        """Adds edits to the journal, and gives the state after them. The same edit sent twice counts once.

        Args:
            edits: edits, or the words of `make_edit`; a photo's path is filled in.

        Raises:
            UserError: a photo, a class or a finding that is not there, a word that an edit lacks, or a run that can't
                be written to. Nothing is added then.
        """
        reading = self.journal.read()
        known = {edit.id: edit for edit in reading.edits}
        for one in edits:
            edit = one if isinstance(one, Edit) else make_edit(**one)
            known[edit.id] = self._check(edit, known)
        added = list(known.values())[len(reading.edits) :]
        self.journal.append(added)
        return self.state

    def list_photos(self, state: State | None = None) -> dict[str, Photo]:
        """Content hash -> the photo, with its class as people have it; without those that are left out."""
        folder = self._edit(state or self.state)
        return {
            self.hashes[sample.path]: Photo(
                self.hashes[sample.path], self._tell_path(sample.path), folder.class_names[sample.label], split
            )
            for split, samples in (("train", folder.train), ("val", folder.val))
            for sample in samples
        }

    def list_work(self) -> list[Item]:
        """What to look at, in its order; what was answered is no longer there.

        Findings are those of the kept version's audit; where it has none, of the first training's: `audit` makes them.
        """
        state, kept = self.state, self.find_kept()
        found = retraining.find_audit(kept.folder) or retraining.find_audit(self.run) or {"findings": ()}
        return make_list(
            Known(
                state=state,
                photos=self.list_photos(state),
                places=self.hashes,
                findings=found["findings"],
                doubts=self._doubt(state),
                answers=dict(self._read_answers(kept.folder)),
            )
        )

    def retrain(
        self,
        *,
        progress: Progress | None = None,
        is_cancelled: Callable[[], bool] | None = None,
        has_audit: bool = False,
        allow_empty: bool = False,
    ) -> Version:
        """A new version by all edits so far, compared with the one that is kept; which stays, whatever happens.

        Args:
            progress: told of each step in words, how much is done, and of how much.
            is_cancelled: asked again and again; True calls it off.
            has_audit: audit it too, which takes longer than the training.
            allow_empty: go on without classes that the edits leave without photos, as `--allow-empty` does.

        Raises:
            CancelledError: it was called off.
            EmptyClassError: a class without photos to train on, or without held-out ones.
            UserError: edits that can't be followed, another process at work on the run, a full disk.
        """
        show = make_show(progress, is_cancelled)
        options = self.options.model_copy(update={"allow_empty": self.options.allow_empty or allow_empty})
        return retraining.retrain(self.run, self.source.place, options, show, has_audit=has_audit)

    def audit(
        self,
        *,
        kinds: Sequence[str] = tuple(KINDS),
        limit: int = retraining.AUDITED,
        progress: Progress | None = None,
        is_cancelled: Callable[[], bool] | None = None,
    ) -> dict[str, Any]:
        """Audits the kept version on the photos as people have them, held-out ones first; written beside its model.

        Raises:
            CancelledError: it was called off.
            UserError: a run that can't be written to, or an unknown kind.
        """
        photos = self.apply().edit(self.source, allow_empty=self.options.allow_empty)
        words = (self.find_kept().folder, self.run, photos, self.options, make_show(progress, is_cancelled))
        return retraining.audit_version(*words, kinds=kinds, limit=limit)

    def list_versions(self) -> list[Version]:
        """All versions, the first training first."""
        return versions.list_versions(self.run)

    def find_kept(self) -> Version:
        """The version that stands for the run."""
        return next(version for version in self.list_versions() if version.is_kept)

    def keep(self, number: str, who: str = "") -> Version:
        """The version stands for the run from now on: see `versions.keep`."""
        return versions.keep(self.run, number, who)

    def throw_away(self, number: str) -> None:
        """Removes a version: see `versions.throw_away`."""
        versions.throw_away(self.run, number)

    def _tell_path(self, path: Path) -> str:
        return to_text(path.relative_to(self.source.root).as_posix())

    def _edit(self, state: State) -> PhotoFolder:
        """The photos as people have them, whatever is left of a class."""
        return self.apply(state).edit(self.source, allow_empty=True)

    def _check(self, edit: Edit, known: Mapping[str, Edit]) -> Edit:
        """The edit with the photo's path filled in; `known` are those before it, by their ids."""
        if edit.photo is not None:
            path = self.find_photo(edit.photo)
            if path is None:
                raise UserError(
                    f"'{self.source.root}' has no photo of the content {edit.photo} ({edit.path or 'no path given'}); "
                    "expected one of its photos. Where it was changed since, open the run anew."
                )
            edit = edit.model_copy(update={"path": self._tell_path(path)})
        if edit.kind in {"label", "right"} and edit.label is not None:
            new = {one.label for one in known.values() if one.is_new and one.label}
            check_class(edit.label, [*self.source.class_names, *sorted(new)], is_new=edit.is_new)
        if edit.finding is not None:
            shown = [{"photo": self.hashes.get(Path(one["path"]))} | one for one in edit.finding.get("photos", ())]
            edit = edit.model_copy(update={"finding": {**edit.finding, "photos": shown}})
        if edit.kind == "cure":
            preprocess, applied = self._prepare().work.model.preprocess, self.apply()
            maker = CauseMaker(self.options, self._edit(applied.state), preprocess, applied)
            if why := maker.refuse(edit):
                raise UserError(f"{why} Expected a cause that can be exchanged; mark it on photos as not-object.")
        if edit.kind == "undo" and edit.of not in known:
            raise UserError(f"No edit has the id {edit.of!r}; expected that of an earlier one. List them anew.")
        return edit

    def _prepare(self) -> Training:
        """A training of the photos as they are, whose features are those of every version."""
        if "plain" not in self._kept:
            plain = self.options.model_copy(update=dict.fromkeys(("against", "ignore", "attend", "groups")))
            self._kept["plain"] = prepare(self.source, plain, self.run, make_show())
        training: Training = self._kept["plain"]
        return training

    def _doubt(self, state: State) -> list[tuple[str, str, float]]:
        """See `Known.doubts`; made anew where labels changed. Of a network trained from scratch there are none."""
        if self.options.scratch:
            return []
        folder = self._edit(state)
        key = [(self.hashes[sample.path], sample.label) for sample in folder.samples]
        if self._kept.get("doubted") != key:
            work = self._prepare().work
            if "features" not in self._kept:
                self._kept["features"] = compute_plain(work)
            pooled = read_pooled(work, self._kept["features"], folder.samples)
            labels = torch.tensor([sample.label for sample in folder.samples])
            doubts = doubt_labels(pooled, labels, len(folder.class_names), self.options.seed)
            said = doubts.probabilities.argmax(dim=1)
            rows = [int(row) for row in doubts.own.argsort() if said[row] != labels[row]]
            names = folder.class_names
            self._kept["doubts"] = [(key[row][0], names[int(said[row])], float(doubts.own[row])) for row in rows]
            self._kept["doubted"] = key
        found: list[tuple[str, str, float]] = self._kept["doubts"]
        return found

    def _read_answers(self, place: Path) -> Iterator[tuple[str, tuple[str, float]]]:
        """Content hash of each held-out photo, what a version's model says, and the probability of its class."""
        columns = ["path", "predicted", "p_truth"]
        try:
            table = read_columns(place / "predictions.parquet", columns)
        except (OSError, ValueError) as error:
            raise UserError(
                f"'{(place / 'predictions.parquet').absolute()}' can't be read ({type(error).__name__}); expected what "
                "whycam train writes. Train the run again."
            ) from None
        for path, said, share in zip(*(table[name] for name in columns), strict=True):
            file = self.source.root / path
            content = self.hashes.get(file) or self.hashes.get(self.source.root / from_text(path))
            if content is not None:
                yield content, (said, share)


def _read_options(run: Path) -> TrainOptions:
    """How a run was trained.

    Raises:
        UserError: no run, or one whose options this version does not know.
    """
    path = run / "options.json"
    expected = "expected a run that whycam train of this version made"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        given = {k: v for k, v in content.items() if k not in {"class_names", EDITS}}
        # A run of a version that had no slice chose its epoch on the held-out photos.
        return TrainOptions.model_validate({"choose_on": "val", **given})
    except FileNotFoundError:
        found = "Found no folder" if not run.is_dir() else "Found no options.json in"
        raise UserError(f"{found} '{run.absolute()}'; {expected}. Name a run's folder, or train it again.") from None
    except (OSError, ValueError, AttributeError) as error:
        told = tell_wrong_value(error.errors()[0]) if isinstance(error, ValidationError) else as_clause(error)
        raise UserError(f"'{path.absolute()}' can't be read ({told}); {expected}. Train it again.") from None


def _read_data(run: Path) -> Mapping[str, Any]:
    about = versions.list_versions(run)[0].summary.get("data")
    if not isinstance(about, dict) or "folder" not in about:
        raise UserError(
            f"'{(run / 'summary.json').absolute()}' does not say which photos the run was trained on; expected a run "
            "that whycam train of this version made. Train it again, or name the folder."
        )
    return about
