"""What the benchmarks share: alternating measurements, the machine, and results as Markdown and JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("whycam", "torch", "timm", "onnxruntime", "grad-cam", "torchcam", "numpy", "pillow")
RESULTS = Path(__file__).parent / "results"


def alternate(calls: Mapping[str, Callable[[], object]], pairs: int, rest_s: float = 0) -> dict[str, list[float]]:
    """Seconds of each call, one after the other in every round, in reversed order every second time.

    Before each there is a rest: the idle threads of one runtime spin for a while, at the cost of the next one's.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for pair in range(pairs):
        for name in reversed(calls) if pair % 2 else calls:
            time.sleep(rest_s)
            start = time.perf_counter()
            calls[name]()
            times[name].append(time.perf_counter() - start)
    return times


def ratio(times: Mapping[str, Sequence[float]], above: str, below: str) -> float:
    """The median of the ratios within a round."""
    return statistics.median(a / b for a, b in zip(times[above], times[below], strict=True))


def describe_machine() -> dict[str, str]:
    cpu = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    named = [line.split(": ")[1] for line in cpu.splitlines() if line.startswith("model name")] or [platform.machine()]
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    torch = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name() if torch and torch.cuda.is_available() else "no GPU"
    return {
        "machine": f"{named[0]}, {os.cpu_count()} cores, {gpu}",
        "versions": ", ".join([f"Python {platform.python_version()}", *(f"{p} {v}" for p, v in found.items())]),
    }


def write_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return [*lines, *(f"| {' | '.join(map(show, row))} |" for row in rows)]


def show(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def save(name: str, lines: Sequence[str], content: Mapping[str, Any], out: Path) -> None:
    """Prints NAME.md and writes it beside NAME.json."""
    out.mkdir(parents=True, exist_ok=True)
    about = describe_machine()
    text = "\n".join([lines[0], "", *(f"- {key}: {value}" for key, value in about.items()), "", *lines[1:]]) + "\n"
    (out / f"{name}.md").write_text(text)
    (out / f"{name}.json").write_text(json.dumps({**about, **content}, indent=1) + "\n")
    print(text)
