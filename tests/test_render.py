"""Maps to heatmaps to overlays."""

from __future__ import annotations

import tracemalloc

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image

from whycam.data import pixels
from whycam.errors import UserError
from whycam.maps import render

LAST = np.array(mpl.colormaps["inferno"](1.0, bytes=True))[:3]
FIRST = np.array(mpl.colormaps["inferno"](0.0, bytes=True))[:3]


def make_map(h: int = 5, w: int = 7) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((h, w), dtype=np.float32)


def make_photo(width: int = 60, height: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_scaling_by_hand() -> None:
    values = np.array([[-2.0, 0.0], [1.0, 4.0]], dtype=np.float32)
    assert render.scale_map(values, is_signed=False).tolist() == [[0, 0], [0.25, 1]]
    assert render.scale_map(values, is_signed=True).tolist() == [[0.25, 0.5], [0.625, 1]]


@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_scale_of_a_map_does_not_matter(is_signed: bool, factor: float) -> None:
    plain = render.make_heatmap(make_map(), (40, 60), is_signed=is_signed)
    assert np.allclose(plain, render.make_heatmap(make_map() * factor, (40, 60), is_signed=is_signed), atol=1e-6)


def test_hottest_pixel_has_the_last_colour() -> None:
    heatmap = render.make_heatmap(make_map(), (224, 320), is_signed=False)
    assert heatmap.shape == (224, 320)
    assert heatmap.dtype == np.float32
    assert (heatmap.min(), heatmap.max()) == (0, 1)
    over = np.asarray(render.lay_over(make_photo(320, 224), heatmap, "inferno", alpha=1, is_signed=False))
    assert np.array_equal(over[np.unravel_index(heatmap.argmax(), heatmap.shape)], LAST)


def test_cold_pixels_keep_the_photo() -> None:
    photo = make_photo()
    heatmap = np.zeros((40, 60), dtype=np.float32)
    heatmap[5:9, 5:9] = 1
    over = np.asarray(render.lay_over(photo, heatmap, "inferno", alpha=0.6, is_signed=False))
    cold = heatmap == 0
    assert np.array_equal(over[cold], np.asarray(photo)[cold])
    assert not np.array_equal(over[~cold], np.asarray(photo)[~cold])


def test_colour_depends_on_the_pixel_alone() -> None:
    photo, draw = make_photo(), np.random.default_rng(1)
    heatmap = draw.random((40, 60), dtype=np.float32)
    other = heatmap.copy()
    other[10:] = draw.random((30, 60)) * 0.1
    one, two = (np.asarray(render.lay_over(photo, h, "jet", alpha=0.5, is_signed=False)) for h in (heatmap, other))
    assert np.array_equal(one[:10], two[:10])
    assert not np.array_equal(one[10:], two[10:])


def test_alpha_mixes_photo_and_colour() -> None:
    photo = Image.new("RGB", (4, 4), (100, 100, 100))
    over = np.asarray(render.lay_over(photo, np.ones((4, 4), np.float32), "inferno", alpha=0.25, is_signed=False))
    assert np.allclose(over[0, 0], 0.75 * 100 + 0.25 * LAST, atol=0.51)
    none = render.lay_over(photo, np.ones((4, 4), np.float32), "inferno", alpha=0, is_signed=False)
    assert np.array_equal(np.asarray(none), np.asarray(photo))


def test_signed_overlay_shows_the_photo_at_zero_and_colours_at_both_ends() -> None:
    photo = Image.new("RGB", (3, 1), (10, 20, 30))
    heatmap = np.array([[0, 0.5, 1]], dtype=np.float32)
    over = np.asarray(render.lay_over(photo, heatmap, "RdBu_r", alpha=1, is_signed=True))[0]
    assert over[1].tolist() == [10, 20, 30]
    assert over[0, 2] > over[0, 0]
    assert over[2, 0] > over[2, 2]


@pytest.mark.parametrize(("is_signed", "nothing"), [(False, 0.0), (True, 0.5)])
def test_nothing_is_drawn_of_maps_that_show_nothing(is_signed: bool, nothing: float) -> None:
    for value in (0.0, float("nan"), float("inf"), float("-inf")):
        heatmap = render.make_heatmap(np.full((3, 4), value, dtype=np.float32), (30, 41), is_signed=is_signed)
        assert heatmap.shape == (30, 41)
        assert (heatmap == nothing).all()


def test_a_negative_map_has_no_positive_heat() -> None:
    assert not render.make_heatmap(-np.abs(make_map()) - 1, (30, 30), is_signed=False).any()


def test_one_nan_cell_leaves_the_others_alone() -> None:
    values = np.zeros((4, 4), dtype=np.float32)
    values[0, 0], values[3, 3] = float("nan"), 2.0
    heatmap = render.make_heatmap(values, (64, 64), is_signed=False)
    assert np.isfinite(heatmap).all()
    assert heatmap[63, 63] == 1
    assert heatmap[0, 0] == 0


def test_a_cell_lies_where_its_pixels_are() -> None:
    values = np.zeros((2, 3), dtype=np.float32)
    values[1, 2] = 1
    heatmap = render.make_heatmap(values, (20, 60), is_signed=False)
    assert heatmap[15:, 50:].min() > 0.99
    assert heatmap[:5].max() == 0
    assert heatmap[:, :30].max() == 0


@pytest.mark.parametrize("size", [(40, 60), (5, 7), (9, 200)])
def test_maps_are_enlarged_as_pytorch_does_it_with_half_pixel_centres(size: tuple[int, int]) -> None:
    values = torch.from_numpy(make_map())
    expected = torch.nn.functional.interpolate(values[None, None], size, mode="bilinear", align_corners=False)
    assert np.allclose(render.resize_map(values.numpy(), size), expected[0, 0].numpy(), atol=1e-5)


def test_ends_of_the_colour_map() -> None:
    colors = render.color_heatmap(np.array([[0.0, 1.0, -3.0, 7.0]], dtype=np.float32), "inferno")[0]
    assert colors.dtype == np.uint8
    assert np.array_equal(colors[[0, 2]], [FIRST, FIRST])
    assert np.array_equal(colors[[1, 3]], [LAST, LAST])


def test_unknown_colour_map() -> None:
    with pytest.raises(UserError, match=r"Unknown colour map 'infreno'.*Did you mean 'inferno'"):
        render.check_colormap("infreno")
    with pytest.raises(UserError, match="Unknown colour map"):
        render.color_heatmap(np.zeros((2, 2), np.float32), "nope")
    render.check_colormap(None)


def test_pictures_of_different_sizes_in_a_row() -> None:
    row = render.join_pictures([make_photo(60, 40), make_photo(20, 40)], height_px=80, gap_px=10)
    assert row.size == (120 + 10 + 40, 80)
    assert row.getpixel((125, 40)) == (255, 255, 255)


@pytest.mark.parametrize("strip_px", [1, 97, 1000, 5000])
@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("size", [(61, 83), (83, 61), (7, 301), (301, 7), (3, 4), (2, 2), (3, 90), (90, 4)])
def test_strips_are_the_same_to_the_byte(
    size: tuple[int, int], is_signed: bool, strip_px: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8))
    odd = np.array([[np.nan, 1], [-np.inf, -2]], np.float32)
    for values in (make_map(), -np.abs(make_map()), odd, np.zeros((3, 4), np.float32)):
        heatmap = render.make_heatmap(values, size, is_signed=is_signed)
        whole = render.lay_over(photo, heatmap, "inferno", alpha=0.6, is_signed=is_signed)
        with monkeypatch.context() as patch:
            patch.setattr(render, "STRIP_PX", strip_px)
            patch.setattr(pixels, "STRIP_PX", strip_px)
            levels = render.draw_levels(values, size, is_signed=is_signed)
            over = render.lay_over(photo, levels, "inferno", alpha=0.6, is_signed=is_signed)
        assert np.array_equal(levels, (heatmap * np.float32(255) + np.float32(0.5)).astype(np.uint8))
        assert over.tobytes() == whole.tobytes()
        assert render.to_picture(levels, "jet").tobytes() == render.to_picture(heatmap, "jet").tobytes()


def test_a_heatmap_of_another_size_is_not_laid_over() -> None:
    with pytest.raises(ValueError, match=r"\(4, 5\), the photo \(6, 5\)"):
        render.lay_over(make_photo(5, 6), np.zeros((4, 5), np.uint8), "jet", alpha=1, is_signed=False)


def test_levels_of_a_large_photo_take_little_beside_themselves() -> None:
    render.draw_levels(make_map(), (10, 10), is_signed=False)
    tracemalloc.start()
    levels = render.draw_levels(make_map(), (4000, 5000), is_signed=False)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert levels.nbytes == 20_000_000
    assert most < 2 * levels.nbytes  # heat in float32 alone has four times as many
