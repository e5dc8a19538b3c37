"""Hidden slices: planted groups are found with their photos and words; what is strewn by chance is no group."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from test_audit import NAMES, SIDE_PX, Colours, find, write_photos
from whycam.audit import slices
from whycam.audit.clusters import find_groups
from whycam.audit.slices import find_words
from whycam.data.folder import Sample
from whycam.data.preprocess import Preprocess
from whycam.explainer.model import Model
from whycam.model.card import Card
from whycam.model.classifier import Classifier

SPOT_BOX = (0.78, 0.03, 0.97, 0.22)


def make_model(reliance: float, why: str = "") -> Model:
    """A magenta spot speaks for red by `reliance`: against it, if that is negative."""
    preprocess = Preprocess(height_px=SIDE_PX, width_px=SIDE_PX, mean=(0, 0, 0), std=(1, 1, 1))
    network = Colours(reliance).eval().requires_grad_(requires_grad=False)
    return Model(Classifier(Card("colours", NAMES, preprocess, {}, no_exact_map=why, is_exportable=False), network))


def spot_every_third(pixels: np.ndarray, name: str, index: int) -> None:
    if name == "red" and index % 3 == 0:
        pixels[2:14, -14:-2] = (250, 0, 250)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """A general network that sees a bell (class 1) in photos with a lot of magenta; the photos it was asked about."""
    asked = []

    def look(data: slices.AuditData) -> np.ndarray:
        asked.append(data.pixels)
        logits = np.random.default_rng(5).normal(0, 1, (len(data), 20))
        logits[:, 1] += 8 * (data.pixels[:, 2, 2:14, -14:-2].mean((1, 2)) > 200)
        return logits

    monkeypatch.setattr(slices, "read_generic", look)
    monkeypatch.setattr(slices, "list_generic_names", lambda: tuple(["dog", "bell", *map(str, range(18))]))
    return asked


def test_a_slice_is_found_with_its_photos_map_and_words(tmp_path: Path, seen: list[np.ndarray]) -> None:
    samples = write_photos(tmp_path, spot_every_third)
    (found,) = find(make_model(reliance=-40.0), samples, "slice").findings
    assert (found.kind, found.class_name) == ("slice", "red")
    assert sorted(photo.path.stem for photo in found.photos) == [f"{index:02}" for index in range(0, 24, 3)]
    assert found.numbers["words"] == ["bell"]
    assert "'bell'" in found.title
    assert (found.numbers["photos"], found.numbers["of"]) == (8, 24)
    assert found.numbers["error_inside"] > 0.8
    assert found.numbers["error_outside"] < 0.1
    assert found.numbers["error_inside_interval"][0] > found.numbers["error_outside_interval"][1]
    assert found.numbers["share_of_errors"] == 1
    assert found.severity == pytest.approx(8 / 24)
    assert found.cost == pytest.approx(8 / 72)
    assert found.certainty > 0.99
    assert "more weight" in found.remedy
    assert found.command.startswith("whycam train $FOLDER")
    assert found.region is not None
    x0, y0, x1, y1 = found.region.boxes[0]
    assert abs(np.array([x0, y0, x1, y1]) - SPOT_BOX).max() < 0.12
    assert "leads by" in found.photos[0].note
    assert len(seen) == 1


def test_of_a_model_without_exact_maps_the_general_network_groups_the_photos(
    tmp_path: Path, seen: list[np.ndarray]
) -> None:
    model = make_model(reliance=-40.0, why="it is made by hand")
    (found,) = find(model, write_photos(tmp_path, spot_every_third), "slice").findings
    assert sorted(photo.path.stem for photo in found.photos) == [f"{index:02}" for index in range(0, 24, 3)]
    assert found.numbers["words"] == ["bell"]


def test_where_nothing_goes_wrong_there_is_no_slice(tmp_path: Path) -> None:
    assert find(make_model(reliance=0.0), write_photos(tmp_path, spot_every_third), "slice").findings == ()


def test_photos_that_are_wrong_without_a_look_of_their_own_are_no_group() -> None:
    # Of 24 classes four may seem certain by 0.95: the chance that more do is under 1 %.
    draw, accused = np.random.default_rng(0), 0
    for _ in range(24):
        features = draw.normal(0, 1, (48, 200)) @ np.diag(1 / np.arange(1, 201))
        wrong = draw.permutation(48) < draw.integers(3, 16)
        groups = find_groups(features.astype(np.float32), wrong)
        accused += any(group.p < 0.05 for group in groups)
    assert accused <= 4


def test_two_slices_of_one_class_are_told_apart() -> None:
    draw = np.random.default_rng(1)
    looks = np.zeros((90, 300))
    looks[:15, :6], looks[15:35, 6:12] = 4, 4
    wrong = np.arange(90) < 35
    wrong[[3, 20]] = False
    groups = find_groups((looks + draw.normal(0, 0.5, looks.shape)).astype(np.float32), wrong)
    assert sorted(sorted(group.rows[wrong[group.rows]].tolist()) for group in groups) == [
        [row for row in range(15) if row != 3],
        [row for row in range(15, 35) if row != 20],
    ]
    assert all(group.p < 1e-3 for group in groups)
    # Judged by looks alone, the one that is right is counted as right.
    assert {int((~wrong[group.alike]).sum()) for group in groups} == {1}


@pytest.mark.parametrize("photos", [1, 2, 9])
def test_photos_all_alike_or_few_are_no_group(tmp_path: Path, photos: int) -> None:
    first = write_photos(tmp_path, lambda pixels, name, index: pixels.fill(200))[0]
    found = find(make_model(-40.0), [Sample(first.path, 1)] * photos + [Sample(first.path, 0)] * photos, "slice")
    assert found.findings == ()


def test_words_need_a_clear_difference(seen: list[np.ndarray], tmp_path: Path) -> None:
    samples = write_photos(tmp_path, spot_every_third)
    model = make_model(0.0)
    data = slices_data(model, samples)
    spotted = np.arange(0, 24, 3)
    assert find_words(data, spotted, np.setdiff1d(np.arange(24), spotted)) == ["bell"]
    assert find_words(data, np.arange(1, 24, 3), np.arange(2, 24, 3)) == []
    assert find_words(data, spotted[:2], np.arange(24)) == []


def slices_data(model: Model, samples: list[Sample]) -> slices.AuditData:
    from whycam.audit.asker import Asker
    from whycam.audit.data import read_data

    return read_data(Asker(model.classifier.having(engine="torch", pools=True)), samples, seed=0)


def test_of_one_logit_both_classes_have_contributions() -> None:
    draw = np.random.default_rng(0)
    labels, looks = np.repeat([0, 1], 40), draw.normal(0, 0.3, (80, 50))
    for rows, channel in ((np.arange(10), 3), (np.arange(40, 52), 4)):
        looks[rows, channel] = 5
    wrong = looks[:, 3:5].max(1) > 4
    data = slices.AuditData(
        make_model(0.0).classifier,
        lambda pixels: pixels,
        tuple(Path(f"{row}.png") for row in range(80)),
        np.zeros((80, 3, 1, 1), np.uint8),
        labels,
        np.eye(2)[np.where(wrong, 1 - labels, labels)],
        np.zeros((80, 1, 1)),
        pooled=looks.astype(np.float32),
        weight=np.stack([np.zeros(50), np.ones(50)]).astype(np.float32),
    )
    found = slices.list_slices(data)
    assert [(one.label, sorted(one.group.rows.tolist())) for one in sorted(found, key=lambda one: one.label)] == [
        (0, list(range(10))),
        (1, list(range(40, 52))),
    ]


def test_350_photos_take_little_time() -> None:
    draw, start = np.random.default_rng(0), time.process_time()
    for _ in range(5):
        find_groups(draw.normal(0, 1, (70, 1280)).astype(np.float32), np.arange(70) < 8)
    assert time.process_time() - start < 3
