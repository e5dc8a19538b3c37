"""Maps from the attention matrices of a vision transformer: attention-rollout, le-grad, chefer.

The matrices are caught while the module runs, by watching the two operations that make them; no module is changed. A
new method that reads attention is added here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from whycam.cam.registry import Pass, method
from whycam.errors import UserError
from whycam.model.cut.layer import record_calls
from whycam.model.cut.tail import Site, measure_gradient, run_with_swap, undisturbed

_SOFTMAX = {torch.softmax, Tensor.softmax, functional.softmax}
_MOST_PREFIX_TOKENS = 16
_INSTEAD = "Use 'grad-cam', 'hires-cam', 'layer-cam', 'score-cam' or 'rise', which need no attention matrices."


@method(
    "attention-rollout",
    needs="attention",
    paper="arXiv:2005.00928, eq. 1",
    differs="Always: class-free; follows where the tokens that the head reads have looked.",
    cost="one forward pass without fused attention, and the head backwards",
)
def attention_rollout(p: Pass) -> Tensor:
    """Row of the head's tokens in prod_l rownorm(mean_heads A_l + I), last layer first, patch columns only; >= 0.

    The head's tokens are weighted by the length of the logits' gradient at the last tokens: all on the class token, or
    alike on all patches, where the model reads or averages those. Option `read`, "class" or "mean", says it instead.

    Paper: arXiv:2005.00928.
    """

    def flow(layer: Tensor) -> Tensor:
        kept = layer.mean(1) + torch.eye(layer.shape[-1], device=layer.device)
        return kept / kept.sum(-1, keepdim=True)

    maps, head = [], _find_head(p)
    for rows in torch.split(p.rows, p.chunk):
        with undisturbed(_module_of(p), with_grad=False):
            matrices, output, tokens = _run(p, rows, head)
            gradient = None if tokens is None else measure_gradient(_read_output(p, output, rows), tokens)
        layers = [flow(layer.detach().float()) for layer in matrices]
        maps.append(_roll(p, layers, _weigh(p, head, gradient, layers[-1])))
    return torch.cat(maps)


@method(
    "chefer",
    needs="attention",
    paper="arXiv:2103.15679, eq. 5-6",
    differs="Always: attention that raises the score, followed through the layers; the products of several layers make "
    "it depend on the logit's unit, as the paper's do.",
    cost="one forward and backward pass without fused attention",
)
def chefer(p: Pass) -> Tensor:
    """Row of the head's tokens in prod_l (I + mean_heads ReLU(dy/dA_l * A_l)), last layer first, patches only; >= 0.

    The identity itself, which says nothing of a class token's patches, is taken off where the patches are averaged.
    The products of several layers make the map depend on the score's scale, as the paper's does. The head's tokens and
    option `read` as in attention-rollout, with the score's gradient.

    Paper: arXiv:2103.15679, equations 5 and 6, R += A R.
    """
    maps, head = [], _find_head(p)
    for rows in torch.split(p.rows, p.chunk):
        with undisturbed(_module_of(p), with_grad=True):
            matrices, output, tokens = _run(p, rows, head)
            leaves = matrices if tokens is None else [*matrices, tokens]
            gradients = torch.autograd.grad(p.score(output, rows).sum(), leaves, materialize_grads=True)
        identity = torch.eye(matrices[0].shape[-1], device=rows.device)
        pairs = zip(gradients, matrices, strict=False)
        layers = [identity + (g.float() * layer.detach().float()).relu().mean(1) for g, layer in pairs]
        row = _weigh(p, head, None if tokens is None else gradients[-1], layers[-1])
        maps.append(_roll(p, layers, row, has_start=False))
    return torch.cat(maps)


@method(
    "le-grad",
    needs="attention",
    paper="arXiv:2404.03214, eq. 4-8",
    differs="Always: which attention would raise the score if each layer were the last.",
    cost="one forward and backward pass without fused attention",
)
def le_grad(p: Pass) -> Tensor:
    """Mean over layers, heads and queries of ReLU(ds_l/dA_l), patch keys only; >= 0.

    s_l is the score that the model's own final norm and head give to the mean of all tokens after block l, the
    paper's and its authors' pooling, whichever token the model itself reads.

    Paper: arXiv:2404.03214.
    """
    blocks = _find_blocks(p)
    maps = []
    for rows in torch.split(p.rows, p.chunk):
        with undisturbed(_module_of(p), with_grad=True), _every_block_last(blocks, len(rows)):
            matrices, output, _ = _run(p, rows)
            scores = p.score(output, rows.repeat(len(blocks)))
            gradients = torch.autograd.grad(scores.sum(), matrices, materialize_grads=True)
        maps.append(_to_grid(p, torch.stack([g.float().relu().mean(dim=(1, 2)) for g in gradients]).mean(0)))
    return torch.cat(maps)


class _Recorder(TorchFunctionMode):
    """Tells of each attention matrix (.., queries, keys) that is made while it is on, still part of the graph.

    Fused attention never makes the matrix, so it is computed here from the same arguments. torch itself calls this
    in place of its own functions; those called from here are not watched.
    """

    def __init__(self, on_matrix: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.on_matrix = on_matrix

    def __torch_function__(
        self, func: Callable[..., Any], _types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        if func is functional.multi_head_attention_forward:
            return self._attend_with_projections(*args, **kwargs)
        result = func(*args, **kwargs)
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        if func in _SOFTMAX and dim in {-1, result.ndim - 1} and (result.ndim > 3 or _is_square(result)):
            self.on_matrix(result)
        return result

    def _attend(  # noqa: PLR0917 - torch's own signature
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if enable_gqa:
            groups = query.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
        logits = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
        if attn_mask is not None:
            is_choice = attn_mask.dtype == torch.bool
            logits = logits.masked_fill(~attn_mask, -torch.inf) if is_choice else logits + attn_mask
        matrix = logits.softmax(-1)
        self.on_matrix(matrix)
        return matrix.to(value) @ value

    def _attend_with_projections(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        """What nn.MultiheadAttention calls, without masks; (T, N, D), and no weights come back."""
        _, heads, weight, bias, added_key, _, has_zero, _, out_weight, out_bias = args
        is_masked = any(kwargs.get(name) is not None for name in ("attn_mask", "key_padding_mask"))
        if weight is None or added_key is not None or has_zero or is_masked:
            raise UserError(
                "This model's nn.MultiheadAttention has masks, added keys or inputs of several widths; expected plain "
                f"attention. {_INSTEAD}"
            )
        biases = (None, None, None) if bias is None else bias.chunk(3)
        parts = zip((query, key, value), weight.chunk(3), biases, strict=True)
        projected = [functional.linear(x, w, b).view(*x.shape[:2], heads, -1).permute(1, 2, 0, 3) for x, w, b in parts]
        joined = self._attend(projected[0], projected[1], projected[2]).permute(2, 0, 1, 3).flatten(2)
        return functional.linear(joined, out_weight, out_bias), None


def _is_square(matrix: Tensor) -> bool:
    return matrix.ndim > 2 and matrix.shape[-1] == matrix.shape[-2]


@dataclass(frozen=True)
class _Head:
    """Where the head reads its tokens: the call of the layer that gives the last ones, (N, T, D) or (T, N, D)."""

    site: Site
    axis: int


def _run(p: Pass, rows: Tensor, head: _Head | None = None) -> tuple[list[Tensor], object, Tensor | None]:
    """Attention matrices (B, heads, T, T) of those images, first layer first, the output, and the last tokens.

    Without gradients the graph starts at the last tokens.
    """
    matrices: list[Tensor] = []
    last: list[Tensor] = []
    module = _module_of(p)
    with_graph = torch.is_grad_enabled()
    # The images need a gradient so that a frozen model has a graph, too; no parameter's is asked for.
    images = p.images[rows].detach().requires_grad_(with_graph)

    def keep(raw: Tensor) -> Tensor:
        torch.set_grad_enabled(True)
        last.append(raw if with_graph else raw.detach().requires_grad_())
        return last[0].clone()  # the model may write into it

    with _Recorder(matrices.append):
        output = module(images) if head is None else run_with_swap(head.site, images, keep)
    chosen = _pick_layers(p, [tuple(m.shape) for m in matrices], len(rows))
    return [matrices[index] for index in chosen], output, last[0] if last else None


def _pick_layers(p: Pass, shapes: list[tuple[int, ...]], count: int) -> list[int]:
    """Which matrices are the layers': all but those by which a head pools the tokens behind the last layer.

    Raises:
        UserError: a layer that doesn't attend from every token to every token.
    """
    name, patches = type(_module_of(p)).__name__, _positions(p)
    if not shapes:
        raise UserError(f"No attention matrix was made in {name}; expected a vision transformer. {_INSTEAD}")
    tokens = next((shape[-1] for shape in shapes if shape[-1] == shape[-2]), 0)
    found = [index for index, shape in enumerate(shapes) if (*shape[:1], *shape[2:]) == (count, tokens, tokens)]
    layers = shapes[: found[-1] + 1] if found else shapes
    is_global = len(found) == len(layers) and all(_is_pooling(shape, tokens) for shape in shapes[len(layers) :])
    if not is_global or not 0 <= tokens - patches <= _MOST_PREFIX_TOKENS:
        seen = ", ".join(sorted({_describe(shape) for shape in shapes}))
        raise UserError(
            f"{name} attends within windows, at several resolutions, or not between the layer's positions: its layers "
            f"made {seen}, for {count} images; expected {count} of {patches} patches and a few tokens more. {_INSTEAD}"
        )
    return found


def _is_pooling(shape: tuple[int, ...], tokens: int) -> bool:
    """Whether a few queries of the head read all of the last tokens."""
    return shape[-2] <= _MOST_PREFIX_TOKENS and 0 <= shape[-1] - tokens <= _MOST_PREFIX_TOKENS


def _describe(shape: tuple[int, ...]) -> str:
    size = f"{shape[-1]} tokens" if shape[-1] == shape[-2] else f"{shape[-2]} queries and {shape[-1]} keys"
    return f"{' x '.join(map(str, shape[: max(1, len(shape) - 3)]))} of {size}"


def _module_of(p: Pass) -> nn.Module:
    if p.module is None:
        raise UserError(f"There is no PyTorch module behind this model; expected a vision transformer. {_INSTEAD}")
    return p.module


def _positions(p: Pass) -> int:
    return p.features[0, 0].numel()


def _roll(p: Pass, layers: list[Tensor], row: Tensor, *, has_start: bool = True) -> Tensor:
    """Maps of the row (B, T) of layers[-1] @ ... @ layers[0], or of that less the identity."""
    flow = row[:, None]
    for layer in reversed(layers):
        flow = flow @ layer
    return _to_grid(p, flow[:, 0] if has_start else flow[:, 0] - row)


def _find_head(p: Pass) -> _Head | None:
    """The last tokens of which any has a gradient; None where option `read` says what the head reads.

    Raises:
        UserError: there are none.
    """
    if p.option("read", ""):
        return None
    module, shapes = _module_of(p), list[tuple[int, ...]]()
    with _Recorder(lambda matrix: shapes.append(tuple(matrix.shape))):
        calls = record_calls(module, p.images[:1])[0]
    size = shapes[_pick_layers(p, shapes, 1)[-1]][-1]
    for call in reversed(calls):
        if len(call.shape) != 3 or set(call.shape[:2]) != {1, size} or isinstance(call.site.layer, nn.Linear):
            continue
        head = _Head(call.site, call.shape.index(size))
        with undisturbed(module, with_grad=False):
            _, output, tokens = _run(p, p.rows[:1], head)
            gradient = tokens is not None and measure_gradient(_read_output(p, output, p.rows[:1]), tokens)
        if isinstance(gradient, Tensor) and gradient.any():
            return head
    raise UserError(
        f"No layer of {type(module).__name__} gives {size} tokens (N, {size}, D) that its output depends on, so that "
        f"what the head reads can't be measured. Say it: option read='class' or read='mean'. {_INSTEAD}"
    )


def _read_output(p: Pass, output: object, rows: Tensor) -> Tensor:
    try:
        return p.logits(output)
    except UserError:  # a function of another output is explained
        return p.score(output, rows)


def _weigh(p: Pass, head: _Head | None, gradient: Tensor | None, like: Tensor) -> Tensor:
    """The weights (B, T) with which the head reads the tokens: of the sum 1, or all 0 where it reads none."""
    if head is not None and gradient is not None:
        lengths = gradient.detach().float().movedim(head.axis, 1).square().sum(2).sqrt()
        return lengths / lengths.sum(1, keepdim=True).clamp(min=torch.finfo(lengths.dtype).tiny)
    count, tokens = like.shape[:2]
    read, row = p.option("read", ""), torch.zeros(tokens, device=like.device)
    if read not in {"", "class", "mean"}:
        raise UserError(f"Option 'read' is {read!r}; expected 'class' or 'mean'. For example: read='class'.")
    if read == "class":
        row[0] = 1
    elif read == "mean":
        row[-_positions(p) :] = 1 / _positions(p)
    return row.expand(count, tokens)


def _to_grid(p: Pass, tokens: Tensor) -> Tensor:
    """Values (B, T) of the patch tokens, which come last, as maps (B, h, w)."""
    return tokens[:, -_positions(p) :].reshape(len(tokens), *p.features.shape[2:])


def _find_blocks(p: Pass) -> list[nn.Module]:
    """The module around each attention matrix, at the level where the matrices' module names first differ."""
    module, handles = _module_of(p), []
    stack: list[str] = []
    found: list[list[str]] = []
    shapes: list[tuple[int, ...]] = []

    def note(matrix: Tensor) -> None:
        found.append(stack[-1].split("."))
        shapes.append(tuple(matrix.shape))

    for name, part in module.named_modules():
        handles.append(part.register_forward_pre_hook(lambda *_, name=name: stack.append(name)))
        handles.append(part.register_forward_hook(lambda *_: _drop_last(stack)))
    try:
        with undisturbed(module, with_grad=False), _Recorder(note):
            module(p.images[:1])
    finally:
        for handle in handles:
            handle.remove()
    found = [found[index] for index in _pick_layers(p, shapes, 1)]
    level = next((i for i, parts in enumerate(zip(*found, strict=False)) if len(set(parts)) > 1), None)
    names = [".".join(name[: level + 1]) for name in found] if level is not None else []
    if not names or len(set(names)) < len(names):
        raise UserError(
            f"{len(found)} attention matrices lie in {len(set(names))} blocks of {type(module).__name__}; expected a "
            f"vision transformer of two or more blocks with one each. {_INSTEAD}"
        )
    return [module.get_submodule(name) for name in names]


def _drop_last(stack: list[str]) -> None:
    stack.pop()  # a hook's result would replace the module's


@contextmanager
def _every_block_last(blocks: list[nn.Module], count: int) -> Iterator[None]:
    """While on, the part behind the last block is given the mean token after each block, as a batch L * N long.

    Each block's input is cut from the graph, so that the gradient of all L scores at A_l is that of s_l alone.
    """
    pooled: list[Tensor] = []

    def after(_module: nn.Module, _inputs: object, output: Any) -> Any:
        tokens = output[0] if isinstance(output, tuple) else output
        if tokens.ndim != 3 or tokens.shape[0] != count:
            raise UserError(
                f"A block gives {tuple(tokens.shape)}; expected tokens (N, T, D) with N = {count}. {_INSTEAD}"
            )
        pooled.append(tokens.mean(1, keepdim=True).expand_as(tokens))
        is_last = len(pooled) == len(blocks)
        result = torch.cat(pooled) if is_last else tokens.detach().requires_grad_()
        return (result, *output[1:]) if isinstance(output, tuple) else result

    handles = [block.register_forward_hook(after) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
