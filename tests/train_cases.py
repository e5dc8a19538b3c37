"""Short trainings of a tiny network, for the tests of what chooses their epoch and of what is measured in the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from whycam.config import make_train_options
from whycam.jobs.train import train


def run(folder: Path, out: Path, weights: Path, **words: Any) -> dict[str, Any]:
    usual = {"backbone": "test_resnet", "weights": weights, "image_size": 64, "epochs": 8, "lr": 0.02, "patience": 0}
    return train(folder, out, make_train_options(**{**usual, **words}))


def read(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


def same(a: Path, b: Path) -> bool:
    return all(torch.equal(values, read(b)[name]) for name, values in read(a).items())
