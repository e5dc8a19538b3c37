"""Entries: what a page is given of a photo says the same as the reading it was made of."""

from __future__ import annotations

import base64
import io

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from whycam.explainer.reading import Reading
from whycam.explainer.targets import to_probabilities
from whycam.show.entries import COLORMAPS, encode_colormaps, encode_photo, make_entry


def make_reading(maps: np.ndarray, logits: np.ndarray, targets: list[int]) -> Reading:
    names = tuple(f"class {k}" for k in range(len(logits)))
    record = {"method": "cam", "draws_both_signs": False}
    shares = to_probabilities(logits[None])[0]
    return Reading(
        maps,
        logits,
        shares,
        np.array(targets),
        names,
        record,
        size_px=(640, 480),
        notes=("The map of 'class 1' is flat.", "a note"),
    )


@pytest.fixture
def reading() -> Reading:
    draw = np.random.default_rng(0)
    return make_reading(
        draw.normal(size=(4, 7, 5)).astype(np.float32) * 20, np.array([0.5, 3, -1, 2], np.float32), [0, 1, 2, 3]
    )


def decode(entry: dict) -> np.ndarray:
    maps = entry["maps"]
    levels = np.frombuffer(base64.b64decode(maps["data"]), "<i2").reshape(maps["shape"])
    return levels / 32767 * np.array(maps["scale"])[:, None, None]


def test_maps_come_back_within_one_part_in_65534(reading: Reading) -> None:
    entry = make_entry(reading, "key", "a.jpg", image="x", truth=2)
    assert entry["classes"] == [1, 3, 0, 2]
    for values, of in zip(decode(entry), entry["classes"], strict=True):
        bound = np.abs(reading.maps[of]).max() / 65534
        assert np.abs(values - reading.maps[of]).max() <= bound * 1.001
        assert np.abs(values).max() == pytest.approx(np.abs(reading.maps[of]).max(), rel=1e-6)


def test_only_kept_classes_are_stored_and_stay_with_their_numbers(reading: Reading) -> None:
    entry = make_entry(reading, "key", "a.jpg", image="x", keep=[2, 3])
    assert entry["classes"] == [3, 2]
    assert entry["logits"] == [2, -1]
    assert entry["probabilities"] == pytest.approx([float(reading.probabilities[k]) for k in (3, 2)])
    assert (entry["width"], entry["height"], entry["truth"], entry["notes"]) == (640, 480, None, ["a note"])
    assert np.allclose(decode(entry)[1], reading.maps[2], atol=1e-3)


def test_notes_on_classes_that_are_left_out_are_left_out(reading: Reading) -> None:
    assert make_entry(reading, "key", "a.jpg", image="x")["notes"] == list(reading.notes)
    assert make_entry(reading, "key", "a.jpg", image="x", keep=[1])["notes"] == list(reading.notes)


def test_a_map_of_zeros_and_one_that_is_not_finite_are_zeros() -> None:
    maps = np.stack([np.zeros((2, 2)), np.full((2, 2), np.nan)]).astype(np.float32)
    entry = make_entry(make_reading(maps, np.array([1, 0], np.float32), [0, 1]), "key", "a.jpg", image="x")
    assert not decode(entry).any()


def test_a_photo_is_small_and_keeps_its_shape() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1500, 3000, 3), dtype=np.uint8)
    text = encode_photo(Image.fromarray(noise), side_px=200)
    head, data = text.split(",", 1)
    assert head == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (200, 100)


def test_colours_are_those_of_the_pictures_on_disk() -> None:
    found = encode_colormaps()
    assert tuple(found) == COLORMAPS
    for name, text in found.items():
        colors = np.frombuffer(base64.b64decode(text), np.uint8).reshape(256, 3)
        assert (colors == mpl.colormaps[name](np.arange(256), bytes=True)[:, :3]).all()
