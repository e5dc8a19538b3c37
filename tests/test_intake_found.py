"""Faults that a run over some hundred architectures found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import whycam
from whycam.model.cut.tap import cut_model

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Caching(nn.Module):
    """Keeps what it computed, by the device of its input, as LeViT does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.head = nn.Conv2d(3, 8, 8, stride=8), nn.ReLU(), nn.Linear(8, 5)
        self.gain, self.kept = nn.Parameter(torch.rand(8)), dict[str, Tensor]()

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.act(self.conv(images)).mean((2, 3)).tanh()
        if str(images.shape) not in self.kept:
            self.kept[str(images.shape)] = self.gain[:8]
        return self.head(pooled * self.kept[str(images.shape)])


def test_a_model_that_keeps_what_it_computed_is_cut_again() -> None:
    torch.manual_seed(0)
    net = Caching().eval()
    expected = net(IMAGES)
    for _ in range(3):
        assert cut_model(net, IMAGES).weight is None
    torch.testing.assert_close(net(IMAGES), expected)
    assert not any(isinstance(value, torch.fx.Proxy) for value in net.kept.values())


def test_class_tokens_behind_a_map_of_another_form() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = timm.create_model("pit_ti_224", num_classes=5, img_size=64).eval()
    images = torch.randn(1, 3, 64, 64)
    found = whycam.explain(net, images, method="grad-cam")
    assert found.record["layer"].endswith("norm1")
    assert whycam.explain(net, images, method="xgrad-cam").maps.any()


def test_convnext_of_keras_in_an_h5_file(tmp_path: Path) -> None:
    from whycam.model.keras.library import import_keras
    from whycam.model.keras.open import open_keras

    keras = import_keras()  # it needs the extra, as the other tests of Keras do
    block = keras.src.applications.convnext
    inputs = keras.Input((32, 32, 3))
    cells = block.ConvNeXtBlock(8, name="block")(keras.layers.Conv2D(8, 4, 4)(inputs))
    pooled = keras.layers.GlobalAveragePooling2D()(cells)
    keras.Model(inputs, keras.layers.Dense(3)(pooled)).save(tmp_path / "net.h5")
    found = open_keras(tmp_path / "net.h5")
    images = torch.rand(2, 3, 32, 32)
    expected = keras.Model(inputs, keras.layers.Dense(3)(pooled))
    assert found.network(images).shape == (2, 3)
    assert found.class_count == expected.output_shape[1]


class Constant(nn.Module):
    """Makes a tensor in its forward, which a tracer keeps on the model."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.head = nn.Conv2d(3, 8, 8, stride=8), nn.ReLU(), nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.act(self.conv(images)).mean((2, 3)).tanh()
        return self.head(pooled * torch.tensor([0.5]))


def test_a_model_that_makes_tensors_is_cut_and_keeps_none() -> None:
    torch.manual_seed(0)
    net = Constant().eval()
    before = set(vars(net))
    assert cut_model(net, IMAGES).how == "fx"
    assert set(vars(net)) == before
