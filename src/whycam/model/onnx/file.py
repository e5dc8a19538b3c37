"""OnnxFile: anybody's ONNX image classifier, whose maps are exact where that is measured; no torch is imported.

The 1x1 convolution that makes the maps is added to the user's own graph in memory, so that one run gives scores and
maps. What the output is (logits or probabilities), what the batch may be and whether the maps are exact is measured.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from whycam.data.images import content_hash
from whycam.data.preprocess import Preprocess
from whycam.data.samples import load_samples
from whycam.errors import UserError, as_clause
from whycam.model.onnx.about import find_class_names, find_preprocess, find_size, find_thresholds
from whycam.model.onnx.axes import Cells, choose_cells, find_cells, find_named
from whycam.model.onnx.engine import Answer
from whycam.model.onnx.graph import Graph, Part, load_graph
from whycam.model.onnx.head import Head, NotAffineError, find_activation, find_head
from whycam.model.onnx.learn import Shapes, learn_shapes
from whycam.model.onnx.maps import LOGITS, MAPS, MEANS, add_maps
from whycam.model.onnx.measure import Output, find_batch, flatten_scores, measure_maps, measure_places, measure_scores
from whycam.model.onnx.runner import Runner, start_session, tell
from whycam.model.onnx.split import Split, split_graph
from whycam.model.onnx.takes import Takes, find_scores, find_takes
from whycam.runs import read_versions

_NEEDED = "Exact maps need pooling over all cells, followed by linear layers alone."
_WITH_CELLS = "What works on it: recipro-cam, ablation-cam, score-cam, eigen-cam, rise and occlusion."
_WITHOUT_CELLS = "What works on it: rise and occlusion, which need scores alone."


class OnnxFile:
    """An ONNX image classifier in ONNX Runtime on the CPU; safe to call from many threads, and can be pickled.

    Attributes:
        path, threads: as given.
        takes: input type, order, size and batch; `str` of it is a line for the record.
        channels: 3 or 1.
        height_px, width_px: of the input; None where any size is taken.
        size_px: (height, width) that it was measured at.
        class_count: K.
        thresholds: of classes that go together, as whycam wrote them; else empty.
        class_names, names_from: K names and where they are from; None where the file has none.
        preprocess, preprocess_from: from a photo to the input; None where the file does not say.
        output: see `Scores`; of a file that ends in a softmax the logits before it are explained.
        explains: logits or probabilities, in one word.
        no_exact_map: why it has no exact maps, in full sentences; empty where it has.
        layer, tail: whose features the exact maps weigh and what stands behind them, in words.
        bias: (K,) mean(map) + bias = logit; None without exact maps.
        weight: (K, C) pooled @ weight.T + bias = logit; None without exact maps.
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
        self._producer = " ".join(filter(None, [graph.proto.producer_name, graph.proto.producer_version]))
        self.takes: Takes = find_takes(graph, self.path)
        self.channels, self.height_px, self.width_px = self.takes.channels, self.takes.height_px, self.takes.width_px
        self.size_px = self._choose_size(size_px)
        self.preprocess, self.preprocess_from = find_preprocess(graph.metadata, self.takes, self.size_px)
        self._own = find_scores(graph, self.path, output)
        self._learned: Shapes | None = None
        self._infer_sizes(graph)
        self._measure(graph, self._own)
        self.thresholds = find_thresholds(graph.metadata, self.class_count)
        names, self.names_from = find_class_names(graph.metadata)
        self.class_names = names if names and len(names) == self.class_count else None
        if names and self.class_names is None:
            self.names_from = f"none: {self.names_from} has {len(names)} names for {self.class_count} scores"

    def _measure(self, graph: Graph, own: str) -> None:
        """Starts the graph with its maps, and without them where it has no head or its maps are not the scores' own."""
        activation = find_activation(graph, own)
        logits = own if activation is None else activation.input[0]
        images = self.make_probes()
        head, self.no_exact_map = _find_head(graph, logits, self.size_px)
        try:
            self._runner, self._logits = self._start(graph, [own, logits], head)
        except UserError as error:
            if head is None:
                raise
            # Whatever the maps are in the way of, the file itself may run.
            head, self.no_exact_map = None, f"The maps can't be added to the graph ({as_clause(error)})."
            self._runner, self._logits = self._start(graph, [own, logits], head)
        kind = "" if activation is None else activation.op_type
        self._scores = measure_scores(self._runner, images, own, logits, kind)
        self.identity_error: float | None = None
        if head is not None:
            names = (self._logits or self._scores.name, MAPS, self._scores.name)
            self.no_exact_map, self.identity_error = measure_maps(self._runner, images, names, head.bias, head.layer)
            if not self.no_exact_map and head.pool.is_row:
                self.no_exact_map = measure_places(self._runner, images)
            if self.no_exact_map:
                head = None
                self._runner, self._logits = self._start(graph, [own, logits], head)
        if head is None:
            self.no_exact_map += f" {_NEEDED} {self._tell_works(graph)}"
        self.output: Output = self._scores.output
        self.explains = "logits" if self._scores.is_logits else "probabilities"
        self.class_count = self.scores(images[:1]).shape[1]
        self.layer, self.tail = (head.layer, head.tail) if head else ("", "")
        self.bias = head and np.broadcast_to(head.bias, self.class_count).tolist()
        self.weight = None
        if head is not None:
            self.weight = np.eye(self.class_count, dtype=np.float32) if head.weight is None else head.weight

    def _tell_works(self, graph: Graph) -> str:
        with suppress(UserError):
            choose_cells(graph, self.takes, self._scores.name)
            return _WITH_CELLS
        return _WITHOUT_CELLS

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

    def _start(self, graph: Graph, names: list[str], head: Head | None) -> tuple[Runner, str]:
        """What runs the graph, and the name of the logits that go with the maps, where they are not the graph's own."""
        part = add_maps(graph, Part(list(dict.fromkeys(names))), head)
        session = start_session(graph.to_bytes(part), self.path, self.threads)
        runner = Runner(session, self.takes, self.takes.batch, has_maps=head is not None)
        try:
            return find_batch(runner, self.make_probes(), names[0]), LOGITS if LOGITS in part.outputs else ""
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises classes that it does not name publicly
            raise UserError(
                f"'{self.path.absolute()}' can't be run on images of {self.size_px[0]} x {self.size_px[1]} px "
                f"({tell(error)}). Give the size that it was exported for: --image-size."
            ) from None

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
        self.check(images)
        return flatten_scores(self._runner.run(images, [self._logits or self._scores.name])[0])

    def read(self, images: np.ndarray) -> Answer:
        """Logits (B, K), every class's map (B, K, h, w) and what they weigh, of one run; `images` as for `scores`.

        Raises:
            UserError: no exact maps, and why; images of another size or number of channels.
        """
        if self.no_exact_map:
            raise UserError(self.no_exact_map)
        self.check(images)
        logits, maps, means = self._runner.run(images, [self._logits or self._scores.name, MAPS, MEANS])
        return Answer(flatten_scores(logits), maps, pooled=means)

    def check(self, images: np.ndarray) -> None:
        """Refuses images that it does not take.

        Raises:
            UserError: another size or number of channels.
        """
        sides = (self.height_px or images.shape[-2], self.width_px or images.shape[-1])
        if images.ndim != 4 or images.shape[1:] != (self.channels, *sides):
            raise UserError(
                f"'{self.path.absolute()}' takes images (B, {self.channels}, {self.height_px or 'H'}, "
                f"{self.width_px or 'W'}); got {images.shape}. Resize them to that."
            )

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """(B, K) float32 of what `scores` gave: the file's own; a softmax where it gives logits alone."""
        return self._scores.to_probabilities(scores)

    def split(self, layer: str | None = None) -> tuple[Split, Head | None]:
        """The graph in two halves at a map, and the head behind it where that is what the maps are exact by.

        Args:
            layer: the name of a tensor, or of a node, whose first output it is; None takes the map before the pooling
                of the exact maps, or else the last one that the scores are computed of.

        Raises:
            UserError: no such tensor, one that is no map, or a graph that can't be split there.
        """
        graph = load_graph(self.path)
        self._infer_sizes(graph)
        head = _find_head(graph, self._scores.name, self.size_px)[0] if self.is_exact else None
        scores = self._scores.name
        if layer is not None:
            cells = find_named(graph, self.takes, scores, layer)
        elif head is not None:
            cells = Cells(head.pool.features, head.pool.is_channels_last, head.layer, head.pool.grid)
        else:
            cells = choose_cells(graph, self.takes, scores)
        split = split_graph(graph, cells, scores, self._runner, self.make_probes(), threads=self.threads)
        return split, head if head is not None and cells.name == head.pool.features else None

    def list_cells(self) -> list[Cells]:
        """The maps that it can be split at, in the order in which they are computed."""
        graph = load_graph(self.path)
        self._infer_sizes(graph)
        return find_cells(graph, self.takes)

    def _infer_sizes(self, graph: Graph) -> None:
        sides = [*self.size_px]
        sides = [*sides, self.channels] if self.takes.is_channels_last else [self.channels, *sides]
        if self.height_px is None or self.width_px is None:
            graph.infer_at(sides)
        graph.settle(sides)
        if self._learned is None:
            self._learned = learn_shapes(graph, self._own, self.takes, self.make_probes()[:1], self.path)
        for name, shape in self._learned.items():
            graph.shapes[name] = (None, *shape[1:])

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


def _find_head(graph: Graph, logits: str, size_px: tuple[int, int]) -> tuple[Head | None, str]:
    """The head whose maps can be made, or why there is none."""
    try:
        return find_head(graph, logits, size_px), ""
    except NotAffineError as reason:
        return None, str(reason)
