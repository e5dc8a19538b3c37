"""int8 graphs: static quantisation by ONNX Runtime, and how far maps and classes move by it."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from whycam.errors import UserError
from whycam.model.onnx.engine import OnnxEngine, check_identity, measure_identity
from whycam.model.onnx.shared import share_weights, spread_weights
from whycam.runs import tell_disk_errors

CORRELATION_LIMIT, CHANGED_LIMIT = 0.98, 0.01
# So many of the first convolutions stay in float, the fewest that keep to the limits: what is rounded there goes
# through all layers behind, and it is rounding there that changes classes (docs/export.md).
FLOAT_FIRST = (0, 3, 6, 9, 12, 15)
_BATCH = 8


@dataclass(frozen=True)
class Drift:
    """What quantisation changes, on photos that it was not calibrated on.

    Attributes:
        correlation: the mean of the predicted class's maps with those of the float graph.
        changed: the share of photos whose top class is another.
        photos: how many were measured.
        speed: how many times as fast as the float graph on one core, the median over the batches.
    """

    correlation: float
    changed: float
    photos: int
    speed: float = float("nan")

    @property
    def is_small(self) -> bool:
        """Whether maps and classes keep to the limits."""
        return self.correlation > CORRELATION_LIMIT and self.changed < CHANGED_LIMIT


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Batches of the calibration photos, as the graph takes them."""

    def __init__(self, engine: OnnxEngine, pixels: np.ndarray) -> None:
        self._batches = _iter_inputs(engine, pixels)

    def get_next(self) -> dict[str, Any] | None:
        """See ONNX Runtime."""
        return next(self._batches, None)


def _iter_inputs(engine: OnnxEngine, pixels: np.ndarray) -> Iterator[dict[str, Any]]:
    for start in range(0, len(pixels), _BATCH):
        yield {"images": engine.to_images(pixels[start : start + _BATCH])}


def quantise(whole: Path, path: Path, pixels: np.ndarray, float_first: int = 0, **how: Any) -> None:
    """Writes the graph with int8 convolutions, weights a channel each, ranges from the photos.

    What is behind the last features stays in float, on the maps' way and on the scores': mean(map) + bias = logit holds
    in int8 as it did before.

    Args:
        whole: the float graph.
        path: the file to write.
        pixels: uint8 (N, 3, H, W).
        float_first: so many convolutions stay in float, the first ones.
        how: what `quantize_static` takes beside.
    """
    engine = OnnxEngine(whole)
    logger = logging.getLogger()
    level = logger.level
    with tell_disk_errors(path.parent), tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        spread, prepared, made = (Path(folder) / name for name in ("spread.onnx", "prepared.onnx", "int8.onnx"))
        graph = onnx.load(whole)
        spread_weights(graph)
        spread.write_bytes(graph.SerializeToString())
        try:
            logger.setLevel(logging.CRITICAL)
            quant_pre_process(str(spread), str(prepared), skip_symbolic_shape=True)
            nodes = onnx.load(prepared).graph.node
            convolutions = [node.name for node in nodes if node.op_type == "Conv"][:float_first]
            usual = {
                "quant_format": QuantFormat.QDQ,
                "per_channel": True,
                "activation_type": QuantType.QUInt8,
                "weight_type": QuantType.QInt8,
                "nodes_to_exclude": [*find_heads(prepared), *convolutions],
            }
            quantize_static(str(prepared), str(made), _Reader(engine, pixels), **usual | how)
        finally:
            logger.setLevel(level)
        graph = onnx.load(made)
    share_weights(graph)
    metadata = engine.metadata.model_copy(update={"identity_error": _measure_identity(graph, engine, pixels[:_BATCH])})
    check_identity(metadata.identity_error, "The int8 graph")
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, metadata.to_metadata())
    path.write_bytes(graph.SerializeToString())


def _measure_identity(graph: onnx.ModelProto, engine: OnnxEngine, pixels: np.ndarray) -> float:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return measure_identity(session.run(None, {"images": engine.to_images(pixels)}), engine.metadata)


def find_heads(path: Path) -> list[str]:
    """The nodes between the last features, which the maps' one weighs, and the outputs."""
    graph = onnx.load(path).graph
    by_output = {name: node for node in graph.node for name in node.output}
    features, found = by_output["maps"].input[0], []
    ahead = [value.name for value in graph.output]
    while ahead:
        name = ahead.pop()
        if name != features and (node := by_output.get(name)) is not None and node.name not in found:
            found.append(node.name)
            ahead += node.input
    return found


def measure_drift(whole: Path, path: Path, pixels: np.ndarray) -> Drift:
    """How far the quantised graph is from the float one on photos, uint8 (N, 3, H, W)."""
    # Of one thread each: those of two runtimes would wait for each other.
    float_engine, engine = OnnxEngine(whole, threads=1), OnnxEngine(path, threads=1)
    correlations, changed, speeds = [], [], []
    for start in range(0, len(pixels), _BATCH):
        batch = pixels[start : start + _BATCH]
        begun = time.perf_counter()
        expected = float_engine(batch)
        between = time.perf_counter()
        found = engine(batch)
        speeds.append((between - begun) / (time.perf_counter() - between))
        tops = expected.logits.argmax(1)
        changed += (found.logits.argmax(1) != tops).tolist()
        for row, top in enumerate(tops):
            ours, theirs = (
                answer.maps[row, top if answer.classes is None else 0].ravel() for answer in (found, expected)
            )
            correlations.append(float(np.corrcoef(ours, theirs)[0, 1]))
    return Drift(
        float(np.nan_to_num(correlations).mean()), float(np.mean(changed)), len(pixels), float(np.median(speeds))
    )


def check_drift(drift: Drift) -> None:
    """Refuses a graph whose maps or classes moved too far.

    Raises:
        UserError: with the figures.
    """
    if not drift.is_small:
        raise UserError(
            f"int8 changes this model too much: on {drift.photos} photos the maps correlate {drift.correlation:.3f} "
            f"(expected over {CORRELATION_LIMIT}) and {drift.changed:.1%} of the top classes change (expected under "
            f"{CHANGED_LIMIT:.0%}). Nothing was written. Leave --int8 out, or calibrate on more photos."
        )
