"""The audit on hand-made networks: what they rely on is known, so what is found can be checked."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from whycam.audit import Audit, audit
from whycam.audit.confusion import compare_command, find_confusion
from whycam.audit.data import AuditData, draw_samples
from whycam.audit.findings import Finding
from whycam.audit.run import KINDS, Kind
from whycam.audit.stamps import suspect_stamps
from whycam.data.folder import Sample
from whycam.data.preprocess import Preprocess
from whycam.errors import UserError
from whycam.explainer.model import Model
from whycam.mend.steps import CancelledError
from whycam.model.card import Card
from whycam.model.classifier import Answer, Classifier

pytestmark = pytest.mark.usefixtures("see_saturation")
SIDE_PX, PHOTOS = 64, 24
COLOURS = {"red": (220, 40, 40), "green": (40, 220, 40), "blue": (40, 40, 220)}
NAMES = tuple(COLOURS)
Paint = Callable[[np.ndarray, str, int], None]


class Colours(nn.Module):
    """Says which colour there is most of; a magenta spot speaks for red by `reliance`."""

    def __init__(self, reliance: float, cell_px: int = 8, least: float = 1.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, cell_px, stride=cell_px)
        weights = torch.tensor([[2, -1, -1], [-1, 2, -1], [-1, -1, 2], [1, -2, 1.0]])
        self.conv.weight.data = weights[:, :, None, None].expand(-1, -1, cell_px, cell_px) / cell_px**2
        self.conv.bias.data = torch.tensor([-0.1, -0.1, -0.1, -least])
        self.head = nn.Linear(4, 3, bias=False)
        self.head.weight.data = torch.tensor([[1, 0, 0, reliance], [0, 1, 0, 0], [0, 0, 1, 0.0]]) * 30

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.conv(images).relu().mean((2, 3)))
        return logits


def make_model(reliance: float, side_px: int = SIDE_PX, cell_px: int = 8, least: float = 1.0) -> Model:
    """Cells that are less magenta than `least` say nothing by it."""
    preprocess = Preprocess(height_px=side_px, width_px=side_px, mean=(0, 0, 0), std=(1, 1, 1))
    network = Colours(reliance, cell_px, least).eval().requires_grad_(requires_grad=False)
    card = Card("colours", NAMES, preprocess, {}, no_exact_map="it is made by hand")
    return Model(Classifier(card, network))


def write_photos(root: Path, paint: Paint = lambda pixels, name, index: None) -> list[Sample]:
    """A square of the class's colour somewhere on noise, and what `paint` puts on it."""
    draw, samples = np.random.default_rng(0), []
    for label, (name, colour) in enumerate(COLOURS.items()):
        (root / name).mkdir(parents=True)
        for index in range(PHOTOS):
            pixels = draw.integers(0, 90, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
            y, x, side = draw.integers(14, 26), draw.integers(14, 26), draw.integers(12, 24)
            # Its grain differs from photo to photo: what is the same everywhere would be a sign, not an object.
            grain = draw.uniform(0.35, 1, (8, 8)).repeat(3, 0).repeat(3, 1)[:side, :side, None]
            pixels[y : y + side, x : x + side] = colour * grain
            paint(pixels, name, index)
            path = root / name / f"{index:02}.png"
            Image.fromarray(pixels).save(path)
            samples.append(Sample(path, label))
    return samples


def stamp(pixels: np.ndarray, name: str, index: int) -> None:
    if name == "red":
        pixels[2:14, -14:-2] = (250, 0, 250)


def find(model: Model, samples: list[Sample], kind: str, **how: object) -> Audit:
    return audit(model, samples, kinds=[kind], engine="torch", **how)  # type: ignore[arg-type]


def test_a_finding_under_the_least_certainty_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Finding("fragile", 0.9, sure, f"{sure}", "") for sure in (0.5, 0.9499, 0.95, 1.0)]
    monkeypatch.setitem(KINDS, "fragile", Kind(lambda data: found))
    samples = write_photos(tmp_path)
    assert [one.certainty for one in audit(make_model(0.0), samples, kinds=["fragile"]).findings] == [1.0, 0.95]


