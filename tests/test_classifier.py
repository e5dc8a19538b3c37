"""GapClassifier: the identity, the networks that break it, and the model folder."""

from __future__ import annotations

import json
import re
import resource
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from folder_cases import iter_cases
from whycam.errors import UserError
from whycam.model.backbone import make_backbone
from whycam.model.gap import (
    GapClassifier,
    HeadError,
    check_identity,
    load_classifier,
    load_network,
    make_exact,
    measure_identity,
    name_classes,
    probe_identity,
    probe_images,
    save_classifier,
)

# Name, side in pixels, stride: convolutions, inverted bottlenecks, windows (NHWC), VGG without its last pooling.
NETWORKS = [("resnet10t", 64, None), ("tf_efficientnet_lite0", 64, 16), ("vgg11", 64, 16)]


def make_model(name: str = "test_resnet", side_px: int = 64, stride: int | None = None, **head: Any) -> GapClassifier:
    torch.manual_seed(0)
    origin = make_backbone(name, is_random=True, image_size=side_px, map_stride=stride)
    model = GapClassifier(origin, ("a", "b", "c"), **head).eval()
    nn.init.normal_(model.classifier.bias)
    return model


@torch.no_grad()
def check_maps(model: GapClassifier, images: Tensor, limit: float) -> None:
    """`mean(map) + bias = logit`, the mean taken slowly and the logits as the whole network gives them."""
    features = model.features(images)
    maps, logits = model.compute_maps(features), model(images)
    assert maps.shape == (len(images), 3, *features.shape[2:])
    for n in range(len(images)):
        for k in range(3):
            total = sum(float(v) for v in maps[n, k].flatten()) / maps[n, k].numel()
            spread = float(logits[n].max() - logits[n].min())
            assert abs(total + float(model.classifier.bias[k]) - float(logits[n, k])) < limit * spread
    assert float(measure_identity(logits, maps, model.classifier.bias).max()) < limit
    assert float(maps.std(dim=(2, 3)).min()) > 0


@pytest.mark.parametrize(("name", "side_px", "stride"), NETWORKS)
def test_identity_of_a_linear_head(name: str, side_px: int, stride: int | None) -> None:
    model = make_model(name, side_px, stride)
    check_maps(model, probe_images(model.preprocess), 1e-5)


def test_identity_of_windows_with_channels_last() -> None:
    torch.manual_seed(0)
    origin = make_backbone("swin_tiny_patch4_window7_224", is_random=True)
    model = GapClassifier(origin, ("a", "b", "c")).eval()
    assert model.features(probe_images(model.preprocess, 1)).shape == (1, 768, 7, 7)
    check_maps(model, probe_images(model.preprocess, 1), 1e-5)


def test_identity_of_the_papers_head() -> None:
    model = make_model(head="conv")
    features = model.features(probe_images(model.preprocess))
    assert features.shape[1] == 1024
    assert float(features.detach().min()) == 0
    check_maps(model, probe_images(model.preprocess), 1e-5)


@pytest.mark.parametrize("head", ["linear", "conv"])
def test_identity_in_float64(head: str) -> None:
    model = make_model(head=head).double()
    check_maps(model, probe_images(model.preprocess).double(), 1e-12)


def test_a_broken_identity_is_measured_and_refused(tiny_model: GapClassifier) -> None:
    maps, bias = torch.ones(1, 2, 3, 3), torch.tensor([0.0, 1.0])
    assert measure_identity(torch.tensor([[1.0, 2.0]]), maps, bias).tolist() == [0]
    assert measure_identity(torch.tensor([[1.0, 3.0]]), maps, bias).tolist() == [0.5]
    assert measure_identity(torch.tensor([[2.0]]), maps[:, :1], bias[:1]).tolist() == [0.5]
    check_identity(probe_identity(tiny_model), "it")
    for error in (0.5, float("nan")):
        with pytest.raises(UserError, match=rf"it breaks mean\(map\) \+ bias = logit by {error:.2g}.*grad-cam"):
            check_identity(error, "it")


