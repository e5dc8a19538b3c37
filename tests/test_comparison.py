"""Two models side by side: the identity of the change, who is compared on what, and what can't be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import whycam
from compare_cases import compare, explain_all, load, make_model, save_model
from conftest import PHOTOS_A_CLASS, SHAPES, change
from report_cases import make_finding
from whycam.config import ExportOptions
from whycam.data.folder import Sample
from whycam.errors import UserError
from whycam.jobs.export import export
from whycam.metrics.pairs.comparison import Comparison
from whycam.metrics.pairs.paired import measure_change
from whycam.metrics.pairs.reader import GAINED, LOST, MOVED

PHOTOS = PHOTOS_A_CLASS * len(SHAPES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, shapes_folder: Path) -> dict[str, Path]:
    """Model folders, to be read only: a and b of one size, and one with a finer grid whose classes stand otherwise."""
    root = tmp_path_factory.mktemp("pair")
    models = {
        "a": make_model(shapes_folder, 0),
        "b": make_model(shapes_folder, 1),
        "fine": make_model(shapes_folder, 2, side_px=160, names=("triangle", "star", "circle", "square")),
    }
    return {name: save_model(model, root / name) for name, model in models.items()}


@pytest.fixture(scope="module")
def found(folders: dict[str, Path], shapes_folder: Path) -> Comparison:
    return compare(folders["a"], folders["b"], shapes_folder)


def test_who_is_right_and_which_photos_flip(found: Comparison, folders: dict[str, Path], shapes_folder: Path) -> None:
    paths = sorted(shapes_folder.glob("*/*.jpg"))
    truth = [SHAPES.index(path.parent.name) for path in paths]
    named = {k: [int(explain_all(folders[k], path)[0].argmax()) for path in paths] for k in "ab"}
    assert list(found.paths) == [path.absolute() for path in paths]
    np.testing.assert_array_equal(found.named, [named["a"], named["b"]])
    right = {k: np.equal(named[k], truth) for k in "ab"}
    assert found.accuracy == (right["a"].mean(), right["b"].mean())
    assert found.difference == measure_change(right["a"], right["b"])
    flipped = [path.absolute() for i, path in enumerate(paths) if named["a"][i] != named["b"][i]]
    assert [flip.path for flip in found.flips] == flipped
    assert found.counts[LOST] == found.difference.lost
    assert found.counts[GAINED] == found.difference.gained
    assert sum(found.counts.values()) == len(flipped) > PHOTOS // 3
    assert found.counts[MOVED] > 0
    for row in found.classes:
        own = np.equal(truth, SHAPES.index(row.name))
        assert (row.share_a, row.share_b) == (right["a"][own].mean(), right["b"][own].mean())
        assert row.p >= row.change.p


@pytest.mark.parametrize("other", ["b", "fine"])
def test_the_maps_change_is_the_leads_change(folders: dict[str, Path], shapes_folder: Path, other: str) -> None:
    """mean(map of B's lead - map of A's lead) + the same of the biases = lead_b - lead_a, also on two grids."""
    found = compare(folders["a"], folders[other], shapes_folder)
    bias = {k: load(folders[k]).network.classifier.bias.detach().numpy() for k in ("a", other)}
    names = {k: load(folders[k]).class_names for k in ("a", other)}
    assert found.identity_error is not None
    assert found.identity_error < 1e-5
    assert len(found.flips) > 5
    for flip in found.flips:
        scores = {k: dict(zip(names[k], explain_all(folders[k], flip.path)[0], strict=True)) for k in ("a", other)}
        leads = [scores[k][flip.b] - scores[k][flip.a] for k in ("a", other)]
        assert (flip.lead_a, flip.lead_b) == pytest.approx(leads, abs=1e-4)
        assert flip.lead_a <= 0 <= flip.lead_b
        biases = [bias[k][names[k].index(flip.b)] - bias[k][names[k].index(flip.a)] for k in ("a", other)]
        values = flip.change_map
        assert values is not None
        assert values.shape == ((5, 5) if other == "fine" else (2, 2))
        assert values.mean() + biases[1] - biases[0] == pytest.approx(flip.change, abs=1e-4)
        assert flip.gain is not None
        assert flip.loss is not None
        assert flip.gain + flip.loss == pytest.approx(values.mean(), abs=1e-5)
        assert flip.peak is not None
        y, x = (int(place * side) for place, side in zip(flip.peak[::-1], values.shape, strict=True))
        assert values[y, x] == values.max()


def test_a_flip_keeps_each_models_own_maps(found: Comparison, folders: dict[str, Path]) -> None:
    flip = found.flips[0]
    assert flip.look is not None
    assert flip.look.change is not None
    for reading, name in ((flip.look.a, "a"), (flip.look.b, "b")):
        logits, maps = explain_all(folders[name], flip.path)
        np.testing.assert_allclose(reading.maps, maps, atol=1e-4 * np.abs(maps).max())
        np.testing.assert_allclose(reading.logits, logits, atol=1e-4)
        assert reading.heatmap().shape == Image.open(flip.path).size[::-1]
    assert flip.look.change.draws_both_signs
    assert (flip.p_a, flip.p_b) == pytest.approx((flip.look.a.probabilities.max(), flip.look.b.probabilities.max()))


def test_only_the_flips_with_most_at_stake_keep_maps(folders: dict[str, Path], shapes_folder: Path) -> None:
    pictures: list[tuple[int, int]] = []

    def keep(photo: Image.Image) -> str:
        pictures.append(photo.size)
        return "kept"

    found = compare(folders["a"], folders["b"], shapes_folder, limit=2, picture=keep)
    shown = [flip for flip in found.flips if flip.look is not None]
    assert len(pictures) == len(found.flips) > len(shown) == 2
    assert {flip.look.picture for flip in shown if flip.look} == {"kept"}
    lost = sorted((flip.p_a + flip.p_b for flip in found.flips if flip.kind == LOST), reverse=True)
    assert sorted((flip.p_a + flip.p_b for flip in shown), reverse=True) == lost[:2]
    assert all(flip.peak is not None for flip in found.flips)


def test_only_classes_that_both_have_are_compared(folders: dict[str, Path], shapes_folder: Path) -> None:
    found = compare(folders["fine"], folders["a"], shapes_folder)
    assert found.class_names == ("triangle", "circle", "square")
    assert found.a.left_out == ("star",)
    assert found.b.left_out == ()
    outside = sum(explain_all(folders["fine"], path)[0].argmax() == 1 for path in found.paths)
    assert found.outside == (outside, 0)
    assert (
        f"A alone has them: star. A is asked for the best of the 3 classes that both have; of {outside}"
        in found.notes[0]
    )
    for path, k in zip(found.paths, found.named[0], strict=True):
        scores = explain_all(folders["fine"], path)[0][[0, 2, 3]]
        assert scores.argmax() == k


def test_photos_of_other_classes_are_left_out_and_told(folders: dict[str, Path], shapes_folder: Path) -> None:
    model = make_model(shapes_folder, 5, names=("circle", "square", "star"))
    found = compare(folders["a"], model_of(model), shapes_folder)
    assert found.class_names == ("circle", "square")
    assert len(found) == 2 * PHOTOS_A_CLASS
    assert (
        f"not both models have their class: {PHOTOS_A_CLASS} photos of triangle ({PHOTOS_A_CLASS})." in found.notes[0]
    )


def model_of(module: nn.Module, **how: Any) -> whycam.Model:
    how = {"preprocess": "unit", "image_size": 64, **how}
    if hasattr(module, "class_names"):
        how["class_names"] = module.class_names
    return whycam.load(module, **how)


def test_without_labels_there_is_agreement_and_no_accuracy(folders: dict[str, Path], shapes_folder: Path) -> None:
    found = compare(folders["a"], folders["b"], sorted(shapes_folder.rglob("*.jpg")))
    assert (found.accuracy, found.difference, found.is_labelled) == (None, None, False)
    same = float((found.named[0] == found.named[1]).mean())
    assert found.agreement[0] == same
    assert found.agreement[1] < same < found.agreement[2]
    assert {flip.kind for flip in found.flips} == {"unlabelled"}
    assert found.counts == {"unlabelled": len(found.flips)}
    given = {row.name: (row.share_a, row.share_b) for row in found.classes}
    for k, name in enumerate(SHAPES):
        assert given[name] == tuple((found.named == k).mean(1))


def test_an_int8_export_beside_its_float_one(tiny_folder: Path, shapes_folder: Path, tmp_path: Path) -> None:
    options = ExportOptions(int8=True, calibrate=shapes_folder)
    export(str(tiny_folder), tmp_path / "q.onnx", options)
    found = whycam.compare(tiny_folder, tmp_path / "q.onnx", shapes_folder, engine="torch")
    assert found.is_exact
    assert found.identity_error is not None
    assert found.identity_error < 1e-4
    assert found.agreement[0] >= 0.9
    assert found.b.classifier.card.kind == "ONNX file"


def test_of_several_labels_the_strongest_counts(folders: dict[str, Path], shapes_folder: Path) -> None:
    several = change(load(folders["b"]), output="multi-label logits")
    found = compare(folders["a"], several, shapes_folder)
    assert any(note.startswith("B gives several labels") for note in found.notes)
    flip = found.flips[0]
    assert flip.p_b == pytest.approx(1 / (1 + np.exp(-explain_all(folders["b"], flip.path)[0].max())), abs=1e-4)


def test_labels_by_number_are_the_first_models(folders: dict[str, Path], shapes_folder: Path) -> None:
    paths = sorted(shapes_folder.glob("square/*.jpg"))
    found = compare(folders["fine"], folders["a"], [Sample(path, 3) for path in paths])
    assert {found.class_names[k] for k in found.labels} == {"square"}


class Deep(nn.Module):
    """A network without exact maps: two layers behind the pooling."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, classes))

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(images).mean((2, 3)))
        return scores - 0.02 * scores.mean()