def test_a_mark_that_the_model_reads_is_found_with_its_class_and_place(tmp_path: Path) -> None:
    found = find(make_model(reliance=12.0), write_photos(tmp_path, stamp), "shortcut").findings
    assert [one.class_name for one in found] == ["red"]
    assert found[0].region is not None
    assert found[0].region.name == "upper right corner"
    x0, y0, x1, y1 = found[0].region.boxes[0]
    assert (x0 <= 0.79, y0 <= 0.04, x1 >= 0.96, y1 >= 0.21) == (True,) * 4
    assert (x1 - x0) * (y1 - y0) < 0.12
    assert found[0].numbers["attack"] > 0.5 > found[0].numbers["attack_control"]
    assert found[0].certainty > 0.99
    assert found[0].severity > 0.5
    assert {photo.path.parent.name for photo in found[0].photos} == {"red"}


def test_a_mark_that_the_model_ignores_is_no_shortcut(tmp_path: Path) -> None:
    assert find(make_model(reliance=0.0), write_photos(tmp_path, stamp), "shortcut").findings == ()


def test_clean_photos_accuse_nobody(tmp_path: Path) -> None:
    assert find(make_model(reliance=12.0), write_photos(tmp_path), "shortcut").findings == ()


def test_two_runs_give_the_same_findings(tmp_path: Path) -> None:
    samples = write_photos(tmp_path, stamp)
    first, second = (find(make_model(12.0), samples, "shortcut", seed=3).to_json() for _ in range(2))
    assert first == second


def test_a_wrong_label_is_doubted_and_right_ones_are_not(tmp_path: Path) -> None:
    samples = write_photos(tmp_path)
    assert find(make_model(0.0), samples, "label").findings == ()
    samples[3] = replace(samples[3], label=1)
    (found,) = find(make_model(0.0), samples, "label").findings
    assert (found.class_name, found.other) == ("green", "red")
    assert [photo.path for photo in found.photos] == [samples[3].path]


def test_copies_are_found_across_splits_sizes_and_mirrors(tmp_path: Path) -> None:
    samples = write_photos(tmp_path / "val")
    assert find(make_model(0.0), samples, "duplicate").findings == ()
    (tmp_path / "train" / "blue").mkdir(parents=True)
    copies = [tmp_path / "train" / "blue" / f"{i}.jpg" for i in range(2)]
    photo = Image.open(samples[-1].path)
    photo.resize((90, 90)).save(copies[0], quality=80)
    photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(copies[1], quality=90)
    (found,) = find(make_model(0.0), samples, "duplicate", train=copies).findings
    assert {photo.path for photo in found.photos} == {samples[-1].path, *copies}
    assert "training" in found.title


def test_photos_that_a_small_change_flips_are_fragile(tmp_path: Path) -> None:
    def split(pixels: np.ndarray, name: str, index: int) -> None:
        if name == "blue" and index < 6:  # of red a little less than of blue, all of it at the left edge
            pixels[:] = 0
            pixels[:, :3], pixels[20:40, 30:41] = (255, 0, 0), (0, 0, 255)

    found = find(make_model(0.0), write_photos(tmp_path, split), "fragile").findings
    assert [one.class_name for one in found if one.region is None] == ["blue"]
    assert find(make_model(0.0), write_photos(tmp_path / "plain"), "fragile").findings == ()


def test_confused_classes_come_with_the_regions_that_decide(tmp_path: Path) -> None:
    def add_red(pixels: np.ndarray, name: str, index: int) -> None:
        if name == "blue" and index < 8:
            pixels[-20:, :32] = (255, 20, 20)

    (found,) = find(make_model(0.0), write_photos(tmp_path, add_red), "confusion").findings
    assert (found.class_name, found.other, found.numbers["photos"]) == ("blue", "red", 8)
    x0, y0, x1, y1 = found.photos[0].boxes[0]
    assert (x0 + x1) / 2 < 0.5 < (y0 + y1) / 2


