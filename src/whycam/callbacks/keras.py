"""Keras 3 on torch: `model.fit(..., callbacks=[RecordEvidence(recorder)])`."""

from __future__ import annotations

from torch import nn

from whycam.callbacks.recorder import Recorder
from whycam.callbacks.untouched import leave_untouched
from whycam.model.keras.library import import_keras
from whycam.model.keras.open import read_keras

keras = import_keras()


class RecordEvidence(keras.callbacks.Callback):  # type: ignore[misc,name-defined]  # keras has no types
    """Records the model before training and after each epoch.

    The model is opened as `whycam.load` opens a Keras file: layer by layer, its last softmax or sigmoid taken off.
    Where the recorder is told no `preprocess`, the model's own first layers say it.
    """

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def on_train_begin(self, logs: object = None) -> None:
        """Records the model as it comes, and tells what is wrong before an epoch is trained."""
        with leave_untouched(self.model):
            self.recorder.begin(self._open())

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        """Records the epoch that ends; `fit(initial_epoch=..)` goes on counting in a second call."""
        if (epoch + 1) % self.recorder.every == 0:
            with leave_untouched(self.model):
                self.recorder.record(self._open(), epoch + 1)

    def _open(self) -> nn.Module:
        file = read_keras(self.model)
        if self.recorder.preprocess is None:
            self.recorder.preprocess = file.preprocess
        if self.recorder.image_size is None and file.height_px == file.width_px:
            self.recorder.image_size = file.height_px
        return file.network
