"""Each command beside the limit that the machine sets it: photos to be decoded, asked about, written.

`python benchmarks/limits.py` writes results/limits.md and .json. WHYCAM_DATA/flowers/val has the photos. A limit is the
least that the same photos take here whoever asks: decoding them to the network's pixels, the exported graph that gives
scores alone, both on all cores; and writing what the command leaves.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from common import RESULTS, save, write_table

from whycam.data.loader import stream_photos
from whycam.data.walk import find_images
from whycam.intake.door import open_classifier
from whycam.model.onnx.engine import OnnxEngine, open_session
from whycam.model.onnx.export import export_onnx
from whycam.model.onnx.parity import GraphOptions

BATCH = 8
# The command, and how many of the photos it is given.
COMMANDS = {
    "explain --maps-only": ("explain {model} {photos} -o {out} --maps-only", 350),
    "explain": ("explain {model} {photos} -o {out}", 350),
    "localize": ("localize {model} {photos} -o {out}", 350),
    "localize --refine": ("localize {model} {photos} -o {out} --refine", 32),
    "report": ("report {model} {photos} --no-audit -o {out}.html", 350),
    "evaluate, quick": ("evaluate {model} {photos} --target predicted -o {out}", 32),
}


def clock(work: Callable[[], object], rounds: int) -> float:
    """The median of the seconds of some rounds, after one that is not counted."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def make_bare(model: str, folder: Path) -> tuple[OnnxEngine, Callable[[np.ndarray], object]]:
    """The exported graph, and the same one when it gives scores and no maps."""
    whole, bare = folder / "whole.onnx", folder / "bare.onnx"
    network = open_classifier(model, device="cpu", engine="torch").exact_network
    export_onnx(network, whole, GraphOptions(), origin={}, records={})
    onnx.utils.extract_model(whole, bare, ["images"], ["logits"], check_model=False)
    session = open_session(bare)
    return OnnxEngine(whole), lambda images: session.run(None, {"images": images})


def write_files(sizes: list[int], folder: Path) -> None:
    """Files of those sizes, on the disk and not in its cache alone."""
    for number, size in enumerate(sizes):
        with (folder / f"{number}").open("wb") as file:
            file.write(b"\x5a" * size)
            file.flush()
    os.sync()


def run(words: str, files: list[Path], model: str, folder: Path) -> tuple[float, list[int]]:
    """Seconds of the whole cold process, and the sizes of what it left."""
    photos, out = folder / "photos", folder / "out"
    shutil.rmtree(photos, ignore_errors=True)
    photos.mkdir()
    for number, path in enumerate(files):
        shutil.copyfile(path, photos / f"{number:06}{path.suffix}")
    command = [sys.executable, "-m", "whycam", *words.format(model=model, photos=photos, out=out).split()]
    start = time.perf_counter()
    subprocess.run([*command, "--overwrite"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    written = [out.with_suffix(".html")] if out.with_suffix(".html").exists() else [p for p in out.rglob("*")]
    sizes = [path.stat().st_size for path in written if path.is_file()]
    shutil.rmtree(out, ignore_errors=True)
    out.with_suffix(".html").unlink(missing_ok=True)
    return seconds, sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="imagenet")
    parser.add_argument("--photos", type=Path, default=Path(os.environ.get("WHYCAM_DATA", ".")) / "flowers" / "val")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    files = find_images([args.photos])
    rows, content = [], {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        engine, ask_bare = make_bare(args.model, folder)
        preprocess = engine.metadata.preprocess
        pixels = np.stack([p.pixels for p in stream_photos(files[:BATCH], preprocess) if p.pixels is not None])
        decode = clock(lambda: list(stream_photos(files, preprocess)), args.rounds) / len(files)
        images = engine.to_images(pixels)
        ask = clock(lambda: [ask_bare(images) for _ in range(10)], args.rounds) / 10 / BATCH
        run(COMMANDS["explain --maps-only"][0], files[:250], args.model, folder)  # makes the graph, once
        for name, (words, most) in COMMANDS.items():
            given = files[:most]
            found = [run(words, given, args.model, folder) for _ in range(args.rounds)]
            seconds, sizes = statistics.median(one for one, _ in found), found[-1][1]
            (folder / "disk").mkdir(exist_ok=True)
            disk = clock(lambda sizes=sizes: write_files(sizes, folder / "disk"), args.rounds) / len(given)
            limit = decode + ask + disk
            own = seconds / len(given)
            rows.append([name, len(given), 1e3 * own, 1e3 * decode, 1e3 * ask, 1e3 * disk, own / limit])
            content[name] = {"seconds": [one for one, _ in found], "bytes": sum(sizes), "files": len(sizes)}
            print(*rows[-1], flush=True)
    head = ["command", "photos", "ms a photo", "decode", "bare inference", "disk", "over their sum"]
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "not known"
    lines = [
        "# Commands and the machine's limits",
        f"`python benchmarks/limits.py`: whole cold processes, start and all, medians of {args.rounds}.",
        "Milliseconds a photo. Decode and inference use all cores; inference is the exported graph that gives scores",
        f"alone, in batches of {BATCH}. What asks the network for many changed photos (evaluate) or for other views",
        f"(`--refine`) has no limit of this kind: its last column says how many passes' time it takes. Load {load}.",
        "",
        *write_table(head, rows),
    ]
    save("limits", lines, content, args.out)


if __name__ == "__main__":
    main()
