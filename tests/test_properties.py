"""How photos were made is measured rightly, and a property that tells a class by itself is told."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whycam.audit.findings import Finding
from whycam.audit.properties import Labelled, find_telling, screen
from whycam.audit.telling import bound_auc, fit_range, fit_words, tell_numbers
from whycam.data.properties import PROPERTIES, PropertyTable, measure_photo, read_table

CLASSES = {0: "a", 1: "b", 2: "c"}


def make_photo(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Coloured clouds of all sizes, as photos have them, and a little noise."""
    draw = np.random.default_rng(seed)
    values = np.full((size[1], size[0], 3), 120.0)
    for cells in (3, 8, 20, 50, 120):
        small = Image.fromarray(draw.integers(0, 255, (cells, cells, 3), dtype=np.uint8))
        values += (np.asarray(small.resize(size, Image.Resampling.BICUBIC), float) - 128) * 0.35
    values += draw.normal(0, 2, values.shape)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def save_jpeg(photo: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def measure(tmp_path: Path, photo: Image.Image, suffix: str = ".png", **how: object) -> dict[str, float | str]:
    path = tmp_path / f"photo{suffix}"
    photo.save(path, **how)
    return measure_photo(path).values


@pytest.mark.parametrize("quality", [8, 20, 50, 70])
def test_pixels_tell_the_quality_that_a_file_no_longer_says(tmp_path: Path, quality: int) -> None:
    saved = save_jpeg(make_photo(1, (320, 240)), quality)
    for how in ({"suffix": ".png"}, {"suffix": ".jpg", "quality": 95}):
        assert float(measure(tmp_path, saved, **how)["jpeg-quality"]) == pytest.approx(quality, abs=5)
    assert measure(tmp_path, saved.crop((3, 3, 300, 200)))["jpeg-quality"] == 100


@pytest.mark.parametrize("quality", [8, 35, 75, 92])
def test_a_jpeg_tells_its_quality_by_its_tables(tmp_path: Path, quality: int) -> None:
    assert measure(tmp_path, make_photo(2), ".jpg", quality=quality)["jpeg-quality"] == quality
    assert measure(tmp_path, make_photo(2))["jpeg-quality"] == 100


def test_an_enlarged_photo_is_less_sharp_than_any_other(tmp_path: Path) -> None:
    sharp = [measure(tmp_path, make_photo(seed))["sharpness"] for seed in range(6)]
    small = [make_photo(seed).resize((53, 40)).resize((160, 120), Image.Resampling.BICUBIC) for seed in range(6)]
    assert max(float(measure(tmp_path, one)["sharpness"]) for one in small) < min(map(float, sharp)) - 0.5


def test_light_and_colour_are_measured_apart(tmp_path: Path) -> None:
    photo = make_photo(3)
    plain, dark = measure(tmp_path, photo), measure(tmp_path, photo.point(lambda value: value * 0.25))
    assert float(dark["brightness"]) == pytest.approx(float(plain["brightness"]) / 4, rel=0.1)
    for name in ("contrast", "saturation", "warmth", "greenness", "vignette"):
        assert float(dark[name]) == pytest.approx(float(plain[name]), abs=0.1)
    grey = measure(tmp_path, photo.convert("L").convert("RGB"))
    assert (grey["grey"], grey["saturation"], plain["grey"]) == ("grey", 0.0, "colour")
    noisy = np.asarray(photo) + np.random.default_rng(0).normal(0, 20, (120, 160, 1))
    noise = measure(tmp_path, Image.fromarray(noisy.clip(0, 255).astype(np.uint8)))["noise"]
    assert 17 < float(noise) < 28


def test_a_file_says_its_type_camera_and_date(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Maker\0", "One"
    exif.get_ifd(0x8769)[0x9003] = "2024:05:17 12:00:00"
    found = measure(tmp_path, make_photo(4), ".jpg", exif=exif)
    assert (found["camera"], found["has-date"], found["file-type"]) == ("Maker One", "a date", "JPEG")
    assert PROPERTIES["date"].write(found["date"]) == "2024-05-17"
    plain = measure(tmp_path, make_photo(4).convert("L"))
    assert (plain["camera"], plain["has-date"], plain["mode"], plain["dimensions"]) == (
        *("none named", "no date", "L", "160 x 120"),
    )
    assert np.isnan(float(plain["date"]))


def test_a_bad_file_and_a_speck_are_rows_of_their_own(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("good.png", "bad.png", "speck.png", "gone.png")]
    make_photo(5).save(paths[0])
    paths[1].write_bytes(b"no photo")
    Image.new("RGB", (1, 1)).save(paths[2])
    table = read_table(paths)
    assert set(table.unreadable) == {paths[1], paths[3]}
    assert np.isfinite(table.columns["sharpness"]).tolist() == [True, False, True, False]
    assert table.columns["file-type"].tolist() == ["PNG", "", "PNG", ""]


def make_table(**columns: np.ndarray) -> PropertyTable:
    return PropertyTable(dict(columns))


def tell(labels: np.ndarray, **columns: np.ndarray) -> list[Finding]:
    names = {int(k): f"{k}" for k in np.unique(labels)} | CLASSES
    paths = [Path(f"{i}.jpg") for i in range(len(labels))]
    return find_telling(Labelled(paths, labels, names, make_table(**columns)), 0)


LABELS = np.repeat([0, 1, 2], 20)


def test_a_property_that_tells_a_class_is_told_once_with_what_goes_with_it() -> None:
    draw = np.random.default_rng(0)
    quality = np.where(LABELS == 1, 8.0, draw.uniform(80, 95, 60))
    kind = np.where(LABELS == 1, "JPEG", "PNG")
    found = tell(LABELS, **{"jpeg-quality": quality, "file-type": kind, "noise": draw.normal(size=60)})
    assert [(one.kind, one.class_name, one.other) for one in found] == [("data", "b", None)]
    assert sorted(found[0].numbers["properties"]) == ["file-type", "jpeg-quality"]
    assert "JPEG quality: median 8 in 'b'" in found[0].detail
    assert found[0].severity == 1.0
    assert found[0].certainty > 0.999
    assert next(photo.note for photo in found[0].photos) == "JPEG quality: 8"


def test_of_two_classes_one_finding_names_both() -> None:
    found = tell(LABELS[:40], brightness=LABELS[:40] + np.random.default_rng(1).normal(0, 0.1, 40))
    assert [(one.class_name, one.other) for one in found] == [("a", "b")]


def test_one_value_amid_many_is_told_as_well_as_a_high_one() -> None:
    draw = np.random.default_rng(2)
    sizes = np.where(LABELS == 2, 50.0, draw.uniform(0, 100, 60))
    assert [one.class_name for one in tell(LABELS, resolution=sizes)] == ["c"]
    words = np.where(LABELS == 0, [f"{i} x {i}" for i in range(60)], "512 x 512")
    found = tell(LABELS, dimensions=words)
    assert [one.class_name for one in found] == ["a"]
    assert "of many kinds in 'a', mostly 512 x 512 in the others" in found[0].detail


def test_what_differs_by_nature_must_tell_more_than_what_no_object_has() -> None:
    draw = np.random.default_rng(3)
    values = draw.normal(size=60) + 2.2 * (LABELS == 0)
    assert [one.class_name for one in tell(LABELS, **{"jpeg-quality": values})] == ["a"]
    assert tell(LABELS, saturation=values) == tell(LABELS, brightness=values) == []
    assert tell(LABELS, brightness=values + 9 * (LABELS == 0)) != []


def test_chance_is_not_told() -> None:
    accused = 0
    for seed in range(40):
        draw = np.random.default_rng([5, seed])
        columns = {name: draw.normal(size=60) for name in ("jpeg-quality", "resolution", "date", "noise")}
        columns["camera"] = draw.choice(["x", "y", "z"], 60)
        accused += bool(tell(LABELS[draw.permutation(60)], **columns))
    assert accused == 0


def test_few_photos_one_class_and_photos_all_alike_are_no_fault() -> None:
    values = np.arange(60.0)
    assert tell(np.zeros(60, dtype=int), brightness=values) == []
    assert tell(np.arange(60), brightness=values) == []
    assert tell(LABELS, brightness=np.ones(60), mode=np.full(60, "RGB"), date=np.full(60, np.nan)) == []
    assert tell(np.full(60, -1), brightness=values) == []


def test_two_thousand_classes_are_quick() -> None:
    draw, labels = np.random.default_rng(0), np.repeat(np.arange(2000), 12)
    columns = {name: draw.normal(size=24_000) for name in PROPERTIES}
    columns["brightness"][labels == 7] += 90
    start = time.process_time()
    found = tell(labels, **columns)
    assert [one.class_name for one in found] == ["7"]
    assert time.process_time() - start < 20


def test_a_small_class_counts_as_much_as_the_others_together() -> None:
    draw = np.random.default_rng(4)
    own, rest = draw.normal(4, 1, 20), draw.normal(0, 1, 980)
    told = tell_numbers(own, rest, 0)
    assert told.accuracy.value > 0.9
    assert told.accuracy.low < told.accuracy.value < told.accuracy.high
    # A rule that says "no" to all is right of 98 % of these photos; it tells nothing.
    assert tell_numbers(draw.normal(0, 1, 20), rest, 0).accuracy.low < 0.6


def test_the_interval_of_an_auc_is_known_at_its_ends_and_narrows() -> None:
    few, many = bound_auc(1.0, 8, 8), bound_auc(1.0, 200, 800)
    assert few.high == many.high == 1.0
    assert few.low < 0.8
    assert many.low > 0.98
    draw, truth, covered = np.random.default_rng(6), 0.8145, 0  # of normal values 1.265 apart
    for _ in range(200):
        own, rest = draw.normal(1.265, 1, 30), draw.normal(0, 1, 60)
        found = bound_auc(float((own[:, None] > rest).mean()), 30, 60)
        covered += found.low <= truth <= found.high
    assert 180 <= covered <= 200


def test_rules_are_the_best_range_and_the_commoner_words() -> None:
    inside = fit_range(np.array([4.0, 5, 6]), np.array([1.0, 2, 8, 9]))
    assert inside(np.array([0.0, 4.5, 7.5])).tolist() == [False, True, False]
    outside = fit_range(np.array([1.0, 2, 8, 9]), np.array([4.0, 5, 6]))
    assert outside(np.array([0.0, 4.5, 9.5])).tolist() == [True, False, True]
    rule = fit_words(np.array(["x"] * 5 + ["1", "2"]), np.array(["y"] * 7))
    assert rule(np.array(["x", "y", "never seen"])).tolist() == [True, False, True]


def test_the_quick_screen_is_what_the_best_range_reaches() -> None:
    draw = np.random.default_rng(7)
    for _ in range(20):
        own, rest = draw.integers(0, 9, 12).astype(float), draw.integers(2, 12, 30).astype(float)
        rule = fit_range(own, rest)
        reached = 0.5 * (rule(own).mean() + 1 - rule(rest).mean())
        found = screen(np.sort(own), np.sort(np.r_[own, rest]), is_word=False)
        assert found.accuracy == pytest.approx(reached)
        assert found.auc == pytest.approx(tell_numbers(own, rest, 0).auc.value)
