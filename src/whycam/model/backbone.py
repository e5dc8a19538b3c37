"""Any timm backbone by name, cut before its pooling, with weights that are installed, in a file, cached or on a hub.

A family that needs care gets one row in `_TRIMS`, with the reason.
"""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, cast
from urllib.parse import urlsplit

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from whycam.data.preprocess import Preprocess
from whycam.errors import UserError, as_clause, make_unknown_name
from whycam.model.installed import INSTALLED, PACKAGED, find_packaged
from whycam.model.keras import vgg

_CONNECT_TIMEOUT_S = 3.0


@dataclass(frozen=True)
class Backbone:
    """A timm network that ends in its last feature maps.

    Attributes:
        module: images (N, 3, H, W) -> last features, by `forward_features`.
        architecture: timm's name.
        map_stride: pixels that a cell of the features spans.
        is_dilated: the stride is smaller than the architecture's own.
        preprocess: what its weights were trained with, at the chosen size.
        source: where the weights come from, in words.
        classifier_name: what timm calls the classifier in this architecture's state dict.
    """

    module: nn.Module
    architecture: str
    map_stride: int
    is_dilated: bool
    preprocess: Preprocess
    source: str
    classifier_name: str


def make_backbone(
    name: str,
    *,
    weights: Path | None = None,
    is_random: bool = False,
    image_size: int | None = None,
    map_stride: int | None = None,
) -> Backbone:
    """The backbone of that name, in eval mode, without pooling and classifier.

    Args:
        name: `imagenet` for the installed network, another of `PACKAGED`, else a timm name.
        weights: a local file of weights in timm's or torchvision's names, instead of those of the name; or in Keras's,
            for VGG.
        is_random: leave the weights random.
        image_size: side of the input in pixels; None takes the size the weights were trained at.
        map_stride: pixels a map cell spans; None takes the architecture's own.

    Raises:
        UserError: unknown name, a file that does not fit, a stride that the architecture can't have, or weights that
            are neither here nor within reach.
    """
    architecture = resolve_architecture(name)
    if is_random:
        return create_backbone(architecture, image_size=image_size, map_stride=map_stride)
    # Before the network is built: where there are no weights, that is told at once.
    tensors, source = find_weights(name, weights)
    backbone = create_backbone(architecture, image_size=image_size, map_stride=map_stride)
    if weights is not None and weights.suffix in vgg.SUFFIXES:
        tensors, preprocess = vgg.take_photos(tensors, backbone.preprocess)
        backbone = replace(backbone, preprocess=preprocess)
    load_backbone_weights(backbone.module, tensors, source)
    return replace(backbone, source=source)


def create_backbone(architecture: str, *, image_size: int | None = None, map_stride: int | None = None) -> Backbone:
    """The architecture with random weights, in eval mode, without pooling and classifier."""
    module = timm.create_model(architecture, num_classes=0, global_pool="")
    own_stride = _measure_stride(module, image_size)
    if trim := _TRIMS.get(type(module).__name__):
        trim(module, map_stride)
    elif map_stride not in (None, own_stride):
        module = _dilate(architecture, map_stride) or module
    stride = _measure_stride(module, image_size)
    if map_stride not in (None, stride):
        raise UserError(
            f"Backbone {architecture!r} has maps of stride {stride}; stride {map_stride} was asked for and "
            "this architecture can't have it. "
            f"Leave --map-stride out, or take another backbone such as '{INSTALLED}' (8, 16 or 32)."
        )
    classifier_name = str(read_config(module)["classifier"])
    preprocess = make_preprocess(module, image_size)
    return Backbone(module.eval(), architecture, stride, stride != own_stride, preprocess, "random", classifier_name)


def find_weights(name: str, weights: Path | None = None) -> tuple[dict[str, Tensor], str]:
    """Tensors in timm's names, the classifier's too, and where they come from, in words.

    Raises:
        UserError: a file that can't be read, or weights that are neither here nor within reach.
    """
    if weights is not None:
        return read_weights(weights), f"file {weights.name}"
    if name in PACKAGED:
        return read_installed(name), f"{PACKAGED[name].package} (installed, ImageNet)"
    return _read_pretrained(resolve_architecture(name))


def resolve_architecture(name: str) -> str:
    """The name that timm has for a network; those that packages bring have short names of their own.

    Raises:
        UserError: timm has no network of that name.
    """
    architecture = PACKAGED[name].architecture if name in PACKAGED else name
    if not timm.is_model(architecture.split(".")[0]):
        raise make_unknown_name("backbone", name, [*PACKAGED, *timm.list_models()])
    try:
        timm.get_pretrained_cfg(architecture)
    except RuntimeError:
        known = timm.list_models(f"{architecture.split('.')[0]}.*", pretrained=True)
        raise make_unknown_name("weights", name, known) from None
    return architecture


