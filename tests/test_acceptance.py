"""The twelve cases that class activation map libraries are known to get wrong, each named after its public thread."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

import whycam
from whycam.errors import UserError
from whycam.maps import render
from whycam.model.cut.tap import cut_model


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_net(activation: type[nn.Module] = nn.ReLU, classes: int = 4) -> nn.Sequential:
    torch.manual_seed(1)
    body = [nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), activation(), nn.Conv2d(6, 8, 3), activation()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)).eval()


def make_images(*size: int) -> Tensor:
    return torch.randn(*(size or (3, 3, 20, 20)), generator=torch.Generator().manual_seed(2))


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten().double(), b.flatten().double()]))[0, 1])


def test_01_batch_contract() -> None:
    """pytorch-grad-cam#264, #328: one target is for all the images, N for N, and another number is refused."""
    net, images = make_net(), make_images()
    shared = whycam.explain(net, images, 2, method="grad-cam++").maps
    own = whycam.explain(net, images, torch.tensor([2, 2, 2]), method="grad-cam++").maps
    assert torch.equal(shared, own)
    for i in range(3):
        assert torch.allclose(shared[i], whycam.explain(net, images[i : i + 1], 2, method="grad-cam++").maps[0])
    with pytest.raises(UserError, match=r"must be \(3,\)"):
        whycam.explain(net, images, torch.tensor([2, 1]), method="grad-cam++")


def test_02_frozen_and_without_gradients() -> None:
    """pytorch-grad-cam#254, #381, torch-cam#26: a frozen model inside no_grad has the map it has elsewhere."""
    net, images = torchvision.models.resnet18(num_classes=4).eval(), make_images(2, 3, 64, 64)
    expected = whycam.explain(net, images, 1, method="grad-cam", layer="layer3").maps
    net.requires_grad_(False)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            found = whycam.explain(net, images.clone(), 1, method="grad-cam", layer="layer3").maps
        assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("method", ["cam", "grad-cam", "layer-cam", "eigen-cam"])
def test_03_half_precision(method: str) -> None:
    """pytorch-grad-cam#493, #96: bfloat16 and autocast give float32 maps much like float32's."""
    net, images = make_net(), make_images()
    expected = whycam.explain(net, images, 1, method=method).maps
    with torch.autocast("cpu", torch.bfloat16):
        cast = whycam.explain(net, images, 1, method=method).maps
    half = whycam.explain(net.bfloat16(), images.bfloat16(), 1, method=method).maps
    for maps in (cast, half):
        assert maps.dtype == torch.float32
        assert correlation(maps, expected) > 0.99


class Pair(NamedTuple):
    a: Tensor
    b: Tensor


class Shaped(nn.Module):
    """A net whose output is in a structure."""

    def __init__(self, shape: Any) -> None:
        super().__init__()
        self.net, self.shape = make_net(), shape

    def forward(self, images: Tensor) -> Any:
        return self.shape(self.net(images))


def test_04_structured_outputs() -> None:
    """pytorch-grad-cam#481, #386, #155: the logits are found in a structure, or asked for by the names there are."""
    images, expected = make_images(), whycam.explain(make_net(), make_images(), 1, method="grad-cam").maps
    for shape in (lambda y: {"logits": y, "hidden": y[..., None, None]}, lambda y: (y,)):
        assert torch.allclose(whycam.explain(Shaped(shape).eval(), images, 1, method="grad-cam").maps, expected)
    heads = Shaped(lambda y: Pair(y, -y)).eval()
    with pytest.raises(UserError, match=r"'a'.*'b'"):
        whycam.explain(heads, images, 1, method="grad-cam")
    assert torch.allclose(whycam.explain(heads, images, 1, method="grad-cam", output="a").maps, expected)
    assert not torch.allclose(whycam.explain(heads, images, 1, method="grad-cam", output="b").maps, expected)


@pytest.mark.parametrize("is_squeezed", [True, False])
def test_05_one_logit(is_squeezed: bool) -> None:
    """pytorch-grad-cam#428, #325: the predicted side is explained and named; the probability is the sigmoid."""
    net = make_net(classes=1)
    if is_squeezed:
        net.append(nn.Flatten(0))
    images = make_images()
    why = whycam.explain(net, images, method="hires-cam")
    logits = net(images).reshape(-1)
    sign = logits.sign()[:, None, None]
    plain = whycam.explain(net, images, lambda output: output.reshape(-1), method="hires-cam").maps
    assert torch.allclose(why.maps, sign * plain)
    assert torch.allclose(why.probabilities[:, 0], logits.sigmoid())
    assert all(("'not class 0'" in note[0]) == bool(logit < 0) for note, logit in zip(why.notes, logits, strict=True))


