"""The callbacks in real trainings of two epochs: each library's training goes on untouched, and its maps are right."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import whycam
from callback_cases import (
    PREPROCESS,
    SIDE_PX,
    assert_goes_on_untouched,
    make_garden,
    make_loader,
    make_net,
    make_recorder,
    read_inputs,
)
from whycam.callbacks import Recorder
from whycam.callbacks.recording import read_recording
from whycam.data.garden import FLOWERS
from whycam.errors import UserError

NAMES = tuple(sorted(FLOWERS))


@pytest.fixture(scope="module")
def garden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_garden(tmp_path_factory.mktemp("garden"))


def check_recording(out: Path, garden: Path, model: whycam.Model) -> None:
    """Three lines, and the last one's maps are those of the trained model."""
    found = read_recording(out)
    assert [line["epoch"] for line in found.epochs] == [0, 1, 2]
    assert all(line["accuracy"] is not None for line in found.epochs)
    assert found.epochs[1]["moved"] is not None
    last, method = found.read(found.epochs[-1]), found.epochs[-1]["method"]
    for i, row in list(enumerate(found.about["photos"]))[::4]:
        why = model.explain(garden / "photos" / row["name"], target=row["class"], method=method)
        np.testing.assert_allclose(last.maps[i], why.maps[0].numpy(), rtol=1e-3, atol=1e-5)


def test_lightning(garden: Path, tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")
    from whycam.callbacks.lightning import RecordEvidence

    class Lit(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = make_net()

        def forward(self, images: Tensor) -> Tensor:
            return self.net(images)

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch: list[Tensor], _: int) -> None:
            self(batch[0])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=0.01)

    def train(is_watched: bool, part: str = "") -> nn.Module:
        lit = Lit()
        recorder = make_recorder(garden, tmp_path / f"rec{part}")
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = lightning.Trainer(
            max_epochs=2,
            accelerator="cpu",
            enable_model_summary=False,
            callbacks=[RecordEvidence(recorder, part)] if is_watched else [],
            **quiet,
        )
        trainer.fit(lit, make_loader(garden), make_loader(garden))
        assert lit.training
        return lit.net

    assert_goes_on_untouched(train)
    net = train(True, "net")
    model = whycam.load(net, preprocess=PREPROCESS, class_names=NAMES, engine="torch")
    for part in ("", "net"):
        check_recording(tmp_path / f"rec{part}", garden, model)


def test_hugging_face(garden: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed, which Trainer needs")
    from whycam.callbacks.hugging_face import RecordEvidence

    images, labels = read_inputs(garden)
    rows = [{"pixel_values": image, "labels": label} for image, label in zip(images, labels, strict=True)]

    def train(is_watched: bool) -> nn.Module:
        torch.manual_seed(0)
        config = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=len(NAMES)
        )
        network = transformers.ResNetForImageClassification(config)
        arguments = transformers.TrainingArguments(
            str(tmp_path / "trainer"),
            num_train_epochs=2,
            per_device_train_batch_size=5,
            learning_rate=0.01,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            logging_strategy="no",
        )
        recorder = make_recorder(garden, tmp_path / "rec")
        callbacks = [RecordEvidence(recorder)] if is_watched else []
        transformers.Trainer(network, arguments, train_dataset=rows, callbacks=callbacks).train()
        return network

    nets: list[nn.Module] = []
    assert_goes_on_untouched(lambda is_watched: (nets.append(train(is_watched)), nets[-1])[1])
    model = whycam.load(nets[0], preprocess=PREPROCESS, class_names=NAMES, engine="torch")
    check_recording(tmp_path / "rec", garden, model)
    assert read_recording(tmp_path / "rec").epochs[0]["method"] == "cam"


def test_keras(garden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="keras is not installed")
    from whycam.callbacks.keras import RecordEvidence

    images, labels = read_inputs(garden)
    images = ((images.numpy() * 0.5 + 0.5) * 255).transpose(0, 2, 3, 1)

    def train(is_watched: bool) -> nn.Module:
        keras.backend.clear_session()  # else the second model's layers have other names
        keras.utils.set_random_seed(0)
        layers = keras.layers
        model = keras.Sequential(
            [
                keras.Input((SIDE_PX, SIDE_PX, 3)),
                layers.Rescaling(1 / 255),
                layers.Conv2D(8, 3, strides=4, padding="same"),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Dropout(0.2),
                layers.GlobalAveragePooling2D(),
                layers.Dense(len(NAMES), activation="softmax"),
            ]
        )
        model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
        recorder = Recorder(garden / "photos", tmp_path / "rec")
        watch = [RecordEvidence(recorder)] if is_watched else []
        model.fit(images, labels.numpy(), batch_size=5, epochs=2, verbose=0, callbacks=watch)
        return model

    models: list[Any] = []
    assert_goes_on_untouched(lambda is_watched: (models.append(train(is_watched)), models[-1])[1])
    models[0].save(tmp_path / "model.keras")
    model = whycam.load(tmp_path / "model.keras", class_names=NAMES, engine="torch")
    check_recording(tmp_path / "rec", garden, model)


def test_keras_on_another_backend_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("h5py", reason="h5py is not installed")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="keras is not installed")
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    monkeypatch.delitem(sys.modules, "whycam.callbacks.keras", raising=False)
    with pytest.raises(UserError, match="Keras already runs on jax"):
        importlib.import_module("whycam.callbacks.keras")


def test_fastai(garden: Path, tmp_path: Path) -> None:
    pytest.importorskip("fastai.learner", reason="fastai is not installed")
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner

    from whycam.callbacks.fastai import RecordEvidence

    def train(is_watched: bool) -> nn.Module:
        loader = make_loader(garden)
        net = make_net()
        learner = Learner(DataLoaders(loader, loader), net, loss_func=nn.CrossEntropyLoss(), path=tmp_path)
        watch = [RecordEvidence(make_recorder(garden, tmp_path / "rec"))] if is_watched else []
        learner.add_cbs(watch)
        learner.fit(1, lr=0.01)
        learner.fit(1, lr=0.01)  # as fine_tune does
        return net

    nets: list[nn.Module] = []
    assert_goes_on_untouched(lambda is_watched: (nets.append(train(is_watched)), nets[-1])[1])
    model = whycam.load(nets[0], preprocess=PREPROCESS, class_names=NAMES, engine="torch")
    check_recording(tmp_path / "rec", garden, model)


@pytest.mark.parametrize(
    ("library", "extra"),
    [("lightning", "lightning"), ("transformers", "huggingface"), ("keras", "keras"), ("fastai", "fastai")],
)
def test_a_library_that_is_not_there_is_told(library: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"whycam.callbacks.{'hugging_face' if library == 'transformers' else library}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    for part in (library, *(one for one in sys.modules if one.startswith(f"{library}."))):
        monkeypatch.setitem(sys.modules, part, None)
    with pytest.raises(UserError, match=rf"{library}.* is not installed.*pip install 'whycam\[{extra}\]'"):
        importlib.import_module(name)


def test_callbacks_are_thin() -> None:
    folder = Path(whycam.__file__).parent / "callbacks"
    for name in ("loop", "lightning", "hugging_face", "keras", "fastai"):
        assert len((folder / f"{name}.py").read_text(encoding="utf-8").splitlines()) < 60
