"""Images of any number into a graph that takes them in its own type, order and batch size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime

from whycam.errors import UserError
from whycam.model.onnx.maps import MAPS, WANTED
from whycam.model.onnx.takes import Takes
from whycam.runs import is_utf8

_FOLDER = "session.model_external_initializers_file_folder_path"


def start_session(content: bytes, path: Path, threads: int | None = None) -> onnxruntime.InferenceSession:
    """A graph in ONNX Runtime on the CPU.

    Args:
        content: the model; weights of other files lie beside `path`.
        path: the file that it is from.
        threads: that one call uses; None takes one for each core.

    Raises:
        UserError: ONNX Runtime does not take it, and why.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if is_utf8(path.absolute().parent):
        options.add_session_config_entry(_FOLDER, str(path.absolute().parent))
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises classes that it does not name publicly
        raise UserError(
            f"'{path.absolute()}' can't be opened by ONNX Runtime {onnxruntime.__version__} ({tell(error)}). "
            "Install a newer onnxruntime, or export the model with ONNX's own operators and opset 17."
        ) from None
    if hasattr(session, "_model_bytes"):
        # It is kept for a change of the device, which never comes, and holds all weights a second time.
        session._model_bytes = b""
    return session


def run_session(
    session: onnxruntime.InferenceSession, names: Sequence[str], given: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    """Those outputs; what goes wrong is raised, and not printed too."""
    options = onnxruntime.RunOptions()
    options.log_severity_level = 4
    values: list[np.ndarray] = session.run(list(names), dict(given), options)
    return values


def tell(error: Exception) -> str:
    """The first line of ONNX Runtime's reason."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].strip().rstrip(".")


@dataclass(frozen=True)
class Runner:
    """A session that takes images (B, C, H, W) float32 of any number; safe to call from many threads.

    Attributes:
        session: of the graph.
        takes: its input.
        batch: how many images each run must have; None for any. The last run is filled with copies.
        has_maps: whether the graph is told if maps are wanted.
    """

    session: onnxruntime.InferenceSession = field(repr=False)
    takes: Takes
    batch: int | None = None
    has_maps: bool = False

    def run(self, images: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        """Those outputs of the graph, each (B, ...)."""
        given = self.to_input(images)
        more = {WANTED: np.array(MAPS in names)} if self.has_maps else {}
        parts = [
            [value[:count] for value in run_session(self.session, names, {self.takes.name: part, **more})]
            for part, count in iter_pieces(given, self.batch)
        ]
        return [np.concatenate(values) if len(values) > 1 else values[0] for values in zip(*parts, strict=True)]

    def to_input(self, images: np.ndarray) -> np.ndarray:
        """The images as the graph takes them."""
        if self.takes.dtype.kind == "u" and images.dtype != np.uint8:
            images = np.rint(images).clip(0, 255)
        images = images.astype(self.takes.dtype, copy=False)
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1)) if self.takes.is_channels_last else images


def iter_pieces(values: np.ndarray, batch: int | None) -> Iterator[tuple[np.ndarray, int]]:
    """The rows in pieces of `batch`, and how many of each are not filled up; all at once where that is None."""
    if batch is None:
        yield values, len(values)
        return
    for start in range(0, len(values), batch):
        piece = values[start : start + batch]
        count = len(piece)
        if count < batch:
            piece = np.concatenate([piece, np.repeat(piece[-1:], batch - count, axis=0)])
        yield piece, count
