"""From an upright RGB photo to the network's input, and nothing else; the same in training, explaining and export."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


# Beyond these bounds pixels of 0 to 255 leave the range that float32 resolves, and scores are no numbers.
_Mean = Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]
_Std = Annotated[float, Field(ge=1e-4, le=1000, allow_inf_nan=False)]


class Preprocess(BaseModel):
    """Resize to (height, width), scale to [0, 1], subtract `mean`, divide by `std`.

    The whole photo is squashed into the input, never cropped: every pixel of it is then under the map.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    height_px: int = Field(224, ge=1, le=4096)
    width_px: int = Field(224, ge=1, le=4096)
    mean: tuple[_Mean, _Mean, _Mean] = (0.5, 0.5, 0.5)
    std: tuple[_Std, _Std, _Std] = (0.5, 0.5, 0.5)
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    resize: Literal["squash"] = "squash"

    def to_pixels(self, image: Image.Image) -> np.ndarray:
        """(3, H, W) uint8 of an RGB photo, resized."""
        if image.size != (self.width_px, self.height_px):
            image = image.resize((self.width_px, self.height_px), _FILTERS[self.interpolation])
        return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))

    def normalise(self, pixels: np.ndarray) -> np.ndarray:
        """(..., 3, H, W) float32 from uint8 pixels of that layout."""
        mean = np.asarray(self.mean, dtype=np.float32).reshape(3, 1, 1) * 255
        std = np.asarray(self.std, dtype=np.float32).reshape(3, 1, 1) * 255
        return (pixels.astype(np.float32) - mean) / std
