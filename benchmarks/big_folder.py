"""How training grows with the photos: peak memory, disk and seconds of `whycam train` on copies of real photos.

    python benchmarks/big_folder.py PHOTOS --photos 1000 10000 --work DIR

PHOTOS is a class folder. Each copy has its own number behind the JPEG's end, which no decoder looks at, so that its
content is another; photos are copied one after the other, and removed after their training.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

from common import RESULTS, save, write_table

PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20


def copy_photos(source: Path, target: Path, total: int) -> None:
    """So many photos of `source`, each class the same number, none with the content of another."""
    classes = [sorted(folder.glob("*.jpg")) for folder in sorted(source.iterdir()) if folder.is_dir()]
    for number in range(total):
        photos = classes[number % len(classes)]
        photo = photos[number // len(classes) % len(photos)]
        folder = target / photo.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:07}.jpg").write_bytes(photo.read_bytes() + number.to_bytes(4, "big"))


def measure(command: list[str], env: dict[str, str]) -> dict[str, float]:
    """Runs a command: its seconds, and the peak of its memory in MB, with and without mapped files' pages."""
    start = time.perf_counter()
    process = subprocess.Popen(command, env=env)
    own = whole = 0.0
    for _ in count():
        if process.poll() is not None:
            break
        try:
            words = Path(f"/proc/{process.pid}/statm").read_text().split()
        except OSError:
            break
        whole = max(whole, int(words[1]) * PAGE_MB)
        own = max(own, (int(words[1]) - int(words[2])) * PAGE_MB)
        time.sleep(0.1)
    if process.wait():
        raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}.")
    return {"seconds": time.perf_counter() - start, "memory_mb": own, "with_files_mb": whole}


def count_mb(folder: Path) -> float:
    """MB of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def train(photos: Path, total: int, work: Path, flags: list[str]) -> dict[str, object]:
    """One training with nothing cached, and what it left on the disk."""
    shutil.rmtree(work, ignore_errors=True)
    copy_photos(photos, work / "photos", total)
    command = [sys.executable, "-m", "whycam", "train", str(work / "photos"), "-o", str(work / "run"), *flags]
    found = measure(command, {**os.environ, "WHYCAM_CACHE": str(work / "cache")})
    summary = json.loads((work / "run" / "summary.json").read_text())
    disk = {
        "features_mb": count_mb(work / "cache" / "features"),
        "disk_mb": count_mb(work / "cache") + count_mb(work / "run"),
    }
    shutil.rmtree(work)
    return {"photos": total, **found, **disk, "val_accuracy": summary["val_accuracy"], "times_s": summary["times_s"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "photos_from", type=Path, metavar="PHOTOS", help="a folder of JPEG photos, a sub-folder a class"
    )
    parser.add_argument("--photos", type=int, nargs="+", default=[1000, 10_000], help="how many, one training each")
    parser.add_argument("--work", type=Path, default=Path("big_folder"), help="where photos and runs lie meanwhile")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--flags", type=shlex.split, default=[], help="options of whycam train, in one word")
    args = parser.parse_args()
    rows = [train(args.photos_from, total, args.work, args.flags) for total in args.photos]
    head = {
        "photos": "photos",
        "seconds": "seconds",
        "memory_mb": "peak memory, MB",
        "with_files_mb": "with pages of mapped files, MB",
        "features_mb": "stored features, MB",
        "disk_mb": "cache and run, MB",
    }
    table = write_table(list(head.values()), [[f"{row[name]:,.0f}" for name in head] for row in rows])
    words = [
        "# Training on ever more photos",
        f"`{shlex.join(['whycam', 'train', 'FOLDER', '-o', 'RUN', *args.flags])}`, nothing cached.",
        "",
    ]
    save("big_folder", [*words, *table], {"rows": rows}, args.out)


if __name__ == "__main__":
    main()
