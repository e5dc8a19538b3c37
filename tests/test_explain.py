"""explain() and Model on real photos with the installed network, and on small nets of one's own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
import torch
from PIL import Image
from torch import Tensor, nn

import whycam
from whycam.cam import forward
from whycam.errors import UserError
from whycam.explainer.model import load
from whycam.model.cut.tap import cut_model

PHOTOS = [Path(skimage.__file__).parent / "data" / name for name in ("chelsea.png", "coffee.png", "astronaut.png")]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model() -> whycam.Model:
    return load("imagenet", device="cpu")


def make_net(classes: int = 4, dims: int = 2) -> nn.Sequential:
    torch.manual_seed(1)
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[dims - 1](1)
    body = [conv(3, 6, 3, stride=2), nn.ReLU(), conv(6, 8, 3), nn.ReLU()]
    return nn.Sequential(*body, pool, nn.Flatten(), nn.Linear(8, classes)).eval()


def make_images(count: int = 3, dims: int = 2) -> Tensor:
    return torch.randn(count, 3, *[20] * dims, generator=torch.Generator().manual_seed(2))


def test_identity_on_photos(model: whycam.Model) -> None:
    why = model.explain(PHOTOS, "all")
    bias = model.network.classifier.bias
    gap = (why.maps.mean(dim=(2, 3)) + bias - why.logits).abs().amax(1)
    assert bool((gap < 1e-4 * (why.logits.amax(1) - why.logits.amin(1))).all())
    assert why.paths == tuple(PHOTOS)
    assert "cat" in why.class_names[int(why.predicted[0])]


def test_every_kind_of_image_gives_the_same(model: whycam.Model) -> None:
    path, photo = PHOTOS[0], Image.open(PHOTOS[0]).convert("RGB")
    pixels = np.asarray(photo)
    expected = model.explain(path)
    tensor = torch.from_numpy(pixels.copy()).movedim(2, 0)
    kinds: list[Any] = [str(path), photo, pixels, tensor, tensor[None], [path]]
    for kind in kinds:
        assert torch.allclose(model.explain(kind).maps, expected.maps, atol=1e-5)
    batch = torch.zeros(2, 3, 224, 224)
    assert model.explain(batch).maps.shape == (2, 7, 7)
    assert not model.explain(batch).photos


def test_targets(model: whycam.Model) -> None:
    photo = PHOTOS[0]
    top = model.explain(photo)
    index = int(top.predicted[0])
    for word in (index, str(index), top.class_names[index], torch.tensor([index]), "predicted"):
        assert torch.equal(model.explain(photo, word).maps, top.maps)
    several = model.explain(photo, [index, 3])
    assert several.maps.shape == (1, 2, 7, 7)
    assert torch.allclose(several.map(0, 0), top.map(), atol=1e-5)
    assert model.explain(photo, "top:3").target.tolist() == [top.logits[0].topk(3).indices.tolist()]
    gradient = model.explain(photo, index, method="hires-cam")
    score = model.explain(photo, lambda output: output[:, index], method="hires-cam")
    assert torch.allclose(gradient.maps, score.maps)
    assert score.name(int(score.target[0])) == "score"


def test_contrast_is_the_difference_of_two_maps(model: whycam.Model) -> None:
    why = model.explain(PHOTOS[1], 504, versus=968)
    pair = model.explain(PHOTOS[1], [504, 968])
    assert torch.allclose(why.map(), pair.map(0, 0) - pair.map(0, 1), atol=1e-5)
    bias = model.network.classifier.bias
    total = float(why.map().mean() + bias[504] - bias[968])
    assert abs(total - float(why.logits[0, 504] - why.logits[0, 968])) < 1e-4
    assert why.record["method"] == "contrast"
    assert why.draws_both_signs


def test_all_classes_of_a_linear_head_are_one_einsum(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []
    einsum = torch.einsum

    def count(*args: Any) -> Tensor:
        calls.append(tuple(args[1].shape))
        return einsum(*args)

    monkeypatch.setattr(forward.torch, "einsum", count)
    why = whycam.explain(make_net(7), make_images(), "all")
    assert why.maps.shape == (3, 7, 7, 7)
    assert calls == [(1, 7, 8)]
    is_same = len({tuple(row) for row in whycam.explain(make_net(7), make_images(), "top:2").target.tolist()}) == 1
    calls.clear()
    top = whycam.explain(make_net(7), make_images(), "top:2", method=["cam", "contrast"], versus=1)
    assert top["cam"].maps.shape == (3, 2, 7, 7)
    assert calls == [(1 if is_same else 3, 2, 8)] * 2


def test_several_methods_share_one_forward_pass() -> None:
    net, images, runs = make_net(), make_images(), []
    cut = cut_model(net, images)
    net[0].register_forward_hook(lambda *_: runs.append(1))
    found = whycam.explain(net, images, [1, 2], method=["cam", "grad-cam", "hires-cam"], layer=cut)
    assert len(runs) == 1
    assert list(found) == ["cam", "grad-cam", "hires-cam"]
    for name, why in found.items():
        alone = whycam.explain(net, images, [1, 2], method=name)
        assert torch.allclose(why.maps, alone.maps)
        assert why.record["layer"] == alone.record["layer"]


def test_a_layer_without_gradient_is_refused_only_where_it_matters() -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.head = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Linear(6, 4)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.relu(self.conv(images)).detach().amax((2, 3)))

    net = Detached().eval()
    for method in ("eigen-cam", "fem", "rise", "occlusion", "score-cam", "uniform"):
        options = {"masks": 20} if method == "rise" else {}
        assert whycam.explain(net, make_images(), method=method, layer="conv", **options).maps.isfinite().all()
    assert whycam.explain(net, make_images(), method="eigen-cam").maps.shape == (3, 18, 18)
    for method in ("grad-cam", "ablation-cam", "dff"):
        with pytest.raises(UserError, match="gradient is exactly zero"):
            whycam.explain(net, make_images(), method=method, layer="conv")


def test_several_layers() -> None:
    net, images = make_net(), make_images()
    for rule in ("mean", "max", "product", "tanh-max"):
        why = whycam.explain(net, images, [0, 1], method="layer-cam", layer=["1", "3"], fuse=rule)
        assert why.maps.shape == (3, 2, 9, 9)
        assert float(why.maps.max()) <= 1
        assert why.record["fuse"] == rule
    both = whycam.explain(net, images, method=["refine-cam", "grad-cam"])
    assert both["refine-cam"].record["layer"] == ["1", "3"]
    assert torch.equal(both["grad-cam"].maps, whycam.explain(net, images, method="grad-cam").maps)
    named = whycam.explain(net, images, method="refine-cam", layer=["1", "3"])
    assert torch.allclose(named.maps, both["refine-cam"].maps)
    with pytest.raises(UserError, match="several layers"):
        whycam.explain(net, images, layer="3", fuse="mean")


def test_smoothing_is_the_mean_of_views() -> None:
    net, images = make_net(), make_images()
    target = whycam.explain(net, images).target
    why = whycam.explain(net, images, method="hires-cam", smooth="flips")
    mirrored = whycam.explain(net, images.flip(-1), target, method="hires-cam").maps.flip(-1)
    plain = whycam.explain(net, images, method="hires-cam")
    assert torch.allclose(why.maps, (plain.maps + mirrored) / 2, atol=1e-6)
    assert torch.allclose(why.logits, plain.logits)
    assert why.record["smooth"] == "horizontal flips"
    scaled = whycam.explain(net, images, smooth="flips,scales")
    assert scaled.maps.shape == plain.maps.shape
    assert "scales 0.8, 1.25" in scaled.record["smooth"]
    with pytest.raises(UserError, match="expected flips, scales"):
        whycam.explain(net, images, smooth="flop")
    fixed = nn.Sequential(*make_net()[:4], nn.Flatten(), nn.Linear(8 * 49, 4)).eval()
    with pytest.raises(UserError, match="take smooth='flips'"):
        whycam.explain(fixed, images, method="grad-cam", smooth="scales")


@pytest.mark.parametrize("dims", [1, 3])
def test_signals_and_volumes(dims: int, tmp_path: Path) -> None:
    why = whycam.explain(make_net(dims=dims), make_images(2, dims), [0, 1], method="grad-cam")
    assert why.maps.shape == (2, 2, *[7] * dims)
    assert why.map(1, 1).shape == (7,) * dims
    for draw in (why.heatmap, why.boxes):
        with pytest.raises(UserError, match=r"signal or a volume.*raw values"):
            draw()
    assert why.to_png() is None
    why.save(tmp_path)
    assert np.load(tmp_path / "0001-1.npy").shape == (7,) * dims


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("method", ["cam", "grad-cam", "hires-cam", "ablation-cam"])
def test_a_single_logit_explains_the_side_it_predicts(sign: int, method: str) -> None:
    net, images = make_net(classes=1), make_images(1)
    head = net[-1]
    logit = net(images).item()
    head.bias.data += sign * (abs(logit) + 1) - logit
    why = whycam.explain(net, images, method=method)
    both = nn.Sequential(*net[:-1], nn.Linear(8, 2)).eval()
    both[-1].weight.data = torch.cat([head.weight.data, -head.weight.data])
    both[-1].bias.data = torch.cat([head.bias.data, -head.bias.data])
    assert torch.allclose(why.maps, whycam.explain(both, images, 0 if sign > 0 else 1, method=method).maps)
    assert float(why.probabilities) == pytest.approx(float(why.logits.sigmoid()))
    assert ("'not class 0'" in why.notes[0][0]) == (sign < 0)


def test_picture_and_save(model: whycam.Model, tmp_path: Path) -> None:
    why = model.explain(PHOTOS[:2], "top:2")
    picture = why.to_png()
    assert picture is not None
    assert picture.startswith(b"\x89PNG")
    folder = why.save(tmp_path / "out")
    written = json.loads((folder / "explanation.json").read_text())
    assert len(written["explanations"]) == 4
    assert written["record"]["method"] == "cam"
    assert np.allclose(np.load(folder / "0001-1.npy"), why.map(1, 1))
    assert Image.open(folder / "0000-0.overlay.png").size == Image.open(PHOTOS[0]).size
    assert [len(one) for one in why] == [1, 1]


def test_a_photo_that_is_not_there_is_told(model: whycam.Model) -> None:
    why = model.explain(PHOTOS[:2])
    asked = (lambda: why[30], lambda: why[-3], lambda: why.map(2), lambda: why.overlay(7), lambda: why.reading(-9))
    for ask in asked:
        told = r"Found photo -?\d+; expected 0 to 1, or -1 for the last: this explanation is of 2 photos"
        with pytest.raises(UserError, match=told):
            ask()
    with pytest.raises(IndexError):
        why[2]
    with pytest.raises(UserError, match=r"Found slice\(0, 1, None\) \(slice\) for a photo; expected its number"):
        why[0:1]
    assert torch.equal(why[-1].maps, why[np.int64(1)].maps)
    assert torch.equal(why.map(-2), why.map(0))


def test_errors_name_what_is_near(model: whycam.Model) -> None:
    net, images = make_net(), make_images()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"method": "gradcam"}, "Did you mean 'grad-cam'"),
        ({"layer": "9"}, "Unknown layer '9'"),
        ({"target": "class 9"}, "Did you mean 'class"),
        ({"target": 4}, r"outside 0\.\.3"),
        ({"target": torch.tensor([1])}, "one class for each image"),
        ({"method": []}, "0 methods"),
        ({"class_names": ["a"]}, "1 class names for 4 logits"),
        ({"method": "contrast"}, "needs a second class"),
    ]
    for how, message in wrong:
        with pytest.raises(UserError, match=message):
            whycam.explain(net, images, **how)
    with pytest.raises(UserError, match=r"images\[None\]"):
        whycam.explain(net, images[0])
    with pytest.raises(UserError, match="Did you mean"):
        model.explain(PHOTOS[0], "tabby cats")
    with pytest.raises(UserError, match="no images"):
        model.explain([])
    for images, found in ((None, "NoneType"), (3, "int"), ({"image": PHOTOS[0]}, "dict")):
        with pytest.raises(UserError, match=f"Found {found}; expected a path, an image"):
            model.explain(images)


def test_a_stream_goes_on_after_an_unreadable_photo(model: whycam.Model, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    items = list(model.stream([PHOTOS[0], broken, PHOTOS[1]], batch_size=2, method="grad-cam", smooth="flips"))
    assert [photo.path for photo, _ in items] == [PHOTOS[0], broken, PHOTOS[1]]
    assert items[1][1] is None
    assert items[1][0].error
    for photo, why in (items[0], items[2]):
        assert why is not None
        alone = model.explain(photo.path, method="grad-cam", smooth="flips")
        assert torch.allclose(why.maps, alone.maps[:1], atol=1e-5)


def test_a_model_finds_its_layer_once(model: whycam.Model) -> None:
    for _ in range(2):
        model.explain(PHOTOS[0], method="grad-cam", layer="backbone.blocks.6")
    assert [key[0] for key in model.classifier._parts.cuts].count("backbone.blocks.6") == 1


def test_option_that_the_method_lacks_is_refused(model: whycam.Model) -> None:
    with pytest.raises(UserError, match="options that grad-cam does not have: masks"):
        model.explain(PHOTOS[0], method="grad-cam", masks=3)


def test_whycam_explain_stays_a_function() -> None:
    code = (
        "import whycam.explainer.explain, whycam; whycam.explain; "
        "assert whycam.explain is whycam.explainer.explain.explain"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_blank_map_says_which_reason_it_has() -> None:
    net, images = make_net(), make_images()
    with torch.no_grad():
        net[-1].weight[1] = -net[-1].weight[1].abs() - 0.1
        net[-1].weight[2] = 0
    for method in ("grad-cam", "layer-cam", "element-wise"):
        against, still = (whycam.explain(net, images, k, method=method) for k in (1, 2))
        assert not against.maps.any()
        assert all("nothing in the features of this layer speaks for it" in note[0] for note in against.notes)
        assert not still.maps.any()
        assert all("the score does not change with the features" in note[0] for note in still.notes)
    both = whycam.explain(net, images, [0, 1, 2], method="grad-cam").notes[0]
    assert ["speaks for it" in note for note in both[-2:]] == [True, False]
    scored = whycam.explain(net, images, 1, method="ablation-cam")
    assert "or the score does not change" in scored.notes[0][0]
    net[0].weight.data.zero_()
    net[0].bias.data.fill_(-1)
    net[2].weight.data.zero_()
    net[2].bias.data.fill_(-1)
    cut = cut_model(net, images)
    for method in ("cam", "grad-cam", "eigen-cam", "fem"):
        notes = whycam.explain(net, images, 0, method=method, layer=cut).notes[0]
        assert "features of this layer are all zero" in notes[0]
