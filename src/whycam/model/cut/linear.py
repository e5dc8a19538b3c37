"""Pooling and one linear map behind a layer: its weights are looked for among all tensors, and measured to be it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import cast

import torch
from torch import Tensor, nn

from whycam.errors import UserError, as_clause
from whycam.model.cut.output import Wanted, select_output
from whycam.model.cut.tail import TOLERANCE, Probe, is_logits, measure_distance, run_linear


def find_linear(
    probe: Probe, later: Sequence[nn.Module], wanted: Wanted, *, with_relu: bool
) -> tuple[Tensor, Tensor] | str:
    """The (K, C) weight and (K,) bias with mean(weight @ features) + bias == logits; or the reason why there are none.

    It is measured on the real and on disturbed features, so nothing is taken on trust from names or types.

    Args:
        probe: what the model gives.
        later: the modules that run after the layer, of which one may hold the classifier's weights.
        wanted: what of the output is explained; a function of it needs the whole output, which may be the logits alone.
        with_relu: take the ReLU of the features.
    """
    features = [sample.features.detach().relu() if with_relu else sample.features.detach() for sample in probe.samples]
    try:
        outputs = [_read_logits(sample.output, wanted).detach() for sample in probe.samples]
    except UserError as error:
        return f"the output has no logits to compare with: {as_clause(error)}"
    if len(outputs[0]) != len(features[0]) or outputs[0].dtype not in TOLERANCE:
        return f"the output, {tuple(outputs[0].shape)} of {outputs[0].dtype}, is not logits (N, K)"
    shape = outputs[0].shape[1], features[0].shape[1]
    # Pooled once: a network may hold many tensors of that shape.
    pairs = [(x.flatten(2).mean(2, keepdim=True), y.to(x.dtype)) for x, y in zip(features, outputs, strict=True)]
    gaps: list[float] = []
    for weight, bias in _list_heads(later, shape, features[0]):
        gaps.append(max(measure_distance(run_linear(x, weight, bias), y) for x, y in pairs))
        if gaps[-1] <= TOLERANCE[outputs[0].dtype]:
            return weight, bias
    if not gaps:
        return f"no linear layer leads from the {shape[1]} features to the {shape[0]} outputs"
    return (
        f"the output is not the classifier of the mean feature: they differ by {min(gaps):.2g} of the largest output, "
        "so something stands between the features and the pooling, or between the pooling and the classifier"
    )


def _list_heads(later: Sequence[nn.Module], shape: tuple[int, int], like: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """What may be the weight and bias; last the pooled features as the logits themselves, as in SqueezeNet."""
    yield from _list_pairs(later, shape, like)
    if shape[0] == shape[1]:
        yield torch.eye(shape[0]).to(like), like.new_zeros(shape[0])


def _list_pairs(later: Sequence[nn.Module], shape: tuple[int, int], like: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Weights (K, C) and biases (K,) that one module holds, in whatever form: an exported program has no nn.Linear."""
    for module in dict.fromkeys(later):
        own = list(_list_tensors(module))
        biases = [each.detach().flatten().to(like) for each in own if each.numel() == shape[0] and each.ndim < 3]
        for each in own:
            for weight in _turn(each, shape):
                for bias in [*biases, like.new_zeros(shape[0])]:
                    yield weight.detach().to(like), bias


def _list_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Its own tensors, without those of its parts; of a parametrised layer those that it computes with."""
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        yield from (each for each in (module.weight, module.bias) if each is not None)
        return
    yield from (
        each
        for each in chain(module.parameters(recurse=False), module.buffers(recurse=False))
        if each.is_floating_point() and not nn.parameter.is_lazy(each)
    )


def _turn(tensor: Tensor, shape: tuple[int, int]) -> Iterator[Tensor]:
    """The tensor as weights (K, C), where its shape is theirs, or theirs turned round."""
    if tensor.ndim < 2 or tensor.numel() != shape[0] * shape[1]:
        return
    if tensor.flatten(1).shape == shape:
        yield tensor.flatten(1)
    if tensor.ndim == 2 and tensor.T.shape == shape:
        yield tensor.T


def _read_logits(output: object, wanted: Wanted) -> Tensor:
    if not callable(wanted):
        return select_output(output, wanted)
    if not is_logits(output):
        raise UserError("A function is explained, and it reads more than a tensor (N, K).")
    return cast(Tensor, output)
