"""Evidence pushed off a part of the photos: how the part is named, what the loss does, what training makes of it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

import whycam
from whycam.cli import app
from whycam.config import make_train_options
from whycam.data.folder import PhotoFolder, Sample, read_folder
from whycam.data.regions import Regions, find_masks, read_regions
from whycam.data.views import Swaps
from whycam.errors import UserError
from whycam.jobs.train import train
from whycam.model.gap import measure_identity
from whycam.train.evidence import compute_evidence, compute_share, to_cells

CORNER = "0.6,0,1,0.4"


@pytest.fixture
def marked_folder(shapes_folder: Path, tmp_path: Path) -> Path:
    """Circles of two classes that nothing tells apart but a red square in the upper right corner of one."""
    root = tmp_path / "marked"
    for index, path in enumerate(sorted((shapes_folder / "circle").iterdir())):
        to = root / ("marked" if index % 2 else "plain") / path.name
        to.parent.mkdir(parents=True, exist_ok=True)
        photo = Image.open(path)
        (mark(photo) if index % 2 else photo).save(to, quality=95)
    return root


def mark(photo: Image.Image) -> Image.Image:
    marked = photo.copy()
    marked.paste((255, 0, 0), (64, 4, 92, 32))
    return marked


def run(folder: Path, out: Path, **words: Any) -> dict[str, Any]:
    return train(folder, out, make_train_options(**{"image_size": 96, "epochs": 8, **words}))


def write_mask(path: Path, box: tuple[int, int, int, int], size: int = 96) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.new("L", (size, size))
    mask.paste(1, box)
    mask.save(path)


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("upper-right:0.25", [(0.75, 0, 1, 0.25)]),
        ("upper-left", [(0, 0, 0.3, 0.3)]),
        ("lower-left:0.5", [(0, 0.5, 0.5, 1)]),
        ("lower-right:0.2", [(0.8, 0.8, 1, 1)]),
        ("top:0.1", [(0, 0, 1, 0.1)]),
        ("bottom", [(0, 0.85, 1, 1)]),
        ("left:1", [(0, 0, 1, 1)]),
        ("right:0.25", [(0.75, 0, 1, 1)]),
        ("border:0.1", [(0, 0, 1, 0.1), (0, 0.9, 1, 1), (0, 0, 0.1, 1), (0.9, 0, 1, 1)]),
        ("0.7,0,1,0.3", [(0.7, 0, 1, 0.3)]),
    ],
)
def test_every_way_to_name_a_part(text: str, boxes: list[tuple[float, ...]], tmp_path: Path) -> None:
    np.testing.assert_allclose(read_regions(text, [], tmp_path, "--ignore").boxes, boxes)


def write_audit(path: Path) -> Path:
    region = {"name": "upper right corner", "boxes": [[0.75, 0, 1, 0.25], [0, 0, 0.1, 1]]}
    findings = [{"id": "shortcut-tulips-1", "region": region}, {"id": "label-1", "region": None}]
    path.write_text(json.dumps({"findings": findings}))
    return path


def test_a_finding_of_an_audit_names_its_part(tmp_path: Path) -> None:
    audit = write_audit(tmp_path / "audit.json")
    found = read_regions(f"{audit}#shortcut-tulips-1", [], tmp_path, "--ignore")
    assert found.boxes == ((0.75, 0, 1, 0.25), (0, 0, 0.1, 1))


@pytest.mark.parametrize(
    ("text", "found", "expected", "remedy"),
    [
        ("uper-right", "'uper-right'", "audit.json#", "Did you mean 'upper-right'?"),
        ("masks/none", "'masks/none'", "a folder of masks", "Check the path"),
        ("top:big", "'top:big'", "over 0 and up to 1", "top:0.15"),
        ("border:0.6", "'border:0.6'", "up to 0.5", "border:0.1"),
        ("top:nan", "'top:nan'", "over 0", "top:0.15"),
        ("0.7,0,1", "'0.7,0,1'", "x0,y0,x1,y1", "0.7,0,1,0.3"),
        ("0.7,0,0.2,1", "'0.7,0,0.2,1'", "x0 < x1", "0.7,0,1,0.3"),
        ("{}/audit.json#tulips", "'tulips', which is not", "shortcut-tulips-1", "Write"),
        ("{}/audit.json#label-1", "has no place", "shortcut-tulips-1", "or give masks"),
        ("{}/audit.json", "'', which is not", "shortcut-tulips-1", "audit.json#shortcut-tulips-1"),
        ("{}/other.json#a", "FileNotFoundError", "that whycam audit writes", "Check the path"),
    ],
)
def test_what_names_no_part_is_told(text: str, found: str, expected: str, remedy: str, tmp_path: Path) -> None:
    write_audit(tmp_path / "audit.json")
    with pytest.raises(UserError) as caught:
        read_regions(text.format(tmp_path), [], tmp_path, "--ignore")
    for part in ("--ignore", found, expected, remedy):
        assert part in str(caught.value)


def test_masks_are_found_by_name_in_three_layouts(tmp_path: Path) -> None:
    photos = [tmp_path / "train" / "a" / f"{n}.jpg" for n in range(4)]
    for name in ("train/a/0", "a/1", "2"):
        write_mask(tmp_path / "masks" / f"{name}.png", (0, 0, 9, 9))
    found = find_masks(tmp_path / "masks", photos, tmp_path)
    assert {photo.stem: mask.relative_to(tmp_path / "masks").as_posix() for photo, mask in found.items()} == {
        "0": "train/a/0.png",
        "1": "a/1.png",
        "2": "2.png",
    }
    with pytest.raises(UserError, match="Found 3 masks"):
        find_masks(tmp_path / "masks", [tmp_path / "b" / "z.jpg"], tmp_path)


def test_cells_hold_the_share_of_their_area() -> None:
    regions = Regions(((0.75, 0, 1, 0.125),))
    mask = regions.draw(Path("any.jpg"), (10, 10), (64, 64))
    assert mask is not None
    cells = to_cells(mask, (4, 4))
    assert cells[0].tolist() == [0, 0, 0, 0.5]
    assert cells[1:].sum() == 0
    assert float(cells.mean()) == pytest.approx(mask.mean())


def test_evidence_is_what_speaks_for_one_class_and_not_for_all() -> None:
    maps = torch.zeros(1, 2, 2, 2)
    maps[0, :, 0, 0] = 5.0  # both classes alike
    maps[0, 0, 1, 1] = 2.0
    cells = torch.zeros(1, 2, 2)
    cells[0, 0, 0] = 1.0
    assert compute_evidence(maps)[0].tolist() == [[0, 0], [0, 2]]
    assert float(compute_share(compute_evidence(maps), cells)) == 0.0
    assert float(compute_share(compute_evidence(maps), 1 - cells)) == 1.0
    assert float(compute_share(compute_evidence(0 * maps), cells)) == 0.0


def test_the_penalty_moves_evidence_and_the_maps_stay_exact(tiny_model: Any) -> None:
    torch.manual_seed(0)
    features = torch.rand(8, tiny_model.classifier.in_features, 4, 4)
    features[:, : features.shape[1] // 2, 0] *= 20
    cells = torch.zeros(8, 4, 4)
    cells[:, 0] = 1
    optimizer = torch.optim.Adam(tiny_model.classifier.parameters(), lr=1e-2)
    shares = []
    for _ in range(60):
        share = compute_share(compute_evidence(tiny_model.compute_maps(features)), cells).mean()
        optimizer.zero_grad()
        share.backward()
        optimizer.step()
        shares.append(float(share.detach()))
    assert shares[0] > 0.9
    assert shares[-1] < 0.5
    with torch.no_grad():
        maps, logits = tiny_model.compute_maps(features), tiny_model.classify(features)
    assert float(measure_identity(logits, maps, tiny_model.classifier.bias.detach()).max()) < 1e-5


def make_swaps(folder: PhotoFolder, regions: Regions, seed: int = 0) -> Swaps:
    return Swaps(folder.samples, regions, seed, (96, 96))


def test_swapped_regions_say_nothing_about_the_class(shapes_folder: Path) -> None:
    folder = read_folder(shapes_folder)
    swaps = make_swaps(folder, Regions(((0.6, 0, 1, 0.4),)))
    label_of = {sample.path: sample.label for sample in folder.samples}
    drawn = Counter((s.label, label_of[swaps.find_donor(s.path, view)]) for s in folder.samples for view in range(100))
    assert min(drawn.values()) > 0.8 * max(drawn.values())
    assert len(drawn) == 9


def test_a_swap_changes_the_region_alone(shapes_folder: Path) -> None:
    folder = read_folder(shapes_folder)
    swaps = make_swaps(folder, Regions(((0.5, 0, 1, 0.5),)))
    photo = folder.train[0].path
    donor = swaps.find_donor(photo, 3)
    mine, other, swapped = (np.asarray(image) for image in (Image.open(photo), Image.open(donor), swaps(photo, 3)))
    assert donor != photo
    assert (swapped[:48, 48:] == other[:48, 48:]).all()
    assert (swapped[48:] == mine[48:]).all()
    assert (swapped[:, :48] == mine[:, :48]).all()


def test_an_artefact_under_a_mask_leaves_its_photo_and_comes_to_others(tmp_path: Path) -> None:
    for name, color in (("a", (255, 0, 0)), ("b", (0, 0, 255))):
        (tmp_path / name).mkdir()
        Image.new("RGB", (40, 40), color).save(tmp_path / name / f"{name}.png")
    write_mask(tmp_path / "mask.png", (0, 0, 10, 10), 40)
    a, b = tmp_path / "a" / "a.png", tmp_path / "b" / "b.png"
    swaps = Swaps((Sample(a, 0), Sample(b, 1)), Regions(masks={a: tmp_path / "mask.png"}), 0, (40, 40))
    for photo, other, theirs in ((a, b, (0, 0, 255)), (b, a, (255, 0, 0))):
        view = next(v for v in range(50) if swaps.find_donor(photo, v) == other)
        swapped = swaps(photo, view)
        assert swapped.getpixel((5, 5)) == theirs
        assert swapped.getpixel((20, 20)) == Image.open(photo).getpixel((20, 20))


def test_ignored_corner_loses_its_say(marked_folder: Path, tmp_path: Path) -> None:
    """Without the option the red square alone decides; with it, it changes little."""
    bare = [Image.open(path) for path in sorted((marked_folder / "plain").iterdir())]
    effects = {}
    for name, words in (("before", {}), ("after", {"ignore": CORNER})):
        summary = run(marked_folder, tmp_path / name, **words)
        model = whycam.load(tmp_path / name, engine="torch")
        without, with_mark = (model.explain(photos).probabilities[:, 0] for photos in (bare, [mark(p) for p in bare]))
        effects[name] = float((with_mark - without).mean())
    assert effects["before"] > 0.5
    assert abs(effects["after"]) < 0.3 * effects["before"]
    about = summary["focus"]["ignore"]
    assert about["region"] == CORNER
    assert about["val_photos"] == summary["data"]["val"]
    assert about["evidence_share"] < about["area_share"]
    assert summary["focus"]["swapped_views"] == 2
    assert summary["identity_error"] < 1e-4


def test_same_seed_same_weights_with_a_focus(marked_folder: Path, tmp_path: Path, random_weights: Path) -> None:
    words = {"backbone": "test_resnet", "weights": random_weights, "image_size": 64, "epochs": 3, "ignore": CORNER}
    weights = []
    for name, more in (("a", {}), ("b", {}), ("c", {"focus_weight": 1.0})):
        run(marked_folder, tmp_path / name, cache_dir=tmp_path / f"cache-{name}", **{**words, **more})
        weights.append(load_file(tmp_path / name / "model" / "model.safetensors")["fc.weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_photos_without_masks_are_counted_and_evidence_comes_to_the_object(
    shapes_folder: Path, tmp_path: Path, random_weights: Path
) -> None:
    photos = read_folder(shapes_folder)
    with_mask = [*photos.train[:-5], *photos.val[:-1]]
    for sample in with_mask:
        write_mask(tmp_path / "masks" / sample.path.relative_to(shapes_folder).with_suffix(".png"), (24, 24, 72, 72))
    write_mask(tmp_path / "masks" / f"{photos.train[0].path.parent.name}/{photos.train[0].path.stem}.png", (0, 0, 0, 0))
    words = {"backbone": "test_resnet", "weights": random_weights, "map_stride": 8, "attend": tmp_path / "masks"}
    shares = []
    for name, weight in (("free", 0.0), ("led", 10.0)):
        summary = run(shapes_folder, tmp_path / name, focus_weight=weight, **words)
        about = summary["focus"]["attend"]
        assert about["val_photos"] == len(photos.val) - 1
        assert about["area_share"] == pytest.approx(0.75, abs=0.01)
        shares.append(about["evidence_share"])
    assert shares[1] < 0.8 * shares[0]
    log = (tmp_path / "led" / "train.log").read_text()
    assert f"{len(photos.train) - 6} of {len(photos.train)} training photos have a mask; the other 6" in log


@pytest.mark.parametrize(
    "words",
    [
        {"head": "conv", "ignore": "border", "epochs": 2},
        {"unfreeze": "last", "finetune_epochs": 1, "ignore": "border", "epochs": 1},
        {"scratch": True, "weights": None, "ignore": "border", "epochs": 1},
    ],
    ids=["conv", "unfreeze", "scratch"],
)
def test_other_ways_of_training_ignore_too(
    shapes_folder: Path, tmp_path: Path, random_weights: Path, words: dict[str, Any]
) -> None:
    words = {"backbone": "test_resnet", "weights": random_weights, "image_size": 64, **words}
    summary = run(shapes_folder, tmp_path / "run", **words)
    assert summary["identity_error"] < 1e-4
    assert summary["focus"]["ignore"]["area_share"] == pytest.approx(0.36, abs=0.05)
    assert 0 < summary["focus"]["ignore"]["evidence_share"] < 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"ignore": "top", "augment": 2}, "Leave --augment out"),
        ({"attend": Path(), "unfreeze": "last"}, "use --ignore"),
        ({"attend": Path(), "scratch": True}, "use --ignore"),
        ({"attend": Path("nowhere")}, "Found no folder"),
    ],
)
def test_what_does_not_go_together_is_told(
    shapes_folder: Path, tmp_path: Path, words: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(shapes_folder, tmp_path / "run", **words)
    assert not (tmp_path / "run").exists()


def test_command_line_says_what_was_ignored(marked_folder: Path, tmp_path: Path, random_weights: Path) -> None:
    words = ["--ignore", "upper-right:0.4", "--backbone", "test_resnet", "--image-size", "64", "--epochs", "1"]
    words += ["--weights", str(random_weights), "-o", str(tmp_path / "run")]
    done = CliRunner().invoke(app, ["train", str(marked_folder), *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    share = json.loads((tmp_path / "run" / "summary.json").read_text())["focus"]["ignore"]["evidence_share"]
    assert f"{share:.1%} of the evidence lies in the ignored region" in done.output
