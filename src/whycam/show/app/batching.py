"""Micro-batches: photos that are asked about at the same time, from any threads, go through an engine together."""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np

from whycam.model.onnx.engine import OnnxEngine

_Call = tuple[np.ndarray, "Future[list[np.ndarray]]"]


class BatchedEngine(OnnxEngine):
    """An engine whose calls wait a moment for each other; one run then answers all of them."""

    def __init__(self, path: Path, threads: int | None = None, *, most: int = 8, wait_s: float = 0.005) -> None:
        """Opens the graph and starts the thread that runs it.

        Args:
            path: what `whycam export` wrote.
            threads: that one run uses; None takes one for each core.
            most: photos a run.
            wait_s: how long the first call of a batch waits for others.
        """
        super().__init__(path, threads)
        self.most, self.wait_s = most, wait_s
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="whycam-engine", daemon=True)
        self._thread.start()

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """See OnnxEngine; blocks until the batch that these images went into is done."""
        future: Future[list[np.ndarray]] = Future()
        self._calls.put((images, future))
        return future.result()

    def close(self) -> None:
        """Ends the thread once all calls are answered."""
        self._calls.put(None)
        self._thread.join()

    def _work(self) -> None:
        is_open = True
        while is_open:
            batch, is_open = self._gather()
            if batch:
                self._answer(batch)

    def _gather(self) -> tuple[list[_Call], bool]:
        """The calls that came within `wait_s` of the first, `most` images or one more call's at the most."""
        call = self._calls.get()
        if call is None:
            return [], False
        batch, count, end = [call], len(call[0]), time.monotonic() + self.wait_s
        while count < self.most:
            try:
                call = self._calls.get(timeout=max(0, end - time.monotonic()))
            except queue.Empty:
                break
            if call is None:
                return batch, False
            batch.append(call)
            count += len(call[0])
        return batch, True

    def _answer(self, batch: list[_Call]) -> None:
        try:
            outputs = super().run(np.concatenate([images for images, _ in batch]))
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to those who wait
            for _, future in batch:
                future.set_exception(error)
            return
        start = 0
        for images, future in batch:
            end = start + len(images)
            future.set_result([values[start:end] for values in outputs])
            start = end
