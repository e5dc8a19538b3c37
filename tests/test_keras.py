"""Keras files: exact maps of a GAP net, what the file says of its input and output, and what is refused."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

if find_spec("keras") is None:
    pytest.skip("keras is not installed: pip install 'whycam[keras]'", allow_module_level=True)

import h5py

import whycam
from whycam.cam.registry import iter_methods
from whycam.errors import UserError
from whycam.model.keras import library
from whycam.model.keras.library import import_keras
from whycam.model.keras.open import KerasFile, open_keras, read_keras

keras: Any = import_keras()
layers = keras.layers
SIDE_PX, CLASSES = 48, 5
Build = Callable[[], Any]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    keras.utils.set_random_seed(0)


def make_gap(
    *first: Any, activation: str | None = "softmax", channels: int = 3, head: Any = None, side: int | None = SIDE_PX
) -> Any:
    """Rescaling or another beginning, two convolutions, GAP, Dense."""
    images = keras.Input((side, side, channels), name="images")
    x = images
    for layer in first:
        x = layer(x)
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="early")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Conv2D(12, 3, strides=2, padding="same", activation="relu", name="late")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    head = head or layers.Dense(CLASSES, activation=activation, name="scores", bias_initializer="random_normal")
    return keras.Model(images, head(x), name="gap")


def make_sequential() -> Any:
    return keras.Sequential(
        [
            keras.Input((SIDE_PX, SIDE_PX, 3)),
            layers.RandomFlip("horizontal"),
            layers.RandomRotation(0.2),
            layers.Rescaling(1 / 255),
            layers.Conv2D(8, 3, activation="relu", name="early"),
            layers.MaxPooling2D(),
            layers.Conv2D(12, 3, activation="relu", name="late"),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.5),
            layers.Dense(CLASSES),
            layers.Softmax(),
        ]
    )


def make_nested() -> Any:
    """A body with a residual sum inside a model, called with training=False; scaling in a model of its own."""
    inner = keras.Input((SIDE_PX, SIDE_PX, 3))
    x = layers.Conv2D(12, 3, strides=2, padding="same", name="early")(inner)
    y = layers.Activation("relu")(x)
    x = layers.Activation("relu", name="late")(layers.Add()([x, layers.Conv2D(12, 1, name="point")(y)]))
    body = keras.Model(inner, x, name="body")
    scale = keras.Sequential([layers.RandomFlip(), layers.Rescaling(1 / 127.5, offset=-1)], name="scale")
    images = keras.Input((SIDE_PX, SIDE_PX, 3))
    x = layers.GlobalAveragePooling2D()(body(scale(images), training=False))
    return keras.Model(images, layers.Dense(CLASSES, activation="softmax")(x))


def make_convolutions() -> Any:
    """The classifier is a 1x1 convolution behind the pooling; a Flatten and an Activation come after it."""
    images = keras.Input((SIDE_PX, SIDE_PX, 3))
    x = layers.Conv2D(12, 3, strides=2, activation="relu", name="late")(layers.Rescaling(1 / 255)(images))
    x = layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = layers.Flatten()(layers.Conv2D(CLASSES, 1, bias_initializer="random_normal")(x))
    return keras.Model(images, layers.Activation("softmax", name="probabilities")(x))


NETS: dict[str, tuple[Build, str]] = {
    "functional": (lambda: make_gap(layers.Rescaling(1 / 255)), "late"),
    "sequential": (make_sequential, "late"),
    "nested": (make_nested, "body"),  # whose output is that of its last layer
    "convolutions": (make_convolutions, "late"),
}


def randomise(model: Any) -> Any:
    """Statistics of normalisation too, which are 0 and 1 in a new network."""
    draw_from = np.random.default_rng(0)
    for weight in model.weights:
        if weight.name in {"moving_mean", "moving_variance"}:
            weight.assign(draw_from.uniform(0.5, 1.5, weight.shape))
    return model


def make_images(count: int = 3, side: int = SIDE_PX, channels: int = 3) -> torch.Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(1)) * 255


def run_keras(model: Any, images: torch.Tensor) -> np.ndarray:
    inputs = np.ascontiguousarray(images.numpy().transpose(0, 2, 3, 1))
    return np.asarray(keras.ops.convert_to_numpy(model(inputs, training=False)))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("net", NETS)
def test_maps_are_exact(net: str, suffix: str, tmp_path: Path) -> None:
    """mean(map) + bias is the logit, and the map is the class's weights times the layer's output, in NumPy."""
    build, layer = NETS[net]
    model = randomise(build())
    model.save(tmp_path / f"net{suffix}")
    images = make_images()
    found = open_keras(tmp_path / f"net{suffix}")
    assert (found.height_px, found.width_px, found.channels, found.class_count) == (SIDE_PX, SIDE_PX, 3, CLASSES)
    assert (found.output, found.gives_logits) == ("softmax", True)
    logits = found.network(images)
    np.testing.assert_allclose(logits.softmax(1).detach(), run_keras(model, images), atol=1e-6)
    cut = whycam.cut_model(found.network, images)
    assert (cut.layer, cut.how, cut.layout.kind) == (layer, "GAP + linear", "channels first")
    why = whycam.explain(found.network, images, "all")
    np.testing.assert_allclose(why.maps.mean((2, 3)) + cut.bias, logits.detach(), atol=1e-4)
    weights = next(w for w in reversed(model.get_weights()) if w.shape[-1] == CLASSES and w.ndim > 1)
    maps = np.einsum(
        "nhwc,ck->nkhw", read_conv(model, {"body": "body.late"}.get(layer, layer), images), weights.reshape(12, CLASSES)
    )
    np.testing.assert_allclose(why.maps, maps, atol=1e-5 * np.abs(maps).max())


def read_conv(model: Any, layer: str, images: torch.Tensor) -> np.ndarray:
    """(N, h, w, C): what the layer gives, from Keras itself."""
    *outer, name = layer.split(".")
    if outer:
        inner = model.get_layer(outer[0])
        reader = keras.Model(inner.inputs, inner.get_layer(name).output)
        scaled = keras.Model(model.inputs, model.get_layer("scale").output) if "scale" in str(model.layers) else model
        images = torch.as_tensor(run_keras(scaled, images)).permute(0, 3, 1, 2)
        return run_keras(reader, images)
    return run_keras(keras.Model(model.inputs, model.get_layer(name).output), images)


@pytest.mark.parametrize("net", NETS)
def test_grad_cam_is_the_gradient_by_hand(net: str) -> None:
    build, layer = NETS[net]
    found = read_keras(randomise(build()))
    images, kept = make_images(), []
    hook = found.network.get_submodule(layer).register_forward_hook(lambda _part, _args, output: kept.append(output))
    score = found.network(images)[:, 2].sum()
    hook.remove()
    (gradient,) = torch.autograd.grad(score, kept[0])
    by_hand = torch.einsum("nchw,nc->nhw", kept[0], gradient.mean((2, 3))).relu().detach()
    why = whycam.explain(found.network, images, 2, method="grad-cam", layer=layer)
    np.testing.assert_allclose(why.maps, by_hand, atol=1e-6 * float(by_hand.max()))
    assert by_hand.any()


def test_every_method_that_needs_no_transformer_explains_a_keras_net() -> None:
    found = read_keras(randomise(make_nested()))
    images = make_images(1)
    done, refused = [], []
    for name in (method.name for method in iter_methods()):
        try:
            assert np.isfinite(whycam.explain(found.network, images, 1, method=name).maps).all()
            done.append(name)
        except UserError:
            refused.append(name)
    assert set(refused) <= {"attention-rollout", "chefer", "le-grad", "contrast"}, refused
    assert len(done) > 10


def test_layers_inside_a_model_inside_are_named_and_can_be_cut() -> None:
    found = read_keras(randomise(make_nested()))
    cut = whycam.cut_model(found.network, make_images(), "body.early")
    assert (cut.layer, cut.how, cut.layout.kind) == ("body.early", "fx", "channels first")
    assert cut.features(make_images()).shape == (3, 12, SIDE_PX // 2, SIDE_PX // 2)


def test_a_copy_has_weights_of_its_own() -> None:
    network = read_keras(randomise(make_gap(layers.Rescaling(1 / 255)))).network
    images = make_images()
    before = network(images)
    other = copy.deepcopy(network)
    torch.testing.assert_close(other(images), before)
    with torch.no_grad():
        for weight in other.parameters():
            weight.data = torch.zeros_like(weight)
    assert not other(images).any()
    torch.testing.assert_close(network(images), before)


def test_weights_of_a_frozen_layer_stay_parameters() -> None:
    model = make_gap(layers.Rescaling(1 / 255))
    expected = [name for name, _ in read_keras(model).network.named_parameters()]
    model.trainable = False
    assert [name for name, _ in read_keras(model).network.named_parameters()] == expected
    assert "norm.gamma" in expected
    assert not any(layer.trainable for layer in model.layers)


def test_training_mode_and_inference_mode_change_nothing() -> None:
    with torch.inference_mode():
        network = read_keras(make_sequential()).network
    images = make_images()
    plain = network(images)
    torch.testing.assert_close(network.train()(images), plain)
    with torch.inference_mode():
        assert network(images).is_inference()
    assert network(images.requires_grad_()).requires_grad


def test_channels_first_is_read_as_it_is() -> None:
    images = keras.Input((3, SIDE_PX, SIDE_PX))
    x = layers.Conv2D(12, 3, data_format="channels_first", name="late")(images)
    x = layers.GlobalAveragePooling2D(data_format="channels_first")(x)
    model = keras.Model(images, layers.Dense(CLASSES, activation="softmax")(x))
    found = read_keras(model)
    assert (found.channels, found.height_px) == (3, SIDE_PX)
    np.testing.assert_allclose(
        found.network(make_images() / 255).softmax(1).detach(), model(make_images() / 255).detach(), atol=1e-6
    )
    assert whycam.cut_model(found.network, make_images()).how == "GAP + linear"


def test_a_map_as_wide_as_it_has_channels_is_not_turned() -> None:
    """12 channels of 12 x 12 cells: nothing in the shape tells the axes apart."""
    model = randomise(make_gap(layers.Rescaling(1 / 255)))
    images = make_images()
    images[:, :, : SIDE_PX // 2] = 0
    cut = whycam.cut_model(read_keras(model).network, images)
    assert cut.features(images).shape == (3, 12, 12, 12)
    np.testing.assert_allclose(cut.features(images).movedim(1, -1), read_conv(model, "late", images), atol=1e-5)


def test_half_precision_is_computed_in_float32() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = make_gap(layers.Rescaling(1 / 255), head=layers.Dense(CLASSES, activation="softmax", dtype="float32"))
    finally:
        keras.config.set_dtype_policy("float32")
    found = read_keras(model)
    assert found.network(make_images()).dtype == torch.float32
    assert whycam.cut_model(found.network, make_images()).how == "GAP + linear"


def test_a_grey_input_and_any_size() -> None:
    found = read_keras(make_gap(layers.Rescaling(1 / 255), channels=1, side=None))
    assert (found.channels, found.height_px, found.width_px) == (1, None, None)
    assert found.network(make_images(2, 32, 1)).shape == (2, CLASSES)


def test_of_several_outputs_the_scores_are_taken() -> None:
    """The original experiment's model gave the prediction and the last convolution's output."""
    model = make_gap(layers.Rescaling(1 / 255))
    both = keras.Model(model.input, [model.get_layer("late").output, model.output])
    images = make_images()
    found = read_keras(both)
    np.testing.assert_allclose(found.network(images).softmax(1).detach(), run_keras(model, images), atol=1e-6)


@pytest.mark.parametrize(
    ("activation", "classes", "output", "taken"),
    [
        ("softmax", 5, "softmax", "scores"),
        ("sigmoid", 5, "sigmoid", "scores"),
        ("sigmoid", 1, "sigmoid", "scores"),
        (None, 5, "logits", ""),
        ("tanh", 5, "logits", ""),
    ],
)
def test_the_output_is_measured(activation: str | None, classes: int, output: str, taken: str) -> None:
    head = layers.Dense(classes, activation=activation, name="scores")
    model = make_gap(layers.Rescaling(1 / 255), head=head)
    found = read_keras(model)
    assert (found.output, found.activation, found.gives_logits, found.class_count) == (output, taken, True, classes)


def test_an_activation_that_others_read_stays() -> None:
    images = keras.Input((SIDE_PX, SIDE_PX, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(12, 3)(images))
    first = layers.Dense(CLASSES, activation="softmax")
    model = keras.Model(images, layers.Average()([first(x), layers.Softmax()(layers.Dense(CLASSES)(x))]))
    found = read_keras(model)
    assert (found.output, found.activation, found.gives_logits) == ("softmax", "", False)


def make_caffe(images: Any) -> Any:
    """Keras's own for VGG: BGR, less the mean."""
    return keras.applications.vgg16.preprocess_input(images)


