"""Maps from the score's gradient at the image: full-grad, guided-backprop, and Captum's where it is installed.

These differentiate the whole model; their maps have the image's size. A new method of that kind is added here.
"""

from __future__ import annotations

import importlib
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from whycam.cam.registry import Pass, method
from whycam.errors import UserError
from whycam.model.cut.layout import Hints, find_layout
from whycam.model.cut.tail import undisturbed

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class BiasGradient:
    """What one biased operation adds to the score: sum(bias * gradient).

    Attributes:
        bias: broadcastable to `gradient`; for a batch norm in eval mode, the constant of its affine form.
        gradient: (N, ...) d score / d the operation's output.
        is_channels_last: whether its channels are the last axis.
    """

    bias: Tensor
    gradient: Tensor
    is_channels_last: bool


@dataclass(frozen=True)
class FullGradients:
    """All that a score is made of: for a net of ReLUs, score = sum(image * gradient) + sum of the biases' parts."""

    image: Tensor
    biases: list[BiasGradient]


@method(
    "full-grad",
    needs="image gradients",
    paper="arXiv:1905.00780, eq. 6",
    differs="Always: it adds up the image's gradient and the biases' of all layers.",
    cost="one forward and one backward pass of the whole model",
)
def full_grad(p: Pass) -> Tensor:
    """psi(x grad_x) + sum_layers sum_channels psi(b g), psi = |.| scaled to [0, 1] in its layer, resized to the image.

    The scaling is by the image's least and largest value in all channels of that layer, as in the paper's code; layers
    without cells, which the paper leaves out too, and prefix tokens are left out.
    """
    maps = []
    for rows in torch.split(p.rows, p.chunk):
        images = p.images[rows]
        found = compute_full_gradients(p, rows)
        prefix = getattr(p.module, "num_prefix_tokens", None)
        total = _rescale(images * found.image).sum(1)
        grids: list[tuple[int, ...]] = []
        for part in found.biases:
            product = part.bias * part.gradient
            widths = frozenset({product.shape[-1]}) if part.is_channels_last else frozenset[int]()
            hints = Hints(prefix, widths, tuple(grids))
            layout = find_layout(tuple(product.shape), tuple(images.shape), hints)
            if layout is None:
                continue
            if not part.is_channels_last:
                grids.append(tuple(product.shape[2:]))
            cells = _rescale(layout.read(product)).sum(1, keepdim=True)
            mode = _MODES[images.ndim - 2]
            total += functional.interpolate(cells, images.shape[2:], mode=mode, align_corners=False)[:, 0]
        maps.append(total)
    return torch.cat(maps)


def compute_full_gradients(p: Pass, rows: Tensor) -> FullGradients:
    """The score's gradients at the image and at every bias of convolutions, linear layers and norms, as they run."""
    module = _read_module(p, "full-grad")
    recorder = _BiasRecorder()
    with undisturbed(module, with_grad=True):
        images = p.images[rows].clone().requires_grad_()
        with recorder:
            output = module(images)
        outputs = [result for result, _, _ in recorder.records]
        score = p.score(output, rows).sum()
        first, *others = torch.autograd.grad(score, [images, *outputs], allow_unused=True, materialize_grads=True)
    parts = zip(recorder.records, others, strict=True)
    return FullGradients(first, [BiasGradient(bias.detach(), gradient, last) for (_, bias, last), gradient in parts])


# Where each biased operation has its bias among its arguments, and whether its channels are the last axis.
_OPERATIONS: dict[Callable[..., Any], tuple[int, bool]] = {
    functional.conv1d: (2, False),
    functional.conv2d: (2, False),
    functional.conv3d: (2, False),
    functional.conv_transpose1d: (2, False),
    functional.conv_transpose2d: (2, False),
    functional.conv_transpose3d: (2, False),
    functional.batch_norm: (4, False),
    functional.group_norm: (3, False),
    functional.layer_norm: (3, True),
    functional.linear: (2, True),
}


class _BiasRecorder(TorchFunctionMode):
    """Keeps the output and the bias of each biased operation, in the order of execution, whichever module it is in."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[tuple[Tensor, Tensor, bool]] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func not in _OPERATIONS or not result.requires_grad:
            return result
        place, is_channels_last = _OPERATIONS[func]
        bias = args[place] if len(args) > place else kwargs.get("bias")
        if func is functional.batch_norm:
            bias = _read_batch_norm(*args, **kwargs)
        if bias is None:
            return result
        if not is_channels_last:
            bias = bias.view(-1, *[1] * (result.ndim - 2))
        self.records.append((result, bias, is_channels_last))
        return result.clone()  # a ReLU in place must not write into what is kept


def _read_batch_norm(*args: Any, **kwargs: Any) -> Tensor | None:
    """The constant b of a batch norm a x + b with fixed statistics; its bias alone where they are the batch's own."""
    given = inspect.signature(functional.batch_norm).bind(*args, **kwargs)
    given.apply_defaults()
    named = given.arguments
    bias: Tensor | None = named["bias"]
    if named["running_mean"] is None or named["training"]:
        return bias
    shift: Tensor = -named["running_mean"] / (named["running_var"] + named["eps"]).sqrt()
    scaled = shift if named["weight"] is None else shift * named["weight"]
    return scaled if bias is None else scaled + bias


def _rescale(values: Tensor) -> Tensor:
    """|values| (N, ...) scaled to [0, 1] for each image; zero where they are all the same."""
    flat = values.detach().float().abs().flatten(1)
    least, largest = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    return torch.where(largest > least, (flat - least) / (largest - least), 0).view(values.shape)


