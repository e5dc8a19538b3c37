"""The app under load on loopback: requests by many clients at once, their times, and the server's memory.

`python benchmarks/serve.py` writes results/serve.md and .json. WHYCAM_DATA/flowers/val has the photos; each request
sends one of them as it lies on the disk, and gets prediction, ten maps and boxes. Then come PNGs of --side-px a side,
each answered with an overlay of that size: does the server keep the memory that they took?
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import re
import signal
import subprocess
import sys
import time
from itertools import cycle, islice
from pathlib import Path

import httpx2
import numpy as np
from common import RESULTS, save, write_table
from PIL import Image

MB = 1024**2


def read_memory_mb(process: int, what: str = "VmRSS") -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(rf"{what}:\s+(\d+) kB", status)[1]) * 1024 / MB  # type: ignore[index]


async def send_all(address: str, photos: list[Path], count: int, at_once: int) -> tuple[list[float], int]:
    """Seconds of each request, and how many failed."""
    times: list[float] = []
    failures = 0
    waiting = islice(cycle(photos), count)
    data = {path: path.read_bytes() for path in photos}

    async def work(client: httpx2.AsyncClient) -> None:
        nonlocal failures
        for path in waiting:
            start = time.perf_counter()
            answer = await client.post(f"{address}/api/explain", files=[("files", (path.name, data[path]))])
            times.append(time.perf_counter() - start)
            results = answer.json().get("results") if answer.status_code == 200 else None
            failures += results is None or results[0]["entry"] is None

    async with httpx2.AsyncClient(timeout=60) as client:
        await asyncio.gather(*(work(client) for _ in range(at_once)))
    return times, failures


async def send_large(address: str, side_px: int, count: int, at_once: int) -> int:
    """How many of so many overlays of a photo of that size failed."""
    file = io.BytesIO()
    Image.new("RGB", (side_px, side_px), (90, 120, 40)).save(file, "PNG")
    failures = 0
    waiting = iter(range(count))

    async def work(client: httpx2.AsyncClient) -> None:
        nonlocal failures
        for _ in waiting:
            answer = await client.post(f"{address}/api/overlay", files={"file": ("large.png", file.getvalue())})
            failures += answer.status_code != 200

    async with httpx2.AsyncClient(timeout=None) as client:  # they wait for each other
        await asyncio.gather(*(work(client) for _ in range(at_once)))
    return failures


def measure_large(address: str, server: int, args: argparse.Namespace) -> dict[str, float]:
    """The server's memory before and after large photos; ordinary requests have been before."""
    before, start = read_memory_mb(server), time.perf_counter()
    failures = asyncio.run(send_large(address, args.side_px, args.large, args.large_at_once))
    after = read_memory_mb(server)
    return {
        "requests": args.large,
        "failures": failures,
        "seconds": time.perf_counter() - start,
        "memory_before_mb": before,
        "memory_peak_mb": read_memory_mb(server, "VmHWM"),
        "memory_after_mb": after,
        "ratio": after / before,
    }


def measure(address: str, server: int, photos: list[Path], args: argparse.Namespace) -> list[dict[str, float]]:
    asyncio.run(send_all(address, photos, args.requests // 5, args.at_once))
    rounds = []
    for _ in range(args.rounds):
        before, start = read_memory_mb(server), time.perf_counter()
        times, failures = asyncio.run(send_all(address, photos, args.requests, args.at_once))
        rounds.append(
            {
                "requests": len(times),
                "failures": failures,
                "requests_a_second": len(times) / (time.perf_counter() - start),
                "p50_ms": 1000 * float(np.percentile(times, 50)),
                "p99_ms": 1000 * float(np.percentile(times, 99)),
                "memory_before_mb": before,
                "memory_after_mb": read_memory_mb(server),
            }
        )
    return rounds


def describe_large(large: dict[str, float], args: argparse.Namespace) -> list[str]:
    head = ["overlays", "failures", "seconds", "memory before, MB", "at the most", "after", "after / before"]
    return [
        "",
        f"Then {args.large} overlays of a PNG of {args.side_px} px a side, {args.large_at_once} at a time:",
        "",
        *write_table(head, [list(large.values())]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="imagenet")
    parser.add_argument("--photos", type=Path, default=Path(os.environ.get("WHYCAM_DATA", ".")) / "flowers" / "val")
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", type=int, default=300, help="overlays of large photos")
    parser.add_argument("--large-at-once", type=int, default=32)
    parser.add_argument("--side-px", type=int, default=7000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    photos = sorted(args.photos.rglob("*.jpg"))
    load = os.getloadavg()[0]
    words = [sys.executable, "-m", "whycam", "serve", args.model, "--port", "0", "--rate", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = re.search(r"http://\S+", process.stdout.readline())
        assert address is not None
        rounds = measure(address[0], process.pid, photos, args)
        large = measure_large(address[0], process.pid, args)
        process.send_signal(signal.SIGTERM)
        code = process.wait(30)
    head = ["requests", "failures", "a second", "p50, ms", "p99, ms", "memory before, MB", "after, MB"]
    lines = [
        "# The app under load",
        f"`python benchmarks/serve.py`: {args.requests} requests, {args.at_once} at a time, from the same machine,",
        f"{args.rounds} rounds after {args.requests // 5} requests to warm up; {args.model}, {len(photos)} photos. "
        f"Client and server share the cores, with others where the load average before ({load:.1f}) is not near 0. "
        f"The server stopped at SIGTERM with exit code {code}.",
        "",
        *write_table(head, [list(found.values()) for found in rounds]),
    ]
    lines += describe_large(large, args)
    save("serve", lines, {"rounds": rounds, "large": large, "exit_code": code, "load_average_before": load}, args.out)


if __name__ == "__main__":
    main()
