"""What is exported of a GapClassifier, and whether another runtime gives PyTorch's numbers of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from whycam.data.preprocess import Preprocess
from whycam.data.samples import load_samples
from whycam.errors import UserError
from whycam.model.gap import GapClassifier, probe_images
from whycam.model.input import normalise_on

PARITY_LIMIT = 1e-4


@dataclass(frozen=True)
class GraphOptions:
    """What a graph takes and gives.

    Attributes:
        takes_uint8: pixels as they are, normalised in the graph; else normalised float32.
        topk: give the maps of so many best classes alone; None gives all.
        is_dynamic: height and width are free too.
    """

    takes_uint8: bool = False
    topk: int | None = None
    is_dynamic: bool = False


class ExplainingNet(nn.Module):
    """images -> (logits, maps), or (logits, maps, classes) of the best T classes."""

    def __init__(self, model: GapClassifier, options: GraphOptions) -> None:
        super().__init__()
        self.model, self.options = model, options

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        if self.options.takes_uint8:
            images = normalise_on(images, self.model.preprocess)
        features = self.model.features(images)
        logits = self.model.classify(features)
        if self.options.topk is None:
            return logits, self.model.compute_maps(features)
        classes = logits.topk(self.options.topk, dim=1).indices
        maps = self.model.classifier.weight[classes] @ features.flatten(2)
        return logits, maps.unflatten(2, features.shape[2:]), classes


def read_sample_pixels(preprocess: Preprocess) -> np.ndarray:
    """(2, 3, H, W) uint8: installed photos as the network takes them."""
    return np.stack([preprocess.to_pixels(photo) for photo in load_samples(2)])


def make_batches(model: GapClassifier, options: GraphOptions) -> list[Tensor]:
    """Inputs to compare on: two photos, then noise, one image and three; of another size too where that is free."""
    preprocess = model.preprocess
    photos = read_sample_pixels(preprocess)
    noise = probe_images(preprocess, 3)
    if options.is_dynamic:
        stride = model.origin.map_stride
        wide = nn.functional.interpolate(noise, (noise.shape[2] + 2 * stride, noise.shape[3] + stride))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
    real = torch.from_numpy(photos)

    def to_input(images: Tensor) -> Tensor:
        return ((images * std + mean) * 255).round().clamp(0, 255).byte() if options.takes_uint8 else images

    first = real if options.takes_uint8 else torch.from_numpy(preprocess.normalise(photos))
    return [first, to_input(noise[:1]), to_input(noise), *([to_input(wide[:2])] if options.is_dynamic else [])]


@torch.no_grad()
def measure_parity(
    net: ExplainingNet, run: Callable[[np.ndarray], Sequence[np.ndarray]], batches: list[Tensor]
) -> dict[str, float]:
    """The largest difference of logits and of maps to PyTorch's on the batches, as a share of their range.

    Args:
        net: PyTorch's.
        run: images -> the outputs of another runtime, in the same order.
        batches: images as `net` takes them.
    """
    found = {"logits": 0.0, "maps": 0.0}
    for images in batches:
        expected, got = [value.numpy() for value in net(images)], run(images.numpy())
        for name, (ours, theirs) in {"logits": (got[0], expected[0]), "maps": _pair_maps(got, expected)}.items():
            spread = np.ptp(theirs.reshape(len(theirs), -1), axis=1).max() or 1
            gap = float(np.abs(ours - theirs).max() / spread) if ours.shape == theirs.shape else np.nan
            found[name] = max(found[name], gap) if np.isfinite(gap) else float("inf")
    return found


def _pair_maps(got: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The maps of both, of the same classes in the same order: two equal scores may change places."""
    if len(expected) == 2:
        return got[1], expected[1]
    if not (np.sort(got[2], 1) == np.sort(expected[2], 1)).all():
        return np.full_like(expected[1], np.nan), expected[1]
    ours, theirs = (values[2].argsort(1)[:, :, None, None] for values in (got, expected))
    return np.take_along_axis(got[1], ours, 1), np.take_along_axis(expected[1], theirs, 1)


def check_parity(found: Mapping[str, float], runtime: str) -> None:
    """Refuses a graph whose numbers are not PyTorch's.

    Raises:
        UserError: a difference over the limit.
    """
    if not max(found.values()) < PARITY_LIMIT:
        listed = ", ".join(f"{name} {gap:.2g}" for name, gap in found.items())
        raise UserError(
            f"{runtime} does not give PyTorch's numbers: they differ by {listed} of their range; expected under "
            f"{PARITY_LIMIT:g}. Nothing was written. Explain with --engine torch, or take another backbone."
        )
