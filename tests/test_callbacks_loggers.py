"""The loggers, each with its real library and without the network: what a recorder's training leaves in them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from callback_cases import make_garden, make_loader, make_net, make_recorder, train_epoch
from whycam.callbacks import loggers, record_epochs
from whycam.callbacks.recorder import Logger
from whycam.callbacks.recording import Recording, read_recording
from whycam.errors import UserError

PICTURES = 3


@pytest.fixture(scope="module")
def garden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_garden(tmp_path_factory.mktemp("garden"))


def train_two(garden: Path, out: Path, logger: Logger) -> Recording:
    """The recording of a training of two epochs that the logger was told of, too."""
    net = make_net()
    optimizer, loader = torch.optim.SGD(net.parameters(), lr=0.1), make_loader(garden)
    recorder = make_recorder(garden, out, loggers=[logger], logged_pictures=PICTURES)
    for _ in record_epochs(recorder, net, 2):
        train_epoch(net, optimizer, loader)
    return read_recording(out)


def test_tensorboard(garden: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    lines = train_two(garden, tmp_path / "rec", loggers.TensorBoardLogger(tmp_path / "board")).epochs
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    told = [(one.step, one.value) for one in events.Scalars("whycam/on_masks")]
    assert told == [(line["epoch"], pytest.approx(line["on_masks"], rel=1e-6)) for line in lines]
    assert [one.step for one in events.Scalars("whycam/moved")] == [1, 2]
    assert "whycam/accuracy_by_class/rose" in events.Tags()["scalars"]
    pictures = events.Tags()["images"]
    assert len(pictures) == PICTURES
    assert all((one.width, one.height) == (64, 64) for one in events.Images(pictures[0]))
    assert [one.step for one in events.Images(pictures[0])] == [0, 1, 2]


def test_mlflow(garden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a folder: the lean package has no database
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    try:
        with mlflow.start_run() as run:
            lines = train_two(garden, tmp_path / "rec", loggers.MlflowLogger()).epochs
        client = mlflow.MlflowClient()
        told = client.get_metric_history(run.info.run_id, "whycam/accuracy")
        assert [(one.step, one.value) for one in told] == [(line["epoch"], line["accuracy"]) for line in lines]
        folder = client.list_artifacts(run.info.run_id, "whycam/000002")
        assert sorted(Path(one.path).name for one in folder)[0] == "val-daisy-0000.jpg.png"
        assert len(folder) == PICTURES
    finally:
        mlflow.set_tracking_uri(before)


def test_names_that_mlflow_takes() -> None:
    assert loggers._to_mlflow("whycam/accuracy_by_class/a+b (c): תות") == "whycam/accuracy_by_class/a_b _c__ תות"


def test_wandb(garden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    with pytest.raises(UserError, match=r"Found no run of Weights & Biases; .*wandb.init"):
        loggers.WandbLogger()
    run = wandb.init(mode="offline", dir=tmp_path, project="whycam")
    try:
        lines = train_two(garden, tmp_path / "rec", loggers.WandbLogger()).epochs
        assert run.summary["whycam/epoch"] == 2
        assert run.summary["whycam/moved"] == pytest.approx(lines[-1]["moved"])
    finally:
        run.finish()
    media = list(tmp_path.glob("wandb/offline-run-*/files/media/**/*.png"))
    assert len(media) == PICTURES * len(lines)


@pytest.mark.parametrize(
    ("make", "library"),
    [
        (lambda: loggers.TensorBoardLogger("board"), "tensorboard"),
        (loggers.MlflowLogger, "mlflow"),
        (loggers.WandbLogger, "wandb"),
    ],
)
def test_a_logger_that_is_not_installed_is_told(make: object, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=rf"{library} is not installed, .*pip install 'whycam\[{library}\]'"):
        make()
