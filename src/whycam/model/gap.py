"""GapClassifier: backbone, Global Average Pooling, linear layer; its exact maps, its folder, and its identity check."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors.torch import load, save
from timm.data import ImageNetInfo
from torch import Tensor, nn

from whycam.config import MAX_CLASSES, Head
from whycam.data.preprocess import Preprocess
from whycam.errors import UserError, as_clause
from whycam.model.backbone import (
    Backbone,
    count_channels,
    create_backbone,
    extract,
    find_weights,
    load_backbone_weights,
    make_preprocess,
    read_config,
    resolve_architecture,
    to_nchw,
)
from whycam.model.folder_config import FORMAT, FolderConfig, read_folder_config
from whycam.model.onnx.engine import IDENTITY_LIMIT
from whycam.runs import open_atomic, read_versions, write_json

CONV_CHANNELS = 1024


class GapClassifier(nn.Module):
    """A classifier whose maps are exact: `mean_hw(maps) + bias = logits` (Zhou et al., arXiv:1512.04150, eq. 1-2).

    Attributes:
        backbone: images -> last features.
        neck: Identity, or the paper's 3x3 convolution with 1,024 channels and ReLU.
        classifier: the linear layer, (K, C).
        thresholds: K probabilities from which on a class is given, where classes go together; else empty.
    """

    def __init__(
        self, backbone: Backbone, class_names: Sequence[str], head: Head = "linear", thresholds: Sequence[float] = ()
    ) -> None:
        super().__init__()
        if len(class_names) > MAX_CLASSES:
            raise UserError(
                f"Found {len(class_names):,} classes; expected {MAX_CLASSES:,} at the most. Put related ones together."
            )
        self.origin = backbone
        self.class_names = tuple(class_names)
        self.head = head
        self.thresholds = tuple(thresholds)
        self.backbone = backbone.module
        self.neck, channels = make_neck(head, count_channels(backbone.module))
        self.classifier = nn.Linear(channels, len(self.class_names))

    @property
    def preprocess(self) -> Preprocess:
        """From a photo to this network's input."""
        return self.origin.preprocess

    def backbone_features(self, images: Tensor) -> Tensor:
        """(N, C, h, w): the backbone's last features, before the neck."""
        return to_nchw(extract(self.backbone, images), self.backbone)

    def features(self, images: Tensor) -> Tensor:
        """(N, C, h, w): what the classifier averages."""
        features: Tensor = self.neck(self.backbone_features(images))
        return features

    def classify(self, features: Tensor) -> Tensor:
        """(N, K) logits of features: average, then the linear layer."""
        logits: Tensor = self.classifier(features.mean(dim=(2, 3)))
        return logits

    def compute_maps(self, features: Tensor) -> Tensor:
        """(N, K, h, w): every class's signed map by one 1x1 convolution; unit: the logit's."""
        if features.is_cuda:
            # cuDNN rounds a convolution's factors to 10 bits (TF32) unless told otherwise, and the linear layer's stay
            # as they are: such maps would miss the logits by more than float error.
            maps: Tensor = (self.classifier.weight @ features.flatten(2)).unflatten(2, features.shape[2:])
            return maps
        return nn.functional.conv2d(features, self.classifier.weight[:, :, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """(N, K) logits."""
        return self.classify(self.features(images))


def make_neck(head: Head, channels: int) -> tuple[nn.Module, int]:
    """The layers between backbone and pooling, and how many channels leave them."""
    if head == "linear":
        return nn.Identity(), channels
    return nn.Sequential(nn.Conv2d(channels, CONV_CHANNELS, 3, padding=1), nn.ReLU()), CONV_CHANNELS


def measure_identity(logits: Tensor, maps: Tensor, bias: Tensor) -> Tensor:
    """(N,): the largest |mean(map) + bias - logit| of each image, as a share of the range of its logits.

    Args:
        logits: (N, K) as the classifier gave them.
        maps: (N, K, h, w).
        bias: (K,).
    """
    gap = (maps.mean(dim=(2, 3)) + bias - logits).abs().amax(dim=1)
    spread = logits.amax(dim=1) - logits.amin(dim=1)
    return gap / torch.where(spread > 0, spread, logits.abs().amax(dim=1).clamp(min=torch.finfo(logits.dtype).tiny))


def check_identity(error: float, name: str) -> None:
    """Refuses a model whose maps are not its scores.

    Raises:
        UserError: the error is over float error, or not finite.
    """
    if not error < IDENTITY_LIMIT:
        raise UserError(
            f"{name} breaks mean(map) + bias = logit by {error:.2g} of the logits' range; "
            f"expected under {IDENTITY_LIMIT:g}. Its classifier is not pooling followed by one linear layer, "
            "so it has no exact class map. "
            "Use a gradient method (--method grad-cam), or train a GAP head on this backbone: "
            "whycam train FOLDER --backbone NAME."
        )


def probe_images(preprocess: Preprocess, count: int = 2) -> Tensor:
    """(count, 3, H, W) seeded noise in the range of normalised photos."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, preprocess.height_px, preprocess.width_px, generator=generator)


@torch.no_grad()
def load_network(
    name: str, *, weights: Path | None = None, image_size: int | None = None
) -> tuple[nn.Module, Backbone]:
    """A pretrained timm network as it is, in eval mode, and its backbone's description.

    Args:
        name: `imagenet` or a timm name.
        weights: a local file instead of the name's own weights.
        image_size: side of the input in pixels.

    Raises:
        UserError: unknown, or weights that are out of reach or do not fit.
    """
    tensors, source = find_weights(name, weights)
    architecture = resolve_architecture(name)
    whole = timm.create_model(architecture).eval()
    if count := _count_outputs(whole, tensors):
        whole = timm.create_model(architecture, num_classes=count).eval()
    load_backbone_weights(whole, tensors, source, needs_classifier=True)
    preprocess = make_preprocess(whole, image_size)
    return whole, Backbone(whole, architecture, 0, False, preprocess, source, str(read_config(whole)["classifier"]))


def _count_outputs(whole: nn.Module, tensors: Mapping[str, Tensor]) -> int:
    """How many classes the tensors are for, where that is another number than the network's own; else 0."""
    name = read_config(whole)["classifier"]
    weight = tensors.get(f"{name}.weight") if isinstance(name, str) else None
    return len(weight) if weight is not None and len(weight) != getattr(whole, "num_classes", 0) else 0


@torch.no_grad()
def make_exact(whole: nn.Module, origin: Backbone, class_names: Sequence[str] = ()) -> GapClassifier:
    """The same network as a GapClassifier, if its scores are the means of maps: measured, not looked up.

    Without `class_names` they are ImageNet's, or numbers.

    Raises:
        HeadError: they are not (ConvNeXt, MobileNetV3, ViT, VGG).
    """
    architecture, layer = origin.architecture, cast(Any, whole).get_classifier()
    try:
        cut = create_backbone(architecture, image_size=origin.preprocess.height_px)
    except UserError as error:
        raise _make_head_error(architecture, str(error)) from None
    channels = count_channels(cut.module)
    if not isinstance(layer, nn.Linear | nn.Conv2d) or layer.weight.shape[1] != channels:
        raise _make_head_error(architecture, f"its classifier does not read the {channels} feature channels")
    load_backbone_weights(cut.module, whole.state_dict(), origin.source)
    model = GapClassifier(replace(cut, source=origin.source), class_names or name_classes(len(layer.weight))).eval()
    bias = torch.zeros(len(layer.weight)) if layer.bias is None else layer.bias
    model.classifier.load_state_dict({"weight": layer.weight.flatten(1), "bias": bias})
    images = probe_images(origin.preprocess)
    own, logits = whole(images), model(images)
    gap = float((own - logits).abs().max() / (own.max() - own.min()))
    if not gap < IDENTITY_LIMIT:
        raise _make_head_error(architecture, f"mean(map) + bias misses its own logits by {gap:.2g} of their range")
    return model


class HeadError(UserError):
    """A network whose scores are not the means of maps."""


def _make_head_error(architecture: str, found: str) -> HeadError:
    return HeadError(
        f"{architecture!r} has no exact class maps: {found}; expected pooling followed by one linear layer. "
        f"Use a gradient method (--method grad-cam), or train a GAP head on it: "
        f"whycam train FOLDER --backbone {architecture}."
    )


def name_classes(count: int) -> list[str]:
    """Names of a pretrained network's classes: ImageNet's where there are 1,000, else numbers."""
    if count != 1000:
        return [f"class {index}" for index in range(count)]
    info = ImageNetInfo()
    whole = [info.index_to_description(index) for index in range(count)]
    short = [name.split(",")[0] for name in whole]
    times = Counter(short)
    # Two cranes and two maillots: those are told apart by all their words and the number.
    return [s if times[s] == 1 else f"{w} ({index})" for index, (s, w) in enumerate(zip(short, whole, strict=True))]


def save_classifier(model: GapClassifier, folder: Path, identity_error: float) -> None:
    """Writes `config.json` and `model.safetensors`; with a linear head timm itself loads the folder (`local-dir:`)."""
    folder.mkdir(parents=True, exist_ok=True)
    origin, name = model.origin, model.origin.classifier_name
    tensors = {k: v for k, v in origin.module.state_dict().items() if not k.startswith(f"{name}.")}
    tensors |= {f"{name}.{k}": v for k, v in model.classifier.state_dict().items()}
    tensors |= {f"neck.{k}": v for k, v in model.neck.state_dict().items()}
    with open_atomic(folder / "model.safetensors") as part:
        # Not by save_file, whose files are its owner's alone and whose errors are not the system's.
        content = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
        part.write_bytes(content)
    own = FolderConfig(
        format=FORMAT,
        head=model.head,
        class_names=list(model.class_names),
        map_stride=origin.map_stride,
        preprocess=origin.preprocess,
        source=origin.source,
        identity_error=identity_error,
        sha256=hashlib.sha256(content).hexdigest(),
        versions=read_versions(),
        thresholds=list(model.thresholds) or None,
    )
    said = own.model_dump(exclude={"thresholds"} if own.thresholds is None else None)
    write_json(folder / "config.json", _describe_for_timm(model) | {"whycam": said})


def _describe_for_timm(model: GapClassifier) -> dict[str, Any]:
    """The fields that timm reads from a model folder."""
    preprocess = model.preprocess
    native = read_config(model.origin.module)
    return {
        "architecture": model.origin.architecture,
        "num_classes": len(model.class_names),
        "num_features": model.classifier.in_features,
        "global_pool": "avg",
        "model_args": {"output_stride": model.origin.map_stride} if model.origin.is_dilated else {},
        "label_names": list(model.class_names),
        "pretrained_cfg": {
            "input_size": [3, preprocess.height_px, preprocess.width_px],
            "mean": preprocess.mean,
            "std": preprocess.std,
            "interpolation": preprocess.interpolation,
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "num_classes": len(model.class_names),
            "first_conv": native.get("first_conv"),
            "classifier": native.get("classifier"),
        },
    }


def load_classifier(folder: Path) -> GapClassifier:
    """The classifier of a model folder, in eval mode, its file's hash and its identity checked.

    Raises:
        UserError: a missing, tampered or foreign file, or a broken identity.
    """
    config, architecture = read_folder_config(folder)
    path = folder / "model.safetensors"
    if not path.is_file():
        raise UserError(
            f"Found no 'model.safetensors' in '{folder.absolute()}'; expected it beside config.json. "
            "Copy the whole model folder, or train again."
        )
    tensors = _read_tensors(path, config.sha256)
    try:
        origin = create_backbone(architecture, image_size=config.preprocess.height_px, map_stride=config.map_stride)
    except UserError as error:
        raise UserError(
            f"'{(folder / 'config.json').absolute()}' describes a network that can't be built: {error}"
        ) from None
    load_backbone_weights(origin.module, tensors, str(path))
    origin = replace(origin, preprocess=config.preprocess, source=config.source)
    model = GapClassifier(origin, config.class_names, config.head, config.thresholds or ()).eval()
    prefix = f"{origin.classifier_name}."
    try:
        model.classifier.load_state_dict({k: tensors[prefix + k] for k in ("weight", "bias")})
        model.neck.load_state_dict({k.removeprefix("neck."): v for k, v in tensors.items() if k.startswith("neck.")})
    except (KeyError, RuntimeError) as error:
        raise UserError(
            f"'{path.absolute()}' does not fit its config.json ({as_clause(error)}). Copy the model folder again, or "
            "train again."
        ) from None
    check_identity(probe_identity(model), f"The model in '{folder.absolute()}'")
    return model


def _read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """The tensors of a file of that hash, all of whose values are finite."""
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise UserError(
            f"'{path.absolute()}' is not the file that config.json describes (SHA-256 {found[:12]}..., "
            f"expected {sha256[:12]}...): it was changed or cut after the training. "
            "Copy the model folder again, or train again."
        )
    try:
        tensors = load(content)
        broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    except Exception as error:  # noqa: BLE001 - a damaged header raises whatever its reader stumbles over
        raise UserError(
            f"'{path.absolute()}' can't be read as weights ({as_clause(error)}); expected a whole .safetensors file. "
            "Copy the model folder again, or train again."
        ) from None
    if broken:
        raise UserError(
            f"'{path.absolute()}' holds values that are not finite, in {len(broken)} of its {len(tensors)} tensors "
            f"(such as {broken[0]!r}); expected numbers. Train again, with a smaller --lr."
        )
    return tensors


@torch.no_grad()
def probe_identity(model: GapClassifier) -> float:
    """The identity's error on two noise images: quick, and enough to find a head that works after the pooling."""
    features = model.features(probe_images(model.preprocess).to(model.classifier.weight.device))
    return float(measure_identity(model.classify(features), model.compute_maps(features), model.classifier.bias).max())