def make_preprocess(module: nn.Module, image_size: int | None) -> Preprocess:
    """The preprocessing that the network's weights expect, from timm's own table."""
    config = resolve_model_data_config(module)
    height, width = (image_size, image_size) if image_size else config["input_size"][1:]
    return Preprocess(
        height_px=height, width_px=width, mean=config["mean"], std=config["std"], interpolation=config["interpolation"]
    )


def _dilate(architecture: str, map_stride: int | None) -> nn.Module | None:
    """The architecture with its last stages at that stride, dilated; None where it knows no such thing."""
    try:
        module: nn.Module = timm.create_model(architecture, num_classes=0, global_pool="", output_stride=map_stride)
    except (TypeError, AssertionError, NotImplementedError, ValueError):
        return None
    return module


def _trim_vgg(module: nn.Module, map_stride: int | None) -> None:
    """VGG ends in a pooling layer and two fully connected ones: the first costs half the map, the others its places."""
    module.pre_logits = nn.Identity()
    if map_stride == 16:
        layers = module.get_submodule("features")
        module.features = nn.Sequential(*list(layers.children())[:-1])


_TRIMS: dict[str, Callable[[nn.Module, int | None], None]] = {"VGG": _trim_vgg}


@torch.no_grad()
def _measure_stride(module: nn.Module, image_size: int | None) -> int:
    side = image_size or int(read_config(module)["input_size"][1])
    was_training = module.training
    try:
        features = extract(module.eval(), torch.zeros(1, 3, side, side))
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"Backbone {type(module).__name__} does not take {side} x {side} photos: {as_clause(error)}. "
            "Give another --image-size."
        ) from None
    finally:
        module.train(was_training)
    # The cell at the edge may hang over the photo: 100 px in 4 cells is a stride of 32, as strides are powers of two.
    return int(2 ** round(math.log2(side / to_nchw(features, module).shape[-1])))


def read_config(module: nn.Module) -> dict[str, Any]:
    """What timm's table says of a network of its own."""
    return dict(cast(Any, module).default_cfg)


def count_channels(module: nn.Module) -> int:
    """Channels of a timm network's last features."""
    return int(cast(Any, module).num_features)


def extract(module: nn.Module, images: Tensor) -> Tensor:
    """A timm network's last features of images (N, 3, H, W), in its own layout."""
    features: Tensor = cast(Any, module).forward_features(images)
    return features


def to_nchw(features: Tensor, module: nn.Module) -> Tensor:
    """(N, C, h, w) of a backbone's last features.

    Raises:
        UserError: the network's features are tokens, which its classifier does not average.
    """
    channels = count_channels(module)
    if features.ndim == 4 and features.shape[1] == channels:
        return features
    if features.ndim == 4 and features.shape[-1] == channels:
        return features.permute(0, 3, 1, 2)
    raise UserError(
        f"{type(module).__name__} ends in features of shape {tuple(features.shape)}; "
        f"expected (N, {channels}, h, w). A GAP classifier needs a convolutional or windowed backbone, "
        f"such as '{INSTALLED}', resnet50 or swin_tiny_patch4_window7_224."
    )


