"""The last layer fitted once more: the weights by hand, the fit against a slow one, and what the worst group gains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from typer.testing import CliRunner

from whycam.cli import app
from whycam.config import make_train_options
from whycam.errors import UserError
from whycam.jobs.train import train
from whycam.train.last_layer import Layer, fit_layer, weigh_groups, weigh_missed
from whycam.train.retrain import Pooled, retrain_groups, retrain_missed, split_folds


def test_groups_weigh_the_same_and_photos_without_one_nothing() -> None:
    weights = weigh_groups(torch.tensor([0, 0, 0, 3, -1, 3, 5]))
    torch.testing.assert_close(weights, torch.tensor([1 / 3, 1 / 3, 1 / 3, 1 / 2, 0, 1 / 2, 1]))


def test_what_is_missed_weighs_more_by_the_paper() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
    labels = torch.tensor([0, 0, 1])
    p = [float(torch.sigmoid(torch.tensor(2.0))), 0.5, float(torch.sigmoid(torch.tensor(2.0)))]
    expected = [2.718281828 ** (-3 * p[0]) / 2, 2.718281828 ** (-1.5) / 2, 2.718281828 ** (-3 * p[2])]
    torch.testing.assert_close(weigh_missed(logits, labels, 3.0, 2), torch.tensor(expected))


def test_the_fit_is_that_of_its_formula() -> None:
    draw = torch.Generator().manual_seed(0)
    pooled, labels = torch.randn(60, 4, generator=draw) * torch.tensor([1.0, 5, 0.1, 0]) + 2, torch.arange(60) % 3
    weights, towards = torch.rand(60, generator=draw), Layer(torch.randn(3, 4, generator=draw), torch.zeros(3))
    found = fit_layer(pooled, labels, weights, towards, decay=0.05)
    spread = pooled.std(dim=0, unbiased=False)

    def measure(layer: Layer) -> Tensor:
        loss = functional.cross_entropy(layer(pooled), labels, reduction="none")
        return (weights / weights.sum() * loss).sum() + 0.05 * ((layer.weight - towards.weight) * spread).square().sum()

    # A feature that never changes keeps its weight; no small step in any other makes the loss less.
    torch.testing.assert_close(found.weight[:, 3], towards.weight[:, 3])
    least = measure(found)
    for _ in range(200):
        weight, bias = torch.randn(3, 4, generator=draw) * 0.03, torch.randn(3, generator=draw) * 0.03
        assert measure(Layer(found.weight + weight, found.bias + bias)) > least


def test_every_class_is_in_every_fold() -> None:
    labels = torch.tensor([0] * 10 + [1] * 7)
    folds = split_folds(labels, 0)
    assert [int(((folds == f) & (labels == 0)).sum()) for f in range(5)] == [2] * 5
    assert {int(f) for f in folds[labels == 1]} == set(range(5))
    assert not torch.equal(folds, split_folds(labels, 1))


def make_photos(seed: int, each: dict[tuple[int, int], int]) -> Pooled:
    """Two classes by a weak sign (feature 0) and, where the word is the class, by a strong one (feature 1)."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.full((count,), label) for (label, _), count in each.items()])
    words = torch.cat([torch.full((count,), word) for (_, word), count in each.items()])
    values = torch.randn(len(labels), 6, generator=draw) * 0.5
    values[:, 0] += labels * 2.0 - 1
    values[:, 1] += 3 * (words * 2.0 - 1)
    return Pooled(values, labels, labels * 2 + words, torch.arange(len(labels)), torch.full_like(labels, -1))


def rate_worst(layer: Layer, photos: Pooled) -> float:
    right = (layer(photos.values).argmax(dim=1) == photos.labels).float()
    return min(float(right[photos.groups == group].mean()) for group in photos.groups.unique())


@pytest.mark.parametrize("way", [retrain_groups, retrain_missed])
def test_the_worst_group_gains(way: Any) -> None:
    biased = {(0, 0): 190, (0, 1): 10, (1, 0): 10, (1, 1): 190}
    train, val, even = make_photos(0, biased), make_photos(1, biased), make_photos(2, dict.fromkeys(biased, 200))
    first = fit_layer(train.values, train.labels, torch.ones(400), Layer(torch.zeros(2, 6), torch.zeros(2)), decay=0.01)
    layer, about = way(first, train, val, 0)
    before, after = rate_worst(first, even), rate_worst(layer, even)
    assert before < 0.75
    assert after > before + 0.15
    assert "worst group" in about["chosen_by"]
    _, without = retrain_missed(
        first, train, Pooled(val.values, val.labels, -torch.ones(400).long(), val.photos, val.causes), 0
    )
    assert "worst class" in without["chosen_by"]


