"""Generated flower scenes: repeatable, with exact masks, and with backgrounds that say nothing about the class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats

from whycam.data import backdrops
from whycam.data.flowers import KINDS, Bloom, Plane
from whycam.data.garden import FLOWERS, _photograph, make_scene, write_garden
from whycam.errors import UserError


@pytest.fixture
def plane() -> Plane:
    y, x = np.mgrid[-60:60, -60:60].astype(np.float32) / 50
    return Plane(x, y, 1 / 50)


@pytest.fixture(scope="module")
def garden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("garden")
    write_garden(folder, train_per_class=3, val_per_class=2, size_px=48)
    return folder


def read_photos(folder: Path, split: str) -> dict[str, bytes]:
    root = folder / "photos" / split
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.jpg"))}


@pytest.mark.parametrize("flower", FLOWERS)
def test_scene_is_repeatable(flower: str) -> None:
    first, again, other = make_scene(flower, 3, 64), make_scene(flower, 3, 64), make_scene(flower, 4, 64)
    assert first.image.tobytes() == again.image.tobytes()
    np.testing.assert_array_equal(first.mask, again.mask)
    assert first.image.tobytes() != other.image.tobytes()
    assert (first.flower, first.seed, first.image.mode, first.image.size) == (flower, 3, "RGB", (64, 64))
    assert first.mask.shape == (64, 64)
    assert first.mask.dtype == np.bool_


@pytest.mark.parametrize("flower", FLOWERS)
def test_mask_is_where_the_heads_change_the_picture(flower: str) -> None:
    size = 128
    for seed in range(4):
        scene, bare = make_scene(flower, seed, size), _photograph(flower, seed, size, has_heads=False)
        np.testing.assert_array_equal(scene.mask, bare.mask)
        change = np.asarray(scene.image, np.int16) - np.asarray(bare.image, np.int16)  # (H, W, 3)
        assert (np.abs(change).max(axis=2)[scene.mask] > 8).mean() > 0.93
        off_edge = ~ndimage.binary_dilation(scene.mask, iterations=2)
        assert change[off_edge].max() <= 20, "off the mask a head may only cast its shadow"
        far = ~ndimage.binary_dilation(scene.mask, iterations=size // 3)
        assert not change[far].any()


def test_mask_share_over_fifty_scenes() -> None:
    shares = [make_scene(flower, seed, 96).mask.mean() for flower in FLOWERS for seed in range(10)]
    assert min(shares) > 0.02
    assert max(shares) < 0.30
    assert 0.08 < np.mean(shares) < 0.15


def test_unknown_flower_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"Unknown flower 'tulpi'.*daisy.*Did you mean 'tulip'"):
        make_scene("tulpi", 0)


@pytest.mark.parametrize(("seed", "size_px", "found"), [(-1, 64, "seed is -1"), (0, 31, "size_px is 31")])
def test_scene_numbers_out_of_range(seed: int, size_px: int, found: str) -> None:
    with pytest.raises(UserError, match=found):
        make_scene("rose", seed, size_px)


def test_background_is_independent_of_the_flower(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []

    def make_recorder(name: str) -> Callable[[np.random.Generator, int], Image.Image]:
        def paint(rng: np.random.Generator, size: int) -> Image.Image:
            drawn.append(name)
            return Image.new("RGB", (size, size))

        return paint

    names = list(backdrops.BACKDROPS)
    monkeypatch.setattr(backdrops, "BACKDROPS", {name: make_recorder(name) for name in names})
    counts = np.zeros((len(FLOWERS), len(names)))
    for row, flower in enumerate(FLOWERS):
        drawn.clear()
        for seed in range(48):
            make_scene(flower, seed, 32)
        counts[row] = [drawn.count(name) for name in names]
    assert counts.sum() == 48 * len(FLOWERS)
    assert counts.min() >= 1
    assert stats.chi2_contingency(counts).pvalue > 0.01


def test_garden_layout(garden: Path) -> None:
    for split, count in (("train", 3), ("val", 2)):
        for flower in FLOWERS:
            stems = [f"{index:04d}" for index in range(count)]
            photos = sorted((garden / "photos" / split / flower).iterdir())
            masks = sorted((garden / "masks" / split / flower).iterdir())
            assert [path.name for path in photos] == [f"{stem}.jpg" for stem in stems]
            assert [path.name for path in masks] == [f"{stem}.png" for stem in stems]
            with Image.open(masks[0]) as mask, Image.open(photos[0]) as photo:
                assert (mask.mode, photo.mode) == ("L", "RGB")
                assert mask.size == photo.size == (48, 48)
                assert set(np.unique(np.asarray(mask))) == {0, 255}


def test_garden_masks_belong_to_their_photos(garden: Path) -> None:
    with (
        Image.open(garden / "masks/val/tulip/0001.png") as mask,
        Image.open(garden / "photos/val/tulip/0001.jpg") as photo,
    ):
        scene = make_scene("tulip", 3, 48)  # val has the odd seeds
        np.testing.assert_array_equal(np.asarray(mask) == 255, scene.mask)
        assert np.abs(np.asarray(photo, np.int16) - np.asarray(scene.image, np.int16)).mean() < 8


def test_garden_splits_share_no_photo(garden: Path) -> None:
    photos = [*read_photos(garden, "train").values(), *read_photos(garden, "val").values()]
    assert len(photos) == 5 * len(FLOWERS)
    assert len(set(photos)) == len(photos)


def test_garden_is_repeatable_and_told_apart_by_seed(garden: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    for seed in (0, 1):
        write_garden(
            tmp_path / str(seed),
            train_per_class=3,
            val_per_class=0,
            seed=seed,
            size_px=48,
            progress=lambda done, total: calls.append((done, total)),
        )
    assert read_photos(tmp_path / "0", "train") == read_photos(garden, "train")
    assert not set(read_photos(tmp_path / "1", "train").values()) & set(read_photos(garden, "train").values())
    assert calls == [(done, 15) for done in range(1, 16)] * 2


@pytest.mark.parametrize("flower", FLOWERS)
def test_head_fills_the_unit_circle_and_no_more(flower: str, plane: Plane) -> None:
    bloom = Bloom.bare(plane)
    KINDS[flower].paint(bloom, np.random.default_rng(0))
    assert bloom.rgb.shape == (3, 120, 120)
    assert bloom.rgb.dtype == bloom.alpha.dtype == np.float32
    assert np.isfinite(bloom.rgb).all()
    assert bloom.rgb.min() >= 0
    assert 0 <= bloom.alpha.min() <= bloom.alpha.max() <= 1 + 1e-6
    assert 0.4 < bloom.alpha[plane.radius < 1].mean() < 0.97
    assert bloom.alpha[plane.radius > 1.15].max() == 0


def test_shape_laid_on_a_part_hides_and_shades_the_whole(plane: Plane) -> None:
    bloom = Bloom.bare(plane)
    bloom.lay(1.0 - plane.radius, np.ones((3, 1, 1), np.float32))
    part = bloom.near(0.5, 0.0, 0.4)
    assert part.alpha.size < bloom.alpha.size / 2
    part.lay(0.1 - np.hypot(part.plane.x - 0.5, part.plane.y), np.zeros((3, 1, 1), np.float32), shade=0.4, spread=0.1)
    row = bloom.rgb[0, 60]  # y = 0; the disc's middle is at column 85, its edge at 90
    assert row[85] == 0
    assert 0.5 < row[92] < row[94] < 1
    assert row[30] == 1
    assert bloom.alpha[60, 85] == pytest.approx(1)


@pytest.mark.parametrize("name", backdrops.BACKDROPS)
def test_backdrop_is_a_textured_picture(name: str) -> None:
    picture, again = (backdrops.BACKDROPS[name](np.random.default_rng(1), 64) for _ in range(2))
    assert (picture.mode, picture.size) == ("RGB", (64, 64))
    assert picture.tobytes() == again.tobytes()
    assert np.asarray(picture, np.float32).std(axis=(0, 1)).min() > 3


@pytest.mark.parametrize("name", backdrops.PROPS)
def test_prop_is_a_shape_on_nothing(name: str) -> None:
    prop = backdrops.make_prop(name, np.random.default_rng(2), 40)
    assert (prop.mode, prop.size) == ("RGBA", (40, 40))
    alpha = np.asarray(prop.getchannel("A"))
    assert 0.1 < (alpha == 255).mean() < 0.8
    assert alpha[[0, 0, -1, -1], [0, -1, 0, -1]].max() == 0
