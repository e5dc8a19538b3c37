"""The part of a model behind a layer, as a function: measured to give the model's own output, the cheapest form first.

A further form is one more function `(site) -> RawTail | None` in `_FORMS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from whycam.model.cut.layout import Layout
from whycam.model.cut.output import Wanted, iter_tensors, read_wanted

# How far two computations of one output may lie apart, as a part of the largest output.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
# Two passes that lie further apart than this draw at random: kernels that add in another order stay far below.
_NOISE = 1e-3


@dataclass(frozen=True)
class Site:
    """One call of one layer inside a model.

    Attributes:
        module: the whole model.
        layer: the layer whose output is cut.
        name: its dotted name.
        call: which of its calls in a forward pass, from 0 (a shared ReLU has many).
        wanted: what of the model's output is explained.
    """

    module: nn.Module
    layer: nn.Module
    name: str
    call: int = 0
    wanted: Wanted = None


@dataclass(frozen=True)
class Sample:
    """One forward pass whose graph starts at a layer's features.

    Attributes:
        features: (N, C, h, w) the leaf.
        output: the model's.
        prefix: (N, P, C) the prefix tokens.
        dtype: of the raw output.
        wanted: what of the output is explained.
    """

    features: Tensor
    output: object
    prefix: Tensor
    dtype: torch.dtype
    wanted: object


@dataclass(frozen=True)
class Probe:
    """What a tail must reproduce: outputs, and gradients, for features as they are and disturbed."""

    images: Tensor
    layout: Layout
    samples: Sequence[Sample]


@dataclass(frozen=True)
class RawTail:
    """A tail from a layer's raw output.

    Attributes:
        how: what it is made of.
        run: (raw (B, ...), images of these rows (B, ...), kept) -> the model's output.
        keep: images (N, ...) -> tensors (N, ...) that `run` must be told of the part before the layer.
    """

    how: str
    run: Callable[[Tensor, Tensor, Sequence[Tensor]], object]
    keep: Callable[[Tensor], tuple[Tensor, ...]] = lambda _: ()


@contextmanager
def undisturbed(module: nn.Module, *, with_grad: bool) -> Iterator[None]:
    """Eval mode, and that gradient mode, outside inference mode; all that can be noticed is as before afterwards."""
    flags = [(part, part.training) for part in module.modules()]
    # Forking the state of a GPU that this process hasn't used would start it.
    devices = {p.device.index for p in module.parameters() if p.is_cuda} if torch.cuda.is_initialized() else set()
    with torch.inference_mode(mode=False), torch.set_grad_enabled(with_grad), torch.random.fork_rng(devices):
        torch.clear_autocast_cache()  # it may hold weights cast in inference mode, which no graph may keep
        try:
            _set_training((part, False) for part, _ in flags)  # not .eval(), which a model may override
            yield
        finally:
            _set_training(flags)


def _set_training(flags: Iterable[tuple[nn.Module, bool]]) -> None:
    for part, flag in flags:
        if part.training != flag:  # a module's attributes are slow to set
            part.training = flag


def run_with_swap(site: Site, images: Tensor, swap: Callable[[Tensor], Tensor]) -> object:
    """The model's output where the layer's raw output is replaced by `swap` of it."""
    calls = 0

    def replace(_module: nn.Module, _args: object, output: object) -> object:
        nonlocal calls
        calls += 1
        if calls - 1 != site.call:
            return None
        return (swap(output[0]), *output[1:]) if isinstance(output, tuple) else swap(output)  # type: ignore[arg-type]

    hook = site.layer.register_forward_hook(replace)
    try:
        output = site.module(images)
    finally:
        hook.remove()
    if calls <= site.call:
        raise RuntimeError(f"Layer {site.name!r} ran {calls} times; call {site.call + 1} was to be cut.")
    return output


def trace_site(site: Site, layout: Layout, images: Tensor, *, disturb: bool = False) -> Sample:
    """A forward pass without a graph up to the layer; with `disturb` its features get noise of their own spread."""
    found: list[Tensor] = []

    def swap(raw: Tensor) -> Tensor:
        leaf = layout.read(raw).detach().clone()
        if disturb:
            leaf += _noise_like(leaf)
        found[:] = leaf.requires_grad_(), raw.detach()
        torch.set_grad_enabled(True)
        return layout.write(leaf, layout.read_prefix(raw), raw.dtype)

    with undisturbed(site.module, with_grad=False):
        output = run_with_swap(site, images, swap)
    if not any(tensor.requires_grad for tensor in iter_tensors(read_wanted(output, site.wanted))):
        # The layer lies inside the model's own no_grad, whose end took the gradients away again: keep them throughout.
        with undisturbed(site.module, with_grad=True):
            output = run_with_swap(site, images, swap)
    leaf, raw = found
    return Sample(leaf, output, layout.read_prefix(raw).clone(), raw.dtype, read_wanted(output, site.wanted))


def measure_gradient(output: object, leaf: Tensor) -> Tensor | None:
    """The gradient at the leaf of a number that depends on all of the output; None if nothing leads to the leaf."""
    parts = [tensor for tensor in iter_tensors(output) if tensor.requires_grad and tensor.is_floating_point()]
    if not parts:
        return None
    with torch.inference_mode(mode=False), torch.enable_grad():
        numbers = torch.cat([part.float().flatten() for part in parts])
        # Weights of both signs, since the plain sum of a softmax or of a normalised output is constant.
        total = numbers @ (12.9898 * torch.arange(1, 1 + len(numbers), device=numbers.device)).sin()
    return torch.autograd.grad(total, leaf, allow_unused=True, retain_graph=True)[
        0
    ]  # several forms are compared with it


def _noise_like(features: Tensor) -> Tensor:
    spread = features.std() if features.std() > 0 else 1.0
    noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(0), dtype=features.dtype)
    return noise.to(features.device) * spread


def is_same(output: object, expected: object) -> bool:
    """Whether two outputs are equal up to float error, tensor by tensor."""
    pairs = list(zip(iter_tensors(output), iter_tensors(expected), strict=False))
    if type(output) is not type(expected) or not pairs:
        return False
    return all(
        a.shape == b.shape and a.dtype == b.dtype and measure_distance(a, b) <= TOLERANCE.get(b.dtype, 0)
        for a, b in pairs
    )


def measure_noise(output: object, again: object) -> float:
    """How far two answers to the same images lie apart, as a part of the largest number; 0 up to float error."""
    pairs = zip(iter_tensors(output), iter_tensors(again), strict=False)
    found = [
        (measure_distance(a, b), max(_NOISE, TOLERANCE[b.dtype]))
        for a, b in pairs
        if a.shape == b.shape and b.dtype in TOLERANCE and b.numel()
    ]
    return max((gap for gap, limit in found if gap > limit), default=0.0)


def measure_distance(a: Tensor, b: Tensor) -> float:
    """The largest difference, as a part of b's largest number."""
    largest = b.detach().abs().max()
    return float((a.detach() - b.detach()).abs().max() / largest) if largest else float(a.detach().abs().max())


