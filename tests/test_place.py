"""Which call of a layer is read, and whether its cells stand where their part of the image is."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.models.davit import DaVit
from timm.models.hiera import Hiera
from torch import Tensor, nn

import whycam
from whycam.errors import UserError
from whycam.explainer.passes import find_stages
from whycam.model.cut.layer import list_spatial, record_calls, settle_all
from whycam.model.cut.layout import Layout
from whycam.model.cut.place import find_moving, measure_places
from whycam.model.cut.tail import Site
from whycam.model.cut.tap import cut_model


def images_of(*size: int, count: int = 3) -> Tensor:
    return torch.randn(count, *size, generator=torch.Generator().manual_seed(1))


def wake(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return module.eval()


class Siamese(nn.Module):
    """Compares the image with a reference that never changes, and that is encoded last."""

    def __init__(self, *, shared: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enc = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3))
        self.other = self.enc if shared else nn.Sequential(nn.Conv2d(3, 8, 5))
        self.head = nn.Linear(8, 4)
        self.register_buffer("reference", images_of(3, 16, 16, count=9)[8:])

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.enc(x) - self.other(self.reference.expand_as(x))).abs().mean((2, 3)))


class Stereo(Siamese):
    """Compares the two halves of the channels."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.enc(x[:, :3]) - self.enc(x[:, 3:])).abs().mean((2, 3)))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("layer", [None, "enc", "enc.2"])
def test_the_call_that_follows_the_images_is_read(layer: str | None, count: int) -> None:
    module, images = Siamese().eval(), images_of(3, 16, 16, count=count)
    cut = cut_model(module, images, layer)
    assert cut.layer == f"{layer or 'enc'}#1"
    assert not cut.note
    with torch.no_grad():
        assert torch.equal(cut.features(images), module.enc(images))
    why = whycam.explain(module, images, method="grad-cam", layer=layer)
    again = whycam.explain(module, images, method="grad-cam", layer=why.record["layer"])
    assert torch.equal(why.maps, again.maps)
    assert not any(why.notes)


@pytest.mark.parametrize("count", [1, 3])
def test_a_layer_of_its_own_that_sees_only_the_reference_is_not_found(count: int) -> None:
    module, images = Siamese(shared=False).eval(), images_of(3, 16, 16, count=count)
    assert cut_model(module, images).layer == "enc"
    assert cut_model(module, images, needs_gradient=False).layer == "enc"


def test_several_calls_that_follow_the_images_are_told_and_can_be_chosen() -> None:
    module, images = Stereo().eval(), images_of(6, 16, 16)
    with torch.no_grad():
        left, right = module.enc(images[:, :3]), module.enc(images[:, 3:])
    for layer in (None, "enc"):
        why = whycam.explain(module, images, method="grad-cam", layer=layer)
        assert why.record["layer"] == "enc"
        assert all(
            "calls 1 and 2 follow the images; the map is of call 2. layer='enc#1'" in note for (note,) in why.notes
        )
    assert torch.equal(cut_model(module, images).features(images), right)
    assert torch.equal(cut_model(module, images, "enc#1").features(images), left)
    assert torch.equal(cut_model(module, images, "enc#2").features(images), right)
    why = whycam.explain(module, images, method="grad-cam", layer=["enc#1", "enc#2"])
    assert why.record["layer"] == ["enc#1", "enc#2"]
    assert not any(why.notes)
    scaled = whycam.explain(module, images, method="grad-cam", layer="enc#1", smooth="scales")
    assert scaled.record["layer"] == "enc#1"


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("enc#3", r"'enc#3', but 'enc' runs 2 time\(s\).*from 1 to 2.*'enc#1'"),
        ("enc#0", "expected a number from 1 to 2"),
        ("enc#", "expected a number from 1 to 2"),
        ("encoder#1", "Unknown layer 'encoder'.*enc"),
    ],
)
def test_calls_that_there_are_not(layer: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        cut_model(Stereo().eval(), images_of(6, 16, 16), layer)


def test_calls_one_behind_the_other_are_told_only_where_the_layer_is_named() -> None:
    relu = nn.ReLU()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), relu, nn.Conv2d(4, 5, 3), relu).eval()
    module = nn.Sequential(net, nn.Flatten(1), nn.Linear(5 * 144, 3)).eval()
    images = images_of(3, 16, 16)
    assert not cut_model(module, images).note
    assert "layer='0.1#1' explains another" in cut_model(module, images, "0.1").note


def make_hiera() -> nn.Module:
    torch.manual_seed(0)
    return wake(Hiera(img_size=(64, 64), embed_dim=16, num_heads=1, stages=(1, 1, 2, 2), num_classes=5))


def make_davit() -> nn.Module:
    torch.manual_seed(0)
    return wake(DaVit(depths=(1, 1, 1, 1), embed_dims=(16, 32, 48, 64), num_heads=(1, 2, 3, 4), num_classes=5))