def test_06_transformers_without_a_reshape() -> None:
    """pytorch-grad-cam#509, #513, #257: the grid is found; a layer whose cells do nothing is refused with advice."""
    options = {"embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 4, "patch_size": 8}
    for size, registers in (((32, 32), 0), ((32, 48), 0), ((32, 32), 4)):
        torch.manual_seed(0)
        vit = timm.models.VisionTransformer(img_size=size, reg_tokens=registers, **options).eval()
        nn.init.normal_(vit.head.weight)
        why = whycam.explain(vit, make_images(2, 3, *size), 1, method="grad-cam")
        assert why.maps.shape == (2, size[0] // 8, size[1] // 8)
        assert why.maps.any()
        with pytest.raises(UserError, match=r"gradient is exactly zero.*Take layer='blocks\.1\.norm1'"):
            whycam.explain(vit, make_images(2, 3, *size), 1, method="grad-cam", layer="blocks.1")


def test_07_in_place_operations() -> None:
    """pytorch-grad-cam#147, torch-cam#72: an in-place ReLU behind the layer changes nothing; see also test_tap.py."""
    images, maps = make_images(), []
    for inplace in (True, False):
        net = make_net()
        net[4] = nn.ReLU(inplace=inplace)
        maps.append(whycam.explain(net, images, 1, method="hires-cam", layer="3").maps)
    assert torch.equal(*maps)
    assert bool((maps[0] < 0).any())


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_08_ablation_sets_to_zero(chunk: int) -> None:
    """pytorch-grad-cam#555, #412: w_k = w_kc mean(A_k), for negative features and scores, in any chunk."""
    net, images = make_net(nn.SiLU).double(), make_images().double()
    net[-1].bias.data[1] = -5
    features = net[:5](images)
    weight = net[-1].weight[1] * features.mean((2, 3))
    expected = torch.einsum("nc,nchw->nhw", weight, features).relu().float()
    closed = whycam.explain(net, images, 1, method="ablation-cam", chunk=chunk)
    assert bool((closed.logits[:, 1] < 0).all())
    assert torch.allclose(closed.maps, expected, atol=1e-6)
    run = whycam.explain(net, images, lambda output: output[:, 1], method="ablation-cam", chunk=chunk)
    assert torch.allclose(run.maps, expected, atol=1e-6)


def test_09_no_side_effects() -> None:
    """pytorch-grad-cam#488, #195, #132, torch-cam#197: nothing stays, after many calls or an exception."""
    net, images = make_net().train(), make_images()
    net[0].eval()
    net(images).sum().backward()

    def look() -> list[object]:
        parts = [(id(part), part.training, len(part._forward_hooks)) for part in net.modules()]
        return [parts, [(p.requires_grad, p.grad.sum().item()) for p in net.parameters()], torch.get_rng_state().sum()]

    def count() -> int:
        gc.collect()
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    def fail(_output: Any) -> Tensor:
        raise ZeroDivisionError

    before = look()
    for method in ("grad-cam", "score-cam", "ablation-cam", "full-grad", "rise"):
        with pytest.raises(ZeroDivisionError):
            whycam.explain(net, images, fail, method=method)
        assert look() == before
    cut = cut_model(net, images)
    whycam.explain(net, images, 1, method="grad-cam++", layer=cut)
    tensors = count()
    for _ in range(1000):
        whycam.explain(net, images, 1, method="grad-cam++", layer=cut)
    assert count() <= tensors
    assert look() == before


def test_09_a_loaded_module_can_be_trained_on() -> None:
    """Beside pytorch-grad-cam#488: loading froze a module in place, and what was trained after it did not learn."""
    net, images = make_net().train(), make_images()
    net[0].eval()
    before = [(part.training, len(part._forward_hooks)) for part in net.modules()]
    model = whycam.load(
        net, preprocess="unit", image_size=images.shape[-1], class_names=[*"abcdefghij"][: net(images).shape[1]]
    )
    pixels = (images * 255).clamp(0, 255).byte()
    first = model.explain(pixels).logits
    assert [(part.training, len(part._forward_hooks)) for part in net.modules()] == before
    assert all(own.requires_grad for own in net.parameters())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(images).square().mean().backward()
    optimizer.step()
    # The weights are the module's own, so the model that was loaded is of now.
    assert not torch.equal(model.explain(pixels).logits, first)
    assert all(
        own.data_ptr() == its.data_ptr() for own, its in zip(net.parameters(), model.network.parameters(), strict=True)
    )
    net[-1].weight = torch.nn.Parameter(torch.zeros_like(net[-1].weight))
    with pytest.raises(UserError, match=r"replaced by others since.*Load it again"):
        model.explain(pixels)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_10_colours(mode: str) -> None:
    """pytorch-grad-cam#114, #469: the hottest pixel has the colour map's last colour, in RGB order, on any picture."""
    photo = Image.new(mode, (40, 20))
    heat = np.zeros((20, 40), np.float32)
    heat[3, 30] = 1
    drawn = np.asarray(render.lay_over(photo, heat, "jet", alpha=1, is_signed=False))
    top = np.asarray(mpl.colormaps["jet"](255, bytes=True))[:3]
    assert drawn.shape == (20, 40, 3)
    assert drawn[3, 30].tolist() == top.tolist()
    assert top[0] > top[2]  # red, not blue
    assert not drawn[0, 0].any()
    heat[10, 10] = 0.5
    again = np.asarray(render.lay_over(photo, heat, "jet", alpha=1, is_signed=False))
    again_without = np.delete(again.reshape(-1, 3), 10 * 40 + 10, axis=0)
    assert np.array_equal(again_without, np.delete(drawn.reshape(-1, 3), 10 * 40 + 10, axis=0))


def test_11_scale_blank_and_nan() -> None:
    """torch-cam#186, pytorch-grad-cam#267, #42, #369: no constant changes a map; a blank one says why."""
    net, images = make_net().double(), make_images().double()
    expected = whycam.explain(net, images, 1, method="grad-cam")
    for parameter in net[-1].parameters():
        parameter.data *= 1e-6
    small = whycam.explain(net, images, 1, method="grad-cam")
    assert torch.allclose(small.maps * 1e6, expected.maps, rtol=1e-5)
    assert np.allclose(small.heatmap(), expected.heatmap(), atol=1e-6)
    assert float(expected.maps.max()) != 1  # raw: not normalised
    net[-1].weight.data[1] = -net[-1].weight.data[1].abs()
    assert "has no positive value" in whycam.explain(net, images, 1).notes[0][0]
    net[-1].weight.data[1] = 0
    blank = whycam.explain(net, images, 1)
    assert "zero everywhere" in blank.notes[0][0]
    assert not blank.heatmap().any()
    cut = cut_model(net, images)
    images[1] = torch.nan
    broken = whycam.explain(net, images, 2, layer=cut)
    assert "not finite" in broken.notes[1][0]
    assert not broken.notes[0]


def test_11_grad_cam_plus_plus_at_an_inner_layer() -> None:
    """pytorch-grad-cam#369, 1Konny/gradcam_plus_plus-pytorch#2: equation 19 in float64, on layer3 of a resnet."""
    torch.manual_seed(0)
    net, images = torchvision.models.resnet18(num_classes=4).eval(), make_images(2, 3, 64, 64)
    maps = whycam.explain(net, images, 1, method="grad-cam++", layer="layer3").maps
    net, held = net.double(), []
    hook = net.layer3.register_forward_hook(lambda _m, _a, output: held.append(output.clone()) or held[0])
    score = net(images.double())[:, 1].sum()
    hook.remove()
    a, g = held[0].detach(), torch.autograd.grad(score, held[0])[0]
    below = 2 * g**2 + a.sum((2, 3), keepdim=True) * g**3
    alpha = torch.where(below > 0, g**2 / below, 0)
    expected = torch.einsum("nchw,nc->nhw", a, (alpha * g.relu()).sum((2, 3))).relu()
    assert float((maps - expected).abs().max() / expected.max()) < 1e-3
    assert correlation(maps, expected) > 0.99999


def test_12_closed_form() -> None:
    """torch-cam#153, #68: mean(map) + bias is the logit; a head that isn't pooling and one layer is refused."""
    net, images = make_net(), make_images()
    why = whycam.explain(net, images, "all")
    assert torch.allclose(why.maps.mean((2, 3)) + net[-1].bias, why.logits, atol=1e-6)
    torch.manual_seed(0)
    flat = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 18 * 18, 4)).eval()
    convnext = timm.create_model("convnext_atto", num_classes=4).eval()
    for other, batch in ((flat, images), (convnext, make_images(2, 3, 64, 64))):
        with pytest.raises(UserError, match="Take a method that reads gradients"):
            whycam.explain(other, batch)
