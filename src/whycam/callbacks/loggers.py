"""Loggers: an epoch's numbers as scalars and overlays as pictures, in the tracker that people already have.

A tracker is one class here with `log(epoch, numbers, pictures)`; its library is imported when it is made.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from whycam.callbacks.installed import make_missing_error
from whycam.errors import UserError


def _import(library: str, module: str) -> Any:
    try:
        importlib.import_module(library)
        return importlib.import_module(module)
    except ImportError as error:
        raise make_missing_error(library, library, "this logger") from error


class TensorBoardLogger:
    """Writes into TensorBoard's files.

    Args:
        where: a folder, or a `SummaryWriter` that is there, such as `lightning`'s `trainer.logger.experiment`.

    Raises:
        UserError: tensorboard is not installed.
    """

    def __init__(self, where: object) -> None:
        module = _import("tensorboard", "torch.utils.tensorboard")
        self.writer: Any = module.SummaryWriter(str(where)) if isinstance(where, str | Path) else where

    def log(self, epoch: int, numbers: Mapping[str, float], pictures: Mapping[str, Image.Image]) -> None:
        """Takes scalars and pictures at the step `epoch`, and writes them out."""
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, epoch)
        for name, picture in pictures.items():
            self.writer.add_image(name, np.asarray(picture), epoch, dataformats="HWC")
        self.writer.flush()


class MlflowLogger:
    """Logs into MLflow's active run, or into one of its own where there is none.

    Args:
        run_id: of another run.

    Raises:
        UserError: mlflow is not installed.
    """

    def __init__(self, run_id: str | None = None) -> None:
        self.mlflow, self.run_id = _import("mlflow", "mlflow"), run_id

    def log(self, epoch: int, numbers: Mapping[str, float], pictures: Mapping[str, Image.Image]) -> None:
        """Takes metrics at the step `epoch`, and pictures as artifacts `whycam/EPOCH/PHOTO.png`."""
        run = self.run_id or (self.mlflow.active_run() or self.mlflow.start_run()).info.run_id
        named = {_to_mlflow(name): value for name, value in numbers.items()}
        self.mlflow.log_metrics(named, step=epoch, run_id=run)
        client = self.mlflow.MlflowClient()
        for name, picture in pictures.items():
            photo = _to_mlflow(name.removeprefix("whycam/")).replace("/", "-")
            client.log_image(run, picture, artifact_file=f"whycam/{epoch:06}/{photo}.png")


def _to_mlflow(name: str) -> str:
    """A name of the letters that MLflow takes."""
    return re.sub(r"[^\w\-. /]", "_", name)


class WandbLogger:
    """Logs into the active run of Weights & Biases.

    Args:
        run: another one.

    Raises:
        UserError: wandb is not installed, or no run was begun.
    """

    def __init__(self, run: Any = None) -> None:
        self.wandb = _import("wandb", "wandb")
        self.run = run if run is not None else self.wandb.run
        if self.run is None:
            raise UserError("Found no run of Weights & Biases; expected one. Call wandb.init(...) first.")
        # Its own steps count batches, or whatever else is logged.
        self.run.define_metric("whycam/epoch")
        self.run.define_metric("whycam/*", step_metric="whycam/epoch")

    def log(self, epoch: int, numbers: Mapping[str, float], pictures: Mapping[str, Image.Image]) -> None:
        """Takes all in one step, over the axis `whycam/epoch`."""
        images = {name: self.wandb.Image(picture) for name, picture in pictures.items()}
        self.run.log({"whycam/epoch": epoch, **numbers, **images})
