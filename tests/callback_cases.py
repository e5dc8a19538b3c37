"""What the tests of callbacks share: a garden of a few photos, a tiny network, and a training of two epochs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from whycam.callbacks import Recorder
from whycam.data.garden import FLOWERS, write_garden
from whycam.data.images import load_image
from whycam.data.preprocess import Preprocess

SIDE_PX = 32
PREPROCESS = Preprocess(height_px=SIDE_PX, width_px=SIDE_PX)
PHOTOS = 2 * len(FLOWERS)


def make_garden(folder: Path) -> Path:
    """photos/val/CLASS/0000.jpg and masks/val/CLASS/0000.png, two of each flower."""
    write_garden(folder, train_per_class=1, val_per_class=2, size_px=64)
    return folder


def make_net(seed: int = 0) -> nn.Sequential:
    """What a look from outside could disturb, BatchNorm, dropout, a frozen layer; at its end GAP and a linear layer."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Dropout2d(0.2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, len(FLOWERS)),
    )
    net[0].weight.requires_grad_(False)
    return net


def read_inputs(garden: Path) -> tuple[Tensor, Tensor]:
    """(N, 3, H, W) normalised and (N,) labels of the photos in val/."""
    paths = sorted((garden / "photos/val").glob("*/*.jpg"))
    names = sorted(FLOWERS)
    pixels = [PREPROCESS.to_pixels(load_image(path)) for path in paths]
    labels = torch.tensor([names.index(path.parent.name) for path in paths])
    return torch.stack([torch.from_numpy(PREPROCESS.normalise(one)) for one in pixels]), labels


def make_loader(garden: Path) -> DataLoader[Any]:
    """Batches of five, shuffled by torch's own random state."""
    return DataLoader(TensorDataset(*read_inputs(garden)), batch_size=5, shuffle=True)


def train_epoch(net: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader[Any]) -> None:
    net.train()
    for images, labels in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()


def make_recorder(garden: Path, out: Path, **how: Any) -> Recorder:
    given: dict[str, Any] = {"preprocess": PREPROCESS, "masks": garden / "masks", **how}
    return Recorder(garden / "photos", out, **given)


def read_state(net: nn.Module) -> dict[str, bytes]:
    """Weights and buffers, byte for byte."""
    return {name: value.detach().cpu().numpy().tobytes() for name, value in net.state_dict().items()}


def assert_goes_on_untouched(train: Callable[[bool], nn.Module]) -> None:
    """`train` gives the module that a training ends with, with the callback and without: byte for byte the same."""
    assert read_state(train(True)) == read_state(train(False))
