"""What is said of a model: preprocessing, class names, and what its scores are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.data import create_transform
from torch import Tensor, nn
from torchvision import models, transforms
from torchvision.transforms import v2

import whycam
from whycam.data.preprocess import NAMED, Preprocess
from whycam.errors import UserError
from whycam.intake.request import Request, read_preprocess
from whycam.model.bare import take_off
from whycam.model.input import normalise_on

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
STEPS: list[Any] = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()]
STEPS_V2: list[Any] = [v2.Resize(256), v2.CenterCrop(224), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
NORMAL = transforms.Normalize(*IMAGENET)


def make_net(*last: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4), *last
    ).eval()


class Functional(nn.Module):
    """A softmax that is no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = make_net()

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images).softmax(1)


@pytest.mark.parametrize(
    "transform",
    [
        transforms.Compose([*STEPS, NORMAL]),
        v2.Compose([*STEPS_V2, v2.Normalize(*map(list, IMAGENET))]),
        create_transform(224, is_training=False, mean=IMAGENET[0], std=IMAGENET[1], interpolation="bilinear"),
        models.ResNet50_Weights.IMAGENET1K_V1.transforms(),
    ],
    ids=["torchvision", "torchvision v2", "timm", "preset"],
)
def test_a_transform_is_read(transform: object) -> None:
    found = read_preprocess(transform)
    assert (found.height_px, found.width_px, found.interpolation) == (224, 224, "bilinear")
    assert np.allclose(found.mean, IMAGENET[0])
    assert np.allclose(found.std, IMAGENET[1])


def test_a_transform_does_what_its_reading_does() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    expected = transforms.Compose([*STEPS[1:], NORMAL])(transforms.ToPILImage()(photo))
    found = read_preprocess(transforms.Compose([*STEPS, NORMAL]))
    assert np.allclose(found.normalise(photo.transpose(2, 0, 1)), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        (transforms.Compose([transforms.RandomResizedCrop(224), transforms.ToTensor()]), "a step RandomResizedCrop"),
        (transforms.Compose([transforms.ToTensor(), NORMAL]), "resizes nothing"),
        ("imagnet", "Did you mean 'imagenet'"),
        ("nowhere.json", "can't be read as a preprocessing"),
    ],
)
def test_what_is_no_preprocessing_is_refused(transform: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_preprocess(transform)


@pytest.mark.parametrize("name", NAMED)
def test_named_preprocessing_is_the_same_by_numpy_and_torch(name: str) -> None:
    how = Preprocess(height_px=4, width_px=4, **NAMED[name])
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4), dtype=np.uint8)
    assert np.array_equal(how.normalise(pixels), normalise_on(torch.from_numpy(pixels), how).numpy())
    assert Preprocess.model_validate(how.model_dump()) == how


def test_caffes_preprocessing_is_blue_first_less_its_means() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 4), dtype=np.uint8)
    found = Preprocess(**NAMED["caffe"]).normalise(pixels)
    expected = pixels[::-1].astype(np.float32) - np.array([103.939, 116.779, 123.68], np.float32)[:, None, None]
    assert np.allclose(found, expected, atol=1e-3)
    grey = Preprocess(channels="grey", mean=(0, 0, 0), std=(1, 1, 1)).normalise(pixels)
    assert grey.shape == (1, 4, 4)
    assert np.allclose(grey[0] * 255, pixels.transpose(1, 2, 0) @ np.array([0.299, 0.587, 0.114]), atol=1e-3)


