"""Several processes at one training: the steps of one, one run folder, and a clean end where one is killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from torch.nn import functional

import whycam
from whycam.config import make_train_options
from whycam.errors import UserError
from whycam.jobs.train import train
from whycam.train.draws import split_batches
from whycam.train.ranks import ALONE, Ranks, is_launched, join_ranks


def make_ranks(count: int, total: torch.Tensor | None = None) -> list[Ranks]:
    def make(index: int) -> Ranks:
        return Ranks(
            SimpleNamespace(
                num_processes=count,
                process_index=index,
                is_main_process=index == 0,
                device=torch.device("cpu"),
                reduce=lambda values, reduction: total,
                backward=lambda loss: loss.backward(),
            )
        )

    return [make(index) for index in range(count)]


@pytest.mark.parametrize("class_weight", [None, torch.tensor([0.2, 1.0, 3.0])])
@pytest.mark.parametrize("photos", [7, 8])
def test_averaged_gradients_of_the_parts_are_those_of_the_whole_step(
    class_weight: torch.Tensor | None, photos: int
) -> None:
    draw = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(photos, 5, generator=draw), torch.randint(3, (photos,), generator=draw)
    whole = torch.zeros(3, 5, requires_grad=True)
    functional.cross_entropy(inputs @ whole.T, labels, weight=class_weight).backward()
    total = torch.tensor(float(photos)) if class_weight is None else class_weight[labels].sum()
    parts = []
    for ranks in make_ranks(2, total):
        rows = ranks.share(range(photos))
        weight = torch.zeros(3, 5, requires_grad=True)
        loss = functional.cross_entropy(inputs[rows] @ weight.T, labels[rows], weight=class_weight)
        ranks.backward(loss, labels[rows], class_weight)
        parts.append(weight.grad)
    assert torch.allclose(torch.stack(parts).mean(dim=0), whole.grad, atol=1e-6)


def test_each_photo_of_a_step_goes_to_one_process() -> None:
    for count in (1, 2, 3):
        ranks = make_ranks(count) if count > 1 else [ALONE]
        for batch in split_batches(range(50), 7, ranks[0].least):
            parts = [one.share(batch) for one in ranks]
            assert sorted(row for part in parts for row in part) == batch
            assert min(map(len, parts)) >= 2


def test_a_process_alone_is_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCELERATE_MIXED_PRECISION", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert not is_launched()
    with join_ranks(make_train_options()) as ranks:
        assert ranks is ALONE
        assert ranks.is_first


def test_a_launcher_without_accelerate(shapes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(UserError, match=r"pip install 'whycam\[dist\]'"):
        train(shapes_folder, tmp_path / "run", make_train_options(scratch=True))
    assert not list(tmp_path.iterdir())


def start(folder: Path, out: Path, *flags: str, processes: int = 2) -> subprocess.Popen[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--mixed_precision", "no"]
    words = ["--num_processes", str(processes), "--main_process_port", str(port), "-m", "whycam", "train"]
    env = {**os.environ, "PYTHONPATH": str(Path(whycam.__file__).parents[1]), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *launch, *words, str(folder), "-o", str(out), "--device", "cpu", *flags]
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def read_lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_train_as_one_does(shapes_folder: Path, tmp_path: Path) -> None:
    words = {"image_size": 64, "epochs": 2, "unfreeze": "all", "finetune_epochs": 2, "batch_size": 8}
    alone = train(shapes_folder, tmp_path / "one", make_train_options(**words))
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in words.items()]
    process = start(shapes_folder, tmp_path / "two", *flags)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert out.count("held-out photos") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    together = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert together["val_loss"] == pytest.approx(alone["val_loss"], abs=0.02)
    assert together["data"]["fingerprint"] == alone["data"]["fingerprint"]
    for one, two in zip(read_lines(tmp_path / "one"), read_lines(tmp_path / "two"), strict=True):
        assert (one["phase"], one["epoch"], one["val_photos"]) == (two["phase"], two["epoch"], two["val_photos"])
        assert two["train_loss"] == pytest.approx(one["train_loss"], rel=0.02)
        assert two["val_loss"] == pytest.approx(one["val_loss"], rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["unfreeze", "scratch"])
def test_two_processes_train_on_photos_with_several_classes(
    split_shapes: Path, random_weights: Path, tmp_path: Path, way: str
) -> None:
    """As one does; the photos' ranking, by which the epoch is chosen, is that of all held-out photos together."""
    rows = [
        (path, f"{path.parent.name};{'even' if int(path.stem) % 2 else 'odd'}", path.parent.parent.name)
        for path in sorted(split_shapes.glob("*/*/*.jpg"))
    ]
    place = tmp_path / "list.csv"
    place.write_text("\n".join(["path,labels,split", *(",".join(map(str, row)) for row in rows)]))
    words = {"backbone": "test_resnet", "image_size": 64, "epochs": 2, "finetune_epochs": 2, "batch_size": 8}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in words.items()]
    more = {"scratch": True} if way == "scratch" else {"unfreeze": "all", "weights": random_weights}
    more_flags = ["--scratch"] if way == "scratch" else [f"--{name}={value}" for name, value in more.items()]
    process = start(place, tmp_path / "two", *flags, *more_flags)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert out.count("photos were held out") == out.count("mean AP") == 1
    together = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert together["chosen"]["by"] == "mean AP"
    assert together["val_mean_ap"] == pytest.approx(together["chosen"]["mean_ap"], abs=1e-3)
    assert together["chosen"]["photos"] == together["data"]["val"] == 12
    if way == "unfreeze":
        alone = train(place, tmp_path / "one", make_train_options(**words, **more))
        assert together["val_loss"] == pytest.approx(alone["val_loss"], abs=0.02)
        for one, two in zip(read_lines(tmp_path / "one"), read_lines(tmp_path / "two"), strict=True):
            assert one["val_mean_ap"] == pytest.approx(two["val_mean_ap"], abs=0.1)