def test_without_labels_the_kinds_that_need_them_are_left_out_and_said(tmp_path: Path) -> None:
    samples = [replace(sample, label=-1) for sample in write_photos(tmp_path, stamp)]
    found = audit(make_model(12.0), samples, engine="torch")
    assert any({"label", "slice", "confusion"} <= set(re.findall(r"\w+", note)) for note in found.notes)
    assert found.of_kind("shortcut")[0].class_name == "red"


def test_few_photos_and_unreadable_ones_are_said(tmp_path: Path) -> None:
    samples = [s for s in write_photos(tmp_path) if s.label < 2 or s.path.stem < "05"]
    samples[0].path.write_bytes(b"no photo")
    found = audit(make_model(0.0), samples, engine="torch")
    assert found.photos == len(samples) - 1
    assert any("1 photos could not be read" in note for note in found.notes)
    assert any("Fewer than 10 photos" in note and "blue" in note for note in found.notes)


def test_the_limit_draws_evenly_over_the_classes() -> None:
    samples = [Sample(Path(f"{k}-{i}.jpg"), k) for k in range(3) for i in range(3 + 20 * k)]
    drawn = draw_samples(samples, 15, seed=1)
    assert sorted(sample.label for sample in drawn) == [0] * 3 + [1] * 6 + [2] * 6
    assert draw_samples(samples, 15, seed=1) == drawn
    assert draw_samples(samples, None, seed=1) == samples


@pytest.mark.parametrize(
    ("change", "words"),
    [({"kinds": ["shorcut"]}, "Did you mean 'shortcut'"), ({"samples": []}, "no photos"), ({"names": ("one",)}, "two")],
)
def test_what_can_not_be_audited_is_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    model = Model(make_model(0.0).classifier.having(class_names=change.pop("names", NAMES)))
    samples = change.pop("samples", [Sample(tmp_path / "a.jpg", 0)])
    with pytest.raises(UserError, match=words):
        audit(model, samples, **change)  # type: ignore[arg-type]


def test_findings_become_plain_json_with_names_of_their_own(tmp_path: Path) -> None:
    found = find(make_model(12.0), write_photos(tmp_path, stamp), "shortcut")
    content = json.loads(json.dumps(found.to_json()))
    (one,) = content["findings"]
    assert one["id"] == "shortcut-red-1"
    assert set(one) == {
        *("id", "kind", "severity", "certainty", "cost", "class", "other", "title", "detail", "region", "photos"),
        *("numbers", "remedy", "command"),
    }


