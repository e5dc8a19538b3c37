"""From an upright RGB photo to the network's input, and nothing else; the same in training, explaining and export."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


# Beyond these bounds pixels of 0 to 255 leave the range that float32 resolves, and scores are no numbers.
_Mean = Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]
_Std = Annotated[float, Field(ge=1e-4, le=1000, allow_inf_nan=False)]


Channels = Literal["rgb", "bgr", "grey"]


class Preprocess(BaseModel):
    """Resize to (height, width), order the channels, scale to [0, 1], subtract `mean`, divide by `std`.

    `mean` and `std` are in the network's order of channels; of grey the first counts.

    The whole photo is squashed into the input, never cropped: every pixel of it is then under the map.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    height_px: int = Field(224, ge=1, le=4096)
    width_px: int = Field(224, ge=1, le=4096)
    mean: tuple[_Mean, _Mean, _Mean] = (0.5, 0.5, 0.5)
    std: tuple[_Std, _Std, _Std] = (0.5, 0.5, 0.5)
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    resize: Literal["squash"] = "squash"
    channels: Channels = "rgb"

    @model_serializer(mode="wrap")
    def _describe(self, describe: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # What is not said is RGB: descriptions from before there was a choice stay as they are.
        told: dict[str, Any] = describe(self)
        if self.channels == "rgb":
            told.pop("channels", None)
        return told

    @property
    def at_least(self) -> tuple[int, int]:
        """(width, height) in pixels that a photo may be decoded at, where its file allows less than the whole."""
        return 2 * self.width_px, 2 * self.height_px

    @property
    def channel_count(self) -> int:
        """Channels of the network's input."""
        return 1 if self.channels == "grey" else 3

    def to_pixels(self, image: Image.Image) -> np.ndarray:
        """(3, H, W) uint8 of an RGB photo, resized."""
        if image.size != (self.width_px, self.height_px):
            image = image.resize((self.width_px, self.height_px), _FILTERS[self.interpolation])
        return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))

    def normalise(self, pixels: np.ndarray) -> np.ndarray:
        """(..., C, H, W) float32 in the network's order of channels, from RGB uint8 pixels (..., 3, H, W)."""
        values = self.arrange(pixels.astype(np.float32))
        mean, std = (
            np.asarray(numbers, dtype=np.float32)[: self.channel_count].reshape(-1, 1, 1) * 255
            for numbers in (self.mean, self.std)
        )
        normalised: np.ndarray = (values - mean) / std
        return normalised

    def arrange(self, values: Any) -> Any:
        """RGB values (..., 3, H, W), of an array or a tensor, in the network's order of channels; grey as ITU-R 601."""
        if self.channels == "rgb":
            return values
        red, green, blue = (values[..., k : k + 1, :, :] for k in range(3))
        if self.channels == "grey":
            return 0.299 * red + 0.587 * green + 0.114 * blue
        return values[..., [2, 1, 0], :, :]


# What `--preprocess` names: mean and standard deviation of values in [0, 1], and the order of the channels.
NAMED: dict[str, dict[str, Any]] = {
    "imagenet": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "half": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    "unit": {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)},
    "bytes": {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)},
    "caffe": {
        "mean": (103.939 / 255, 116.779 / 255, 123.68 / 255),
        "std": (1 / 255, 1 / 255, 1 / 255),
        "channels": "bgr",
    },
}
