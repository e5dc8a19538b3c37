"""Who reads the photos of `whycam explain`: the exported graph where it has the answer, else the network itself."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from whycam.config import ExplainOptions
from whycam.data.preprocess import Preprocess
from whycam.errors import UserError
from whycam.explainer.exact import EngineReader, is_answered
from whycam.explainer.reading import Reading
from whycam.model.cache import is_cached
from whycam.model.onnx.engine import find_engine, open_kept

if TYPE_CHECKING:
    from whycam.explainer.model import Model

log = logging.getLogger("whycam.explain")
# From so many photos on, the time for an export is soon won back.
_EXPORT_FROM_PHOTOS = 200


class Reader(Protocol):
    """Pixels (N, 3, H, W) uint8 and their N photos -> N readings; called from several threads."""

    @property
    def preprocess(self) -> Preprocess:
        """From a photo to the pixels."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """K names."""
        ...

    def __call__(self, pixels: np.ndarray, photos: Sequence[Image.Image | None]) -> list[Reading]:
        """See the class."""
        ...


class NetworkReader:
    """Readings by the network and any method."""

    def __init__(self, model: Model, options: ExplainOptions) -> None:
        self.model, self.options, self.how = model, options, read_how(options)
        # A network changes its state while a method runs.
        self._lock = threading.Lock()

    @property
    def preprocess(self) -> Preprocess:
        """See Reader."""
        return self.model.preprocess

    @property
    def class_names(self) -> tuple[str, ...]:
        """See Reader."""
        return self.model.class_names

    def __call__(self, pixels: np.ndarray, photos: Sequence[Image.Image | None]) -> list[Reading]:
        """See Reader."""
        known = tuple(photo for photo in photos if photo is not None)
        with self._lock:
            why: Any = self.model.explain_pixels(pixels, self.options.target, photos=known, **self.how)
        return [why.reading(i) for i in range(len(pixels))]


def choose_reader(name: str, options: ExplainOptions, photos: int) -> Reader:
    """The fastest reader that gives what the options ask for.

    Raises:
        UserError: an unknown model, class or method, or an engine that has not the answer.
    """
    how = read_how(options)
    has_answer = is_answered(how.pop("method"), options.target, how) and options.device in {"auto", "cpu"}
    if options.engine == "onnx" and not has_answer:
        raise UserError(
            "--engine onnx has the exact maps of classes alone; found options that need the network "
            "(another method, a layer, --smooth, --refine, an --option, or a GPU). Leave --engine out."
        )
    # The engine has a thread a call: several batches are under way at once.
    wants_engine = has_answer and (options.engine == "onnx" or (options.engine == "auto" and not _has_gpu(options)))
    path = find_engine(name) if wants_engine else None
    engine = open_kept(path, threads=1) if path else None
    if engine is None:
        from whycam.explainer.model import load, make_engine  # noqa: PLC0415 - torch, which an engine at hand does without

        model = load(name, device=options.device, engine="torch")
        # A graph that can't be believed had been worth it once.
        is_worth_it = not model.no_exact_map and (photos >= _EXPORT_FROM_PHOTOS or (path and is_cached(path)))
        if not wants_engine or (options.engine == "auto" and not is_worth_it):
            return NetworkReader(model, options)
        try:
            engine = make_engine(model, path, threads=1)
        except UserError as error:
            if options.engine == "onnx":
                raise
            log.warning("Explaining with torch: %s", error)
            return NetworkReader(model, options)
    return EngineReader(engine, name, options.target, options.versus)


def _has_gpu(options: ExplainOptions) -> bool:
    """Whether torch would find one: a guess that costs nothing."""
    return options.device == "auto" and (Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None)


def read_how(options: ExplainOptions) -> dict[str, Any]:
    """What the options say of the maps, in the words of `whycam.explain`.

    Raises:
        UserError: an option of the method that is not name=value.
    """
    own = {}
    for text in options.option:
        name, sign, value = text.partition("=")
        if not sign:
            raise UserError(f"--option is {text!r}; expected name=value. For example: --option masks=500.")
        own[name] = value
    layers = options.layer.split(",") if options.layer else None
    return {
        "method": options.method,
        "versus": options.versus,
        "layer": layers[0] if layers and len(layers) == 1 else layers,
        "fuse": options.fuse if layers and len(layers) > 1 else None,
        "smooth": options.smooth,
        "refine": options.refine or None,
        **own,
    }
