"""`whycam serve` as a process, and its calls as it describes them, for tests of several files."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

import whycam
from conftest import find_graph
from whycam.show.app.served import ServedModel


@contextmanager
def serving(served: ServedModel, folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`whycam serve` as a process and its address; it ends well at SIGTERM, if it has not ended by then."""
    graph = find_graph(served.classifier)
    # Its graph is there already: to make it takes long.
    places = {"PYTHONPATH": str(Path(whycam.__file__).parents[1]), "WHYCAM_CACHE": str(graph.path.parents[1])}
    command = [sys.executable, "-m", "whycam", "serve", str(folder), "--port", "0", *words]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env={**os.environ, **places}, **pipes) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert address, line
        try:
            yield process, address[0]
        finally:
            process.send_signal(signal.SIGTERM)
        said, complaints = process.communicate(timeout=60)
        assert (process.returncode, said) == (0, "Stopped.\n"), complaints
        assert "Traceback" not in complaints


def check_call(described: schemathesis.BaseSchema, path: str, mode: str) -> None:
    """Ten calls of a path, "positive" or "negative", are answered as the server describes itself."""
    (operation,) = described[path].values()

    @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    @given(case=operation.as_strategy(generation_mode=GenerationMode(mode)))
    def check(case: schemathesis.Case) -> None:
        case.call_and_validate(headers={"Host": "127.0.0.1"})

    check()
