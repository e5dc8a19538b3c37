"""`whycam train --test` and `--tta`: figures on photos that nothing was chosen on, and with mirror images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import whycam
from train_cases import run, same
from whycam.config import CardOptions, ReportOptions
from whycam.data.images import load_image
from whycam.errors import UserError
from whycam.jobs.card import make_card
from whycam.jobs.report import make_report
from whycam.metrics.groups import find_interval


@pytest.fixture
def photos(split_shapes: Path, tmp_path: Path) -> Path:
    """What is trained on: 8 photos a class, two of them held out by the seed."""
    return Path(shutil.copytree(split_shapes / "train", tmp_path / "photos"))


@pytest.fixture
def others(split_shapes: Path, tmp_path: Path) -> Path:
    """12 others."""
    return Path(shutil.copytree(split_shapes / "val", tmp_path / "test"))


def score(out: Path, folder: Path, *, is_flipped: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, K) logits of a folder's photos by the finished model, from its own file, and their labels."""
    model = whycam.load(out, engine="torch")
    names, paths = list(model.class_names), sorted(folder.rglob("*.jpg"))
    network = model.classifier.exact_network
    pixels = np.stack([network.preprocess.to_pixels(load_image(path)) for path in paths])
    scores = model.classifier.scores(pixels[..., ::-1].copy() if is_flipped else pixels)
    return torch.as_tensor(scores), torch.tensor([names.index(path.parent.name) for path in paths])


@pytest.mark.parametrize("words", [{}, {"unfreeze": "last", "finetune_epochs": 1}], ids=["stored", "network"])
def test_the_figures_are_those_of_the_finished_model(
    photos: Path,
    others: Path,
    random_weights: Path,
    tmp_path: Path,
    words: dict[str, Any],
) -> None:
    out = tmp_path / "run"
    summary = run(photos, out, random_weights, test=others, tta=True, epochs=2, **words)
    plain, labels = score(out, others)
    mirrored, _ = score(out, others, is_flipped=True)
    for found, logits in ((summary["test"], plain), (summary["tta"]["test"], (plain + mirrored) / 2)):
        right = int((logits.argmax(1) == labels).sum())
        assert (found["photos"], found["right"]) == (12, right)
        assert (found["low"], found["high"]) == find_interval(right, 12)
        expected = float(torch.nn.functional.cross_entropy(logits, labels))
        assert found["loss"] == pytest.approx(expected, rel=0.02)
    assert summary["test"]["note"] == "Nothing was chosen on these photos."
    assert summary["test"]["classes"]["circle"]["photos"] == 4
    assert summary["tta"]["val"]["photos"] == summary["data"]["val"]
    assert summary["tta"]["views"] == "the photo and its mirror image"
    run(photos, tmp_path / "without", random_weights, epochs=2, **words)
    assert same(out, tmp_path / "without")