@pytest.fixture(scope="session")
def grouped(shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two shapes, a red square on most photos of one and few of the other; and the CSV that tells which."""
    root = tmp_path_factory.mktemp("grouped")
    lines = ["file,group"]
    for name, rest in (("circle", 0), ("square", 1)):
        for index, path in enumerate(sorted((shapes_folder / name).iterdir())):
            photo, is_marked = Image.open(path).convert("RGB"), (index % 5 == 0) != (rest == 0)
            if is_marked:
                photo.paste((255, 0, 0), (64, 4, 92, 32))
            to = root / "photos" / name / path.name
            to.parent.mkdir(parents=True, exist_ok=True)
            photo.save(to, quality=95)
            lines.append(f"{name}/{path.name},{'marked' if is_marked else 'plain'}")
    (root / "groups.csv").write_text("\n".join(lines))
    return root / "photos", root / "groups.csv"


SMALL = {"backbone": "test_resnet", "image_size": 64, "epochs": 3}


def run(folder: Path, out: Path, weights: Path, **words: Any) -> dict[str, Any]:
    return train(folder, out, make_train_options(**{**SMALL, "weights": weights, **words}))


@pytest.mark.parametrize("head", ["linear", "conv"])
@pytest.mark.parametrize("is_robust", [False, True])
def test_a_run_says_how_each_group_did(
    grouped: tuple[Path, Path], tmp_path: Path, random_weights: Path, head: str, is_robust: bool
) -> None:
    folder, groups = grouped
    summary = run(folder, tmp_path / "a", random_weights, groups=groups, robust=is_robust, head=head)
    each = summary["groups"]["each"]
    assert {(one["class"], one["group"]) for one in each} <= {
        (c, g) for c in ("circle", "square") for g in ("marked", "plain")
    }
    assert sum(one["photos"] for one in each) == summary["data"]["val"]
    assert sum(one["right"] for one in each) == round(summary["val_accuracy"] * summary["data"]["val"])
    assert summary["groups"]["worst"]["accuracy"] == min(one["accuracy"] for one in each)
    assert summary["last_layer"]["chosen_by"] in summary["val_note"]
    assert ("gamma" in summary["last_layer"]) == is_robust
    assert summary["identity_error"] < 1e-4
    again = run(folder, tmp_path / "b", random_weights, groups=groups, robust=is_robust, head=head)
    plain = run(folder, tmp_path / "c", random_weights, head=head)
    weights = [load_file(tmp_path / n / "model" / "model.safetensors")["fc.weight"] for n in "abc"]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert again["last_layer"] == summary["last_layer"]
    assert "groups" not in plain
    assert "last_layer" not in plain


def test_robust_needs_no_groups(grouped: tuple[Path, Path], tmp_path: Path, random_weights: Path) -> None:
    summary = run(grouped[0], tmp_path / "a", random_weights, robust=True, augment=1)
    assert "worst class" in summary["last_layer"]["chosen_by"]
    assert "groups" not in summary


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"robust": True, "unfreeze": "last"}, "--robust beside --unfreeze last; expected a frozen backbone"),
        ({"robust": True, "scratch": True}, "--robust beside --scratch"),
        ({"robust": True, "ignore": "top"}, "--robust beside --ignore; expected one of them"),
        ({"groups": Path("g.csv"), "attend": Path()}, "--groups beside --attend"),
        ({"groups": Path("none.csv")}, "can't be read"),
    ],
)
def test_what_does_not_go_together_is_told(
    grouped: tuple[Path, Path], tmp_path: Path, words: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train(grouped[0], tmp_path / "run", make_train_options(**words))
    assert not (tmp_path / "run").exists()


def test_groups_that_are_the_classes_balance_nothing(grouped: tuple[Path, Path], tmp_path: Path) -> None:
    rows = [f"{path.relative_to(grouped[0])},{path.parent.name}" for path in sorted(grouped[0].rglob("*.jpg"))]
    (tmp_path / "same.csv").write_text("\n".join(["file,group", *rows]))
    with pytest.raises(UserError, match="No class has training photos of two groups"):
        train(grouped[0], tmp_path / "run", make_train_options(groups=tmp_path / "same.csv"))


def test_a_class_without_a_named_photo_would_be_forgotten_and_is_refused(
    grouped: tuple[Path, Path], tmp_path: Path
) -> None:
    rows = [row for row in grouped[1].read_text().splitlines() if not row.startswith("square/")]
    (tmp_path / "part.csv").write_text("\n".join(rows))
    with pytest.raises(UserError, match=r"no training photo of 'square' .1 of 2 classes"):
        train(grouped[0], tmp_path / "run", make_train_options(groups=tmp_path / "part.csv"))


def test_commands_tell_the_worst_group(grouped: tuple[Path, Path], tmp_path: Path, random_weights: Path) -> None:
    folder, groups = grouped
    words = ["--groups", str(groups), "--backbone", "test_resnet", "--image-size", "64", "--epochs", "1"]
    words += ["--weights", str(random_weights), "-o", str(tmp_path / "run")]
    done = CliRunner().invoke(app, ["train", str(folder), *words], catch_exceptions=False)
    worst = json.loads((tmp_path / "run" / "summary.json").read_text())["groups"]["worst"]
    told = f"{worst['accuracy']:.3f} on the {worst['photos']} of the worst group ({worst['class']} / {worst['group']};"
    assert told in done.output
    words = ["evaluate", str(tmp_path / "run"), str(folder), "-o", str(tmp_path / "eval"), "--groups", str(groups)]
    done = CliRunner().invoke(app, [*words, "--metrics", "complexity"], catch_exceptions=False)
    found = json.loads((tmp_path / "eval" / "overall.json").read_text())["groups"]
    assert sum(one["photos"] for one in found["each"]) == len(list(folder.rglob("*.jpg")))
    assert f"The worst group, {found['worst']['class']} / {found['worst']['group']}: accuracy" in done.output
