from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from whycam.cam.decomposition import dff, eigen_cam, factor_concepts, fem, first_component, fix_sign, kpca_cam
from whycam.cam.registry import Pass
from whycam.errors import UserError


def make_pass(features: Tensor, weight: Tensor | None = None, **changes: object) -> Pass:
    """A pass whose tail is GAP and a linear layer, explained for class 0."""
    weight = torch.ones(1, features.shape[1], dtype=features.dtype) if weight is None else weight
    fields = {
        "images": features,
        "features": features,
        "target": torch.zeros(len(features), dtype=torch.long),
        "score": lambda output, rows: output[:, 0],
        "tail": lambda part, rows: part.flatten(2).mean(2) @ weight.T,
        "model": lambda images: images,
    }
    return Pass(**(fields | changes))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def outer(rows: list[list[float]]) -> Tensor:
    """Features (1, C, h, w) in float64 from channels written as rows of a 1 x w grid."""
    return torch.tensor(rows, dtype=torch.float64)[None, :, None, :]


@pytest.mark.parametrize("shape", [(6, 3, 2), (3, 4, 5), (4, 2, 2), (5, 7), (2, 2, 3, 2)])
def test_first_component_is_the_projection_on_numpys_first_right_singular_vector(shape: tuple[int, ...]) -> None:
    features = draw(3, *shape)
    for one, found in zip(features, first_component(features), strict=True):
        flat = one.flatten(1).T.numpy()
        projected = flat @ np.linalg.svd(flat, full_matrices=False)[2][0]
        projected *= np.sign(projected[np.abs(projected).argmax()])
        np.testing.assert_allclose(found.flatten().numpy(), projected, atol=1e-9)


def test_first_component_is_not_centred() -> None:
    # One channel, all positive: centring would give values of both signs.
    features = outer([[1.0, 2.0, 3.0]])
    torch.testing.assert_close(first_component(features), features[:, 0])


def test_a_bright_blob_is_positive_whatever_the_noise() -> None:
    # pytorch-grad-cam gives a negative blob in 4 of 50 such draws.
    for seed in range(50):
        features = draw(1, 8, 7, 7, seed=seed) * 0.1
        features[:, :, 2:4, 2:4] += draw(1, 8, 1, 1, seed=1000 + seed) * 3
        found = eigen_cam(make_pass(features))[0]
        assert found[2:4, 2:4].min() > found.abs().mean() > 0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, -3.0, 0.0], [-1.0, 3.0, 0.0]),
        ([3.0, -1.0, 0.0], [3.0, -1.0, 0.0]),
        ([2.0, -2.0, -1.0], [-2.0, 2.0, 1.0]),
        ([2.0, -2.0, 0.0], [2.0, -2.0, 0.0]),
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
        ([-4.0, -1.0, -2.0], [4.0, 1.0, 2.0]),
    ],
)
def test_sign_rule(values: list[float], expected: list[float]) -> None:
    assert fix_sign(torch.tensor([values])).tolist() == [expected]


@pytest.mark.parametrize("kernel", ["sigmoid", "rbf"])
def test_kpca_is_the_first_component_of_the_centred_kernel(kernel: str) -> None:
    features = draw(2, 4, 3, 2)
    found = kpca_cam(make_pass(features, options={"kernel": kernel, "gamma": 0.3}))
    for one, ours in zip(features, found, strict=True):
        points = (one.flatten(1) - one.flatten(1).mean(1, keepdim=True)).T.numpy()
        count = len(points)
        k = np.empty((count, count))
        for i, j in itertools.product(range(count), repeat=2):
            distance = ((points[i] - points[j]) ** 2).sum()
            k[i, j] = np.tanh(0.3 * points[i] @ points[j] + 1) if kernel == "sigmoid" else np.exp(-0.3 * distance)
        centring = np.eye(count) - 1 / count
        values, vectors = np.linalg.eigh(centring @ k @ centring)
        expected = vectors[:, -1] * np.sqrt(values[-1])
        expected *= np.sign(expected[np.abs(expected).argmax()])
        np.testing.assert_allclose(ours.flatten().numpy(), expected, atol=1e-9)