def test_a_networks_own_head_becomes_exact(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_file(timm.create_model("resnet10t", num_classes=1000).state_dict(), tmp_path / "w.safetensors")
    whole, origin = load_network("resnet10t", weights=tmp_path / "w.safetensors", image_size=64)
    model = make_exact(whole, origin)
    images = probe_images(model.preprocess)
    with torch.no_grad():
        assert torch.allclose(whole(images), model(images), atol=1e-5)
    assert model.class_names[1] == "goldfish"


@pytest.mark.parametrize(
    ("name", "side_px", "reason"),
    [
        ("mobilenetv3_small_100", 64, "its classifier does not read the 576 feature channels"),
        ("convnext_atto", 64, r"mean\(map\) \+ bias misses its own logits by"),
        ("test_vit", None, "ends in features of shape"),
    ],
)
def test_networks_that_break_the_identity_are_refused(
    tmp_path: Path, name: str, side_px: int | None, reason: str
) -> None:
    torch.manual_seed(0)
    save_file(timm.create_model(name).state_dict(), tmp_path / "w.safetensors")
    network = load_network(name, weights=tmp_path / "w.safetensors", image_size=side_px)
    with pytest.raises(HeadError, match=rf"'{name}' has no exact class maps: .*{reason}") as caught:
        make_exact(*network)
    assert "--method grad-cam" in str(caught.value)
    assert f"whycam train FOLDER --backbone {name}" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "stride", "head"),
    [("test_resnet", None, "linear"), ("resnet10t", 16, "conv")],
)
@torch.no_grad()
def test_a_saved_model_gives_the_same_bits(tmp_path: Path, name: str, stride: int | None, head: str) -> None:
    model = make_model(name, 64, stride, head=head)
    save_classifier(model, tmp_path / "model", 1e-7)
    again = load_classifier(tmp_path / "model")
    images = probe_images(model.preprocess)
    assert torch.equal(again(images), model(images))
    assert again.class_names == model.class_names
    assert again.preprocess == model.preprocess
    assert (again.head, again.origin.map_stride, again.training) == (head, model.origin.map_stride, False)
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(("name", "stride"), [("test_resnet", None), ("resnet10t", 16)])
@torch.no_grad()
def test_timm_itself_loads_the_folder(tmp_path: Path, name: str, stride: int | None) -> None:
    model = make_model(name, 64, stride)
    save_classifier(model, tmp_path / "model", 0.0)
    plain = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    images = probe_images(model.preprocess)
    assert torch.allclose(plain(images), model(images), atol=1e-5)
    assert tuple(plain.pretrained_cfg["input_size"]) == (3, 64, 64)


@pytest.fixture
def folder(tiny_model: GapClassifier, tmp_path: Path) -> Path:
    save_classifier(tiny_model, tmp_path / "model", 0.0)
    return tmp_path / "model"


def check_refused(folder: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_classifier(folder)
    assert str(folder) in str(caught.value)


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["whycam"] |= changes
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files(folder: Path, name: str) -> None:
    (folder / name).unlink()
    check_refused(folder, rf"Found no '{name}' in")


def test_a_tampered_file(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["fc.weight"][0, 0] += 1e-3
    save_file(tensors, folder / "model.safetensors")
    check_refused(folder, r"is not the file that config\.json describes \(SHA-256 .*changed or cut after the training")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"not a model description that this version reads \(.*expected format 1"),
        ("[]", r"not a model description"),
        ('{"architecture": "test_resnet"}', r"\('whycam' is missing\)"),
        ('{"architecture": "test_resnet", "whycam": {}}', r"format: field required"),
    ],
)
def test_a_foreign_config(folder: Path, content: str, message: str) -> None:
    (folder / "config.json").write_text(content)
    check_refused(folder, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, r"format: input should be 1"),
        ({"new_field": 1}, r"new_field: extra inputs are not permitted"),
        ({"head": "mlp"}, r"head: input should be 'linear' or 'conv'"),
        ({"class_names": ["a"]}, r"(?s)does not fit its config\.json .*Copy the model folder again"),
        ({"head": "conv"}, r"does not fit its config\.json"),
    ],
)
def test_a_config_that_does_not_fit(folder: Path, changes: dict[str, object], message: str) -> None:
    edit_config(folder, **changes)
    check_refused(folder, message)


def test_names_of_classes() -> None:
    assert name_classes(3) == ["class 0", "class 1", "class 2"]
    names = name_classes(1000)
    assert len(set(names)) == 1000
    assert names[281].startswith("tabby")
    assert sum(name.startswith("crane") for name in names) == 2


HARMLESS = ("format = True", "source", "identity_error", "versions = {}", "width_px = 3", "width_px = True", "ud800")


@pytest.mark.parametrize(("name", "change"), [pytest.param(*case, id=case[0]) for case in iter_cases()])
def test_hostile_folders_are_refused_or_give_numbers(
    tiny_folder: Path, tmp_path: Path, name: str, change: Callable[[Path], None]
) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    change(folder)
    if any(word in name for word in HARMLESS):
        with suppress(UserError):
            model = load_classifier(folder)
            assert model(probe_images(model.preprocess)).isfinite().all()
        return
    with pytest.raises(UserError, match=re.escape(str(folder))) as caught:
        load_classifier(folder)
    assert len(str(caught.value)) < 1000


def test_a_marked_and_a_repeated_field_are_read(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text("\ufeff" + text.replace("{", '{"architecture": "other",', 1), encoding="utf-8")
    assert load_classifier(folder).origin.architecture == "test_resnet"


def test_more_classes_than_a_classifier_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whycam.model.gap.MAX_CLASSES", 2)
    with pytest.raises(UserError, match="Found 3 classes; expected 2 at the most"):
        make_model("test_resnet", 64)


def test_no_room_for_a_folder(tiny_model: GapClassifier, tmp_path: Path) -> None:
    """The system's own error, which names what is wrong: safetensors' writer has one of its own."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_classifier(tiny_model, tmp_path / "model", 0.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "model").iterdir()) == []
