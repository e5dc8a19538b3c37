from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from whycam.cam.perturbation import (
    ablation_cam,
    is_cam,
    occlusion,
    recipro_cam,
    rise,
    score_cam,
    ss_cam,
    to_cells,
)
from whycam.cam.registry import Pass
from whycam.errors import UserError

_SMALL = {"samples": 2, "masks": 10}
_ALL = [score_cam, ss_cam, is_cam, ablation_cam, recipro_cam, rise, occlusion]


class Net(nn.Module):
    """Two convolutions, and a tail that is GAP + linear, or has a convolution and a tanh more."""

    def __init__(self, *, is_linear: bool, seed: int = 0, dims: int = 2) -> None:
        super().__init__()
        torch.manual_seed(seed)
        conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
        self.body = nn.Sequential(
            conv(3, 5, 3, stride=2, padding=1), nn.SiLU(), conv(5, 6, 3, stride=2, padding=1), nn.SiLU()
        )
        self.mix = nn.Identity() if is_linear else nn.Sequential(conv(6, 6, 3, padding=1), nn.Tanh())
        self.head = nn.Linear(6, 3)
        self.is_linear = is_linear
        self.double().eval()

    def tail(self, features: Tensor) -> Tensor:
        return self.head(self.mix(features).flatten(2).mean(2))

    def forward(self, images: Tensor) -> Tensor:
        return self.tail(self.body(images))


def make_pass(net: Net, images: Tensor, **options: object) -> Pass:
    """The pass of the net at its body, for classes 0, 1, 2, 0, ..."""
    target = torch.arange(len(images)) % 3
    with torch.no_grad():
        features = net.body(images)
    return Pass(
        images=images,
        features=features,
        target=target,
        score=lambda output, rows: output.gather(1, target[rows, None])[:, 0],
        tail=lambda part, rows: net.tail(part),
        model=net,
        weight=net.head.weight.detach() if net.is_linear else None,
        bias=net.head.bias.detach() if net.is_linear else None,
        options=_SMALL | options,
    )


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def take(p: Pass, net: Net, i: int) -> Pass:
    """The pass of image i alone."""
    target = p.target[i : i + 1]
    return replace(
        p,
        images=p.images[i : i + 1],
        features=p.features[i : i + 1],
        target=target,
        score=lambda output, rows: output.gather(1, target[rows, None])[:, 0],
    )


def kill_channels(p: Pass) -> Pass:
    """The pass with channel 1 dead and channel 2 constant."""
    features = p.features.clone()
    features[:, 1], features[:, 2] = 0, 0.4
    return replace(p, features=features)


@torch.no_grad()
def slow_score_map(p: Pass, net: Net, variants: list) -> Tensor:
    """The Score-CAM family from the papers, one image, channel and variant at a time."""
    maps = []
    for n, image in enumerate(p.images):
        blank = net(torch.zeros_like(image)[None])[0, p.target[n]]
        gains = []
        for channel in p.features[n]:
            if channel.min() == channel.max():
                gains.append(torch.tensor(0.0, dtype=torch.float64))
                continue
            large = functional.interpolate(channel[None, None], image.shape[1:], mode="bilinear")[0, 0]
            mask = (large - large.min()) / (large.max() - large.min())
            scores = [net((image * vary(mask))[None])[0, p.target[n]] for vary in variants]
            gains.append(sum(scores) / len(scores) - blank)
        exponents = [g.exp() for g in gains]
        weights = [e / sum(exponents) for e in exponents]
        maps.append(sum(w * channel for w, channel in zip(weights, p.features[n], strict=True)).clamp(min=0))
    return torch.stack(maps)


@pytest.mark.parametrize("is_linear", [True, False])
def test_score_cam_equals_the_papers_loop(is_linear: bool) -> None:
    net = Net(is_linear=is_linear)
    p = kill_channels(make_pass(net, draw(2, 3, 16, 20)))
    expected = slow_score_map(p, net, [lambda mask: mask])
    assert expected.std() > 1e-3
    torch.testing.assert_close(score_cam(p), expected, atol=1e-6, rtol=0)


def test_is_cam_equals_the_papers_loop() -> None:
    net = Net(is_linear=False)
    p = kill_channels(make_pass(net, draw(2, 3, 16, 20), samples=4))
    expected = slow_score_map(p, net, [lambda mask, j=j: mask * j / 4 for j in (1, 2, 3, 4)])
    torch.testing.assert_close(is_cam(p), expected, atol=1e-6, rtol=0)
    assert (is_cam(p) - score_cam(p)).abs().max() > 1e-4


