"""Time of insertion + deletion and of ROAD against torchcam, a plain loop and pytorch-grad-cam, for the same numbers.

`python benchmarks/metrics.py` writes metrics.md and metrics.json. WHYCAM_DATA names photos; without it installed ones.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import describe_machine
from methods import find_photos, make_inputs
from pytorch_grad_cam.metrics.road import ROADCombined
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
from torch import Tensor
from torchcam.methods import CAM
from torchcam.metrics import DeletionInsertionMetric

import whycam
from whycam.metrics.case import Case, Photos, Score
from whycam.metrics.faithfulness import STEPS, count_steps, deletion_auc, insertion_auc, road_combined
from whycam.metrics.measurer import make_scores
from whycam.model.classifier import Classifier

AREAS, ROAD = "insertion + deletion", "ROAD"
EXPECTED = {(AREAS, "torchcam"): 3, (AREAS, "plain loop"): 5, (ROAD, "grad-cam"): 10}
NOTES = f"""
Medians of the ratios within a round, in which ours and the others run one after the other on one photo, in reversed
order every second time. Maps: plain CAM of the predicted class, resized to the photo before the clock starts, except
torchcam's, which makes its own inside (a forward pass and a resize: about 1 of {2 * STEPS}). Insertion and deletion:
{STEPS} steps, the baseline 0 of the normalised input; the plain loop scores one image at a time, as a first version
would. ROAD: percentiles 10 to 90, most and least relevant first. The network is EfficientNet-Lite0 at 224 px; ours runs
it in ONNX Runtime (`whycam evaluate`'s own choice on a CPU), `ours, torch` in PyTorch as the others do.
"""


def make_case(image: Tensor, heat: Tensor, target: int, asked: Classifier) -> Case:
    """Nothing is kept from one call to the next: a case starts empty."""
    score = Score(make_scores(asked), torch.tensor([target]), asked.chunk)
    photos = Photos(image[None], score, [None], (), lambda *_: {}, torch.nn.Identity(), torch.full((3,), -1.0))
    return Case(photos, heat)


def measure_areas(case: Case) -> tuple[float, float]:
    return float(insertion_auc(case, "mean")[0]), float(deletion_auc(case, "mean")[0])


@torch.no_grad()
def loop_areas(network: torch.nn.Module, image: Tensor, heat: Tensor, target: int) -> tuple[float, float]:
    order, areas = heat.flatten().argsort(descending=True, stable=True), []
    for first, second in ((torch.zeros_like(image), image), (image, torch.zeros_like(image))):
        curve = []
        for count in count_steps(order.numel()).tolist():
            changed = first.clone().flatten(1)
            changed[:, order[:count]] = second.flatten(1)[:, order[:count]]
            curve.append(network(changed.view(1, *image.shape)).softmax(1)[0, target])
        areas.append(float(torch.trapezoid(torch.stack(curve), dx=1 / STEPS)))
    return areas[0], areas[1]


def torchcam_areas(network: torch.nn.Module, extractor: CAM, image: Tensor, target: int) -> tuple[float, float]:
    metric = DeletionInsertionMetric(extractor, lambda out: out.softmax(-1), steps=STEPS)
    metric.update(image[None], target)
    found = metric.summary()
    return found["insertion_auc"], found["deletion_auc"]


def time_round(
    runs: dict[str, Callable[[], object]], *, is_reversed: bool
) -> tuple[dict[str, float], dict[str, object]]:
    seconds, values = {}, {}
    for name in sorted(runs, reverse=is_reversed):
        start = time.perf_counter()
        values[name] = runs[name]()
        seconds[name] = time.perf_counter() - start
    return seconds, values


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--road-rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = whycam.load("imagenet", device="cpu")
    network = model.network
    images = make_inputs(find_photos(None, max(args.rounds, args.road_rounds)), model.preprocess)
    why = model.explain(images)
    heats = torch.nn.functional.interpolate(why.maps[:, None], images.shape[2:], mode="bilinear")[:, 0]
    fast, plain = (model.classifier.having(engine=name) for name in ("onnx", "torch"))
    rows: list[dict[str, object]] = []
    with CAM(network, target_layer="neck", fc_layer="classifier") as extractor:
        for k in range(-1, args.rounds):  # the first warms up
            image, heat, target = images[k], heats[k : k + 1] if k >= 0 else heats[-1:], int(why.target[k])
            runs = {
                "ours": lambda i=image, h=heat, t=target: measure_areas(make_case(i, h, t, fast)),
                "ours, torch": lambda i=image, h=heat, t=target: measure_areas(make_case(i, h, t, plain)),
                "plain loop": lambda i=image, h=heat, t=target: loop_areas(network, i, h[0], t),
                "torchcam": lambda i=image, t=target: torchcam_areas(network, extractor, i, t),
            }
            seconds, values = time_round(runs, is_reversed=bool(k % 2))
            if k >= 0:
                rows.append({"metric": AREAS, "seconds": seconds, "values": values})
    for k in range(args.road_rounds):
        image, heat, target = images[k], heats[k : k + 1], int(why.target[k])
        scaled = (heat - heat.min()) / (heat.max() - heat.min())
        runs = {
            "ours": lambda i=image, h=heat, t=target: float(road_combined(make_case(i, h, t, fast))[0]),
            "grad-cam": lambda i=image, h=scaled, t=target: float(
                ROADCombined()(i[None], h.numpy(), [ClassifierOutputSoftmaxTarget(t)], network)[0]
            ),
        }
        seconds, values = time_round(runs, is_reversed=bool(k % 2))
        rows.append({"metric": ROAD, "seconds": seconds, "values": values})
    write(rows, args)


def write(rows: list[dict[str, object]], args: argparse.Namespace) -> None:
    lines = ["# Speed of the metrics", NOTES, "| metric | against | ours, s | theirs, s | ratio | expected |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for metric in (AREAS, ROAD):
        of_metric = [row["seconds"] for row in rows if row["metric"] == metric]
        for other in sorted(set(of_metric[0]) - {"ours"}):
            ratio = statistics.median(times[other] / times["ours"] for times in of_metric)
            ours, theirs = (statistics.median(times[name] for times in of_metric) for name in ("ours", other))
            wanted = f"at least {EXPECTED[metric, other]}" if (metric, other) in EXPECTED else ""
            lines.append(f"| {metric} | {other} | {ours:.2f} | {theirs:.2f} | {ratio:.1f} | {wanted} |")
    load = f"; load average at the end {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    about = describe_machine()
    lines.append(f"\n{about['machine']}, {args.threads} threads{load}; {about['versions']}.")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "metrics.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (args.out / "metrics.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