def test_tokens_in_another_order_are_refused_and_left_out() -> None:
    module, images = make_hiera(), images_of(3, 64, 64)
    for layer in ("blocks.2", "blocks.0", "unroll"):
        with pytest.raises(UserError, match=r"don't stand where they lie.*Take layer='blocks\.5'"):
            cut_model(module, images, layer)
    cut = cut_model(module, images)
    assert (cut.layer, find_stages(module, images, cut, 2)) == ("blocks.5", ["blocks.4"])
    why = whycam.explain(module, images, method="refine-cam")
    assert why.record["layer"] == ["blocks.4", "blocks.5"]


@pytest.mark.parametrize("size", [64, 96])
def test_padded_windows_are_refused_and_left_out(size: int) -> None:
    module, images = make_davit(), images_of(3, size, size)
    for layer in ("stages.2.blocks.0.0.attn", "stages.2.blocks.0.0.attn.qkv"):
        with pytest.raises(UserError, match="don't stand where they lie"):
            cut_model(module, images, layer)
    assert find_stages(module, images, cut_model(module, images), 2) == ["stages.1", "stages.2"]


def test_attention_matrices_are_no_stages() -> None:
    module = wake(timm.create_model("visformer_tiny", pretrained=False, num_classes=5, embed_dim=48, img_size=64))
    images = images_of(3, 64, 64)
    assert find_stages(module, images, cut_model(module, images), 2) == ["stage1", "stage2"]


class Cube(nn.Module):
    """As many channels as rows and columns, and a norm of that width that speaks for channels last."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 2, stride=2), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.head(self.norm(x.mean((2, 3))))


def test_the_order_of_the_axes_is_measured_where_the_shape_allows_for_two() -> None:
    module, images = Cube().eval(), images_of(3, 16, 16)
    for layer in (None, "conv"):
        cut = cut_model(module, images, layer)
        assert cut.layout.kind == "channels first"
        assert torch.equal(cut.features(images), module.conv(images).detach())


class Scrambled(nn.Module):
    """A map whose cells are moved about, in one, two or three dimensions."""

    def __init__(self, dims: int, order: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        self.conv, self.order = conv(2, 12, 4, stride=4), order
        self.shuffle, self.head = nn.Identity(), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        cells = x.flatten(2)
        if self.order == "flipped":
            cells = cells.flip(2)
        if self.order == "drawn":
            cells = cells[:, :, torch.randperm(cells.shape[2], generator=torch.Generator().manual_seed(0))]
        return self.head(self.shuffle(cells.view(x.shape)).mean(tuple(range(2, x.ndim))))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_scrambled_cells_are_seen_in_any_number_of_dimensions(dims: int, count: int) -> None:
    images = images_of(2, *(32,) * dims, count=count)
    for order in ("kept", "flipped", "drawn"):
        module = Scrambled(dims, order).eval()
        site = Site(module, module.shuffle, "shuffle")
        (place,) = measure_places([site], [Layout("channels first")], images)
        assert place.is_right == (order == "kept")
        assert place.is_elsewhere == (order != "kept")


def test_a_transposed_map_is_seen() -> None:
    class Transposed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mT

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 12, 4, stride=4), Transposed(), nn.Flatten(), nn.Linear(768, 3)).eval()
    (place,) = measure_places([Site(net, net[1], "1")], [Layout("channels first")], images_of(3, 32, 32))
    assert place.is_elsewhere


NETS = [
    "resnet18",
    "mobilenetv3_small_050",
    "regnetx_002",
    "convnext_atto",
    "edgenext_xx_small",
    "pvt_v2_b0",
    "efficientvit_b0",
    "mobilevit_xxs",
]


@pytest.mark.parametrize("name", NETS)
def test_no_layer_of_ordinary_nets_is_refused(name: str) -> None:
    module, images = wake(timm.create_model(name, pretrained=False, num_classes=5)), images_of(3, 64, 64, count=2)
    calls = list_spatial(record_calls(module, images)[0])
    refused = [call for call, (placed, _) in zip(calls, settle_all(calls, images), strict=True) if placed is None]
    assert not [call.label for call in refused if "attn_drop" not in call.label and "kernel_func" not in call.label]


def test_a_layer_that_no_image_moves_and_one_that_all_cells_share() -> None:
    module, images = Siamese(shared=False).eval(), images_of(3, 16, 16, count=2)
    sites = [Site(module, module.enc, "enc"), Site(module, module.other, "other")]
    assert find_moving(sites, images) == [True, False]
    dead, alive = measure_places([sites[1], sites[0]], [Layout("channels first")] * 2, images)
    assert (dead.agreement, dead.is_elsewhere, alive.is_right) == (0, False, True)
    pooled = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Upsample(scale_factor=8)).eval()
    (place,) = measure_places([Site(pooled, pooled[2], "2")], [Layout("channels first")], images)
    assert not place.is_right
    assert not place.is_elsewhere


class Pair(nn.Module):
    """Gives two tensors, of which the second is dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.conv(x), x


class WithPair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.pair, self.head = Pair(), nn.Linear(5 * 100, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pair(x)[0].tanh().flatten(1))


def test_a_guess_at_the_tail_that_fails_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    module, images = WithPair().eval(), images_of(3, 12, 12)
    cut = cut_model(module, images, "pair")
    trace = cut.trace(images)
    assert torch.allclose(trace.output, module(images))
    assert cut.how == "replay"
    assert capfd.readouterr() == ("", "")
