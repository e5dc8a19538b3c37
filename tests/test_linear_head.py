"""Heads that are pooling and one linear map, whatever form their weights are kept in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from whycam.intake.door import open_classifier
from whycam.model.cut.tap import cut_model

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Functional(nn.Module):
    """The classifier's weights are parameters of the network itself; `is_turned`: features times weights."""

    def __init__(self, *, is_turned: bool) -> None:
        super().__init__()
        self.conv, self.is_turned = nn.Conv2d(3, 8, 3, stride=2), is_turned
        self.matrix = nn.Parameter(torch.randn(8, 5) if is_turned else torch.randn(5, 8))
        self.shift = nn.Parameter(torch.randn(5))

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.conv(images).relu().mean((2, 3))
        return pooled @ (self.matrix if self.is_turned else self.matrix.T) + self.shift


class Squeezed(nn.Module):
    """The pooled features are the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU())
        self.classifier = nn.Sequential(nn.Conv2d(8, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images)).flatten(1)


class Mixed(Functional):
    """Something stands between the pooling and the weights."""

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images).relu().mean((2, 3)).tanh() @ self.matrix + self.shift


def check_identity(net: nn.Module) -> None:
    cut = cut_model(net.eval(), IMAGES)
    assert cut.weight is not None, cut.why_not_linear
    logits, features = cut.run(IMAGES)
    maps = torch.einsum("kc,nchw->nkhw", cut.weight, features)
    torch.testing.assert_close(maps.mean((2, 3)) + cut.bias, net(IMAGES), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits, net(IMAGES), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("is_turned", [True, False])
def test_weights_of_the_network_itself_are_found(is_turned: bool) -> None:
    torch.manual_seed(0)
    check_identity(Functional(is_turned=is_turned))


def test_pooled_features_that_are_the_logits_are_exact() -> None:
    torch.manual_seed(0)
    check_identity(Squeezed())


def test_what_stands_between_is_still_seen() -> None:
    torch.manual_seed(0)
    cut = cut_model(Mixed(is_turned=True).eval(), IMAGES)
    assert cut.weight is None
    assert "stands between" in cut.why_not_linear


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_an_exported_program_has_exact_maps(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    head = [nn.Flatten(), nn.Linear(8, 5)] if kind == "linear" else [nn.Conv2d(8, 5, 1), nn.Flatten()]
    net = nn.Sequential(*body, *head).eval()
    dim = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(net, (IMAGES,), dynamic_shapes=({0: dim},))
    torch.export.save(program, tmp_path / "net.pt2")
    model = open_classifier(tmp_path / "net.pt2", device="cpu", preprocess="imagenet")
    assert model.card.is_exact, model.card.no_exact_map
    assert model.card.origin["identity_error"] < 1e-5


def test_the_bias_of_a_module_is_told() -> None:
    torch.manual_seed(0)
    model = open_classifier(Squeezed(), device="cpu", preprocess="imagenet", image_size=32)
    assert model.bias == [0.0] * 5
    net = Functional(is_turned=False)
    assert open_classifier(net, device="cpu", preprocess="imagenet", image_size=32).bias == net.shift.tolist()
