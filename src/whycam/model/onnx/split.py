"""An ONNX graph in two halves at a map: images -> features, and features -> scores, each run by ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnxruntime
from onnx import TensorProto

from whycam.errors import UserError
from whycam.model.onnx.axes import Cells
from whycam.model.onnx.graph import Graph, Part, list_inputs
from whycam.model.onnx.measure import flatten_scores
from whycam.model.onnx.runner import Runner, iter_pieces, run_session, start_session, tell
from whycam.model.onnx.takes import Takes

_WHOLE = {TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL}
# How far both halves may be from the whole, as a part of the largest score.
_LIMIT = {np.dtype(np.float16): 2e-2}


@dataclass(frozen=True)
class Split:
    """Both halves of a graph.

    Attributes:
        cells: where it is split.
        front: gives the features, what else the tail needs of the front, and the scores.
        kept: names of that: tensors (N, ...) that go past the split, such as a residual stream.
        tail: features, kept and images -> scores.
        scores: name of the tensor that is explained.
    """

    cells: Cells
    front: Runner
    kept: tuple[str, ...]
    tail: onnxruntime.InferenceSession = field(repr=False)
    scores: str

    def run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """Scores (B, K), features (B, C, h, w) float32 and what is kept, of images (B, C, H, W) float32."""
        scores, raw, *kept = self.front.run(images, [self.scores, self.cells.name, *self.kept])
        return flatten_scores(scores), self.cells.read(raw), kept

    def run_tail(self, features: np.ndarray, kept: list[np.ndarray], images: np.ndarray) -> np.ndarray:
        """Scores (B, K) of features (B, C, h, w), and of the rows of what is kept and of the images they belong to."""
        raw = self.cells.write(features)
        given = {self.cells.name: raw, **dict(zip(self.kept, kept, strict=True))}
        given[self.front.takes.name] = self.front.to_input(images)
        taken = {value.name: value.type for value in self.tail.get_inputs()}
        parts = {
            name: [piece for piece, _ in iter_pieces(_cast(value, taken[name]), self.front.batch)]
            for name, value in given.items()
            if name in taken
        }
        counts = [count for _, count in iter_pieces(raw, self.front.batch)]
        rows = [
            run_session(self.tail, [self.scores], {name: pieces[i] for name, pieces in parts.items()})[0][:count]
            for i, count in enumerate(counts)
        ]
        return flatten_scores(np.concatenate(rows))


def _cast(values: np.ndarray, kind: str) -> np.ndarray:
    dtype = {"tensor(float16)": np.float16, "tensor(double)": np.float64, "tensor(uint8)": np.uint8}
    return np.ascontiguousarray(values, dtype=dtype.get(kind, np.float32))


def split_graph(
    graph: Graph, cells: Cells, scores: str, runner: Runner, images: np.ndarray, *, threads: int | None = None
) -> Split:
    """The graph in two halves, measured to give together what it gives.

    Args:
        graph: of the file.
        cells: where to split.
        scores: the tensor that is explained.
        runner: of the whole graph.
        images: (B, C, H, W) to measure on.
        threads: as in `start_session`.

    Raises:
        UserError: the halves don't give the whole graph's scores.
    """
    kept = _find_kept(graph, cells.name, scores, runner.takes)
    front = start_session(graph.to_bytes(Part([scores, cells.name, *kept])), graph.path, threads)
    tail = start_session(graph.to_bytes(Part([scores], inputs=[cells.name, *kept])), graph.path, threads)
    split = Split(cells, Runner(front, runner.takes, runner.batch), tuple(kept), tail, scores)
    try:
        whole, features, values = split.run(images)
        # Of images in another order: what is kept of one image must not be another's.
        rows = np.arange(len(images))[::-1].repeat(2)
        again = split.run_tail(features[rows], [value[rows] for value in values], images[rows])
        gap = float(np.abs(again - whole[rows]).max() / (np.abs(whole).max() + np.finfo(np.float32).tiny))
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises classes that it does not name publicly
        raise _make_no_split(cells, tell(error)) from None
    if not gap <= _LIMIT.get(runner.takes.dtype, 1e-3):
        raise _make_no_split(cells, f"both halves together miss the scores by {gap:.2g} of the largest")
    return split


def _make_no_split(cells: Cells, reason: str) -> UserError:
    return UserError(
        f"The graph can't be split at {cells.where} ({reason}). Name another layer, or take rise or occlusion, which "
        "need scores alone."
    )


def _find_kept(graph: Graph, layer: str, scores: str, takes: Takes) -> list[str]:
    """The tensors beside the layer's that what comes after it needs.

    Shapes and whatever has no row for each image are computed in the tail once more, of the image itself.
    """
    behind = {layer}
    for node in graph.nodes:
        if not behind.isdisjoint(list_inputs(node)):
            behind.update(node.output)
    kept: list[str] = []
    nodes = [node for node in graph.collect([scores], stop=[layer]) if not behind.isdisjoint(list_inputs(node))]
    open_names = [name for node in nodes for name in list_inputs(node)]
    seen = set(behind)
    while open_names:
        name = open_names.pop()
        if name in seen or not graph.is_computed(name):
            continue
        seen.add(name)
        maker = graph.find_maker(name)
        if maker is None:  # the image
            continue
        shape = graph.shapes.get(name)
        has_rows = shape is not None and len(shape) > 0 and (shape[0] == takes.batch or not isinstance(shape[0], int))
        if graph.types.get(name) in _WHOLE or not has_rows:
            open_names.extend(list_inputs(maker))
        else:
            kept.append(name)
    return kept
