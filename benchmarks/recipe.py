"""The original recipe, a frozen VGG-16 with a conv + GAP head: features stored once, or made anew in every step.

`python benchmarks/recipe.py` writes results/recipe.md and .json. Weights are random: they don't change the time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from common import RESULTS, alternate, save, write_table
from torch import Tensor, nn

from whycam.model.backbone import make_backbone
from whycam.model.classifier import GapClassifier
from whycam.model.export import open_features

BATCH, EPOCHS, STEPS, PHOTOS, WANTED = 32, 100, 2, 2936, 10


def make_step(
    model: GapClassifier, run: Callable[[Tensor], Tensor], inputs: Tensor, labels: Tensor
) -> Callable[[], None]:
    """One step of the head: `run` makes features of the inputs."""
    parameters = [*model.neck.parameters(), *model.classifier.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)

    def step() -> None:
        with torch.no_grad():
            features = run(inputs)
        loss = nn.functional.cross_entropy(model.classify(model.neck(features)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.manual_seed(0)
    made = make_backbone("vgg16", is_random=True, image_size=160, map_stride=16)
    model = GapClassifier(made, ["a", "b", "c", "d", "e"], "conv").eval()
    model.backbone.requires_grad_(requires_grad=False)
    images, labels = torch.randn(BATCH, 3, 160, 160), torch.randint(0, 5, (BATCH,))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        run = open_features(Path(folder) / "features.onnx", model)
        stored = run(images).half()
    calls = {
        "step with the backbone": make_step(model, model.backbone_features, images, labels),
        "features once": lambda: run(images).half(),
        "step on stored features": make_step(model, lambda values: values.float(), stored, labels),
    }
    times = alternate(calls, args.pairs)
    rounds = list(zip(*times.values(), strict=True))
    whole = [EPOCHS * a / (b + EPOCHS * c) for a, b, c in rounds]
    batches = PHOTOS / BATCH
    few = [EPOCHS * STEPS * a / (min(batches, EPOCHS * STEPS) * b + EPOCHS * STEPS * c) for a, b, c in rounds]
    gain, small = statistics.median(whole), statistics.median(few)
    medians = {name: statistics.median(values) for name, values in times.items()}
    lines = [
        "# The original recipe",
        f"`python benchmarks/recipe.py`: VGG-16 at 160 px, batches of {BATCH}; medians of {args.pairs} rounds.",
        "",
        *write_table(["part", "seconds a batch"], list(medians.items())),
        "",
        "Of these a whole training follows: a notebook's is `epochs x batches x step with the backbone`, ours is "
        "`batches x features once + epochs x batches x step on stored features`.",
        "",
        *write_table(
            ["training", "notebook's over ours", "expected", "holds"],
            [
                [f"{EPOCHS} epochs over all photos", gain, f"at least {WANTED}", "yes" if gain >= WANTED else "no"],
                [f"{EPOCHS} epochs of {STEPS} batches, of {PHOTOS} photos", small, "-", "-"],
            ],
        ),
    ]
    save("recipe", lines, {"seconds": times}, args.out)


if __name__ == "__main__":
    main()
