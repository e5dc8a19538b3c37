"""Keras's own VGG16 weights in the recipe of the original experiment."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import whycam
from whycam.config import make_train_options
from whycam.errors import UserError
from whycam.jobs.train import train
from whycam.model.backbone import make_backbone, read_weights
from whycam.model.keras.library import import_keras

if find_spec("keras") is None:
    pytest.skip("keras is not installed: pip install 'whycam[keras]'", allow_module_level=True)

import h5py

keras = import_keras()


def write_notop(path: Path, model: Any) -> None:
    """As Keras's file has it: a group for each layer, kernels (H, W, I, O) named NAME_W_1:0."""
    with h5py.File(path, "w") as file:
        names = [layer.name for layer in model.layers]
        file.attrs["layer_names"] = [name.encode() for name in names]
        for layer in model.layers:
            group = file.create_group(layer.name)
            entries = [f"{layer.name}_{part}_1:0" for part in "Wb"][: len(layer.weights)]
            group.attrs["weight_names"] = [entry.encode() for entry in entries]
            for entry, weight in zip(entries, layer.get_weights(), strict=True):
                group[entry] = weight


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    """VGG16 without its top, with random weights and biases, and its file."""
    keras.utils.set_random_seed(0)
    model = keras.applications.VGG16(weights=None, include_top=False, input_shape=(64, 64, 3))
    for weight in model.weights:
        if weight.name == "bias":
            weight.assign(np.random.default_rng(0).normal(0, 0.1, weight.shape))
    path = tmp_path_factory.mktemp("vgg") / "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    write_notop(path, model)
    yield model, path
    path.unlink()


def test_photos_give_the_features_that_keras_gives(vgg: tuple[Any, Path]) -> None:
    """Blue first, mean and scale are taken care of, up to the edges of the photo."""
    model, path = vgg
    pixels = np.random.default_rng(1).integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)
    inputs = keras.applications.vgg16.preprocess_input(pixels.transpose(0, 2, 3, 1).astype("f4"))
    reader = keras.Model(model.input, model.get_layer("block5_conv3").output)
    expected = np.asarray(keras.ops.convert_to_numpy(reader(inputs))).transpose(0, 3, 1, 2)
    made = make_backbone("vgg16", weights=path, image_size=64, map_stride=16)
    with torch.no_grad():
        found = made.module.forward_features(torch.from_numpy(made.preprocess.normalise(pixels)))
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())
    assert made.source == f"file {path.name}"


def test_a_whole_model_holds_the_same(vgg: tuple[Any, Path], tmp_path: Path) -> None:
    model, path = vgg
    model.save(tmp_path / "vgg.h5")
    expected, found = read_weights(path), read_weights(tmp_path / "vgg.h5")
    assert len(expected) == 26
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


@pytest.mark.slow
def test_the_recipe_takes_the_file(vgg: tuple[Any, Path], shapes_folder: Path, tmp_path: Path) -> None:
    options = make_train_options(
        recipe="vgg16-gap", weights=vgg[1], epochs=1, steps_per_epoch=1, batch_size=4, image_size=64
    )
    train(shapes_folder, tmp_path / "run", options)
    model = whycam.load(tmp_path / "run")
    assert model.preprocess.mean == pytest.approx((123.68 / 255, 116.779 / 255, 103.939 / 255))
    why = model.explain(next(shapes_folder.rglob("*.jpg")))
    assert why.maps.shape == (1, 4, 4)
    assert float(model.origin["identity_error"]) < 1e-4


def test_another_network_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "resnet.h5", "w") as file:
        file["conv1_conv/kernel:0"] = np.zeros((7, 7, 3, 64), "f4")
    with pytest.raises(UserError, match=r"0 of VGG's convolutions.*block1_conv1 to block5_conv3"):
        make_backbone("vgg16", weights=tmp_path / "resnet.h5")
    (tmp_path / "text.h5").write_text("no weights")
    with pytest.raises(UserError, match=r"can't be read as .h5.*whole file"):
        make_backbone("vgg16", weights=tmp_path / "text.h5")
