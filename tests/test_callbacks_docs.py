"""docs/callbacks.md: its lines run as they stand there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from callback_cases import make_garden, make_loader, make_net, read_inputs, train_epoch
from whycam.callbacks.recording import read_recording
from whycam.data.garden import FLOWERS

PAGE = Path(__file__).parents[1] / "docs" / "callbacks.md"


@pytest.fixture(scope="module")
def garden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_garden(tmp_path_factory.mktemp("garden"))


def read_block(title: str) -> str:
    found = re.search(rf"^## {title}\n.*?^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert found, title
    assert sum(bool(line.strip()) for line in found[1].splitlines()) <= 5
    return found[1]


def know_loop(garden: Path) -> dict[str, Any]:
    network = make_net()
    optimizer, loader = torch.optim.SGD(network.parameters(), lr=0.1), make_loader(garden)
    return {"network": network, "train_epoch": lambda net: train_epoch(net, optimizer, loader)}


def know_lightning(garden: Path) -> dict[str, Any]:
    lightning = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = make_net()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.net(images)

        def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return {"lightning": lightning, "module": Module(), "loader": make_loader(garden)}


def know_hugging_face(garden: Path) -> dict[str, Any]:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed, which Trainer needs")
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=len(FLOWERS))
    arguments = transformers.TrainingArguments(
        "trainer", num_train_epochs=2, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no"
    )
    rows = [{"pixel_values": image, "labels": label} for image, label in zip(*read_inputs(garden), strict=True)]
    network = transformers.ResNetForImageClassification(config)
    return {"transformers": transformers, "network": network, "arguments": arguments, "rows": rows}


def know_keras(garden: Path) -> dict[str, Any]:
    keras = pytest.importorskip("keras", reason="keras is not installed")
    layers, (images, labels) = keras.layers, read_inputs(garden)
    parts = [keras.Input((32, 32, 3)), layers.Rescaling(1 / 255), layers.Conv2D(8, 3, strides=4, activation="relu")]
    model = keras.Sequential([*parts, layers.GlobalAveragePooling2D(), layers.Dense(len(FLOWERS))])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return {"model": model, "images": images.numpy().transpose(0, 2, 3, 1), "labels": labels.numpy()}


def know_fastai(garden: Path) -> dict[str, Any]:
    pytest.importorskip("fastai.learner", reason="fastai is not installed")
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner

    loader = make_loader(garden)
    return {"learner": Learner(DataLoaders(loader, loader), make_net(), loss_func=nn.CrossEntropyLoss())}


@pytest.mark.parametrize(
    ("title", "know"),
    [
        ("A loop of your own", know_loop),
        ("PyTorch Lightning", know_lightning),
        ("Hugging Face Trainer", know_hugging_face),
        ("Keras 3, on torch", know_keras),
        ("fastai", know_fastai),
    ],
)
def test_five_lines_record_a_training(
    garden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, title: str, know: Callable[[Path], dict[str, Any]]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    known = know(garden)
    for name in ("photos", "masks"):
        Path(name).symlink_to(garden / name)
    exec(read_block(title), known)
    lines = read_recording(Path("recording")).epochs
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert lines[-1]["moved"] is not None


def test_the_lines_of_loggers_run(garden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    monkeypatch.chdir(tmp_path)
    Path("photos").symlink_to(garden / "photos")
    known: dict[str, Any] = {}
    exec("from whycam.callbacks import Recorder\n" + read_block("Loggers"), known)
    known["recorder"].begin(make_net())
    assert list(Path("runs/board").glob("events*"))
