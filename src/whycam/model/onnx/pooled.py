"""A graph of whycam's own with one more output: the means of the features that its maps weigh."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from whycam.errors import UserError
from whycam.model.onnx.engine import Answer, GraphMetadata, check_identity
from whycam.model.onnx.graph import Part, load_graph
from whycam.model.onnx.maps import MEANS, make_means
from whycam.model.onnx.runner import run_session, start_session


class PooledGraph:
    """Images as the graph takes them to logits, maps and pooled features; safe to call from many threads.

    Attributes:
        weight: (K, C): pooled @ weight.T + bias = logits, measured on each answer's first photo.
    """

    def __init__(self, path: Path, metadata: GraphMetadata, threads: int | None = None) -> None:
        """Opens the graph a second time.

        Args:
            path: what `whycam export` wrote.
            metadata: of the graph.
            threads: that one call uses; None takes one for each core.

        Raises:
            UserError: maps that no convolution of the graph makes, as in a graph of few classes' maps.
        """
        graph = load_graph(path)
        maker = graph.find_maker("maps")
        weight = graph.read_constant(maker.input[1]) if maker is not None and maker.op_type == "Conv" else None
        if maker is None or weight is None or weight.shape[:2] != (len(metadata.class_names), weight[0].size):
            raise UserError(
                f"The graph in '{path.absolute()}' has no convolution that makes its maps, so its features can't "
                "be had; expected the maps of all classes. Export the model again."
            )
        self.weight, self._bias, self._path = weight.reshape(weight.shape[:2]), np.array(metadata.bias), path
        part = Part(["logits", "maps", MEANS], nodes=make_means(maker.input[0]))
        self._session = start_session(graph.to_bytes(part), path, threads)

    def __call__(self, images: np.ndarray) -> Answer:
        """Logits, maps and pooled features of images as the graph takes them.

        Raises:
            UserError: pooled features that the logits are not made of.
        """
        logits, maps, pooled = run_session(self._session, ["logits", "maps", MEANS], {"images": images})
        gap = np.abs(pooled[:1] @ self.weight.T + self._bias - logits[:1]).max(initial=0)
        check_identity(float(gap / (np.ptp(logits[:1]) or 1)), f"The graph in '{self._path.absolute()}'")
        return Answer(logits, maps, pooled=pooled)
