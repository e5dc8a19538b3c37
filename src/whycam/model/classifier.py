"""Classifier: what every room above asks of a model, and the one place where it is decided which runtime answers.

Importing this needs no torch; asking for `network` or `cut` does, and so does an answer that no exported graph has.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numpy as np

from whycam.data.samples import make_probe
from whycam.errors import UserError
from whycam.model.cache import is_cached
from whycam.model.card import Card
from whycam.model.onnx.engine import Answer, OnnxEngine, check_engine, open_kept, place_engine

if TYPE_CHECKING:
    from torch import Tensor, nn

    from whycam.model.cut.base import Cut
    from whycam.model.cut.own import SelfCut
    from whycam.model.gap import GapClassifier
    from whycam.model.runtime import Runtime

log = logging.getLogger("whycam.model")
Answerer = Literal["onnx", "torch"]
# From so many photos on, the time for an export is soon won back.
MANY = 200
# So many images at a time a graph scores fastest.
CHUNK = 32


def choose_runtime(engine: str, card: Card, *, is_at_hand: bool, photos: int) -> Answerer:
    """What answers: the exported graph in ONNX Runtime, or the network in torch.

    Args:
        engine: onnx and torch are done as told; auto takes the graph of an exact classifier on a CPU, where it is at
            hand or pays.
        card: of the classifier.
        is_at_hand: the graph is in the cache.
        photos: how many are expected.

    Raises:
        UserError: onnx is told, and there are no exact maps to export.
    """
    check_engine(engine)
    if engine == "onnx":
        card.check_exact()
        if not card.is_exportable:
            raise UserError(
                f"--engine onnx has the exported graph of models that whycam trained and of timm's; {card.name!r} is "
                f"{card.a_kind}. Leave --engine out; or export it to ONNX with its own library, and explain that file."
            )
        return "onnx"
    is_possible = engine == "auto" and card.is_exact and card.is_exportable and card.device == "cpu"
    return "onnx" if is_possible and (is_at_hand or photos >= MANY) else "torch"


@dataclass
class _Parts:
    """What all views of one classifier share; filled as it is asked for."""

    network: nn.Module | Callable[[], nn.Module]
    place: Path | None
    runtime: Runtime | None
    graphs: dict[str, OnnxEngine] = field(default_factory=dict)
    cuts: dict[object, Cut] = field(default_factory=dict)
    # A network changes its state while it is cut or differentiated, and a graph is made once.
    lock: threading.RLock = field(default_factory=threading.RLock)


class Classifier:
    """A classifier that answers for photos' pixels by the fastest runtime that this machine has; safe to share."""

    def __init__(
        self,
        card: Card,
        network: nn.Module | Callable[[], nn.Module] | Runtime,
        *,
        engine: str = "auto",
        photos: int = 1,
        threads: int | None = None,
        place: Path | None = None,
    ) -> None:
        """Loads and exports nothing yet.

        Args:
            card: see there.
            network: the module in eval mode, or what loads it, or what runs a model that is none.
            engine: see `choose_runtime`.
            photos: how many are expected.
            threads: that one call of a graph uses; None takes one for each core.
            place: of the exported graph in the cache; None finds it by the network's tensors.
        """
        check_engine(engine)
        self.card, self.engine, self.photos, self.threads = card, engine, photos, threads
        self.pools = False
        runtime = cast("Runtime", network) if hasattr(network, "as_module") else None
        self._parts = _Parts(runtime.as_module if runtime else cast("nn.Module", network), place, runtime)
        self._failed: set[str] = set()

    def holding(self, graph: OnnxEngine) -> Self:
        """Itself, with a graph of its exact maps that has been opened."""
        self._parts.graphs["maps"] = graph
        return self

    def ready(self) -> Self:
        """Itself, with the graph of its exact maps opened, or made, where that is to answer.

        Raises:
            UserError: engine is onnx, and the graph can't be had.
        """
        self._find_graph("maps")
        return self

    def having(
        self, *, engine: str | None = None, photos: int = MANY, pools: bool | None = None, **card: Any
    ) -> Classifier:
        """The same classifier, asked by another engine, for more photos, or with another entry in its card.

        With `pools` its `read` gives the pooled features too.
        """
        view = copy(self)
        view.pools = self.pools if pools is None else pools
        view.card, view.engine, view.photos = replace(self.card, **card), check_engine(engine or self.engine), photos
        view._failed = set()
        return view

    def swap(self, network: nn.Module) -> Classifier:
        """Another network of the same form in its place, such as one whose weights are random; run by torch."""
        return Classifier(self.card, network, engine="torch")

    @property
    def network(self) -> nn.Module:
        """The module, in eval mode, on the card's device; of a model that is none, one that asks its runtime."""
        with self._parts.lock:
            if not _is_module(self._parts.network):
                self._parts.network = cast("Callable[[], nn.Module]", self._parts.network)()
            return cast("nn.Module", self._parts.network)

    @property
    def exact_network(self) -> GapClassifier:
        """The network whose maps are exact, for what is more than a question: export and refined maps.

        Raises:
            UserError: it has no exact maps.
        """
        self.card.check_exact()
        if not self.card.is_exportable:
            raise UserError(
                f"{self.card.name!r} is {self.card.a_kind}; export and refined maps need a model that whycam trained, "
                "or a timm name whose maps are exact. Its plain maps are exact: leave the refinement out; or export it "
                "to ONNX with its own library, and explain that file."
            )
        return cast("GapClassifier", self.network)

    def hash_state(self) -> str:
        """Changes with the weights that answer; empty of a graph or another runtime, whose answers stay as they are."""
        if self._parts.runtime is not None or self._find_graph("maps") is not None:
            return ""
        from whycam.model.backbone import hash_tensors  # noqa: PLC0415 - torch, which is what answers

        return hash_tensors(self.network.state_dict())

    @property
    def is_torch_free(self) -> bool:
        """Whether nothing that it is asked brings torch in: it is run by something else."""
        return self._parts.runtime is not None

    @property
    def bias(self) -> list[float] | None:
        """(K,): mean(map) + bias = logit; None without exact maps."""
        if not self.card.is_exact:
            return None
        if self._parts.runtime is not None:
            return [float(value) for value in cast(np.ndarray, self._parts.runtime.bias)]
        graph = self._find_graph("maps")
        return self._read_bias() if graph is None else list(graph.metadata.bias)

    def _read_bias(self) -> list[float]:
        cut = self.cut(self._normalise(make_probe(self.card.preprocess)), reads_tail=False)
        return [float(value) for value in cast("Tensor", cut.bias)]

    @property
    def weight(self) -> np.ndarray | None:
        """(K, C): pooled features @ weight.T + bias = logit; None without exact maps."""
        if not self.card.is_exact:
            return None
        if self._parts.runtime is not None:
            return self._parts.runtime.weight
        graph = self._find_graph("maps")
        if graph is not None:
            return graph.pooling.weight
        cut = self.cut(self._normalise(make_probe(self.card.preprocess)), reads_tail=False)
        return cast("Tensor", cut.weight).detach().cpu().numpy()

    @property
    def runtime(self) -> str:
        """What gives scores: onnx, torch, or a function; a graph that can be had is made for the answer."""
        if self._parts.runtime is not None:
            return self._parts.runtime.name
        return "torch" if self._find_graph("scores") is None else "onnx"

    def find_graph(self, gives: Literal["maps", "scores"]) -> Path | None:
        """The file of the exported graph that gives this, made where it should; None where no exported graph does."""
        found = self._find_graph(gives) if self.card.is_exact else None
        return None if found is None else found.path

    @property
    def chunk(self) -> int:
        """How many images at a time are scored fastest."""
        # On a CPU a few photos' activations stay in its cache.
        return 8 if self.runtime == "torch" and self.card.device == "cpu" else CHUNK

    def scores(self, pixels: np.ndarray) -> np.ndarray:
        """(B, K) logits of any number of photos' pixels (B, 3, H, W) uint8."""
        parts = [pixels[start : start + CHUNK] for start in range(0, len(pixels), CHUNK)]
        if (runtime := self._parts.runtime) is not None:
            return np.concatenate([runtime.scores(self.card.preprocess.normalise(part)) for part in parts])
        graph = self._find_graph("maps")
        if graph is None:
            return self.score_inputs(self._normalise(pixels)).detach().cpu().numpy()
        return np.concatenate([graph(part).logits for part in parts])

    def score_inputs(self, images: Tensor) -> Tensor:
        """(B, K) logits of any number of images (B, 3, H, W) float32, normalised, on any device; on theirs."""
        import torch  # noqa: PLC0415 - whoever has a tensor has imported it

        runtime = self._parts.runtime
        graph = self._find_graph("scores")
        if runtime is None and graph is None:
            return self._score_by_network(images)
        run = runtime.scores if runtime is not None else lambda part: cast(OnnxEngine, graph)(part).logits
        parts = [run(part.cpu().numpy()) for part in images.split(CHUNK)]
        return torch.from_numpy(np.concatenate(parts)).to(images.device)

    def read(self, pixels: np.ndarray) -> Answer:
        """Logits and every class's map of pixels (B, 3, H, W) uint8; see `having` for the pooled features.

        Raises:
            UserError: no exact maps, and why.
        """
        self.card.check_exact()
        if self._parts.runtime is not None:
            return self._parts.runtime.read(self.card.preprocess.normalise(pixels))
        graph = self._find_graph("maps")
        if graph is None:
            return self._read_by_network(pixels)
        return graph.read_pooled(pixels) if self.pools else graph(pixels)

    def describe_read(self) -> dict[str, Any]:
        """What is recorded of the runtime that gives the maps; nothing for torch, which all else is measured by."""
        if self._parts.runtime is not None:
            return self._parts.runtime.describe()
        graph = self._find_graph("maps")
        if graph is None:
            return {}
        return {
            "engine": f"onnxruntime {graph.metadata.versions['onnxruntime']}",
            "parity_error": graph.metadata.parity_error,
        }

    def cut(
        self, images: Tensor, layer: str | None = None, *, reads_tail: bool = True, output: str | int | None = None
    ) -> Cut:
        """The model in two halves, for normalised images of that size; found once.

        Args:
            images: (N, 3, H, W); those of another size than photos are prepared in are probed with themselves.
            layer: its dotted name; None takes the last one with cells.
            reads_tail: whether the cells must reach the output.
            output: which entry of a dict or tuple holds the logits; None finds it.

        Raises:
            UserError: no such layer or entry, or a model that can't be cut.
        """
        if self._parts.runtime is not None:
            return cast("SelfCut", self.network).cut(images, layer)
        from whycam.model.cut.choose import cut_by_itself  # noqa: PLC0415 - torch
        from whycam.model.cut.tap import cut_model  # noqa: PLC0415 - torch

        key = (layer, images.shape[1:], images.dtype, reads_tail, output)
        with self._parts.lock:
            if key not in self._parts.cuts:
                # A GapClassifier's own split needs no search.
                is_known = layer is None and self.card.is_exportable
                probe = images if is_known else self._make_probe(images)
                if layer is None:
                    found = cut_by_itself(self.network, probe, reads_tail=reads_tail, output=output)
                else:
                    found = cut_model(self.network, probe, layer, needs_gradient=reads_tail, output=output)
                self._parts.cuts[key] = found
            return self._parts.cuts[key]

    def _make_probe(self, images: Tensor) -> Tensor:
        """Images to find a cut with: of a user's first photo, which may be black, nothing may depend."""
        found = self._normalise(make_probe(self.card.preprocess))
        return found.to(images) if found.shape[1:] == images.shape[1:] else images

    def _find_graph(self, gives: Literal["maps", "scores"]) -> OnnxEngine | None:
        """The graph that gives this, opened or made where it should answer; None where the network should."""
        with self._parts.lock:
            if gives in self._failed or self.engine == "torch" or self._parts.runtime is not None:
                return None
            if gives in self._parts.graphs:
                return self._parts.graphs[gives]
            known = self._parts.place and self._name_place(self._parts.place, gives)
            at_hand = known is not None and is_cached(known)
            if choose_runtime(self.engine, self.card, is_at_hand=at_hand, photos=self.photos) == "torch":
                self._failed.add(gives)
                return None
            try:
                place = self._name_place(self._find_place(), gives)
                found = open_kept(place, self.threads) or self._make_graph(gives, place)
            except (UserError, OSError) as error:
                if self.engine == "onnx":
                    raise
                log.warning("Explaining with torch: %s", error)
                self._failed.add(gives)
                return None
            self._parts.graphs[gives] = found
            return found

    def _find_place(self) -> Path:
        if self._parts.place is None:
            from whycam.model.backbone import hash_tensors  # noqa: PLC0415 - torch

            described = [self.card.preprocess.model_dump_json(), *self.card.class_names]
            self._parts.place = place_engine([hash_tensors(self.network.state_dict()), *described])
        return self._parts.place

    @staticmethod
    def _name_place(place: Path, gives: str) -> Path:
        return place if gives == "maps" else place.with_stem(f"{place.stem}-{gives}")

    def _make_graph(self, gives: str, place: Path) -> OnnxEngine:
        from whycam.model.onnx.export import open_cached  # noqa: PLC0415 - torch
        from whycam.model.onnx.parity import GraphOptions  # noqa: PLC0415 - torch

        # Where maps are not wanted: one class's are the least that a graph gives.
        options = GraphOptions(takes_uint8=True) if gives == "maps" else GraphOptions(topk=1)
        origin = self.card.origin
        return open_cached(place, self.exact_network, options, origin=origin, records={}, threads=self.threads)

    def _score_by_network(self, images: Tensor) -> Tensor:
        import torch  # noqa: PLC0415 - slow, and a graph does without

        from whycam.model.cut.output import select_output  # noqa: PLC0415 - torch

        with self._parts.lock, torch.no_grad():
            return torch.cat([select_output(self.network(part)).float() for part in images.split(self.chunk)])

    def _read_by_network(self, pixels: np.ndarray) -> Answer:
        import torch  # noqa: PLC0415 - slow, and a graph does without

        images = self._normalise(pixels)
        with self._parts.lock, torch.no_grad():
            logits, maps, pooled = self.cut(images, reads_tail=False).read_pooled(images)
        return Answer(logits.cpu().numpy(), maps.cpu().numpy(), pooled=pooled.cpu().numpy())

    def _normalise(self, pixels: np.ndarray) -> Tensor:
        import torch  # noqa: PLC0415 - slow, and a graph does without

        from whycam.model.input import normalise_on  # noqa: PLC0415 - torch

        return normalise_on(torch.from_numpy(pixels).to(self.card.device), self.card.preprocess)


def _is_module(thing: object) -> bool:
    """Whether it is a network, and not what loads one: a loader is a plain function."""
    return hasattr(thing, "state_dict")
