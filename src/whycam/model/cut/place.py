"""Whether a layer follows the images, and whether its cells stand where their part of the image is: both measured.

No shape tells either: a second call of an encoder may read a fixed reference, tokens may be kept window by window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from whycam.model.cut.layout import Layout
from whycam.model.cut.tail import Site, run_with_swap, undisturbed

# Of the calls of 60 timm nets with random weights and of small trained ones, those whose cells stand right had nearly
# always less of them answering more than twice as much to another part of the image; in reordered tokens it was 0.5.
_MOST_AWAY = 0.35
# Where cells and parts agree by this much, the layer is placed right; the same nets' last layers had 0.6 to 1, and
# those whose every cell sees the whole image anything.
_AGREES = 0.5
_AGREES_BY_FAR = 0.75  # a transposed map, read with its channels as rows, has its columns right and 0.55
# Of the images' spread: a trained net's attention looks elsewhere for a stronger change, and hands that to all cells.
_STRENGTH = 0.3
_SAME = 1e-5  # what rounding may change, as a part of the largest


@dataclass(frozen=True)
class Place:
    """How the cells of a call answer to changes in one part of the image after the other.

    Attributes:
        layout: the order of the axes that agrees better with the image, where shapes allow for two.
        agreement: correlation, from -1 to 1, of the part that a cell answers to with the part that it lies in.
        away: of the cells that answer at all, how many answer more than twice as much to another part than to theirs,
            less one of them.
    """

    layout: Layout
    agreement: float
    away: float

    @property
    def is_right(self) -> bool:
        """Whether the cells were seen to stand where their part of the image is."""
        return self.agreement >= _AGREES

    @property
    def is_surely_right(self) -> bool:
        """The same, where the shapes speak against it."""
        return self.agreement >= _AGREES_BY_FAR

    @property
    def is_elsewhere(self) -> bool:
        """Whether the cells were seen to stand for other parts; False where each sees all parts alike."""
        return self.away > _MOST_AWAY and not self.is_right


def find_moving(sites: Sequence[Site], images: Tensor) -> list[bool]:
    """For each call whether its output changes with the images."""
    changed = 1.5 * images + _noise(images)
    return _differ(sites, lambda: sites[0].module(images), lambda: sites[0].module(changed))


def follows(later: Site, earlier: Site, images: Tensor) -> bool:
    """Whether the later call's output changes with that of the earlier one."""

    def disturb(raw: Tensor) -> Tensor:
        return raw + _noise(raw)

    module = later.module
    return _differ([later], lambda: module(images), lambda: run_with_swap(earlier, images, disturb))[0]


def measure_places(sites: Sequence[Site], layouts: Sequence[Layout], images: Tensor) -> list[Place]:
    """The place of each call, by one pass over the images as they are, and one changed image for each of 2^d parts."""
    if not sites:
        return []
    parts = list(product(range(2), repeat=images.ndim - 2))
    images = images[:1].expand_as(images)
    noise = _STRENGTH * _noise(images)
    orders = [_list_orders(layout) for layout in layouts]
    plain = _read_raw(sites, images)
    answers: list[list[list[Tensor]]] = [[[] for _ in order] for order in orders]
    for start in range(0, len(parts), len(images)):
        changed = images.clone()
        asked = parts[start : start + len(images)]
        for i, part in enumerate(asked):
            area = (slice(None), *(_half(length, p) for length, p in zip(images.shape[2:], part, strict=True)))
            changed[i][area] += noise[i][area]
        for raw, before, order, found in zip(_read_raw(sites, changed), plain, orders, answers, strict=True):
            for layout, rows in zip(order, found, strict=True):
                rows.extend(_answer(layout.read(raw) - layout.read(before))[: len(asked)])
    return [
        _choose_order([_judge(layout, torch.stack(rows), parts) for layout, rows in zip(order, found, strict=True)])
        for order, found in zip(orders, answers, strict=True)
    ]


def _choose_order(places: Sequence[Place]) -> Place:
    """The order that the shapes speak for, unless it is wrong and another agrees with the image by far."""
    first, *others = places
    return next((other for other in others if other.is_surely_right and not first.is_right), first)


def _list_orders(layout: Layout) -> list[Layout]:
    if layout.kind == "tokens":
        return [layout]
    return [layout, Layout("channels last" if layout.kind == "channels first" else "channels first")]