FIRST: dict[str, tuple[Callable[[], list[Any]], float | None, str]] = {
    "255": (lambda: [layers.Rescaling(1 / 255)], 255, "0.003922 x"),
    "127.5": (lambda: [layers.RandomFlip(), layers.Rescaling(1 / 127.5, -1)], 255, "0.007843 x -1"),
    "imagenet": (
        lambda: [layers.Rescaling(1 / 255), layers.Normalization(mean=[0.485, 0.456, 0.406], variance=[0.05] * 3)],
        255,
        "'rescaling",
    ),
    "normalised unit": (lambda: [layers.Normalization(mean=[0.485, 0.456, 0.406], variance=[0.05] * 3)], 1, "0 to 1"),
    "times 255": (lambda: [layers.Rescaling(255)], 1, "255 x"),
    "caffe": (lambda: [make_caffe], 255, "1 x -103.9 | 1 x -116.8 | 1 x -123.7"),
    "operators": (lambda: [lambda x: x / 255 - 0.5], 255, "-0.5"),
    "resized": (lambda: [layers.Resizing(32, 32), layers.Rescaling(1 / 255)], 255, "0 to 255"),
    "nothing": (lambda: [], None, "nothing inside"),
    "double": (lambda: [layers.Rescaling(2, offset=-1)], 1, "2 x -1"),
    "unclear": (lambda: [layers.Normalization(mean=[0.0, 0, 0], variance=[0.3] * 3)], None, "doesn't tell"),
    "padding": (lambda: [layers.ZeroPadding2D()], None, "nothing inside"),
}


