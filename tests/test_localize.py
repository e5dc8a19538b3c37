"""Boxes and outlines of hand-made heatmaps, and `whycam localize` as a user runs it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from skimage.measure import grid_points_in_poly

from conftest import change
from whycam.config import LocalizeOptions
from whycam.errors import UserError
from whycam.explainer.exact import ExactReader
from whycam.explainer.model import load
from whycam.jobs.localize import localize_files, to_yolo
from whycam.maps.boxes import Box, Region, find_boxes, find_regions


def make_heatmap(*regions: tuple[int, int, int, int, float]) -> np.ndarray:
    heatmap = np.zeros((20, 30), dtype=np.float32)
    for x0, y0, x1, y1, heat in regions:
        heatmap[y0:y1, x0:x1] = heat
    return heatmap


def test_one_region() -> None:
    assert find_boxes(make_heatmap((3, 5, 10, 9, 0.7))) == [Box(3, 5, 10, 9, 1.0)]


def test_largest_first_with_their_shares_of_heat() -> None:
    boxes = find_boxes(make_heatmap((0, 0, 2, 2, 1.0), (10, 10, 18, 14, 0.5)))
    assert [(b.x0, b.y0, b.x1, b.y1) for b in boxes] == [(10, 10, 18, 14), (0, 0, 2, 2)]
    assert [b.heat for b in boxes] == pytest.approx([16 / 20, 4 / 20])


def test_the_rule_is_over_20_percent_of_the_maximum() -> None:
    heatmap = make_heatmap((0, 0, 3, 3, 0.5), (10, 10, 13, 13, 0.101), (20, 10, 23, 13, 0.099))
    assert [b.x0 for b in find_boxes(heatmap)] == [0, 10]
    assert [b.x0 for b in find_boxes(heatmap, threshold=0.5)] == [0]


def test_touching_corners_are_one_region() -> None:
    boxes = find_boxes(make_heatmap((0, 0, 3, 3, 1.0), (3, 3, 6, 6, 1.0)))
    assert [(b.x0, b.y0, b.x1, b.y1) for b in boxes] == [(0, 0, 6, 6)]


def test_scale_and_borders() -> None:
    heatmap = make_heatmap((0, 0, 30, 1, 1.0), (29, 19, 30, 20, 1.0))
    assert find_boxes(heatmap) == find_boxes(heatmap * np.float32(1e-3))
    assert find_boxes(heatmap)[1] == Box(29, 19, 30, 20, pytest.approx(1 / 31))


def test_flat_and_empty_heatmaps() -> None:
    assert find_boxes(np.zeros((20, 30), dtype=np.float32)) == []
    assert find_boxes(np.full((20, 30), 0.3, dtype=np.float32)) == [Box(0, 0, 30, 20, pytest.approx(1))]


def find(heatmap: np.ndarray, **how: float) -> list[Region]:
    return find_regions(heatmap, **{"threshold": 0.2, "most": 5, "least_share": 0.1} | how)


def test_regions_have_the_boxes_areas_and_outlines_of_what_is_hot() -> None:
    (region,) = find(make_heatmap((3, 5, 10, 9, 0.7)))
    assert (region.box, region.area_px) == (Box(3, 5, 10, 9, 1.0), 28)
    assert np.abs(region.outline.min(0) - [3, 5]).max() <= 0.5
    assert np.abs(region.outline.max(0) - [10, 9]).max() <= 0.5
    x, y = region.outline.T
    assert abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2 == pytest.approx(28, abs=1)


def test_an_outline_fills_holes_and_follows_a_slope() -> None:
    heatmap = make_heatmap((5, 5, 15, 15, 1.0))
    heatmap[8:12, 8:12] = 0
    triangle = Image.new("F", (30, 20))
    ImageDraw.Draw(triangle).polygon([(2, 2), (26, 2), (2, 18)], fill=1)
    for values in (heatmap, np.asarray(triangle)):
        (region,) = find(values)
        drawn = grid_points_in_poly(values.shape, region.outline[:, ::-1] - 0.5)
        filled = np.array(values > 0)
        filled[8:12, 8:12] |= bool(values is heatmap)
        assert (drawn != filled).mean() < 0.01
    assert find(heatmap)[0].area_px == 84


def test_small_and_further_regions_are_left_out() -> None:
    heatmap = make_heatmap((0, 0, 10, 10, 1.0), (20, 0, 26, 10, 1.0), (0, 15, 2, 17, 1.0))
    assert [region.area_px for region in find(heatmap, least_share=0)] == [100, 60, 4]
    assert [region.area_px for region in find(heatmap)] == [100, 60]
    assert [region.area_px for region in find(heatmap, most=1)] == [100]
    assert find(np.zeros((20, 30), dtype=np.float32)) == []


def test_a_line_of_a_yolo_file() -> None:
    assert (
        to_yolo(Box(10, 20, 30, 60, 1.0), Image.new("RGB", (100, 80)), 7) == "7 0.200000 0.500000 0.200000 0.500000\n"
    )


def read_rows(out: Path) -> list[dict[str, str]]:
    with (out / "boxes.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_table_coco_and_yolo_say_the_same(tiny_folder: Path, shapes_folder: Path, tmp_path: Path) -> None:
    photos = shapes_folder / "circle"
    options = LocalizeOptions(target="top:2", refine=True, batch_size=5, crop_reclassify=True)
    done = localize_files(str(tiny_folder), [photos], tmp_path / "out", options)
    rows, coco = read_rows(tmp_path / "out"), json.loads((tmp_path / "out/coco.json").read_text(encoding="utf-8"))
    with_box = [row for row in rows if row["box"]]
    assert done.boxes == len(with_box) == len(coco["annotations"])
    assert len(coco["images"]) == done.photos == len(list(photos.glob("*.jpg")))
    names = {category["id"]: category["name"] for category in coco["categories"]}
    files = {image["id"]: image["file_name"] for image in coco["images"]}
    for row, found in zip(with_box, coco["annotations"], strict=True):
        x, y, width, height = found["bbox"]
        assert [int(row[key]) for key in ("x0", "y0", "x1", "y1")] == [x, y, x + width, y + height]
        assert (row["target"], row["path"]) == (names[found["category_id"]], files[found["image_id"]])
        assert row["crop_predicted"] in names.values()
        corners = np.array(found["segmentation"][0]).reshape(-1, 2)
        assert (corners.min(0) >= [x, y]).all()
        assert (corners.max(0) <= [x + width, y + height]).all()
    lines = [line for path in sorted((tmp_path / "out/labels").iterdir()) for line in path.read_text().splitlines()]
    assert len(lines) == done.boxes
    assert [int(line.split()[0]) for line in lines] == [int(row["target_index"]) for row in with_box]
    assert (tmp_path / "out/classes.txt").read_text().split() == ["circle", "square", "triangle"]
    with Image.open(tmp_path / "out" / with_box[0]["picture"]) as picture:
        assert picture.size == (96, 96)


def test_the_heatmap_and_the_threshold_decide(
    monkeypatch: pytest.MonkeyPatch, tiny_folder: Path, shapes_folder: Path, tmp_path: Path
) -> None:
    heat = np.zeros((1, 8, 8), dtype=np.float32)
    heat[0, :3, :3], heat[0, 5:, 5:] = 1.0, 0.4
    plain = ExactReader.read
    monkeypatch.setattr(ExactReader, "read", lambda *given: [replace(reading, maps=heat) for reading in plain(*given)])
    photo = next((shapes_folder / "square").iterdir())
    counts = []
    for threshold in (0.2, 0.5):
        options = LocalizeOptions(threshold=threshold, overwrite=True)
        counts.append(localize_files(str(tiny_folder), [photo], tmp_path / "out", options).boxes)
    assert counts == [2, 1]


def test_one_bad_file_is_recorded_and_the_rest_goes_on(tiny_folder: Path, shapes_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "bad.jpg").write_bytes(b"no picture")
    (folder / "good.jpg").write_bytes(next((shapes_folder / "circle").iterdir()).read_bytes())
    done = localize_files(str(tiny_folder), [folder], tmp_path / "out", LocalizeOptions(refine=True))
    assert (done.photos, done.unreadable) == (2, 1)
    rows = read_rows(tmp_path / "out")
    assert rows[0]["error"]
    assert not rows[1]["error"]
    (folder / "good.jpg").unlink()
    with pytest.raises(UserError, match="Not one of the 1 photos"):
        localize_files(str(tiny_folder), [folder], tmp_path / "none", LocalizeOptions())
    assert not (tmp_path / "none").exists()


def test_what_can_not_be_refined_is_told(tiny_folder: Path, shapes_folder: Path, tmp_path: Path) -> None:
    options = LocalizeOptions(refine=True, method="grad-cam")
    with pytest.raises(UserError, match="found method 'grad-cam' beside"):
        localize_files(str(tiny_folder), [shapes_folder / "circle"], tmp_path / "out", options)
    plain = load(str(tiny_folder))
    vague = change(plain, no_exact_map="It has no class maps.")
    with pytest.raises(UserError, match="It has no class maps"):
        vague.explain(Image.new("RGB", (8, 8)), refine=True)


def test_the_command(
    call_whycam: Callable[..., object], tiny_folder: Path, shapes_folder: Path, tmp_path: Path
) -> None:
    done = call_whycam("localize", tiny_folder, shapes_folder / "square", "-o", tmp_path / "out", "--refine")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Found ")
    assert (tmp_path / "out/coco.json").is_file()