def _half(length: int, part: int) -> slice:
    middle = -(-length // 2)
    return slice(middle, None) if part else slice(middle)


def _answer(change: Tensor) -> Tensor:
    """(N, h, w): how much each cell changes beside what all of them share; -1 where it doesn't change at all.

    Attention hands a part of each change to every cell.
    """
    change = change.float()
    cells = change.flatten(2)
    own = cells - cells.mean(2, keepdim=True)
    if own.square().sum() < _SAME * cells.square().sum():  # rounding alone
        own = torch.zeros_like(own)
    found = own.square().sum(1).sqrt()
    return torch.where(cells.any(1), found, -1).view(len(change), *change.shape[2:])


def _judge(layout: Layout, answers: Tensor, parts: Sequence[tuple[int, ...]]) -> Place:
    """The place by (P, h, w) answers to P parts."""
    grid = answers.shape[1:]
    lies_in = torch.stack([_mask(grid, part) for part in parts]).flatten(1).to(answers)
    answers = answers.flatten(1)
    alive = (answers >= 0).any(0)
    answers = answers.clamp(min=0)[:, alive]
    answers = answers / answers.sum(1, keepdim=True).clamp(min=torch.finfo(answers.dtype).tiny)
    if not alive.any() or not answers.any():
        return Place(layout, 0.0, 0.0)
    lies_in = lies_in[:, alive]
    own, best = (answers * lies_in).amax(0), answers.amax(0)
    shares = answers / answers.sum(0).clamp(min=torch.finfo(answers.dtype).tiny)
    return Place(
        layout, _correlate(shares, lies_in / lies_in.sum(0)), float((2 * own < best).float().mean()) - 1 / own.numel()
    )


def _mask(grid: Sequence[int], part: tuple[int, ...]) -> Tensor:
    """The cells that overlap a part; a middle one lies in two."""
    axes = [
        torch.arange(1, 1 + length) > length / 2 if p else torch.arange(length) < length / 2
        for length, p in zip(grid, part, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).all(0)


def _correlate(a: Tensor, b: Tensor) -> float:
    """Of two tables, beside what their rows and columns have in common."""
    a, b = (x - x.mean(0) - x.mean(1, keepdim=True) + x.mean() for x in (a, b))
    size = float(a.norm() * b.norm())
    return float((a * b).sum()) / size if size else 0.0


def _noise(values: Tensor) -> Tensor:
    """Texture of the values' own spread and of no mean: a patch of another colour would be an object of its own."""
    spread = values.float().std()
    spread = spread if spread > 0 else torch.ones_like(spread)
    drawn = torch.randn(values.shape, generator=torch.Generator().manual_seed(0)).to(values.device)
    return (drawn * spread).to(values.dtype)


def _read_raw(sites: Sequence[Site], images: Tensor) -> list[Tensor]:
    return _watch(sites, lambda: sites[0].module(images), lambda raw: raw.detach().clone())


def _differ(sites: Sequence[Site], plain: Callable[[], object], changed: Callable[[], object]) -> list[bool]:
    before = _watch(sites, plain, _summarise)
    changes = _compare(before, _watch(sites, changed, _summarise))
    if not any(0 < change < _SAME for change in changes):
        return [change > 0 for change in changes]
    # A net so deep or untrained that it hardly looks at its input, or kernels that add in another order each time.
    rounding = _compare(before, _watch(sites, plain, _summarise))
    return [change > 4 * least for change, least in zip(changes, rounding, strict=True)]


def _compare(before: Sequence[Tensor], after: Sequence[Tensor]) -> list[float]:
    tiny = torch.finfo(torch.float32).tiny
    return [float((a - b).abs().max() / a.abs().max().clamp(min=tiny)) for a, b in zip(before, after, strict=True)]


def _summarise(raw: Tensor) -> Tensor:
    """Sums over two axes: behind a norm over the channels those over one of them never change."""
    return torch.cat([raw.sum(axis, dtype=torch.float32).flatten() for axis in (1, -1)])


def _watch(sites: Sequence[Site], run: Callable[[], object], read: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """What `read` makes of the output of each call in one pass; no two passes draw other noise."""
    found: dict[tuple[nn.Module, int], Tensor] = {}
    wanted = {(site.layer, site.call) for site in sites}
    counts = dict.fromkeys((site.layer for site in sites), 0)

    def keep(part: nn.Module, _args: object, output: object) -> None:
        key = part, counts[part]
        counts[part] += 1
        raw = output[0] if isinstance(output, tuple) else output
        if key in wanted and isinstance(raw, Tensor):
            found[key] = read(raw)

    with undisturbed(sites[0].module, with_grad=False):
        hooks = [part.register_forward_hook(keep) for part in counts]
        try:
            run()
        finally:
            for hook in hooks:
                hook.remove()
    return [found[site.layer, site.call] for site in sites]
