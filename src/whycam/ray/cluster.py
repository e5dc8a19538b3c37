"""The cluster: found or started, its room for workers, its versions, and a line where nothing happens for long."""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any, Self

from whycam import __version__
from whycam.config import ClusterOptions
from whycam.errors import UserError, as_clause, join_words
from whycam.ray.explainer import check_version
from whycam.runs import read_versions

log = logging.getLogger("whycam.ray")
# Until a cluster must have answered, until that is told, and until it is told that nothing was finished.
LIMIT_S, PATIENCE_S, STALL_S = 60, 10, 60
# Ray's own waiting for a cluster has no end that a signal can bring: a process of its own can be ended.
_CONNECT = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"
# Another version of these can change a last digit.
_NUMERIC = ("torch", "numpy", "pillow", "onnxruntime")
# CPUs of a worker, and of what decodes for it: with the writer they fill one core; or each about one. They differ, as
# Ray joins stages that ask for the same, and one process does both.
CPUS_OF_WRITER = 0.1
_SHARED, _APART = (0.6, 0.3), (1.0, 0.9)


@dataclass(frozen=True)
class Pool:
    """How many workers hold the model, and what each of them takes of its machine.

    Attributes:
        least, most: workers.
        cpus, gpus: of each worker.
        cpus_beside: of each process that decodes for them.
    """

    least: int
    most: int
    cpus: float
    gpus: float
    cpus_beside: float


def import_ray() -> ModuleType:
    """Ray, which sends nothing to anyone and says nothing of its own.

    Raises:
        UserError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Of a cluster that is started here: its workers do the work that this process would do.
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        ray = importlib.import_module("ray")
        importlib.import_module("ray.data")
    except ImportError:
        raise UserError("--on ray needs the package ray. Run: pip install 'whycam[ray]'") from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


@contextmanager
def connect(ray: ModuleType, address: str | None) -> Iterator[None]:
    """The block runs on that cluster, on the one that RAY_ADDRESS names, or on one that is started here for it.

    Raises:
        UserError: it does not answer in a minute, or refuses.
    """
    if ray.is_initialized():
        yield
        return
    found = address or os.environ.get("RAY_ADDRESS") or "local"
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    with _without_its_first_line():
        _start(ray, found, quiet)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _without_its_first_line() -> Iterator[None]:
    """What Ray's core says of its own log level goes nowhere: it says so because the level is set to be silent."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said, os.fdopen(kept, "w", encoding="utf-8", errors="backslashreplace") as screen:
        os.dup2(said.fileno(), 2)
        try:
            with redirect_stderr(screen):  # what this process itself says meanwhile
                yield
        finally:
            os.dup2(kept, 2)
            said.seek(0)
            for line in said:
                if b"RAY_BACKEND_LOG_LEVEL" not in line:
                    os.write(2, line)


def _start(ray: ModuleType, found: str, quiet: Mapping[str, Any]) -> None:
    if found == "local":
        slow = threading.Timer(PATIENCE_S, log.warning, ["Ray is slow to start here; is the machine busy?"])
        slow.start()
        # One core decodes, another one has the model; with a single core they take turns.
        ray.init(address="local", num_cpus=max(2, os.cpu_count() or 2), include_dashboard=False, **quiet)
        slow.cancel()
    else:
        _check_answers(found)
        ray.init(address=found, **quiet)


