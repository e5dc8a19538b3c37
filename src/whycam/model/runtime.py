"""Runtime: what runs a classifier that is no torch module, such as an ONNX file or a plain function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from whycam.model.onnx.engine import Answer

if TYPE_CHECKING:
    from whycam.model.cut.own import SelfCut


class Runtime(Protocol):
    """Answers for normalised images (B, C, H, W) float32; called from several threads.

    Attributes:
        name: onnx or function.
    """

    name: str

    @property
    def bias(self) -> np.ndarray | None:
        """(K,): mean(map) + bias = logit; None without exact maps."""
        ...

    @property
    def weight(self) -> np.ndarray | None:
        """(K, C): pooled features @ weight.T + bias = logit; None without exact maps."""
        ...

    def scores(self, images: np.ndarray) -> np.ndarray:
        """(B, K) logits."""
        ...

    def read(self, images: np.ndarray) -> Answer:
        """Logits and every class's map, where maps are exact."""
        ...

    def as_module(self) -> SelfCut:
        """The model as a module that says itself where it can be cut; torch is imported for it."""
        ...

    def describe(self) -> dict[str, Any]:
        """What is recorded of it with each result."""
        ...
