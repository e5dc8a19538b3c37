"""The graph that objects are found by: the installed network with what a walk needs, made by torch and kept."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from whycam.errors import UserError
from whycam.intake.door import open_classifier
from whycam.maps.objects import GRID, KIN, OUTPUTS, TOP, Finder
from whycam.maps.refine import catch_inner, scale
from whycam.model.gap import GapClassifier, probe_images
from whycam.model.onnx.export import open_or_export

# Weight of the features' strength beside the class map, as in `maps/refine.py`.
_ENERGY = 0.5


class ObjectNet(nn.Module):
    """Normalised images (N, 3, H, W) -> logits (N, K), maps (N, K, h, w), heat (N, g, g), guide (N, C, g, g).

    The heat is the map of the best `TOP` classes, each by its probability among them, less the mean of all classes'
    maps, with the features' strength mixed in. The guide is the inner features of stride 8 and 16 as unit vectors, one
    below the other.
    """

    def __init__(self, model: GapClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        with catch_inner(self.model) as inner:
            features = self.model.features(images)
        logits, maps = self.model.classify(features), self.model.compute_maps(features)
        best = logits.topk(TOP, dim=1)
        weight = self.model.classifier.weight[best.indices] - self.model.classifier.weight.mean(0)
        weight = (weight * best.values.softmax(1)[..., None]).sum(1, keepdim=True)
        cam = (weight @ features.flatten(2)).unflatten(2, features.shape[2:])
        heat = scale(_resize(cam)) + _ENERGY * scale(_resize(features.norm(dim=1, keepdim=True)))
        return logits, maps, scale(heat)[:, 0], torch.cat([_point(_resize(part)) for part in inner], dim=1)


def _resize(maps: Tensor) -> Tensor:
    return functional.interpolate(maps, (GRID, GRID), mode="bicubic")


def _point(features: Tensor) -> Tensor:
    return functional.normalize(features - features.mean((2, 3), keepdim=True), dim=1)


@torch.no_grad()
def open_finder(path: Path, *, is_kept: bool) -> Finder:
    """An `ObjectNet` of the installed network, by a graph that is kept.

    Args:
        path: its place in the cache.
        is_kept: whether to make the graph; torch answers otherwise, and where it can't be made.
    """
    model = open_classifier("imagenet", device="cpu", engine="torch").exact_network
    net, preprocess, names = ObjectNet(model).eval(), model.preprocess, tuple(model.class_names)

    kin = find_kin(model.classifier.weight)

    @torch.no_grad()
    def run_torch(images: np.ndarray) -> list[np.ndarray]:
        return [values.numpy() for values in net(torch.from_numpy(images))]

    if is_kept:
        about = {
            "preprocess": preprocess.model_dump(mode="json"),
            "class_names": list(names),
            "kin": [list(k) for k in kin],
        }
        with suppress(UserError):
            session = open_or_export(path, net, probe_images(preprocess), list(OUTPUTS), about)
            return Finder(lambda images: session.run(None, {"images": images}), preprocess, names, kin)
    return Finder(run_torch, preprocess, names, kin)


def find_kin(weight: Tensor) -> tuple[tuple[int, ...], ...]:
    """For each class (K, C) the other ones that look like it."""
    directions = functional.normalize(weight - weight.mean(0), dim=1)
    is_kin = (directions @ directions.T >= KIN).fill_diagonal_(fill_value=False)
    return tuple(tuple(row.nonzero().flatten().tolist()) for row in is_kin)
