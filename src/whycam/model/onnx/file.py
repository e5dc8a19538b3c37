"""OnnxFile: anybody's ONNX image classifier, whose maps are exact where that is measured; no torch is imported.

The 1x1 convolution that makes the maps is added to the user's own graph in memory, so that one run gives scores and
maps. What the output is (logits or probabilities), what the batch may be and whether the maps are exact is measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from whycam.data.images import content_hash
from whycam.data.preprocess import Preprocess
from whycam.data.samples import load_samples
from whycam.errors import UserError
from whycam.model.onnx.about import find_class_names, find_preprocess, find_size
from whycam.model.onnx.engine import IDENTITY_LIMIT, Answer
from whycam.model.onnx.graph import Graph, Part, load_graph
from whycam.model.onnx.head import Head, NotAffineError, find_activation, find_head
from whycam.model.onnx.runner import Runner, start_session, tell
from whycam.model.onnx.takes import Takes, find_scores, find_takes
from whycam.runs import read_versions

Output = Literal["logits", "softmax", "sigmoid"]
MAPS, LOGITS = "whycam_maps", "whycam_logits"
WORKS = "What works on it: recipro-cam, ablation-cam, score-cam, eigen-cam, rise and occlusion"
# In half precision a graph's own scores are no finer than this part of their range.
_HALF_LIMIT = 1e-2
# Two runs of the same images, one by one and together, differ by summation order alone.
_BATCH_LIMIT = 1e-3


@dataclass(frozen=True)
class Scores:
    """What a graph's output was measured to hold.

    Attributes:
        own: the tensor that the file gives.
        name: the tensor that is explained: the logits, where the graph has them.
        output: what the file gives: logits; probabilities of one class (softmax) or of several (sigmoid).
        is_logits: whether logits are explained; else the file's own probabilities.
    """

    own: str
    name: str
    output: Output
    is_logits: bool


class OnnxFile:
    """An ONNX image classifier in ONNX Runtime on the CPU; safe to call from many threads, and can be pickled.

    Attributes:
        path, threads: as given.
        takes: input type, order, size and batch; `str` of it is a line for the record.
        channels: 3 or 1.
        height_px, width_px: of the input; None where any size is taken.
        size_px: (height, width) that it was measured at.
        class_count: K.
        class_names, names_from: K names and where they are from; None where the file has none.
        preprocess, preprocess_from: from a photo to the input; None where the file does not say.
        output: see `Scores`; of a file that ends in a softmax the logits before it are explained.
        explains: logits or probabilities, in one word.
        no_exact_map: why it has no exact maps, in full sentences; empty where it has.
        layer, tail: whose features the exact maps weigh and what stands behind them, in words.
        bias: (K,) mean(map) + bias = logit; None without exact maps.
        identity_error: the largest |mean(map) + bias - logit| as a share of the logits' range; None without maps.
        opset: of ONNX's operators.
    """

    def __init__(
        self,
        path: str | Path,
        threads: int | None = None,
        *,
        size_px: tuple[int, int] | None = None,
        output: str | None = None,
    ) -> None:
        """Opens the file and measures it on noise and installed photos.

        Args:
            path: of the .onnx file.
            threads: that one call uses; None takes one for each core.
            size_px: (height, width), for a graph that takes any size and does not say which.
            output: the name of the output with the scores, where the graph has several.

        Raises:
            UserError: no ONNX file, no image classifier, or one that ONNX Runtime can't run.
        """
        self.path, self.threads, self._given = Path(path), threads, (size_px, output)
        graph = load_graph(self.path)
        self.opset, self._metadata = graph.opset, graph.metadata
        self.takes: Takes = find_takes(graph, self.path)
        self.channels, self.height_px, self.width_px = self.takes.channels, self.takes.height_px, self.takes.width_px
        self.size_px = self._choose_size(size_px)
        self.preprocess, self.preprocess_from = find_preprocess(graph.metadata, self.takes, self.size_px)
        own = find_scores(graph, self.path, output)
        self._producer = " ".join(filter(None, [graph.proto.producer_name, graph.proto.producer_version]))
        self._open(graph, own)
        names, self.names_from = find_class_names(graph.metadata)
        self.class_names = names if names and len(names) == self.class_count else None
        if names and self.class_names is None:
            self.names_from = f"none: {self.names_from} has {len(names)} names for {self.class_count} scores"

    def _choose_size(self, given: tuple[int, int] | None) -> tuple[int, int]:
        hint = given or find_size(self._metadata) or (None, None)
        height, width = self.height_px or hint[0], self.width_px or hint[1]
        if height is None or width is None:
            raise UserError(
                f"'{self.path.absolute()}' takes images of any size, {self.takes}, and does not say which it was "
                "trained on; expected a size. Give it, such as --image-size 224."
            )
        if given is not None and given != (height, width):
            raise UserError(
                f"'{self.path.absolute()}' takes {height} x {width} px; found a size of {given[0]} x {given[1]} px. "
                "Leave the size out."
            )
        return height, width

    def _open(self, graph: Graph, own: str) -> None:
        """Starts the session with the maps; without them where the graph, or what is measured, has none."""
        activation = find_activation(graph, own)
        logits = activation.input[0] if activation is not None else own
        images = self.make_probes()
        head, self.no_exact_map, self.identity_error = None, "", None
        try:
            head = find_head(graph, logits)
        except NotAffineError as reason:
            self.no_exact_map = _refuse(str(reason))
        self._start(graph, own, logits, head)
        self._scores = _measure_scores(self._runner, images, own, logits, activation.op_type if activation else "")
        if head is not None:
            self.no_exact_map, self.identity_error = self._check_maps(head, images)
        if self.no_exact_map and head is not None:
            head = None
            self._start(graph, own, logits, None)
        self.output: Output = self._scores.output
        self.explains = "logits" if self._scores.is_logits else "probabilities"
        self.class_count = self.scores(images[:1]).shape[1]
        self._head = head and replace(head, weight=None)  # it is in the session
        self.layer, self.tail = (head.layer, head.tail) if head else ("", "")
        self.bias = None if head is None else np.broadcast_to(head.bias, self.class_count).tolist()

    def _start(self, graph: Graph, own: str, logits: str, head: Head | None) -> None:
        part = add_maps(graph, Part(list(dict.fromkeys([own, logits]))), head)
        self._computes_logits = LOGITS in part.outputs
        content = graph.to_bytes(part)
        runner = Runner(start_session(content, self.path, self.threads), self.takes, self.takes.batch)
        self._runner = self._fix_batch(runner, own)

    def _fix_batch(self, runner: Runner, own: str) -> Runner:
        """The runner, one image at a time where the graph, whatever it states, gives wrong rows of several."""
        images = self.make_probes()
        try:
            single = np.concatenate([runner.run(images[i : i + 1], [own])[0] for i in range(2)])
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises classes that it does not name publicly
            if runner.batch is None:
                return self._fix_batch(replace(runner, batch=1), own)
            raise UserError(
                f"'{self.path.absolute()}' can't be run on images of {self.size_px[0]} x {self.size_px[1]} px "
                f"({tell(error)}). Give the size that it was exported for: --image-size."
            ) from None
        if runner.batch is not None:
            return runner
        try:
            both = runner.run(images[:2], [own])[0]
        except Exception:  # noqa: BLE001 - as above: a batch of 1 is fixed inside
            return replace(runner, batch=1)
        is_same = both.shape == single.shape and np.allclose(both, single, rtol=_BATCH_LIMIT, atol=_spread(single))
        return runner if is_same else replace(runner, batch=1)

    def make_probes(self) -> np.ndarray:
        """(3, C, H, W) float32 as `scores` takes them: noise and two photos."""
        height, width = self.size_px
        how = self.preprocess or Preprocess(height_px=height, width_px=width)
        photos = how.normalise(np.stack([how.to_pixels(photo) for photo in load_samples(2)]))
        noise = np.random.default_rng(0).standard_normal((1, *photos.shape[1:]))
        if self.takes.dtype.kind == "u":
            noise = np.clip(noise * 64 + 128, 0, 255)
        images = np.concatenate([noise, photos]).astype(np.float32)
        return images if self.channels == 3 else images.mean(1, keepdims=True)

    def _check_maps(self, head: Head, images: np.ndarray) -> tuple[str, float | None]:
        """Why the maps are not exact, empty where they are; and the identity's error."""
        try:
            logits, maps = self._runner.run(images, [self._name_logits(), MAPS])
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises classes that it does not name publicly
            return _refuse(f"Its features at the {head.layer} can't be weighed ({tell(error)})."), None
        logits = _flatten(logits)
        if maps.ndim != 4 or maps.shape[:2] != logits.shape or maps.shape[2:] == (1, 1):
            return _refuse(f"Found maps {maps.shape} for scores {logits.shape} at the {head.layer}."), None
        (own,) = self._runner.run(images, [self._scores.name])
        means = maps.mean((2, 3), dtype=np.float64) + head.bias
        error = _measure_gap(means, logits)
        error_own = _measure_gap(means, _flatten(own))
        limit = _HALF_LIMIT if self._computes_logits else IDENTITY_LIMIT
        if not (error < IDENTITY_LIMIT and error_own < limit):
            worst = max(error, error_own)
            return _refuse(
                f"The mean of each map at the {head.layer}, plus bias, misses the score by {worst:.2g} of the scores' "
                f"range (limit {limit:g})."
            ), worst
        return "", error

    def _name_logits(self) -> str:
        return LOGITS if self._computes_logits else self._scores.name

    @property
    def is_exact(self) -> bool:
        """Whether mean(map) + bias is the logit of every class."""
        return not self.no_exact_map

    def scores(self, images: np.ndarray) -> np.ndarray:
        """(B, K) float32 logits, or the file's own probabilities where it has no logits; see `explains`.

        Args:
            images: (B, C, H, W) float32, normalised; for a graph of uint8, 0 to 255.

        Raises:
            UserError: images of another size or number of channels.
        """
        self._check(images)
        return _flatten(self._runner.run(images, [self._name_logits()])[0])

    def read(self, images: np.ndarray) -> Answer:
        """Logits (B, K) and every class's map (B, K, h, w) of one run; `images` as for `scores`.

        Raises:
            UserError: no exact maps, and why; images of another size or number of channels.
        """
        if self.no_exact_map:
            raise UserError(self.no_exact_map)
        self._check(images)
        logits, maps = self._runner.run(images, [self._name_logits(), MAPS])
        return Answer(_flatten(logits), maps)

    def _check(self, images: np.ndarray) -> None:
        sides = (self.height_px or images.shape[-2], self.width_px or images.shape[-1])
        if images.ndim != 4 or images.shape[1:] != (self.channels, *sides):
            raise UserError(
                f"'{self.path.absolute()}' takes images (B, {self.channels}, {self.height_px or 'H'}, "
                f"{self.width_px or 'W'}); got {images.shape}. Resize them to that."
            )

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """(B, K) float32 of what `scores` gave: the file's own; a softmax where it gives logits alone."""
        if not self._scores.is_logits:
            return scores
        values = scores.astype(np.float64)
        if self.output == "sigmoid" or values.shape[1] == 1:
            return np.asarray(_sigmoid(values), dtype=np.float32)
        return np.asarray(_softmax(values), dtype=np.float32)

    def describe(self) -> dict[str, Any]:
        """What is recorded of it with each result."""
        return {
            "file": self.path.name,
            "weights": content_hash(self.path),
            "engine": f"onnxruntime {onnxruntime.__version__}",
            "producer": self._producer,
            "opset": self.opset,
            "takes": str(self.takes),
            "output": self.output,
            "explains": self.explains,
            "identity_error": self.identity_error,
            "head": self.tail,
            "versions": read_versions(),
        }

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "threads": self.threads, "given": self._given}

    def __setstate__(self, state: dict[str, Any]) -> None:
        size_px, output = state["given"]
        self.__init__(state["path"], state["threads"], size_px=size_px, output=output)  # type: ignore[misc]


