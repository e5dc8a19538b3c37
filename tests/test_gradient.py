"""Gradient methods against slow references written from the papers, and against identities."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import whycam
from whycam.cam.fusion import fuse_maps
from whycam.cam.registry import Pass, get_method
from whycam.cam.saliency import compute_full_gradients
from whycam.errors import UserError
from whycam.model.cut.output import select_output
from whycam.model.cut.tap import cut_model

GRADIENT_METHODS = (
    "grad-cam",
    "grad-cam++",
    "smooth-grad-cam++",
    "xgrad-cam",
    "layer-cam",
    "hires-cam",
    "element-wise",
    "eigen-grad-cam",
    "shapley-cam",
    "finer-cam",
    "refine-cam",
)
SALIENCY_METHODS = ("full-grad", "guided-backprop", "integrated-gradients")


def make_net(head: str = "curved", dims: int = 2) -> nn.Sequential:
    """A small net in float64: with a linear head, or one with curvature behind the layer "3"."""
    torch.manual_seed(3)
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1]
    pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[dims - 1](1)
    body = [conv(2, 5, 3), norm(5), nn.ReLU(), conv(5, 6, 3), nn.ReLU(inplace=True)]
    curved = [nn.Flatten(), nn.Linear(6 * 4**dims, 8), nn.Tanh(), nn.Linear(8, 5)]
    net = nn.Sequential(*body, *(curved if head == "curved" else [pool, nn.Flatten(), nn.Linear(6, 5)]))
    for part in net:
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    return net.double().eval()


def make_images(count: int = 3, dims: int = 2) -> Tensor:
    return torch.randn(count, 2, *[8] * dims, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def make_pass(
    net: nn.Module, images: Tensor, layer: str = "4", target: Tensor | None = None, factor: float = 1, **options: object
) -> Pass:
    cut = cut_model(net, images, layer)
    trace = cut.trace(images)
    target = torch.arange(len(images)) % 5 if target is None else target

    def score(output: object, rows: Tensor) -> Tensor:
        return factor * select_output(output).gather(1, target[rows, None])[:, 0]

    def retrace(batch: Tensor) -> tuple[Tensor, object]:
        again = cut.trace(batch)
        return again.features, again.output

    return Pass(
        images=images,
        features=trace.features.detach(),
        target=target,
        score=score,
        tail=trace.tail,
        model=lambda batch: cut.run(batch)[0],
        weight=cut.weight,
        bias=cut.bias,
        options=options,
        module=net,
        trace=(trace.features, trace.output),
        retrace=retrace,
    )


def maps_of(name: str, p: Pass) -> Tensor:
    return get_method(name).run(p)


# Slow references, one image at a time: features a (C, h, w), gradients g (C, h, w), loops as in the papers.


def loop_weighted(a: Tensor, weight: list[float]) -> Tensor:
    total = torch.zeros(a.shape[1:], dtype=a.dtype)
    for k, w in enumerate(weight):
        total += w * a[k]
    return total


def loop_grad_cam(a: Tensor, g: Tensor) -> Tensor:
    return loop_weighted(a, [float(g[k].sum()) / g[k].numel() for k in range(len(a))]).clamp(min=0)


def loop_plus_plus(a: Tensor, g: Tensor, second: Tensor, third: Tensor, unit: float = 1) -> Tensor:
    weights = []
    for k in range(len(a)):
        total, weight = float(a[k].clamp(min=0).sum()), 0.0
        for d1, d2, d3 in zip(
            g[k].flatten().tolist(), second[k].flatten().tolist(), third[k].flatten().tolist(), strict=True
        ):
            denominator = 2 * d2 / unit**2 + total * d3 / unit**3
            weight += d2 / unit**2 / denominator * max(d1, 0) if denominator > 0 else 0
        weights.append(weight)
    return loop_weighted(a, weights).clamp(min=0)


def loop_xgrad_cam(a: Tensor, g: Tensor) -> Tensor:
    weights = []
    for k in range(len(a)):
        pairs = list(zip(a[k].flatten().tolist(), g[k].flatten().tolist(), strict=True))
        total = sum(x for x, _ in pairs)
        weights.append(sum(x / total * y for x, y in pairs) if total else 0.0)
    return loop_weighted(a, weights)


def loop_cells(a: Tensor, g: Tensor, term: Callable[[float, float], float]) -> Tensor:
    values = [
        sum(term(x, y) for x, y in zip(cell_a, cell_g, strict=True))
        for cell_a, cell_g in zip(a.flatten(1).T.tolist(), g.flatten(1).T.tolist(), strict=True)
    ]
    return torch.tensor(values, dtype=a.dtype).view(a.shape[1:])


def loop_eigen(a: Tensor, g: Tensor) -> Tensor:
    matrix = (a * g).flatten(1).T
    _, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return (matrix @ right[0] * right[0].sum().sign()).view(a.shape[1:])


REFERENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "grad-cam": loop_grad_cam,
    "grad-cam++": lambda a, g: loop_plus_plus(a, g, g**2, g**3),
    "xgrad-cam": loop_xgrad_cam,
    "layer-cam": lambda a, g: loop_cells(a, g, lambda x, y: max(y, 0) * x).clamp(min=0),
    "hires-cam": lambda a, g: loop_cells(a, g, lambda x, y: x * y),
    "element-wise": lambda a, g: loop_cells(a, g, lambda x, y: max(x * y, 0)),
    "eigen-grad-cam": loop_eigen,
}


def gradient_of(net: nn.Module, images: Tensor, classes: Tensor, layer: int = 4) -> tuple[Tensor, Tensor]:
    """Features and gradients by running the two halves of the Sequential by hand."""
    features = net[: layer + 1](images).detach().requires_grad_()
    score = net[layer + 1 :](features).gather(1, classes[:, None]).sum()
    return features.detach(), torch.autograd.grad(score, features)[0]


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("name", REFERENCES)
def test_slow_reference(name: str, dims: int) -> None:
    net, images = make_net(dims=dims), make_images(dims=dims)
    p = make_pass(net, images)
    features, gradients = gradient_of(net, images, p.target)
    expected = torch.stack([REFERENCES[name](a, g) for a, g in zip(features, gradients, strict=True)])
    assert expected.abs().max() > 1e-3
    assert torch.allclose(maps_of(name, p), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "name", ["grad-cam++", "xgrad-cam", "layer-cam", "hires-cam", "element-wise", "eigen-grad-cam"]
)
def test_slow_reference_on_features_of_both_signs(name: str) -> None:
    net, images = make_net(), make_images()
    p = make_pass(net, images, "1")  # a batch norm
    features, gradients = gradient_of(net, images, p.target, layer=1)
    assert (features < 0).any()
    expected = torch.stack([REFERENCES[name](a, g) for a, g in zip(features, gradients, strict=True)])
    assert torch.allclose(maps_of(name, p), expected, rtol=1e-6, atol=1e-9)


def test_plus_plus_in_units_of_its_largest_gradient() -> None:
    net, images = make_net(), make_images()
    p = make_pass(net, images, unit="max")
    features, gradients = gradient_of(net, images, p.target)
    expected = torch.stack(
        [loop_plus_plus(a, g, g**2, g**3, float(g.abs().max())) for a, g in zip(features, gradients, strict=True)]
    )
    assert torch.allclose(maps_of("grad-cam++", p), expected, rtol=1e-6, atol=1e-9)
    with pytest.raises(UserError, match="'unit' is 'logits'"):
        maps_of("grad-cam++", replace(p, options={"unit": "logits"}))


@pytest.mark.parametrize("name", ["grad-cam++", "smooth-grad-cam++"])
def test_plus_plus_on_features_of_both_signs_hardly_depends_on_the_logits_unit(name: str) -> None:
    net, images = make_net(), make_images()
    whole, half = (maps_of(name, make_pass(net, images, layer="3", factor=factor)) for factor in (1, 0.5))
    assert (make_pass(net, images, layer="3").features < 0).any()
    for a, b in zip(whole.flatten(1), half.flatten(1), strict=True):
        assert float(torch.corrcoef(torch.stack([a, b]))[0, 1]) > 0.98


def test_smooth_plus_plus_reference() -> None:
    net, images = make_net(), make_images()
    p = replace(make_pass(net, images, samples=3, noise=0.2), seed=11)
    generator = torch.Generator().manual_seed(11)
    noises = [torch.randn(images.shape[1:], generator=generator).double() for _ in range(3)]
    for i in range(len(images)):
        one, spread = images[i : i + 1], 0.2 * float(images[i].max() - images[i].min())
        moments = [gradient_of(net, one + spread * noise, p.target[i : i + 1])[1][0] for noise in noises]
        d1, d2, d3 = (sum(g**n for g in moments) / 3 for n in (1, 2, 3))
        expected = loop_plus_plus(p.features[i], d1, d2, d3)
        assert torch.allclose(maps_of("smooth-grad-cam++", p)[i], expected, rtol=1e-6, atol=1e-9)


def test_smooth_plus_plus_without_noise_is_plus_plus() -> None:
    p = make_pass(make_net(), make_images(), noise=0.0, samples=2)
    assert torch.allclose(maps_of("smooth-grad-cam++", p), maps_of("grad-cam++", p), atol=1e-12)
    with pytest.raises(UserError, match="features alone"):
        maps_of("smooth-grad-cam++", replace(p, retrace=None))


def test_shapley_reference_with_the_whole_hessian() -> None:
    net, images = make_net(), make_images(2)
    p = make_pass(net, images)
    for i, name in ((0, "rest"), (1, "logit")):
        features = p.features[i : i + 1]

        def score(flat: Tensor, i: int = i, name: str = name, shape: torch.Size = features.shape) -> Tensor:
            logits = net[5:](flat.view(shape))[0]
            own = logits[p.target[i]]
            return own + (own - logits.exp().sum().log()) if name == "rest" else own

        flat = features.flatten()
        gradient = torch.autograd.functional.jacobian(score, flat)
        hessian = torch.autograd.functional.hessian(score, flat)
        assert hessian.abs().max() > 1e-4
        weight = (gradient - hessian @ flat / 2).view(features.shape)[0].flatten(1).mean(1)
        expected = loop_weighted(features[0], weight.tolist()).clamp(min=0)
        found = maps_of("shapley-cam", replace(p, options={"score": name}))[i]
        assert torch.allclose(found, expected, rtol=1e-6, atol=1e-10)


def test_shapley_without_curvature_is_grad_cam() -> None:
    p = make_pass(make_net("linear"), make_images(), score="logit")
    assert torch.allclose(maps_of("shapley-cam", p), maps_of("grad-cam", p), atol=1e-12)
    assert not torch.allclose(maps_of("shapley-cam", replace(p, options={})), maps_of("grad-cam", p), atol=1e-4)
    with pytest.raises(UserError, match="'score' is 'loss'"):
        maps_of("shapley-cam", replace(p, options={"score": "loss"}))


@pytest.mark.parametrize(("gamma", "references"), [(0.6, 3), (1.0, 2), (0.6, 9)])
def test_finer_reference(gamma: float, references: int) -> None:
    net, images = make_net(), make_images()
    p = make_pass(net, images, gamma=gamma, references=references)
    for i, c in enumerate(p.target.tolist()):
        features = p.features[i : i + 1].clone().requires_grad_()
        logits = net[5:](features)[0]
        others = sorted((k for k in range(5) if k != c), key=lambda k: logits[k].sub(logits[c]).abs().item())[
            :references
        ]
        score = logits[c] - gamma * sum(logits[k] for k in others) / len(others)
        gradient = torch.autograd.grad(score, features)[0][0]
        assert torch.allclose(maps_of("finer-cam", p)[i], loop_grad_cam(p.features[i], gradient), atol=1e-9)


def test_finer_needs_classes_to_compare() -> None:
    p = make_pass(make_net(), make_images())
    with pytest.raises(UserError, match="a function as the target"):
        maps_of("finer-cam", replace(p, target=torch.tensor([-1, -1, -1])))
    single = nn.Sequential(*make_net()[:-1], nn.Linear(8, 1)).double().eval()
    with pytest.raises(UserError, match=r"1 class\(es\)"):
        maps_of("finer-cam", make_pass(single, make_images(), target=torch.zeros(3, dtype=torch.long)))


# Identities.


def test_last_layer_methods_are_the_class_activation_map() -> None:
    p = make_pass(make_net("linear"), make_images())
    cam = torch.einsum("nc,nchw->nhw", p.weight[p.target], p.features)
    cells = cam[0].numel()
    assert torch.allclose(maps_of("grad-cam", p) * cells, cam.relu(), atol=1e-12)
    assert torch.allclose(maps_of("hires-cam", p) * cells, cam, atol=1e-12)
    assert torch.allclose(maps_of("xgrad-cam", p) * cells, cam, atol=1e-12)


def test_hires_cam_adds_up_to_the_score_less_the_bias() -> None:
    net, images = make_net("linear"), make_images()
    p = make_pass(net, images)
    score = net(images).gather(1, p.target[:, None])[:, 0]
    assert torch.allclose(maps_of("hires-cam", p).sum((1, 2)), score - net[-1].bias[p.target], atol=1e-12)


@pytest.mark.parametrize("frozen", [False, True])
def test_full_gradients_are_complete_on_a_relu_net(frozen: bool) -> None:
    net, images = make_net("linear").requires_grad_(not frozen), make_images()
    p = make_pass(net, images)
    found = compute_full_gradients(p, p.rows)
    assert len(found.biases) == 4  # two convolutions, the batch norm, the classifier
    total = (images * found.image).flatten(1).sum(1)
    for part in found.biases:
        total = total + (part.bias * part.gradient).flatten(1).sum(1)
    assert torch.allclose(total, net(images).gather(1, p.target[:, None])[:, 0], atol=1e-12)


def test_full_grad_reference() -> None:
    net, images = make_net("linear"), make_images()
    found = maps_of("full-grad", make_pass(net, images))
    p = make_pass(net, images)
    parts = compute_full_gradients(p, p.rows)
    for i in range(len(images)):
        expected = torch.zeros(8, 8)
        for product in [images[i] * parts.image[i], *[(b.bias * b.gradient)[i] for b in parts.biases[:3]]]:
            values = product.abs().float()
            values = (values - values.min()) / (values.max() - values.min())
            for channel in values:
                up = nn.functional.interpolate(channel[None, None], (8, 8), mode="bilinear", align_corners=False)
                expected += up[0, 0]
        assert torch.allclose(found[i], expected, rtol=1e-5)


def test_full_grad_covers_norms_of_transformers_by_their_cells() -> None:
    import timm

    vit = timm.models.vision_transformer.VisionTransformer(
        img_size=16, patch_size=4, in_chans=2, embed_dim=12, depth=2, num_heads=2, num_classes=5
    ).eval()
    images = torch.randn(2, 2, 16, 16)
    p = make_pass(vit, images, "blocks.1.norm1", target=torch.tensor([1, 2]))
    parts = compute_full_gradients(p, p.rows).biases
    assert sum(part.is_channels_last for part in parts) >= 2 * 6  # per block: two norms, and four linear layers
    assert maps_of("full-grad", p).shape == (2, 16, 16)


def test_integrated_gradients_add_up_to_the_difference_from_grey() -> None:
    pytest.importorskip("captum")
    net, images = make_net(), make_images()
    p = make_pass(net, images, steps=200)
    score = net(images) - net(torch.zeros_like(images))
    expected = score.gather(1, p.target[:, None])[:, 0].float()
    assert torch.allclose(maps_of("integrated-gradients", p).sum((1, 2)), expected, atol=5e-3)


def test_guided_backprop_reference() -> None:
    net, images = make_net("linear"), make_images()
    p = make_pass(net, images)
    a = net[:2](images).detach()
    b = net[3](a.relu()).detach()
    weight = net[-1].weight[p.target] / b[0, 0].numel()
    g = (weight[:, :, None, None].expand_as(b) * (b > 0)).relu()
    g = (nn.functional.conv_transpose2d(g, net[3].weight) * (a > 0)).relu()
    scale = net[1].weight / (net[1].running_var + net[1].eps).sqrt()
    g = nn.functional.conv_transpose2d(g * scale.view(1, -1, 1, 1), net[0].weight)
    assert torch.allclose(maps_of("guided-backprop", p), g.detach().abs().sum(1).float(), atol=1e-6)


class Spelled(nn.Module):
    """One ReLU as a module and one as a function or method, which may write into its input."""

    def __init__(self, relu: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second = nn.Conv2d(2, 5, 3), nn.Conv2d(5, 6, 3)
        self.relu, self.spelled = nn.ReLU(), relu
        self.head = nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.spelled(self.second(self.relu(self.first(images)))).mean((2, 3)))


SPELLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "F.relu": nn.functional.relu,
    "F.relu in place": lambda x: nn.functional.relu(x, inplace=True),
    "torch.relu": torch.relu,
    "relu_": lambda x: x.relu_(),
    "clamp": lambda x: x.clamp(min=0),
    "clamp_": lambda x: x.clamp_(0),
    "clamp_min": lambda x: x.clamp_min(0),
    "threshold": lambda x: nn.functional.threshold(x, 0, 0),
    "maximum": lambda x: torch.maximum(x, x.new_zeros(())),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_guided_backprop_guides_every_relu_however_it_is_spelled(spelling: str) -> None:
    images = make_images()
    expected = maps_of("guided-backprop", make_pass(Spelled(nn.ReLU()).double().eval(), images, "second"))
    p = make_pass(Spelled(SPELLINGS[spelling]).double().eval(), images, "second")
    assert torch.allclose(maps_of("guided-backprop", p), expected, atol=1e-12)
    assert not p.remarks


def test_guided_backprop_says_that_it_is_guided_in_part() -> None:
    p = make_pass(Spelled(nn.functional.gelu).double().eval(), make_images(), "second")
    maps_of("guided-backprop", p)
    (told,) = p.remarks
    assert "guided in part: at 1 ReLUs; 1 GELU pass the gradient as it is" in told
    why = whycam.explain(
        Spelled(nn.functional.gelu).eval(), make_images().float(), method=["guided-backprop", "grad-cam"]
    )
    assert all(told in notes for notes in why["guided-backprop"].notes)
    assert not any(why["grad-cam"].notes)


def test_guided_backprop_says_what_it_cannot_guide() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    with pytest.raises(UserError, match=r"score of Sequential lies none \(found 1 SiLU\)"):
        maps_of("guided-backprop", make_pass(net.double().eval(), make_images(), "1"))


def test_captum_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "captum.attr", None)
    with pytest.raises(UserError, match=r'pip install "whycam\[captum\]"'):
        maps_of("integrated-gradients", make_pass(make_net(), make_images()))


# What holds for every method.


@pytest.mark.parametrize("name", [*GRADIENT_METHODS, *SALIENCY_METHODS])
def test_a_map_does_not_depend_on_its_batch(name: str) -> None:
    net, images = make_net(), make_images()
    together = maps_of(name, make_pass(net, images))
    for i in range(3):
        alone = maps_of(name, make_pass(net, images[i : i + 1], target=torch.tensor([i])))
        assert torch.allclose(together[i], alone[0], rtol=1e-6, atol=1e-9), i


def test_chunks_change_nothing() -> None:
    p = make_pass(make_net(), make_images())
    for name in SALIENCY_METHODS:
        assert torch.allclose(maps_of(name, replace(p, chunk=2)), maps_of(name, p), atol=1e-6)


@pytest.mark.parametrize("factor", [1e-6, 1e-30, 1e4])
@pytest.mark.parametrize("name", [*GRADIENT_METHODS, "full-grad", "integrated-gradients"])
def test_scale_of_the_score(name: str, factor: float) -> None:
    net, images = make_net(), make_images()
    options = {"unit": "max", "score": "logit"}
    plain = maps_of(name, make_pass(net, images, **options))
    scaled = maps_of(name, make_pass(net, images, factor=factor, **options))
    if name in {"finer-cam", "refine-cam", "full-grad"}:  # of the logits themselves; scaled to [0, 1] each
        assert torch.allclose(scaled, plain, atol=1e-6)
    else:
        assert torch.allclose(scaled / factor, plain, rtol=1e-4, atol=1e-6 * float(plain.abs().max()))


def test_tiny_gradients_do_not_vanish_in_float32() -> None:
    net, images = make_net().float(), make_images().float()
    for name in ("grad-cam++", "smooth-grad-cam++"):
        plain, scaled = (maps_of(name, make_pass(net, images, factor=factor)) for factor in (1e-6, 1e-25))
        assert torch.allclose(scaled / scaled.amax(), plain / plain.amax(), atol=1e-4)


@pytest.mark.parametrize("name", [*GRADIENT_METHODS, "full-grad"])
def test_no_gradient_gives_zeros_not_nan(name: str) -> None:
    net = make_net()
    p = make_pass(net, make_images(), score="logit", gamma=0.0)
    dead = replace(p, features=torch.zeros_like(p.features), score=lambda o, r: 0 * p.score(o, r), trace=None)
    maps = maps_of(name, dead)
    assert torch.isfinite(maps).all()
    if name != "full-grad":
        assert not maps.any()


@pytest.mark.parametrize("name", [*GRADIENT_METHODS, *SALIENCY_METHODS])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_frozen_and_without_gradients(name: str, context: Callable[[], object]) -> None:
    images = make_images()
    expected = maps_of(name, make_pass(make_net(), images))
    net = make_net().requires_grad_(False)
    with context():
        found = maps_of(name, make_pass(net, images))
    assert torch.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("name", [*GRADIENT_METHODS, *SALIENCY_METHODS])
def test_the_model_is_as_before(name: str) -> None:
    net, images = make_net().train(), make_images()
    net[1].eval()
    net[0].weight.grad = torch.ones_like(net[0].weight)
    parts, generator = list(net), torch.get_rng_state()
    values = {key: value.clone() for key, value in net.state_dict().items()}
    maps_of(name, make_pass(net, images))
    assert [part.training for part in net] == [True, False] + [True] * (len(net) - 2)
    assert all(now is then for now, then in zip(net, parts, strict=True))
    assert all(not part._forward_hooks and not part._forward_pre_hooks and not part._backward_hooks for part in net)
    assert [p.grad is not None for p in net.parameters()] == [True] + [False] * (len(list(net.parameters())) - 1)
    assert (net[0].weight.grad == 1).all()
    assert all(torch.equal(value, values[key]) for key, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)


def test_the_kept_graph_and_the_tail_give_the_same() -> None:
    p = make_pass(make_net(), make_images())
    for name in GRADIENT_METHODS:
        assert torch.allclose(maps_of(name, replace(p, trace=None)), maps_of(name, p), atol=1e-12)


def test_tail_gradcheck() -> None:
    p = make_pass(make_net(), make_images(2))
    features = p.features.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: p.score(p.tail(x, p.rows), p.rows), (features,))


# Fusion.


def test_fusion_rules() -> None:
    early = torch.tensor([[[0.0, 1.0], [2.0, -4.0]]])
    late = torch.full((1, 1, 1), 3.0)
    half, one = early / 4, torch.ones(1, 2, 2)
    assert torch.allclose(fuse_maps([early, late], "mean"), (half + one) / 2)
    assert torch.allclose(fuse_maps([early, late], "max"), one)
    assert torch.allclose(fuse_maps([early, early], "product"), ((early + 4) / 6) ** 2)
    assert torch.allclose(fuse_maps([early], "tanh-max"), (early.relu()).tanh())
    assert not fuse_maps([early * 0, late], "product").any()
    assert not fuse_maps([early * 0], "mean").any()
    with pytest.raises(UserError, match="rule 'sum'"):
        fuse_maps([early], "sum")


def test_refine_cam_multiplies_layers() -> None:
    net, images = make_net(), make_images()
    late, early = make_pass(net, images), make_pass(net, images, "2")
    found = maps_of("refine-cam", replace(late, others=(early,)))
    expected = torch.ones(3, 6, 6, dtype=torch.float64)
    for p in (late, early):
        m = maps_of("grad-cam++", p)
        m = nn.functional.interpolate(m[:, None], (6, 6), mode="bilinear", align_corners=False)[:, 0]
        low, high = m.amin((1, 2), keepdim=True), m.amax((1, 2), keepdim=True)
        expected *= (m - low) / (high - low)
    assert torch.allclose(found, expected)
    assert math.isclose(float(maps_of("refine-cam", late).max()), 1.0)
