"""Photos of which everything is known: the class's logit is the mean red of a rectangle, and nothing else counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from whycam.data.annotations import Truth
from whycam.metrics.case import Case, Photos, Score

SIDE = 32
# Where the class is, as x0, y0, x1, y1.
PLACE = (8, 4, 20, 24)
METHODS = ("red", "fixed")


class Red(nn.Module):
    """logits (N, 3): `gain` times the mean red of the rectangle, the mean green of all, 0."""

    def __init__(self, gain: float = 6.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))
        self.where = nn.Parameter(make_mask().float() / make_mask().sum())

    def forward(self, images: Tensor) -> Tensor:
        red = self.gain * (images[:, 0] * self.where).sum(dim=(1, 2))
        return torch.stack([red, images[:, 1].mean(dim=(1, 2)), torch.zeros_like(red)], dim=1)


def make_mask() -> Tensor:
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    x0, y0, x1, y1 = PLACE
    mask[y0:y1, x0:x1] = True
    return mask


def make_images(count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    images = 0.4 * torch.randn(count, 3, SIDE, SIDE, generator=generator)
    images[:, 0, make_mask()] += 1
    return images


def make_photos(images: Tensor | None = None, *, seed: int = 0, has_mask: bool = True, is_known: bool = True) -> Photos:
    images = make_images() if images is None else images
    network = Red().eval()

    def explain(methods: Sequence[str], batch: Tensor, target: Tensor, other: nn.Module | None) -> dict[str, Tensor]:
        with torch.no_grad():
            used = other or network
            red = batch[:, 0] * used.where * used.gain
        red = torch.where((target == 0).view(-1, 1, 1), red, batch[:, 1] / SIDE**2)
        found = {"red": red, "fixed": make_mask().float().expand(len(batch), -1, -1).clone()}
        return {method: found[method] for method in methods}

    def run(batch: Tensor) -> Tensor:
        with torch.no_grad():
            return network(batch)

    truth = Truth((SIDE, SIDE), torch.tensor([PLACE]).numpy().astype(float), make_mask().numpy() if has_mask else None)
    count = len(images)
    return Photos(
        images,
        Score(run, torch.zeros(count, dtype=torch.long), chunk=5),
        [truth if is_known else None] * count,
        METHODS,
        explain,
        network,
        torch.tensor([-1.0, -1.0, -1.0]),
        torch.tensor([[1.0, 1.0]] * count),
        seed,
    )


def make_case(maps: Tensor | None = None, method: str = "red", **how: object) -> Case:
    photos = make_photos(**how)  # type: ignore[arg-type]
    if maps is None:
        maps = photos.explain_all(photos.images)[method]
    return Case(photos, maps, method)


def make_random(count: int = 3) -> Tensor:
    return torch.rand(count, SIDE, SIDE, generator=torch.Generator().manual_seed(8))


def make_true(count: int = 3) -> Tensor:
    """The mask itself, with a little noise so that no two cells are equal."""
    return make_mask().float() + 1e-3 * make_random(count)