def add_maps(graph: Graph, part: Part, head: Head | None) -> Part:
    """That part, with every class's map (N, K, h, w) float32 as a further output; as it is without a head.

    In half precision the scores would be rounded more coarsely than the maps: they are then given a second time, as
    mean(map) + bias in float32.
    """
    if head is None:
        return part
    kind = graph.types.get(head.pool.features, TensorProto.FLOAT)
    name, nodes = head.pool.features, []
    constants = {}
    if kind != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [name], ["whycam_features"], to=TensorProto.FLOAT))
        name = "whycam_features"
    turns = head.pool.is_channels_last
    weighed = "whycam_weighed" if turns else MAPS
    if head.weight is None:
        nodes.append(helper.make_node("Identity", [name], [weighed]))
    elif turns:
        constants["whycam_weight"] = np.ascontiguousarray(head.weight.T)
        nodes.append(helper.make_node("MatMul", [name, "whycam_weight"], [weighed]))
    else:
        constants["whycam_weight"] = head.weight[:, :, None, None]
        nodes.append(helper.make_node("Conv", [name, "whycam_weight"], [weighed], kernel_shape=[1, 1]))
    if turns:
        nodes.append(helper.make_node("Transpose", [weighed], [MAPS], perm=[0, 3, 1, 2]))
    outputs = [*part.outputs, MAPS]
    if kind != TensorProto.FLOAT:
        constants["whycam_bias"] = head.bias
        nodes += [
            helper.make_node("GlobalAveragePool", [MAPS], ["whycam_mean"]),
            helper.make_node("Flatten", ["whycam_mean"], ["whycam_means"]),
            helper.make_node("Add", ["whycam_means", "whycam_bias"], [LOGITS]),
        ]
        outputs.append(LOGITS)
    return Part(outputs, part.inputs, nodes, constants)


