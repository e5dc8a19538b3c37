"""Evidence while a model is trained: a recorder, and callbacks for the training loops that people have.

A library's callback is one file here, which finds the module and counts epochs; all else is the recorder's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whycam.callbacks.loop import record_epochs
    from whycam.callbacks.recorder import Recorder

__all__ = ["Recorder", "record_epochs"]


def __getattr__(name: str) -> object:
    # At first use: a page of a recording is made without torch.
    if name == "Recorder":
        from whycam.callbacks.recorder import Recorder  # noqa: PLC0415 - torch

        return Recorder
    if name == "record_epochs":
        from whycam.callbacks.loop import record_epochs  # noqa: PLC0415 - torch

        return record_epochs
    raise AttributeError(f"module 'whycam.callbacks' has no attribute {name!r}")