def test_ss_cam_equals_the_papers_loop_with_the_same_noise() -> None:
    net = Net(is_linear=False)
    p = replace(kill_channels(make_pass(net, draw(2, 3, 16, 20), samples=3, sigma=0.5)), seed=7)
    noise = torch.randn(3, 1, 16, 20, generator=torch.Generator().manual_seed(7)).double() * 0.5
    expected = slow_score_map(p, net, [lambda mask, i=i: mask + noise[i, 0] for i in range(3)])
    torch.testing.assert_close(ss_cam(p), expected, atol=1e-6, rtol=0)
    assert (ss_cam(replace(p, seed=8)) - ss_cam(p)).abs().max() > 1e-5


def test_ss_cam_without_noise_is_score_cam() -> None:
    p = make_pass(Net(is_linear=False), draw(2, 3, 16, 16), sigma=0.0)
    torch.testing.assert_close(ss_cam(p), score_cam(p), atol=1e-7, rtol=0)


def test_score_family_runs_the_model_for_live_channels_only() -> None:
    net = Net(is_linear=True)
    p = kill_channels(make_pass(net, draw(2, 3, 16, 16)))
    seen = []
    counted = replace(p, model=lambda images: seen.append(len(images)) or net(images))
    score_cam(counted)
    assert sum(seen) == 2 * 4 + 2  # 4 live of 6 channels, and the blank image, for each of 2 images


def slow_ablation_map(p: Pass, net: Net) -> Tensor:
    maps = []
    for n, features in enumerate(p.features):
        whole = net.tail(features[None])[0, p.target[n]]
        weights = []
        for k in range(len(features)):
            ablated = features.clone()
            ablated[k] = 0
            weights.append(whole - net.tail(ablated[None])[0, p.target[n]])
        maps.append(torch.einsum("c,chw->hw", torch.stack(weights), features).clamp(min=0))
    return torch.stack(maps).detach()


@pytest.mark.parametrize("is_linear", [True, False])
@pytest.mark.parametrize("bias", [0.0, -5.0])
@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_ablation_is_zero_ablation_for_silu_features_and_negative_scores(
    is_linear: bool, bias: float, chunk: int
) -> None:
    net = Net(is_linear=is_linear)
    nn.init.constant_(net.head.bias, bias)
    p = replace(kill_channels(make_pass(net, draw(3, 3, 16, 16))), chunk=chunk)
    assert p.features.min() < 0
    expected = slow_ablation_map(p, net)
    assert expected.max() > 1e-3
    torch.testing.assert_close(ablation_cam(p), expected, atol=1e-6, rtol=0)


def test_ablations_closed_form_runs_the_tail_once_and_equals_brute_force() -> None:
    net = Net(is_linear=True)
    p = make_pass(net, draw(3, 3, 16, 16))
    seen = []
    counted = replace(p, tail=lambda part, rows: seen.append(len(part)) or net.tail(part))
    closed = ablation_cam(counted)
    assert sum(seen) == 3
    torch.testing.assert_close(closed, ablation_cam(replace(p, weight=None)), atol=1e-6, rtol=0)


def test_ablation_of_a_probability_does_not_use_the_logits_closed_form() -> None:
    net = Net(is_linear=True)
    p = make_pass(net, draw(2, 3, 16, 16))
    p = replace(p, score=lambda output, rows: output.softmax(1).gather(1, p.target[rows, None])[:, 0])
    torch.testing.assert_close(ablation_cam(p), ablation_cam(replace(p, weight=None)), atol=1e-7, rtol=0)


def test_rise_is_the_score_weighted_mean_of_its_masks() -> None:
    net = Net(is_linear=False)
    p = replace(make_pass(net, draw(2, 3, 16, 20), masks=11, grid=3, probability=0.4), chunk=4, seed=5)
    shown = []
    ones = replace(
        p, images=torch.ones_like(p.images), model=lambda images: shown.append(images.clone()) or net(images)
    )
    rise(ones)
    # With white images, what the model is shown are the masks: chunks of 4, 4, 3 for the first and the second image.
    masks = torch.cat(shown[::2])[:, 0]
    assert masks.shape == (11, 16, 20)
    assert masks.min() >= 0
    assert masks.max() <= 1 + 1e-6
    assert masks.std() > 0.1
    expected = torch.zeros(2, 16, 20, dtype=torch.float64)
    with torch.no_grad():
        for n, mask in itertools.product(range(2), masks):
            expected[n] += net((p.images[n] * mask)[None])[0, p.target[n]] * mask
    torch.testing.assert_close(rise(p), (expected / (11 * 0.4)).float(), atol=1e-6, rtol=1e-6)


