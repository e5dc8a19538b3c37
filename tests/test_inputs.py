"""What whycam.explain is handed: what simply works, and what is told instead of a traceback."""

from __future__ import annotations

from collections import UserDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import whycam
from whycam.errors import UserError
from whycam.explainer import passes
from whycam.model.cut import tap
from whycam.model.cut.tap import cut_model


def make_net() -> nn.Sequential:
    torch.manual_seed(1)
    body = [nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


def make_images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 20, 20, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.numpy(),
        lambda x: x.double().numpy(),
        lambda x: x.numpy().transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)[:, ::-1].copy()[:, ::-1],
        list,
        lambda x: tuple(x.numpy()),
        lambda x: [one[None] for one in x],
        lambda x: [x[:2], x[2:]],
        nn.Parameter,
    ],
)
def test_normalised_images_in_any_container(change: Any) -> None:
    net, images = make_net(), make_images()
    expected = whycam.explain(net, images, "all")
    found = whycam.explain(net, change(images), "all")
    assert torch.allclose(found.maps, expected.maps, atol=1e-6)
    assert torch.allclose(found.logits, expected.logits, atol=1e-6)


def test_arrays_of_numbers_that_are_read_only_stay_as_they_are() -> None:
    array = make_images().numpy().copy()
    array.flags.writeable = False
    before = array.copy()
    whycam.explain(make_net(), array, method="rise", masks=10)
    assert np.array_equal(array, before)


PHOTO = Image.new("RGB", (20, 20))


@pytest.mark.parametrize(
    ("images", "found"),
    [
        ("photo.jpg", "a path, 'photo.jpg'"),
        (Path("photo.jpg"), "a path, 'photo.jpg'"),
        (PHOTO, "a PIL image"),
        ([PHOTO, PHOTO], "a list of PIL images"),
        (["a.jpg", "b.jpg"], "a list of paths"),
        (np.asarray(PHOTO), r"whole numbers, \(20, 20, 3\) uint8"),
        (np.zeros((2, 3, 20, 20), np.uint8), r"whole numbers, \(2, 3, 20, 20\) uint8"),
        (make_images().byte(), r"whole numbers, \(2, 3, 20, 20\) uint8"),
        (torch.zeros(3, 20, 20, dtype=torch.uint8), r"whole numbers, \(3, 20, 20\) uint8"),
        (make_images().long(), r"whole numbers, \(2, 3, 20, 20\) int64"),
        ([np.asarray(PHOTO)], r"whole numbers, \(1, 20, 20, 3\) uint8"),
    ],
)
def test_photos_are_told_to_need_preprocessing(images: Any, found: str) -> None:
    with pytest.raises(UserError, match=found) as raised:
        whycam.explain(make_net(), images)
    assert "whycam.load(module, class_names=..., preprocess=...)" in str(raised.value)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"image": make_images(), "label": 3}, r"a dict with 'image', 'label'.*images\['image'\]"),
        (UserDict(pixel_values=make_images(), extra=1), r"a UserDict with .*images\['pixel_values'\]"),
        ({}, "an empty dict"),
        ([make_images(1)[0], torch.zeros(3, 8, 8)], r"different sizes, \(3, 20, 20\) and \(3, 8, 8\)"),
        ((make_images(), torch.zeros(3)), r"different sizes, \(3, 3, 20, 20\) and \(3,\).*pass the images alone"),
        ([make_images(), None], "a list of Tensor and NoneType"),
        (None, "a NoneType"),
        (3.5, "a float"),
        ([], "0 images"),
        (np.zeros((0, 3, 20, 20), np.float32), "0 images"),
        (np.array(["a"]), "an array of <U1"),
        (np.zeros((1, 3, 20, 20), complex), "an array of complex128"),
        (torch.tensor(1.0), r"4 axes.*got \(\)"),
        (make_images()[0].numpy(), r"images\[None\]"),
    ],
)
def test_what_is_no_batch_of_images_is_told(images: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        whycam.explain(make_net(), images)


@pytest.mark.parametrize(
    ("images", "hint"),
    [
        (make_images()[:, :1], r"takes 3 channels and these have 1.*images.expand\(-1, 3, -1, -1\)"),
        (make_images()[:, :2], "takes 3 channels and these have 2"),
        (make_images().movedim(1, -1), r"takes 3 channels and these have 20.*images.movedim\(-1, 1\)"),
    ],
)
@pytest.mark.parametrize("how", [{}, {"layer": "2", "method": "grad-cam"}, {"method": "rise"}])
def test_channels_that_the_model_does_not_take(images: Tensor, hint: str, how: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=hint) as raised:
        whycam.explain(make_net(), images, **how)
    assert "RuntimeError: Given groups=1, weight of size [6, 3, 3, 3]" in str(raised.value)
    assert f"{(2, *images.shape[1:])} float32 on cpu, the first of 3 images" in str(raised.value)
    with pytest.raises(UserError, match=hint):
        whycam.explain(make_net(), images, layer=cut_model(make_net(), make_images()))
    with pytest.raises(UserError, match=hint):
        cut_model(make_net(), images)


class Pair(nn.Module):
    """Images and texts to one score each, as CLIP."""

    def __init__(self) -> None:
        super().__init__()
        self.net = make_net()

    def forward(self, images: Tensor, texts: Tensor, *, scale: float = 1) -> Tensor:
        return scale * self.net(images) @ texts.T


class Named(Pair):
    def forward(self, input_ids: Tensor | None = None, pixel_values: Tensor | None = None) -> Tensor:
        return self.net(pixel_values)


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.table = make_net(), {}

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images) + self.table["first line\nsecond line"]


