"""Does the map depend on what it should: the network's weights, the class, the photo and not its noise?"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Literal

import numpy as np
import scipy
import skimage
import torch
from torch import Tensor, nn

from whycam.metrics.case import Case, Photos, correlate, to_heat
from whycam.metrics.registry import metric

STAGES = 4
_NOISY_VIEWS = 8
_NOISE = 0.1
_DRAWS = 8
_RADIUS = 0.02


def randomise(network: nn.Module, order: Literal["top down", "bottom up"], seed: int = 0) -> Iterator[nn.Module]:
    """A copy of the network, yielded after each of four stages more of its layers have lost what they learnt.

    Each weight is drawn anew from a normal distribution of its tensor's own mean and deviation, so that activations
    stay finite; the running statistics of normalisation stay.
    """
    blank = copy.deepcopy(network)
    layers = [part for part in blank.modules() if any(True for _ in part.parameters(recurse=False))]
    if order == "top down":
        layers.reverse()
    generator = torch.Generator().manual_seed(seed)
    for part in np.array_split(np.arange(len(layers)), min(STAGES, len(layers))):
        for k in part:
            for weight in layers[k].parameters(recurse=False):
                drawn = torch.randn(weight.shape, generator=generator).to(weight)
                spread = weight.data.std() if weight.numel() > 1 else weight.data.abs().mean()
                weight.data = drawn * spread + weight.data.mean()
        yield blank


def compare_ranks(left: Tensor, right: Tensor) -> Tensor:
    """(N,): Spearman's correlation of maps (N, h, w); 1 where both are flat, 0 where one is."""
    pair = [torch.from_numpy(scipy.stats.rankdata(maps.flatten(1).cpu().numpy(), axis=1)) for maps in (left, right)]
    flat = [(ranks == ranks[:, :1]).all(1) for ranks in pair]
    related = correlate(*pair).nan_to_num(0.0)
    return torch.where(flat[0] & flat[1], 1.0, related)


@metric(
    "parameter-randomization",
    better="lower",
    category="sanity",
    paper="arXiv:1810.03292, sec. 3.1",
    differs=f"Mean over {STAGES} stages; weights are drawn with their tensor's own mean and deviation.",
    needs="weights",
    is_quick=False,
)
def parameter_randomization(case: Case) -> Tensor:
    """Spearman's correlation of the map's cells with those of networks randomised from the last layers on."""
    photos = case.photos
    stages = photos.once("randomised", lambda: _explain_randomised(photos))
    return torch.stack([compare_ranks(case.maps, maps[case.method]) for maps in stages]).mean(0)


def _explain_randomised(photos: Photos) -> list[dict[str, Tensor]]:
    stages = randomise(photos.network, "top down", photos.seed)
    return [photos.explain_all(photos.images, None, network) for network in stages]


@metric(
    "parameter-randomization-smooth",
    better="lower",
    category="sanity",
    paper="arXiv:2401.06465",
    differs=f"Mean over {STAGES} stages and {_NOISY_VIEWS} noisy views, not 50.",
    needs="weights",
    is_quick=False,
)
def parameter_randomization_smooth(case: Case) -> Tensor:
    """As parameter-randomization, from the first layers on, each map the mean over noisy views of the photo."""
    photos = case.photos
    before, *stages = photos.once("smooth", lambda: _explain_smooth(photos))
    return torch.stack([compare_ranks(before[case.method], maps[case.method]) for maps in stages]).mean(0)


def _explain_smooth(photos: Photos) -> list[dict[str, Tensor]]:
    """Of the network and of each of its stages: method -> (N, h, w), the mean map over noisy views."""
    generators, spread = photos.generators("smooth views"), _NOISE * _measure_range(photos)
    views = [photos.images + spread * _draw(photos, generators) for _ in range(_NOISY_VIEWS)]
    found = []
    for network in (None, *randomise(photos.network, "bottom up", photos.seed)):
        maps = [photos.explain_all(view, None, network) for view in views]
        found.append({method: torch.stack([one[method] for one in maps]).mean(0) for method in photos.methods})
    return found


def _measure_range(photos: Photos) -> Tensor:
    """(N, 1, 1, 1): the difference of each photo's largest and smallest input value."""
    low, high = photos.images.flatten(1).aminmax(dim=1)
    return (high - low).view(-1, 1, 1, 1)


def _draw(photos: Photos, generators: list[torch.Generator], *, is_normal: bool = True) -> Tensor:
    """(N, 3, H, W) standard normal, or uniform in [-1, 1]."""
    shape = photos.images.shape[1:]
    drawn = [
        torch.randn(shape, generator=g) if is_normal else 2 * torch.rand(shape, generator=g) - 1 for g in generators
    ]
    return torch.stack(drawn).to(photos.images)


@metric(
    "random-logit",
    better="lower",
    category="sanity",
    paper="arXiv:1912.09818, sec. 4",
    differs="SSIM of the maps' cells, the positive part over the maximum.",
)
def random_logit(case: Case) -> Tensor:
    """SSIM of the map with that of another class, drawn at random."""
    photos = case.photos
    classes = photos.once("classes", lambda: photos.score.run(photos.images[:1]).shape[1])
    if classes < 2:
        return torch.full((len(case),), torch.nan)
    of_other = photos.once("other class", lambda: _explain_other(photos, classes))[case.method]
    maps, others = (to_heat(m).cpu().numpy() for m in (case.maps, of_other))
    window = min(7, *(side - 1 + side % 2 for side in maps.shape[1:]))
    if window < 3:
        return torch.full((len(case),), torch.nan)
    pairs = zip(maps, others, strict=True)
    found = [float(skimage.metrics.structural_similarity(a, b, win_size=window, data_range=1.0)) for a, b in pairs]
    return torch.tensor(found)


def _explain_other(photos: Photos, classes: int) -> dict[str, Tensor]:
    steps = [int(torch.randint(1, classes, (), generator=g)) for g in photos.generators("other class")]
    other = (photos.score.target + torch.tensor(steps, device=photos.score.target.device)) % classes
    return photos.explain_all(photos.images, other)


@metric(
    "max-sensitivity",
    better="lower",
    category="sanity",
    paper="arXiv:1901.09392, def. 3",
    differs=f"{_DRAWS} draws within {_RADIUS:.0%} of the photo's range.",
    is_quick=False,
)
def max_sensitivity(case: Case) -> Tensor:
    """The largest |map of the noisy photo - map| / |map| over draws of uniform noise."""
    photos, size = case.photos, case.maps.flatten(1).norm(dim=1)
    noisy = photos.once("small noise", lambda: _explain_noisy(photos))
    changes = [(maps[case.method] - case.maps).flatten(1).norm(dim=1) / size for maps in noisy]
    return torch.where(size > 0, torch.stack(changes).amax(0), torch.nan)


def _explain_noisy(photos: Photos) -> list[dict[str, Tensor]]:
    generators, radius = photos.generators("small noise"), _RADIUS * _measure_range(photos)
    noise = (_draw(photos, generators, is_normal=False) for _ in range(_DRAWS))
    return [photos.explain_all(photos.images + radius * drawn) for drawn in noise]