@pytest.mark.parametrize("first", FIRST)
def test_the_preprocessing_inside_is_measured(first: str, tmp_path: Path) -> None:
    make, highest, told = FIRST[first]
    model = make_gap(*make())
    model.save(tmp_path / "net.keras")
    found = open_keras(tmp_path / "net.keras")
    assert told in found.preprocess_from
    if highest is None:
        assert found.preprocess is None
        return
    assert found.preprocess is not None
    pixels = make_images(2).to(torch.uint8)
    images = torch.from_numpy(found.preprocess.normalise(pixels.numpy()))
    assert images.max() <= highest * 1.0001
    np.testing.assert_allclose(images, pixels.float() * highest / 255, atol=1e-3)


def test_efficientnet_says_its_preprocessing() -> None:
    model = keras.applications.EfficientNetB0(weights=None, input_shape=(64, 64, 3), classes=4)
    found = read_keras(model)
    assert found.preprocess is not None
    assert "'rescaling" in found.preprocess_from
    cut = whycam.cut_model(found.network, make_images(2, 64))
    assert (cut.how, cut.layer, found.activation) == ("GAP + linear", "top_activation", "predictions")


@pytest.mark.parametrize("name", ["MobileNetV3Small", "ConvNeXtTiny"])
def test_h5_files_that_keras_writes_and_does_not_read(name: str, tmp_path: Path) -> None:
    model = getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3), classes=4)
    model.save(tmp_path / "net.h5")
    images = make_images(2, 64)
    found = open_keras(tmp_path / "net.h5").network(images).softmax(1).detach()
    np.testing.assert_allclose(found, run_keras(model, images), atol=1e-5)


