"""Any classifier comes in: what whycam makes of some hundred architectures, a row a model, and whether it is true.

`python benchmarks/intake.py --minutes 30` goes on where the last run ended (intake.jsonl, a row a line) and writes
results/intake.md; `--costs` measures what exact maps of ONNX files cost, and `--report` writes the tables alone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import RESULTS
from intake_cases import SIDES, Case, SkippedError, count_millions, export, list_cases, start_at
from intake_checks import Row, ask_file, ask_module, find_head, measure
from intake_costs import measure_costs
from intake_report import write_report

KINDS = ("timm", "torchvision", "Hugging Face", "Keras")
LIMIT_S = 75.0


def run_case(case: Case) -> Iterator[Row]:
    """The rows of a model: of itself, and of its files."""
    start = time.perf_counter()
    try:
        model, side = case.build()
    except SkippedError as reason:
        yield {"kind": case.kind, "name": case.name, "answer": "skipped", "reason": str(reason)}
        return
    with tempfile.TemporaryDirectory() as folder:
        forms = (
            _list_keras(model, side, Path(folder))
            if case.kind == "Keras"
            else _list_torch(case, model, side, Path(folder))
        )
        for row in forms:
            yield row | {"name": case.name, "side": side, "seconds": time.perf_counter() - start}
            start = time.perf_counter()


def _list_torch(case: Case, net: torch.nn.Module, side: int, folder: Path) -> Iterator[Row]:
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    about = {"head": find_head(net, images), "millions": count_millions(net.parameters())}
    thing: object = net
    ask = ask_module(net)
    if case.kind == "Hugging Face":
        net.save_pretrained(folder / "model")
        thing = folder / "model"
    yield {"kind": case.kind} | about | measure(thing, side, ask, with_gradients=True)
    if not case.has_onnx:
        return
    path = folder / "net.onnx"
    try:
        export(net, side, path)
    except Exception as error:  # noqa: BLE001 - an exporter raises anything
        yield {"kind": "ONNX", "answer": "skipped", "reason": f"torch does not export it: {type(error).__name__}"}
        return
    # The file's own logits: in a net of random weights an exporter's folding may move them.
    yield {"kind": "ONNX"} | about | measure(path, side, ask_file(path), with_gradients=False, takes_size=False)


def _list_keras(model: Any, side: int, folder: Path) -> Iterator[Row]:
    import intake_keras  # noqa: PLC0415 - Keras is slow, and few runs ask for it

    noise = torch.randn(2, side, side, 3, generator=torch.Generator().manual_seed(1)).numpy()
    about = {"head": intake_keras.find_head(model, noise), "millions": model.count_params() / 1e6}

    def ask(images: Any) -> Any:
        return intake_keras.read_logits(model, images.transpose(0, 2, 3, 1))

    for ending in (".keras", ".h5"):
        path = folder / f"model{ending}"
        model.save(path)
        yield (
            {"kind": f"Keras {ending}"}
            | about
            | measure(path, side, ask, with_gradients=ending == ".keras", takes_size=False)
        )


def run_apart(case: Case, limit_s: float) -> list[Row]:
    """The rows, from a process of its own, which may hang or die."""
    context = multiprocessing.get_context("fork")
    mine, its = context.Pipe(duplex=False)
    process = context.Process(target=_send_rows, args=(case, its))
    process.start()
    its.close()
    rows, end = [], time.monotonic() + limit_s
    why = f"too slow for this run: over {limit_s:.0f} s"
    try:
        while mine.poll(max(0.0, end - time.monotonic())):
            rows.append(mine.recv())
        process.terminate()
    except EOFError:
        process.join()
        if process.exitcode == 0:
            return rows
        why = f"its process ended with code {process.exitcode}"
    process.join()
    is_dead = "code" in why
    failed = {"kind": case.kind, "name": case.name, "reason": why, "answer": "traceback" if is_dead else "skipped"}
    if rows:
        failed["kind"] = f"{case.kind}, a file of it"
    return [*rows, failed | ({"failure": why} if is_dead else {})]


def _send_rows(case: Case, pipe: Any) -> None:
    warnings.simplefilter("ignore")
    try:
        for row in run_case(case):
            pipe.send(row)
    except Exception as error:  # noqa: BLE001 - not whycam's: what is measured is caught where it is asked
        why = f"the benchmark can't build it: {type(error).__name__}: {str(error)[:120]}"
        pipe.send({"kind": case.kind, "name": case.name, "answer": "skipped", "reason": why})


def run(cases: list[Case], path: Path, minutes: float, again: Callable[[Row], bool]) -> None:
    """Goes through what no row is there of, until the time is up; `again` names rows that are measured anew."""
    rows = read_rows(path)
    redo = {(row["case"], row["name"]) for row in rows if again(row)}
    rows = [row for row in rows if (row["case"], row["name"]) not in redo]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = {(row["case"], row["name"]) for row in rows}
    end = time.monotonic() + 60 * minutes
    for case in cases:
        if (case.kind, case.name) in done:
            continue
        if time.monotonic() > end:
            print("The time is up.", flush=True)
            return
        for row in run_apart(case, LIMIT_S):
            with path.open("a") as file:
                file.write(json.dumps({"case": case.kind} | row) + "\n")
            told = row.get("failure") or (row["reason"] if row["answer"] != "exact" else "")
            print(f"{row['kind']:14} {row['name']:38} {row['answer']:10} {told[:150]}", flush=True)


def read_rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--timm", type=int, default=400, help="how many of timm's names")
    parser.add_argument("--only", default="", help="a part of a name")
    parser.add_argument("--again", default="", help="rows of this answer once more; also failure, wrong, unclear")
    parser.add_argument("--side", type=int, default=SIDES[0], help="the first side in pixels that is tried")
    parser.add_argument("--rows", type=Path, default=RESULTS / "intake.jsonl")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--no-onnx", action="store_true", help="export nothing")
    parser.add_argument("--costs", action="store_true")
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    known = args.out / "intake.json"
    costs = json.loads(known.read_text())["costs"] if known.exists() else []
    if args.costs:
        with tempfile.TemporaryDirectory() as folder:
            costs = measure_costs(Path(folder))
    elif not args.report:
        from intake_report import is_unclear, is_wrong  # noqa: PLC0415 - beside its use

        def again(row: Row) -> bool:
            if args.only and args.only in row["name"]:
                return True
            named = {"failure": bool(row.get("failure")), "wrong": is_wrong(row), "unclear": is_unclear(row)}
            return bool(args.again) and named.get(args.again, row["answer"] == args.again)

        start_at(args.side)
        cases = [case for case in list_cases(args.kinds.split(","), args.timm) if args.only in case.name]
        if args.no_onnx:
            cases = [replace(case, has_onnx=False) for case in cases]
        run(cases, args.rows, args.minutes, again)
    write_report(read_rows(args.rows), costs, args.out)


if __name__ == "__main__":
    main()
