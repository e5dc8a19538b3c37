"""Card: what is known of a classifier before it is asked anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from whycam.data.preprocess import Preprocess
from whycam.errors import UserError, with_article

Output = Literal["logits", "multi-label logits"]
# Of labels that may go together, one is given from here on, where the model does not say otherwise.
HALF = 0.5
# Where exact maps come from, in the words that are recorded.
POOLED, LINEAR = "features before pooling", "GAP + linear"


def find_given(shares: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Which labels are given, by probabilities (..., K): at their threshold, or over one half without one."""
    return np.asarray(shares >= np.asarray(thresholds, shares.dtype) if thresholds else shares > HALF)


@dataclass(frozen=True)
class Card:
    """See the module.

    Attributes:
        name: what it was loaded by.
        class_names: K names, in the order of the logits.
        preprocess: from a photo to the input.
        kind: of model, in a word or two: run folder, timm, ONNX file, module, ...
        preprocess_from: where the preprocessing is known from, in words.
        output: what the scores are: logits of classes that exclude each other, or of labels that don't.
        activation: what the model's own output does with them, in words; empty where it gives them as they are.
        is_exportable: whether the exported graph can answer for it.
        origin: backbone, weights, identity error: recorded with each result.
        device: where it computes: cpu, cuda, mps.
        no_exact_map: why it has no exact maps; empty where it has.
        answers: what map methods may need of it (`Method.needs`); None: whatever they do.
        layer, tail: whose features the exact maps weigh, and what stands between those and the logits.
        thresholds: of multi-label logits, K probabilities from which on a class is given; empty: over one half.
    """

    name: str
    class_names: tuple[str, ...]
    preprocess: Preprocess
    origin: Mapping[str, Any]
    device: str = "cpu"
    no_exact_map: str = ""
    kind: str = ""
    preprocess_from: str = ""
    output: Output = "logits"
    activation: str = ""
    is_exportable: bool = True
    answers: frozenset[str] | None = None
    layer: str = POOLED
    tail: str = LINEAR
    thresholds: tuple[float, ...] = ()

    @property
    def is_exact(self) -> bool:
        """Whether mean(map) + bias is the logit of every class."""
        return not self.no_exact_map

    @property
    def a_kind(self) -> str:
        """The kind with its article."""
        return with_article(self.kind)

    @property
    def is_multi_label(self) -> bool:
        """Whether several labels may be right at once."""
        return self.output == "multi-label logits"

    def is_given(self, shares: np.ndarray) -> np.ndarray:
        """Which labels are given, by probabilities (..., K)."""
        return find_given(shares, self.thresholds)

    def answers_for(self, need: str) -> bool:
        """Whether it gives what a map method needs (`Method.needs`)."""
        if need == "linear head":
            return self.is_exact
        return self.answers is None or need in self.answers

    def tell_exactness(self) -> str:
        """Whether its maps are exact, by how much and of what; or why not."""
        if self.no_exact_map:
            return f"no: {self.no_exact_map}"
        error = self.origin.get("identity_error")
        size = f", off by {error:.1g} of the logits' range" if isinstance(error, float) else ""
        return f"yes: mean(map) + bias = logit{size}; of {self.layer!r}, {self.tail}"

    def check_exact(self, purpose: str = "") -> None:
        """Refuses what takes exact maps, where there are none.

        Raises:
            UserError: the measured reason, behind a sentence on what they are wanted for.
        """
        if self.no_exact_map:
            raise UserError(f"{purpose} {self.no_exact_map}".strip())
