"""Models whose output is a dict, a tuple or an object: explained as if they gave the logits alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import timm
import torch
from torch import Tensor, nn

import whycam
from whycam.errors import UserError
from whycam.model.cut.output import select_output
from whycam.model.cut.tap import cut_model


def images_of(*size: int, count: int = 3) -> Tensor:
    return torch.randn(count, *size, generator=torch.Generator().manual_seed(1))


@dataclass
class Output:
    loss: Tensor | None
    logits: Tensor


class Told(nn.Module):
    """GAP and a linear layer, whose forward gives what `tell` makes of logits and features."""

    def __init__(self, tell: Callable[[Tensor, Tensor], object], channels: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, channels, 3), nn.ReLU())
        self.fc, self.tell = nn.Linear(channels, 4), tell
        self.eval()

    def forward(self, images: Tensor) -> object:
        features = self.body(images)
        return self.tell(self.fc(features.mean((2, 3))), features)


OUTPUTS: list[tuple[Callable[[Tensor, Tensor], object], str | int | None]] = [
    (lambda y, f: {"logits": y, "features": f}, None),
    (lambda y, f: {"logits": y, "features": f}, "logits"),
    (lambda y, f: OrderedDict(hidden_states=(f, f), logits=y), None),
    (lambda y, f: Output(None, y), None),
    (lambda y, f: (y.softmax(1), y), 1),
    (lambda y, f: [f, y], None),
    (lambda y, f: {"species": y, "colour": y[:, :2]}, "species"),
    (lambda y, f: {"feature vector": f.mean((2, 3)), "scores": y}, "scores"),
]


@pytest.mark.parametrize(("tell", "key"), OUTPUTS)
def test_exact_maps_are_found_through_structured_outputs(
    tell: Callable[[Tensor, Tensor], object], key: str | int | None
) -> None:
    module, plain, images = Told(tell), Told(lambda y, f: y), images_of(3, 12, 12)
    methods = ["cam", "grad-cam", "hires-cam", "score-cam", "ablation-cam", "rise", "full-grad", "shapley-cam"]
    expected = whycam.explain(plain, images, [0, 2], method=methods, masks=20)
    found = whycam.explain(module, images, [0, 2], method=methods, masks=20, output=key)
    for method in methods:
        assert torch.allclose(found[method].maps, expected[method].maps, atol=1e-5), method
        assert found[method].record["cut"] == expected[method].record["cut"]
    assert torch.allclose(found["cam"].logits, plain(images))
    cut = cut_model(module, images, output=key)
    assert torch.equal(cut.weight, module.fc.weight)
    again = whycam.explain(module, images, [0, 2], layer=cut, output=key)
    assert torch.equal(again.maps, found["cam"].maps)
    several = whycam.explain(module, images, [0, 2], method="grad-cam", layer=["body.1", "body.3"], output=key)
    assert several.maps.isfinite().all()


def test_a_key_reaches_cuts_that_were_made_without_it() -> None:
    images = images_of(3, 12, 12)
    pair = Told(lambda y, f: {"first": y, "second": -2 * y})
    first, second = (whycam.explain(pair, images, 1, method="hires-cam", output=key) for key in ("first", "second"))
    assert torch.allclose(second.maps, -2 * first.maps)
    cut = cut_model(pair, images, output="first")
    assert cut.weight is not None
    assert torch.equal(
        whycam.explain(pair, images, 1, method="hires-cam", layer=cut, output="second").maps, second.maps
    )
    with pytest.raises(UserError, match="its tail is not pooling"):
        whycam.explain(pair, images, 1, layer=cut, output="second")
    unnamed = cut_model(pair, images)
    assert unnamed.weight is None
    assert torch.equal(whycam.explain(pair, images, 1, layer=unnamed, output="first").maps, expected_cam(pair, images))
    with pytest.raises(UserError, match="several entries that could be the logits"):
        whycam.explain(pair, images, 1, method="hires-cam", layer=cut)


def expected_cam(module: Told, images: Tensor) -> Tensor:
    return torch.einsum("c,nchw->nhw", module.fc.weight[1], module.body(images)).detach()


@pytest.mark.parametrize("key", ["scores", 0])
def test_a_key_to_a_plain_tensor_or_to_nothing_is_told(key: str | int) -> None:
    images = images_of(3, 12, 12)
    plain, named = Told(lambda y, f: y), Told(lambda y, f: {"logits": y, "features": f})
    for how in ({}, {"layer": cut_model(plain, images)}, {"method": "rise"}, {"layer": "body.1", "method": "grad-cam"}):
        with pytest.raises(UserError, match=rf"one tensor.*no entry {key!r}"):
            whycam.explain(plain, images, output=key, **how)
    for how in ({}, {"layer": cut_model(named, images)}):
        with pytest.raises(UserError, match=rf"no entry {key!r}; it has 'logits': \(., 4\)"):
            whycam.explain(named, images, output=key, **how)


def test_a_function_reads_the_models_own_output() -> None:
    module, images = Told(lambda y, f: {"logits": y, "features": f}), images_of(3, 12, 12)
    whole = cut_model(module, images)
    for how in ({}, {"layer": whole}, {"layer": "body.1"}):
        for method in ("grad-cam", "score-cam", "ablation-cam"):
            of_class = whycam.explain(module, images, 1, method=method, **{**how, "layer": how.get("layer", "body.3")})
            found = whycam.explain(module, images, lambda out: out["logits"][:, 1], method=method, **how)
            assert torch.allclose(found.maps, of_class.maps, atol=1e-5)
    energy = whycam.explain(module, images, lambda out: out["features"].square().mean((1, 2, 3)), method="hires-cam")
    features = module.body(images).detach()
    assert torch.allclose(energy.maps, 2 * features.square().sum(1) / features[0].numel(), atol=1e-6)
    with pytest.raises(KeyError, match="logit"):  # the caller's own code: its traceback is what helps
        whycam.explain(module, images, lambda out: out["logit"][:, 1], method="grad-cam")


def test_what_else_is_in_the_output_does_not_choose_the_layer() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5}
            self.net = timm.models.vision_transformer.VisionTransformer(**sizes)
            nn.init.normal_(self.net.head.weight)

        def forward(self, images: Tensor) -> dict[str, Tensor]:
            tokens = self.net.forward_features(images)
            return {"logits": self.net.forward_head(tokens), "last_hidden_state": tokens}

    module, images = Tokens().eval(), images_of(3, 32, 32)
    assert cut_model(module, images).layer == "net.blocks.1.norm1"
    why = whycam.explain(module, images, lambda out: out["logits"][:, 1], method="grad-cam")
    assert why.record["layer"] == "net.blocks.1.norm1"
    assert why.maps.any()
    with pytest.raises(UserError, match="exactly zero"):
        cut_model(module, images, "net.norm")


def test_features_in_the_output_do_not_hide_that_the_head_is_frozen() -> None:
    class Frozen(Told):
        def forward(self, images: Tensor) -> object:
            with torch.no_grad():
                return super().forward(images)

    module, images = Frozen(lambda y, f: {"logits": y * 1.5, "features": f}), images_of(3, 12, 12)
    cut = cut_model(module, images, "body.1")
    trace = cut.trace(images)
    gradient = torch.autograd.grad(select_output(trace.output)[:, 0].sum(), trace.features)[0]
    assert gradient.any()
