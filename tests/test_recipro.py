"""recipro-cam against the paper's loop, and where its map is known by a formula."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from test_perturbation import Net, draw, make_pass
from whycam.cam.perturbation import recipro_cam
from whycam.errors import UserError


@pytest.mark.parametrize("is_linear", [True, False])
def test_recipro_cam_equals_the_papers_loop(is_linear: bool) -> None:
    net, images = Net(is_linear=is_linear), draw(2, 3, 16, 24)
    p = make_pass(net, images)
    gaussian = torch.tensor([[1, 2, 1], [2, 4, 2], [1, 2, 1]], dtype=torch.float64) / 16
    expected = torch.zeros(2, *p.features.shape[2:], dtype=torch.float64)
    h, w = expected.shape[1:]
    for n, i, j in itertools.product(range(2), range(h), range(w)):
        mask = torch.zeros(h + 2, w + 2, dtype=torch.float64)
        mask[i : i + 3, j : j + 3] = gaussian
        expected[n, i, j] = net.tail(p.features[n : n + 1] * mask[1:-1, 1:-1]).softmax(1)[0, n]
    low, high = expected.amin((1, 2), keepdim=True), expected.amax((1, 2), keepdim=True)
    torch.testing.assert_close(recipro_cam(p), (expected - low) / (high - low))


def test_recipro_cam_of_logits_is_the_smoothed_class_map_behind_a_linear_head() -> None:
    net, images = Net(is_linear=True), draw(2, 3, 16, 24)
    p = make_pass(net, images, score="logit")
    class_map = torch.einsum("nc,nchw->nhw", net.head.weight[p.target], p.features)
    gaussian = torch.tensor([[1, 2, 1], [2, 4, 2], [1, 2, 1]], dtype=torch.float64)[None, None]
    smooth = functional.conv2d(class_map[:, None], gaussian, padding=1)[:, 0].detach()
    low, high = smooth.amin((1, 2), keepdim=True), smooth.amax((1, 2), keepdim=True)
    assert (recipro_cam(p) - (smooth - low) / (high - low)).abs().max() < 1e-5


def test_recipro_cam_of_a_single_logit_is_the_sigmoids() -> None:
    net, images = Net(is_linear=False), draw(1, 3, 16, 16)
    p = make_pass(net, images)
    single = replace(
        p,
        target=torch.zeros(1, dtype=torch.long),
        tail=lambda part, rows: net.tail(part)[:, :1],
        score=lambda output, rows: output[:, 0],
    )
    cell = torch.zeros(4, 4, dtype=torch.float64)
    cell[:2, :2] = torch.tensor([[4, 2], [2, 1]]) / 16
    maps = recipro_cam(single)
    first = net.tail(p.features * cell)[0, 0].sigmoid()
    assert 0 <= maps[0, 0, 0] <= 1
    raw = recipro_cam(replace(single, score=lambda output, rows: output[:, 0] * 1e-6))
    assert first > 0
    assert maps.shape == raw.shape == (1, 4, 4)
    with pytest.raises(UserError, match="softmax or logit"):
        recipro_cam(replace(single, options={"score": "odds"}))
