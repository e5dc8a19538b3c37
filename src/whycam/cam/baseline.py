"""Maps that look at no model: what every real method has to beat. A new control is added here."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from whycam.cam.perturbation import to_cells
from whycam.cam.registry import Pass, method
from whycam.errors import UserError


@method(
    "random",
    needs="image",
    paper="the control of arXiv:1810.03292, sec. 3",
    differs="Always: it shows nothing.",
    cost="nothing",
)
def random(p: Pass) -> Tensor:
    """Independent uniform values in [0, 1) on the features' grid.

    Image i's draw depends on the seed and on the image itself, so that a photo has the same map in any batch, and
    many photos together have many maps, not one map many times. The image is read at bfloat16's precision: the same
    photo in half precision has the same map.
    """
    maps = []
    for image in p.images.to(torch.bfloat16).float().cpu():
        digest = hashlib.blake2b(image.contiguous().numpy().tobytes(), digest_size=7, salt=str(p.seed).encode()[:16])
        generator = torch.Generator().manual_seed(int.from_bytes(digest.digest()))
        maps.append(torch.rand(p.features.shape[2:], generator=generator))
    return torch.stack(maps).to(p.features.device)


@method(
    "centre",
    needs="image",
    paper="the centre bias of photographs: arXiv:2007.04178, sec. 4",
    differs="Always: photographers put the object in the middle.",
    cost="nothing",
)
def centre(p: Pass) -> Tensor:
    """exp(-|x|^2 / (2 sigma^2)) on the features' grid, x from the centre in units of each side; option `sigma` 0.25."""
    sigma = p.option("sigma", 0.25)
    if sigma <= 0:
        raise UserError(f"Option 'sigma' is {sigma}; expected above 0, in image sides. For example: sigma=0.25.")
    axes = [(torch.arange(side) + 0.5) / side - 0.5 for side in p.features.shape[2:]]
    square = sum(axis.square() for axis in torch.meshgrid(*axes, indexing="ij"))
    bell = torch.exp(-torch.as_tensor(square) / (2 * sigma**2)).to(p.features.device)
    return bell.expand(len(p.features), *bell.shape).clone()


@method(
    "edges",
    needs="image",
    paper="the edge detector of arXiv:1810.03292, sec. 5",
    differs="Always: a map that only outlines things looks like this.",
    cost="nothing",
)
def edges(p: Pass) -> Tensor:
    """Sobel magnitude of the image's mean channel, averaged to at most 56 cells per axis; the border is repeated."""
    grey = p.images.float().mean(1)
    axes = range(1, grey.ndim)
    square = torch.zeros_like(grey)
    for axis in axes:
        slope = grey
        for other in axes:
            before, here, after = _neighbours(slope, other)
            slope = after - before if other == axis else before + 2 * here + after
        square += slope.square()
    return to_cells(square.sqrt().unsqueeze(1)).squeeze(1)


@method(
    "uniform",
    needs="image",
    paper="none",
    differs="Always: it says that everything matters equally.",
    cost="nothing",
)
def uniform(p: Pass) -> Tensor:
    """Ones on the features' grid."""
    return torch.ones_like(p.features[:, 0])


def _neighbours(values: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    side = values.shape[axis]
    first, last = values.narrow(axis, 0, 1), values.narrow(axis, side - 1, 1)
    before = torch.cat([first, values.narrow(axis, 0, side - 1)], axis)
    after = torch.cat([values.narrow(axis, 1, side - 1), last], axis)
    return before, values, after
