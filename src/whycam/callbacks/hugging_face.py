"""Hugging Face's Trainer: `Trainer(..., callbacks=[RecordEvidence(recorder)])`."""

from __future__ import annotations

from typing import Any

from torch import nn

from whycam.callbacks.installed import make_missing_error
from whycam.callbacks.recorder import Recorder

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise make_missing_error("transformers", "huggingface", "this callback") from error


class RecordEvidence(TrainerCallback):  # type: ignore[misc]  # its types are not read
    """Records the model before training and after each epoch, in the main process alone."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: nn.Module, **_: Any
    ) -> None:
        """Records the model as it comes, and tells what is wrong before an epoch is trained."""
        if state.is_world_process_zero:
            self.recorder.begin(model, round(state.epoch or 0))

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: nn.Module, **_: Any
    ) -> None:
        """Records the epoch that ends."""
        if state.is_world_process_zero:
            self.recorder.record(model, round(state.epoch or 0))
