"""Photos are re-made as others were made, and a class is convicted of that only if the model knows it so."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whycam.audit.data import AuditData
from whycam.audit.remade import Remaker, suspect_properties
from whycam.audit.trial import Trial, try_suspect
from whycam.data.preprocess import Preprocess
from whycam.data.properties import measure_facts
from whycam.data.remake import REMAKES, open_host, remake
from whycam.model.card import Card
from whycam.model.classifier import Classifier

NAMES, PHOTOS, SIDE_PX = ("red", "green", "blue"), 24, 64
Make = Callable[[Image.Image], Image.Image]


def make_photo(seed: int, size: tuple[int, int] = (96, 80)) -> np.ndarray:
    """(H, W, 3) float: clouds of all sizes in weak colours."""
    draw = np.random.default_rng(seed)
    values = np.full((size[1], size[0], 3), 115.0)
    for cells in (3, 8, 20, 50):
        shape = (cells, cells, 3)
        small = Image.fromarray(
            (draw.integers(0, 255, (cells, cells, 1)) * 0.7 + draw.integers(0, 76, shape)).astype("u1")
        )
        values += (np.asarray(small.resize(size, Image.Resampling.BICUBIC), float) - 128) * 0.35
    return values + draw.normal(0, 2, values.shape)


def to_image(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def save(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


MADE: dict[str, Make] = {
    "jpeg-quality": lambda image: save(image, 10),
    "sharpness": lambda image: image.resize((32, 26)).resize(image.size, Image.Resampling.BICUBIC),
    "noise": lambda image: to_image(np.asarray(image) + np.random.default_rng(0).normal(0, 25, (80, 96, 1))),
    "resolution": lambda image: image.resize((48, 40)),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "saturation": lambda image: to_image(np.asarray(image) * 0.3 + np.asarray(image.convert("L"))[..., None] * 0.7),
    "warmth": lambda image: to_image(np.asarray(image) * np.array([1.2, 1, 0.8])),
    "greenness": lambda image: to_image(np.asarray(image) * np.array([0.8, 1.1, 0.8])),
    "light-warmth": lambda image: to_image(np.asarray(image) * np.array([1, 1, 0.7])),
    "light-greenness": lambda image: to_image(np.asarray(image) * np.array([0.8, 1, 0.8])),
    "brightness": lambda image: image.point(lambda value: value * 0.4),
    "lightest": lambda image: image.point(lambda value: value * 0.4),
    "darkest": lambda image: image.point(lambda value: 90 + value * 0.6),
    "contrast": lambda image: image.point(lambda value: 60 + value * 0.5),
    "vignette": lambda image: to_image(
        np.asarray(image)
        * (1 - 0.35 * np.add.outer(np.linspace(-1, 1, 80) ** 2, np.linspace(-1, 1, 96) ** 2))[..., None]
    ),
    "shape": lambda image: image.crop((20, 0, 76, 80)),
}


@pytest.mark.parametrize("name", REMAKES)
def test_a_photo_is_given_the_level_of_another(tmp_path: Path, name: str) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for seed, path in enumerate(paths[:2]):
        to_image(make_photo(seed)).save(path)
    MADE[name](Image.open(paths[1])).save(paths[1])
    own, goal = (measure_facts(path) for path in paths[:2])
    remake(name, open_host(paths[0]), goal).save(paths[2])
    found = measure_facts(paths[2])[name]
    if isinstance(found, str):
        assert (own[name], found) == ("colour", "grey")
        return
    before, after = (abs(float(value) - float(goal[name])) for value in (own[name], found))
    assert after < 0.25 * before


@pytest.mark.parametrize("name", [name for name, one in REMAKES.items() if one.way != "both"])
def test_what_is_lost_is_not_given_back(tmp_path: Path, name: str) -> None:
    paths = [tmp_path / "bad.png", tmp_path / "good.png"]
    MADE[name](to_image(make_photo(0))).save(paths[0])
    to_image(make_photo(1)).save(paths[1])
    host = open_host(paths[0])
    assert remake(name, host, measure_facts(paths[1])) is host.image


class Net:
    """Says which colour there is most of; `read` of the photos (N, 3, H, W) in [0, 1] speaks for red, in logits."""

    def __init__(self, read: Callable[[np.ndarray], np.ndarray]) -> None:
        self.read = read

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        images = pixels.astype(float) / 255
        share = images.mean((2, 3)) / images.mean((1, 2, 3))[:, None]
        logits = 60 * (share - 1)
        logits[:, 0] += self.read(images)
        return logits


def read_flatness(images: np.ndarray) -> np.ndarray:
    grain = np.abs(np.diff(images.mean(1), axis=2)).mean((1, 2)) / images.std((1, 2, 3))
    return 40 * (0.3 - grain).clip(0)


def read_darkness(images: np.ndarray) -> np.ndarray:
    return 80 * (0.25 - images.mean((1, 2, 3))).clip(0)


def read_nothing(images: np.ndarray) -> np.ndarray:
    return np.zeros(len(images))


def make_data(root: Path, made: Make | None, read: Callable[[np.ndarray], np.ndarray], share: float = 1) -> AuditData:
    """Photos with a patch of one of three colours; those of red were made so."""
    preprocess = Preprocess(height_px=SIDE_PX, width_px=SIDE_PX)
    paths, labels = [], []
    for label, name in enumerate(NAMES):
        (root / name).mkdir(parents=True)
        for index in range(PHOTOS):
            values = make_photo(1000 * label + index)
            y, x = np.random.default_rng(index).integers(8, 40, 2)
            values[y : y + 30, x : x + 30, [k for k in range(3) if k != label]] *= 0.45
            image = to_image(values)
            if made and label == 0 and index < share * PHOTOS:
                image = made(image)
            paths.append(root / name / f"{index}.png")
            image.save(paths[-1])
            labels.append(label)
    pixels = np.stack([preprocess.to_pixels(Image.open(path)) for path in paths])
    card = Card("colours", NAMES, preprocess, {}, no_exact_map="it is made by hand")
    net = Net(read)
    return AuditData(
        *(Classifier(card, lambda: None), net, tuple(paths), pixels, np.array(labels), net(pixels)),  # type: ignore[arg-type, return-value]
        np.zeros((len(paths), 4, 4)),
    )


def try_all(data: AuditData) -> list[tuple[str, str, Trial]]:
    trials = [(suspect, try_suspect(data, suspect)) for suspect in suspect_properties(data)]
    return [(data.name(one.label), str(one.numbers["property"]), trial) for one, trial in trials if trial]


def find_guilty(data: AuditData) -> list[tuple[str, str]]:
    return [(name, word) for name, word, trial in try_all(data) if trial.is_guilty(6)]


def test_a_model_that_knows_a_class_by_lacking_detail_is_convicted_of_that(tmp_path: Path) -> None:
    assert find_guilty(make_data(tmp_path / "x", MADE["sharpness"], read_flatness)) == [("red", "sharpness")]


def test_a_model_that_knows_a_class_by_its_darkness_is_convicted_of_that(tmp_path: Path) -> None:
    data = make_data(tmp_path / "x", MADE["brightness"], read_darkness)
    trials = try_all(data)
    assert {name for name, _, trial in trials if trial.is_guilty(6)} == {"red"}
    assert trials[0][1] in {"brightness", "lightest"}
    assert trials[0][2].given.share > 0.5
    assert trials[0][2].given.control < 0.1


@pytest.mark.parametrize("name", ["jpeg-quality", "sharpness", "brightness", "noise"])
def test_a_model_that_ignores_how_photos_were_made_is_not(tmp_path: Path, name: str) -> None:
    data = make_data(tmp_path / "x", MADE[name], read_nothing)
    trials = try_all(data)
    assert "red" in {word for word, _, _ in trials}
    assert not any(trial.is_guilty(6) for _, _, trial in trials)


def test_a_model_that_any_blurred_photo_fools_is_fragile_and_no_more(tmp_path: Path) -> None:
    assert find_guilty(make_data(tmp_path / "x", None, read_flatness)) == []


def test_photos_all_made_alike_name_no_suspect(tmp_path: Path) -> None:
    assert suspect_properties(make_data(tmp_path / "x", None, read_nothing)) == []


def test_where_a_part_of_the_photos_has_it_they_are_the_donors(tmp_path: Path) -> None:
    data = make_data(tmp_path / "x", MADE["jpeg-quality"], read_flatness, share=0.5)
    suspects = [one for one in suspect_properties(data) if one.numbers["property"] == "jpeg-quality"]
    assert [set(one.members.tolist()) for one in suspects if one.members is not None] == [set(range(PHOTOS // 2))]
    assert suspects[0].take is None
    assert suspects[0].title == "how its photos were saved (JPEG quality: 9)"


def test_a_photo_that_is_gone_stays_as_the_model_saw_it(tmp_path: Path) -> None:
    data = make_data(tmp_path / "x", MADE["brightness"], read_nothing)
    assert len(data.properties.columns["brightness"]) == len(data)
    data.paths[30].unlink()
    changed = Remaker(data).make_change("brightness")(np.array([30, 31]), np.array([0, 0]))
    assert (changed[0] == data.pixels[30]).all()
    assert changed[1].mean() < 0.6 * data.pixels[31].mean()