def test_a_model_that_raises_is_told_as_its_own_error() -> None:
    with pytest.raises(UserError, match=r"forward\(\) missing 1 required positional argument: 'texts'") as raised:
        whycam.explain(Pair().eval(), make_images())
    for words in ("TypeError", "(2, 3, 20, 20) float32", "takes images, texts", "Wrap it in a module"):
        assert words in str(raised.value)
    with pytest.raises(UserError, match=r"first input of its forward is input_ids; images are pixel_values"):
        whycam.explain(Named().eval(), make_images())
    with pytest.raises(UserError, match=r"KeyError: .*first line") as raised:
        whycam.explain(Broken().eval(), make_images())
    assert isinstance(raised.value.__cause__, KeyError)
    assert "\n" not in str(raised.value)


def test_a_model_that_takes_pixels_itself_gets_them() -> None:
    class Pixels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = make_net()

        def forward(self, images: Tensor) -> Tensor:
            return self.net(images / 255)

    pixels = torch.randint(0, 256, (2, 3, 20, 20), dtype=torch.uint8)
    module = Pixels().eval()
    assert torch.allclose(whycam.explain(module, pixels).logits, module(pixels))


@pytest.mark.parametrize("place", [(tap, "find_linear"), (passes, "_keep_autocast")])
def test_an_error_of_our_own_is_not_blamed_on_the_model(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(*place, fail)
    with pytest.raises(ZeroDivisionError, match="ours"):
        whycam.explain(make_net(), make_images())


def test_another_precision_does_not_make_our_errors_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("ours")

    assert whycam.explain(make_net(), make_images().double()).maps.dtype == torch.float32
    monkeypatch.setattr(passes, "_keep_autocast", fail)
    with pytest.raises(ZeroDivisionError, match="ours"):
        whycam.explain(make_net(), make_images().double())


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (lambda images: images, "a function"),
        ("resnet50", "'resnet50'"),
        (None, "a NoneType"),
        (nn.Sequential, "a class"),
    ],
)
def test_what_is_no_module_is_told(module: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        whycam.explain(module, make_images())
    assert "torch.nn.Module" in str(raised.value)
    assert "whycam.load(" in str(raised.value)


def test_a_model_of_scores_for_other_than_each_image_is_told() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = make_net()

        def forward(self, images: Tensor) -> Tensor:
            return self.net(images).squeeze()

    assert whycam.explain(Flat().eval(), make_images(2), method="grad-cam").logits.shape == (2, 4)
    with pytest.raises(UserError, match=r"scores of 4 images for 1.*\(N, K\)"):
        whycam.explain(Flat().eval(), make_images(1), method="grad-cam")


@pytest.mark.parametrize("method", ["rise", "occlusion"])
def test_a_network_without_cells_is_explained_by_its_scores(method: str) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)).eval()
    options = {"masks": 20} if method == "rise" else {}
    why = whycam.explain(net, torch.rand(2, 3, 16, 16), 1, method=method, **options)
    assert why.maps.any()
    assert why.record["cut"] == "scores alone"
    with pytest.raises(UserError, match="gives features with cells"):
        whycam.explain(net, torch.rand(2, 3, 16, 16), method="grad-cam")
    model = whycam.load(net, preprocess="unit", image_size=16)
    assert model.explain(np.zeros((20, 20, 3), np.uint8), method=method, **options).maps.isfinite().all()
