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
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from common import RESULTS, save, write_table

from whycam.data.garden import write_garden


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


def read_memory_mb(root: int) -> float:
    """What a process and all that it started hold alone, together."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.name))
        except OSError:
            continue
    total, waiting = 0.0, [root]
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, [])
        try:
            lines = (Path("/proc") / str(pid) / "smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
        except OSError:
            continue
    return total


def run(words: Sequence[str], out: Path) -> tuple[float, float]:
    """Seconds of the whole command, and the most MB that it and its workers held."""
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    # Ray's workers are nicer than other processes, and beside those of others that would be measured.
    env = {**os.environ, "RAY_worker_niceness": "0"}
    command = [sys.executable, "-m", "whycam", *words, "-o", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=env)
    most, ended = [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(1):
            most[0] = max(most[0], read_memory_mb(process.pid))

    thread = threading.Thread(target=watch)
    thread.start()
    code = process.wait()
    seconds = time.perf_counter() - start
    ended.set()
    thread.join()
    if code:
        raise SystemExit(f"whycam {' '.join(words)} ended with {code}")
    return seconds, most[0]


def count_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=5000)
    parser.add_argument("--model", default="imagenet")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    counts = [args.photos // 5, args.photos]
    load = os.getloadavg()[0]
    measured: dict[str, list[tuple[float, float]]] = {"native": [], "ray": []}
    written, read = 0.0, 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(["explain", args.model, str(make_photos(folder, 1)), "--maps-only", "--engine", "onnx"], folder / "first")
        for count in counts:
            photos = make_photos(folder, count)
            words = ["explain", args.model, str(photos)]
            measured["native"].append(run([*words, "--maps-only"], folder / "native"))
            measured["ray"].append(run([*words, "--on", "ray"], folder / "ray"))
            read, written = count_bytes(photos) / count, count_bytes(folder / "ray" / "explanations") / count
    slopes = {key: (values[1][0] - values[0][0]) / (counts[1] - counts[0]) * 1000 for key, values in measured.items()}
    rows = [
        [key, count, seconds, memory]
        for key, values in measured.items()
        for count, (seconds, memory) in zip(counts, values, strict=True)
    ]
    lines = [
        "# Ray beside one process",
        f"`python benchmarks/ray_explain.py --photos {args.photos}`: whole cold commands, once each, on one machine.",
        f"Its load was {load:.1f} when they began ({os.cpu_count()} cores: above that others were at work, and figures",
        "are too high). The model's graph was in the cache.",
        "",
        *write_table(["command", "photos", "seconds", "peak memory, MB"], rows),
        "",
        *write_table(
            ["after start-up", "ms a photo", "photos a second"],
            [[key, slope, 1000 / slope] for key, slope in slopes.items()],
        ),
        "",
        f"Ray's overhead: {slopes['ray'] - slopes['native']:.2f} ms a photo. Read: {read:.0f} bytes a photo; written",
        f"by the run on Ray: {written:.0f} bytes a photo.",
    ]
    content = {"counts": counts, "measured": measured, "ms_a_photo": slopes, "load": load}
    save("ray_explain", lines, {**content, "bytes_read": read, "bytes_written": written}, args.out)


if __name__ == "__main__":
    main()