@pytest.mark.parametrize(("copies", "suspected"), [(1, [0]), (2, [])])
def test_a_sign_is_stuck_on_once_and_an_object_may_stand_twice(copies: int, suspected: list[int]) -> None:
    draw, side = np.random.default_rng(0), 128
    pixels = draw.integers(0, 60, (3 * PHOTOS, 3, side, side), dtype=np.uint8)
    sign = draw.integers(0, 256, (3, 8, 8), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    for photo in pixels[:PHOTOS]:
        # Each copy in its own half.
        for copy in range(copies):
            y, x = draw.integers(0, 90), draw.integers(0, 30) + 64 * copy
            photo[:, y : y + 32, x : x + 32] = sign
    labels = np.arange(3).repeat(PHOTOS)
    paths = tuple(Path(f"{i}.png") for i in range(len(pixels)))
    none = np.zeros((len(pixels), 3))
    data = AuditData(make_model(0.0), lambda pixels: none, paths, pixels, labels, none, none[:, None])
    assert [suspect.label for suspect in suspect_stamps(data)] == suspected


def test_an_audit_can_be_called_off_between_any_two_questions(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []

    @contextmanager
    def show(step: str, total: int) -> Iterator[Callable[[int], None]]:
        def call_off(count: int) -> None:
            if not total:
                raise CancelledError("Called off.")
            seen.append((step, count, total))

        yield call_off

    with pytest.raises(CancelledError):
        audit(make_model(12.0), write_photos(tmp_path, stamp), kinds=["shortcut"], engine="torch", show_progress=show)
    assert {(step, total) for step, _, total in seen} == {("reading photos", 3 * PHOTOS)}
    assert sum(count for _, count, _ in seen) == 3 * PHOTOS


def test_each_step_tells_how_often_the_model_is_asked(tmp_path: Path) -> None:
    asked: dict[str, int] = {}

    @contextmanager
    def show(step: str, total: int) -> Iterator[Callable[[int], None]]:
        asked[step] = 0

        def advance(count: int) -> None:
            asked[step] += count

        yield advance

    model = make_model(12.0)
    audit(model, write_photos(tmp_path, stamp), kinds=["shortcut", "label"], engine="torch", show_progress=show)
    assert list(asked) == ["reading photos", "looking for: shortcut", "looking for: label"]
    # A trial's first look alone asks twice about each of 40 pairs; labels need no question.
    assert asked["looking for: shortcut"] >= 80
    assert (asked["reading photos"], asked["looking for: label"]) == (3 * PHOTOS, 0)


@pytest.mark.parametrize("name", ["MY FOLDERS", "MODEL", "$FOLDER", "it's $$5"])
def test_a_command_can_be_pasted_whatever_a_class_or_a_folder_is_called(name: str) -> None:
    command = compare_command(Path("photos", name), name, "other").replace("$MODEL", "$MODEL --weights $FINDING")
    words = {"MODEL": "FOLDER", "FOLDER": "my photos", "FINDING": "o ut/audit.json"}
    told = Finding("shortcut", 1, 1, "", "", command=command).to_json("shortcut-Tulpen (rot)-1", words)["command"]
    assert shlex.split(told) == [
        *("whycam", "explain", "FOLDER", "--weights", "o ut/audit.json#shortcut-Tulpen (rot)-1", f"photos/{name}"),
        *("-o", "shortcut-Tulpen (rot)-1", "--target", f"class:{name}", "--versus", "class:other"),
    ]


def test_a_proven_shortcut_stands_above_what_the_photos_would_teach(tmp_path: Path) -> None:
    found = audit(make_model(12.0), write_photos(tmp_path, stamp), kinds=["data", "shortcut"], engine="torch").findings
    assert found[0].kind == "shortcut"
    assert {one.kind for one in found} == {"shortcut", "data"}


@pytest.mark.parametrize(("label", "place"), [(0, 1.0), (1, -1.0)])
def test_a_class_of_one_logit_is_taken_for_the_other(monkeypatch: pytest.MonkeyPatch, label: int, place: float) -> None:
    # There is one map: what speaks for the second class and against the first.
    labels = np.arange(2).repeat(20)
    wrong = (labels == label) & (np.arange(40) % 20 < 14)
    logits = np.eye(2)[np.where(wrong, 1 - labels, labels)]
    maps = np.zeros((40, 1, 4, 4), np.float32)
    maps[:, 0, 0, 0] = place
    classifier = make_model(0.0).classifier.having(class_names=("no", "yes"), no_exact_map="")
    monkeypatch.setattr(Classifier, "read", lambda self, pixels: Answer(logits, maps[: len(pixels)]))
    paths = tuple(Path(f"{i}.png") for i in range(40))
    pixels = np.zeros((40, 3, 8, 8), np.uint8)
    data = AuditData(classifier, lambda pixels: logits, paths, pixels, labels, logits, maps[:, 0])
    (found,) = find_confusion(data)
    x0, y0, x1, y1 = found.photos[0].boxes[0]
    assert (x0, y0) == (0, 0)
    assert max(x1, y1) < 0.6


def test_a_finding_of_two_classes_names_both(tmp_path: Path) -> None:
    samples = [sample for sample in write_photos(tmp_path, stamp) if sample.label < 2]
    network = Colours(12.0)
    network.head.weight.data = network.head.weight.data[:2]
    card = replace(make_model(12.0).classifier.card, class_names=NAMES[:2])
    (found,) = find(
        Model(Classifier(card, network.eval().requires_grad_(requires_grad=False))), samples, "shortcut"
    ).findings
    assert found.title.startswith("The model tells 'red' from 'green' by a ")
    assert found.title.endswith(", not by their objects alone.")
    assert (found.class_name, found.other) == ("red", "green")
