"""OnnxCut: an ONNX file cut at a map, and OnnxModule: the file as a module, for the methods that are more than maps."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from whycam.model.cut.base import Cut, Trace
from whycam.model.cut.own import SelfCut
from whycam.model.cut.tail import run_linear
from whycam.model.onnx.file import OnnxFile
from whycam.model.onnx.split import Split


@dataclass(frozen=True, eq=False, kw_only=True)
class OnnxCut(Cut):
    """A graph in two halves (`split`) that ONNX Runtime runs; only behind a linear head there is a gradient."""

    split: Split = field(repr=False)

    def trace(self, images: Tensor) -> Trace:
        """See Cut."""
        split, pixels = self.split, _to_numpy(images)
        scores, found, kept = split.run(pixels)
        features = _to_tensor(found, images)
        if self.weight is not None and self.bias is not None:
            weight, bias = self.weight.to(images.device), self.bias.to(images.device)
            with torch.inference_mode(mode=False), torch.enable_grad():
                leaf = features.detach().requires_grad_()
                output = run_linear(leaf, weight, bias)
            return Trace(leaf, output, images, lambda part, _: run_linear(part, weight, bias))

        def tail(part: Tensor, rows: Tensor) -> Tensor:
            at = rows.cpu().numpy()
            given = split.run_tail(_to_numpy(part), [value[at] for value in kept], pixels[at])
            return _to_tensor(given, images)

        return Trace(features, _to_tensor(scores, images), images, tail)

    def run(self, images: Tensor) -> tuple[object, Tensor]:
        """See Cut."""
        scores, found, _ = self.split.run(_to_numpy(images))
        features = _to_tensor(found, images)
        if self.weight is not None and self.bias is not None:
            return run_linear(features, self.weight.to(images.device), self.bias.to(images.device)), features
        return _to_tensor(scores, images), features


class OnnxModule(SelfCut):
    """An ONNX file as a module in eval mode: images (N, C, H, W) -> logits (N, K), run by ONNX Runtime."""

    def __init__(self, file: OnnxFile) -> None:
        super().__init__()
        self.file = file
        self._cuts: dict[str | None, OnnxCut] = {}
        self._lock = threading.Lock()
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        return _to_tensor(self.file.scores(_to_numpy(images)), images)

    def cut(self, images: Tensor, layer: str | None = None) -> OnnxCut:
        """The graph cut at a tensor or node of that name, or at the last map before the head; found once.

        Raises:
            UserError: no such layer, one without cells, or a graph that can't be split there.
        """
        self.file.check(_to_numpy(images[:1]))
        with self._lock:
            if layer not in self._cuts:
                self._cuts[layer] = _make_cut(self.file, layer)
            return self._cuts[layer]


def _make_cut(file: OnnxFile, layer: str | None) -> OnnxCut:
    split, head = file.split(layer)
    if head is None:
        how = f"ONNX graph behind {split.cells.where}"
        reason = file.no_exact_map if layer is None else ""
        return OnnxCut(layer=split.cells.name, how=how, split=split, has_gradient=False, why_not_linear=reason)
    matrix = np.eye(file.class_count, dtype=np.float32) if head.weight is None else head.weight
    weight, bias = torch.from_numpy(matrix), torch.from_numpy(np.broadcast_to(head.bias, len(matrix)).copy())
    return OnnxCut(layer=file.layer, how=file.tail, weight=weight, bias=bias, split=split, has_gradient=True)


def _to_numpy(images: Tensor) -> np.ndarray:
    return np.asarray(images.detach().float().cpu().numpy())


def _to_tensor(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(like.device)
