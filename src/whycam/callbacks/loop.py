"""A loop of one's own: `for epoch in record_epochs(recorder, network, 10)`."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from whycam.callbacks.recorder import Recorder


def record_epochs(recorder: Recorder, network: nn.Module, epochs: int, start: int = 0) -> Iterator[int]:
    """Counts epochs from `start` to `epochs` - 1, and records the module before the first and after each.

    The body of the loop trains one epoch. `recorder.record(network, finished)` does the same by hand.

    Raises:
        UserError: see `Recorder.record`.
    """
    recorder.begin(network, start)
    for epoch in range(start, epochs):
        yield epoch
        recorder.record(network, epoch + 1)