def test_kpca_names_its_kernels_and_refuses_a_grid_that_is_too_large() -> None:
    with pytest.raises(UserError, match="'poly'; expected 'sigmoid' or 'rbf'"):
        kpca_cam(make_pass(draw(1, 2, 2, 2), options={"kernel": "poly"}))
    with pytest.raises(UserError, match="4225 positions; expected at most 4096"):
        kpca_cam(make_pass(torch.zeros(1, 1, 65, 65)))


def test_fem_counts_the_means_of_rare_positions() -> None:
    features = draw(2, 5, 4, 6)
    features[:, :, 1, 2] += 8
    found = fem(make_pass(features, options={"k": 1.0}))
    expected = torch.zeros_like(found)
    for n, k, i, j in itertools.product(*map(range, features.shape)):
        channel = features[n, k].numpy()
        if channel[i, j] > channel.mean() + channel.std():
            expected[n, i, j] += channel.mean()
    assert expected.count_nonzero() > 1
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_fem_ignores_constant_channels() -> None:
    # In float32 the mean of 49 times 0.1 is not 0.1.
    features = torch.full((1, 2, 7, 7), 0.1)
    features[:, 1, 3, 3] = 50
    found = fem(make_pass(features))[0]
    assert found[3, 3] > 1
    assert found.count_nonzero() == 1
    # Of n positions none exceeds the mean by more than sqrt(n - 1) standard deviations.
    assert fem(make_pass(draw(1, 9, 1, 5))).count_nonzero() == 0


def test_concepts_of_a_non_negative_product_are_recovered() -> None:
    # Each concept is alone somewhere, so the factors are unique up to order.
    concepts = torch.tensor([[[3.0, 4.0, 0.0], [0.0, 0.6, 0.8]]], dtype=torch.float64)
    maps = torch.tensor([[[2.0, 1.0, 0.0, 0.0], [0.0, 0.5, 1.0, 3.0]]], dtype=torch.float64)
    features = torch.einsum("nrc,nrp->ncp", concepts, maps)[..., None]
    found_concepts, found_maps = factor_concepts(features, 2, sweeps=2000)
    order = found_concepts[0, :, 0].argsort(descending=True)
    unit = torch.tensor([[0.6, 0.8, 0.0], [0.0, 0.6, 0.8]], dtype=torch.float64)
    torch.testing.assert_close(found_concepts[0, order], unit, atol=1e-3, rtol=0)
    torch.testing.assert_close(found_maps[0, order, :, 0], maps[0] * torch.tensor([[5.0], [1.0]]), atol=1e-2, rtol=0)


def test_concepts_are_non_negative_unit_and_fit_as_well_as_scikit_learns() -> None:
    decomposition = pytest.importorskip("sklearn.decomposition", reason="the reference factorisation")
    features = draw(3, 20, 5, 5).relu()
    concepts, maps = factor_concepts(features, 4)
    assert concepts.min() >= 0
    assert maps.min() >= 0
    torch.testing.assert_close(concepts.norm(dim=2), torch.ones(3, 4, dtype=torch.float64))
    left = features - torch.einsum("nrc,nrhw->nchw", concepts, maps)
    for one, rest in zip(features, left, strict=True):
        reference = decomposition.NMF(4, init="nndsvd", max_iter=2000, tol=1e-8).fit(one.flatten(1).T.numpy())
        assert rest.norm() <= reference.reconstruction_err_ * 1.01


def test_concepts_beyond_the_rank_are_zero_and_negative_features_count_as_zero() -> None:
    features = outer([[1.0, 2.0, -5.0], [2.0, 4.0, -1.0]])
    concepts, maps = factor_concepts(features, 5)
    torch.testing.assert_close(torch.einsum("nrc,nrhw->nchw", concepts, maps), features.relu())
    assert (maps.flatten(2).sum(2) > 0).sum() == 1
    assert torch.equal(factor_concepts(-features.abs(), 2)[1], torch.zeros(1, 2, 1, 3, dtype=torch.float64))
    with pytest.raises(UserError, match="'concepts' is 0; expected 1 or more"):
        factor_concepts(features, 0)


