"""What whycam does when it is pushed: kills, damaged files, hostile models, full disks, other users, many requests.

`python benchmarks/soundness.py` repeats the campaign in under 20 minutes on 2 cores, prints its table, and ends with 1
where something did not hold; `--quick` is a part of it of two minutes at the most; `--save` writes results/soundness.md
and .json. What is done in a part, and what must hold, is said at the top of its file in campaign/. Linux only; as root
it fills a small disk of its own and lets another user in, otherwise it makes do with limits on file sizes.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# One thread each, before anything is imported: a process with threads can't be forked, and the cores are shared.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("MPLBACKEND", "agg")

from campaign import caches, disk, hostile, kills, load, names, pictures, users
from campaign.findings import KINDS, Part
from campaign.process import ready
from campaign.scene import make_scene
from common import RESULTS, save, write_table

_EXAMPLES = 6


def list_parts(args: argparse.Namespace, root: Path) -> dict[str, Callable[[], Part]]:
    """The parts by the names that --parts takes."""
    scene = make_scene(root / "scene")
    workers, is_quick = args.workers, args.quick
    some = {"seed": args.seed, "workers": workers}
    killed = ["train", "explain", "export safetensors"] if is_quick else []
    named = ["not UTF-8", "twins"] if is_quick else []
    asked = {"rounds": 1, "requests": 150, "large": 0} if is_quick else {"rounds": 3, "requests": 2000, "large": 24}
    size = {"photos": 2, "side_px": 4000} if is_quick else {"photos": 6, "side_px": 13_000}
    return {
        "kills": lambda: kills.kill(scene, root, share=0.15 if is_quick else 1, names=killed, **some),
        "pictures": lambda: pictures.push(scene, root, share=0.06 if is_quick else 1, **some),
        "names": lambda: names.push(scene, root, names=named, workers=workers),
        "models": lambda: hostile.push(scene, root, share=0.15 if is_quick else 1, **some),
        "caches": lambda: caches.push(scene, root, share=0.1 if is_quick else 1, **some),
        "disk": lambda: disk.fill(scene, root, is_quick=is_quick, workers=workers),
        "users": lambda: users.share(scene, root, is_quick=is_quick, workers=workers),
        "large": lambda: load.explain_large(scene, root, **size),
        "requests": lambda: load.ask(scene, root, **asked),
    }


def run_part(call: Callable[[], Part], *, is_full: bool) -> Part:
    """The part, timed; its faults are printed at once where all are wanted: what follows may take long."""
    start, used = time.perf_counter(), _count_cpu()
    part = call()
    part.seconds, part.cpu_s = time.perf_counter() - start, _count_cpu() - used
    print(f"{part.name}: {part.cases} cases, {len(part.faults)} faults, {part.seconds:.0f} s", flush=True)
    if is_full:
        print("\n".join(f"  {fault.kind}: {fault.case}: {fault.told}" for fault in part.faults), flush=True)
    return part


def _count_cpu() -> float:
    """Seconds of CPU that this process and its children have used."""
    found = os.times()
    return found.user + found.system + found.children_user + found.children_system


def write_lines(parts: Sequence[Part], words: str) -> list[str]:
    rows = [
        [part.name, part.cases, *(part.count(kind) for kind in KINDS), round(part.seconds), round(part.cpu_s)]
        for part in parts
    ]
    lines = [
        "# Sound when pushed",
        f"`{words}`: what was done to whycam, and in how many cases something did not hold. Wanted are zeros.",
        "",
        *write_table(["part", "cases", *KINDS, "seconds", "CPU seconds"], rows),
        "",
        *(f"- {part.name}: {part.told}" for part in parts if part.told),
    ]
    if faulty := [part for part in parts if part.faults]:
        lines += ["", "## The first of what did not hold"]
        for part in faulty:
            first = [next(f for f in part.faults if f.kind == kind) for kind in KINDS if part.count(kind)]
            shown = first + [fault for fault in part.faults if fault not in first][: max(0, _EXAMPLES - len(first))]
            lines += ["", f"### {part.name}", "", *(f"- **{f.kind}**: {f.case}: {f.told}" for f in shown)]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a part of everything, in two minutes at the most")
    parser.add_argument("--parts", default="", help="the parts to run, with commas [all]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--all", action="store_true", help="print every fault, not the first ones")
    parser.add_argument("--save", action="store_true", help="write the table too")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    ready()
    with tempfile.TemporaryDirectory(prefix="soundness-") as name:
        Path(name).chmod(0o755)
        calls = list_parts(args, Path(name))
        wanted = [word for word in args.parts.split(",") if word] or list(calls)
        parts = [run_part(calls[word], is_full=args.all) for word in wanted]
    lines = write_lines(parts, "python benchmarks/soundness.py" + (" --quick" if args.quick else ""))
    if args.save:
        content = [{**vars(part), "faults": [vars(fault) for fault in part.faults]} for part in parts]
        save("soundness", lines, {"parts": content}, args.out)
    else:
        print("\n".join(lines))
    sys.exit(any(part.faults for part in parts))


if __name__ == "__main__":
    main()
