"""Hugging Face image classifiers with tiny configurations, for `intake.py`; a further one is one more row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from intake_cases import CLASSES, find_side
from torch import nn

_SIDE = 64
_TOKENS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": _SIDE,
    "patch_size": 8,
}
_STAGES = {"depths": [1, 1, 2, 1], "hidden_sizes": [8, 16, 24, 32]}
_SWIN = {"image_size": _SIDE, "patch_size": 2, "embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2]}
# Name -> its class without "ForImageClassification", and its configuration.
_NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("ResNet", {**_STAGES, "embedding_size": 8, "layer_type": "basic"}),
    "resnet bottleneck": ("ResNet", {**_STAGES, "embedding_size": 8}),
    "regnet": ("RegNet", {**_STAGES, "embedding_size": 8, "groups_width": 4}),
    "convnext": ("ConvNext", _STAGES),
    "convnextv2": ("ConvNextV2", _STAGES),
    "mobilenet_v1": ("MobileNetV1", {"depth_multiplier": 0.25}),
    "mobilenet_v2": ("MobileNetV2", {"depth_multiplier": 0.35}),
    "efficientnet": ("EfficientNet", {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320}),
    "vit": ("ViT", _TOKENS),
    "vit_msn": ("ViTMSN", _TOKENS),
    "deit": ("DeiT", _TOKENS),
    "beit": ("Beit", {**_TOKENS, "use_relative_position_bias": True}),
    "beit class token": ("Beit", {**_TOKENS, "use_mean_pooling": False}),
    "data2vec-vision": ("Data2VecVision", _TOKENS),
    "dinov2": ("Dinov2", _TOKENS),
    "dinov2_with_registers": ("Dinov2WithRegisters", {**_TOKENS, "num_register_tokens": 4}),
    "ijepa": ("IJepa", _TOKENS),
    "swin": ("Swin", {**_SWIN, "window_size": 4}),
    "swinv2": ("Swinv2", {**_SWIN, "window_size": 4}),
    "hiera": (
        "Hiera",
        {"image_size": [_SIDE, _SIDE], "embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 4]},
    ),
    "levit": (
        "Levit",
        {
            "image_size": _SIDE,
            "hidden_sizes": [16, 24, 32],
            "num_attention_heads": [2, 3, 4],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
        },
    ),
    "pvt": (
        "Pvt",
        {
            "image_size": _SIDE,
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [8, 16, 24, 32],
            "num_attention_heads": [1, 2, 3, 4],
        },
    ),
    "pvt_v2": (
        "PvtV2",
        {
            "image_size": _SIDE,
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [8, 16, 24, 32],
            "num_attention_heads": [1, 2, 3, 4],
        },
    ),
    "segformer": (
        "Segformer",
        {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 2, 3, 4]},
    ),
    "poolformer": ("PoolFormer", {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}),
    "focalnet": ("FocalNet", {"image_size": _SIDE, "embed_dim": 8, "depths": [1, 1, 1, 1]}),
    "cvt": ("Cvt", {"embed_dim": [8, 16, 32], "num_heads": [1, 2, 4], "depth": [1, 1, 2]}),
    "mobilevit": (
        "MobileViT",
        {"image_size": _SIDE, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 24, 24, 32, 64]},
    ),
    "mobilevitv2": ("MobileViTV2", {"image_size": _SIDE, "width_multiplier": 0.25}),
    "swiftformer": ("SwiftFormer", {"depths": [1, 1, 1, 1], "embed_dims": [8, 16, 24, 32]}),
    "bit": ("Bit", {**_STAGES, "embedding_size": 8, "num_groups": 4}),
    "siglip": ("Siglip", {"vision_config": _TOKENS}),
    "clip": ("CLIP", {"vision_config": {**_TOKENS, "projection_dim": 16}, "projection_dim": 16}),
    "textnet": ("TextNet", {}),
    "pp_lcnet": ("PPLCNet", {"scale": 0.25}),
    "hgnet_v2": ("HGNetV2", {}),
}


def list_networks() -> dict[str, Callable[[], tuple[nn.Module, int]]]:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return {name: lambda row=row: _build(*row) for name, row in _NETWORKS.items()}


def _build(family: str, how: dict[str, Any]) -> tuple[nn.Module, int]:
    kind = getattr(transformers, f"{family}ForImageClassification")
    config = kind.config_class(**how)
    config.num_labels = CLASSES
    torch.manual_seed(0)
    return find_side(kind(config), (_SIDE, 96, 224))
