"""Pairs of tiny models that differ, and name more than one class, for the tests of comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

import whycam
from conftest import SHAPES
from whycam.data.images import load_image
from whycam.metrics.pairs.comparison import Comparison
from whycam.model.backbone import make_backbone
from whycam.model.gap import GapClassifier, save_classifier
from whycam.model.input import normalise_on


@torch.no_grad()
def make_model(
    photos: Path, seed: int, *, side_px: int = 64, names: Sequence[str] = SHAPES, heads: int | None = None
) -> GapClassifier:
    """A random network whose scores are centred on the photos, so that each class is named now and then.

    `heads` seeds the last layer where it is to differ from another model's with the same backbone.
    """
    torch.manual_seed(seed)
    model = GapClassifier(make_backbone("test_resnet", is_random=True, image_size=side_px), names).eval()
    pixels = np.stack([model.preprocess.to_pixels(load_image(path)) for path in sorted(photos.rglob("*.jpg"))])
    pooled = model.features(normalise_on(torch.from_numpy(pixels), model.preprocess)).mean((2, 3))
    torch.manual_seed(seed if heads is None else heads)
    weight = torch.randn(len(names), pooled.shape[1]) / pooled.std(0).clamp(min=1e-6) / pooled.shape[1] ** 0.5
    model.classifier.weight.copy_(weight)
    model.classifier.bias.copy_(-weight @ pooled.mean(0))
    return model


def save_model(model: GapClassifier, folder: Path) -> Path:
    save_classifier(model, folder, 0.0)
    return folder


def compare(a: object, b: object, samples: object, **how: object) -> Comparison:
    return whycam.compare(a, b, samples, engine="torch", **how)  # type: ignore[arg-type]


@lru_cache
def load(model: Path) -> whycam.Model:
    return whycam.load(model, engine="torch")


@lru_cache(512)
def explain_all(model: Path, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A photo's logits (K,) and maps (K, h, w), as `explain` gives them."""
    why = load(model).explain(path, "all")
    return why.logits[0].numpy(), why.maps[0].numpy()
