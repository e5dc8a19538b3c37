"""`whycam explain --on ray` beside the same command without it: photos a second, memory, and what Ray costs a photo.

`python benchmarks/ray_explain.py` writes results/ray_explain.md and .json. The photos are the generated garden's, each
a file of its own: bytes behind the picture's end differ. What both need before the first photo (processes, the model)
is taken out by two numbers of photos: the slope is the cost of a photo.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow.parquet as pq
from common import RESULTS, save, write_table

from whycam.data.garden import FLOWERS, write_garden
from whycam.ray.table import to_parquet

SCENES = 10 * len(FLOWERS)


def make_photos(folder: Path, count: int) -> Path:
    """`count` files: the garden's photos again and again, none like another."""
    garden = folder / "garden"
    if not garden.exists():
        write_garden(garden, train_per_class=8, val_per_class=2)
    files = sorted(garden.rglob("*.jpg"))
    made = folder / f"photos{count}"
    made.mkdir()
    for i in range(count):
        (made / f"{i:07}.jpg").write_bytes(files[i % len(files)].read_bytes() + i.to_bytes(4))
    return made


@dataclass(frozen=True)
class Cost:
    """What a whole command took: wall seconds, seconds of all its processes on cores, and the most MB they held."""

    wall_s: float
    cores_s: float
    memory_mb: float


def list_tree(root: int) -> dict[int, float]:
    """A process and all that it started, with the seconds that each has had on cores."""
    children: dict[int, list[int]] = {}
    spent: dict[int, float] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(path.name))
        spent[int(path.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    tree, waiting = {}, [root]
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, [])
        if pid in spent:
            tree[pid] = spent[pid]
    return tree


def read_memory_mb(pids: Iterable[int]) -> float:
    """What they hold together; what several share counts once."""
    total = 0.0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
    return total


def run(words: Sequence[str], out: Path) -> Cost:
    shutil.rmtree(out, ignore_errors=True)
    # Ray's workers are nicer than other processes, and beside those of others that would be measured.
    env = {**os.environ, "RAY_worker_niceness": "0"}
    start = time.perf_counter()
    command = [sys.executable, "-m", "whycam", *words, "-o", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=env)
    # Of each process what it was seen with last: one that ends is seen half a second before.
    spent: dict[int, float] = {}
    memory = 0.0
    while process.poll() is None:
        tree = list_tree(process.pid)
        spent |= tree
        memory = max(memory, read_memory_mb(tree))
        time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"whycam {' '.join(words)} ended with {process.returncode}")
    return Cost(time.perf_counter() - start, sum(spent.values()), memory)


def count_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure_row(folder: Path) -> float:
    """Bytes a row of a file, of the scenes that differ: their copies would be packed into nothing."""
    table = pq.read_table(folder)
    return len(to_parquet(table.slice(0, SCENES))) / min(SCENES, len(table))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=5000)
    parser.add_argument("--model", default="imagenet")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    counts = [args.photos // 5, args.photos]
    load = os.getloadavg()[0]
    measured: dict[str, list[Cost]] = {"native": [], "ray": []}
    written, read = 0.0, 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(["explain", args.model, str(make_photos(folder, 1)), "--maps-only", "--engine", "onnx"], folder / "first")
        for count in counts:
            photos = make_photos(folder, count)
            words = ["explain", args.model, str(photos)]
            measured["native"].append(run([*words, "--maps-only"], folder / "native"))
            measured["ray"].append(run([*words, "--on", "ray"], folder / "ray"))
            read, written = count_bytes(photos) / count, measure_row(folder / "ray" / "explanations")
    slopes = {
        key: [1000 * (getattr(b, what) - getattr(a, what)) / (counts[1] - counts[0]) for what in ("wall_s", "cores_s")]
        for key, (a, b) in measured.items()
    }
    rows = [
        [key, count, cost.wall_s, cost.cores_s, cost.memory_mb]
        for key, costs in measured.items()
        for count, cost in zip(counts, costs, strict=True)
    ]
    lines = [
        "# Ray beside one process",
        f"`python benchmarks/ray_explain.py --photos {args.photos}`: whole cold commands, once each, on one machine.",
        f"Its load was {load:.1f} when they began ({os.cpu_count()} cores: above that others were at work, and figures",
        "are too high). The model's graph was in the cache.",
        "",
        *write_table(["command", "photos", "seconds", "seconds on cores", "peak memory, MB"], rows),
        "",
        *write_table(
            ["after start-up", "ms a photo", "ms on cores a photo", "photos a second"],
            [[key, *slope, 1000 / slope[0]] for key, slope in slopes.items()],
        ),
        "",
        f"Ray's overhead: {slopes['ray'][1] - slopes['native'][1]:.2f} ms on cores a photo. Read: {read:.0f} bytes a",
        f"photo; written by the run on Ray: {written:.0f} bytes a photo.",
    ]
    costs = {key: [asdict(cost) for cost in values] for key, values in measured.items()}
    content = {"counts": counts, "measured": costs, "ms_a_photo": slopes, "load": load}
    save("ray_explain", lines, {**content, "bytes_read": read, "bytes_written": written}, args.out)


if __name__ == "__main__":
    main()
