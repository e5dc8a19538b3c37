"""Linear imputation against the system written out and solved exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from whycam.metrics.imputation import impute


def solve_exactly(image: Tensor, is_removed: Tensor) -> np.ndarray:
    """One equation a removed pixel: weights of its neighbours in the image, normalised to 1."""
    values, gone = image.double().numpy(), is_removed.numpy()
    height, width = gone.shape
    places = np.argwhere(gone)
    index = {tuple(place): k for k, place in enumerate(places)}
    matrix, right = np.eye(len(places)), np.zeros((len(places), len(values)))
    for (y, x), k in index.items():
        near = {
            (y + dy, x + dx): 1 / 6 if 0 in (dy, dx) else 1 / 12
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
            if (dy or dx) and 0 <= y + dy < height and 0 <= x + dx < width
        }
        total = sum(near.values())
        for (b, a), weight in near.items():
            if gone[b, a]:
                matrix[k, index[b, a]] -= weight / total
            else:
                right[k] += weight / total * values[:, b, a]
    solved = values.copy()
    solved[:, gone] = np.linalg.solve(matrix, right).T
    return solved


@pytest.mark.parametrize(("height", "width"), [(24, 24), (21, 30), (9, 7)])
def test_pixels_solve_the_system(height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(height)
    image = torch.rand(3, height, width, generator=generator)
    coarse = functional.interpolate(torch.rand(1, 1, 4, 4, generator=generator), (height, width), mode="bilinear")[0, 0]
    masks = [coarse > coarse.quantile(0.1), coarse < coarse.quantile(0.5), torch.rand(height, width) < 0.7]
    solved = impute(image.expand(len(masks), -1, -1, -1), torch.stack(masks), tolerance=1e-6)
    for mask, found in zip(masks, solved, strict=True):
        assert np.abs(found.numpy() - solve_exactly(image, mask)).max() < 1e-3
        assert torch.equal(found[:, ~mask], image[:, ~mask])


def test_all_or_nothing_removed() -> None:
    image = torch.rand(1, 3, 16, 16)
    nothing = impute(image, torch.zeros(1, 16, 16, dtype=torch.bool))
    assert torch.equal(nothing, image)
    everything = impute(image, torch.ones(1, 16, 16, dtype=torch.bool))
    assert torch.allclose(everything, image.mean(dim=(2, 3), keepdim=True).expand_as(image))


def test_a_plane_stays_a_plane() -> None:
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    image = (rows / 32 + columns / 64)[None, None]
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[0, 8:24, 8:24] = True
    assert torch.allclose(impute(image, mask, tolerance=1e-6), image, atol=1e-4)


@pytest.mark.oracle
def test_grad_cam_imputes_the_same() -> None:
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    generator = torch.Generator().manual_seed(2)
    image = torch.rand(3, 40, 40, generator=generator)
    heat = functional.interpolate(torch.rand(1, 1, 5, 5, generator=generator), (40, 40), mode="bicubic")[0, 0]
    mask = heat > heat.quantile(0.4)
    theirs = NoisyLinearImputer(noise=0)(image, (~mask).float())
    assert torch.allclose(impute(image[None], mask[None], tolerance=1e-5)[0], theirs, atol=1e-3)