def read_installed(name: str = INSTALLED) -> dict[str, Tensor]:
    """A package's ImageNet weights: timm's tensors in timm's order, under other names in their file.

    Raises:
        UserError: the package is not installed.
    """
    tensors = read_weights(find_packaged(name))
    with torch.device("meta"):
        names = timm.create_model(PACKAGED[name].architecture).state_dict()
    return dict(zip(names, tensors.values(), strict=True))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a weights file by name, those of a Keras file for its own input; a pickle is never run.

    Raises:
        UserError: missing, not a weights file, or a pickle that holds more than tensors.
    """
    if not path.is_file():
        raise UserError(
            f"Found no weights file at '{path.absolute()}'; expected a .safetensors or .pth file. Check the path."
        )
    if path.suffix in vgg.SUFFIXES:
        return vgg.read_vgg(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"'{path.absolute()}' is a pickle that holds more than tensors (or is no weights file); it was "
            "not opened further, because loading it would run its code. "
            "Expected a state dict of tensors: save the model's state_dict() as .safetensors."
        ) from None
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise UserError(
            f"'{path.absolute()}' can't be read as weights ({as_clause(error)}). "
            "Expected a whole .safetensors or .pth file: fetch it again."
        ) from None
    return _unwrap_state_dict(content, path)


def _unwrap_state_dict(content: object, path: Path) -> dict[str, Tensor]:
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = (
        {str(k).removeprefix("module."): v for k, v in content.items() if isinstance(v, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise UserError(
            f"'{path.absolute()}' holds no tensors by name; expected a state dict. Save the model's state_dict()."
        )
    return tensors


def load_backbone_weights(
    module: nn.Module, tensors: Mapping[str, Tensor], where: str, *, needs_classifier: bool = False
) -> None:
    """Loads what the backbone needs; the file's own classifier is left alone unless it is needed too.

    Raises:
        UserError: a tensor is missing or has another shape.
    """
    own = module.state_dict()
    head = str(read_config(module)["classifier"]).split(".")[0]
    # Files older than PyTorch 0.4.1 lack batch normalisation's counters, which decide nothing.
    needed = [
        name
        for name in own
        if (needs_classifier or name.split(".")[0] != head) and not name.endswith("num_batches_tracked")
    ]
    missing = [name for name in needed if name not in tensors]
    misfit = [name for name in needed if name in tensors and tensors[name].shape != own[name].shape]
    if missing or misfit:
        what = (
            f"lacks {len(missing)} of its {len(needed)} tensors (such as {missing[0]!r})"
            if missing
            else (
                f"has {misfit[0]!r} of shape {tuple(tensors[misfit[0]].shape)}, expected {tuple(own[misfit[0]].shape)}"
            )
        )
        raise UserError(
            f"Weights '{where}' do not fit {type(module).__name__}: the file {what}. "
            "Expected timm's or torchvision's names of this very architecture: check --backbone and --weights."
        )
    module.load_state_dict({name: tensors[name] for name in own if name in tensors}, strict=False)


def _read_pretrained(architecture: str) -> tuple[dict[str, Tensor], str]:
    """The pretrained weights from the hub's cache or the hub; gives up within seconds where there is no network."""
    config = timm.get_pretrained_cfg(architecture)
    if config is None or not config.hf_hub_id:
        raise UserError(
            f"timm has no pretrained weights for {architecture!r}. "
            "Give --weights FILE, or --scratch to start from random ones."
        )
    tensors = _read_hub_cache(config.hf_hub_id) or _download(architecture, config.hf_hub_id)
    return tensors, f"{config.hf_hub_id} (pretrained)"


def _read_hub_cache(hub_id: str) -> dict[str, Tensor] | None:
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - only where it is used

    for file in ("model.safetensors", "pytorch_model.bin"):
        found = try_to_load_from_cache(hub_id, file)
        if isinstance(found, str):
            return read_weights(Path(found))
    return None


def _download(architecture: str, hub_id: str) -> dict[str, Tensor]:
    try:
        check_hub(hub_id, "model.safetensors")
        from huggingface_hub import hf_hub_download  # noqa: PLC0415 - only where it is used

        return read_weights(Path(hf_hub_download(hub_id, "model.safetensors", etag_timeout=_CONNECT_TIMEOUT_S)))
    except OSError as error:
        raise UserError(
            f"The pretrained weights of {architecture!r} are not on this machine and can't be fetched "
            f"({as_clause(error)}). "
            "Three ways to give them:\n"
            "  --weights FILE         a .safetensors or .pth file in timm's or torchvision's names\n"
            f"  a hub cache            on a machine with a network: hf download {hub_id}; then copy its HF_HOME here\n"
            f"  --backbone {INSTALLED}    another backbone: this one is installed ({PACKAGED[INSTALLED].architecture})"
        ) from None


def check_hub(hub_id: str, file: str) -> None:
    """Raises an OSError within seconds where a file is neither in the hub's cache nor in reach."""
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - only where it is used

    is_here = isinstance(try_to_load_from_cache(hub_id, file), str)
    if not is_here and not (os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")):
        check_reachable(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))


def check_reachable(endpoint: str) -> None:
    """Raises an OSError within seconds where there is no way to the hub; its own client would retry for minutes."""
    if os.environ.get("HF_HUB_OFFLINE", "0") not in {"0", ""}:
        raise OSError("HF_HUB_OFFLINE is set")
    parts = urlsplit(endpoint)
    address = (parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443))
    # In a thread that nobody waits for: a socket's timeout does not hold while the name is being looked up.
    answer: SimpleQueue[OSError | None] = SimpleQueue()

    def connect() -> None:
        try:
            socket.create_connection(address, timeout=_CONNECT_TIMEOUT_S).close()
            answer.put(None)
        except OSError as error:
            answer.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        error = answer.get(timeout=_CONNECT_TIMEOUT_S + 1)
    except Empty:
        raise TimeoutError(f"{address[0]} did not answer within {_CONNECT_TIMEOUT_S + 1:g} seconds") from None
    if error:
        raise error


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """One short word for a set of weights: changes if any value, name or shape does."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(
            tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
            if tensor.ndim
            else bytes(str(tensor.item()), "ascii")
        )
    return digest.hexdigest()
