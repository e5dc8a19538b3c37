"""A classifier that is sent to other machines as its exported graph: they need no model folder, and answer alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from whycam.errors import UserError
from whycam.model.cache import open_or_make
from whycam.model.card import Card
from whycam.model.classifier import Classifier
from whycam.model.onnx.engine import OnnxEngine, find_engines

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class SentGraph:
    """An exported graph that goes into another machine's cache, so that none is made there.

    Attributes:
        stem: of its file in the cache, a hash of all that decides its numbers.
        content: the graph.
    """

    stem: str
    content: bytes = field(repr=False)

    @classmethod
    def of(cls, path: Path) -> Self:
        """The graph that lies there in this machine's cache."""
        return cls(path.stem, path.read_bytes())

    def open(self, threads: int | None = None) -> OnnxEngine:
        """The graph, which is kept in this machine's cache.

        Raises:
            UserError: the cache can't be written to.
        """
        place = find_engines() / f"{self.stem}.onnx"

        def make() -> dict[str, str]:
            place.write_bytes(self.content)
            return {"sent": self.stem}

        return open_or_make(place, make, lambda path, _about: OnnxEngine(path, threads))[0]


@dataclass(frozen=True)
class SentClassifier:
    """What it takes to open the same exact maps elsewhere.

    Attributes:
        card: of the classifier.
        graph: of its maps.
    """

    card: Card
    graph: SentGraph

    @classmethod
    def of(cls, classifier: Classifier) -> Self | None:
        """The classifier by its exported graph, which is made where it should answer; None where another one does."""
        path = classifier.find_graph("maps")
        return None if path is None else cls(classifier.card, SentGraph.of(path))

    def open(self, threads: int | None = None) -> Classifier:
        """The classifier; its graph is kept in this machine's cache.

        Raises:
            UserError: the cache can't be written to.
        """
        graph = self.graph.open(threads)
        return Classifier(self.card, self._refuse, threads=threads, place=graph.path).holding(graph)

    def _refuse(self) -> nn.Module:
        raise UserError(
            f"{self.card.name!r} was sent here as a graph, which has exact maps and scores alone. "
            f"Open it from '{Path(self.card.name)}' where the network itself is wanted."
        )
