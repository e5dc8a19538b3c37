"""What a metric is given: photos with one method's maps, and how to ask the model for more."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from whycam.data.annotations import Truth

T = TypeVar("T")
BASELINES = ("blur", "mean", "zero")


@dataclass(frozen=True)
class Score:
    """The number that perturbations change: the probability of each photo's class.

    Attributes:
        run: images (B, ...) as the network takes them -> logits (B, K), by any engine, in batches of any size.
        target: (N,) class of each photo.
        chunk: the most images in one call.
        is_multi_label: each logit has a probability of its own.
    """

    run: Callable[[Tensor], Tensor]
    target: Tensor
    chunk: int = 32
    is_multi_label: bool = False

    def __call__(self, images: Tensor, rows: Tensor) -> Tensor:
        """(B, 2): probability and logit of images (B, ...), `rows` (B,) saying which photo each is made of."""
        logits = self.run(images).float()
        target = self.target[rows, None]
        shares = logits.sigmoid() if self.is_multi_label else logits.softmax(1)
        return torch.cat([shares.gather(1, target), logits.gather(1, target)], dim=1)

    def sweep(self, make: Callable[[Tensor, Tensor], Tensor], count: int) -> Tensor:
        """(N, count, 2): probability and logit of `count` variants of each photo.

        Args:
            make: (rows (B,), steps (B,)) -> images (B, ...); a chunk of them is in memory at a time.
            count: the steps are 0..count - 1.
        """
        every = torch.arange(len(self.target) * count, device=self.target.device)
        return self.walk(make, every // count, every % count).view(len(self.target), count, 2)

    def walk(self, make: Callable[[Tensor, Tensor], Tensor], rows: Tensor, steps: Tensor) -> Tensor:
        """(B, 2): probability and logit of any variants, those that `rows` (B,) and `steps` (B,) name; see `sweep`."""
        parts = zip(rows.split(self.chunk), steps.split(self.chunk), strict=True)
        found = [self(make(some, at), some) for some, at in parts if len(some)]
        return torch.cat(found) if found else torch.zeros(0, 2)


@dataclass(frozen=True)
class Shared:
    """What several metrics want of the same thing is computed once."""

    _kept: dict[object, object] = field(default_factory=dict, kw_only=True, repr=False, compare=False)

    def once(self, key: object, make: Callable[[], T]) -> T:
        """What `make` gives, computed the first time."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]  # type: ignore[return-value]


@dataclass(frozen=True)
class Photos(Shared):
    """N photos and what is known of them without any map: all methods share it, with what has been computed of it.

    Attributes:
        images: (N, 3, H, W), normalised.
        score: see there.
        truths: where the object of each photo's class is, as far as that is known.
        methods: whose maps are asked for.
        explain: (methods, images (N, ...), target (N,), network) -> method -> raw maps (N, h, w), all of one forward
            pass; None takes the network itself.
        network: the classifier.
        black: (3,) black in the network's input; what `zero` puts in a pixel's place.
        hits: (N, 2) whether the photo's true class is the first of the prediction, and among its five first; None
            without labels.
        seed: what is drawn at random depends on it and on the photo, not on the batch.
        tolerance: how far from straight a stretch of a curve is whose points are left out; see `curves.trace`.
    """

    images: Tensor
    score: Score
    truths: Sequence[Truth | None]
    methods: tuple[str, ...]
    explain: Callable[[Sequence[str], Tensor, Tensor, nn.Module | None], dict[str, Tensor]]
    network: nn.Module
    black: Tensor
    hits: Tensor | None = None
    seed: int = 0
    tolerance: float = 0.0

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the images."""
        return self.images.shape[-2], self.images.shape[-1]

    @cached_property
    def clean(self) -> Tensor:
        """(N, 2): probability and logit of the photos as they are."""
        return self.score.sweep(lambda rows, _: self.images[rows], 1)[:, 0]

    def generators(self, purpose: str) -> list[torch.Generator]:
        """A random generator for each photo, on the CPU: it depends on the seed, the purpose and the photo alone."""
        made = []
        for image in self.images.to(torch.bfloat16).float().cpu():
            digest = hashlib.blake2b(image.contiguous().numpy().tobytes(), digest_size=7, key=purpose.encode()[:64])
            digest.update(str(self.seed).encode())
            made.append(torch.Generator().manual_seed(int.from_bytes(digest.digest())))
        return made

    @cached_property
    def shuffle(self) -> Tensor:
        """(N, H * W): an order of each photo's pixels at random, which decides between equal ones."""
        count = self.size[0] * self.size[1]
        return torch.stack([torch.randperm(count, generator=g) for g in self.generators("ties")]).to(self.images.device)

    def baseline(self, name: str) -> Tensor:
        """(N, 3, H, W): what stands where a pixel is taken away.

        `blur`: the photo, blurred by a Gaussian of an eleventh of its side. `mean`: 0 of the normalised input, the
        mean colour that the network was trained with. `zero`: black.
        """
        return self.once(("baseline", name), lambda: self._make_baseline(name))

    def _make_baseline(self, name: str) -> Tensor:
        if name == "blur":
            return _blur(self.images)
        if name == "zero":
            return self.black.to(self.images).view(1, -1, 1, 1).expand_as(self.images)
        return torch.zeros_like(self.images)

    def explain_all(
        self, images: Tensor, target: Tensor | None = None, network: nn.Module | None = None
    ) -> dict[str, Tensor]:
        """Method -> (N, h, w) raw maps of other images, classes or networks, for metrics that ask the same of each."""
        return self.explain(self.methods, images, self.score.target if target is None else target, network)

    def empty(self, name: str) -> Tensor:
        """(N, 2): probability and logit of the baseline alone."""
        return self.once(("empty", name), lambda: self.score.sweep(lambda rows, _: self.baseline(name)[rows], 1)[:, 0])