def _measure_scores(runner: Runner, images: np.ndarray, own: str, logits: str, activation: str) -> Scores:
    """What the output holds, by its numbers; the activation is taken off where it gives them."""
    given, before = (_flatten(value).astype(np.float64) for value in runner.run(images, [own, logits]))
    slack = 1e-2 if runner.takes.dtype == np.float16 else 1e-3
    if activation == "LogSoftmax":
        is_it = np.allclose(np.exp(given).sum(1), 1, atol=slack)
        return Scores(own, logits if is_it else own, "logits", is_logits=True)
    is_share = bool((given >= -slack).all() and (given <= 1 + slack).all())
    if is_share and given.shape[1] > 1 and np.allclose(given.sum(1), 1, atol=slack):
        is_free = activation == "Softmax" and np.allclose(_softmax(before), given, atol=slack)
        return Scores(own, logits if is_free else own, "softmax", is_logits=is_free)
    if is_share and activation == "Sigmoid":
        is_free = np.allclose(_sigmoid(before), given, atol=slack)
        return Scores(own, logits if is_free else own, "sigmoid", is_logits=is_free)
    return Scores(own, own, "logits", is_logits=True)


def _refuse(reason: str) -> str:
    return f"{reason} Exact maps need pooling over all cells, followed by linear layers alone. {WORKS}."


def _flatten(scores: np.ndarray) -> np.ndarray:
    return scores.reshape(len(scores), -1).astype(np.float32, copy=False)


def _measure_gap(means: np.ndarray, logits: np.ndarray) -> float:
    """The largest difference, as a share of the range of each image's logits."""
    spread = np.ptp(logits, axis=1)
    size = np.where(spread > 0, spread, np.abs(logits).max(axis=1) + np.finfo(np.float32).tiny)
    gap = float((np.abs(means - logits).max(axis=1) / size).max())
    return gap if np.isfinite(gap) else float("inf")


def _spread(scores: np.ndarray) -> float:
    """How far summation order may move them."""
    return _BATCH_LIMIT * float(np.ptp(scores)) if np.isfinite(scores).all() else 0.0


def _softmax(values: np.ndarray) -> np.ndarray:
    shares = np.exp(values - values.max(1, keepdims=True))
    return np.asarray(shares / shares.sum(1, keepdims=True))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1 + np.tanh(values / 2)))
