"""What explain() is handed, as a module and a batch of images (N, channels, ...)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from whycam.errors import UserError
from whycam.model.cut.blame import NEEDS_PREPROCESSING, describe_numbers

Images: TypeAlias = "Tensor | np.ndarray | Sequence[Tensor | np.ndarray]"
_AXES: dict[type[nn.Module], int] = {nn.Conv1d: 3, nn.Conv2d: 4, nn.Conv3d: 5}
_EXPECTED = "expected a tensor or an array (N, channels, H, W), normalised as the module takes it, or a list of such"


def check_module(module: object) -> None:
    """Refuses what is no module.

    Raises:
        UserError: with what takes it.
    """
    if isinstance(module, nn.Module):
        return
    if hasattr(module, "explain"):
        raise UserError(
            f"whycam.explain takes a torch.nn.Module; got a {type(module).__name__}, made by whycam.load(...), which "
            "explains by itself: model.explain(images)."
        )
    if isinstance(module, type):
        found = f"a class, {module.__name__}; make an instance of it"
    elif isinstance(module, str | Path):
        found = f"{str(module)!r}"
    else:
        found = "a function" if callable(module) else f"a {type(module).__name__}"
    raise UserError(
        f"whycam.explain takes a torch.nn.Module; got {found}. For names, files and functions there is "
        "whycam.load(...), whose model has explain(photos)."
    )


def read_images(module: nn.Module, images: object) -> Tensor:
    """The images as one tensor, with the axes that the module takes; arrays come to the module's device.

    Raises:
        UserError: photos that were not preprocessed, containers of other things, images of different sizes, or a batch
            of another number of axes.
    """
    axes = next((_AXES[type(part)] for part in module.modules() if type(part) in _AXES), 0)
    batch = _join(images, axes) if isinstance(images, list | tuple) else _to_tensor(images)
    if isinstance(images, np.ndarray) or (isinstance(images, list | tuple) and isinstance(images[0], np.ndarray)):
        batch = batch.to(next((part.device for part in module.parameters()), batch.device))
    if batch.ndim != (axes or max(batch.ndim, 2)):
        numbers = "" if batch.is_floating_point() else f" These are {describe_numbers(batch)}. {NEEDS_PREPROCESSING}"
        raise UserError(
            f"images must have {axes or 'two or more'} axes for this model, (N, channels, ...); got "
            f"{tuple(batch.shape)}. A single image needs the batch axis: images[None].{numbers}"
        )
    return batch


def _to_tensor(images: object) -> Tensor:
    if isinstance(images, Tensor):
        return images
    if isinstance(images, np.ndarray):
        if images.dtype.kind not in "fiub":
            raise UserError(f"Found an array of {images.dtype}; {_EXPECTED}. Convert it: images.astype('float32').")
        return torch.from_numpy(np.array(images))  # a copy: an array may be read-only, or have steps that are negative
    if isinstance(images, str | Path):
        raise UserError(f"Found a path, {str(images)!r}; {_EXPECTED}. {NEEDS_PREPROCESSING}")
    if isinstance(images, Image.Image):
        raise UserError(f"Found a PIL image; {_EXPECTED}. {NEEDS_PREPROCESSING}")
    if isinstance(images, Mapping):
        names = ", ".join(map(repr, images))
        found = f"a {type(images).__name__} with {names}" if names else f"an empty {type(images).__name__}"
        name = next((name for name in ("pixel_values", "images", "image") if name in images), None)
        raise UserError(f"Found {found}; {_EXPECTED}. Pass the entry that is one: images[{name or 'name'!r}].")
    raise UserError(f"Found a {type(images).__name__}; {_EXPECTED}. {NEEDS_PREPROCESSING}")


def _join(images: Sequence[object], axes: int) -> Tensor:
    if not images:
        raise UserError("Found 0 images; expected one or more. Check where they come from.")
    for kind, words in (((str, Path), "paths"), (Image.Image, "PIL images")):
        if all(isinstance(one, kind) for one in images):
            raise UserError(f"Found a list of {words}; {_EXPECTED}. {NEEDS_PREPROCESSING}")
    if not all(isinstance(one, Tensor | np.ndarray) for one in images):
        raise UserError(f"Found a list of {_list_kinds(images)}; {_EXPECTED}. {NEEDS_PREPROCESSING}")
    tensors = [_to_tensor(one) for one in images]
    is_batches = all(one.ndim == axes for one in tensors)
    shapes = dict.fromkeys(tuple(one.shape)[1:] if is_batches else tuple(one.shape) for one in tensors)
    if len(shapes) > 1:
        sizes = " and ".join(map(str, list(dict.fromkeys(tuple(one.shape) for one in tensors))[:3]))
        raise UserError(
            f"Found a list of images of different sizes, {sizes}; expected one size. Resize them; of a pair (images, "
            "labels) pass the images alone."
        )
    return torch.cat(tensors) if is_batches else torch.stack(tensors)


def _list_kinds(things: Iterable[object]) -> str:
    return " and ".join(dict.fromkeys(type(thing).__name__ for thing in things))
