"""The guards as a test calls them: each gives its verdict back, or raises, with pictures of the photos to look at."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from whycam.errors import UserError
from whycam.runs import to_json
from whycam.testing.accuracy import check_accuracy
from whycam.testing.exactness import check_exact
from whycam.testing.kept import SHARE, check_evidence_kept
from whycam.testing.looks import check_looks_at
from whycam.testing.photos import PhotosLike
from whycam.testing.report import PAGE, name_folder, write_verdict
from whycam.testing.rule import State
from whycam.testing.session import Session, find_session
from whycam.testing.shortcuts import KINDS, LIMIT, check_no_shortcut
from whycam.testing.verdict import Verdict


class BrokenGuardError(AssertionError):
    """A guard is broken, or, where proof is asked for, not proved; `verdict` has the numbers."""

    def __init__(self, verdict: Verdict, told: str) -> None:
        super().__init__(told)
        self.verdict = verdict


class InconclusiveWarning(UserWarning):
    """The photos are too few to tell; the guard passes."""


def assert_accuracy(
    model: object, folder: PhotosLike, at_least: float, *, each_class: bool = False, strict: bool | None = None
) -> Verdict:
    """Fails where surely fewer than `at_least` of the photos are named rightly; see `check_accuracy`.

    With `strict` it fails, too, where the photos don't prove that it holds; None takes what the session says
    (`--whycam-strict`). All else is `check_accuracy`'s.

    Raises:
        BrokenGuardError: so it is.
        UserError: see `check_accuracy`.
    """
    __tracebackhide__ = True
    return settle(lambda: check_accuracy(model, folder, at_least, each_class=each_class), strict)


def assert_looks_at(
    model: object,
    photos: PhotosLike,
    masks: str | Path | None = None,
    *,
    share: float,
    each_class: bool = False,
    method: str | None = None,
    strict: bool | None = None,
) -> Verdict:
    """Fails where surely less than `share` of the evidence lies on the objects; see `check_looks_at`.

    `strict` and errors are those of `assert_accuracy`, all else is `check_looks_at`'s.
    """
    __tracebackhide__ = True
    return settle(
        lambda: check_looks_at(model, photos, masks, share=share, each_class=each_class, method=method), strict
    )


def assert_no_shortcut(
    model: object,
    folder: PhotosLike,
    kinds: Sequence[str] = KINDS,
    *,
    limit: int = LIMIT,
    seed: int = 0,
    strict: bool | None = None,
) -> Verdict:
    """Fails where the audit proves that a class is known by a cause of these kinds; see `check_no_shortcut`.

    `strict` and errors are those of `assert_accuracy`, all else is `check_no_shortcut`'s.
    """
    __tracebackhide__ = True
    return settle(lambda: check_no_shortcut(model, folder, kinds, limit=limit, seed=seed), strict)


def assert_evidence_kept(
    old: object,
    new: object,
    photos: PhotosLike,
    share: float = SHARE,
    *,
    each_class: bool = True,
    method: str | None = None,
    strict: bool | None = None,
) -> Verdict:
    """Fails where surely less than `share` of the old model's evidence is where it was; see `check_evidence_kept`.

    `strict` and errors are those of `assert_accuracy`, all else is `check_evidence_kept`'s.
    """
    __tracebackhide__ = True
    return settle(lambda: check_evidence_kept(old, new, photos, share, each_class=each_class, method=method), strict)


def assert_exact(model: object, photos: PhotosLike | None = None) -> Verdict:
    """Fails where mean(map) + bias is not the logit of every class; see `check_exact`."""
    __tracebackhide__ = True
    return settle(lambda: check_exact(model, photos))


def settle(check: Callable[[], Verdict], is_strict: bool | None = None) -> Verdict:
    """The verdict, where it is none to fail at; it is told of in the session, and drawn where it fails.

    Raises:
        BrokenGuardError: it fails.
        UserError: the check's own; of where in whycam it arose, who reads a test's output has no use.
    """
    __tracebackhide__ = True
    try:
        verdict = check()
    except UserError as error:
        raise error.with_traceback(None) from None
    session = find_session()
    fails = verdict.fails(is_strict=session.is_strict if is_strict is None else is_strict)
    told = _record(session, verdict, fails=fails)
    if fails:
        raise BrokenGuardError(verdict, told)
    if verdict.state is State.INCONCLUSIVE and not session.is_told:
        warnings.warn(f"{verdict.guard}: {verdict.told}", InconclusiveWarning, stacklevel=3)
    return verdict


def _record(session: Session, verdict: Verdict, *, fails: bool) -> str:
    """The verdict in words, told to the session, with pictures where it fails."""
    # pytest names the test that runs, and its phase.
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
    record, told = {"test": test, "fails": fails, **verdict.to_json()}, verdict.describe()
    if fails and verdict.state is State.INCONCLUSIVE:
        told += "\nIt fails, as proof is asked for (strict)."
    if fails and session.find_folder is not None:
        root = session.find_folder()
        record = write_verdict(record, verdict, root / name_folder(test, session.count(test)))
        told += f"\npictures: {root / PAGE}"
    if session.is_told:
        # Plain numbers and words, which go from process to process.
        session.records.append(json.loads(to_json(record)))
    return told
