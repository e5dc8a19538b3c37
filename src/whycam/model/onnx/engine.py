"""Engine: photos' pixels -> logits and maps by an exported graph alone, with NumPy and ONNX Runtime and no torch.

`model/export.py` makes the graphs; their metadata hold all that it takes to use them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import onnxruntime
from pydantic import BaseModel, ConfigDict, FiniteFloat

from whycam.data.images import content_hash
from whycam.data.preprocess import Preprocess
from whycam.data.samples import make_probe
from whycam.errors import UserError, make_unknown_name
from whycam.model.cache import find_cache, open_cached
from whycam.model.installed import PACKAGED, find_packaged
from whycam.runs import find_model, is_utf8, read_versions

if TYPE_CHECKING:
    from whycam.model.onnx.pooled import PooledGraph

FORMAT = 2
# Two float32 summation orders differ by near 1e-6; maps that are not the scores' own miss them by far more.
IDENTITY_LIMIT = 1e-4
ENGINES = ("auto", "onnx", "torch")
_PREFIX = "whycam."


@dataclass(frozen=True)
class Answer:
    """What an engine gives for N photos.

    Attributes:
        logits: (N, K) float32.
        maps: (N, K, h, w) float32 signed class maps, mean(map) + bias = logit; of the top classes alone (N, T, h, w).
        classes: (N, T) whose maps these are; None where they are all.
        pooled: (N, C) float32 means of the features that the maps weigh: pooled @ weight.T + bias = logits; None where
            they were not asked for.
    """

    logits: np.ndarray
    maps: np.ndarray
    classes: np.ndarray | None = None
    pooled: np.ndarray | None = None


class GraphMetadata(BaseModel):
    """What a graph's metadata say, an entry `whycam.NAME` in JSON for each field.

    Attributes:
        bias: the classifier's, in the order of the classes: mean(map) + bias = logit can be measured without torch.
        identity_error: the largest |mean(map) + bias - logit|, as a share of the range of the logits.
        parity_error: the largest difference to PyTorch's logits and maps, as a share of their range.
        takes_uint8: the input is uint8, and normalised inside.
        topk: the maps are those of so many best classes; None: all.
        model: backbone, weights, head and stride.
        records: of each method that the maps serve, what is recorded with a result.
        thresholds: of classes that go together, from which probability (its logit's sigmoid) each is given; else None,
            and no entry: the probabilities are the logits' softmax.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int
    class_names: tuple[str, ...]
    bias: tuple[FiniteFloat, ...]
    preprocess: Preprocess
    identity_error: float
    parity_error: float
    takes_uint8: bool
    topk: int | None
    model: dict[str, Any]
    records: dict[str, dict[str, Any]]
    versions: dict[str, str]
    thresholds: tuple[FiniteFloat, ...] | None = None

    def to_metadata(self) -> dict[str, str]:
        """The entries of an ONNX file."""
        left_out = {"thresholds"} if self.thresholds is None else None
        said = self.model_dump(mode="json", exclude=left_out)
        return {f"{_PREFIX}{name}": json.dumps(value) for name, value in said.items()}

    @classmethod
    def from_metadata(cls, entries: dict[str, str], path: Path) -> Self:
        """Reads them back.

        Raises:
            UserError: a file that is not whycam's, or of another version.
        """
        own = {name.removeprefix(_PREFIX): text for name, text in entries.items() if name.startswith(_PREFIX)}
        try:
            values = {name: json.loads(text) for name, text in own.items()}
            if values.get("format", FORMAT) != FORMAT:
                raise UserError(
                    f"'{path.absolute()}' has format {values['format']}; this version reads {FORMAT}. "
                    "Export the model again."
                )
            return cls.model_validate(values)
        except (ValueError, RecursionError) as error:
            found = "no metadata of whycam" if not own else f"metadata that don't fit ({type(error).__name__})"
            raise UserError(
                f"'{path.absolute()}' has {found}; expected a file that whycam export made. Export the model again."
            ) from None


class OnnxEngine:
    """A graph in ONNX Runtime on the CPU; safe to call from many threads, and can be sent to other processes."""

    def __init__(self, path: Path, threads: int | None = None, *, is_checked: bool = True) -> None:
        """Opens the graph and measures mean(map) + bias = logit on a photo and on noise.

        Args:
            path: what `whycam export` wrote.
            threads: that one call uses; None takes one for each core.
            is_checked: False where the caller measures more than that.

        Raises:
            UserError: no such file, not one of whycam's, or maps that are not its scores.
        """
        self.path, self.threads = path, threads
        self._session = open_session(path, threads)
        self.metadata = GraphMetadata.from_metadata(self._session.get_modelmeta().custom_metadata_map, path)
        if is_checked:
            self._check_identity()

    def _check_identity(self) -> None:
        where = f"The graph in '{self.path.absolute()}'"
        images = self.to_images(make_probe(self.metadata.preprocess))
        try:
            outputs = self._session.run(None, {"images": images})
            gap = measure_identity(outputs, self.metadata)
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises classes that it does not name publicly
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(
                f"{where} does not give what its metadata promise ({reason}). Export the model again."
            ) from None
        check_identity(gap, where)

    def __call__(self, pixels: np.ndarray) -> Answer:
        """Logits and maps of pixels (N, 3, H, W): uint8, or float32 as `metadata.preprocess` normalises them."""
        return Answer(*self.run(self.to_images(pixels)))

    @cached_property
    def pooling(self) -> PooledGraph:
        """The same graph, which gives the pooled features too; opened on first use.

        Raises:
            UserError: a graph of few classes' maps, or whose features are not found.
        """
        from whycam.model.onnx.pooled import PooledGraph  # noqa: PLC0415 - onnx, which all else does without

        return PooledGraph(self.path, self.metadata, self.threads)

    def read_pooled(self, pixels: np.ndarray) -> Answer:
        """The same as a call, with the pooled features; raises as `pooling`."""
        return self.pooling(self.to_images(pixels))

    def to_images(self, pixels: np.ndarray) -> np.ndarray:
        """The pixels as the graph takes them."""
        is_ready = self.metadata.takes_uint8 or pixels.dtype != np.uint8
        return pixels if is_ready else self.metadata.preprocess.normalise(pixels)

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """The graph's outputs of images as it takes them."""
        values: list[np.ndarray] = self._session.run(None, {"images": images})
        return values

    def __getstate__(self) -> tuple[Path, int | None]:
        return self.path, self.threads

    def __setstate__(self, state: tuple[Path, int | None]) -> None:
        self.__init__(*state)  # type: ignore[misc]


def measure_identity(outputs: Sequence[np.ndarray], metadata: GraphMetadata) -> float:
    """The largest |mean(map) + bias - logit| of N photos, each as a share of the range of its logits.

    Args:
        outputs: a graph's logits (N, K) and maps (N, K, h, w); or maps (N, T, h, w) and the classes (N, T) they are of.
        metadata: what the graph's metadata say.

    Raises:
        ValueError: outputs of other shapes.
    """
    logits, maps, *of = (np.asarray(values) for values in outputs)
    bias = np.array(metadata.bias)
    classes = of[0] if of else np.broadcast_to(np.arange(len(bias)), logits.shape)
    if (
        logits.shape != (len(maps), len(metadata.class_names))
        or maps.shape[:2] != classes.shape
        or len(bias) != logits.shape[1]
    ):
        raise ValueError(f"logits {logits.shape} and maps {maps.shape} of {len(metadata.class_names)} classes")
    gaps = maps.mean(axis=(2, 3), dtype=np.float64) + bias[classes] - np.take_along_axis(logits, classes, axis=1)
    spread = np.ptp(logits, axis=1)
    tiny = np.finfo(np.float32).tiny
    return float((np.abs(gaps).max(axis=1) / np.where(spread > 0, spread, np.abs(logits).max(axis=1) + tiny)).max())


def check_identity(error: float, name: str) -> None:
    """Refuses a graph whose maps are not its scores.

    Raises:
        UserError: the error is over float error, or not finite.
    """
    if not error < IDENTITY_LIMIT:
        raise UserError(
            f"{name} breaks mean(map) + bias = logit by {error:.2g} of the logits' range; expected under "
            f"{IDENTITY_LIMIT:g}: its maps are not those of its scores. Export the model again."
        )


def open_kept(path: Path, threads: int | None = None) -> OnnxEngine | None:
    """The engine at that place of the cache; None where there is none, or none that can be believed."""
    return open_cached(path, lambda path, _about: OnnxEngine(path, threads))


def check_engine(name: str) -> str:
    """The word, if it is one of `ENGINES`.

    Raises:
        UserError: an unknown engine.
    """
    if name not in ENGINES:
        raise make_unknown_name("engine", name, ENGINES)
    return name


def open_session(path: Path, threads: int | None = None) -> onnxruntime.InferenceSession:
    """A graph in ONNX Runtime on the CPU.

    Raises:
        UserError: no such file, or no graph.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not _has_vnni():
        # int8 products would be added in 16 bits, which overflow; this takes longer, and is right.
        options.add_session_config_entry("session.x64quantprecision", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    if not path.is_file():
        raise UserError(f"Found no file '{path.absolute()}'; expected an .onnx file. Check the path.")
    # ONNX Runtime takes no path that isn't UTF-8, but it takes the file's bytes.
    source = path if is_utf8(path) else path.read_bytes()
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises classes that it does not name publicly
        raise UserError(
            f"'{path.absolute()}' can't be opened by ONNX Runtime ({str(error).splitlines()[0]}). "
            "Export the model again."
        ) from None


@cache
def _has_vnni() -> bool:
    """Whether the processor tells that it adds int8 products in 32 bits."""
    told = Path("/proc/cpuinfo")
    return told.is_file() and "vnni" in told.read_text(encoding="utf-8", errors="replace")


def find_engine(model: str) -> Path | None:
    """Where the graph of a run folder, a model folder or a packaged network is kept, whether it has been made or not.

    None for other names: what their weights are is known when they are loaded.
    """
    files = _find_files(model)
    return None if files is None else place_engine([content_hash(file) for file in files])


def place_engine(words: Sequence[str]) -> Path:
    """The place of a graph in the cache, of all that decides its numbers: content of weights and description."""
    return find_engines() / f"{name_engine(words)}.onnx"


def name_engine(words: Sequence[str]) -> str:
    """A word that is another for any other of these, and for other versions of the libraries."""
    versions = {name: version for name, version in read_versions().items() if name != "platform"}
    text = json.dumps([FORMAT, list(words), versions])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def find_engines() -> Path:
    """The folder of the cache in which graphs are."""
    return find_cache() / "engines"


def _find_files(model: str) -> list[Path] | None:
    folder = find_model(Path(model))
    files = [folder / "config.json", folder / "model.safetensors"]
    if folder.is_dir():
        return files if all(file.is_file() for file in files) else None
    return [find_packaged(model)] if model in PACKAGED else None
