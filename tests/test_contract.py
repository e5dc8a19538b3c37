"""What every registered map method promises, checked over the whole registry on small models."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

import whycam
from whycam.cam.registry import Method, iter_methods
from whycam.model.cut.tap import cut_model

METHODS_PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
METHODS = {method.name: method for method in iter_methods()}
# What keeps the slow ones fast.
OPTIONS: dict[str, dict[str, object]] = {
    "contrast": {"versus": 1},
    "rise": {"masks": 40},
    "ss-cam": {"samples": 2},
    "is-cam": {"samples": 2},
    "smooth-grad-cam++": {"samples": 2},
    "integrated-gradients": {"steps": 4},
}
DRAWS = {"rise", "ss-cam", "smooth-grad-cam++", "random"}
# The options under which these maps do not depend on the logit's unit, on which by default, as their papers', they do.
UNIT_FREE: dict[str, dict[str, object]] = {
    "grad-cam++": {"unit": "max"},
    "smooth-grad-cam++": {"unit": "max"},
    "refine-cam": {"unit": "max"},
    "shapley-cam": {"score": "logit"},
    "recipro-cam": {"score": "logit"},
}
NOT_SCALE_FREE = {
    "score-cam": "a softmax of logit gains weighs the channels",
    "ss-cam": "a softmax of logit gains weighs the channels",
    "is-cam": "a softmax of logit gains weighs the channels",
    "chefer": "gradients of several layers are multiplied, and added to the identity",
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Nets this small lose more to threads that wait for each other than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_gap() -> nn.Module:
    torch.manual_seed(3)
    body = [nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(inplace=True)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()


def make_curved() -> nn.Module:
    torch.manual_seed(4)
    body = [nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU()]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(8 * 81, 8), nn.Tanh(), nn.Linear(8, 5)).eval()


def make_vit() -> nn.Module:
    torch.manual_seed(5)
    net = timm.models.VisionTransformer(
        img_size=24, patch_size=6, embed_dim=24, depth=3, num_heads=2, num_classes=5, init_values=None
    )
    for parameter in net.parameters():  # timm starts with weights near zero, and a head of zeros
        nn.init.normal_(parameter, std=0.2)
    return net.eval()


MODELS: dict[str, Callable[[], nn.Module]] = {"gap": make_gap, "curved": make_curved, "vit": make_vit}


def fits(method: Method, model: str) -> bool:
    if method.needs == "attention":
        return model == "vit"
    if method.needs == "linear head":
        return model == "gap"
    return not (method.name == "guided-backprop" and model == "vit")  # it guides ReLUs


def is_worth_it(method: Method, model: str) -> bool:
    """Whether a second model tells more: the methods that read the tail differ by what it is."""
    first = "gap" if fits(method, "gap") else "vit"
    is_other = model == "curved" or method.name in {"grad-cam", "hires-cam", "ablation-cam"}
    return fits(method, model) and (model == first or (method.reads_tail and is_other))


CASES = [(name, model) for name, method in METHODS.items() for model in MODELS if is_worth_it(method, model)]
every_case = pytest.mark.parametrize(("name", "model"), CASES)


def make_images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 24, 24, generator=torch.Generator().manual_seed(7))


def maps_of(name: str, module: nn.Module, images: Tensor, target: object = 2, **how: object) -> Tensor:
    options = OPTIONS.get(name, {}) | how
    return whycam.explain(module, images, target, method=name, **options).maps


def assert_close(maps: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert maps.shape == expected.shape
    assert (maps - expected).abs().max() <= tolerance * expected.abs().max()


def correlation(maps: Tensor, expected: Tensor) -> float:
    """The least correlation of two maps of one image."""
    pairs = zip(maps.double().flatten(1), expected.double().flatten(1), strict=True)
    return min(1.0 if torch.equal(a, b) else float(torch.corrcoef(torch.stack([a, b]))[0, 1]) for a, b in pairs)


def state_of(module: nn.Module) -> list[object]:
    parts = list(module.modules())
    return [
        [(id(part), part.training, len(part._forward_hooks), len(part._forward_pre_hooks)) for part in parts],
        [sorted(vars(part)) for part in parts],
        [(p.requires_grad, None if p.grad is None else p.grad.sum().item()) for p in module.parameters()],
        [value.double().sum().item() for value in module.state_dict().values()],
        [torch.get_rng_state().sum().item(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()],
        [torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")],
    ]


@every_case
def test_maps_are_float32_finite_and_one_for_each_image(name: str, model: str) -> None:
    why = whycam.explain(MODELS[model](), make_images(), 2, method=name, **OPTIONS.get(name, {}))
    assert why.maps.dtype == torch.float32
    assert why.maps.ndim == 3
    assert len(why.maps) == 4
    assert why.maps.isfinite().all()
    assert not why.maps.requires_grad
    assert why.maps.any() or why.notes[0]
    assert why.record["method"] == name


@every_case
def test_a_batch_is_its_images(name: str, model: str) -> None:
    module, images, target = MODELS[model]().double(), make_images().double(), torch.tensor([2, 0, 4, 3])
    together = maps_of(name, module, images, target)
    alone = torch.cat([maps_of(name, module, images[i : i + 1], target[i : i + 1]) for i in range(4)])
    assert_close(together, alone)


@every_case
def test_seed_and_chunk(name: str, model: str) -> None:
    module, images = MODELS[model]().double(), make_images(2).double()
    maps = maps_of(name, module, images)
    assert torch.equal(maps, maps_of(name, module, images))
    assert_close(maps_of(name, module, images, chunk=3), maps)
    # The gradient of a linear head is the same whatever the noise.
    is_drawn = name in DRAWS and (name, model) != ("smooth-grad-cam++", "gap")
    assert torch.equal(maps, maps_of(name, module, images, seed=1)) != is_drawn


@every_case
def test_nothing_is_left_behind(name: str, model: str) -> None:
    module, images = MODELS[model]().train(), make_images(2)
    next(module.children()).eval().requires_grad_(False)
    module(images).sum().backward()
    before, pixels, version = state_of(module), images.clone(), images._version
    maps_of(name, module, images)
    assert state_of(module) == before
    assert torch.equal(images, pixels)
    assert images._version == version
    assert images.grad is None


@every_case
def test_frozen_without_gradients_and_in_inference_mode(name: str, model: str) -> None:
    module, images = MODELS[model](), make_images(2)
    expected = maps_of(name, module, images)
    module.requires_grad_(False)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert_close(maps_of(name, module, images.clone()), expected)


@every_case
def test_scale_of_the_logits(name: str, model: str) -> None:
    module, images = MODELS[model]().double(), make_images(2).double()
    small = copy.deepcopy(module)
    head = [part for part in small.modules() if isinstance(part, nn.Linear)][-1]
    for parameter in head.parameters():
        parameter.data *= 1e-6
    options = UNIT_FREE.get(name, {})
    maps, scaled = maps_of(name, module, images, **options), maps_of(name, small, images, **options)
    assert scaled.isfinite().all()
    if name in NOT_SCALE_FREE:
        assert scaled.any(), "a map that was there vanished"
        return
    peaks = [m.abs().flatten(1).amax(1)[:, None, None] for m in (maps, scaled)]
    assert torch.equal(peaks[0] > 0, peaks[1] > 0)  # blank where the whole map is negative before its ReLU
    shapes = [torch.where(peak > 0, m / peak, 0) for m, peak in zip((maps, scaled), peaks, strict=True)]
    assert_close(shapes[1], shapes[0])


def test_dependence_on_the_logits_unit_is_told() -> None:
    told = {name for name, method in METHODS.items() if "logit's unit" in method.differs}
    assert told == UNIT_FREE.keys() | NOT_SCALE_FREE.keys()
    section = METHODS_PAGE.read_text().split("## The logit's unit")[1].split("## ")[0]
    assert all(f"`{name}`" in section for name in told)


def test_the_documentation_has_every_method() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| [^|]+ \|$", METHODS_PAGE.read_text().split("## Options")[0], re.MULTILINE)
    assert sorted(rows) == sorted(METHODS)


def with_dead_channels(model: str) -> nn.Module:
    module = MODELS[model]()
    layer = [part for part in module.modules() if isinstance(part, nn.Conv2d)][-1]
    layer.weight.data[:2] = 0
    layer.bias.data[0], layer.bias.data[1] = -1, 1  # behind a ReLU: dead, and constant
    return module


@every_case
def test_dead_and_constant_channels_and_blank_images(name: str, model: str) -> None:
    module = with_dead_channels(model)
    for images in (make_images(2), torch.zeros(2, 3, 24, 24)):
        assert maps_of(name, module, images).isfinite().all()


Run = Callable[[nn.Module, Tensor], Tensor]


def bfloat16(module: nn.Module, images: Tensor, run: Run) -> Tensor:
    return run(module.bfloat16(), images.bfloat16())


def float16(module: nn.Module, images: Tensor, run: Run) -> Tensor:
    return run(module.half(), images.half())


def autocast_bfloat16(module: nn.Module, images: Tensor, run: Run) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return run(module, images)


def autocast_float16(module: nn.Module, images: Tensor, run: Run) -> Tensor:
    with torch.autocast("cpu", torch.float16):
        return run(module, images)


BFLOAT16, FLOAT16 = {"bfloat16", "autocast_bfloat16"}, {"float16"}
# Where the model's own rounding has lost what the map is made of: in which precisions, what correlation is left, why.
LOST: dict[tuple[str, str], tuple[set[str], float, str]] = {
    ("fem", "gap"): (BFLOAT16 | FLOAT16 | {"autocast_float16"}, 0.94, "one cell of 81 crosses a channel's threshold"),
    ("ablation-cam", "vit"): (BFLOAT16, 0.97, "half the channels change the logit by less than 0.6 of its last bit"),
    ("recipro-cam", "curved"): (BFLOAT16, 0.95, "one cell of 81 alone moves the logits by a few of their last bits"),
    ("random", "gap"): (FLOAT16, -1, "drawn from the photo's first eight bits, which float16 may round another way"),
}


@pytest.mark.parametrize("precision", [bfloat16, float16, autocast_bfloat16, autocast_float16])
@every_case
def test_half_precision(name: str, model: str, precision: Callable[..., Tensor]) -> None:
    module, images = MODELS[model](), make_images(2)
    expected = maps_of(name, module, images)
    maps = precision(module, images, lambda net, batch: maps_of(name, net, batch))
    assert maps.dtype == torch.float32
    assert maps.isfinite().all()
    precisions, bound, _ = LOST.get((name, model), ((), 0.99, ""))
    assert correlation(maps, expected) > (bound if precision.__name__ in precisions else 0.99)


@pytest.mark.parametrize("precision", [bfloat16, float16])
def test_fem_in_half_precision_is_that_of_the_half_features(precision: Callable[..., Tensor]) -> None:
    def run(net: nn.Module, batch: Tensor) -> Tensor:
        flat = cut_model(net, batch).features(batch).double().flatten(2)
        mean, spread = flat.mean(2, keepdim=True), flat.std(2, correction=0, keepdim=True)
        expected = (mean * (flat > mean + 2 * spread)).sum(1)
        maps = maps_of("fem", net, batch)
        assert_close(maps.flatten(1).double(), expected, 1e-6)
        return maps

    assert precision(make_gap(), make_images(2), run).any()


@pytest.mark.parametrize("model", MODELS)
def test_tail_gradcheck(model: str) -> None:
    module, images = MODELS[model]().double(), make_images(1).double()
    layer = {"gap": "2", "curved": "1", "vit": "blocks.2.norm1"}[model]
    trace = cut_model(module, images, layer).trace(images)
    features = trace.features.detach()[..., :2, :2].clone().requires_grad_()

    def tail(corner: Tensor) -> Tensor:
        whole = trace.features.detach().clone()
        whole[..., :2, :2] = corner
        output = trace.tail(whole, torch.arange(1))
        assert isinstance(output, Tensor)
        return output

    assert torch.autograd.gradcheck(tail, (features,))
