"""Tells an exception of the user's model from one of our own, by asking the bare model again."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from whycam.errors import UserError
from whycam.model.cut.tail import undisturbed

# What makes a model for photos of a module for tensors.
NEEDS_PREPROCESSING = (
    "A module takes normalised tensors; whycam.load(module, class_names=..., preprocess=...) gives a model that takes "
    "photos, paths and pixels."
)
_LONGEST = 300
_IMAGES = ("pixel_values", "images", "image")


@contextmanager
def blame(module: nn.Module, images: Tensor, count: int | None = None) -> Iterator[None]:
    """Inside it, what the module itself raises for these images becomes a UserError; other exceptions stay as they are.

    Nothing is run unless something was raised: then the module is, as its owner would, with none of our hooks. `count`
    is how many images there are, where these are the first of them.
    """
    try:
        yield
    except UserError:
        raise
    except Exception:
        try:
            with undisturbed(module, with_grad=False):
                module(images)
        except Exception as own:
            raise _make_own_error(module, images, count or len(images), own) from own
        raise


def _make_own_error(module: nn.Module, images: Tensor, count: int, own: Exception) -> UserError:
    line = next(iter(str(own).strip().splitlines()), "")[:_LONGEST]
    told = f"{type(own).__name__}: {line.rstrip('.')}" if line else type(own).__name__
    first = f", the first of {count} images" if count > len(images) else ""
    dtype = str(images.dtype).removeprefix("torch.")
    return UserError(
        f"The model's own forward raises {told}. {type(module).__name__} was called with one tensor, "
        f"{tuple(images.shape)} {dtype} on {images.device}{first}. {_find_remedy(module, images)}"
    )


def _find_remedy(module: nn.Module, images: Tensor) -> str:
    if not images.is_floating_point():
        return f"These are {describe_numbers(images)}. {NEEDS_PREPROCESSING}"
    first = next((part for part in module.modules() if isinstance(part, nn.modules.conv._ConvNd)), None)
    if first is not None and images.ndim > 1 and images.shape[1] != first.in_channels:
        found = f"Its first convolution takes {first.in_channels} channels and these have {images.shape[1]}"
        if images.shape[-1] == first.in_channels:
            return f"{found}; the last axis is of that size. Move it: images.movedim(-1, 1)."
        rest = ", -1" * (images.ndim - 2)
        grey = f" To show it grey images: images.expand(-1, {first.in_channels}{rest})." if images.shape[1] == 1 else ""
        return f"{found}. Pass images of the channels that it was trained on.{grey}"
    return (
        f"{_describe_inputs(module)}Pass images as the model takes them. Wrap it in a module whose forward(images) "
        "calls it, if it takes more than images, or takes them by another name."
    )


def _describe_inputs(module: nn.Module) -> str:
    """A sentence on what the forward takes, where that is more than images, or images are not the first."""
    try:
        taken = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return ""
    kinds = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    needed = [one.name for one in taken if one.default is inspect.Parameter.empty and one.kind not in kinds]
    if len(needed) > 1:
        return f"Its forward takes {', '.join(needed)}. "
    first, *others = [one.name for one in taken] or [""]
    later = [name for name in others if name in _IMAGES]
    return f"The first input of its forward is {first}; images are {later[0]}. " if later else ""


def describe_numbers(images: Tensor) -> str:
    """A batch that isn't of floats, in words."""
    return f"whole numbers, {tuple(images.shape)} {str(images.dtype).removeprefix('torch.')}"
