"""Causes exchanged between photos: how each kind is given and taken, who gives, and what training makes of it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import whycam
from whycam.cli import app
from whycam.config import make_train_options
from whycam.data.exchange import Exchange, PropertyChange, RegionChange, SignChange, find_shortcut, make_exchange
from whycam.data.folder import PhotoFolder, Sample, read_folder
from whycam.data.preprocess import Preprocess
from whycam.data.regions import Regions
from whycam.errors import UserError
from whycam.jobs.train import train
from whycam.maps.objects import Seen
from whycam.mend.cures import GroundChange
from whycam.train.last_layer import Layer, Stillness, fit_layer

SIZE = (96, 96)


@pytest.fixture(scope="session")
def dark_folder(shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shapes in two classes that nothing tells apart but the light: those of one are darkened."""
    root = tmp_path_factory.mktemp("light")
    for index, path in enumerate(sorted(shapes_folder.rglob("*.jpg"))):
        name = "dark" if index % 2 else "light"
        to = root / name / f"{path.parent.name}-{path.name}"
        to.parent.mkdir(parents=True, exist_ok=True)
        photo = Image.open(path).convert("RGB")
        (darken(photo) if index % 2 else photo).save(to, quality=95)
    return root


def darken(photo: Image.Image) -> Image.Image:
    return photo.point(lambda value: value // 6)


def write_audit(path: Path, **about: Any) -> Path:
    shortcut = {"id": "shortcut-1", "kind": "shortcut", "class": "dark", "region": None, "photos": [], "numbers": {}}
    path.write_text(json.dumps({"findings": [shortcut | about, {"id": "label-1", "kind": "label"}]}))
    return path


def read(audit: Path, folder: PhotoFolder, key: str = "shortcut-1") -> Exchange:
    return make_exchange(find_shortcut(f"{audit}#{key}"), folder, SIZE, 0, lambda: PropertyChange("none"))


def test_half_of_the_donors_know_the_cause_and_the_other_classes_share_the_rest(shapes_folder: Path) -> None:
    folder = read_folder(shapes_folder)
    exchange = Exchange(folder.train, 1, PropertyChange("brightness"), 0)
    label_of = {sample.path: sample.label for sample in folder.train}
    pairs = Counter((s.label, label_of[exchange.find_donor(s.path, v)]) for s in folder.samples for v in range(100))
    for label in range(3):
        shares = [pairs[label, donor] / sum(pairs[label, d] for d in range(3)) for donor in range(3)]
        assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.05)


def test_a_level_is_given_both_ways_and_what_is_lost_stays_lost(dark_folder: Path, tmp_path: Path) -> None:
    light, dark = (sorted((dark_folder / name).iterdir())[0] for name in ("light", "dark"))
    change = PropertyChange("brightness")
    means = {path: np.asarray(Image.open(path)).mean() for path in (light, dark)}
    assert np.asarray(change(light, dark)).mean() == pytest.approx(means[dark], rel=0.1)
    assert np.asarray(change(dark, light)).mean() == pytest.approx(means[light], rel=0.2)
    Image.open(light).save(tmp_path / "poor.jpg", quality=8)
    poor, change = tmp_path / "poor.jpg", PropertyChange("jpeg-quality")
    assert (np.asarray(change(poor, light)) == np.asarray(Image.open(poor))).all()
    remade = np.asarray(change(light, poor)).astype(int)
    assert np.abs(remade - np.asarray(Image.open(light))).mean() > 3


def test_a_region_comes_from_the_donor(shapes_folder: Path) -> None:
    one, other = sorted((shapes_folder / "circle").iterdir())[:2]
    change = RegionChange(Regions(((0.5, 0, 1, 0.5),)), SIZE)
    mine, theirs, mixed = (np.asarray(image) for image in (Image.open(one), Image.open(other), change(one, other)))
    assert (mixed[:48, 48:] == theirs[:48, 48:]).all()
    assert (mixed[48:] == mine[48:]).all()