def test_without_exact_maps_each_models_own_are_shown_and_it_is_told(
    folders: dict[str, Path], shapes_folder: Path
) -> None:
    torch.manual_seed(0)
    deep = model_of(Deep(3).eval(), class_names=SHAPES)
    found = compare(folders["a"], deep, shapes_folder)
    assert not found.is_exact
    assert found.identity_error is None
    assert any(note.startswith("B has no exact maps") and "grad-cam" in note for note in found.notes)
    assert found.flips
    for flip in found.flips:
        assert flip.look is not None
        assert (flip.look.change, flip.change_map, flip.gain, flip.peak) == (None, None, None, None)
        assert SHAPES.index(flip.b) in flip.look.b.targets
        assert flip.look.b.record["method"] == "grad-cam"
        assert flip.lead_a <= 0 <= flip.lead_b
    both = compare(deep, deep, shapes_folder)
    assert not both.flips
    assert both.difference is not None
    assert both.difference.p == 1


def test_one_logit_is_two_sides(shapes_folder: Path, tmp_path: Path) -> None:
    folders = [save_model(make_model(shapes_folder, k, names=("round",)), tmp_path / str(k)) for k in (0, 1)]
    found = compare(*folders, sorted(shapes_folder.rglob("*.jpg")))
    assert found.class_names == ("not round", "round")
    assert found.identity_error is not None
    assert found.identity_error < 1e-5
    for flip in found.flips:
        scores = [float(explain_all(folder, flip.path)[0][0]) for folder in folders]
        sign = 1 if flip.b == "round" else -1
        assert (flip.lead_a, flip.lead_b) == pytest.approx((sign * scores[0], sign * scores[1]), abs=1e-4)