def is_logits(output: object) -> bool:
    """Whether an output is logits (N, K) and nothing more."""
    return isinstance(output, Tensor) and output.ndim == 2


def run_linear(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Logits (N, K) of features (N, C, h, w) behind global average pooling and a linear classifier."""
    with torch.autocast(features.device.type, enabled=False):
        return nn.functional.linear(features.flatten(2).mean(2), weight, bias)


def find_tail(site: Site, probe: Probe) -> RawTail:
    """The cheapest tail that gives what the probe gave."""
    with undisturbed(site.module, with_grad=True):
        for form in _FORMS:
            tail = form(site)
            if tail is not None and _reproduces(tail, probe):
                return tail
    return _replay(site)


def _reproduces(tail: RawTail, probe: Probe) -> bool:
    try:
        kept = tail.keep(probe.images)
        if any(len(tensor) != len(probe.images) for tensor in kept):
            return False
        return all(_gives(tail, probe, sample, kept) for sample in probe.samples)
    except Exception:  # noqa: BLE001 - a guess at the model's inside may be wrong in any way; the replay needs no guess
        return False


def _gives(tail: RawTail, probe: Probe, sample: Sample, kept: Sequence[Tensor]) -> bool:
    leaf = sample.features.detach().requires_grad_()
    output = tail.run(probe.layout.write(leaf, sample.prefix, sample.dtype), probe.images, kept)
    if not is_same(output, sample.output):
        return False
    # The output alone isn't enough: a block whose layer scale is still 1e-5 may be left out without a trace in it.
    gradient, expected = measure_gradient(output, leaf), measure_gradient(sample.output, sample.features)
    if gradient is None or expected is None:
        return gradient is expected
    return measure_distance(gradient, expected) <= 100 * TOLERANCE[sample.dtype]


def _forward_head(site: Site) -> RawTail | None:
    """The second half of a timm model, right where the layer is the end of the first."""
    head = getattr(site.module, "forward_head", None)
    return RawTail("forward_head", lambda raw, _images, _kept: head(raw)) if callable(head) else None


def _children(site: Site) -> RawTail | None:
    """What follows in each of the nested `nn.Sequential`s around the layer."""
    *path, last = site.name.split(".")
    rest: list[nn.Module] = []
    outer = [site.module.get_submodule(".".join(path[:depth])) for depth in range(len(path) + 1)]
    for container, name in zip(reversed(outer), [last, *reversed(path)], strict=True):
        if type(container).forward is not nn.Sequential.forward:
            return None
        names = list(container._modules)
        rest += list(container.children())[names.index(name) + 1 :]
    return RawTail("children", lambda raw, _images, _kept: _run_all(rest, raw))


def _run_all(modules: Sequence[nn.Module], inputs: Tensor) -> object:
    output: object = inputs
    for module in modules:
        output = module(output)
    return output


def _fx(site: Site) -> RawTail | None:
    """The nodes behind the layer of a graph in which only the modules around the layer are traced through."""
    from whycam.model.cut.graph import split_graph  # noqa: PLC0415 - torch.fx takes its time, and few models come here

    halves = split_graph(site.module, site.name, site.call)
    if halves is None:
        return None
    before, after = halves
    return RawTail("fx", lambda raw, _images, kept: after(raw, *kept), before)


def _replay(site: Site) -> RawTail:
    """The whole model again, with the layer's output replaced; no graph is recorded before the layer."""

    def run(raw: Tensor, images: Tensor, _kept: Sequence[Tensor]) -> object:
        with_grad = torch.is_grad_enabled()

        def swap(_raw: Tensor) -> Tensor:
            torch.set_grad_enabled(with_grad)
            return raw

        with torch.no_grad():
            return run_with_swap(site, images, swap)

    return RawTail("replay", run)


_FORMS = (_forward_head, _children, _fx)