@dataclass(frozen=True)
class Case(Shared):
    """Photos with the maps of one method: what a metric reads.

    Attributes:
        photos: see there.
        maps: (N, h, w) raw.
        method: what made them, to ask for more maps.
    """

    photos: Photos
    maps: Tensor
    method: str = ""

    def __len__(self) -> int:
        return len(self.maps)

    def explain(self, images: Tensor) -> Tensor:
        """(N, h, w): raw maps of other images, which depend on these maps, by the same method."""
        return self.photos.explain((self.method,), images, self.photos.score.target, None)[self.method]

    @cached_property
    def surface(self) -> Tensor:
        """(N, H, W): the raw maps at the images' size, bilinear: their order is the order of pixels."""
        return resize(self.maps, self.photos.size)

    @cached_property
    def heatmaps(self) -> Tensor:
        """(N, H, W) in [0, 1]: the positive part of the surface, over its maximum."""
        return to_heat(self.surface)

    @cached_property
    def ranks(self) -> Tensor:
        """(N, H * W): each pixel's place, 0 the most relevant; among equal ones at random by the seed."""
        return rank(self.surface.flatten(1), self.photos.shuffle)


def resize(maps: Tensor, size: tuple[int, int], mode: str = "bilinear") -> Tensor:
    """(N, H, W) of maps (N, h, w); half-pixel centres."""
    if maps.shape[-2:] == size:
        return maps
    return functional.interpolate(maps[:, None], size, mode=mode, align_corners=False)[:, 0]


def to_heat(maps: Tensor) -> Tensor:
    """The positive part over its maximum; all zero where there is none."""
    positive = maps.clamp(min=0)
    return positive / positive.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)


def rank(values: Tensor, shuffle: Tensor) -> Tensor:
    """(N, P): places of values (N, P), the highest first; `shuffle` (N, P) orders equal ones."""
    order = shuffle.gather(1, values.gather(1, shuffle).argsort(dim=1, descending=True, stable=True))
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def correlate(left: Tensor, right: Tensor) -> Tensor:
    """(N,): Pearson's correlation of values (N, P); NaN where either is constant."""
    left, right = left.double(), right.double()
    left, right = left - left.mean(1, keepdim=True), right - right.mean(1, keepdim=True)
    related: Tensor = (left * right).sum(1) / (left.norm(dim=1) * right.norm(dim=1))
    return related.float()


def _blur(images: Tensor) -> Tensor:
    """A Gaussian whose sigma is 1/22 of the side, so that no object is left of the photo; borders repeated."""
    for axis in (2, 3):
        sigma = images.shape[axis] / 22
        reach = min(max(1, round(2.5 * sigma)), images.shape[axis] - 1)
        steps = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
        bell = torch.exp(-steps.square() / (2 * sigma**2))
        kernel = (bell / bell.sum()).view(1, 1, *((-1, 1) if axis == 2 else (1, -1)))
        pad = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
        padded = functional.pad(images, pad, mode="replicate").flatten(0, 1)[:, None]
        images = functional.conv2d(padded, kernel).view(images.shape)
    return images
