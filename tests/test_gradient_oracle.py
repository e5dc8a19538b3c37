"""Raw maps beside those of pytorch-grad-cam, TorchCAM and Captum: equal where those follow the paper.

Where one of them doesn't, the test names the difference, shows that it is there, and holds ours to a float64 formula.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from whycam.cam.registry import Pass, get_method
from whycam.cam.saliency import compute_full_gradients
from whycam.model.cut.output import select_output
from whycam.model.cut.tap import cut_model

pytestmark = pytest.mark.oracle
grad_cam = pytest.importorskip("pytorch_grad_cam")
torchcam = pytest.importorskip("torchcam.methods")
captum = pytest.importorskip("captum.attr")

TARGET = torch.tensor([1, 3])


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    module = torchvision.models.resnet18(num_classes=5)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(std=0.1)
            nn.init.normal_(part.bias, std=0.1)
    return module.eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))


def make_pass(net: nn.Module, images: Tensor, layer: str, target: Tensor = TARGET, **options: object) -> Pass:
    cut = cut_model(net, images, layer)
    trace = cut.trace(images)

    def score(output: object, rows: Tensor) -> Tensor:
        return select_output(output).gather(1, target[rows, None])[:, 0]

    features = trace.features.detach()
    model = lambda batch: cut.run(batch)[0]  # noqa: E731
    kept = trace.features, trace.output
    return Pass(images, features, target, score, trace.tail, model, options=options, module=net, trace=kept)


def ours(name: str, net: nn.Module, images: Tensor, layer: str, **options: object) -> Tensor:
    return get_method(name).run(make_pass(net, images, layer, **options))


def exact(net: nn.Module, images: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """Features and gradients in float64, by plain hooks on a float64 copy."""
    import copy

    double = copy.deepcopy(net).double()
    kept: list[Tensor] = []
    double.get_submodule(layer).register_forward_hook(
        lambda _m, _a, output: kept.append(output.clone()) or kept[-1].clone()
    )
    score = double(images.double()).gather(1, TARGET[:, None]).sum()
    return kept[0].detach(), torch.autograd.grad(score, kept[0])[0]


def exact_plus_plus(a: Tensor, g: Tensor) -> Tensor:
    total = a.sum((2, 3), keepdim=True)
    denominator = 2 * g**2 + total * g**3
    alpha = torch.where(denominator > 0, g**2 / denominator, 0)
    return torch.einsum("nchw,nc->nhw", a, (alpha * g.relu()).sum((2, 3))).relu()


def stretch(maps: Tensor) -> Tensor:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low)


def peer_grad_cam(name: str, net: nn.Module, images: Tensor, layer: str) -> Tensor:
    """pytorch-grad-cam's map at the layer's size: its own resize and min-max are left out."""
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    targets = [ClassifierOutputTarget(int(k)) for k in TARGET]
    module = net.get_submodule(layer)
    with getattr(grad_cam, name)(model=net, target_layers=[module]) as cam:
        cam.activations_and_grads(images)  # its hooks
        outputs = cam.activations_and_grads(images.requires_grad_())
        net.zero_grad()
        sum(target(output) for target, output in zip(targets, outputs, strict=True)).backward()
        activations = cam.activations_and_grads.activations[-1].cpu().data.numpy()
        gradients = cam.activations_and_grads.gradients[0].cpu().data.numpy()
        raw = cam.get_cam_image(images, module, targets, activations, gradients, False)
    net.zero_grad()
    images.requires_grad_(False)
    return torch.from_numpy(np.ascontiguousarray(raw))


def peer_torchcam(name: str, net: nn.Module, images: Tensor, layer: str) -> Tensor:
    with getattr(torchcam, name)(net, target_layer=layer) as extractor:
        return extractor(TARGET.tolist(), net(images), normalized=False)[0].detach()


@pytest.mark.parametrize("layer", ["layer4", "layer3", "layer2.0.conv1"])
@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("grad-cam", "GradCAM"),
        ("layer-cam", "LayerCAM"),
        ("hires-cam", "HiResCAM"),
        ("element-wise", "GradCAMElementWise"),
    ],
)
def test_pytorch_grad_cam(name: str, peer: str, layer: str, net: nn.Module, images: Tensor) -> None:
    theirs = peer_grad_cam(peer, net, images.clone(), layer)
    found = ours(name, net, images, layer)
    if name in {"grad-cam", "layer-cam"}:
        theirs = theirs.relu()  # theirs comes later
    assert torch.allclose(found, theirs, rtol=1e-3, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("layer", ["layer4", "layer3"])
@pytest.mark.parametrize(("name", "peer"), [("grad-cam", "GradCAM"), ("layer-cam", "LayerCAM")])
def test_torchcam(name: str, peer: str, layer: str, net: nn.Module, images: Tensor) -> None:
    theirs = peer_torchcam(peer, net, images, layer)
    assert torch.allclose(ours(name, net, images, layer), theirs, rtol=1e-3, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("layer", ["layer4", "layer3", "layer1"])
def test_captum_grad_cam(layer: str, net: nn.Module, images: Tensor) -> None:
    explainer = captum.LayerGradCam(net, net.get_submodule(layer))
    theirs = explainer.attribute(images, TARGET, relu_attributions=True)[:, 0].detach()
    assert torch.allclose(ours("grad-cam", net, images, layer), theirs, rtol=1e-3, atol=1e-5 * float(theirs.max()))


def test_captum_hires_cam_is_gradient_times_activation(net: nn.Module, images: Tensor) -> None:
    theirs = captum.LayerGradientXActivation(net, net.layer3).attribute(images, TARGET).sum(1).detach()
    assert torch.allclose(
        ours("hires-cam", net, images, "layer3"), theirs, rtol=1e-3, atol=1e-5 * float(theirs.abs().max())
    )


def test_captum_integrated_gradients_and_guided_backprop(net: nn.Module, images: Tensor) -> None:
    theirs = captum.IntegratedGradients(net).attribute(images, target=TARGET, n_steps=8).sum(1).detach().float()
    found = ours("integrated-gradients", net, images, "layer4", steps=8)
    assert torch.allclose(found, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = captum.GuidedBackprop(net).attribute(images.clone(), target=TARGET).abs().sum(1).detach()
    assert torch.allclose(ours("guided-backprop", net, images, "layer4"), theirs, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("layer", ["layer4", "layer3", "layer2"])
def test_plus_plus_is_the_paper_s(layer: str, net: nn.Module, images: Tensor) -> None:
    """TorchCAM sums A g^3 in the denominator where eq. 19 has (sum A) g^3; pytorch-grad-cam adds 1e-6 to it."""
    reference = exact_plus_plus(*exact(net, images, layer))
    found = ours("grad-cam++", net, images, layer)
    assert torch.allclose(found.double(), reference, rtol=2e-3, atol=2e-4 * float(reference.max()))
    for peer in (
        peer_grad_cam("GradCAMPlusPlus", net, images.clone(), layer),
        peer_torchcam("GradCAMpp", net, images, layer),
    ):
        assert (stretch(peer.double()) - stretch(reference)).abs().max() > (
            stretch(found.double()) - stretch(reference)
        ).abs().max()


def test_xgrad_cam_has_no_epsilon(net: nn.Module, images: Tensor) -> None:
    """Both peers add an epsilon to sum A, which counts where features are small: here they are 1e-8 of their size."""

    class Faint(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.faint = nn.Sequential(*list(net.children())[:-2]), _Times(1e-8)
            self.back, self.head = _Times(1e8), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.fc)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.back(self.faint(self.body(x))))

    plain, faint = ours("xgrad-cam", net, images, "layer4"), ours("xgrad-cam", Faint().eval(), images, "faint")
    assert torch.allclose(plain, faint, rtol=1e-4, atol=1e-5 * float(plain.abs().max()))
    theirs = peer_grad_cam("XGradCAM", Faint().eval(), images.clone(), "faint")
    assert (theirs - plain).abs().max() > 0.02 * plain.abs().max()


class _Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def test_shapley_cam_explains_the_paper_s_score(net: nn.Module, images: Tensor) -> None:
    """pytorch-grad-cam explains the plain logit by default, and is Grad-CAM then; ours takes ReST."""
    plain = ours("shapley-cam", net, images, "layer4", score="logit")
    assert torch.allclose(plain, ours("grad-cam", net, images, "layer4"), atol=1e-6)
    a, _ = exact(net, images, "layer4")
    cells = a[0, 0].numel()
    weight, bias = net.fc.weight.detach().double(), net.fc.bias.detach().double()
    for i, c in enumerate(TARGET.tolist()):
        p = (a[i].mean((1, 2)) @ weight.T + bias).softmax(0)
        gradient = (2 * weight[c] - p @ weight) / cells
        curvature = -(torch.diag(p) - torch.outer(p, p))  # of the log softmax, in the logits
        product = weight.T @ (curvature @ (weight @ a[i].sum((1, 2)))) / cells**2
        expected = torch.einsum("chw,c->hw", a[i], gradient - product / 2).relu()
        found = ours("shapley-cam", net, images, "layer4")[i].double()
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-5 * float(expected.max()))


def test_torchcam_finer_cam(net: nn.Module, images: Tensor) -> None:
    with torchcam.FinerCAM(net, target_layer="layer4") as extractor:
        theirs = extractor(TARGET.tolist(), net(images), normalized=False)[0].detach()
    found = ours("finer-cam", net, images, "layer4")
    assert torch.allclose(found, theirs, rtol=1e-3, atol=1e-5 * float(theirs.max()))


def test_full_grad_keeps_the_channels_magnitudes(net: nn.Module, images: Tensor) -> None:
    """pytorch-grad-cam scales each channel to [0, 1] by itself; the paper's code a layer's channels together."""
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    p = make_pass(net, images, "layer4")
    found = get_method("full-grad").run(p)
    with grad_cam.FullGrad(model=net, target_layers=[]) as cam:
        theirs = torch.from_numpy(cam(images.clone(), [ClassifierOutputTarget(int(k)) for k in TARGET]))
    net.zero_grad()
    expected = torch.zeros_like(found)
    gradients = compute_full_gradients(p, p.rows)
    spatial = [part.bias * part.gradient for part in gradients.biases if part.gradient.ndim == 4]
    for product in (images * gradients.image, *(part for part in spatial if part.shape[2:].numel() > 1)):
        values = stretch(product.abs().flatten(2)).view(product.shape).sum(1, keepdim=True)
        expected += nn.functional.interpolate(values, images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    assert torch.allclose(found, expected, rtol=1e-4)
    assert (stretch(theirs) - stretch(found)).abs().max() > 0.05
