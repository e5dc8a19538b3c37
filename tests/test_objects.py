"""Objects are found by the installed network: on scenes with exact masks, with and without its graph in the cache."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from whycam.audit.objects import POSSIBLE, SURE
from whycam.data.garden import FLOWERS, Scene, make_scene
from whycam.maps import objects
from whycam.maps.objects import GRID, cut_out, open_finder, walk
from whycam.maps.refine import Recipe, compute_affinity, spread


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene(FLOWERS[i % len(FLOWERS)], 20_000_001 + i, 224) for i in range(15)]


def to_pixels(scenes: list[Scene]) -> np.ndarray:
    return np.stack([np.asarray(scene.image).transpose(2, 0, 1) for scene in scenes])


def test_the_objects_of_scenes_are_found_and_little_else(scenes: list[Scene]) -> None:
    pixels = to_pixels(scenes)
    heat = np.concatenate([seen.heat for seen in open_finder(len(scenes)).see(pixels)])
    truth = np.stack([scene.mask for scene in scenes])
    sure = np.stack([cut_out(one, warm) for one, warm in zip(pixels, heat, strict=True)])
    covered = ((sure >= SURE) & truth).sum((1, 2)) / truth.sum((1, 2))
    assert np.median(covered) > 0.97
    assert covered.mean() > 0.85
    assert (sure >= SURE).mean() < 2.5 * truth.mean()
    assert ((sure >= POSSIBLE) & truth).sum() > 0.97 * truth.sum()


@pytest.mark.slow
def test_a_graph_in_the_cache_gives_the_same_without_torch(
    scenes: list[Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = next(open_finder(2).see(to_pixels(scenes[:2])))
    monkeypatch.setattr(objects, "_MANY", 1)
    open_finder(2)
    assert objects.find_place().is_file()
    found = next(open_finder(2).see(to_pixels(scenes[:2])))
    assert np.allclose(found.heat, expected.heat, atol=1e-3)
    assert np.abs(found.logits - expected.logits).max() < 1e-3 * np.ptp(expected.logits)
    code = "import sys; from whycam.maps.objects import open_finder; open_finder(2); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_damaged_graph_is_not_believed(scenes: list[Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    place: Path = objects.find_place()
    place.parent.mkdir(parents=True)
    place.write_bytes(b"no graph")
    place.with_suffix(".json").write_text("{}")
    assert next(open_finder(1).see(to_pixels(scenes[:1]))).logits.shape == (1, 1000)


def test_the_walk_is_that_of_refined_maps() -> None:
    draw = torch.Generator().manual_seed(0)
    heat = torch.rand(1, GRID, GRID, generator=draw)
    parts = [torch.randn(c, GRID, GRID, generator=draw) for c in (4, 6)]
    colours = torch.rand(GRID * GRID, 3, generator=draw)
    recipe = Recipe(grid=GRID)
    walked = spread(heat**recipe.power, compute_affinity(colours, parts, recipe), recipe.walk)
    low, high = walked.min(), walked.max()
    expected = ((walked - low) / (high - low)) ** (1 / recipe.power)
    points = [part - part.mean((1, 2), keepdim=True) for part in parts]
    guide = torch.cat([point / point.norm(dim=0) for point in points])[None]
    assert np.allclose(walk(heat.numpy(), guide.numpy(), colours[None].numpy()), expected.numpy(), atol=1e-4)
