"""Micro-batches: photos that are asked about at the same time, from any threads, are read together."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future

import numpy as np

from whycam.model.onnx.engine import Answer

_Call = tuple[np.ndarray, "Future[Answer]"]


class Batcher:
    """Calls that wait a moment for each other; one reading then answers all of them."""

    def __init__(self, read: Callable[[np.ndarray], Answer], *, most: int = 8, wait_s: float = 0.005) -> None:
        """Starts the thread that reads.

        Args:
            read: pixels of any number of photos -> their answer.
            most: photos that are read together.
            wait_s: how long the first call of a batch waits for others.
        """
        self._read, self.most, self.wait_s = read, most, wait_s
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._sizes: Counter[int] = Counter()
        self._thread = threading.Thread(target=self._work, name="whycam-batches", daemon=True)
        self._thread.start()

    def __call__(self, pixels: np.ndarray) -> Answer:
        """The answer of these pixels; blocks until the batch that they went into is done."""
        future: Future[Answer] = Future()
        self._calls.put((pixels, future))
        return future.result()

    def count_sizes(self) -> Mapping[int, int]:
        """How many batches of how many photos were read up to now."""
        return self._sizes.copy()

    def count_waiting(self) -> int:
        """Calls that are in no batch yet."""
        return self._calls.qsize()

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
            together = np.concatenate([pixels for pixels, _ in batch])
            self._sizes[len(together)] += 1
            answer = self._read(together)
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to those who wait
            for _, future in batch:
                future.set_exception(error)
            return
        start = 0
        for pixels, future in batch:
            end = start + len(pixels)
            future.set_result(Answer(answer.logits[start:end], answer.maps[start:end]))
            start = end
