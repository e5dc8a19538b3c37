"""A torchvision or timm transform, read: its size, mean, deviation, interpolation; not only accepted."""

from __future__ import annotations

from typing import Any

from whycam.data.preprocess import Preprocess
from whycam.errors import UserError

# Steps that change no pixel of a photo: they turn it into a tensor, or its numbers into floats.
_PLAIN = {
    "ToTensor",
    "PILToTensor",
    "ToImage",
    "MaybeToTensor",
    "MaybePILToTensor",
    "ConvertImageDtype",
    "ToDtype",
    "ToPureTensor",
    "CenterCrop",
    "CenterCropOrPad",
}


def read_transform(transform: Any) -> Preprocess:
    """The preprocessing that a transform does; a crop is left out: the whole photo is squashed into the size.

    Args:
        transform: Compose of torchvision (v1, v2) or timm, or a preset such as `ResNet50_Weights.DEFAULT.transforms()`.

    Raises:
        UserError: a step that is none of those known, or neither a size nor a mean.
    """
    if hasattr(transform, "crop_size") and hasattr(transform, "mean"):  # torchvision's preset for classification
        side = _read_size(transform.crop_size)
        mean, std = tuple(map(float, transform.mean)), tuple(map(float, transform.std))
        return _make(side, mean, std, _read_interpolation(transform))
    found, interpolation, is_scaled = None, "bilinear", False
    middle: tuple[float, ...] = (0.0, 0.0, 0.0)
    spread: tuple[float, ...] = (1.0, 1.0, 1.0)
    for step in getattr(transform, "transforms", None) or [transform]:
        name = type(step).__name__
        if name in {"Resize", "ResizeKeepRatio", "CenterCrop", "CenterCropOrPad"}:
            # The last one decides the size: of a resize and a crop, that is the crop.
            found = _read_size(step.size)
            interpolation = _read_interpolation(step) if hasattr(step, "interpolation") else interpolation
        if name in {"ToTensor", "MaybeToTensor", "ConvertImageDtype"} or (name == "ToDtype" and step.scale):
            is_scaled = True
        if name == "Normalize":
            middle, spread = (tuple(float(v) for v in values) for values in (step.mean, step.std))
        elif name not in _PLAIN | {"Resize", "ResizeKeepRatio"}:
            raise UserError(
                f"The transform has a step {name}, which whycam can't read; expected Resize, CenterCrop, ToTensor and "
                "Normalize alone (no augmentation). Give the evaluation transform, or preprocess='imagenet'|'half'|..."
            )
    if found is None:
        raise UserError("The transform resizes nothing; expected Resize or CenterCrop. Give one that does.")
    scale = 1.0 if is_scaled else 1 / 255
    return _make(found, tuple(v * scale for v in middle), tuple(v * scale for v in spread), interpolation)


def _make(side: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...], interpolation: str) -> Preprocess:
    how: Any = {"interpolation": interpolation}
    if len(mean) == 1:
        mean, std = mean * 3, std * 3
    return Preprocess(height_px=side[0], width_px=side[1], mean=mean, std=std, **how)


def _read_size(size: Any) -> tuple[int, int]:
    sides = [int(size)] if isinstance(size, int) else [int(side) for side in size]
    return sides[0], sides[-1]


def _read_interpolation(step: Any) -> str:
    word = str(getattr(step.interpolation, "value", step.interpolation)).lower()
    known = ("nearest", "bilinear", "bicubic", "lanczos")
    return next((name for name in known if name in word), "bilinear")
