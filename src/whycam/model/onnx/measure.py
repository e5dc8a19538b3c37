"""What a graph's outputs hold, by their numbers: logits or probabilities, and whether maps are the scores' own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import numpy as np

from whycam.model.onnx.engine import IDENTITY_LIMIT
from whycam.model.onnx.maps import MAPS
from whycam.model.onnx.runner import Runner, tell

Output = Literal["logits", "softmax", "sigmoid"]
# In half precision a graph's own scores are no finer than this part of their range.
HALF_LIMIT = 1e-2
# In the order of the image at most an eighth of a network's cells lies elsewhere, in another order half and more.
_MOST_AWAY = 0.25
# Two runs of the same images, one by one and together, differ by summation order alone.
_BATCH_LIMIT = 1e-3


@dataclass(frozen=True)
class Scores:
    """What a graph's output was measured to hold.

    Attributes:
        name: the tensor that is explained: the logits, where the graph has them.
        output: what the file gives: logits; probabilities of one class (softmax) or of several (sigmoid).
        is_logits: whether logits are explained; else the file's own probabilities.
    """

    name: str
    output: Output
    is_logits: bool

    def to_probabilities(self, scores: np.ndarray) -> np.ndarray:
        """(B, K) float32 of the tensor's values (B, K): the file's own; a softmax where it gives logits alone."""
        if not self.is_logits:
            return scores
        values = scores.astype(np.float64)
        is_several = self.output == "sigmoid" or values.shape[1] == 1
        return np.asarray(_sigmoid(values) if is_several else _softmax(values), dtype=np.float32)


def measure_scores(runner: Runner, images: np.ndarray, own: str, logits: str, activation: str) -> Scores:
    """What the output `own` holds; the activation is taken off where it was measured to make `own` of `logits`."""
    given, before = (flatten_scores(value).astype(np.float64) for value in runner.run(images, [own, logits]))
    slack = 1e-2 if runner.takes.dtype == np.float16 else 1e-3
    if activation == "LogSoftmax":
        is_it = np.allclose(np.exp(given).sum(1), 1, atol=slack)
        return Scores(logits if is_it else own, "logits", is_logits=True)
    is_share = bool((given >= -slack).all() and (given <= 1 + slack).all())
    if is_share and given.shape[1] > 1 and np.allclose(given.sum(1), 1, atol=slack):
        is_free = activation == "Softmax" and np.allclose(_softmax(before), given, atol=slack)
        return Scores(logits if is_free else own, "softmax", is_logits=is_free)
    if is_share and activation == "Sigmoid":
        is_free = np.allclose(_sigmoid(before), given, atol=slack)
        return Scores(logits if is_free else own, "sigmoid", is_logits=is_free)
    return Scores(own, "logits", is_logits=True)


def find_batch(runner: Runner, images: np.ndarray, name: str) -> Runner:
    """The runner; with a batch of 1 where the graph, whatever it states, gives wrong rows of two images or none.

    Raises:
        Exception: ONNX Runtime's, where not even one image can be run.
    """
    try:
        single = np.concatenate([runner.run(images[i : i + 1], [name])[0] for i in range(2)])
    except Exception:
        if runner.batch is not None:
            raise
        # A graph whose batch is fixed inside to one size takes that one alone.
        return find_batch(replace(runner, batch=1), images, name)
    if runner.batch is not None:
        return runner
    try:
        both = runner.run(images[:2], [name])[0]
    except Exception:  # noqa: BLE001 - ONNX Runtime raises classes that it does not name publicly
        return replace(runner, batch=1)
    slack = _BATCH_LIMIT * float(np.ptp(single)) if np.isfinite(single).all() else 0.0
    is_same = both.shape == single.shape and np.allclose(both, single, rtol=0, atol=slack, equal_nan=True)
    return runner if is_same else replace(runner, batch=1)


def measure_maps(
    runner: Runner, images: np.ndarray, names: tuple[str, str, str], bias: np.ndarray, layer: str
) -> tuple[str, float | None]:
    """Why maps are not exact, in a sentence that is empty where they are; and the identity's error.

    Args:
        runner: of the graph with maps.
        images: to measure on.
        names: of the logits that are given with the maps, the maps, and the graph's own logits.
        bias: (K,).
        layer: where the maps are made, in words.
    """
    try:
        logits, maps, own = runner.run(images, names)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises classes that it does not name publicly
        return f"The {layer} can't be weighed by class ({tell(error)}).", None
    logits, own = flatten_scores(logits), flatten_scores(own)
    if maps.shape[2:] == (1, 1):
        return f"The {layer} has a single cell, of which there is no map.", None
    if maps.ndim != 4 or maps.shape[:2] != logits.shape:
        return f"Found maps {maps.shape} for scores {logits.shape} at the {layer}.", None
    means = maps.mean((2, 3), dtype=np.float64) + bias
    gap, gap_own = _measure_gap(means, logits), _measure_gap(means, own)
    limit = IDENTITY_LIMIT if names[0] == names[2] else HALF_LIMIT
    if gap < IDENTITY_LIMIT and gap_own < limit:
        return "", gap
    worst = max(gap, gap_own)
    return (
        f"At the {layer} mean(map) + bias misses the score by {worst:.2g} of the scores' range; the limit is {limit:g}."
    ), worst


def measure_places(runner: Runner, images: np.ndarray) -> str:
    """Why a grid of tokens is not the image's, in a sentence that is empty where that was not seen.

    One quarter of an image after the other becomes another image's. A cell that lies elsewhere answers more than twice
    as much to another quarter than to its own; where each cell sees the whole image, it answers to all alike.
    """
    (before,) = runner.run(images[1:2], [MAPS])
    grid = before.shape[2:]
    answers, owns = [], []
    for rows, columns in product((0, 1), repeat=2):
        area = tuple(_half(side, part) for side, part in zip(images.shape[2:], (rows, columns), strict=True))
        changed = images[1:2].copy()
        changed[:, :, *area] = images[2:3, :, *area]
        own = np.zeros(grid, dtype=bool)
        own[tuple(_half(side, part) for side, part in zip(grid, (rows, columns), strict=True))] = True
        change = (runner.run(changed, [MAPS])[0] - before)[0]
        # Attention hands a part of each change to every cell.
        answer = np.square(change - change.mean((1, 2), keepdims=True)).sum(0)
        answers.append(np.sqrt(answer / max(float(answer.sum()), np.finfo(np.float32).tiny)))
        owns.append(own)
    answer, own = np.stack(answers), np.stack(owns)
    away = float((np.where(own, 0, answer).max(0) > 2 * np.where(own, answer, 0).max(0)).mean())
    if away <= _MOST_AWAY:
        return ""
    return f"Its tokens stand in another order than the image's parts: {away:.0%} of them answer to another quarter."


def _half(length: int, part: int) -> slice:
    """The pixels or cells of one half of an axis."""
    middle = -(-length // 2)
    return slice(middle, None) if part else slice(middle)


def flatten_scores(scores: np.ndarray) -> np.ndarray:
    """(N, K) float32 of (N, K) or (N, K, 1, 1)."""
    return scores.reshape(len(scores), -1).astype(np.float32, copy=False)


def _measure_gap(means: np.ndarray, logits: np.ndarray) -> float:
    """The largest difference, as a share of the range of each image's logits."""
    spread = np.ptp(logits, axis=1)
    size = np.where(spread > 0, spread, np.abs(logits).max(axis=1) + np.finfo(np.float32).tiny)
    gap = float((np.abs(means - logits).max(axis=1) / size).max())
    return gap if np.isfinite(gap) else float("inf")


def _softmax(values: np.ndarray) -> np.ndarray:
    shares = np.exp(values - values.max(1, keepdims=True))
    return np.asarray(shares / shares.sum(1, keepdims=True))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1 + np.tanh(values / 2)))