@pytest.mark.parametrize(
    ("module", "activation", "is_layer"),
    [
        (make_net(), "none", False),
        (make_net(nn.Softmax(1)), "softmax", True),
        (make_net(nn.LogSoftmax(1)), "log-softmax", True),
        (make_net(nn.Sigmoid()), "sigmoid", True),
        (nn.Sequential(make_net(), nn.Softmax(1), nn.Identity()).eval(), "softmax", True),
        (Functional().eval(), "softmax", False),
        (make_net(nn.ReLU()), "none", False),
    ],
    ids=["none", "softmax", "log-softmax", "sigmoid", "softmax inside", "functional", "ReLU"],
)
def test_a_last_activation_is_measured_and_taken_off(module: nn.Module, activation: str, is_layer: bool) -> None:
    images = torch.rand(3, 3, 16, 16)
    bare, found, is_taken = take_off(module, images)
    assert (found, is_taken) == (activation, is_layer)
    if activation != "none":
        logits, expected = bare(images), make_net()(images)
        gap = logits - expected
        # Logits behind a softmax are known up to a number that all share.
        assert float((gap.detach() if is_layer else (gap - gap.mean(1, keepdim=True)).detach()).abs().max()) < 1e-4
        assert [name for name, _ in bare.named_modules()] == [name for name, _ in module.named_modules()]
    assert torch.equal(module(images), module(images))


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0])
def test_small_logits_are_no_probabilities(scale: float) -> None:
    net = make_net()
    with torch.no_grad():
        net[-1].weight.abs_().mul_(scale)
        net[-1].bias.abs_().mul_(scale)
    for images in (torch.rand(2, 3, 16, 16), torch.zeros(2, 3, 16, 16)):
        assert take_off(net, images)[1] == "none"


def test_a_models_own_probabilities_are_shown_and_its_logits_explained() -> None:
    images = torch.rand(2, 3, 16, 16)
    for last in (nn.Softmax(1), nn.Sigmoid()):
        module = make_net(last)
        why, plain = whycam.explain(module, images, 1), whycam.explain(make_net(), images, 1)
        assert torch.allclose(why.probabilities, module(images), atol=1e-6)
        assert torch.allclose(why.maps, plain.maps, atol=1e-6)
        assert why.record["activation"].endswith("taken off")


@pytest.mark.parametrize("size", ["x", "224", 224.5, 0, -1, (224, 224)])
def test_a_size_that_is_no_number_of_pixels_is_told(size: Any) -> None:
    with pytest.raises(UserError, match=r"image_size is .*; expected the side of .* in pixels, a whole number"):
        whycam.load(nn.Flatten(), preprocess="unit", image_size=size)


def test_class_names_are_checked(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("rose\n\n tulip \n", encoding="utf-8")
    request = Request(make_net(), class_names=tmp_path / "names.txt")
    assert request.name_classes(2) == ("rose", "tulip")
    with pytest.raises(UserError, match=r"has 2 class names; 'Sequential' has 4 outputs"):
        request.name_classes(4)
    with pytest.raises(UserError, match="names 'a' more than once"):
        Request("net", class_names=["a", "a"]).name_classes(2)
    (tmp_path / "names.txt").write_text("\n")
    with pytest.raises(UserError, match="is empty"):
        request.name_classes(2)


def test_a_timm_module_says_how_it_is_prepared_for() -> None:
    net = timm.create_model("test_resnet", num_classes=3)
    model = whycam.load(net, class_names=["a", "b", "c"])
    assert model.classifier.card.preprocess_from == "timm's table"
    assert model.class_names == ("a", "b", "c")


def test_a_models_own_word_on_preprocessing_is_not_overridden_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    known = Preprocess(**NAMED["half"])
    found, told = Request("net", preprocess="bytes").choose_preprocess(None, known, "a layer in it")
    assert found.std == NAMED["bytes"]["std"]
    assert told.startswith("as given")
    assert "'net' says by itself how to prepare photos (a layer in it); --preprocess overrides it." in caplog.text
    caplog.clear()
    Request("net", preprocess="half").choose_preprocess(None, known, "a layer in it")
    assert not caplog.text


def test_a_grey_keras_file_takes_photos(tmp_path: Path) -> None:
    from whycam.model.keras.library import import_keras

    keras = import_keras()
    inputs = keras.Input((32, 32, 1))
    cells = keras.layers.Conv2D(8, 3, activation="relu")(inputs)
    pooled = keras.layers.GlobalAveragePooling2D()(cells)
    keras.Model(inputs, keras.layers.Dense(3)(pooled)).save(tmp_path / "grey.keras")
    model = whycam.load(tmp_path / "grey.keras", preprocess="unit")
    assert model.preprocess.channels == "grey"
    why = model.explain(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    assert model.classifier.card.is_exact
    assert why.maps.any()
