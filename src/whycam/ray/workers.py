"""Workers: actors of a cluster that hold what was made on them once, and answer calls; results come in order.

What a worker that dies had in hand goes to another one. `whycam evaluate` and `whycam audit` ask them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from whycam.config import ClusterOptions
from whycam.ray.cluster import Pool, Watch, check_workers, choose_pool, connect, import_ray
from whycam.ray.telling import STARTS, TRIES, find_deaths, make_death_error, told_as_here

# Made on a worker, once: what answers its calls.
Make = Callable[[], Callable[..., Any]]
# A call that is done waits for those before it; so many a worker are under way or wait at the most.
_AHEAD = 3
# Ctrl-C is heard between two looks.
_LOOK_S = 1.0


class Worker:
    """One of them, on its machine."""

    def open(self, make: Make) -> None:
        """Makes what answers."""
        self._run = make()

    def run(self, call: tuple[Any, ...]) -> Any:
        """The answer."""
        return self._run(*call)


@dataclass(eq=False)
class _Call:
    """A call, and how many workers died of it."""

    number: int
    words: tuple[Any, ...]
    deaths: int = 0


@dataclass(eq=False)
class _Slot:
    """The place of one worker, with what it has in hand; None while it opens."""

    worker: Any = None
    call: _Call | None = None
    deaths: int = 0


@dataclass(eq=False)
class _Round:
    """The calls of one `map`: those that are open, those of them that nobody has in hand, and answers by number."""

    open: set[_Call] = field(default_factory=set)
    waiting: deque[_Call] = field(default_factory=deque)
    answers: dict[int, Any] = field(default_factory=dict)


class Workers:
    """See the module; `hire` makes them."""

    def __init__(self, ray: ModuleType, pool: Pool, make: Make, most: int) -> None:
        """Starts them; each opens as its machine has room for it.

        Args:
            ray: see `import_ray`.
            pool: how many, and of what.
            make: what each makes once: a function that answers calls.
            most: so many are of use.
        """
        self._ray, self._make = ray, make
        self._kind = ray.remote(num_cpus=pool.cpus, num_gpus=pool.gpus or None, max_restarts=0, max_task_retries=0)(
            Worker
        )
        self._busy: dict[Any, _Slot] = {}
        self._idle: deque[_Slot] = deque()
        for _ in range(max(pool.least, min(pool.most, most))):
            self._start(_Slot())

    def __call__(self, *words: Any) -> Any:
        """The answer to one call."""
        return next(self.map([words]))

    def map(self, calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """The answers to calls, in order; calls are taken as workers come free. One `map` at a time.

        Raises:
            UserError: what a worker says, or workers that die again and again.
        """
        now, following = _Round(), 0
        source = (_Call(number, words) for number, words in enumerate(calls))
        with told_as_here(self._ray, tries=TRIES), Watch(self._ray, "batch", "Ctrl-C ends it") as watch:
            while self._hand_out(source, now) or now.open or now.answers:
                for call, answer in self._collect(now):
                    watch.beat()
                    now.answers[call.number] = answer
                while following in now.answers:
                    yield now.answers.pop(following)
                    following += 1

    def _hand_out(self, source: Iterator[_Call], now: _Round) -> bool:
        """Gives calls to those who are idle, what others died of first; whether there may be more."""
        while self._idle:
            if not now.waiting:
                if len(now.open) + len(now.answers) >= _AHEAD * (len(self._idle) + len(self._busy)):
                    return True
                if (call := next(source, None)) is None:
                    return False
                now.open.add(call)
                now.waiting.append(call)
            slot = self._idle.popleft()
            slot.call = now.waiting.popleft()
            self._busy[slot.worker.run.remote(slot.call.words)] = slot
        return True

    def _start(self, slot: _Slot) -> None:
        slot.worker, slot.call = self._kind.remote(), None
        self._busy[slot.worker.open.remote(self._make)] = slot

    def _collect(self, now: _Round) -> Iterator[tuple[_Call, Any]]:
        """What is done by now; one that died is replaced, and its call waits for another one."""
        done, _ = self._ray.wait(list(self._busy), num_returns=1, timeout=_LOOK_S) if self._busy else ([], [])
        for ref in done:
            slot = self._busy.pop(ref)
            try:
                answer = self._ray.get(ref)
            except (*find_deaths(self._ray), self._ray.exceptions.ObjectLostError) as error:
                self._replace(slot, now, error)
                continue
            slot.deaths = 0
            self._idle.append(slot)
            if slot.call in now.open:
                now.open.remove(slot.call)
                yield slot.call, answer

    def _replace(self, slot: _Slot, now: _Round, error: Exception) -> None:
        call = slot.call
        if call is None:
            slot.deaths += 1
            if slot.deaths >= STARTS:
                raise make_death_error(slot.deaths, error) from error
        elif call in now.open:
            call.deaths += 1
            if call.deaths > TRIES:
                raise make_death_error(call.deaths, error) from error
            now.waiting.append(call)
        self._start(slot)

    def dismiss(self) -> None:
        """Ends all of them."""
        for slot in (*self._busy.values(), *self._idle):
            self._ray.kill(slot.worker)


@contextmanager
def hire(options: ClusterOptions, make: Callable[[ModuleType, Pool], Make], most: int) -> Iterator[Workers]:
    """Workers of the cluster that the options name, for the block.

    Args:
        options: which cluster, how many workers.
        make: (Ray, the pool) -> what each worker makes, once.
        most: so many are of use.

    Raises:
        UserError: a cluster that does not answer or has no room, or machines with another version.
    """
    ray = import_ray()
    with connect(ray, options.address):
        pool = choose_pool(ray, options)
        check_workers(ray)
        workers = Workers(ray, pool, make(ray, pool), most)
        try:
            yield workers
        finally:
            workers.dismiss()
