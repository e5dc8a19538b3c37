"""fastai: `Learner(..., cbs=RecordEvidence(recorder))`, or `learn.fit(2, cbs=RecordEvidence(recorder))`."""

from __future__ import annotations

from whycam.callbacks.installed import make_missing_error
from whycam.callbacks.recorder import Recorder

try:
    from fastai.callback.core import Callback
except ImportError as error:
    raise make_missing_error("fastai", "fastai", "this callback") from error


class RecordEvidence(Callback):  # type: ignore[misc]  # fastai has no types
    """Records the model before training and after each epoch; epochs are counted over several calls of fit."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder, self.finished = recorder, 0

    def before_fit(self) -> None:
        """Records the model as it comes; not when fastai looks for a learning rate, or predicts."""
        self.run = not hasattr(self.learn, "lr_finder") and not hasattr(self, "gather_preds")
        if self.run:
            self.recorder.begin(self.learn.model)

    def after_epoch(self) -> None:
        """Records the epoch that ends."""
        self.finished += 1
        self.recorder.record(self.learn.model, self.finished)