def test_the_command_the_report_and_the_card_tell_it(
    call_whycam: Callable[..., Any],
    photos: Path,
    others: Path,
    random_weights: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    words = ("--backbone", "test_resnet", "--weights", random_weights, "--image-size", "64", "--epochs", "2")
    told = call_whycam("train", photos, *words, "--test", others, "--tta", "-o", out)
    summary = json.loads((out / "summary.json").read_text())
    found = summary["test"]
    interval = f"95 % interval {found['low']:.3f} to {found['high']:.3f}"
    text = " ".join((told.stdout if hasattr(told, "stdout") else str(told)).split())
    assert f"Accuracy {found['accuracy']:.3f} on 12 test photos ({interval}). Nothing was chosen" in text
    make_report(str(out), None, tmp_path / "report.html", ReportOptions(no_audit=True, engine="torch"))
    page = " ".join((tmp_path / "report.html").read_text().split())
    assert "of 12 test photos are named rightly" in page
    assert "with the mirror image averaged in" in page
    assert "photos set apart" in page
    make_card(out, tmp_path / "card.md", CardOptions(evidence=tmp_path / "evidence.json"))
    card = (tmp_path / "card.md").read_text()
    assert f"{found['right']} of 12 photos. Nothing was chosen on these photos." in card
    assert "a slice of the training photos, by its loss; then it was trained on all of them" in card


def test_copies_of_training_photos_are_told(photos: Path, others: Path, random_weights: Path, tmp_path: Path) -> None:
    for path in sorted((photos / "circle").glob("*.jpg")):
        shutil.copy(path, others / "circle" / f"copy-{path.name}")
    summary = run(photos, tmp_path / "run", random_weights, test=others, epochs=1)
    copies = summary["test"]["copies"]
    assert copies == {"train": 6, "val": 2}
    assert "6 of these photos are trained on, too: the figure is too kind." in summary["test"]["note"]
    assert "Nothing was chosen" not in summary["test"]["note"]
    log = (tmp_path / "run" / "train.log").read_text()
    assert "6 of the 20 photos of --test are trained on, too" in log


def test_what_cannot_be_read_and_what_is_missing_is_told(
    photos: Path,
    others: Path,
    random_weights: Path,
    tmp_path: Path,
) -> None:
    shutil.rmtree(others / "square")
    (others / "circle" / "08.jpg").write_bytes(b"")
    (others / "circle" / "09.jpg").write_bytes(b"no photo")
    test = run(photos, tmp_path / "run", random_weights, test=others, epochs=1)["test"]
    assert test["photos"] == 6
    assert test["classes_missing"] == ["square"]
    assert {Path(path).name for path in test["unreadable"]} == {"08.jpg", "09.jpg"}
    assert "--test has no photos of 'square'" in (tmp_path / "run" / "train.log").read_text()


def test_a_list_is_a_test_too(photos: Path, others: Path, random_weights: Path, tmp_path: Path) -> None:
    paths = sorted(others.rglob("*.jpg"))
    rows = [f"{path},{path.parent.name}" for path in paths]
    (tmp_path / "test.csv").write_text("\n".join(["path,label", *rows]))
    by_list = run(photos, tmp_path / "a", random_weights, test=tmp_path / "test.csv", epochs=1)["test"]
    by_folder = run(photos, tmp_path / "b", random_weights, test=others, epochs=1)["test"]
    assert {**by_list, "place": ""} == {**by_folder, "place": ""}


def test_tests_that_measure_nothing_are_refused(
    photos: Path,
    others: Path,
    random_weights: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match=r"Found nothing at '.*nowhere'; --test expects .*Check the path"):
        run(photos, tmp_path / "run", random_weights, test=tmp_path / "nowhere")
    (others / "square").rename(others / "hexagon")
    with pytest.raises(UserError, match=r"classes that the training does not have: 'hexagon'.*expected 'circle'"):
        run(photos, tmp_path / "run", random_weights, test=others)
    shutil.rmtree(others)
    (others / "circle").mkdir(parents=True)
    for content in (b"", b"no photo"):
        (others / "circle" / "a.jpg").write_bytes(content)
        with pytest.raises(UserError, match=r"None of the 1 photos of --test .* can be read"):
            run(photos, tmp_path / "run", random_weights, test=others)
    with pytest.raises(UserError, match=r"All 24 photos of --test .* are trained on or held out, too"):
        run(photos, tmp_path / "run", random_weights, test=photos)
    shutil.copytree(photos, tmp_path / "split" / "train")
    shutil.copytree(photos, tmp_path / "split" / "val")
    with pytest.raises(UserError, match=r"All 24 photos of --test .* are trained on, too; expected others"):
        run(tmp_path / "split", tmp_path / "run", random_weights, test=photos)
    assert not (tmp_path / "run").exists()


def test_maps_of_both_views_are_exactly_the_mean_of_their_scores(
    photos: Path, random_weights: Path, tmp_path: Path
) -> None:
    """mean(map) + bias = mean logit, with the mirror image's maps turned back: what `explain --smooth flips` draws."""
    run(photos, tmp_path / "run", random_weights, epochs=3)
    model = whycam.load(tmp_path / "run", engine="torch")
    path = next(photos.rglob("*.jpg"))
    network = model.classifier.exact_network
    pixels = network.preprocess.to_pixels(load_image(path))
    both = np.stack([pixels, pixels[..., ::-1]])
    mean = torch.as_tensor(model.classifier.scores(both)).mean(0)
    for k in range(3):
        why = model.explain(path, target=k, smooth="flips")
        assert float(why.maps[0].mean() + network.classifier.bias[k].detach()) == pytest.approx(
            float(mean[k]), abs=1e-4
        )


@pytest.mark.parametrize("option", [{"randaugment": 3}, {"ema": 0.9}, {"finetune_decay": 0.8}])
def test_options_of_a_networks_training_are_refused_for_a_frozen_one(
    photos: Path, random_weights: Path, tmp_path: Path, option: dict[str, float]
) -> None:
    word = "--" + next(iter(option)).replace("_", "-")
    with pytest.raises(UserError, match=f"Found {word} for a frozen backbone.*--unfreeze"):
        run(photos, tmp_path / "run", random_weights, **option)
    assert not (tmp_path / "run").exists()
