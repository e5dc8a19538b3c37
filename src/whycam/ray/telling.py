"""What workers meet, told as on one machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from whycam.errors import UserError, as_clause, make_disk_error

# How often the same work may cost a worker its life before it is the work, or its size, and not the machine. Ray tries
# again ever more slowly, from 0.1 s on: ten times outlast the half minute until it knows that a machine is lost, four
# do not.
TRIES = 10
# How often in a row a worker may die before it is up.
STARTS = 2


@contextmanager
def told_as_here(ray: ModuleType, *, tries: int, root: str = "", kept: str = "") -> Iterator[None]:
    """What a worker met becomes an error as on one machine.

    Args:
        ray: see `import_ray`.
        tries: how often work is tried again.
        root: where workers write.
        kept: a sentence on what there is of work that has been done.

    Raises:
        UserError: what a worker says, a disk that is full, or workers that die again and again.
    """
    try:
        yield
    except ray.exceptions.RayError as error:
        for cause in _iter_causes(error):
            # Ray's own error is of the class that it wraps, too.
            if isinstance(cause, UserError) and not isinstance(cause, ray.exceptions.RayError):
                raise UserError(str(cause)) from None
            if root and isinstance(cause, OSError) and (told := make_disk_error(cause, Path(root))):
                raise told from None
        # Of a worker that did not come up there is no more than text.
        if found := re.search(r"^whycam\.errors\.UserError: (.+)$", str(error), re.MULTILINE):
            raise UserError(found[1]) from None
        if isinstance(error, find_deaths(ray)):
            raise make_death_error(tries + 1, error, kept) from error
        raise


def make_death_error(deaths: int, error: BaseException, kept: str = "") -> UserError:
    """What to do where the same work cost so many workers their lives; see `told_as_here`."""
    reason = next(line for line in [*str(error).splitlines(), type(error).__name__] if line.strip())
    return UserError(
        f"Workers died {deaths} times at the same work ({as_clause(reason)}). Most often their machine has too little "
        f"memory: let fewer work at once (--workers), or a smaller --batch-size through a GPU. {kept}".strip()
    )


def find_deaths(ray: ModuleType) -> tuple[type[Exception], ...]:
    """The errors that say that a worker, or its machine, was lost with the work that it had in hand."""
    lost = ray.exceptions
    return lost.RayActorError, lost.WorkerCrashedError, lost.OutOfMemoryError


def _iter_causes(error: BaseException) -> Iterator[BaseException]:
    waiting: list[BaseException] = [error]
    seen = set()
    while waiting:
        one = waiting.pop()
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            more = (getattr(one, "cause", None), one.__cause__, one.__context__)
            waiting += [cause for cause in more if isinstance(cause, BaseException)]
