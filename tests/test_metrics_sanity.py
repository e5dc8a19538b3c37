"""Sanity and complexity: what they say of maps that depend on the network, and of maps that do not."""

from __future__ import annotations

import math

import torch
from torch import nn

from metric_cases import SIDE, Red, make_case
from whycam.metrics import complexity, sanity


def test_layers_are_randomised_in_order_and_the_network_is_left_alone() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(*(nn.Linear(6, 6) for _ in range(8)))
    before = [p.clone() for p in network.parameters()]
    changed = []
    for blank in sanity.randomise(network, "top down"):
        pairs = zip(blank.parameters(), before, strict=True)
        changed.append([not torch.equal(a, b) for a, b in pairs][::2])
    assert changed[0] == [False] * 6 + [True] * 2
    assert changed[1] == [False] * 4 + [True] * 4
    assert changed[-1] == [True] * 8
    first = next(iter(sanity.randomise(network, "bottom up")))
    assert not torch.equal(first[0].weight, network[0].weight)
    assert torch.equal(first[-1].weight, network[-1].weight)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), before, strict=True))


def test_a_map_that_ignores_the_network_fails() -> None:
    fixed, red = make_case(method="fixed"), make_case()
    assert torch.allclose(sanity.parameter_randomization(fixed), torch.ones(3), atol=1e-6)
    assert torch.allclose(sanity.parameter_randomization_smooth(fixed), torch.ones(3), atol=1e-6)
    assert torch.allclose(sanity.random_logit(fixed), torch.ones(3), atol=1e-6)
    assert sanity.max_sensitivity(fixed).abs().max() == 0
    assert (sanity.parameter_randomization(red) < 0.9).all()
    assert (sanity.random_logit(red) < 0.9).all()
    assert (sanity.max_sensitivity(red) > 0).all()


def test_ranks_of_flat_maps() -> None:
    flat, slope = torch.zeros(1, 4, 4), torch.arange(16.0).view(1, 4, 4)
    assert sanity.compare_ranks(flat, flat).tolist() == [1]
    assert sanity.compare_ranks(flat, slope).tolist() == [0]
    assert torch.allclose(sanity.compare_ranks(slope, slope**3), torch.ones(1))
    assert torch.allclose(sanity.compare_ranks(slope, -slope), -torch.ones(1))


def test_sensitivity_grows_with_noise_by_hand() -> None:
    # The map is linear in red, so noise changes it by at most the radius times the gain, cell by cell.
    case = make_case()
    spread = case.photos.images.flatten(1).amax(1) - case.photos.images.flatten(1).amin(1)
    where, gain = Red().where.detach(), Red().gain.detach()
    bound = 0.02 * spread * gain * where.norm() / case.maps.flatten(1).norm(dim=1)
    found = sanity.max_sensitivity(case)
    assert (found <= bound).all()
    assert (found > 0.3 * bound).all()


def test_one_pixel_and_all_pixels() -> None:
    maps = torch.zeros(2, SIDE, SIDE)
    maps[0, 3, 4], maps[1] = 1, 1
    case = make_case(maps, images=torch.rand(2, 3, SIDE, SIDE))
    pixels = SIDE * SIDE
    assert torch.allclose(complexity.gini(case), torch.tensor([1 - 1 / pixels, 0.0]).double(), atol=1e-9)
    assert torch.allclose(complexity.entropy(case), torch.tensor([0.0, math.log2(pixels)]).double(), atol=1e-9)
    nothing = make_case(torch.zeros(2, SIDE, SIDE), images=torch.rand(2, 3, SIDE, SIDE))
    assert complexity.gini(nothing).isnan().all()
    assert complexity.entropy(nothing).isnan().all()