@method(
    "guided-backprop",
    needs="image gradients",
    paper="arXiv:1412.6806, sec. 3.4",
    differs="Always: it sharpens edges, and hardly depends on the class (arXiv:1810.03292).",
    cost="one forward and one backward pass of the whole model",
)
def guided_backprop(p: Pass) -> Tensor:
    """sum_channels |G|, G the image's gradient that no ReLU lets through where it is negative.

    ReLUs are found in the graph of the score, so that modules, functions, methods and a clamp at 0 count alike. Other
    activations pass the gradient as it is, which a remark tells.

    Raises:
        UserError: no ReLU lies between the image and the score.
    """
    module = _read_module(p, "guided-backprop")
    parts, found = [], Counter[str]()
    with undisturbed(module, with_grad=True):
        for rows in torch.split(p.rows, p.chunk):
            images = p.images[rows].clone().requires_grad_()
            score = p.score(module(images), rows).sum()
            found = _guide(score.grad_fn)
            if not found["ReLU"]:
                raise UserError(
                    f"guided-backprop guides ReLUs; between the image and the score of {type(module).__name__} lies "
                    f"none (found {_list_counts(found)}). Take integrated-gradients, full-grad or grad-cam."
                )
            parts.append(torch.autograd.grad(score, images)[0])
    guided = found.pop("ReLU")
    if found:
        p.remarks.append(
            f"guided-backprop is guided in part: at {guided} ReLUs; {_list_counts(found)} pass the gradient as it is."
        )
    return torch.cat(parts).detach().float().abs().sum(1)


# Steps of autograd that are a ReLU, and what tells them from others of that name.
_RELUS: dict[str, Callable[[Any], bool]] = {
    "ReluBackward0": lambda _: True,
    "ClampMinBackward0": lambda step: step._saved_min == 0,
    "ClampBackward1": lambda step: step._saved_min == 0 and step._saved_max is None,
    "ThresholdBackward0": lambda step: step._saved_threshold == 0,
    "MaximumBackward0": lambda step: not (step._saved_self.any() and step._saved_other.any()),
}
_OTHERS = {
    "CeluBackward0": "CELU",
    "EluBackward0": "ELU",
    "GeluBackward0": "GELU",
    "HardsigmoidBackward0": "hard sigmoid",
    "HardswishBackward0": "hard swish",
    "HardtanhBackward0": "ReLU6 or hard tanh",
    "LeakyReluBackward0": "leaky ReLU",
    "MishBackward0": "Mish",
    "PreluKernelBackward0": "PReLU",
    "SigmoidBackward0": "sigmoid",
    "SiluBackward0": "SiLU",
    "SoftplusBackward0": "softplus",
    "TanhBackward0": "tanh",
}


def _guide(end: Any) -> Counter[str]:
    """Lets each ReLU in a graph pass the positive part of its gradient alone; how many of which activations it has."""
    found = Counter[str]()
    for step in _walk(end):
        name = step.name()
        if name in _RELUS and _RELUS[name](step):
            step.register_prehook(lambda gradients: tuple(g if g is None else g.clamp(min=0) for g in gradients))
            found["ReLU"] += 1
        elif name in _OTHERS:
            found[_OTHERS[name]] += 1
    return found


def _walk(end: Any) -> Iterator[Any]:
    """Each step of an autograd graph once."""
    queue, seen = [end], {None}
    while queue:
        step = queue.pop()
        if step not in seen:
            seen.add(step)
            yield step
            queue.extend(before for before, _ in step.next_functions)


def _list_counts(found: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(found.items()) if count) or "no activation at all"


@method(
    "integrated-gradients",
    needs="image gradients",
    paper="arXiv:1703.01365, eq. 1",
    differs="Always: it adds up to the score less the score of a grey image, pixel by pixel.",
    cost="`steps` forward and backward passes of the whole model",
    is_signed=True,
)
def integrated_gradients(p: Pass) -> Tensor:
    """sum_channels x * (the mean gradient on the straight way from 0, the mean colour of a normalised input, to x)."""
    module = _read_module(p, "integrated-gradients")
    steps = p.option("steps", 32)
    explainer = _import_captum("integrated-gradients").IntegratedGradients(_Scored(module, p))
    with undisturbed(module, with_grad=True):
        parts = [
            explainer.attribute(
                p.images[row].clone(),
                additional_forward_args=row,
                n_steps=steps,
                internal_batch_size=p.chunk,
            )
            for row in torch.split(p.rows, 1)
        ]
    return torch.cat(parts).detach().float().sum(1)


class _Scored(nn.Module):
    """The model with the score as its output, as Captum wants it."""

    def __init__(self, module: nn.Module, p: Pass) -> None:
        super().__init__()
        self.module, self.score = module, p.score
        self.training = False

    def forward(self, images: Tensor, rows: Tensor) -> Tensor:
        return self.score(self.module(images), rows)


def _read_module(p: Pass, name: str) -> nn.Module:
    if p.module is None:
        raise UserError(
            f"{name} differentiates the whole model; found features alone. Explain the model itself: "
            f"whycam.explain(module, images, method={name!r})."
        )
    return p.module


def _import_captum(name: str) -> ModuleType:
    try:
        return importlib.import_module("captum.attr")
    except ImportError as error:
        raise UserError(
            f'{name} is computed by Captum, which isn\'t installed. Run: pip install "whycam[captum]"'
        ) from error
