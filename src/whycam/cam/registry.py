"""One table of map methods, and the `Pass` that each of them is given.

A method is one decorated function `(p: Pass) -> maps (N, h, w)` in the file that fits what it needs; the command line,
the contract tests and the documentation read this table.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from whycam.cam.about import About, Needs
from whycam.errors import UserError, make_unknown_name
from whycam.model.cut.output import select_output

Scalar = TypeVar("Scalar", int, float, str)

_READ_TAIL: frozenset[Needs] = frozenset({"linear head", "gradients", "tail scores"})
# The files that hold methods; importing them fills the table.
_FILES = ("forward", "gradient", "saliency", "fusion", "perturbation", "decomposition", "attention", "baseline")


@dataclass(frozen=True)
class Pass:
    """What one forward pass left behind, and how to ask the model for more.

    `rows` everywhere says which of the N images each row of a larger batch belongs to, so that one image's score is
    asked of any number of its variants, in chunks whose size never changes a result.

    Attributes:
        images: (N, ...) the model's input, preprocessed.
        features: (N, C, h, w) float32, detached; (N, C, d, h, w) for volumes, (N, C, w) for signals.
        target: (N,) class index; -1 where a callable, not a class, is explained; (N, T) for methods that need a
            "linear head", which give all T maps (N, T, h, w) at once.
        score: (model output for B inputs, rows (B,)) -> (B,) float32, the explained number: a logit unless the
            caller asked otherwise.
        tail: (features (B, C, h, w), rows (B,)) -> model output, differentiable, for any batch size B. (A model that
            can't be cut is run on from the layer, which takes the images; hence the rows.)
        model: images -> model output, in eval mode, without gradients.
        weight, bias: (K, C) and (K,) of the classifier where the tail is exactly GAP + linear; else None.
        chunk: the most inputs that one forward pass may hold.
        seed: for methods that draw at random: image i's draw depends on the seed and nothing else.
        options: the method's own options by name.
        versus: index of a second class: the score is then the difference of the two logits.
        module: the model itself, for methods that look inside it (attention matrices, biases); else None.
        trace: this pass's (features, output) where its graph was kept, the features being its leaf, so that a gradient
            costs no second run of the tail; else None.
        retrace: images (N, ...) of the same size -> their (features, output), likewise; None where that can't be had.
        logits: model output -> (B, K), for methods that compare classes.
        others: passes of the same images and targets cut at further layers, for methods that combine layers.
        remarks: where a method adds a sentence that the reader of its maps should know; it goes to their notes.
    """

    images: Tensor
    features: Tensor
    target: Tensor
    score: Callable[[object, Tensor], Tensor]
    tail: Callable[[Tensor, Tensor], object]
    model: Callable[[Tensor], object]
    weight: Tensor | None = None
    bias: Tensor | None = None
    chunk: int = 32
    seed: int = 0
    options: dict[str, object] = field(default_factory=dict)
    versus: int | None = None
    module: torch.nn.Module | None = None
    trace: tuple[Tensor, object] | None = None
    retrace: Callable[[Tensor], tuple[Tensor, object]] | None = None
    logits: Callable[[object], Tensor] = select_output
    others: tuple[Pass, ...] = ()
    remarks: list[str] = field(default_factory=list)

    @property
    def rows(self) -> Tensor:
        """(N,) 0..N-1: each image's own row."""
        return torch.arange(len(self.features), device=self.features.device)

    def option(self, name: str, default: Scalar) -> Scalar:
        """The method's option of that name, converted to its default's type."""
        value = self.options.get(name, default)
        convert: Callable[[object], Scalar] = type(default)
        try:
            return convert(value)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"Option {name!r} is {value!r}; expected {type(default).__name__}. For example: {name}={default!r}."
            ) from error

    @cached_property
    def gradients(self) -> Tensor:
        """D score / d features, in the features' shape; the backbone is not differentiated."""
        return self.differentiate(lambda output: self.score(output, self.rows))

    @property
    def output(self) -> object:
        """The model's output for the images, with its graph."""
        with torch.inference_mode(mode=False), torch.enable_grad():
            return self._graph[1]

    def differentiate(self, score: Callable[[object], Tensor]) -> Tensor:
        """D score / d features for any score (N,) of the model's output; float32 also where that is half precision."""
        with torch.inference_mode(mode=False), torch.enable_grad():
            features, output = self._graph
            return torch.autograd.grad(score(output).sum(), features, retain_graph=True)[0]

    @cached_property
    def _graph(self) -> tuple[Tensor, object]:
        if self.trace is not None:
            return self.trace
        features = self.features.detach().clone().requires_grad_()
        return features, self.tail(features, self.rows)

    def scores_of_features(self, features: Tensor, rows: Tensor) -> Tensor:
        """(B,) scores of features (B, C, h, w) through the tail alone, in chunks, without gradients."""
        return self._in_chunks(self.tail, features, rows)

    def scores_of_images(self, images: Tensor, rows: Tensor) -> Tensor:
        """(B,) scores of images (B, ...) through the whole model, in chunks, without gradients."""
        return self._in_chunks(lambda part, _: self.model(part), images, rows)

    def _in_chunks(self, run: Callable[[Tensor, Tensor], object], inputs: Tensor, rows: Tensor) -> Tensor:
        with torch.no_grad():
            parts = zip(torch.split(inputs, self.chunk), torch.split(rows, self.chunk), strict=True)
            return torch.cat([self.score(run(part, row), row).float() for part, row in parts])


@dataclass(frozen=True, kw_only=True)
class Method(About):
    """A map method: what is told of it, and its function."""

    run: Callable[[Pass], Tensor]

    @property
    def reads_tail(self) -> bool:
        """Whether it runs or differentiates the tail, so that it can't explain a layer that the output ignores."""
        return self.needs in _READ_TAIL


_methods: dict[str, Method] = {}


def method(
    name: str, *, needs: Needs, paper: str, differs: str, cost: str, is_signed: bool = False, layers: int = 1
) -> Callable[[Callable[[Pass], Tensor]], Callable[[Pass], Tensor]]:
    """Enters a function in the table under a kebab-case name, with what `About` tells of it; it stays as it is."""
    about = About(name=name, needs=needs, paper=paper, differs=differs, cost=cost, is_signed=is_signed, layers=layers)
    return register(about)


def register(about: About) -> Callable[[Callable[[Pass], Tensor]], Callable[[Pass], Tensor]]:
    """See `method`."""

    def enter(run: Callable[[Pass], Tensor]) -> Callable[[Pass], Tensor]:
        if about.name in _methods:
            raise RuntimeError(f"Two methods are named {about.name!r}: {_methods[about.name].run} and {run}.")
        _methods[about.name] = Method(**vars(about), run=run)
        return run

    return enter


def _load() -> dict[str, Method]:
    for file in _FILES:
        importlib.import_module(f"whycam.cam.{file}")
    return _methods


def iter_methods() -> Iterator[Method]:
    """All methods, in the order of the files, whichever was imported first, and of the functions in them."""
    places = {f"whycam.cam.{file}": place for place, file in enumerate(_FILES)}
    return iter(sorted(_load().values(), key=lambda method: places.get(method.run.__module__, len(places))))


def get_method(name: str) -> Method:
    """The method of that name.

    Raises:
        UserError: no such method; the nearest names are in the message.
    """
    methods = _load()
    if name not in methods:
        raise make_unknown_name("method", name, methods)
    return methods[name]
