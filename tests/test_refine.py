"""Refined maps: steps by hand, what they leave alone, and that they find more of the object."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from whycam.data.images import load_image
from whycam.errors import UserError
from whycam.explainer.model import load
from whycam.maps.boxes import PLAIN_THRESHOLD, REFINED_THRESHOLD, find_boxes
from whycam.maps.refine import (
    RECIPE,
    Recipe,
    catch_inner,
    compute_affinity,
    dilate,
    enlarge,
    make_refiner,
    refine_maps,
    scale,
    spread,
)
from whycam.maps.render import make_heatmap
from whycam.metrics.localization import measure_overlap
from whycam.model.backbone import make_backbone
from whycam.model.gap import GapClassifier, load_network, make_exact

SMALL = replace(RECIPE, grid=8)


def make_photos(count: int, side_px: int = 90) -> list[Image.Image]:
    draw_from = np.random.default_rng(0)
    return [
        Image.fromarray(draw_from.integers(0, 256, (side_px, side_px + 20, 3), dtype=np.uint8)) for _ in range(count)
    ]


def test_maps_of_several_targets_and_any_photo_size(tiny_model: GapClassifier) -> None:
    maps = refine_maps(tiny_model, make_photos(2), np.array([[0, 2, 1], [1, 1, 0]]), SMALL)
    assert maps.shape == (2, 3, 8, 8)
    assert maps.amin((2, 3)).allclose(torch.zeros(2, 3))
    assert maps.amax((2, 3)).allclose(torch.ones(2, 3))
    assert torch.equal(maps[1, 0], maps[1, 1])
    assert not torch.equal(maps[0, 0], maps[0, 1])


def test_a_batch_is_its_photos_one_by_one(tiny_model: GapClassifier) -> None:
    photos, targets = make_photos(3), np.array([[0], [1], [2]])
    refiner = make_refiner(tiny_model, SMALL)
    single = torch.cat([refiner([photo], target[None]) for photo, target in zip(photos, targets, strict=True)])
    assert refiner(photos, targets).allclose(single, atol=1e-4)


def test_the_plainest_recipe_is_the_class_map(tiny_model: GapClassifier) -> None:
    plain = Recipe(scales=(1.0,), mirror=("no",), map_stride=32, energy=0, power=1, grid=2, walk=0)
    photo = make_photos(1)[0]
    pixels = tiny_model.preprocess.normalise(tiny_model.preprocess.to_pixels(photo)[None])
    expected = tiny_model.compute_maps(tiny_model.features(torch.from_numpy(pixels)))[:, :2]
    assert refine_maps(tiny_model, [photo], np.array([[0, 1]]), plain).allclose(scale(expected.detach()), atol=1e-5)


def test_a_mirrored_photo_has_the_mirrored_map_without_inner_features(tiny_model: GapClassifier) -> None:
    recipe = replace(SMALL, inner=0, scales=(1.0,), mirror=("both",))
    photo = make_photos(1)[0].resize((64, 64))
    mirrored = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    maps = [refine_maps(tiny_model, [one], np.array([[1]]), recipe) for one in (photo, mirrored)]
    assert maps[0].allclose(maps[1].flip(-1), atol=1e-3)


def test_a_view_in_the_mirror_is_that_of_the_mirrored_photo_turned_back(tiny_model: GapClassifier) -> None:
    photo = make_photos(1)[0].resize((64, 64))
    mirrored = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    turned, plain = (replace(SMALL, scales=(1.0,), mirror=(way,)) for way in ("yes", "no"))
    maps = refine_maps(tiny_model, [photo], np.array([[1]]), turned)
    assert maps.allclose(refine_maps(tiny_model, [mirrored], np.array([[1]]), plain).flip(-1), atol=1e-3)
    assert not maps.allclose(refine_maps(tiny_model, [photo], np.array([[1]]), plain), atol=1e-2)


def test_the_model_is_left_as_it_was(tiny_model: GapClassifier) -> None:
    before = {name: values.clone() for name, values in tiny_model.state_dict().items()}
    hooks = [len(module._forward_hooks) for module in tiny_model.modules()]
    refine_maps(tiny_model, make_photos(1), np.array([[0]]), SMALL)
    assert all(torch.equal(values, before[name]) for name, values in tiny_model.state_dict().items())
    assert hooks == [len(module._forward_hooks) for module in tiny_model.modules()]
    assert tiny_model.origin.map_stride == 32


def test_dilated_weights_are_the_same_and_their_cells_half_as_wide(tiny_model: GapClassifier) -> None:
    fine = dilate(tiny_model, 16)
    images = torch.zeros(1, 3, 64, 64)
    assert fine.origin.map_stride == 16
    assert fine.features(images).shape[-1] == 2 * tiny_model.features(images).shape[-1]
    assert all(torch.equal(values, tiny_model.state_dict()[name]) for name, values in fine.state_dict().items())
    assert dilate(fine, 16) is fine


def test_a_conv_head_is_dilated_too() -> None:
    torch.manual_seed(0)
    model = GapClassifier(make_backbone("test_resnet", is_random=True, image_size=64), ("a", "b"), "conv").eval()
    layer = next(m for m in dilate(model, 16).neck.modules() if isinstance(m, torch.nn.Conv2d))
    assert (layer.dilation, layer.padding) == ((2, 2), (2, 2))


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "densenet121"])
def test_what_an_architecture_can_not_have_is_left_out(name: str) -> None:
    size = 224 if name.startswith("swin") else 64
    model = GapClassifier(make_backbone(name, is_random=True, image_size=size), ("a", "b")).eval()
    refiner = make_refiner(model, SMALL)
    assert refiner.network is model
    assert len(refiner.views) == (1 if name.startswith("swin") else 2)
    assert refiner(make_photos(1), np.array([[0]])).isfinite().all()


def test_inner_features_are_those_of_stride_8_and_16(tiny_model: GapClassifier) -> None:
    with catch_inner(tiny_model) as caught:
        tiny_model.features(torch.zeros(1, 3, 64, 64))
    assert [part.shape[-1] for part in caught] == [8, 4]


def test_larger_views_are_whole_cells(tiny_model: GapClassifier) -> None:
    larger = enlarge(tiny_model.preprocess, 10 / 7, 32)
    assert (larger.height_px, larger.width_px) == (96, 96)
    assert enlarge(tiny_model.preprocess, 1, 32) == tiny_model.preprocess


def test_affinity_falls_with_distance_and_colour() -> None:
    colors = torch.zeros(64, 3)
    colors[1::2] = 0.5
    affinity = compute_affinity(colors, [], SMALL)
    assert torch.equal(affinity, affinity.T)
    assert affinity.diagonal().eq(0).all()
    assert affinity[0, 2] > affinity[0, 4] > affinity[0, 6]
    assert affinity[0, 1] < affinity[0, 2] * 1e-3
    by_hand = np.exp(-((2 / 8) ** 2) / (2 * SMALL.position**2))
    assert affinity[0, 2].item() == pytest.approx(by_hand, rel=1e-4)


def test_the_walk_solves_its_equation() -> None:
    torch.manual_seed(0)
    affinity = torch.rand(16, 16)
    affinity = (affinity + affinity.T).fill_diagonal_(0)
    seeds = torch.rand(2, 4, 4)
    steps = affinity / affinity.sum(1, keepdim=True)
    expected = seeds.flatten(1).T.clone()
    for _ in range(300):
        expected = 0.9 * steps @ expected + 0.1 * seeds.flatten(1).T
    assert spread(seeds, affinity, 0.9).flatten(1).T.allclose(expected, atol=1e-4)


def test_heat_fills_its_own_colour_and_stays_out_of_the_other() -> None:
    colors = torch.zeros(8, 8, 3)
    colors[:, 4:] = 1
    seeds = torch.zeros(1, 8, 8)
    seeds[0, 2:6, 1] = 1
    spread_out = spread(seeds, compute_affinity(colors.flatten(0, 1), [], SMALL), 0.9)[0]
    assert spread_out[:, :4].min() > 100 * spread_out[:, 4:].max()


def test_a_flat_map_stays_finite() -> None:
    assert scale(torch.ones(1, 1, 3, 3)).eq(0).all()
    model = GapClassifier(make_backbone("test_resnet", is_random=True, image_size=64), ("a", "b")).eval()
    torch.nn.init.zeros_(model.classifier.weight)
    black = Image.new("RGB", (64, 64))
    assert refine_maps(model, [black], np.array([[0]]), SMALL).isfinite().all()


@pytest.mark.data
def test_refined_boxes_overlap_more_than_plain_ones(photos_dir: Path) -> None:
    """Of 12 photos, the mean overlap of the largest region's box; benchmarks/localization.py has the real numbers."""
    folder = photos_dir / "imagenet_val650"
    with (folder / "boxes.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:12]
    model = make_exact(*load_network("imagenet"))
    refiner = make_refiner(model)
    overlaps: dict[str, list[float]] = {"plain": [], "refined": []}
    for row in rows:
        photo, label = load_image(folder / row["file"]), int(row["label"])
        truth = np.array([[int(float(v)) for v in box.split()] for box in row["boxes_file"].split(";")])
        pixels = model.preprocess.normalise(model.preprocess.to_pixels(photo)[None])
        with torch.no_grad():
            plain = model.compute_maps(model.features(torch.from_numpy(pixels)))[0, label]
        refined = refiner([photo], np.array([[label]]))[0, 0]
        for name, values, threshold in (("plain", plain, PLAIN_THRESHOLD), ("refined", refined, REFINED_THRESHOLD)):
            heatmap = make_heatmap(values.numpy(), photo.size[::-1], is_signed=False)
            box = find_boxes(heatmap, threshold=threshold)[0]
            overlaps[name].append(measure_overlap(np.array([[box.x0, box.y0, box.x1, box.y1]]), truth).max())
    assert np.mean(overlaps["refined"]) > np.mean(overlaps["plain"]) + 0.02


def test_an_explanation_may_be_refined(tiny_folder: Path) -> None:
    model, photos = load(str(tiny_folder), engine="torch"), make_photos(2)
    plain, why = (model.explain(photos, "top:2", refine=is_refined) for is_refined in (False, True))
    assert torch.equal(why.maps, refine_maps(model.network, photos, why.targets))
    assert torch.equal(why.logits, plain.logits)
    assert torch.equal(why.target, plain.target)
    assert why.record["refined"]["grid"] == RECIPE.grid
    assert "refined" not in plain.record
    assert model.explain(photos[0], refine=True).maps.shape == (1, RECIPE.grid, RECIPE.grid)
    with pytest.raises(UserError, match="found versus 1 beside"):
        model.explain(photos, refine=True, versus=1)


def test_the_command_draws_refined_maps(call_whycam: Callable[..., Any], tiny_folder: Path, tmp_path: Path) -> None:
    make_photos(1)[0].save(tmp_path / "photo.png")
    done = call_whycam(
        "explain", tiny_folder, tmp_path / "photo.png", "-o", tmp_path / "out", "--refine", "--maps-only"
    )
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "out/maps/photo.npy").shape == (RECIPE.grid, RECIPE.grid)