def test_dff_shows_the_concept_that_raises_the_score_most() -> None:
    features = outer([[4.0, 4.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    for weight, expected in ([1.0, 0.0], [4.0, 4.0, 0.0, 0.0]), ([-1.0, 1.0], [0.0, 0.0, 1.0, 0.0]):
        p = make_pass(features, torch.tensor([weight], dtype=torch.float64), options={"concepts": 2})
        assert dff(p)[0, 0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("run", [eigen_cam, kpca_cam, fem, dff])
def test_batch_is_its_images_and_dtype_and_shape_stay(run) -> None:
    features = draw(4, 6, 3, 5).relu().float()
    features[:, 2] = 0  # a dead channel
    features[:, 3] = 0.7  # and a constant one
    whole = run(make_pass(features))
    assert whole.dtype == torch.float32
    assert whole.shape == (4, 3, 5)
    for i in range(4):
        torch.testing.assert_close(run(make_pass(features[i : i + 1])), whole[i : i + 1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("run", [eigen_cam, fem, dff])
def test_map_scales_with_the_features(run) -> None:
    features = draw(1, 6, 3, 5).relu()
    torch.testing.assert_close(run(make_pass(features * 1e-9)) * 1e9, run(make_pass(features)))


@pytest.mark.parametrize("run", [eigen_cam, kpca_cam, fem, dff])
@pytest.mark.parametrize("value", [0.0, 0.3])
def test_constant_features_give_a_finite_flat_map(run, value: float) -> None:
    found = run(make_pass(torch.full((2, 4, 3, 3), value)))
    assert found.isfinite().all()
    torch.testing.assert_close(found, found[:, :1, :1].expand_as(found), atol=1e-6, rtol=0)


@pytest.mark.parametrize("run", [eigen_cam, kpca_cam, dff])
def test_an_image_that_is_not_finite_leaves_the_others_alone(run) -> None:
    features = draw(2, 4, 3, 3).relu()
    expected = run(make_pass(features[1:]))
    features[0, 0, 0, 0] = torch.nan
    found = run(make_pass(features))
    assert found[0].isnan().all()
    torch.testing.assert_close(found[1:], expected)


class _Body(nn.Module):
    """Hands its input on as the features of a layer, with a head that pytorch-grad-cam can call."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()
        self.head = nn.LazyLinear(2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.layer(images).flatten(2).mean(2))


def _peer_map(name: str, features: Tensor) -> np.ndarray:
    peers = pytest.importorskip("pytorch_grad_cam", reason="the peer to compare with")
    body = _Body()
    body(features.float())
    with getattr(peers, name)(model=body, target_layers=[body.layer]) as peer:
        return peer.get_cam_image(features, body.layer, None, features.numpy(), None, False)


@pytest.mark.oracle
def test_kpca_cam_equals_pytorch_grad_cams_up_to_sign() -> None:
    features = draw(3, 6, 4, 4).float()
    ours, theirs = kpca_cam(make_pass(features)), torch.from_numpy(_peer_map("KPCA_CAM", features))
    torch.testing.assert_close(ours, fix_sign(theirs), atol=1e-5, rtol=0)


@pytest.mark.oracle
def test_eigen_cam_equals_pytorch_grad_cams_only_where_centring_changes_nothing() -> None:
    raw = draw(2, 6, 4, 4)
    centred = (raw - raw.mean((2, 3), keepdim=True)).float()
    theirs = fix_sign(torch.from_numpy(_peer_map("EigenCAM", centred)))
    torch.testing.assert_close(eigen_cam(make_pass(centred)), theirs, atol=1e-5, rtol=0)
    shifted = centred + 5
    theirs = torch.from_numpy(_peer_map("EigenCAM", shifted))
    assert theirs.min() < 0 < eigen_cam(make_pass(shifted)).min()


@pytest.mark.oracle
def test_fem_differs_from_pytorch_grad_cams_which_weights_the_activations() -> None:
    features = draw(1, 5, 4, 4)
    features[:, :, 1, 2] += 8
    theirs = _peer_map("FEM", features)[0]
    ours = fem(make_pass(features))[0].numpy()
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] < 0.999