def test_a_sign_is_cut_out_and_laid_on_photos_of_other_classes(tmp_path: Path) -> None:
    grey, signed = tmp_path / "grey.png", tmp_path / "signed.png"
    Image.new("RGB", SIZE, (90, 90, 90)).save(grey)
    photo = Image.new("RGB", SIZE, (10, 200, 10))
    photo.paste((255, 0, 0), (10, 10, 30, 30))
    photo.save(signed)
    change = SignChange(((signed, (10 / 96, 10 / 96, 30 / 96, 30 / 96)),), frozenset([signed]), SIZE)
    given = np.asarray(change(grey, signed))
    assert 390 <= (given == (255, 0, 0)).all(axis=2).sum() <= 420
    assert (np.asarray(change(signed, grey)) == np.asarray(photo)).all()
    assert (np.asarray(change(grey, grey)) == 90).all()
    other = tmp_path / "other.png"
    Image.new("RGB", SIZE, (90, 90, 90)).save(other)
    assert (np.asarray(change(other, signed)) != given).any()


@pytest.mark.parametrize(
    ("about", "kind"),
    [
        ({"numbers": {"found_by": "property", "property": "brightness"}}, PropertyChange),
        ({"region": {"name": "corner", "boxes": [[0, 0, 0.2, 0.2]]}, "numbers": {"found_by": "mark"}}, RegionChange),
        ({"numbers": {"found_by": "stamp"}, "photos": [{"path": "{}", "boxes": [[0, 0, 0.2, 0.2]]}]}, SignChange),
    ],
)
def test_every_kind_of_finding_has_its_exchange(
    about: dict[str, Any], kind: type, dark_folder: Path, tmp_path: Path
) -> None:
    photo = str(next((dark_folder / "dark").iterdir()))
    about = json.loads(json.dumps(about).replace("{}", photo))
    folder = read_folder(dark_folder)
    exchange = read(write_audit(tmp_path / "audit.json", **about), folder)
    assert isinstance(exchange.change, kind)
    assert folder.class_names[exchange.label or 0] == "dark"
    hashes = {sample.path: sample.path.name for sample in folder.samples}
    other = Exchange(folder.train, exchange.label, PropertyChange("noise"), 0)
    words = [[one.word(s.path, 0, hashes) for s in folder.train] for one in (exchange, exchange, other)]
    assert words[0] == words[1]
    assert not set(words[0]) & set(words[2])


