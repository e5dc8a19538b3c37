from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage.filters import sobel_h, sobel_v
from torch import Tensor

from whycam.cam.baseline import centre, edges, random, uniform
from whycam.cam.registry import Pass
from whycam.errors import UserError

_ALL = [random, centre, edges, uniform]


def make_pass(images: Tensor, grid: tuple[int, ...] = (5, 7), **changes: object) -> Pass:
    fields = {
        "images": images,
        "features": torch.zeros(len(images), 2, *grid),
        "target": torch.zeros(len(images), dtype=torch.long),
        "score": None,
        "tail": None,
        "model": None,
    }
    return Pass(**(fields | changes))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("run", _ALL)
def test_batch_is_its_images_and_repeats(run) -> None:
    images = draw(4, 3, 20, 24)
    whole = run(make_pass(images))
    assert whole.dtype == torch.float32
    assert len(whole) == 4
    torch.testing.assert_close(run(make_pass(images)), whole, atol=0, rtol=0)
    for i in range(4):
        torch.testing.assert_close(run(make_pass(images[i : i + 1])), whole[i : i + 1])
    torch.testing.assert_close(run(make_pass(images.flip(0))), whole.flip(0))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("run", _ALL)
def test_any_number_of_axes(run, dims: int) -> None:
    found = run(make_pass(draw(2, 3, *[9] * dims), grid=(3,) * dims))
    assert found.shape == (2, *[9 if run is edges else 3] * dims)
    assert found.isfinite().all()


def test_random_differs_by_image_and_seed_and_is_uniform() -> None:
    images = draw(2, 3, 8, 8)
    first, second = random(make_pass(images, grid=(100, 100)))
    assert (first - second).abs().max() > 0.5
    other = random(make_pass(images, grid=(100, 100), seed=1))[0]
    assert (first - other).abs().max() > 0.5
    assert 0 <= first.min() < 0.01
    assert 0.99 < first.max() < 1
    assert first.mean().item() == pytest.approx(0.5, abs=0.02)
    assert abs(np.corrcoef(first.flatten(), second.flatten())[0, 1]) < 0.05


def test_random_is_the_same_for_the_same_photo_in_half_precision() -> None:
    images = draw(2, 3, 8, 8)
    torch.testing.assert_close(random(make_pass(images.bfloat16())), random(make_pass(images)), atol=0, rtol=0)


def test_centre_is_a_bell_in_image_sides() -> None:
    found = centre(make_pass(draw(2, 3, 8, 8), grid=(5, 7), options={"sigma": 0.3}))
    for i in range(5):
        for j in range(7):
            square = ((i + 0.5) / 5 - 0.5) ** 2 + ((j + 0.5) / 7 - 0.5) ** 2
            assert found[1, i, j].item() == pytest.approx(math.exp(-square / (2 * 0.3**2)), abs=1e-6)
    with pytest.raises(UserError, match=r"'sigma' is -1\.0; expected above 0"):
        centre(make_pass(draw(1, 3, 8, 8), options={"sigma": -1}))


def test_edges_are_the_sobel_magnitude_of_the_mean_channel() -> None:
    images = draw(1, 3, 12, 15)
    grey = images[0].mean(0).numpy()
    found = edges(make_pass(images))[0].numpy()
    # skimage divides its kernels by 4 and drops the border.
    expected = np.hypot(sobel_h(grey), sobel_v(grey)) * 4
    np.testing.assert_allclose(found[1:-1, 1:-1], expected[1:-1, 1:-1], atol=1e-5)


def test_edges_find_a_step_and_nothing_in_a_flat_image() -> None:
    images = torch.zeros(1, 1, 8, 8)
    assert edges(make_pass(images)).max() == 0
    images[..., 4:] = 1
    assert edges(make_pass(images))[0].nonzero()[:, 1].unique().tolist() == [3, 4]
    assert edges(make_pass(images))[0, :, 3].tolist() == [4.0] * 8  # the border is repeated, so it's no edge


def test_uniform_is_one_everywhere() -> None:
    p = make_pass(draw(2, 3, 8, 8))
    assert uniform(p).tolist() == torch.ones(2, 5, 7).tolist()
    assert uniform(replace(p, features=p.features * 9)).unique().tolist() == [1.0]
