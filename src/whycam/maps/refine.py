"""Refined maps: where the object of a class lies, finer than its class map, from the same network and weights.

Three steps, each a function below: class maps of several views at a finer stride; the strength of the features mixed
in; a random walk that spreads heat among places of like colour and like inner features. A refined map tells where, and
no longer how much: `mean(map) + bias = logit` holds for the class map alone. A further step is a field of `Recipe`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import skimage
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from whycam.data.preprocess import Preprocess
from whycam.errors import UserError
from whycam.model.backbone import create_backbone
from whycam.model.gap import GapClassifier

Mirror = Literal["no", "yes", "both"]


@dataclass(frozen=True)
class Recipe:
    """What a refined map is made of; `benchmarks/localization.py` measures each part.

    Attributes:
        scales: sides of the views, as shares of the network's own input.
        mirror: of each view whether it is seen in the mirror: no, yes (and not as it is), or both.
        map_stride: pixels that a cell of the views' maps spans, where the architecture can be dilated so far.
        energy: weight of the features' strength beside the class map, both in [0, 1].
        power: exponent of the mixture during the walk: under 1 lifts the weaker parts of the object.
        grid: cells a side of the walk; the result has as many.
        walk: chance that a walker goes on rather than takes the heat of where it is; 0: no walk.
        position: spread of a step, in sides of the photo.
        color: spread of a step's change of colour, in CIELAB units / 100.
        inner: spread of a step's change of the inner features, 1 - cosine; 0: they are left out.
    """

    scales: tuple[float, ...] = (1.0, 10 / 7)
    mirror: tuple[Mirror, ...] = ("no", "yes")
    map_stride: int = 16
    energy: float = 0.5
    power: float = 0.5
    grid: int = 28
    walk: float = 0.9
    position: float = 0.15
    color: float = 0.12
    inner: float = 0.3


RECIPE = Recipe()
# Pixels that a cell of the inner features spans: finer ones see texture only, coarser ones are the class map's own.
_INNER_STRIDES = (8, 16)


@dataclass(frozen=True)
class Look:
    """What the network sees in one view of N photos.

    Attributes:
        features: (N, C, h, w), what the classifier averages; of mirror images turned back.
        mirrored: the same of the mirror images, where they are seen, too; else None.
        inner: features (N, C', h', w') of inner layers.
    """

    features: Tensor
    mirrored: Tensor | None
    inner: tuple[Tensor, ...]


@dataclass(frozen=True)
class Refiner:
    """A classifier made ready for refined maps: `make_refiner` makes one.

    Attributes:
        network: the classifier, its last stages dilated where the architecture can be.
        views: the sizes that its photos are brought to, the network's own first.
    """

    network: GapClassifier
    views: tuple[Preprocess, ...]
    recipe: Recipe

    def __call__(self, photos: Sequence[Image.Image], targets: np.ndarray | Tensor) -> Tensor:
        """(N, T, grid, grid) float32 in [0, 1]: refined maps of RGB photos for their targets, (N, T) class indices."""
        weight = self.network.classifier.weight
        looks = [self.look(photos, *view) for view in zip(self.views, self.recipe.mirror, strict=False)]
        colors = read_colors(photos, self.views[0], self.recipe.grid).to(weight.device)
        return compose(looks, weight[torch.as_tensor(targets, device=weight.device)], colors, self.recipe)

    @torch.no_grad()
    def look(self, photos: Sequence[Image.Image], preprocess: Preprocess, mirror: Mirror = "no") -> Look:
        """One view of the photos."""
        pixels = np.stack([preprocess.to_pixels(photo) for photo in photos])
        images = torch.from_numpy(preprocess.normalise(pixels)).to(self.network.classifier.weight.device)
        with catch_inner(self.network) as inner:
            features = self.network.features(images.flip(-1) if mirror == "yes" else images)
        if mirror == "yes":
            return Look(features.flip(-1), None, tuple(part.flip(-1) for part in inner))
        mirrored = self.network.features(images.flip(-1)).flip(-1) if mirror == "both" else None
        return Look(features, mirrored, tuple(inner))


@torch.no_grad()
def compose(looks: Sequence[Look], weights: Tensor, colors: Tensor, recipe: Recipe) -> Tensor:
    """(N, T, grid, grid) float32 in [0, 1]: refined maps from views of photos.

    Args:
        looks: the views; the first one's inner features guide the walk.
        weights: (N, T, C) the classifier's weights of each photo's targets.
        colors: see `read_colors`.
        recipe: what to do with them.
    """
    size, cams, energies = (recipe.grid, recipe.grid), [], []
    for look in looks:
        features = look.features if look.mirrored is None else (look.features + look.mirrored) / 2
        cam = torch.einsum("ntc,nchw->nthw", weights, features)
        cams.append(functional.interpolate(cam, size, mode="bicubic"))
        energies.append(scale(functional.interpolate(features.norm(dim=1, keepdim=True), size, mode="bicubic")))
    cam, energy = scale(torch.stack(cams).mean(0)), scale(torch.stack(energies).mean(0))
    mixture = scale(cam + recipe.energy * energy)
    if not recipe.walk:
        return mixture
    seeds = mixture**recipe.power
    inner = looks[0].inner if recipe.inner else ()
    walked = [
        spread(seeds[i], compute_affinity(colors[i], [part[i] for part in inner], recipe), recipe.walk)
        for i in range(len(seeds))
    ]
    # The root is for the walk alone: left in, it would lift the background's heat with the object's.
    return scale(torch.stack(walked)) ** (1 / recipe.power)


def make_refiner(model: GapClassifier, recipe: Recipe = RECIPE) -> Refiner:
    """The classifier with finer maps, and the views it is shown; what the architecture can't have is left out."""
    network = dilate(model, recipe.map_stride)
    views = []
    for share in recipe.scales:
        view = enlarge(model.preprocess, share, model.origin.map_stride)
        if view == model.preprocess or takes(network, view):
            views.append(view)
    return Refiner(network, tuple(views), recipe)


def refine_maps(
    model: GapClassifier, photos: Sequence[Image.Image], targets: np.ndarray | Tensor, recipe: Recipe = RECIPE
) -> Tensor:
    """(N, T, grid, grid) float32 in [0, 1]: refined maps; for many photos keep what `make_refiner` gives."""
    return make_refiner(model, recipe)(photos, targets)


def dilate(model: GapClassifier, map_stride: int) -> GapClassifier:
    """The same weights with the last stages dilated to that stride; the model itself where it has no such form."""
    if model.origin.map_stride <= map_stride:
        return model
    side = model.preprocess.height_px
    try:
        origin = create_backbone(model.origin.architecture, image_size=side, map_stride=map_stride)
    except UserError:
        return model
    origin = replace(origin, preprocess=model.preprocess, source=model.origin.source)
    fine = GapClassifier(origin, model.class_names, model.head)
    fine.load_state_dict(model.state_dict())
    for layer in fine.neck.modules():
        if isinstance(layer, nn.Conv2d):
            factor = model.origin.map_stride // map_stride
            layer.dilation = layer.padding = (factor, factor)
    # Dilated depthwise convolutions are far faster in this layout.
    fine = fine.to(model.classifier.weight.device).to(memory_format=torch.channels_last)
    return fine.requires_grad_(requires_grad=False).eval()


def enlarge(preprocess: Preprocess, share: float, multiple_px: int) -> Preprocess:
    """The same preprocessing at another size, in whole cells of the network."""
    if share == 1:
        return preprocess
    height, width = (
        max(1, round(side * share / multiple_px)) * multiple_px for side in (preprocess.height_px, preprocess.width_px)
    )
    return preprocess.model_copy(update={"height_px": height, "width_px": width})


@torch.no_grad()
def takes(network: GapClassifier, preprocess: Preprocess) -> bool:
    """Whether the network, which may be made for one size, takes photos of this one."""
    blank = torch.zeros(1, 3, preprocess.height_px, preprocess.width_px, device=network.classifier.weight.device)
    try:
        network.features(blank)
    except (RuntimeError, AssertionError):
        return False
    return True


@contextmanager
def catch_inner(network: GapClassifier) -> Iterator[list[Tensor]]:
    """The block's forward passes leave their features of stride 8 and 16 (N, C, h, w) in the list; none without any."""
    caught: list[Tensor] = []
    handles = []
    for module, channels in _find_inner(network.backbone):

        def keep(_: nn.Module, __: Any, output: Tensor, channels: int = channels) -> None:
            caught.append(output if output.shape[1] == channels else output.permute(0, 3, 1, 2))

        handles.append(module.register_forward_hook(keep))
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


def _find_inner(backbone: nn.Module) -> list[tuple[nn.Module, int]]:
    """The first stages of timm's own list at each inner stride, with their channels."""
    listed = getattr(backbone, "feature_info", [])
    stages = cast(Any, listed if isinstance(listed, list) else listed.info)
    modules = dict(backbone.named_modules())
    found = [next((s for s in stages if s["reduction"] == stride), None) for stride in _INNER_STRIDES]
    return [(modules[s["module"]], s["num_chs"]) for s in found if s is not None and s["module"] in modules]


def read_colors(photos: Sequence[Image.Image], preprocess: Preprocess, grid: int) -> Tensor:
    """(N, grid * grid, 3): the mean CIELAB colour of each cell, / 100."""
    pixels = torch.from_numpy(np.stack([preprocess.to_pixels(photo) for photo in photos])).float() / 255
    cells = functional.adaptive_avg_pool2d(pixels, grid).permute(0, 2, 3, 1).numpy()
    return torch.from_numpy(np.asarray(skimage.color.rgb2lab(cells), dtype=np.float32) / 100).flatten(1, 2)


def compute_affinity(colors: Tensor, inner: Sequence[Tensor], recipe: Recipe) -> Tensor:
    """(P, P) in [0, 1], symmetric, 0 on the diagonal: how readily heat goes between two of P = grid * grid cells.

    exp(-d_position^2 / 2 s_position^2 - d_color^2 / 2 s_color^2 - sum over inner features of (1 - cosine) / s_inner).

    Args:
        colors: (P, 3).
        inner: features (C, h, w) of inner layers.
        recipe: the spreads.
    """
    axis = torch.arange(recipe.grid, device=colors.device) / recipe.grid
    places = torch.cartesian_prod(axis, axis)
    exponent = -(torch.cdist(places, places) ** 2) / (2 * recipe.position**2)
    exponent -= torch.cdist(colors, colors) ** 2 / (2 * recipe.color**2)
    for features in inner:
        cells = functional.interpolate(features[None], (recipe.grid, recipe.grid), mode="bilinear")[0].flatten(1).T
        directions = functional.normalize(cells - cells.mean(0), dim=1)
        exponent += (directions @ directions.T - 1) / recipe.inner
    return exponent.exp().fill_diagonal_(0)


def spread(seeds: Tensor, affinity: Tensor, walk: float) -> Tensor:
    """(T, g, g): the heat that a walker from each cell finds, who at each step goes on with the chance `walk`.

    Solves (D - walk A) x = (1 - walk) D seeds, with D the row sums of A.
    """
    degree = affinity.sum(1) + 1e-8
    system = torch.diag(degree) - walk * affinity
    heat = (1 - walk) * degree[:, None] * seeds.flatten(1).T
    return torch.cholesky_solve(heat, torch.linalg.cholesky(system)).T.reshape(seeds.shape)


def scale(maps: Tensor) -> Tensor:
    """Each map (..., h, w) from its minimum to its maximum, in [0, 1]; a flat one is 0."""
    low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
    return (maps - low) / torch.where(high > low, high - low, torch.ones_like(high))