@pytest.mark.slow
def test_a_killed_process_ends_the_run_and_resume_goes_on(shapes_folder: Path, tmp_path: Path) -> None:
    words = ["--scratch", "--backbone=test_resnet", "--image-size=64", "--epochs=12", "--patience=0", "--batch-size=8"]
    words += ["--choose-on=val"]
    process = start(shapes_folder, tmp_path / "run", *words)
    partial = tmp_path / "run.partial"
    until = time.monotonic() + 240
    while not (partial / "checkpoints" / "scratch.pt").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.05)
    helper = next(one for one in psutil.Process(process.pid).children() if one.environ().get("RANK") == "1")
    helper.send_signal(signal.SIGKILL)
    process.communicate(timeout=120)
    assert process.returncode not in {0, None}
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == ["run.partial"]
    again = start(shapes_folder, tmp_path / "run", *words, "--resume")
    _, err = again.communicate(timeout=600)
    assert again.returncode == 0, err
    lines = read_lines(tmp_path / "run")
    assert [line["epoch"] for line in lines] == list(range(12))
    # What the processes measured together is what the model that was kept does.
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["val_accuracy"] == pytest.approx(max(line["val_accuracy"] for line in lines))
    assert not partial.exists()


@pytest.mark.slow
def test_what_several_processes_can_not_do(shapes_folder: Path, tmp_path: Path) -> None:
    process = start(shapes_folder, tmp_path / "run", "--scratch", "--batch-size=3")
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "Found --batch-size 3 for 2" in " ".join(err.split())
    assert not list(tmp_path.iterdir())


def test_several_processes_are_not_for_a_frozen_backbone(
    shapes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As each of them finds it: the start of two, which takes half a minute, is the same as above."""
    ended: list[bool] = []
    ranks = make_ranks(2)[1]
    ranks.accelerator.end_training = lambda: ended.append(True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("whycam.train.ranks._open", lambda options: ranks)
    with pytest.raises(UserError, match="Found 2 processes for a frozen backbone, whose features are computed once"):
        train(shapes_folder, tmp_path / "run", make_train_options())
    assert ended
    assert not list(tmp_path.iterdir())