def test_the_places_of_findings_are_measured_in_both(folders: dict[str, Path], shapes_folder: Path) -> None:
    squares = [path.absolute() for path in sorted(shapes_folder.glob("square/*.jpg"))]
    everywhere, own, confused, nowhere = (
        make_finding([], id="whole", region={"name": "all over", "boxes": [[0, 0, 1, 1]]}),
        make_finding([], id="own", region={"name": "things", "boxes": []}),
        make_finding(
            [], id="taken", kind="confusion", other="circle", region={"name": "mean", "boxes": [[0, 0, 1, 1]]}
        ),
        make_finding([], id="none", region=None),
    )
    own["photos"] = [{"path": str(path), "boxes": [[0, 0, 0.5, 0.5]], "note": ""} for path in squares[:2]]
    audit = {"findings": [everywhere, own, confused, nowhere], "record": {"model": "another"}}
    found = compare(folders["a"], folders["b"], shapes_folder, audit=audit)
    changes = {one.finding.key: one for one in found.finding_changes}
    assert list(changes) == ["whole", "own", "taken"]
    assert any("1 of the audit's 4 findings have no place" in note for note in found.notes)
    assert any("The audit is of 'another', by its record" in note for note in found.notes)
    maps = {k: np.stack([explain_all(folders[k], path)[1] for path in squares]) for k in "ab"}
    leads = {k: values[:, 1] - values.mean(1) for k, values in maps.items()}
    for k, value in (("a", changes["whole"].a.value), ("b", changes["whole"].b.value)):
        assert value == pytest.approx(leads[k].mean(), rel=1e-3)
    assert changes["whole"].change.value == pytest.approx(leads["b"].mean() - leads["a"].mean(), rel=1e-3)
    assert changes["whole"].change.photos == PHOTOS_A_CLASS
    assert changes["own"].change.photos == 2
    assert changes["own"].finding.area == 0.25
    corner = {k: values[:2, 0, 0].mean() / 4 for k, values in leads.items()}
    assert changes["own"].change.value == pytest.approx(corner["b"] - corner["a"], rel=1e-3)
    taken = {k: (values[:, 0] - values[:, 1]).mean() for k, values in maps.items()}
    assert changes["taken"].change.value == pytest.approx(taken["b"] - taken["a"], rel=1e-3)


