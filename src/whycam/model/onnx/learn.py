"""Shapes that no rule infers, learned by running the graph once: those of what is pooled last."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np

from whycam.model.onnx.graph import Graph, Part
from whycam.model.onnx.runner import Runner, start_session
from whycam.model.onnx.takes import Takes

Shapes = dict[str, tuple[int, ...]]
_POOLS = {"GlobalAveragePool", "AveragePool", "ReduceMean"}
# A norm between the pooling and the scores may be written with means of its own.
_LAST = 3


def learn_shapes(graph: Graph, scores: str, takes: Takes, image: np.ndarray, path: Path) -> Shapes:
    """The shapes of what the last poolings take, of one image; empty where they are known or can't be had.

    Args:
        graph: whose shapes are inferred as far as can be.
        scores: the tensor with the scores.
        takes: the graph's input.
        image: (1, C, H, W) float32.
        path: of the file.
    """
    pools = [node for node in graph.collect([scores]) if node.op_type in _POOLS][-_LAST:]
    names = dict.fromkeys(name for node in pools for name in _follow_back(graph, node.input[0]))
    unknown = [name for name in names if not _is_known(graph, name)]
    if not unknown:
        return {}
    with suppress(Exception):  # ONNX Runtime raises anything, and what is not learned stays unknown
        session = start_session(graph.to_bytes(Part(unknown)), path, 1)
        values = Runner(session, takes, takes.batch).run(image, unknown)
        return {name: value.shape for name, value in zip(unknown, values, strict=True)}
    return {}


def _follow_back(graph: Graph, name: str) -> list[str]:
    """The tensor, and what it is under other orders and shapes."""
    names = [name]
    while (node := graph.find_maker(names[-1])) is not None and node.op_type in {"Transpose", "Reshape", "Flatten"}:
        names.append(node.input[0])
    return names


def _is_known(graph: Graph, name: str) -> bool:
    shape = graph.shapes.get(name)
    return shape is not None and all(isinstance(side, int) for side in shape[1:])