@pytest.mark.parametrize(
    ("key", "about", "parts"),
    [
        ("none", {}, ("'none', which is not among the findings", "shortcut-1", "Write")),
        ("label-1", {}, ("is of the kind 'label'", "expected a shortcut: shortcut-1")),
        ("shortcut-1", {"class": "tulips"}, ("the class 'tulips'", "dark, light", "the same classes")),
        ("shortcut-1", {}, ("says no place", "--groups", "--robust")),
        ("shortcut-1", {"numbers": {"property": "camera"}}, ("no property that photos can be given",)),
    ],
)
def test_what_can_not_be_exchanged_is_told(
    key: str, about: dict[str, Any], parts: tuple[str, ...], dark_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        read(write_audit(tmp_path / "audit.json", **about), read_folder(dark_folder), key)
    for part in parts:
        assert part in str(caught.value)


def test_what_should_change_nothing_loses_its_say_also_where_it_was_never_seen_changed() -> None:
    """Class 1 always has the cause and its photos can't lose it; the others' views teach the layer to be deaf to it."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 2
    values = torch.randn(400, 6, generator=draw) * 0.5
    values[:, 0] += labels * 2.0 - 1
    even = values.clone()
    values[:, 1] += 4 * labels
    nothing, ones = Layer(torch.zeros(2, 6), torch.zeros(2)), torch.ones(400)
    changes = torch.zeros(200, 6)
    changes[:, 1] = 4
    before = fit_layer(values, labels, ones, nothing, decay=0.01)
    after = fit_layer(values, labels, ones, nothing, decay=0.01, still=Stillness(changes, torch.ones(200) / 200))
    accuracy = [float((layer(even).argmax(dim=1) == labels).float().mean()) for layer in (before, after)]
    assert accuracy[0] < 0.8
    assert accuracy[1] > 0.9


def run(folder: Path, out: Path, **words: Any) -> dict[str, Any]:
    return train(folder, out, make_train_options(**{"image_size": 96, "epochs": 8, **words}))


def test_the_light_loses_its_say(dark_folder: Path, tmp_path: Path) -> None:
    """Without the option the light alone decides; with it, it changes little."""
    audit = write_audit(tmp_path / "audit.json", numbers={"found_by": "property", "property": "brightness"})
    photos = [Image.open(path) for path in sorted((dark_folder / "light").iterdir())]
    effects = {}
    for name, words in (("before", {}), ("after", {"against": f"{audit}#shortcut-1"})):
        summary = run(dark_folder, tmp_path / name, **words)
        model = whycam.load(tmp_path / name, engine="torch")
        plain, dark = (model.explain(shown).probabilities[:, 0] for shown in (photos, [darken(p) for p in photos]))
        effects[name] = float((dark - plain).mean())
    assert effects["before"] > 0.4
    assert abs(effects["after"]) < 0.3 * effects["before"]
    assert summary["last_layer"]["changed_after"] <= summary["last_layer"]["changed_before"]
    assert summary["identity_error"] < 1e-4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"robust": True}, "--against beside --robust"),
        ({"augment": 2}, "--against beside --augment 2"),
        ({"ignore": "top"}, "--against beside --ignore"),
        ({"scratch": True}, "--against beside --scratch"),
    ],
)
def test_what_does_not_go_together_is_told(
    dark_folder: Path, tmp_path: Path, words: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(dark_folder, tmp_path / "run", against="audit.json#shortcut-1", **words)


def test_a_donor_that_can_not_be_decoded_gives_nothing(dark_folder: Path, tmp_path: Path, random_weights: Path) -> None:
    for path in dark_folder.rglob("*.jpg"):
        to = tmp_path / "photos" / path.relative_to(dark_folder)
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(path.read_bytes())
    broken = sorted((tmp_path / "photos" / "dark").iterdir())[0]
    broken.write_bytes(broken.read_bytes()[:700])
    audit = write_audit(tmp_path / "audit.json", numbers={"property": "brightness"})
    words = ["--against", f"{audit}#shortcut-1", "--backbone", "test_resnet", "--image-size", "64", "--epochs", "1"]
    words += ["--weights", str(random_weights), "-o", str(tmp_path / "run")]
    done = CliRunner().invoke(app, ["train", str(tmp_path / "photos"), *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert list(summary["data"]["unreadable"]) == [str(broken)]
    told = f"With the cause exchanged, {summary['last_layer']['changed_after']:.1%} of held-out photos change"
    assert told in done.output


def test_samples_of_one_class_alone_give_to_each_other() -> None:
    samples = tuple(Sample(Path(f"{k}.jpg"), 0) for k in range(3))
    exchange = Exchange(samples, 0, PropertyChange("noise"), 0)
    assert {exchange.find_donor(Path("a/0.jpg"), view) for view in range(60)} == {s.path for s in samples}


def test_an_object_comes_before_the_donors_ground(tmp_path: Path) -> None:
    """Objects as a network finds them: here it is told where they are."""
    for name, (ground, thing) in {"host": (40, (255, 0, 0)), "donor": (200, (0, 255, 0))}.items():
        photo = Image.new("RGB", (64, 64), (ground, ground, ground))
        photo.paste(thing, (24, 24, 40, 40))
        photo.save(tmp_path / f"{name}.png")
    heat = np.zeros((1, 20, 20), np.float32)
    heat[:, 7:13, 7:13] = 1

    class Told:
        def see(self, pixels: np.ndarray) -> Any:
            yield Seen(np.zeros((1, 2)), np.zeros((1, 2, 7, 7)), heat)

    preprocess = Preprocess(height_px=64, width_px=64, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear")
    change = GroundChange(preprocess, Told())  # type: ignore[arg-type]
    mixed = np.asarray(change(tmp_path / "host.png", tmp_path / "donor.png"))
    assert (np.abs(mixed[30:34, 30:34] - np.array([255.0, 0, 0])) < 20).all()
    assert (mixed[:10] == 200).all()
    assert not ((mixed[..., 1] > 220) & (mixed[..., 0] < 100)).any()
    heat[:] = 0
    blind = GroundChange(preprocess, Told())  # type: ignore[arg-type]
    assert (np.asarray(blind(tmp_path / "host.png", tmp_path / "donor.png"))[:10] == 40).all()