def _check_answers(address: str) -> None:
    process = subprocess.Popen(  # noqa: S603 - this Python, and a word that is an argument
        [sys.executable, "-c", _CONNECT, address], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        try:
            _, told = process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            log.warning("Waiting for the cluster at %s, %s s at the most", address, LIMIT_S)
            _, told = process.communicate(timeout=LIMIT_S - PATIENCE_S)
    except subprocess.TimeoutExpired:
        told = f"no answer in {LIMIT_S} s"
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        lines = [line for line in told.splitlines() if line.strip()] or ["no answer"]
        if any("InvalidAuthToken" in line for line in lines):
            raise UserError(
                f"The cluster at '{address}' takes no one without its token. Give this process the same one as its "
                "machines: the environment's RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH."
            )
        reason = lines[-1]
        raise UserError(
            f"The cluster at '{address}' can't be used: {as_clause(reason)}. Expected the HOST:PORT that ray start "
            "--head told (6379 by default), on a machine of that cluster, or ray://HOST:10001 from another one. "
            "See whether it is up: ray status --address HOST:PORT."
        )


def choose_pool(ray: ModuleType, options: ClusterOptions, *, shares_core: bool = False) -> Pool:
    """The workers that are asked for, where the cluster has room for the least of them.

    Args:
        ray: see `import_ray`.
        options: how many.
        shares_core: a worker without a GPU and what decodes for it take a core together, as decoding takes a fifth of
            the time; else a core of the cluster is left for what is done beside.

    Raises:
        UserError: it has not.
    """
    has = ray.cluster_resources()
    cpus, gpus, share = int(has.get("CPU", 0)), has.get("GPU", 0.0), options.gpus_per_worker
    shares_core = shares_core and not share
    room = cpus if shares_core else max(0, min(cpus - 1, int(gpus / share) if share else cpus - 1))
    least, _, most = (options.workers or f"1:{max(room, 1)}").partition(":")
    if int(most or least) < int(least):
        raise UserError(f"--workers is {options.workers}; expected MIN:MAX, the smaller number first.")
    if int(least) > room:
        beside = "" if shares_core else ", and one CPU decodes"
        raise UserError(
            f"The cluster has {cpus} CPUs and {gpus:g} GPUs, room for {room} workers (each takes a CPU and {share:g} "
            f"GPUs{beside}); --workers asks for {least} at least. Start more machines first, or lower "
            "--workers or --gpus-per-worker."
        )
    taken = _SHARED if shares_core else _APART
    return Pool(int(least), int(most or least), taken[0], share, taken[1])


def check_workers(ray: ModuleType) -> None:
    """Refuses machines that have another WhyCAM; warns of other versions of what can change a last digit.

    Raises:
        UserError: which one, or one that does not answer.
    """

    # A function within one is sent as it stands, and needs nothing of what is to be found out.
    def look(names: Sequence[str]) -> dict[str, str]:
        from importlib import metadata  # noqa: PLC0415 - on the machine that is asked

        found = {}
        for name in names:
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                found[name] = "none"
        try:
            from whycam import __version__  # noqa: PLC0415 - as above
        except ImportError:
            return {**found, "whycam": "none"}
        return {**found, "whycam": __version__}

    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    nodes = [node for node in ray.nodes() if node["Alive"]]
    task = ray.remote(num_cpus=0)(look)
    places = [strategy(node["NodeID"], soft=False) for node in nodes]
    asked = [task.options(scheduling_strategy=place).remote(_NUMERIC) for place in places]
    try:
        answers = ray.get(asked, timeout=LIMIT_S)
    except ray.exceptions.RayError as error:
        raise UserError(
            f"Of the cluster's {len(nodes)} machines not every one answered in {LIMIT_S} s "
            f"({type(error).__name__}). See which are up: ray status; remove those that are not."
        ) from None
    here = read_versions()
    for node, found in zip(nodes, answers, strict=True):
        where = node["NodeManagerAddress"]
        try:
            check_version(__version__, found["whycam"])
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        if other := [f"{name} {found[name]}" for name in _NUMERIC if found[name] != here.get(name)]:
            log.warning("%s has %s, which this machine has not: last digits may differ", where, join_words(other))


class Watch:
    """Tells it where for a minute no piece of the work was finished, so that nobody waits without a word."""

    def __init__(self, ray: ModuleType, piece: str, hint: str) -> None:
        """Takes what a piece of the work is called, and a sentence on how to end it."""
        self._ray, self._piece, self._hint = ray, piece, hint
        self._beat, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def beat(self) -> None:
        """A piece is finished."""
        self._beat.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._beat.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.is_set():
            if self._beat.wait(STALL_S):
                self._beat.clear()
                continue
            free = self._ray.available_resources()
            nodes = sum(node["Alive"] for node in self._ray.nodes())
            log.warning(
                "No %s was finished for %s s; machines: %s, free CPUs: %g, free GPUs: %g. Workers that die are "
                "started again; ray status tells more. %s",
                self._piece,
                STALL_S,
                nodes,
                free.get("CPU", 0),
                free.get("GPU", 0),
                self._hint,
            )