def test_runs_of_a_training_say_what_is_noise(folders: dict[str, Path], shapes_folder: Path) -> None:
    noise = [model_of(make_model(shapes_folder, 0, heads=seed), preprocess="half") for seed in (7, 8, 9)]
    found = compare(folders["a"], folders["b"], shapes_folder, noise=[*noise, folders["a"]])
    assert found.belongs
    assert found.named.shape == (2 + 3, PHOTOS)
    assert found.noise is not None
    assert found.noise.runs == 4
    pairs = [found.named[i] != found.named[j] for i, j in ((0, 2), (0, 3), (0, 4), (2, 3), (2, 4), (3, 4))]
    for flip in found.flips:
        row = found.paths.index(flip.path)
        assert found.disagreement(flip) == pytest.approx(np.mean([pair[row] for pair in pairs]))
    assert compare(folders["a"], folders["b"], shapes_folder).noise is None


def test_photos_that_cannot_be_read_are_recorded_and_the_rest_goes_on(
    folders: dict[str, Path], shapes_folder: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("no photo")
    photos = [*sorted(shapes_folder.glob("circle/*.jpg"))[:3], bad]
    found = compare(folders["a"], folders["b"], photos)
    assert len(found) == 3
    assert [name for name, _ in found.unreadable] == [str(bad)]
    with pytest.raises(UserError, match="Not one of the 1 photos could be read"):
        compare(folders["a"], folders["b"], [bad])
    with pytest.raises(UserError, match="Found no photos to compare on"):
        compare(folders["a"], folders["b"], [])


def test_what_cannot_be_compared_is_refused(folders: dict[str, Path], shapes_folder: Path, tmp_path: Path) -> None:
    other = model_of(make_model(shapes_folder, 3, names=("x", "y")))
    with pytest.raises(UserError, match=r"no class that both models have by name.*--classes-b FILE"):
        compare(folders["a"], other, shapes_folder)
    one = model_of(make_model(shapes_folder, 3, names=("x", "circle")))
    with pytest.raises(UserError, match="one class alone, 'circle'"):
        compare(folders["a"], one, shapes_folder)
    with pytest.raises(UserError, match=r"The run of --noise .* has other classes: 'x', 'y'"):
        compare(folders["a"], folders["b"], shapes_folder, noise=[other, other, one])
    finding = make_finding([], **{"class": "star"})
    with pytest.raises(UserError, match="The audit speaks of 'star'"):
        compare(folders["a"], folders["b"], shapes_folder, audit={"findings": [finding]})
    with pytest.raises(UserError, match="can't be read as audit"):
        compare(folders["a"], folders["b"], shapes_folder, audit=tmp_path)
    for name in ("x", "y"):
        (tmp_path / "odd" / name).mkdir(parents=True)
        (tmp_path / "odd" / name / "0.jpg").write_bytes((shapes_folder / "circle" / "00.jpg").read_bytes())
    with pytest.raises(UserError, match=r"Not one of the 2 folders \(x, y, ...\) is named as one of the 3 classes"):
        compare(folders["a"], folders["b"], tmp_path / "odd")
    with pytest.raises(UserError, match="Found no file or folder at"):
        compare(tmp_path / "none.onnx", folders["b"], shapes_folder)
