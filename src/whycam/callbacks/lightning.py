"""PyTorch Lightning: `Trainer(callbacks=[RecordEvidence(recorder)])`."""

from __future__ import annotations

from whycam.callbacks.installed import make_missing_error
from whycam.callbacks.recorder import Recorder

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise make_missing_error("lightning", "lightning", "this callback") from error


class RecordEvidence(Callback):
    """Records the module before training and after each training epoch, in the main process alone.

    Args:
        recorder: see there.
        part: the dotted name of the submodule that gives scores (N, K); the whole module's `forward` by default.
    """

    def __init__(self, recorder: Recorder, part: str = "") -> None:
        self.recorder, self.part = recorder, part

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records the module as it comes, and tells what is wrong before an epoch is trained."""
        if trainer.is_global_zero:
            self.recorder.begin(pl_module.get_submodule(self.part), trainer.current_epoch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records the epoch that ends."""
        if trainer.is_global_zero:
            self.recorder.record(pl_module.get_submodule(self.part), trainer.current_epoch + 1)