def test_rise_masks_are_on_average_what_they_let_through() -> None:
    # A model that always scores 1 leaves mean(masks) / p, which tends to 1.
    images = torch.ones(1, 3, 21, 21)
    p = replace(make_pass(Net(is_linear=True), images.double()), images=images, model=lambda x: torch.ones(len(x), 3))
    found = rise(replace(p, options={"masks": 4000, "probability": 0.3}))
    torch.testing.assert_close(found, torch.ones_like(found), atol=0.1, rtol=0)


def test_rise_with_masks_that_hide_nothing_is_flat() -> None:
    net = Net(is_linear=True)
    p = make_pass(net, draw(2, 3, 16, 16), probability=1.0)
    with torch.no_grad():
        scores = net(p.images)[[0, 1], [0, 1]].float()
    torch.testing.assert_close(rise(p), scores[:, None, None].expand(2, 16, 16))


def test_rise_and_edges_of_large_images_are_averaged_to_56_cells() -> None:
    assert to_cells(torch.zeros(1, 1, 224, 30)).shape == (1, 1, 56, 30)
    large = torch.zeros(1, 1, 112, 112)
    large[..., 2:4, 6:8] = 1
    assert to_cells(large)[0, 0].nonzero().tolist() == [[1, 3]]


@pytest.mark.parametrize(("side", "patch", "stride"), [(12, 4, 4), (12, 4, 2), (13, 4, 3), (11, 5, 2)])
def test_occlusion_of_a_linear_model_is_the_sum_over_the_patch(side: int, patch: int, stride: int) -> None:
    images, weight = draw(2, 3, side, side + 3), draw(3, side, side + 3, seed=1)
    p = make_pass(Net(is_linear=True), draw(2, 3, 16, 16), patch=patch, stride=stride)
    p = replace(p, images=images, model=lambda x: (x * weight).flatten(1).sum(1, keepdim=True).expand(-1, 3))
    found = occlusion(p)
    rows, columns = -(-side // stride), -(-(side + 3) // stride)
    assert found.shape == (2, rows, columns)
    parts, covered = images * weight, torch.zeros(side, side + 3, dtype=torch.bool)
    for i, j in itertools.product(range(rows), range(columns)):
        top = round((i + 0.5) * side / rows - patch / 2)
        left = round((j + 0.5) * (side + 3) / columns - patch / 2)
        spot = slice(max(top, 0), top + patch), slice(max(left, 0), left + patch)
        covered[spot] = True
        expected = parts[:, :, spot[0], spot[1]].sum((1, 2, 3)).float()
        torch.testing.assert_close(found[:, i, j], expected, atol=1e-5, rtol=1e-5)
    assert covered.all()


def test_occlusion_refuses_a_stride_that_leaves_pixels_out() -> None:
    p = make_pass(Net(is_linear=True), draw(1, 3, 16, 16), patch=2, stride=3)
    with pytest.raises(UserError, match="Patches of 2 px every 3 px leave pixels untouched"):
        occlusion(p)


@pytest.mark.parametrize("run", _ALL)
@pytest.mark.parametrize("is_linear", [True, False])
def test_batch_is_its_images_and_chunks_change_nothing(run, is_linear: bool) -> None:
    net = Net(is_linear=is_linear)
    p = kill_channels(make_pass(net, draw(4, 3, 16, 16)))
    whole = run(p)
    assert whole.std() > 1e-5
    for chunk in (3, 64):
        torch.testing.assert_close(run(replace(p, chunk=chunk)), whole, atol=1e-6, rtol=1e-5)
    for i in range(4):
        torch.testing.assert_close(run(take(p, net, i)), whole[i : i + 1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("run", _ALL)
def test_no_forward_pass_is_larger_than_the_chunk(run) -> None:
    net = Net(is_linear=False)
    p, sizes = make_pass(net, draw(2, 3, 16, 16)), []
    p = replace(
        p,
        chunk=5,
        model=lambda images: sizes.append(len(images)) or net(images),
        tail=lambda part, rows: sizes.append(len(part)) or net.tail(part),
    )
    run(p)
    assert max(sizes) <= 5 < sum(sizes)


@pytest.mark.parametrize("run", _ALL)
def test_flat_features_and_images_give_a_finite_map(run) -> None:
    p = make_pass(Net(is_linear=False), torch.zeros(2, 3, 16, 16, dtype=torch.float64))
    assert run(replace(p, features=torch.full_like(p.features, 0.3))).isfinite().all()


@pytest.mark.parametrize("run", [ablation_cam, rise, occlusion])
def test_map_scales_with_the_score(run) -> None:
    p = make_pass(Net(is_linear=False), draw(2, 3, 16, 16))
    tiny = replace(p, score=lambda output, rows: p.score(output, rows) * 2.0**-20)
    torch.testing.assert_close(run(tiny) * 2.0**20, run(p), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("run", [score_cam, ss_cam, rise])
def test_half_precision_passes_give_nearly_the_same_map(run) -> None:
    net = Net(is_linear=False).float()
    p = make_pass(net, draw(1, 3, 16, 16).float(), masks=100)
    full, half = run(p), run(replace(p, options=p.options | {"dtype": "bfloat16"}))
    assert half.dtype == torch.float32
    assert not torch.equal(full, half)
    assert np.corrcoef(full.flatten(), half.flatten())[0, 1] > 0.99


@pytest.mark.parametrize("dims", [1, 3])
@pytest.mark.parametrize("run", _ALL)
def test_signals_and_volumes(run, dims: int) -> None:
    net = Net(is_linear=False, dims=dims)
    p = make_pass(net, draw(2, 3, *[12] * dims), masks=6, samples=2)
    found = run(p)
    assert found.ndim == 1 + dims
    torch.testing.assert_close(run(take(p, net, 1)), found[1:], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("run", "option", "message"),
    [
        (rise, {"masks": 0}, "'masks' is 0; expected 1 or more"),
        (rise, {"probability": 0}, "'probability' is 0.0; expected above 0"),
        (ss_cam, {"samples": "many"}, "'samples' is 'many'; expected int"),
        (score_cam, {"dtype": "int8"}, "'dtype' is 'int8'; expected float32, bfloat16, float16"),
    ],
)
def test_options_are_checked(run, option: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(make_pass(Net(is_linear=True), draw(1, 3, 16, 16), **option))


def test_features_with_other_axes_than_the_image_are_refused() -> None:
    p = make_pass(Net(is_linear=True), draw(1, 3, 16, 16))
    with pytest.raises(UserError, match="features have 1 spatial axes and the images 2"):
        score_cam(replace(p, features=p.features.flatten(2)))


@pytest.mark.oracle
def test_occlusion_equals_captums_where_patches_tile_the_image() -> None:
    attr = pytest.importorskip("captum.attr", reason="the peer to compare with")
    net = Net(is_linear=False)
    p = make_pass(net, draw(2, 3, 16, 24), patch=4, stride=4)
    theirs = attr.Occlusion(net).attribute(p.images, (3, 4, 4), strides=(3, 4, 4), target=p.target)
    torch.testing.assert_close(occlusion(p), theirs[:, 0, ::4, ::4].float(), atol=1e-6, rtol=0)


@pytest.mark.oracle
def test_score_cam_equals_torchcams_where_masks_are_normalised_alike() -> None:
    peers = pytest.importorskip("torchcam.methods", reason="the peer to compare with")
    # torchcam normalises before it enlarges; features as large as the image are normalised alike.
    net = Net(is_linear=False)
    for layer in net.body:
        if isinstance(layer, nn.Conv2d):
            layer.stride = (1, 1)
    net.float()
    p = make_pass(net, draw(1, 3, 9, 9).float())
    with torch.no_grad(), peers.ScoreCAM(net, net.body, input_shape=(3, 9, 9)) as peer:
        output = net(p.images)
        theirs = peer(0, output, normalized=False)[0]
    torch.testing.assert_close(score_cam(p), theirs, atol=1e-5, rtol=0)


@pytest.mark.oracle
def test_ablation_cam_differs_from_pytorch_grad_cams_whose_zero_is_not_zero() -> None:
    peers = pytest.importorskip("pytorch_grad_cam", reason="the peer to compare with")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets", reason="the peer to compare with")
    net = Net(is_linear=True).float()
    p = make_pass(net, draw(1, 3, 16, 16).float())
    with peers.AblationCAM(model=net, target_layers=[net.body]) as peer:
        peer.batch_size = 32
        peer(p.images, [targets.ClassifierOutputTarget(0)])
        theirs = peer.get_cam_weights(
            p.images, net.body, [targets.ClassifierOutputTarget(0)], p.features.numpy(), None
        )[0]
    truth = (net.head.weight[0] * p.features.mean((2, 3))[0]).detach().numpy()
    assert np.abs(theirs).max() > 1e5 * np.abs(truth).max()
    expected = np.einsum("c,chw->hw", truth, p.features[0].numpy()).clip(0)
    np.testing.assert_allclose(ablation_cam(p)[0].numpy(), expected, atol=1e-6)