def save_custom(path: Path) -> None:
    class Halve(layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x / 2

    make_gap(Halve(name="mine")).save(path)


def save_lambda(path: Path) -> None:
    make_gap(layers.Lambda(lambda x: x / 2, name="halve")).save(path)


def save_two_inputs(path: Path) -> None:
    first, second = keras.Input((8, 8, 3), name="a"), keras.Input((8, 8, 3), name="b")
    x = layers.GlobalAveragePooling2D()(layers.Add()([first, second]))
    keras.Model([first, second], layers.Dense(2)(x)).save(path)


def save_table(path: Path) -> None:
    keras.Sequential([keras.Input((10,)), layers.Dense(2)]).save(path)


def save_body(path: Path) -> None:
    model = make_gap()
    keras.Model(model.input, model.get_layer("late").output).save(path)


def save_two_heads(path: Path) -> None:
    model = make_gap()
    x = model.get_layer("pool").output
    keras.Model(model.input, [model.output, layers.Dense(3)(x)]).save(path)


def save_weights(path: Path) -> None:
    make_gap().save_weights(path.with_suffix(".weights.h5"))
    path.with_suffix(".weights.h5").rename(path)


def save_old_weights(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"block1_conv1", b"block1_conv2"]


def write(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None  # type: ignore[func-returns-value]


def save_empty_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no model")


def save_cut(path: Path) -> None:
    whole = path.with_suffix(".h5")
    make_gap().save(whole)
    path.write_bytes(whole.read_bytes()[:3000])


def save_tensorflow(path: Path) -> None:
    make_gap().save(path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][1]["class_name"] = "TFOpLambda"
        file.attrs["model_config"] = json.dumps(config)


def save_renamed(path: Path) -> None:
    save_table(path.with_suffix(".h5"))
    path.with_suffix(".h5").rename(path)


BAD: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "custom": ("net.keras", save_custom, r"author's own, Halve \(layer 'mine'\).*register_keras_serializable"),
    "custom h5": ("net.h5", save_custom, r"author's own, Halve \(layer 'mine'\).*custom_objects"),
    "lambda": ("net.keras", save_lambda, r"Lambda layer, 'halve': code.*safe_mode=False"),
    "lambda h5": ("net.h5", save_lambda, r"Lambda layer, 'halve': code.*Rescaling"),
    "two inputs": ("net.keras", save_two_inputs, r"2 inputs, a \(None, 8, 8, 3\), b.*expected one"),
    "table": ("net.keras", save_table, r"input of shape \(None, 10\); expected images"),
    "no top": ("net.keras", save_body, r"\(None, 12, 12, 12\); expected scores.*include_top"),
    "two heads": ("net.keras", save_two_heads, r"2 outputs that could be the scores.*model.outputs\[0\]"),
    "weights": ("net.h5", save_weights, r"holds weights of \d+ layers, and no model.*load_weights"),
    "old weights": ("net.h5", save_old_weights, r"weights of 2 layers, and no model.*--recipe vgg16-gap"),
    "text": ("net.keras", write(b"no model"), r"neither a .keras nor an .h5 file.*8 bytes"),
    "empty": ("net.h5", write(b""), r"neither a .keras nor"),
    "zip": ("net.keras", save_empty_zip, r"archive without a Keras model.*model.save"),
    "cut": ("cut.hdf5", save_cut, r"can't be read as .h5.*whole file"),
    "renamed": (
        "net.bin",
        save_renamed,
        r"Keras .h5 file by its content.*'net.h5'",
    ),
    "tensorflow": ("net.h5", save_tensorflow, r"operation of TensorFlow's, 'early' \(TFOpLambda\)"),
    "missing": ("net.keras", lambda _path: None, r"Found no file.*Check the path"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_told_with_the_remedy(case: str, tmp_path: Path) -> None:
    name, make, told = BAD[case]
    make(tmp_path / name)
    with pytest.raises(UserError, match=r"(?s)" + told):
        open_keras(tmp_path / name)


def test_a_class_that_is_registered_is_taken(tmp_path: Path) -> None:
    @keras.saving.register_keras_serializable("whycam_test")
    class Third(layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x / 3

    make_gap(Third(name="mine")).save(tmp_path / "net.keras")
    assert whycam.cut_model(open_keras(tmp_path / "net.keras").network, make_images()).how == "GAP + linear"


def test_a_class_with_a_call_of_its_own_is_refused() -> None:
    class Own(keras.Model):  # type: ignore[misc,name-defined]
        def call(self, x: Any) -> Any:
            return x

    with pytest.raises(UserError, match=r"Own\) has no graph of layers.*keras.Model\(images, model\(images\)\)"):
        read_keras(Own())


def test_keras_2_wrote_this(tmp_path: Path) -> None:
    """The old layout by hand: batch_input_shape, no modules, kernels named NAME/kernel:0."""
    config = {
        "class_name": "Sequential",
        "config": {
            "name": "sequential",
            "layers": [
                describe("Conv2D", "late", filters=4, kernel_size=[3, 3], strides=[1, 1], padding="same",
                         data_format="channels_last", activation="relu", batch_input_shape=[None, 16, 16, 3]),
                describe("GlobalAveragePooling2D", "pool", data_format="channels_last"),
                describe("Dense", "scores", units=2, activation="softmax"),
            ],
        },
    }  # fmt: skip
    draw_from = np.random.default_rng(0)
    shapes = {"late": ((3, 3, 3, 4), (4,)), "pool": (), "scores": ((4, 2), (2,))}
    values = {name: [draw_from.normal(size=s).astype("f4") for s in sizes] for name, sizes in shapes.items()}
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs.update({"keras_version": "2.2.4", "backend": "tensorflow", "model_config": json.dumps(config)})
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name in shapes]
        for name, arrays in values.items():
            names = [f"{name}/{part}:0" for part in ("kernel", "bias")][: len(arrays)]
            layer = group.create_group(name)
            layer.attrs["weight_names"] = [entry.encode() for entry in names]
            for entry, array in zip(names, arrays, strict=True):
                layer[entry] = array
    found = open_keras(tmp_path / "old.h5")
    images = make_images(2, 16)
    cut = whycam.cut_model(found.network, images)
    assert (cut.layer, cut.how, found.output) == ("late", "GAP + linear", "softmax")
    kernel, bias = (torch.from_numpy(array) for array in values["late"])
    features = torch.nn.functional.conv2d(images, kernel.permute(3, 2, 0, 1), bias, padding=1).relu()
    maps = torch.einsum("nchw,c->nhw", features, torch.from_numpy(values["scores"][0][:, 1]))
    torch.testing.assert_close(whycam.explain(found.network, images, 1).maps, maps, rtol=1e-4, atol=1e-2)


def describe(kind: str, name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": {"name": name, "trainable": True, "dtype": "float32", **config}}


def test_without_keras_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(UserError, match=r"keras is not installed.*pip install 'whycam\[keras\]'"):
        open_keras("net.keras")


def test_another_backend_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.config, "backend", lambda: "tensorflow")
    with pytest.raises(UserError, match=r"runs on tensorflow.*KERAS_BACKEND=torch"):
        open_keras("net.keras")
    monkeypatch.undo()
    monkeypatch.setattr(library, "OLDEST", (99,))
    with pytest.raises(UserError, match=r"expected 99 or later.*pip install -U"):
        open_keras("net.keras")


def test_keras_runs_on_torch_whatever_the_environment_says(tmp_path: Path) -> None:
    """And TensorFlow is not imported."""
    make_gap().save(tmp_path / "net.keras")
    code = (
        "import os, sys; from whycam.model.keras.open import open_keras; open_keras(sys.argv[1]); import keras; "
        "print(keras.config.backend(), os.environ['KERAS_BACKEND'], 'tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "net.keras"],
        env={"PYTHONPATH": ":".join(sys.path), "KERAS_BACKEND": "jax", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["torch", "jax", "False"]


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    model = make_gap(layers.Rescaling(1 / 255, name="rescaling"))
    model.save(tmp_path / "net.keras")
    found = open_keras(tmp_path / "net.keras")
    assert isinstance(found, KerasFile)
    assert (
        found.preprocess_from
        == "layer 'rescaling' inside the Keras model takes x to 0.003922 x, so its input is 0 to 255"
    )


@pytest.mark.slow
def test_the_original_experiment_in_keras(tmp_path: Path) -> None:
    """A small form of the example: its own formula gives whycam's maps, and its file says its preprocessing."""
    script = Path(__file__).parents[1] / "examples" / "keras_flowers.py"
    words = ["--side", "32", "--photos", "2", "--epochs", "1", "-o", "flowers.keras"]
    done = subprocess.run(
        [sys.executable, script, *words],
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout.split(":")[-1]) < 1e-5, done.stdout
    found = open_keras(tmp_path / "flowers.keras")
    assert found.preprocess is not None
    assert (found.class_count, found.activation, found.height_px) == (5, "flower", 32)
    images = make_images(2, 32)
    cut = whycam.cut_model(found.network, images)
    assert (cut.layer, cut.how, cut.features(images).shape) == ("cam_conv", "GAP + linear", (2, 1024, 2, 2))
