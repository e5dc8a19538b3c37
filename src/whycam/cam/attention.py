"""Maps from the attention matrices of a vision transformer: attention-rollout, le-grad, chefer.

The matrices are caught while the module runs, by watching the two operations that make them; no module is changed. A
new method that reads attention is added here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from whycam.cam.registry import Pass, method
from whycam.errors import UserError
from whycam.model.cut.tail import undisturbed

_SOFTMAX = {torch.softmax, Tensor.softmax, functional.softmax}
_MOST_PREFIX_TOKENS = 16
_INSTEAD = "Use 'grad-cam', 'hires-cam', 'layer-cam', 'score-cam' or 'rise', which need no attention matrices."


@method(
    "attention-rollout",
    needs="attention",
    paper="arXiv:2005.00928, eq. 1",
    differs="Always: class-free; follows where the tokens that the head reads have looked.",
    cost="one forward pass without fused attention",
)
def attention_rollout(p: Pass) -> Tensor:
    """Row of the head's token in prod_l rownorm(mean_heads A_l + I), last layer first, patch columns only; >= 0.

    The head's token is the class token, or the mean of the patches where the model averages them: option `read` says
    "class" or "mean" where the guess is wrong.

    Paper: arXiv:2005.00928.
    """

    def flow(layer: Tensor) -> Tensor:
        kept = layer.mean(1) + torch.eye(layer.shape[-1], device=layer.device)
        return kept / kept.sum(-1, keepdim=True)

    maps = []
    for rows in torch.split(p.rows, p.chunk):
        with undisturbed(_module_of(p), with_grad=False):
            matrices, _ = _run(p, rows)
            maps.append(_roll(p, [flow(layer.float()) for layer in matrices]))
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
    """Row of the head's token in prod_l (I + mean_heads ReLU(dy/dA_l * A_l)), last layer first, patches only; >= 0.

    The identity itself, which says nothing of a class token's patches, is taken off where the patches are averaged.
    The products of several layers make the map depend on the score's scale, as the paper's does. Option `read` as in
    attention-rollout.

    Paper: arXiv:2103.15679, equations 5 and 6, R += A R.
    """
    maps = []
    for rows in torch.split(p.rows, p.chunk):
        with undisturbed(_module_of(p), with_grad=True):
            matrices, output = _run(p, rows)
            gradients = torch.autograd.grad(p.score(output, rows).sum(), matrices, materialize_grads=True)
        identity = torch.eye(matrices[0].shape[-1], device=rows.device)
        pairs = zip(gradients, matrices, strict=True)
        maps.append(
            _roll(
                p,
                [identity + (g.float() * layer.detach().float()).relu().mean(1) for g, layer in pairs],
                has_start=False,
            )
        )
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
            matrices, output = _run(p, rows)
            scores = p.score(output, rows.repeat(len(blocks)))
            gradients = torch.autograd.grad(scores.sum(), matrices, materialize_grads=True)
        maps.append(_to_grid(p, torch.stack([g.float().relu().mean(dim=(1, 2)) for g in gradients]).mean(0)))
    return torch.cat(maps)


class _Recorder(TorchFunctionMode):
    """Keeps each attention matrix that is made while it is on, still part of the graph.

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
        if func in _SOFTMAX and result.ndim == 4 and kwargs.get("dim", args[1] if len(args) > 1 else None) in {-1, 3}:
            self._keep(result)
        return result

    def _keep(self, matrix: Tensor) -> None:
        if matrix.shape[-1] == matrix.shape[-2]:
            self.on_matrix(matrix)

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
        self._keep(matrix)
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


def _run(p: Pass, rows: Tensor) -> tuple[list[Tensor], object]:
    """Attention matrices (B, heads, T, T) of those images, first layer first, and the module's output."""
    matrices: list[Tensor] = []
    module = _module_of(p)
    # The images need a gradient so that a frozen model has a graph, too; no parameter's is asked for.
    images = p.images[rows].detach().requires_grad_(torch.is_grad_enabled())
    with _Recorder(matrices.append):
        output = module(images)
    _check_matrices(p, [tuple(m.shape) for m in matrices], len(rows))
    return matrices, output


def _check_matrices(p: Pass, shapes: list[tuple[int, ...]], count: int) -> None:
    """Refuses a module that does not attend from every token to every token in every layer."""
    name, patches = type(_module_of(p)).__name__, _positions(p)
    if not shapes:
        raise UserError(f"No attention matrix was made in {name}; expected a vision transformer. {_INSTEAD}")
    tokens = shapes[0][-1]
    is_global = all(shape[0] == count and shape[-1] == tokens for shape in shapes)
    if not is_global or not 0 <= tokens - patches <= _MOST_PREFIX_TOKENS:
        seen = ", ".join(sorted({f"{shape[0]} of {shape[-1]} tokens" for shape in shapes}))
        raise UserError(
            f"{name} attends within windows, at several resolutions, or not between the layer's positions: its layers "
            f"made {seen}, for {count} images; expected {count} of {patches} patches and a few tokens more. {_INSTEAD}"
        )


def _module_of(p: Pass) -> nn.Module:
    if p.module is None:
        raise UserError(f"There is no PyTorch module behind this model; expected a vision transformer. {_INSTEAD}")
    return p.module


def _positions(p: Pass) -> int:
    return p.features[0, 0].numel()


def _roll(p: Pass, layers: list[Tensor], *, has_start: bool = True) -> Tensor:
    """Maps of what the head reads of layers[-1] @ ... @ layers[0], or of that less the identity."""
    tokens = layers[0].shape[-1]
    prefix = tokens - _positions(p)
    read = p.option("read", _reading(p, prefix))
    if read not in {"class", "mean"}:
        raise UserError(f"Option 'read' is {read!r}; expected 'class' or 'mean'. For example: read='class'.")
    row = torch.zeros(tokens, device=layers[0].device)
    if read == "class":
        row[0] = 1
    else:
        row[prefix:] = 1 / (tokens - prefix)
    flow = row.expand(len(layers[0]), 1, tokens)
    for layer in reversed(layers):
        flow = flow @ layer
    return _to_grid(p, flow[:, 0] if has_start else flow[:, 0] - row)


def _reading(p: Pass, prefix: int) -> str:
    """Whether the head reads the class token, which comes first, or the mean of the patches."""
    if not prefix or p.weight is not None:
        return "mean"
    words = (getattr(part, "global_pool", None) for part in _module_of(p).modules())  # timm's attribute
    return "class" if next((word for word in words if isinstance(word, str)), "token") in {"token", ""} else "mean"


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
    _check_matrices(p, shapes, 1)
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
