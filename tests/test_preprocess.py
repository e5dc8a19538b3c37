"""From a photo to the network's input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from whycam.data.preprocess import Preprocess
from whycam.model.input import normalise_on

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def make_photo(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_pixels_of_a_photo_of_the_right_size_are_its_own() -> None:
    photo = make_photo(12, 8)
    pixels = Preprocess(height_px=8, width_px=12).to_pixels(photo)
    assert pixels.shape == (3, 8, 12)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert np.array_equal(pixels.transpose(1, 2, 0), np.asarray(photo))


def test_the_whole_photo_is_squashed_not_cropped() -> None:
    photo = Image.new("RGB", (90, 30))
    photo.paste((255, 0, 0), (0, 0, 30, 30))
    photo.paste((0, 0, 255), (60, 0, 90, 30))
    pixels = Preprocess(height_px=9, width_px=9, interpolation="nearest").to_pixels(photo)
    assert (pixels[0, :, :3] == 255).all()
    assert (pixels[2, :, 6:] == 255).all()
    assert not pixels[:, :, 3:6].any()


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_interpolation_is_pillows(name: str) -> None:
    photo = make_photo(33, 21)
    pixels = Preprocess(height_px=16, width_px=20, interpolation=name).to_pixels(photo)
    wanted = photo.resize((20, 16), Image.Resampling[name.upper()])
    assert np.array_equal(pixels.transpose(1, 2, 0), np.asarray(wanted))


def test_normalise_by_hand() -> None:
    preprocess = Preprocess(height_px=1, width_px=2, **IMAGENET)
    pixels = np.array([[[0, 255]], [[51, 102]], [[0, 0]]], dtype=np.uint8)
    values = preprocess.normalise(pixels)
    assert values.dtype == np.float32
    assert np.allclose(values[0, 0], [-0.485 / 0.229, 0.515 / 0.229], atol=1e-6)
    assert np.allclose(values[1, 0], [(0.2 - 0.456) / 0.224, (0.4 - 0.456) / 0.224], atol=1e-6)


def test_both_normalisations_agree() -> None:
    preprocess = Preprocess(height_px=8, width_px=8, **IMAGENET)
    pixels = np.stack([preprocess.to_pixels(make_photo(8, 8))] * 2)
    on_device = normalise_on(torch.from_numpy(pixels), preprocess)
    assert np.array_equal(on_device.numpy(), preprocess.normalise(pixels))


@pytest.mark.parametrize("words", [{"height_px": 0}, {"interpolation": "area"}, {"crop": 1}, {"resize": "crop"}])
def test_what_it_does_not_know_is_refused(words: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(words))):
        Preprocess.model_validate(words)


def test_it_survives_json() -> None:
    preprocess = Preprocess(height_px=160, width_px=160, interpolation="bilinear", **IMAGENET)
    assert Preprocess.model_validate_json(preprocess.model_dump_json()) == preprocess
