"""VGG weights in Keras's names, such as `vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5`, as torchvision's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whycam.data.preprocess import Preprocess
from whycam.errors import UserError, as_clause

SUFFIXES = {".h5", ".hdf5"}
# Keras trained VGG on blue, green, red of 0 to 255 less these; here red first, as parts of 255.
_MEAN = (123.68 / 255, 116.779 / 255, 103.939 / 255)
_LAYER = re.compile(r"block(\d+)_conv(\d+)")


def read_vgg(path: Path) -> dict[str, Tensor]:
    """Kernels (O, I, H, W) and biases by torchvision's names, without the classifier; for Keras's own input.

    Raises:
        UserError: missing, no .h5 file, h5py not installed, or another network's weights.
    """
    try:
        import h5py  # noqa: PLC0415 - of the extra `keras`
    except ImportError:
        raise UserError(
            f"'{path.absolute()}' holds weights in Keras's format; h5py, which reads it, is not installed. "
            "Install it: pip install 'whycam[keras]'."
        ) from None
    found: dict[tuple[int, int], dict[str, Tensor]] = {}

    def keep(name: str, entry: Any) -> None:
        layer = _LAYER.search(name)
        part = {4: "weight", 1: "bias"}.get(getattr(entry, "ndim", 0))
        if layer and part and not name.startswith("optimizer"):
            place = found.setdefault((int(layer[1]), int(layer[2])), {})
            place.setdefault(part, torch.from_numpy(entry[()]).float())

    try:
        with h5py.File(path, "r") as file:
            file.visititems(keep)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"'{path.absolute()}' can't be read as .h5 ({as_clause(error)}). Expected a whole file: fetch it again."
        ) from None
    if not found or any(len(parts) < 2 for parts in found.values()):
        raise UserError(
            f"'{path.absolute()}' holds {len(found)} of VGG's convolutions with kernel and bias; expected those of "
            "Keras's VGG16, named block1_conv1 to block5_conv3, as its own files have them and model.save('vgg16.h5') "
            "writes them. Other networks' weights come as .safetensors or .pth, in timm's names."
        )
    return {
        f"features.{index}.{part}": tensor.permute(3, 2, 0, 1).contiguous() if part == "weight" else tensor
        for index, place in _number(sorted(found))
        for part, tensor in found[place].items()
    }


def _number(places: list[tuple[int, int]]) -> list[tuple[int, tuple[int, int]]]:
    """The number in torchvision of each convolution: a ReLU behind each, and a pooling behind each block."""
    return [(2 * count + block - places[0][0], (block, conv)) for count, (block, conv) in enumerate(places)]


def take_photos(tensors: dict[str, Tensor], preprocess: Preprocess) -> tuple[dict[str, Tensor], Preprocess]:
    """The same network for photos that are red, green, blue less Keras's mean, over that preprocessing's deviation.

    Only a factor goes into the first kernel: a shift would change what the zeros around the photo are.
    """
    factor = 255 * torch.tensor(preprocess.std).view(1, 3, 1, 1)
    first = tensors["features.0.weight"].flip(1) * factor
    return {**tensors, "features.0.weight": first}, preprocess.model_copy(update={"mean": _MEAN})
