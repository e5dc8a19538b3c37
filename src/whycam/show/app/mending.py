"""A run that is corrected in the app: opened when it is first asked for, asked from threads, one training at a time."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from whycam.errors import UserError
from whycam.mend.apply import EmptyClassError
from whycam.mend.edits import KINDS, Edit, make_edit
from whycam.mend.steps import CancelledError
from whycam.mend.versions import Version
from whycam.runs import VERSIONS
from whycam.show.app.mend_answers import (
    EditWords,
    ItemAnswer,
    MendAnswer,
    MendState,
    SaidAnswer,
    VersionAnswer,
    WorkAnswer,
)

if TYPE_CHECKING:
    from whycam.mend.edited_run import EditedRun

T = TypeVar("T")
_THREADS = 4
# More items than this nobody goes through before the next training.
_MOST_ITEMS, _MOST_SAID = 300, 100


class BusyError(UserError):
    """A training is under way."""


class Mending:
    """A run's journal, work list and versions, for many requests at once.

    Attributes:
        run: the folder, which may be none that can be corrected: see `find_reason`.
        photos: the folder of photos; None: where they were at the training.
        follow: is called once another version stands for the run.
    """

    def __init__(self, run: Path, photos: Path | None = None, follow: Callable[[], None] = lambda: None) -> None:
        self.run, self.photos, self.follow = run, photos, follow
        self._askers = ThreadPoolExecutor(_THREADS, "whycam-mend")
        # A run's own caches are filled by one at a time; lines are checked against the journal that they go into.
        self._opening, self._listing, self._saying = threading.Lock(), threading.Lock(), threading.Lock()
        self._edited: EditedRun | None = None
        self._work, self._at_work = WorkAnswer(), threading.Lock()
        self._cancel = threading.Event()
        self._trainer: threading.Thread | None = None

    def close(self) -> None:
        """Calls the training off, and ends the threads."""
        self._cancel.set()
        if self._trainer is not None:
            self._trainer.join()
        self._askers.shutdown(cancel_futures=True)

    async def ask(self, work: Callable[[], T]) -> T:
        """The result of work that reads files."""
        return await asyncio.get_running_loop().run_in_executor(self._askers, work)

    def open(self) -> EditedRun:
        """The run.

        Raises:
            UserError: it can't be corrected here.
        """
        with self._opening:
            if self._edited is None:
                if self.run.is_dir() and not os.access(self.run, os.W_OK):
                    raise UserError(
                        f"The run '{self.run.absolute()}' can't be written to; expected a folder that takes a journal "
                        "and new versions. Serve a copy of it."
                    )
                from whycam.mend.edited_run import EditedRun  # noqa: PLC0415 - torch, which showing does without

                self._edited = EditedRun.open(self.run, self.photos)
            return self._edited

    def tell_state(self) -> MendState:
        """See there; this opens the run."""
        try:
            self.open()
        except UserError as error:
            return MendState(reason=str(error))
        return MendState(revision=self.find_revision(), work=self._work)

    def find_revision(self) -> str:
        """Another word after each change of the journal or the versions, by this server or another process."""
        marks: list[object] = []
        for path in (self.open().journal.path, self.run / VERSIONS):
            try:
                about = path.stat()
                marks += [about.st_size, about.st_mtime_ns]
            except FileNotFoundError:
                marks.append(None)
        return hashlib.blake2b(repr(marks).encode(), digest_size=8).hexdigest()

    def say(self, words: Sequence[EditWords]) -> str:
        """Adds edits to the journal; they are on the disk when this returns the revision.

        Raises:
            UserError: see `EditedRun.append`.
        """
        with self._saying:
            self.open().append([make_edit(**one.model_dump(exclude_defaults=True)) for one in words])
        return self.find_revision()

    def tell_list(self) -> MendAnswer:
        """The work list and what was said; where the edits leave nothing to list, they can still be undone."""
        edited = self.open()
        with self._listing:
            revision, state, kept = self.find_revision(), edited.state, edited.find_kept().number
            notes = [*state.notes, *(conflict.tell() for conflict in state.conflicts)]
            names, items = list(edited.source.class_names), []
            try:
                names = edited.apply(state).list_classes(edited.source)
                items = edited.list_work()
            except UserError as error:
                notes.insert(0, str(error))
        said = [edit for edit in state.edits if edit.kind != "undo"]
        return MendAnswer(
            revision=revision,
            class_names=names,
            kept=kept,
            items=[ItemAnswer.model_validate(item.to_json()) for item in items[:_MOST_ITEMS]],
            left_off=max(0, len(items) - _MOST_ITEMS),
            history=[
                SaidAnswer(id=edit.id, kind=edit.kind, told=tell_edit(edit), who=edit.who, time=edit.time)
                for edit in reversed(said[-_MOST_SAID:])
            ],
            said=len(said),
            notes=notes,
        )

    def list_versions(self) -> list[VersionAnswer]:
        """All versions, the first training first."""
        return [_describe_version(version) for version in self.open().list_versions()]

    def keep(self, number: str) -> None:
        """See `EditedRun.keep`; all of the app shows that version then.

        Raises:
            BusyError: a training is under way.
            UserError: there is no such version, or it is kept and can't be shown.
        """
        self._check_free()
        self.open().keep(number)
        try:
            self.follow()
        except UserError as error:
            raise UserError(
                f"Version {number} stands for the run now, but the page Explain goes on with the earlier one: {error}"
            ) from None

    def throw_away(self, number: str) -> None:
        """See `EditedRun.throw_away`; errors as of `keep`."""
        self._check_free()
        self.open().throw_away(number)

    def start(self, *, has_audit: bool, allow_empty: bool = False) -> None:
        """Starts a training in a thread of its own.

        Raises:
            BusyError: one is under way.
            UserError: the run can't be corrected here.
        """
        edited = self.open()
        with self._at_work:
            self._check_free()
            self._cancel.clear()
            self._work = WorkAnswer(state="running", step="starting")
            self._trainer = threading.Thread(
                target=self._retrain, args=(edited, has_audit, allow_empty), name="whycam-retrain", daemon=True
            )
            self._trainer.start()

    def call_off(self) -> None:
        """Asks the training to stop; it does at its next step."""
        self._cancel.set()

    def _check_free(self) -> None:
        if self._work.state == "running":
            raise BusyError(
                f"A training is under way ({self._work.step}); expected one at a time. Wait for it, or call it off."
            )

    def _retrain(self, edited: EditedRun, has_audit: bool, allow_empty: bool) -> None:
        def show(step: str, done: int, total: int) -> None:
            self._work = WorkAnswer(state="running", step=step, done=done, total=total)

        try:
            version = edited.retrain(
                progress=show, is_cancelled=self._cancel.is_set, has_audit=has_audit, allow_empty=allow_empty
            )
            self._work = WorkAnswer(state="done", version=version.number)
        except CancelledError:
            self._work = WorkAnswer(state="cancelled")
        except UserError as error:
            is_class_empty = isinstance(error, EmptyClassError)
            self._work = WorkAnswer(state="failed", reason=str(error), is_class_empty=is_class_empty)
        except BaseException as error:
            # Else the page would wait for ever; the thread's own end puts the error into the log.
            self._work = WorkAnswer(
                state="failed", reason=f"A fault of the program ({type(error).__name__}); the server's log has it."
            )
            raise


def tell_edit(edit: Edit) -> str:
    """What an edit says, for a list."""
    about = edit.path or (edit.finding or {}).get("title", "")
    words = KINDS[edit.kind].title
    return f"{about}: {words} ({edit.label})" if edit.label else f"{about}: {words}"


def _describe_version(version: Version) -> VersionAnswer:
    summary = version.summary
    return VersionAnswer(
        number=version.number,
        is_kept=version.is_kept,
        accuracy=float(summary["val_accuracy"]),
        photos=int(summary["data"]["val"]),
        comparison=None if version.comparison is None else dict(version.comparison),
    )
