"""Cutting models at a layer: the layer, the layout, exactness, and nothing left behind."""

from __future__ import annotations

import gc
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from functools import cache

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import whycam
from whycam.errors import UserError
from whycam.model.cut.output import select_output
from whycam.model.cut.tap import Cut, cut_model


def wake(module: nn.Module) -> nn.Module:
    """Eval mode, and no parameter left at all zeros: some heads start there, and then nothing depends on anything."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return module.eval()


def images_of(*size: int, count: int = 3) -> Tensor:
    return torch.randn(count, *size, generator=torch.Generator().manual_seed(1))


def check_exact(module: nn.Module, images: Tensor, cut: Cut) -> None:
    with torch.no_grad():
        expected = select_output(module(images))
    scale = expected.abs().max()
    trace = cut.trace(images)
    assert torch.allclose(select_output(trace.output), expected, atol=2e-5 * scale)
    output, features = cut.run(images)
    assert torch.equal(features, trace.features)
    assert torch.allclose(select_output(output), expected, atol=2e-5 * scale)
    assert not features.requires_grad
    rows = torch.tensor([2, 0, 1, 2])  # other images, another order, another batch size
    with torch.no_grad():
        again = select_output(trace.tail(features[rows], rows))
    assert torch.allclose(again, expected[rows], atol=2e-5 * scale)
    leaf = features.clone().requires_grad_()
    through_tail = torch.autograd.grad(select_output(trace.tail(leaf, torch.arange(3)))[:, 0].sum(), leaf)[0]
    through_trace = torch.autograd.grad(select_output(trace.output)[:, 0].sum(), trace.features)[0]
    assert through_tail.abs().max() > 0
    assert torch.allclose(through_tail, through_trace, atol=1e-4 * through_trace.abs().max())


def small_vit(**kwargs: object) -> nn.Module:
    return timm.models.vision_transformer.VisionTransformer(
        **{"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5, **kwargs}
    )


def small_swin() -> nn.Module:
    return timm.models.swin_transformer.SwinTransformer(
        img_size=32, patch_size=4, embed_dim=12, depths=(1, 1), num_heads=(2, 2), window_size=2, num_classes=5
    )


def small_deit() -> nn.Module:
    return timm.models.deit.VisionTransformerDistilled(
        img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=5
    )


def small_torchvision_vit() -> nn.Module:
    return torchvision.models.VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=5)


def small_torchvision_swin() -> nn.Module:
    return torchvision.models.SwinTransformer([4, 4], 12, [1, 1], [2, 2], [2, 2], num_classes=5)


def small_hybrid() -> nn.Module:
    return timm.create_model("vit_tiny_r_s16_p8_224", pretrained=False, img_size=64, depth=2, num_classes=5)


@cache
def vgg11() -> nn.Module:
    """Made once: its 130 million weights take a second to draw."""
    return torchvision.models.vgg11(num_classes=5, init_weights=False)


def timm_model(name: str) -> nn.Module:
    return timm.create_model(name, pretrained=False, num_classes=5)


CASES = {
    "timm resnet18": (lambda: timm_model("resnet18"), 64, "layer4", "GAP + linear", "channels first"),
    "timm efficientnet": (lambda: timm_model("efficientnet_lite0"), 64, "bn2", "GAP + linear", "channels first"),
    "timm convnext": (lambda: timm_model("convnext_atto"), 64, "norm_pre", "forward_head", "channels first"),
    "timm vit": (small_vit, 32, "blocks.1.norm1", "fx", "tokens, grid 4x4 after 1 prefix token"),
    "timm vit, registers": (
        lambda: small_vit(reg_tokens=4),
        32,
        "blocks.1.norm1",
        "fx",
        "tokens, grid 4x4 after 5 prefix tokens",
    ),
    "timm vit, average": (
        lambda: small_vit(global_pool="avg", class_token=False),
        32,
        "norm",
        "forward_head",
        "tokens, grid 4x4",
    ),
    "timm deit, distilled": (small_deit, 32, "blocks.1.norm1", "fx", "tokens, grid 4x4 after 2 prefix tokens"),
    "timm siglip": (
        lambda: small_vit(global_pool="map", class_token=False),
        32,
        "norm",
        "forward_head",
        "tokens, grid 4x4",
    ),
    "timm swin": (small_swin, 32, "norm", "GAP + linear", "channels last"),
    "timm hybrid": (small_hybrid, 64, "blocks.1.norm1", "fx", "tokens, grid 2x2 after 1 prefix token"),
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=5), 64, "layer4", "GAP + linear", "channels first"),
    "vgg11": (vgg11, 64, "features", "fx", "channels first"),
    "densenet121": (
        lambda: torchvision.models.densenet121(num_classes=5),
        64,
        "relu of features",
        "GAP + linear",
        "channels first",
    ),
    "swin": (small_torchvision_swin, 32, "permute", "GAP + linear", "channels first"),
    "vit_b_16, small": (
        small_torchvision_vit,
        32,
        "encoder.layers.encoder_layer_1.ln_1",
        "fx",
        "tokens, grid 4x4 after 1 prefix token",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_known_architectures_are_cut_exactly(name: str) -> None:
    make, size, layer, how, layout = CASES[name]
    module, images = wake(make()), images_of(3, size, size)
    cut = cut_model(module, images)
    assert (cut.layer, cut.how, str(cut.layout)) == (layer, how, layout)
    assert (cut.weight is None) == bool(cut.why_not_linear)
    check_exact(module, images, cut)


@pytest.mark.parametrize("name", ["layer3", "layer4.0.conv1", "layer4.1.relu", "layer1.0.bn1"])
def test_inner_layers_of_a_residual_net(name: str) -> None:
    module, images = wake(torchvision.models.resnet18(num_classes=5)), images_of(3, 64, 64)
    cut = cut_model(module, images, name)
    assert cut.site.name == name
    check_exact(module, images, cut)


def test_a_layer_may_be_the_module_itself() -> None:
    module, images = wake(vgg11()), images_of(3, 64, 64)
    assert cut_model(module, images, module.features[10]).layer == "features.10"
    with pytest.raises(UserError, match="not part of the VGG"):
        cut_model(module, images, nn.Conv2d(3, 3, 1))
    with pytest.raises(UserError, match=r"Unknown layer 'feature\.10'.*features\.10"):
        cut_model(module, images, "feature.10")
    with pytest.raises(UserError, match=r"\(2, 5\); expected cells.*'features'"):
        cut_model(module, images, "classifier.6")


def test_linear_tail_is_measured() -> None:
    module, images = wake(timm_model("resnet18")), images_of(3, 64, 64)
    cut = cut_model(module, images)
    maps = torch.einsum("kc,nchw->nkhw", cut.weight, cut.features(images))
    assert torch.allclose(maps.mean((2, 3)) + cut.bias, module(images), atol=1e-5)
    convnext = cut_model(wake(timm_model("convnext_atto")), images)
    assert "something stands between" in convnext.why_not_linear
    vgg = cut_model(wake(vgg11()), images)
    assert "no linear layer leads from the 512 features" in vgg.why_not_linear


def test_a_clamp_behind_the_classifier_is_not_linear() -> None:
    class Clamped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.conv(x).mean((2, 3))).clamp(-0.05, 0.05)

    assert cut_model(wake(Clamped()), images_of(3, 8, 8)).weight is None


def test_last_block_of_a_class_token_vit_is_refused_with_the_remedy() -> None:
    module, images = wake(small_vit()), images_of(3, 32, 32)
    for layer in ("blocks.1", "norm", "blocks.1.norm2"):
        with pytest.raises(UserError, match=r"exactly zero.*blank.*Take layer='blocks\.1\.norm1'"):
            cut_model(module, images, layer)
    assert cut_model(module, images, "blocks.1", needs_gradient=False).features(images).shape == (3, 24, 4, 4)


@pytest.mark.parametrize("size", [(32, 64), (64, 32), (24, 40)])
def test_non_square_inputs(size: tuple[int, int]) -> None:
    module, images = wake(small_vit(img_size=size)), images_of(3, *size)
    cut = cut_model(module, images)
    assert cut.layout.grid == (size[0] // 8, size[1] // 8)
    check_exact(module, images, cut)
    cnn = wake(timm_model("resnet18"))
    cut = cut_model(cnn, images_of(3, 2 * size[0], 2 * size[1]))
    assert cut.features(images_of(3, 64, 128)).shape == (3, 512, 2, 4)


def test_features_of_tokens_stand_where_their_patches_are() -> None:
    module = wake(small_vit(pos_embed="none"))
    images = torch.zeros(1, 3, 32, 32)
    images[:, :, 8:16, 24:32] = 1  # patch in row 1, column 3
    cut = cut_model(module, images, "blocks.0.norm1")
    features = cut.features(images)
    assert (features - features[:, :, :1, :1]).abs().sum(1)[0].nonzero().tolist() == [[1, 3]]


def tiny(dims: int = 2, channels: int = 3, classes: int = 4, *, inplace: bool = False) -> nn.Sequential:
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[dims - 1]
    torch.manual_seed(0)
    return nn.Sequential(
        conv(channels, 6, 3, padding=1),
        nn.ReLU(inplace=inplace),
        conv(6, 5, 3, stride=2),
        nn.ReLU(inplace=inplace),
        pool(1),
        nn.Flatten(),
        nn.Linear(5, classes),
    ).eval()


@pytest.mark.parametrize(("dims", "channels"), [(1, 2), (2, 1), (3, 1)])
def test_signals_grey_images_and_volumes(dims: int, channels: int) -> None:
    module, images = tiny(dims, channels), images_of(channels, *(12, 10, 14)[:dims])
    cut = cut_model(module, images)
    assert (cut.layer, cut.how, cut.features(images).ndim) == ("3", "GAP + linear", dims + 2)
    check_exact(module, images, cut)
    inner = cut_model(module, images, "0")
    assert inner.how == "children"
    check_exact(module, images, inner)


def test_nested_sequential() -> None:
    net = tiny()
    module = nn.Sequential(OrderedDict(body=nn.Sequential(*net[:4]), head=nn.Sequential(*net[4:]))).eval()
    cut = cut_model(module, images_of(3, 12, 12), "body.1")
    assert cut.how == "children"
    check_exact(module, images_of(3, 12, 12), cut)


class Twin(nn.Module):
    """A residual net, in place or not."""

    def __init__(self, *, inplace: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inplace = inplace
        self.stem, self.conv, self.bn = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.relu, self.fc = nn.ReLU(inplace=inplace), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        y = self.bn(self.conv(x))
        if self.inplace:
            y += x
        else:
            y = y + x
        return self.fc(self.relu(y).mean((2, 3)) ** 2)


@pytest.mark.parametrize("layer", ["stem", "conv", "bn", "relu"])
def test_in_place_operations_change_nothing(layer: str) -> None:
    images = images_of(3, 10, 10)
    found = []
    for inplace in (False, True):
        module = Twin(inplace=inplace).eval()
        cut = cut_model(module, images, layer)
        check_exact(module, images, cut)
        trace = cut.trace(images)
        gradient = torch.autograd.grad(trace.output[:, 1].sum(), trace.features)[0]
        found.append((trace.features, gradient))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.allclose(found[0][1], found[1][1])


@dataclass
class Output:
    loss: Tensor | None
    logits: Tensor


@pytest.mark.parametrize(
    "shape",
    [
        lambda y: {"logits": y, "aux": y * 2},
        lambda y: (y, None),
        lambda y: Output(None, y),
        lambda y: OrderedDict(features=y[:, :, None], scores=y),
    ],
)
def test_structured_outputs(shape: object) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = tiny()

        def forward(self, x: Tensor) -> object:
            return shape(self.net(x))

    module, images = Wrapped().eval(), images_of(3, 12, 12)
    cut = cut_model(module, images)
    assert cut.how == "GAP + linear"
    check_exact(module, images, cut)
    assert torch.equal(select_output(module(images)), module.net(images))
    inner = cut_model(module, images, "net.0")
    assert inner.weight is None
    check_exact(module, images, inner)


def test_several_heads_are_asked_for_by_name() -> None:
    heads = {"species": torch.zeros(2, 3), "colour": torch.ones(2, 4)}
    with pytest.raises(UserError, match=r"'species': \(2, 3\), 'colour': \(2, 4\)"):
        select_output(heads)
    with pytest.raises(UserError, match="no entry 'shape'"):
        select_output(heads, "shape")
    assert select_output(heads, "colour").shape == (2, 4)
    assert select_output((heads["species"], heads["colour"]), 1).shape == (2, 4)
    with pytest.raises(UserError, match="one tensor"):
        select_output(heads["species"], "species")
    with pytest.raises(UserError, match=r"\(2, 3, 8, 8\); expected logits"):
        select_output(torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize("shape", [(3, 1), (3,)])
def test_single_logit(shape: tuple[int, ...]) -> None:
    module = nn.Sequential(*tiny(classes=1), nn.Flatten(0) if len(shape) == 1 else nn.Identity()).eval()
    cut = cut_model(module, images_of(3, 12, 12))
    assert cut.how == "GAP + linear"
    assert cut.trace(images_of(3, 12, 12)).output.shape == (3, 1)
    own = whycam.explain(
        module, images_of(3, 12, 12), lambda out: out.reshape(-1) * (out.ndim == len(shape)), method="rise"
    )
    assert torch.equal(own.logits, select_output(module(images_of(3, 12, 12))))
    assert select_output(module(images_of(3, 12, 12))).shape == (3, 1)
    check_exact(module, images_of(3, 12, 12), cut)


def test_frozen_no_grad_and_inference_mode_give_the_same() -> None:
    images = images_of(3, 12, 12)
    plain = cut_model(tiny(), images, "2").trace(images)
    expected = torch.autograd.grad(plain.output[:, 0].sum(), plain.features)[0]
    frozen = tiny().requires_grad_(False)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            made_inside = images.clone()
            trace = cut_model(frozen, made_inside, "2").trace(made_inside)
            assert not torch.is_grad_enabled()
        gradient = torch.autograd.grad(trace.output[:, 0].sum(), trace.features)[0]
        assert torch.equal(gradient, expected)


def test_no_grad_inside_the_model() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = tiny()

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.net[:4](x)
            return self.net[4:](x)

    module, images = Frozen().eval(), images_of(3, 12, 12)
    check_exact(module, images, cut_model(module, images, "net.3"))
    with pytest.raises(UserError, match="exactly zero"):
        cut_model(nn.Sequential(tiny(), _Detach()).eval(), images)


class _Detach(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_precision(dtype: torch.dtype) -> None:
    images = images_of(3, 12, 12)
    module = tiny().to(dtype)
    cut = cut_model(module, images)
    trace = cut.trace(images)
    assert trace.features.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    reference = cut_model(tiny(), images).trace(images)
    assert torch.allclose(trace.features.float(), reference.features, atol=0.02)
    inner = cut_model(module, images, "0").trace(images)
    gradient = torch.autograd.grad(inner.output.sum(), inner.features)[0]
    assert gradient.dtype == inner.features.dtype
    assert gradient.abs().max() > 0


def test_autocast() -> None:
    images, module = images_of(3, 12, 12), tiny()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trace = cut_model(module, images, "2").trace(images)
        assert torch.is_autocast_enabled("cpu")
    assert trace.features.dtype == torch.float32
    assert trace.output.dtype == torch.bfloat16
    reference = cut_model(module, images, "2").features(images)
    assert torch.corrcoef(torch.stack([trace.features.flatten(), reference.flatten()]))[0, 1] > 0.99


def state_of(module: nn.Module) -> dict[str, object]:
    return {
        "training": [part.training for part in module.modules()],
        "modules": [id(part) for part in module.modules()],
        "requires_grad": [p.requires_grad for p in module.parameters()],
        "grad": [None if p.grad is None else p.grad.clone() for p in module.parameters()],
        "values": [value.clone() for value in module.state_dict().values()],
        "hooks": [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()],
        "own": [sorted(vars(part)) for part in module.modules()],
        "rng": torch.get_rng_state(),
        "grad mode": torch.is_grad_enabled(),
    }


def assert_same_state(module: nn.Module, before: dict[str, object]) -> None:
    for key, value in state_of(module).items():
        for found, expected in (
            zip(value, before[key], strict=True) if isinstance(value, list) else [(value, before[key])]
        ):
            is_same = torch.equal(found, expected) if isinstance(found, Tensor) else found == expected
            assert is_same, key


def lived_in() -> nn.Module:
    module = wake(torchvision.models.resnet18(num_classes=5)).train()
    module.layer2.eval()
    module.layer1.requires_grad_(False)
    module(images_of(3, 64, 64)).sum().backward()
    return module


@pytest.mark.parametrize("layer", [None, "layer4.0.conv1"])
def test_nothing_is_left_behind(layer: str | None) -> None:
    module, images = lived_in(), images_of(3, 64, 64)
    before, version = state_of(module), images._version
    trace = cut_model(module, images, layer).trace(images)
    trace.tail(trace.features.detach(), torch.arange(3))
    torch.autograd.grad(trace.output[:, 0].sum(), trace.features)
    assert_same_state(module, before)
    assert images._version == version
    assert images.grad is None


@pytest.mark.parametrize("at", [1, 2, 3])
def test_nothing_is_left_behind_after_an_exception(at: int) -> None:
    module, images = lived_in(), images_of(3, 64, 64)
    runs = 0

    class Bomb(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            nonlocal runs
            runs += 1
            torch.rand(1)
            if runs == at:
                raise ZeroDivisionError
            return x

    module.layer4.append(Bomb())
    before = state_of(module)
    with pytest.raises(ZeroDivisionError):
        cut_model(module, images, "layer3").trace(images)
    assert_same_state(module, before)


def test_two_hundred_calls_leave_no_tensor_and_no_hook() -> None:
    module, images = tiny(), images_of(3, 12, 12)

    def count() -> int:
        gc.collect()
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    cut_model(module, images, "2").trace(images)
    before = count()
    for _ in range(200):
        cut_model(module, images, "2").trace(images)
    assert count() <= before
    assert all(not part._forward_hooks for part in module.modules())


def test_users_hooks_still_run() -> None:
    module, images = tiny(), images_of(3, 12, 12)
    module[2].register_forward_hook(lambda _m, _a, output: output * 2)
    check_exact(module, images, cut_model(module, images, "2"))


def test_a_shared_layer_is_cut_at_its_last_call() -> None:
    module, images = Twin(inplace=False).eval(), images_of(3, 10, 10)
    assert cut_model(module, images, "relu").site.call == 1


def test_what_cannot_be_cut_is_refused() -> None:
    images = images_of(3, 12, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        script = torch.jit.trace(tiny(), images)
    with pytest.raises(UserError, match="TorchScript"):
        cut_model(script, images)
    with pytest.raises(UserError, match=r"None of the .* gives features with cells"):
        cut_model(nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 4)), images)
    parallel = nn.DataParallel(tiny())
    assert cut_model(parallel, images).layer == "3"


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_photo_that_is_not_finite_does_not_hide_a_linear_tail(value: float) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    images = images_of(3, 12, 12)
    images[0, :, 3] = value
    cut = cut_model(net, images)
    assert not cut.why_not_linear
    assert cut.weight is not None
    assert torch.equal(cut.weight, net[-1].weight)
    assert not images[0].isfinite().all()


class Doubting(nn.Module):
    """Dropout that stays on in eval mode, before the last features or behind them."""

    def __init__(self, *, late: bool, p: float = 0.3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        self.head, self.late, self.p = nn.Linear(8, 4), late, p

    def forward(self, images: Tensor) -> Tensor:
        images = images if self.late else nn.functional.dropout(images, self.p)
        features = self.body(images).mean((2, 3))
        return self.head(nn.functional.dropout(features, self.p) if self.late else features)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("layer", [None, "body.1"])
def test_answers_that_change_from_pass_to_pass_are_noticed(layer: str | None, *, late: bool) -> None:
    images, net = images_of(3, 12, 12), Doubting(late=late).eval()
    state = torch.get_rng_state()
    assert cut_model(net, images, layer).noise > 0.01
    assert torch.equal(torch.get_rng_state(), state)
    assert cut_model(Doubting(late=late, p=0.0).eval(), images, layer).noise == 0
    why = whycam.explain(net, images, method="grad-cam", layer=layer)
    assert all("changes from pass to pass" in " ".join(notes) for notes in why.notes)
    assert why.record["noise"] > 0.01


def test_looking_for_noise_costs_no_further_pass() -> None:
    images, net, passes = images_of(3, 16, 16), Doubting(late=True, p=0.0).eval(), []
    net.register_forward_hook(lambda *_: passes.append(1))
    cut = cut_model(net, images)
    assert len(passes) == 5  # the calls, twice whether the last follows the images, the probe's two
    passes.clear()
    why = whycam.explain(net, images, layer=cut)
    assert len(passes) == 1
    assert not any(why.notes)
    assert "noise" not in why.record


def test_a_dead_network_is_not_told_to_leave_a_layer_out() -> None:
    net = tiny()
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    for layer in (None, "0"):
        with pytest.raises(UserError, match=r"Look at the weights") as raised:
            cut_model(net.eval(), images_of(3, 16, 16), layer)
        assert "leave the layer out" not in str(raised.value)
