"""The recorder in a loop of one's own: training goes on untouched, numbers are right, a folder is whole."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import whycam
from callback_cases import (
    PHOTOS,
    PREPROCESS,
    SIDE_PX,
    assert_goes_on_untouched,
    make_garden,
    make_loader,
    make_net,
    make_recorder,
    read_state,
    train_epoch,
)
from whycam.callbacks import Recorder, record_epochs
from whycam.callbacks.numbers import measure_moved, measure_on_masks
from whycam.callbacks.photos import list_labelled
from whycam.callbacks.recorder import choose_in_turn
from whycam.callbacks.recording import Recording, read_recording
from whycam.callbacks.untouched import leave_untouched
from whycam.data.annotations import Annotation
from whycam.data.garden import FLOWERS
from whycam.errors import UserError
from whycam.made import tell_foreign

NAMES = tuple(sorted(FLOWERS))


@pytest.fixture(scope="module")
def garden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_garden(tmp_path_factory.mktemp("garden"))


@pytest.fixture(scope="module")
def trained(garden: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Sequential, Path]:
    """A network after two epochs, and their recording."""
    out = tmp_path_factory.mktemp("recordings") / "rec"
    net, loader = make_net(), make_loader(garden)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in record_epochs(make_recorder(garden, out), net, 2):
        train_epoch(net, optimizer, loader)
    return net, out


@pytest.fixture(scope="module")
def recording(trained: tuple[nn.Sequential, Path]) -> Recording:
    return read_recording(trained[1])


def test_what_later_epochs_wrote_is_known_as_the_recording_s(recording: Recording) -> None:
    assert len(recording.epochs) > 1
    assert tell_foreign(recording.folder) == ""


def test_training_goes_on_byte_for_byte(garden: Path, tmp_path: Path) -> None:
    def train(is_watched: bool) -> nn.Module:
        net = make_net()
        random.seed(0), np.random.seed(0)
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        recorder = make_recorder(garden, tmp_path / "rec", overwrite=True)
        loader = make_loader(garden)
        for epoch in range(2):
            if is_watched:
                recorder.record(net, epoch)
            train_epoch(net, optimizer, loader)
            # A user's own augmentation draws from these.
            with torch.no_grad():
                net[8].bias += random.random() + np.random.rand()
        return net

    assert_goes_on_untouched(train)


@pytest.mark.parametrize("ends_in", ["linear", "two layers"])
def test_nothing_of_a_module_is_changed(garden: Path, tmp_path: Path, ends_in: str) -> None:
    net = make_net()
    if ends_in == "two layers":  # no exact maps: Grad-CAM takes gradients
        net = nn.Sequential(*net[:8], nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, len(FLOWERS)))
    net.train()
    net[1].eval()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    train_epoch(net, optimizer, make_loader(garden))
    net[1].eval()

    def look() -> dict[str, Any]:
        return {
            "state": read_state(net),
            "modes": [part.training for part in net.modules()],
            "needs": [one.requires_grad for one in net.parameters()],
            "grads": [None if one.grad is None else one.grad.numpy().tobytes() for one in net.parameters()],
            "hooks": [
                (len(p._forward_hooks), len(p._forward_pre_hooks), len(p._backward_hooks)) for p in net.modules()
            ],
            "random": (torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes(), random.getstate()),
            "modes of torch": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        }

    before, grads = look(), [one.grad for one in net.parameters()]
    make_recorder(garden, tmp_path / "rec").record(net, 0)
    assert look() == before
    assert all(one.grad is grad for one, grad in zip(net.parameters(), grads, strict=True))
    told = read_recording(tmp_path / "rec").epochs[0]
    assert told["method"] == ("cam" if ends_in == "linear" else "grad-cam")


def test_a_module_is_put_back_after_an_error_too() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, images: Tensor) -> Tensor:
            self.calls += 1
            return images

    net = nn.Sequential(Counting(), nn.Linear(2, 2)).train()

    def ask() -> None:
        with leave_untouched(net):
            net.requires_grad_(False).eval()
            net(torch.rand(1, 2))
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        ask()
    assert float(net[0].calls) == 0
    assert net.training
    assert net[1].weight.requires_grad


def test_maps_and_scores_are_those_of_explain(
    trained: tuple[nn.Sequential, Path], recording: Recording, garden: Path
) -> None:
    net, _ = trained
    model = whycam.load(net, preprocess=PREPROCESS, class_names=NAMES, engine="torch")
    last = recording.read(recording.epochs[-1])
    assert last.epoch == 2
    assert len(last.maps) == PHOTOS
    for row, values, logits in zip(recording.about["photos"], last.maps, last.logits, strict=True):
        why = model.explain(garden / "photos" / row["name"], target=row["class"])
        assert why.record["method"] == recording.epochs[-1]["method"] == "cam"
        np.testing.assert_allclose(values, why.maps[0].numpy(), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(logits, why.logits[0].numpy(), rtol=1e-4, atol=1e-6)
        bias = float(net[8].bias[row["class"]])
        assert values.mean() + bias == pytest.approx(logits[row["class"]], abs=1e-5)


def test_numbers_are_those_of_a_slow_reference(recording: Recording, garden: Path) -> None:
    before = None
    for line in recording.epochs:
        shot = recording.read(line)
        shares, moves, right = {}, {}, {}
        for i, row in enumerate(recording.about["photos"]):
            name = NAMES[row["class"]]
            right.setdefault(name, []).append(int(np.argmax(shot.logits[i])) == row["class"])
            positive = np.maximum(shot.maps[i], 0)
            if before is not None and positive.sum() and np.maximum(before[i], 0).sum():
                then = np.maximum(before[i], 0)
                cells = zip((positive / positive.sum()).flat, (then / then.sum()).flat, strict=True)
                moves.setdefault(name, []).append(1 - sum(min(p, q) for p, q in cells))
            heat = torch.nn.functional.interpolate(
                torch.from_numpy(shot.maps[i])[None, None], (SIDE_PX, SIDE_PX), mode="bilinear"
            )[0, 0].clamp(min=0)
            mask = Annotation(Path(), mask=(garden / "masks" / row["name"]).with_suffix(".png"))
            region = torch.tensor(mask.fit((64, 64), (SIDE_PX, SIDE_PX)).region)
            if heat.sum():
                shares.setdefault(name, []).append(float(heat[region].sum() / heat.sum()))
        for key, found in (("accuracy", right), ("on_masks", shares), ("moved", moves)):
            for name in NAMES:
                expected = np.mean(found[name]) if name in found else None
                told = line[f"{key}_by_class"][name]
                assert told == (None if expected is None else pytest.approx(expected, abs=1e-5)), (key, name)
            everything = [value for values in found.values() for value in values]
            assert line[key] == (pytest.approx(np.mean(everything), abs=1e-5) if everything else None)
        before = shot.maps
    assert [line["epoch"] for line in recording.epochs] == [0, 1, 2]
    assert recording.epochs[0]["moved"] is None
    assert recording.epochs[1]["moved"] > 0


def test_evidence_moves_from_nothing_to_all() -> None:
    left, right = np.zeros((2, 1, 2, 2), np.float32)
    left[0, :, 0], right[0, :, 1] = 1, 5
    assert measure_moved(left, left) == 0
    assert measure_moved(left, 7 * left) == 0
    assert measure_moved(left, left - 3 * right) == 0  # what speaks against does not count
    assert measure_moved(left, right) == 1
    assert measure_moved(left, left / 2 + right / 10) == pytest.approx(0.5)
    assert np.isnan([measure_moved(left, -right), measure_moved(-left, right), measure_moved(left, None)]).all()
    assert np.isnan(measure_moved(left, np.ones((1, 3, 3)))).all()


def test_heat_on_masks_counts_what_is_there() -> None:
    maps, half = np.ones((3, 2, 2), np.float32), np.zeros((4, 4), bool)
    half[:2] = True
    maps[2] = -1
    shares = measure_on_masks(maps, [half, None, half])
    assert shares[0] == pytest.approx(0.5)
    assert np.isnan(shares[1:]).all()


def test_every_second_epoch_and_pictures_in_turn(garden: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int, dict[str, float]]] = []

    class Kept:
        def log(self, epoch: int, numbers: Mapping[str, float], pictures: Mapping[str, Image.Image]) -> None:
            seen.append((epoch, len(pictures), dict(numbers)))
            assert all(max(picture.size) <= 360 for picture in pictures.values())

    recorder = make_recorder(garden, tmp_path / "rec", every=2, loggers=[Kept()], logged_pictures=3)
    for epoch in range(5):
        recorder.record(make_net(epoch), epoch)
    assert [(epoch, pictures) for epoch, pictures, _ in seen] == [(0, 3), (2, 3), (4, 3)]
    lines = read_recording(tmp_path / "rec").epochs
    assert [line["epoch"] for line in lines] == [0, 2, 4]
    assert seen[-1][2]["whycam/moved"] == lines[-1]["moved"]
    assert seen[-1][2][f"whycam/accuracy_by_class/{NAMES[0]}"] == lines[-1]["accuracy_by_class"][NAMES[0]]
    assert choose_in_turn(np.array([0, 0, 0, 1, 2, 2]), 4) == [0, 3, 4, 1]


def test_a_kill_leaves_the_epochs_before(garden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = make_recorder(garden, tmp_path / "rec")
    recorder.record(make_net(0), 0)

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("whycam.callbacks.recording.write_lines", kill)
        with pytest.raises(KeyboardInterrupt):
            recorder.record(make_net(1), 1)
    found = read_recording(tmp_path / "rec")
    assert [line["epoch"] for line in found.epochs] == [0]
    assert found.read(found.epochs[0]).maps.any()

    again = make_recorder(garden, tmp_path / "rec", resume=True)
    again.begin(make_net(0), 0)
    again.record(make_net(1), 1)
    other = make_recorder(garden, tmp_path / "rec", resume=True)
    other.record(make_net(2), 2)
    found = read_recording(tmp_path / "rec")
    assert [line["epoch"] for line in found.epochs] == [0, 1, 2]
    maps = [found.read(line).maps for line in found.epochs]
    assert found.epochs[2]["moved"] == pytest.approx(np.nanmean(measure_moved(maps[2], maps[1])))
    assert not list(tmp_path.rglob("*.part*"))


def test_an_epoch_cannot_come_twice(garden: Path, tmp_path: Path) -> None:
    recorder = make_recorder(garden, tmp_path / "rec")
    recorder.record(make_net(), 1)
    recorder.begin(make_net())  # a second fit of the same training
    with pytest.raises(UserError, match=r"Epoch 1 was to be recorded .* after epoch 1; .* Make a new Recorder"):
        recorder.record(make_net(), 1)
    with pytest.raises(UserError, match=r"rec' is there already \(a recording, .* resume=True"):
        make_recorder(garden, tmp_path / "rec").begin(make_net())
    for how in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(UserError, match=r"photos' is there already \(no recording\); expected a new name"):
            make_recorder(garden, garden / "photos", **how).begin(make_net())


def test_what_is_recorded_again_is_told(garden: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = make_recorder(garden, tmp_path / "rec")
    for epoch in range(3):
        first.record(make_net(epoch), epoch)
    make_recorder(garden, tmp_path / "rec", resume=True).record(make_net(1), 1)
    assert "goes on at epoch 1: 2 epochs that it had from there to 2 are recorded again" in caplog.text
    assert [line["epoch"] for line in read_recording(tmp_path / "rec").epochs] == [0, 1]


@pytest.mark.parametrize(
    ("network", "epoch", "how", "words"),
    [
        ("net", 0, {}, "Found str to record; expected the torch module"),
        (make_net(), "x", {}, "The epoch is 'x'; expected a whole number"),
        (make_net(), -1, {}, "The epoch is -1; expected a whole number"),
        (make_net(), 0, {"every": "2"}, "every is '2'; expected 1 or more"),
        (make_net(), 0, {"loggers": ["tb"]}, "Found the logger 'tb'; expected one of"),
    ],
)
def test_what_is_asked_wrongly_is_told_before_anything_is_written(  # noqa: PLR0917 - cases and fixtures
    garden: Path, tmp_path: Path, network: Any, epoch: Any, how: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        make_recorder(garden, tmp_path / "rec", **how).record(network, epoch)
    assert not (tmp_path / "rec").exists()


def test_a_recording_of_other_photos_is_not_gone_on_with(garden: Path, tmp_path: Path) -> None:
    make_recorder(garden, tmp_path / "rec").begin(make_net())
    few = {path: path.parent.name for path in sorted((garden / "photos/val").glob("*/0000.jpg"))}
    other = Recorder(few, tmp_path / "rec", preprocess=PREPROCESS, class_names=NAMES, resume=True)
    with pytest.raises(UserError, match="a recording of other photos or classes"):
        other.begin(make_net())


def test_photos_that_cannot_be_read_are_told_and_the_rest_goes_on(garden: Path, tmp_path: Path) -> None:
    shutil.copytree(garden / "photos/val", tmp_path / "photos")
    broken = tmp_path / "photos" / NAMES[0] / "0000.jpg"
    broken.write_bytes(b"no photo")
    shutil.copytree(garden / "masks/val", tmp_path / "masks")
    Image.new("L", (5, 5), 255).save(tmp_path / "masks" / NAMES[1] / "0000.png")
    recorder = Recorder(tmp_path / "photos", tmp_path / "rec", preprocess=PREPROCESS, masks=tmp_path / "masks")
    recorder.begin(make_net())
    found = read_recording(tmp_path / "rec")
    assert found.epochs[0]["photos"] == PHOTOS - 1
    assert [row["name"] for row in found.about["unreadable"]] == [f"{name}/0000.jpg" for name in NAMES[:2]]
    assert "another size" in found.about["unreadable"][1]["why"]
    for path in (tmp_path / "photos").glob("*/*.jpg"):
        path.write_bytes(b"no photo")
    with pytest.raises(UserError, match=f"Not one of the {PHOTOS} photos could be read"):
        Recorder(tmp_path / "photos", tmp_path / "none", preprocess=PREPROCESS).begin(make_net())
    assert not (tmp_path / "none").exists()


def test_what_a_user_can_put_right_is_told_before_training(garden: Path, tmp_path: Path) -> None:
    def begin(net: nn.Module, **how: Any) -> None:
        make_recorder(garden, tmp_path / "rec", **how).begin(net)

    strange = tmp_path / "masks"
    strange.mkdir()
    Image.new("L", (64, 64), 255).save(strange / "other.png")
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE_PX**2, 8), nn.ReLU(), nn.Linear(8, len(FLOWERS)))
    with pytest.raises(UserError, match="cells"):
        begin(flat)
    with pytest.raises(UserError, match=r"has 2 class names|Unknown class of a photo"):
        begin(make_net(), class_names=NAMES[:2])
    wide = nn.Sequential(*make_net()[:8], nn.Linear(16, 7))
    with pytest.raises(UserError, match=f"class_names has {len(NAMES)} class names; 'Sequential' has 7 outputs"):
        begin(wide)
    with pytest.raises(UserError, match="every is 0; expected 1 or more"):
        begin(make_net(), every=0)
    with pytest.raises(UserError, match="does not say how its photos were prepared"):
        begin(make_net(), preprocess=None)
    with pytest.raises(UserError, match="none of the name of a photo"):
        begin(make_net(), masks=strange)
    assert not (tmp_path / "rec").exists()


def test_labels_are_checked(garden: Path) -> None:
    photo = next((garden / "photos/val").glob("*/*.jpg"))
    assert list_labelled({photo: 1}, ["a", "b"], None).truths == (1,)
    assert list_labelled({photo: "b", str(photo) + "2": "a"}, None, None).class_names == ("a", "b")
    with pytest.raises(UserError, match="has the class 2; expected 0 to 1"):
        list_labelled({photo: 2}, ["a", "b"], None)
    with pytest.raises(UserError, match="Unknown class of a photo 'c'"):
        list_labelled({photo: "c"}, ["a", "b"], None)
    with pytest.raises(UserError, match="Found no photos to watch"):
        list_labelled({}, ["a"], None)
    with pytest.raises(UserError, match="without class folders"):
        list_labelled(photo.parent, ["a"], None)


def test_a_damaged_recording_is_told(trained: tuple[nn.Sequential, Path], tmp_path: Path) -> None:
    shutil.copytree(trained[1], tmp_path / "rec")
    found = read_recording(tmp_path / "rec" / "recording.json")
    place = tmp_path / "rec" / found.epochs[1]["maps"]
    whole = place.read_bytes()
    with np.load(place) as arrays:
        fewer = {name: arrays[name][:-1] for name in arrays}
    middle = len(whole) // 2
    for content in (b"PK", b"", b"no maps", whole[:-30], whole[:middle], whole[:50] + b"\x7f" * 40 + whole[90:]):
        place.write_bytes(content)
        with pytest.raises(
            UserError, match=r"1.npz' .* the maps of epoch 1 \(it is damaged, or cut off\); .* Take the"
        ):
            found.read(found.epochs[1])
    np.savez(place, **fewer)
    with pytest.raises(UserError, match=r"epoch 1 \(it is not of \d+ photos and \d+ classes\)"):
        found.read(found.epochs[1])
    place.unlink()
    with pytest.raises(UserError, match=r"epoch 1 \(No such file or directory\)"):
        found.read(found.epochs[1])
    (tmp_path / "rec" / "epochs.jsonl").write_text(json.dumps({"epoch": 1}))
    with pytest.raises(UserError, match="can't be read as a recording's epochs"):
        read_recording(tmp_path / "rec")
    (tmp_path / "rec" / "epochs.jsonl").write_text("")
    with pytest.raises(UserError, match="has no epoch yet"):
        read_recording(tmp_path / "rec")
